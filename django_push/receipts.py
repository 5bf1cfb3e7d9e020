"""What the provider says later: accepted tickets are remembered, packed, and asked about until answered.

A receipt is a verdict, never a reason to send again: a push repeated hours later would be a new one.
"""

from __future__ import annotations

import json
import logging
import re
import struct
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

from django.db import connections, router
from django.db.models import F

from django_push import signals, tokens
from django_push.backends.base import BasePushBackend
from django_push.exceptions import InvalidPushBackend
from django_push.handler import push_backends
from django_push.models import (
    BroadcastLane,
    DatabaseNow,
    PushProblem,
    ReceiptBatch,
    TokenSource,
    database_now,
)
from django_push.outcomes import Outcome, Receipt, Target, TargetKind, Ticket, checksum
from django_push.tokens.writing import brief_transaction
from django_push.wire import ParsedReceipts

logger = logging.getLogger("django_push")

#: When to ask, after the send. Expo: look after 15 minutes; growing gaps for what is missing.
SCHEDULE = tuple(timedelta(minutes=m) for m in (15, 30, 60, 120, 240, 480, 960))
#: When to give up: Expo deletes receipts after 24 hours.
GIVE_UP = timedelta(hours=23)
#: How long a claimed batch is left alone if its checker has died.
CLAIM = timedelta(minutes=10)
#: When to ask again after a request that failed as a whole, without a Retry-After.
PAUSE = timedelta(minutes=5)
LEAST_PAUSE = timedelta(minutes=1)
#: How many tickets a row holds, and how many rows are asked about at once.
TICKETS_PER_BATCH = 1000
BATCHES_PER_CLAIM = 20

#: What is packed as a UUID comes back in the same letters, so only the usual form is.
_UUIDS = re.compile(r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12},)+")
_PACKED, _TEXT = b"u", b"t"

#: A ticket's id, its token's primary key, and the checksum of the token that was sent to.
Sent = tuple[str, int, int]


@dataclass(slots=True)
class ReceiptSummary:
    """What one run over the due receipts found, in tickets.

    ``ok`` were taken by Apple or Google, ``deactivated`` tokens turned out dead, ``outdated`` are dead
    verdicts on tokens that have registered again or are gone already, ``problems`` are failures that
    are no token's fault, ``missing`` have no receipt yet, ``expired`` never got one, ``failed`` could
    not be asked about.
    """

    ok: int = 0
    deactivated: int = 0
    outdated: int = 0
    problems: int = 0
    missing: int = 0
    expired: int = 0
    failed: int = 0

    def __add__(self, other: ReceiptSummary) -> ReceiptSummary:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return ReceiptSummary(*(mine + theirs for mine, theirs in pairs))

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __str__(self) -> str:
        counts = (f"{getattr(self, f.name)} {f.name}" for f in fields(self) if getattr(self, f.name))
        return ", ".join(counts) or "nothing due"


def remember(tickets: Iterable[Ticket], sent_at: datetime, *, broadcast: int | None = None) -> None:
    """Keep the ids of accepted tickets, up to 1000 in a row, to ask about them later.

    ``broadcast`` is the key of the broadcast that sent them, which gets to know what they say.

    Tickets without an id or without a token row are left out: nothing could be done about them.
    """
    by_alias: dict[str, list[Sent]] = {}
    for ticket in tickets:
        target = ticket.target
        if ticket.id and target.pk is not None and ticket.outcome is Outcome.ACCEPTED:
            sent = (ticket.id, target.pk, checksum(target.value))
            by_alias.setdefault(ticket.backend, []).append(sent)
    for alias, pairs in by_alias.items():
        pairs = _unambiguous(pairs)
        for start in range(0, len(pairs), TICKETS_PER_BATCH):
            part = pairs[start : start + TICKETS_PER_BATCH]
            ReceiptBatch.objects.using(_database()).create(
                backend=alias,
                tickets=pack(part),
                size=len(part),
                sent_at=sent_at,
                due_at=sent_at + SCHEDULE[0],
                deadline=sent_at + GIVE_UP,
                broadcast_id=broadcast,
            )


def _unambiguous(pairs: list[Sent]) -> list[Sent]:
    """Leave out ids that two tokens were given: whose receipt it is could not be told."""
    count = Counter(ticket_id for ticket_id, *_ in pairs)
    return pairs if len(count) == len(pairs) else [pair for pair in pairs if count[pair[0]] == 1]


