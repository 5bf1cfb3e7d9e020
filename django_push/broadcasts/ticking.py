"""All that is due: what a cron job or a periodic task does, so that nothing depends on a queue's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone as clock

from django_push.broadcasts import control
from django_push.broadcasts.rows import (
    again_if_lost,
    batches,
    broadcasts,
    database,
    lanes,
    lock_lanes,
    moment,
)
from django_push.exceptions import BroadcastForbidden, InvalidAudience
from django_push.models import (
    COUNTED,
    FINAL,
    BatchStatus,
    Broadcast,
    BroadcastStatus,
    PauseReason,
    PushProblem,
    RateBucket,
    database_seconds,
)
from django_push.receipts import ReceiptSummary, check_push_receipts
from django_push.tokens.writing import brief_transaction

#: For how long batches of an ended broadcast, and problems, are kept.
KEEP = timedelta(days=30)
#: How many broadcasts one run looks at for pruning.
MOST_PRUNED = 100


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run has done."""

    started: int = 0
    expired: int = 0
    woken: int = 0
    swept: int = 0
    receipts: ReceiptSummary | None = None
    pruned: int = 0

    def __str__(self) -> str:
        counts = [
            f"{getattr(self, f.name)} {f.name}"
            for f in fields(self)
            if f.name != "receipts" and getattr(self, f.name)
        ]
        if self.receipts:
            counts.append(f"receipts: {self.receipts}")
        return ", ".join(counts) or "nothing due"

    def as_json(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return asdict(self)


def wake_all(broadcast: int) -> None:
    """Ask PUSH_DISPATCHER for as many workers as the broadcast was made with."""
    count = broadcasts().filter(pk=broadcast).values_list("workers", flat=True).first()
    control.ask_for_workers(broadcast, count or 1)


def tick(
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    with_receipts: bool = True,
    look_after: Callable[[int], object] = wake_all,
) -> Tick:
    """Do what is due: scheduled and stranded broadcasts, expiry, receipts, pruning.

    ``look_after`` is given the key of each broadcast that nobody sends: it asks PUSH_DISPATCHER for a
    worker; the inline one sends here, for a while. Any number of processes may do this at once.
    """
    expired = sum(map(_apart(control.expire), broadcasts().unfinished().filter(expires_at__lte=moment())))
    started = sum(map(_apart(_start), _of(BroadcastStatus.SCHEDULED, scheduled_at__lte=moment())))
    swept = control.sweep()
    woken = 0
    for row in stranded():
        if is_stopped():
            break
        woken += _look_after(row, look_after)
    checked = check_push_receipts(is_stopped=is_stopped) if with_receipts and not is_stopped() else None
    pruned = 0 if is_stopped() else prune()
    return Tick(started, expired, woken, swept, checked, pruned)


def _apart(act: Callable[[Broadcast], bool]) -> Callable[[Broadcast], bool]:
    """Let what fails for one broadcast be logged, and keep no other from what is due."""

    def attempt(row: Broadcast) -> bool:
        try:
            return act(row)
        except Exception as error:
            if _is_lost(error):
                raise
            control.logger.exception("broadcast %s: what is due could not be done", row.pk)
            return False

    return attempt


def _look_after(row: Broadcast, look_after: Callable[[int], object]) -> bool:
    """Have a broadcast sent; what fails is logged, and keeps nothing else that is due from being done."""
    control.stay_awake(row, control.AWAKE_FOR)
    try:
        look_after(row.pk)
    except Exception as error:  # a queue's library may raise anything
        if _is_lost(error):
            raise
        control.logger.exception("broadcast %s: no worker was woken", row.pk)
        control.stay_awake(row, 0)
        return False
    return True


def _is_lost(error: Exception) -> bool:
    """Whether the database is away, rather than one statement refused or locked out."""
    connection = connections[database()]
    if not isinstance(error, (OperationalError, InterfaceError)):
        return connection.needs_rollback  # somebody else's transaction is broken
    return connection.needs_rollback or connection.connection is None or not connection.is_usable()


def stranded() -> list[Broadcast]:
    """Return the running broadcasts that nobody has said to look after."""
    asleep = Q(awake_until=None) | Q(awake_until__lte=moment())
    return list(_of(BroadcastStatus.RUNNING).filter(asleep).order_by("pk"))


def _of(status: BroadcastStatus, **more: Any) -> QuerySet[Broadcast]:
    return broadcasts().filter(status=status, **more)


def _start(row: Broadcast) -> bool:
    try:
        return control.start(row)
    except BroadcastForbidden as error:
        return _refuse(row, PauseReason.PERMISSION, error)
    except InvalidAudience as error:
        return _refuse(row, PauseReason.AUDIENCE, error)


def _refuse(row: Broadcast, reason: PauseReason, error: Exception) -> bool:
    control.logger.error("broadcast %s: not started: %s", row.pk, error)
    control.pause(row, reason=reason)
    return False


def prune(keep: timedelta = KEEP) -> int:
    """Delete the batches of broadcasts that ended long ago, keeping their counts, and old problems."""
    before = moment() - keep
    ended = broadcasts().filter(status__in=FINAL, finished_at__lte=before, lanes__batches__isnull=False)
    pruned = 0
    for row in ended.distinct().order_by("pk")[:MOST_PRUNED]:
        for lane in lanes().filter(broadcast_id=row.pk):
            pruned += again_if_lost(partial(_prune_lane, lane.pk))
    old = PushProblem.objects.using(database()).filter(created__lte=clock.now() - keep)
    keys = list(old.order_by("pk").values_list("pk", flat=True)[:10_000])
    pruned += PushProblem.objects.using(database()).filter(pk__in=keys).delete()[0]
    a_day_ago = database_seconds(database()) - 86_400
    RateBucket.objects.using(database()).filter(
        key__startswith="broadcast:", spoken_for__lt=a_day_ago, blocked_until__lt=a_day_ago
    ).delete()
    return pruned


def _prune_lane(pk: int) -> int:
    with brief_transaction(database()):
        locked = lock_lanes(lanes().filter(pk=pk))
        if not locked or not broadcasts().filter(pk=locked[0].broadcast_id, status__in=FINAL).exists():
            return 0  # deleted meanwhile, or sent again
        found = batches().filter(lane_id=pk)
        sums = found.aggregate(
            size=Sum("size"),
            skipped=Sum("skipped"),
            resent=Sum("resent"),
            unknown=Sum("pending", filter=Q(status__in=(BatchStatus.UNKNOWN, BatchStatus.LEASED))),
            cancelled=Sum("pending", filter=Q(status=BatchStatus.CANCELLED)),
            **{name: Sum(name) for name in COUNTED},
        )
        totals = dict(locked[0].totals)
        for name, count in sums.items():
            totals[name] = totals.get(name, 0) + (count or 0)
        lanes().filter(pk=pk).update(totals=totals)
        return found.delete()[0]
