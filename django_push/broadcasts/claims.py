"""The protocol's first half: what may be sent, by whom, and until when.

The committed claim is the record of intent: nothing is sent before it, so after a crash "claimed"
means "may have been sent". The lease says for how long the claim is its claimant's alone, the claim's
number whose result counts.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Min, QuerySet

from django_push.broadcasts import audiences
from django_push.broadcasts.packing import owner_checksum, pack, unpack
from django_push.broadcasts.rows import again_if_lost, batches, database, lanes, lock_lane, moment
from django_push.models import (
    COUNTED,
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    BroadcastStatus,
    LaneStatus,
    TokenStatus,
    UnknownPolicy,
    get_token_model,
    instant,
)
from django_push.outcomes import Target
from django_push.tokens.writing import brief_transaction

#: How many batches that are due again are looked at, to find one that can be claimed.
MOST_LOOKED_AT = 50
#: Who has waited longer for the lock counts the lease from when it was got. Seconds.
LATE = 1.0
#: From so many batches in a row on that the provider did not answer, one claimant at a time asks it,
#: about so few tokens: each may have arrived all the same.
GRACE, PROBE = 3, 10

_COLUMNS = ("pk", "token", "kind", "project", "locale", "user_id")
#: Batches that may be claimed again.
_AGAIN = (BatchStatus.RETRY, BatchStatus.LEASED)


@dataclass(slots=True)
class Claim:
    """Some tokens that are ours to send to, until the lease ends by the monotonic clock."""

    batch: int
    lane: int
    broadcast: int
    number: int
    sends: int
    size: int
    claimed_at: datetime
    lease_ends: float
    targets: list[Target]
    #: Tokens without a final verdict in the row, as far as it has been written.
    pending: dict[int, int]
    counts: Counter[str] = field(default_factory=Counter)
    #: Whether an earlier claim may have reached the provider.
    is_again: bool = False
    #: ``BroadcastBatch.resent`` as of this claim.
    resent: int = 0
    #: How many batches before it the provider has not answered.
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing to claim: for so many seconds, or for good (None)."""

    wait: float | None = None
    #: The lane's status, if it is not running.
    status: str = LaneStatus.RUNNING


def claim(
    broadcast: Broadcast, lane: int, count: int, lease: float, *, again_first: bool = True
) -> Claim | Idle:
    """Claim up to ``count`` tokens of a lane for ``lease`` seconds; commit before returning.

    What is due again goes first, then what was planned or the next page of the audience; without
    ``again_first``, which spares a statement, it goes last. Raises InvalidAudience if the audience
    cannot be read any more.
    """
    return again_if_lost(lambda: _claim(broadcast, lane, count, lease, again_first))


def _claim(broadcast: Broadcast, lane_id: int, count: int, lease: float, again_first: bool) -> Claim | Idle:
    using = database()
    started = time.monotonic()
    with brief_transaction(using):
        locked = lock_lane(lane_id)
        if locked is None:
            return Idle(status=LaneStatus.CANCELLED)
        lane, now = locked
        if time.monotonic() - started > LATE:
            now, started = moment(), time.monotonic()
        if lane.status != LaneStatus.RUNNING:
            return Idle(status=lane.status)
        if broadcast.expires_at is not None and instant(broadcast.expires_at, using) <= now:
            return Idle(status=BroadcastStatus.EXPIRED)  # whoever drains it will say so
        if lane.hold_until and instant(lane.hold_until, using) > now:
            return Idle((instant(lane.hold_until, using) - now).total_seconds())
        is_probe = lane.misses >= GRACE
        if is_probe:
            count, again_first = min(count, PROBE), False
        most = count if is_probe else None
        until = now + timedelta(seconds=lease)
        claimed = _claim_again(broadcast, lane, now, until, most) if again_first else None
        claimed = claimed or _claim_next(broadcast, lane, count, now, until)
        if claimed is None and not again_first:
            claimed = _claim_again(broadcast, lane, now, until, most)
        if claimed is None:
            return _idle(lane, now)
        if is_probe:  # let nobody else try before this one has found out
            lanes().filter(pk=lane.pk).update(hold_until=until)
        claimed.misses = lane.misses
        claimed.lease_ends = started + lease
        return claimed