def check_push_receipts(
    *, backend: str | None = None, is_stopped: Callable[[], bool] = lambda: False
) -> ReceiptSummary:
    """Ask for all receipts that are due, of one alias or of all, and write what they say.

    Any number of processes may do so at once. An alias whose requests fail is left until later.
    ``is_stopped`` is asked between claims of a few thousand tickets. Raises InvalidPushBackend for
    an alias given and unknown; batches of aliases that are gone expire at their deadline.
    """
    if backend is not None:
        push_backends.channel(backend)
    summary = ReceiptSummary()
    for alias in [backend] if backend is not None else _due_aliases():
        while not is_stopped() and (batches := _claim(alias)):
            found = _check(alias, batches)
            summary += found
            if found.failed:
                break
    signals.receipts_checked.send_robust(sender=None, summary=summary)
    if summary:
        logger.info("receipts: %s", summary)
    return summary


def _due_aliases() -> list[str]:
    due = ReceiptBatch.objects.using(_database()).filter(due_at__lte=DatabaseNow())
    return sorted(set(due.order_by().values_list("backend", flat=True).distinct()))


def _claim(alias: str) -> list[ReceiptBatch]:
    """Take some due batches, so that nobody else asks about them for a while."""
    using = _database()
    rows = ReceiptBatch.objects.using(using)
    claim = uuid.uuid4().hex
    skips = connections[using].features.has_select_for_update_skip_locked
    with brief_transaction(using):
        if connections[using].vendor == "sqlite":  # begin with a write, so that writers wait in line
            rows.filter(pk=-1).update(claim="")
        due = rows.filter(backend=alias, due_at__lte=DatabaseNow()).order_by("due_at", "pk")
        locked = due.select_for_update(skip_locked=skips)[:BATCHES_PER_CLAIM]
        pks = sorted(batch.pk for batch in locked)
        until = database_now(using) + CLAIM
        rows.filter(pk__in=pks).update(claim=claim, due_at=until)
    return list(rows.filter(pk__in=pks, claim=claim).order_by("pk")) if pks else []


def _check(alias: str, batches: Sequence[ReceiptBatch]) -> ReceiptSummary:
    """Ask about claimed batches and write the answers, batch by batch."""
    pairs = {batch.pk: unpack(bytes(batch.tickets)) for batch in batches}
    ids = [ticket_id for batch in batches for ticket_id, *_ in pairs[batch.pk]]
    found: dict[str, Receipt] = {}
    failed: dict[str, ParsedReceipts] = {}
    for asked, answer in _ask(alias, ids):
        if answer.failure is None:
            found.update((receipt.id, receipt) for receipt in answer.receipts)
        else:
            failed.update(dict.fromkeys(asked, answer))
    for why in {f"{answer.code} {answer.detail}".strip() for answer in failed.values()}:
        logger.error("receipts of %r: %s", alias, why)
    summary = ReceiptSummary()
    for batch in batches:
        summary += _write(batch, pairs[batch.pk], found, failed)
    return summary


def _ask(alias: str, ids: Sequence[str]) -> Iterator[tuple[Sequence[str], ParsedReceipts]]:
    """Yield the ids of each request with what was answered."""
    try:
        channel = push_backends.channel(alias)
    except InvalidPushBackend as error:
        yield ids, ParsedReceipts(failure=Outcome.REJECTED, code=str(error))
        return
    backend: BasePushBackend = channel.backend
    if not backend.has_receipts:
        yield ids, ParsedReceipts(failure=Outcome.REJECTED, code="the backend has no receipts")
        return
    for request, reply in channel.exchange(backend.build_receipts(ids)):
        yield request.receipt_ids, backend.parse_receipts(request, reply)


def _write(
    batch: ReceiptBatch,
    pairs: Sequence[Sent],
    found: dict[str, Receipt],
    failed: dict[str, ParsedReceipts],
) -> ReceiptSummary:
    """Write one batch's answers: token state first, which may safely be written twice."""
    answered = [(found[i], pk, sent_to) for i, pk, sent_to in pairs if i in found]
    rest = [sent for sent in pairs if sent[0] not in found]
    dead = [about for about in answered if about[0].outcome.is_dead]
    verdicts = [_as_ticket(batch, *about) for about in dead if _is_about(about[0], about[2])]
    source = TokenSource.RECEIPT if batch.broadcast_id is None else f"broadcast:{batch.broadcast_id}"
    changes = tokens.apply(verdicts, batch.sent_at, source=source)
    problems = [
        PushProblem(
            backend=batch.backend,
            broadcast_id=batch.broadcast_id,
            token_id=pk,
            outcome=receipt.outcome.value,
            code=receipt.code,
            detail=receipt.detail,
        )
        for receipt, pk, _ in answered
        if receipt.outcome is not Outcome.ACCEPTED and not receipt.outcome.is_dead
    ]
    now = database_now(_database())
    is_over = now >= batch.deadline
    not_asked = 0 if is_over else sum(1 for i, *_ in rest if i in failed)
    summary = ReceiptSummary(
        ok=sum(receipt.outcome is Outcome.ACCEPTED for receipt, *_ in answered),
        deactivated=changes.deactivated,
        outdated=len(dead) - changes.deactivated,
        problems=len(problems),
        missing=0 if is_over else len(rest) - not_asked,
        expired=len(rest) if is_over else 0,
        failed=not_asked,
    )
    if not _put_back(batch, [] if is_over else rest, now, failed, problems, summary):
        return ReceiptSummary()  # somebody else took it over, and counts it
    _log_problems(batch.backend, problems)
    return summary


