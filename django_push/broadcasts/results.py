"""The protocol's second half: what came of a claim, written once, by its last claimant alone.

Token changes, tickets for receipts, counters and the batch's state are one transaction, fenced by the
claim's number: a worker that wakes up late is not listened to.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from django_push import receipts, tokens
from django_push.broadcasts.claims import Claim, most_sends
from django_push.broadcasts.packing import pack, unpack
from django_push.broadcasts.rows import again_if_lost, batches, database, lanes, moment
from django_push.models import (
    COUNTED,
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    LaneStatus,
    PushProblem,
)
from django_push.outcomes import Outcome, Target, Ticket
from django_push.tokens.writing import brief_transaction

#: The first wait before a batch is sent again, doubled each time up to the last. Seconds. Google asks
#: for ten at least after a 500 or 503.
FIRST_WAIT, LAST_WAIT = 10.0, 600.0
#: Tokens that were refused so often are left at that: the provider does answer.
MOST_CLAIMS = 12
#: How many failures of a batch get a row of their own.
MOST_PROBLEMS = 100
_FAILURES = [o for o in map(Outcome, COUNTED) if o is not Outcome.ACCEPTED and not o.is_dead]


@dataclass(slots=True)
class Result:
    """What became of a claim's tokens, as far as it is not written yet.

    ``final`` are verdicts to be counted. ``refused`` were surely not accepted and may be sent again;
    ``unknown`` may have been accepted; ``unsent`` were never handed to the network. ``wait`` is the
    longest that a provider asked for. What is in none of them is still out.
    """

    final: list[Ticket] = field(default_factory=list)
    refused: list[Ticket] = field(default_factory=list)
    unknown: list[Ticket] = field(default_factory=list)
    unsent: list[Target] = field(default_factory=list)
    wait: float = 0.0
    #: Whether accepted tickets have receipts to be asked for.
    has_receipts: bool = False


def renew(held: Claim, lease: float) -> bool:
    """Prolong a lease; False if the batch is no longer ours."""
    started = time.monotonic()

    def write() -> int:
        return _ours(held).update(due_at=moment() + timedelta(seconds=lease))

    if not again_if_lost(write):
        return False
    held.lease_ends = started + lease
    return True


def record_progress(broadcast: Broadcast, held: Claim, result: Result, lease: float) -> bool:
    """Write the final verdicts that there are and prolong the lease; False if it is ours no longer.

    A crash after that can double no more than what is still out.
    """
    started = time.monotonic()
    if not again_if_lost(lambda: _record(broadcast, held, result, lease)):
        return False
    held.lease_ends = started + lease
    result.final = []
    return True


def record(broadcast: Broadcast, held: Claim, result: Result) -> bool:
    """Write what became of a claim; False if it is ours no longer.

    What has no final verdict waits to be claimed again, or stays unknown.
    """
    return again_if_lost(lambda: _record(broadcast, held, result, None))


def _record(broadcast: Broadcast, held: Claim, result: Result, lease: float | None) -> bool:
    """Write a result in one transaction. Without ``lease`` it is the last."""
    using = database()
    with brief_transaction(using):
        final = list(result.final)
        if lease is None:
            final += _given_up(held, result)
        counts = held.counts + Counter(ticket.outcome.value for ticket in final)
        told = {ticket.pk for ticket in final}
        pending = {pk: owner for pk, owner in held.pending.items() if pk not in told}
        changes: dict[str, Any] = {name: counts[name] for name in COUNTED if counts[name]}
        split = None
        if lease is None:
            split = _Split.of(held, result, pending)
            changes |= _ending(broadcast, held, result, pending, split)
        else:
            changes["due_at"] = moment() + timedelta(seconds=lease)
        changes |= {"pks": pack(pending.items()), "pending": len(pending)}
        fresh = _write(held, changes, final)
        if fresh is None:
            return False
        tokens.apply(fresh, held.claimed_at, source=broadcast.source)
        if result.has_receipts:
            receipts.remember(fresh, held.claimed_at, broadcast=broadcast.pk)
        _note_problems(broadcast, held, fresh)
        if split is not None:
            split.insert(held)
    held.counts, held.pending = counts, pending
    return True


def _write(held: Claim, changes: dict[str, Any], final: list[Ticket]) -> list[Ticket] | None:
    """Write the batch's columns; return the verdicts that are new to it, None if it is ours no longer.

    They all are, unless progress that was not confirmed has been committed all the same.
    """
    if _ours(held).filter(pending=len(held.pending)).update(**changes):
        return final
    row = _ours(held).first()
    if row is None or not _ours(held).update(**changes):
        return None
    there = dict(unpack(row.pks))
    return [ticket for ticket in final if ticket.pk in there]


def _ours(held: Claim) -> QuerySet[BroadcastBatch]:
    """The batch, as long as nobody has claimed it after us."""
    return batches().filter(pk=held.batch, claim_no=held.number, status=BatchStatus.LEASED)


def _given_up(held: Claim, result: Result) -> list[Ticket]:
    """Return refusals that are left at that: of a token, while the provider does answer about others.

    Where it had no answer for most of the batch it is an outage, however often the batch was claimed.
    """
    if held.number < MOST_CLAIMS or held.misses:
        return []
    told = len(result.final) + sum(held.counts[name] for name in COUNTED)
    away = (Outcome.NOT_SENT, Outcome.UNAVAILABLE)
    is_outage = sum(ticket.outcome in away for ticket in result.refused) > told
    return [
        ticket
        for ticket in result.refused
        if ticket.outcome.value in COUNTED
        and not ticket.about_project
        and not (is_outage and ticket.outcome in away)
    ]


def _ending(
    broadcast: Broadcast, held: Claim, result: Result, pending: dict[int, int], split: _Split | None
) -> dict[str, Any]:
    """Return the columns that say how the claim ends; takes out of ``pending`` what is split off."""
    if split is not None:
        for pk in split.chosen:
            pending.pop(pk, None)
    if not pending:
        return {"status": BatchStatus.DONE, **(split.shrunk(held) if split is not None else {})}
    code = next((t.code for t in (*result.unknown, *result.refused)), "")
    if not result.unknown and split is None:  # all that is pending was refused
        refused = len(pending)
        changes: dict[str, Any] = {"status": _after_refusal(held), "sends": held.sends - 1, "code": code}
        changes["due_at"] = moment() + timedelta(seconds=_pause(held, result))
        if held.is_again:
            changes["resent"] = max(0, held.resent - refused)
        return changes
    changes = {"code": code, **(split.shrunk(held) if split is not None else {})}
    if held.sends < most_sends(broadcast) and not _is_closed(held):
        wait = max(backoff(held.sends), result.wait)
        return {"status": BatchStatus.RETRY, "due_at": moment() + timedelta(seconds=wait), **changes}
    return {"status": BatchStatus.UNKNOWN, **changes}


@dataclass(slots=True)
class _Split:
    """Refused tokens of a batch of which others are unknown: they go their own way."""

    chosen: dict[int, int]
    wait: float

    @classmethod
    def of(cls, held: Claim, result: Result, pending: dict[int, int]) -> _Split | None:
        if not result.unknown or not (result.refused or result.unsent):
            return None
        refused = {ticket.pk for ticket in result.refused} | {target.pk for target in result.unsent}
        chosen = {pk: owner for pk, owner in pending.items() if pk in refused}
        return cls(chosen, _pause(held, result)) if chosen else None

    def shrunk(self, held: Claim) -> dict[str, Any]:
        """Return what the batch is without them."""
        changes = {"size": held.size - len(self.chosen)}
        if held.resent:
            changes["resent"] = max(0, held.resent - len(self.chosen))
        return changes

    def insert(self, held: Claim) -> None:
        batches().create(
            lane_id=held.lane,
            status=_after_refusal(held),
            pks=pack(self.chosen.items()),
            size=len(self.chosen),
            pending=len(self.chosen),
            claim_no=held.number,
            sends=held.sends - 1,
            # With a cap of one only this tells that somebody had it sent again, so may have it already.
            resent=0 if held.is_again else min(held.resent, len(self.chosen)),
            due_at=moment() + timedelta(seconds=self.wait),
            claimed_at=held.claimed_at,
        )


def _pause(held: Claim, result: Result) -> float:
    """Return the seconds to wait before the refused are sent again; none for what was never sent."""
    return max(backoff(held.number), result.wait) if result.refused else result.wait


def backoff(times: int) -> float:
    """Return the wait after so many tries, with a random part so that they do not come back at once."""
    jitter = random.uniform(1, 1.5)  # noqa: S311 - no secret
    return float(min(FIRST_WAIT * 2.0 ** min(times - 1, 30), LAST_WAIT) * jitter)


def _after_refusal(held: Claim) -> BatchStatus:
    """Return the status of what was refused: in a lane that was cancelled, whether it was ever sent."""
    if not _is_closed(held):
        return BatchStatus.RETRY
    return BatchStatus.UNKNOWN if held.sends > 1 or held.resent else BatchStatus.CANCELLED


def _is_closed(held: Claim) -> bool:
    """Whether the lane was cancelled meanwhile, or has expired."""
    return lanes().filter(pk=held.lane, status=LaneStatus.CANCELLED).exists()


def _note_problems(broadcast: Broadcast, held: Claim, final: Iterable[Ticket]) -> None:
    """Write a row for each failure that is no dead token, up to the batch's limit over all its claims."""
    problems = [
        PushProblem(
            backend=ticket.backend,
            broadcast_id=broadcast.pk,
            token_id=ticket.pk,
            outcome=ticket.outcome.value,
            code=ticket.code[:200],
            detail=ticket.detail,
        )
        for ticket in final
        if ticket.outcome in _FAILURES
    ]
    there = sum(held.counts[outcome.value] for outcome in _FAILURES)
    PushProblem.objects.using(database()).bulk_create(problems[: max(0, MOST_PROBLEMS - there)])