def _claim_again(
    broadcast: Broadcast, lane: BroadcastLane, now: datetime, until: datetime, most: int | None
) -> Claim | None:
    """Claim a batch that is due again, or ``most`` tokens of it: refused before, or its claimant is gone."""
    due = batches().filter(lane_id=lane.pk, status__in=_AGAIN, due_at__lte=now).order_by("due_at", "pk")
    for batch in due[:MOST_LOOKED_AT]:
        # Its claimant may write its result at this moment, without the lane's lock.
        held = batches().filter(pk=batch.pk, status=batch.status, claim_no=batch.claim_no, due_at__lte=now)
        if batch.status == BatchStatus.LEASED and batch.sends >= most_sends(broadcast):
            held.update(status=BatchStatus.UNKNOWN, code="WorkerLost")
            continue
        if most is not None and batch.pending > most:
            part = _portion(batch, held, most, now)
            if part is None:
                continue
            batch, held = part, batches().filter(pk=part.pk)
        claimed = _take(lane, batch, held, now, until)
        if claimed is not None:
            return claimed
    return None


def _claim_next(
    broadcast: Broadcast, lane: BroadcastLane, count: int, now: datetime, until: datetime
) -> Claim | None:
    if lane.is_read:
        return None
    if broadcast.audience.get("kind") == "list":
        return _claim_planned(lane, count, now, until)
    rows = _page(broadcast, lane, count)
    is_read = len(rows) < count
    last = rows[-1][0] if rows else lane.cursor
    targets = list({row[0]: _target(row) for row in rows}.values())
    claimed = _insert(lane, targets, now, until) if targets else None
    lanes().filter(pk=lane.pk).update(cursor=last, is_read=is_read)
    lane.is_read = is_read
    return claimed


def _page(broadcast: Broadcast, lane: BroadcastLane, count: int) -> list[tuple[Any, ...]]:
    """Read the next page of sendable tokens, by literal bounds on the primary key."""
    rows = audiences.tokens_of(broadcast.audience).filter(
        backend=lane.backend, pk__gt=lane.cursor, pk__lte=broadcast.highest_pk
    )
    with audiences.readable():
        return list(rows.order_by("pk").values_list(*_COLUMNS)[:count])


def _insert(lane: BroadcastLane, targets: list[Target], now: datetime, until: datetime) -> Claim:
    chosen = {target.pk or 0: owner_checksum(target.user_id) for target in targets}
    batch = batches().create(
        lane_id=lane.pk,
        status=BatchStatus.LEASED,
        pks=pack(chosen.items()),
        size=len(chosen),
        pending=len(chosen),
        claim_no=1,
        sends=1,
        due_at=until,
        claimed_at=now,
    )
    return Claim(batch.pk, lane.pk, lane.broadcast_id, 1, 1, len(chosen), now, 0.0, targets, chosen)


def _claim_planned(lane: BroadcastLane, count: int, now: datetime, until: datetime) -> Claim | None:
    while True:
        batch = batches().filter(lane_id=lane.pk, status=BatchStatus.PLANNED).order_by("pk").first()
        if batch is None:
            lanes().filter(pk=lane.pk).update(is_read=True)
            lane.is_read = True
            return None
        held = batches().filter(pk=batch.pk, status=BatchStatus.PLANNED)
        if batch.pending > count and (part := _portion(batch, held, count, now)) is not None:
            batch, held = part, batches().filter(pk=part.pk)
        claimed = _take(lane, batch, held, now, until)
        if claimed is not None:
            return claimed