def _put_back(
    batch: ReceiptBatch,
    rest: Sequence[Sent],
    now: datetime,
    failed: dict[str, ParsedReceipts],
    problems: Sequence[PushProblem],
    summary: ReceiptSummary,
) -> bool:
    """Delete the batch, or keep what is open for later; whether the claim on it still held."""
    using = _database()
    rows = ReceiptBatch.objects.using(using).filter(pk=batch.pk, claim=batch.claim)
    with brief_transaction(using):
        if not rest:
            held, _ = rows.delete()
        else:
            failures = [failed[i] for i, *_ in rest if i in failed]
            held = rows.update(
                tickets=pack(rest),
                size=len(rest),
                attempts=batch.attempts + 1,
                claim="",
                due_at=_next_due(batch, now, failures),
            )
        if held:
            PushProblem.objects.using(using).bulk_create(problems)
            _tell_broadcast(batch, summary)
    return bool(held)


def _tell_broadcast(batch: ReceiptBatch, summary: ReceiptSummary) -> None:
    """Add what was found to the counts of the broadcast that had sent them, if one had."""
    counts = {
        "receipts_ok": summary.ok,
        "receipts_dead": summary.deactivated + summary.outdated,
        "receipts_failed": summary.problems,
        "receipts_expired": summary.expired,
    }
    changes = {name: F(name) + count for name, count in counts.items() if count}
    if batch.broadcast_id is not None and changes:
        lanes = BroadcastLane.objects.using(_database())
        lanes.filter(broadcast_id=batch.broadcast_id, backend=batch.backend).update(**changes)


def _next_due(batch: ReceiptBatch, now: datetime, failures: Sequence[ParsedReceipts]) -> datetime:
    if failures:
        asked = [timedelta(seconds=f.retry_after) for f in failures if f.retry_after]
        return min(now + max([*asked, LEAST_PAUSE] if asked else [PAUSE]), batch.deadline)
    planned = (batch.sent_at + after for after in SCHEDULE)
    return next((at for at in planned if at > now), batch.deadline)


def _is_about(receipt: Receipt, sent_to: int) -> bool:
    """Whether the provider means the token that the ticket was given for, if it names one."""
    return not receipt.named or sent_to in map(checksum, receipt.named)


def _as_ticket(batch: ReceiptBatch, receipt: Receipt, pk: int, sent_to: int) -> Ticket:
    """Return the receipt as a verdict on a row, as long as that has the token that was sent to."""
    return Ticket(
        target=Target(str(sent_to), pk, TargetKind.CHECKSUM),
        outcome=receipt.outcome,
        backend=batch.backend,
        code=receipt.code,
        detail=receipt.detail,
    )


def _log_problems(alias: str, problems: Sequence[PushProblem]) -> None:
    for code in {p.code for p in problems if p.outcome == Outcome.PROVIDER_SETUP.value}:
        logger.error("receipts of %r: %s: check the project's credentials there", alias, code)


def pack(sent: Sequence[Sent]) -> bytes:
    """Return tickets as bytes: 28 for each if the ids are UUIDs."""
    ids = "".join(f"{ticket_id}," for ticket_id, *_ in sent)
    if _UUIDS.fullmatch(ids) and len(ids) == 37 * len(sent):
        keys = struct.pack(f">{len(sent)}q", *(pk for _, pk, _ in sent))
        sums = struct.pack(f">{len(sent)}I", *(sent_to for *_, sent_to in sent))
        return _PACKED + keys + sums + bytes.fromhex(ids.replace("-", "").replace(",", ""))
    return _TEXT + zlib.compress(json.dumps(sent).encode(), 1)


def unpack(data: bytes) -> list[Sent]:
    """Return what ``pack`` was given."""
    if data[:1] == _TEXT:
        return [(ticket_id, pk, sent_to) for ticket_id, pk, sent_to in json.loads(zlib.decompress(data[1:]))]
    size = (len(data) - 1) // 28
    keys = struct.unpack_from(f">{size}q", data, 1)
    sums = struct.unpack_from(f">{size}I", data, 1 + 8 * size)
    ids = (data[at : at + 16] for at in range(1 + 12 * size, len(data), 16))
    return [
        (str(uuid.UUID(bytes=raw)), pk, sent_to) for raw, pk, sent_to in zip(ids, keys, sums, strict=True)
    ]


def _database() -> str:
    return router.db_for_write(ReceiptBatch)