def _portion(
    batch: BroadcastBatch, held: QuerySet[BroadcastBatch], count: int, now: datetime
) -> BroadcastBatch | None:
    """Make a batch of the first tokens of one that is more than may be sent at once; it is due.

    None if a lost claimant has come back meanwhile. If none has, its claim is over: what it had to say
    would be about more tokens than the batch has.
    """
    chosen = unpack(batch.pks)
    first, rest = chosen[:count], chosen[count:]
    is_lost = batch.status == BatchStatus.LEASED
    shared: dict[str, Any] = {
        "status": BatchStatus.RETRY if is_lost else batch.status,
        "claim_no": batch.claim_no + is_lost,
    }
    resent = min(batch.resent, count)
    if not held.update(
        pks=pack(rest),
        size=batch.size - count,
        pending=len(rest),
        resent=batch.resent - resent,
        **shared,
    ):
        return None
    return batches().create(
        lane_id=batch.lane_id,
        pks=pack(first),
        size=count,
        pending=count,
        sends=batch.sends,
        resent=resent,
        due_at=now,
        code=batch.code,
        **shared,
    )


def most_sends(broadcast: Broadcast) -> int:
    """Return how many claims of a batch may have reached the provider before it is left at that."""
    return broadcast.max_sends if broadcast.on_unknown == UnknownPolicy.RETRY else 1


def _take(
    lane: BroadcastLane,
    batch: BroadcastBatch,
    held: QuerySet[BroadcastBatch],
    now: datetime,
    until: datetime,
) -> Claim | None:
    """Claim a batch that is there; None if it is gone, or if none of its tokens is sendable any more."""
    chosen = dict(unpack(batch.pks))
    targets = _sendable(lane.backend, chosen)
    left = {target.pk or 0: chosen[target.pk or 0] for target in targets}
    skipped = len(chosen) - len(left)
    is_again = batch.sends > 0
    changes: dict[str, Any] = {
        "status": BatchStatus.LEASED,
        "claim_no": batch.claim_no + 1,
        "sends": batch.sends + 1,
        "due_at": until,
        "claimed_at": now,
        "skipped": batch.skipped + skipped,
        "pending": len(left),
        "resent": batch.resent + (len(left) if is_again else 0),
    }
    if skipped:
        changes["pks"] = pack(left.items())
    if not left:
        changes |= {"status": BatchStatus.DONE, "sends": batch.sends}
    if not held.update(**changes) or not left:
        return None
    counts = Counter({name: n for name in COUNTED if (n := getattr(batch, name))})
    counts["skipped"] = batch.skipped + skipped
    return Claim(
        batch.pk,
        lane.pk,
        lane.broadcast_id,
        batch.claim_no + 1,
        batch.sends + 1,
        batch.size,
        now,
        0.0,
        targets,
        left,
        counts,
        is_again,
        changes["resent"],
    )


def _sendable(alias: str, chosen: dict[int, int]) -> list[Target]:
    """Return those that may still be sent to, and have not changed hands since they were chosen."""
    rows = (
        get_token_model()
        ._base_manager.using(database())
        .filter(pk__in=list(chosen), backend=alias, status=TokenStatus.ACTIVE, enabled=True)
        .order_by("pk")
        .values_list(*_COLUMNS)
    )
    return [_target(row) for row in rows if chosen[row[0]] == owner_checksum(row[5])]


def _target(row: tuple[Any, ...]) -> Target:
    pk, token, kind, project, locale, user_id = row
    return Target(token, pk, kind, project, locale, user_id)


def _idle(lane: BroadcastLane, now: datetime) -> Idle:
    """Nothing was claimed: say when there will be something, or end the lane."""
    due = batches().filter(lane_id=lane.pk, status__in=_AGAIN).aggregate(due=Min("due_at"))["due"]
    if due is not None:
        return Idle(max(0.0, (instant(due, database()) - now).total_seconds()))
    if not lane.is_read:
        return Idle(0.0)
    lanes().filter(pk=lane.pk).update(status=LaneStatus.DONE, hold_until=None)
    return Idle(status=LaneStatus.DONE)
