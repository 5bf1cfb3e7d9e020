"""What a broadcast may become: start, pause, resume, cancel, expire, end; each a compare-and-set.

The only writer of a broadcast's and its lanes' status, but for the claim that ends a lane. Each verb
locks the broadcast, so that the verbs take turns, then the lanes: so no claim is under way when a pause
commits, and none that comes later finds a running lane.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.db.models import F, Max, Q, QuerySet
from django.dispatch import Signal
from django.utils import timezone as clock

from django_push import signals, tokens
from django_push.broadcasts import audiences
from django_push.broadcasts.claims import most_sends
from django_push.broadcasts.rows import (
    again_if_lost,
    batches,
    broadcasts,
    database,
    lanes,
    lock_broadcast,
    lock_lanes,
    moment,
)
from django_push.exceptions import BroadcastForbidden, InvalidBroadcast
from django_push.handler import push_backends
from django_push.models import (
    FINAL,
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    TokenStatus,
    get_token_model,
    instant,
)
from django_push.outcomes import cut
from django_push.tokens.writing import brief_transaction
from django_push.wake import wake

logger = logging.getLogger("django_push")

#: After these a lane that is resumed is not paused for the same again.
_BREAKERS = (PauseReason.DEAD_TOKENS, PauseReason.REFUSED)
#: For how long a woken broadcast is left to the workers that were asked for. Seconds.
AWAKE_FOR = 60.0
#: A dispatcher that takes so long has done the work itself, here, and need not be asked again. Seconds.
LONG = 10.0
_OPEN_LANES = (LaneStatus.WAITING, LaneStatus.RUNNING, LaneStatus.PAUSED)


def check_allowed(broadcast: Broadcast) -> None:
    """Raise BroadcastForbidden if the recorded user may not broadcast, or is gone.

    The user is read anew: one that was read before knows what was allowed then.
    """
    if not broadcast.created_by_name:
        return  # trusted code, or the command
    model = get_user_model()
    users: Any = model._base_manager.using(router.db_for_write(model))
    user = users.filter(pk=broadcast.created_by_id).first()
    if user is None or not user.is_active or not user.has_perm("django_push.broadcast_push"):
        raise BroadcastForbidden(f"{broadcast.created_by_name} may not broadcast push notifications.")


def start(broadcast: Broadcast) -> bool:
    """Let workers claim from now on; False if somebody else was first, or it is not waiting to start.

    The audience ends with the newest token there is now. Raises BroadcastForbidden, InvalidAudience.
    """
    check_allowed(broadcast)
    is_list = broadcast.audience.get("kind") == "list"
    highest = get_token_model()._base_manager.using(database()).aggregate(top=Max("pk"))["top"] or 0
    # What is read later: so whoever is not counted, and may have no lane, is not in the audience either.
    audience = audiences.fixed(broadcast.audience)
    counts = {} if is_list else audiences.counts(audience, broadcast.using).by_alias
    unconfigured = sum(n for alias, n in counts.items() if alias not in push_backends)

    def write() -> bool:
        with brief_transaction(database()):
            changed = _change(
                broadcast,
                (BroadcastStatus.DRAFT, BroadcastStatus.SCHEDULED),
                BroadcastStatus.RUNNING,
                started_at=moment(),
                highest_pk=highest,
                audience=audience,
                **({} if is_list else {"unconfigured": unconfigured}),
            )
            if changed and is_list:
                _lanes_of(broadcast).filter(status=LaneStatus.WAITING).update(status=LaneStatus.RUNNING)
            elif changed:
                lanes().bulk_create(
                    BroadcastLane(
                        broadcast_id=broadcast.pk, backend=alias, size=size, status=LaneStatus.RUNNING
                    )
                    for alias, size in sorted(counts.items())
                    if alias in push_backends
                )
            if changed:
                _announce(signals.broadcast_started, broadcast)
        return changed

    started = again_if_lost(write)
    if started:
        if unconfigured:
            logger.warning("broadcast %s: %d tokens of unknown backends", broadcast.pk, unconfigured)
        settle(broadcast)
    return started


def schedule(broadcast: Broadcast) -> bool:
    """Let a draft wait for its time."""
    with brief_transaction(database()):
        return _change(broadcast, (BroadcastStatus.DRAFT,), BroadcastStatus.SCHEDULED)


def pause(
    broadcast: Broadcast,
    *,
    lane: str = "",
    reason: PauseReason = PauseReason.OPERATOR,
    detail: str = "",
) -> bool:
    """Claim nothing more, of one alias's lane or of all; what is in flight is finished and counted.

    False if nothing was running or scheduled.
    """

    def write() -> bool:
        with brief_transaction(database()):
            lock_broadcast(broadcast.pk)
            running = _pause_lanes(broadcast, lane, reason, detail)
            if lane:
                return running
            states = (BroadcastStatus.RUNNING, BroadcastStatus.SCHEDULED)
            if not _change(broadcast, states, BroadcastStatus.PAUSED, pause_reason=reason):
                return False
            return _announce(signals.broadcast_paused, broadcast, reason=str(reason))

    paused = again_if_lost(write)
    if paused and lane:
        settle(broadcast)
    return paused


def _pause_lanes(broadcast: Broadcast, lane: str, reason: PauseReason, detail: str) -> bool:
    found = lock_lanes(_lanes_of(broadcast, lane).filter(status=LaneStatus.RUNNING))
    running = [row.pk for row in found if row.status == LaneStatus.RUNNING]
    lanes().filter(pk__in=running).update(
        status=LaneStatus.PAUSED, pause_reason=reason, pause_detail=cut(detail)
    )
    return bool(running)


def pause_lane(broadcast: Broadcast, lane: str, reason: PauseReason, detail: str) -> None:
    """Pause one lane because of what happened in it, and log why."""
    if pause(broadcast, lane=lane, reason=reason, detail=detail):
        logger.error("broadcast %s, %r: paused: %s: %s", broadcast.pk, lane, reason.label, cut(detail))


def wake_workers(broadcast: Broadcast, workers: int | None = None) -> None:
    """Ask PUSH_DISPATCHER for workers, as many as the broadcast wants, once the transaction has committed."""
    count = broadcast.workers if workers is None else workers
    key = broadcast.pk

    def ask() -> None:
        ask_for_workers(key, count)

    if count and broadcast.status == BroadcastStatus.RUNNING:
        transaction.on_commit(ask, using=database(), robust=True)


def ask_for_workers(broadcast: int, count: int) -> None:
    """Ask PUSH_DISPATCHER for workers now.

    Those that were asked for before come to an end, so that however often this is called there are no
    more of them. Raises whatever the dispatcher does.
    """
    rows = broadcasts().filter(pk=broadcast)
    until = moment() + timedelta(seconds=AWAKE_FOR)
    with brief_transaction(database()):
        rows.update(wake_no=F("wake_no") + 1, awake_until=until)
        number = rows.values_list("wake_no", flat=True).first()
    began = time.monotonic()
    try:
        for _ in range(count):
            wake("drain_broadcast", {"broadcast": broadcast, "wake": number})
            if time.monotonic() - began > LONG:
                return
    except Exception:  # whatever a queue's library raises, which is the caller's to judge
        rows.update(awake_until=None)  # push_tick may have it at once
        raise


def resume(broadcast: Broadcast, *, lane: str = "", workers: int | None = None) -> bool:
    """Go on, with one alias's lane or with all that are paused, whatever they were paused for.

    ``workers`` are woken (None: as many as it was made with); 0 leaves it to the caller. False if nothing
    was paused. Raises BroadcastForbidden, and InvalidBroadcast for one that is over.
    """
    broadcast.refresh_from_db(using=database())
    if broadcast.is_final:
        raise InvalidBroadcast(f"Broadcast {broadcast.pk} is {broadcast.status}; there is nothing to resume.")
    check_allowed(broadcast)

    def write() -> bool:
        with brief_transaction(database()):
            itself = lock_broadcast(broadcast.pk)
            if itself is None:
                return False
            paused = lock_lanes(_lanes_of(broadcast, lane).filter(status=LaneStatus.PAUSED))
            keys = [row.pk for row in paused if row.status == LaneStatus.PAUSED]
            trusted = [row.pk for row in paused if row.pause_reason in _BREAKERS]
            lanes().filter(pk__in=trusted).update(is_trusted=True)
            lanes().filter(pk__in=keys).update(
                status=LaneStatus.RUNNING, pause_reason="", pause_detail="", misses=0, hold_until=None
            )
            again = BroadcastStatus.RUNNING if itself.started_at else BroadcastStatus.SCHEDULED
            if lane and not keys:
                return False
            return _change(broadcast, (BroadcastStatus.PAUSED,), again, pause_reason="") or bool(keys)

    resumed = again_if_lost(write)
    if resumed:
        settle(broadcast)
        wake_workers(broadcast, workers)
    return resumed


def cancel(broadcast: Broadcast, *, lane: str = "") -> bool:
    """Send nothing more, for good, of one alias's lane or of all; False if it was over already."""
    if lane:
        return _close_lane(broadcast, lane)
    return _close(broadcast, BroadcastStatus.CANCELLED)


def expire(broadcast: Broadcast) -> bool:
    """End a broadcast whose time has run out; False if it has not, or it was over already."""
    if broadcast.expires_at is None or instant(broadcast.expires_at, database()) > moment():
        return False
    return _close(broadcast, BroadcastStatus.EXPIRED)


def _close(broadcast: Broadcast, status: BroadcastStatus) -> bool:
    def write() -> bool:
        with brief_transaction(database()):
            lock_broadcast(broadcast.pk)
            states = [state for state in BroadcastStatus if state not in FINAL]
            if not _change(broadcast, states, status, pause_reason="", finished_at=moment()):
                return False
            open_ = lock_lanes(_lanes_of(broadcast).filter(status__in=_OPEN_LANES))
            _cancel_lanes([row.pk for row in open_ if row.status in _OPEN_LANES])
            return _announce(signals.broadcast_finished, broadcast)

    return again_if_lost(write)


def _close_lane(broadcast: Broadcast, lane: str) -> bool:
    def write() -> bool:
        with brief_transaction(database()):
            lock_broadcast(broadcast.pk)
            found = lock_lanes(_lanes_of(broadcast, lane).filter(status__in=_OPEN_LANES))
            keys = [row.pk for row in found if row.status in _OPEN_LANES]
            _cancel_lanes(keys)
            return bool(keys)

    closed = again_if_lost(write)
    if closed:
        settle(broadcast)
    return closed


def _cancel_lanes(keys: Iterable[int]) -> None:
    """Leave what was not sent unsent; leased batches are recorded by their claimants."""
    keys = list(keys)
    lanes().filter(pk__in=keys).update(status=LaneStatus.CANCELLED, hold_until=None)
    _cancel_batches(batches().filter(lane_id__in=keys))


def _cancel_batches(found: QuerySet[BroadcastBatch]) -> None:
    """Leave what waits as it is: unsent, or unknown if a claim of it may have reached the provider."""
    maybe_sent = Q(sends__gt=0) | Q(resent__gt=0)
    found.filter(maybe_sent, status=BatchStatus.RETRY).update(status=BatchStatus.UNKNOWN)
    waiting = (BatchStatus.PLANNED, BatchStatus.RETRY)
    found.filter(status__in=waiting).update(status=BatchStatus.CANCELLED)


def settle(broadcast: Broadcast) -> str:
    """End a broadcast all of whose lanes have ended, or pause one whose others are paused.

    Returns the status, "" if the broadcast is gone. Workers that end their lanes at once wait for each
    other here.
    """

    def write() -> str:
        with brief_transaction(database()):
            lock_broadcast(broadcast.pk)
            itself = broadcasts().filter(pk=broadcast.pk)
            states = set(_lanes_of(broadcast).values_list("status", flat=True))
            if states & {LaneStatus.RUNNING, LaneStatus.WAITING}:
                pass
            elif LaneStatus.PAUSED in states:
                reasons = _lanes_of(broadcast).filter(status=LaneStatus.PAUSED)
                reason = reasons.values_list("pause_reason", flat=True).first() or ""
                if _change(
                    broadcast, (BroadcastStatus.RUNNING,), BroadcastStatus.PAUSED, pause_reason=reason
                ):
                    _announce(signals.broadcast_paused, broadcast, reason=str(reason))
            elif itself.filter(started_at__isnull=False).exists():
                is_off = states == {LaneStatus.CANCELLED}
                _end(broadcast, BroadcastStatus.CANCELLED if is_off else BroadcastStatus.DONE)
            return str(itself.values_list("status", flat=True).first() or "")

    status = again_if_lost(write)
    if status:
        broadcast.refresh_from_db(using=database())
    return status


def _end(broadcast: Broadcast, status: BroadcastStatus) -> None:
    open_ = (BroadcastStatus.RUNNING, BroadcastStatus.PAUSED)
    if _change(broadcast, open_, status, pause_reason="", finished_at=moment()):
        _announce(signals.broadcast_finished, broadcast)


def resend_unknown(broadcast: Broadcast, *, lane: str = "", workers: int | None = None) -> int:
    """Send once more to tokens that may have been sent to; return how many. Each may get a second copy.

    ``workers`` are woken for it, as for ``resume``. In a paused broadcast they wait until it is resumed.
    Raises InvalidBroadcast for one that was cancelled or whose time has run out, BroadcastForbidden.
    """
    broadcast.refresh_from_db(using=database())
    if broadcast.status not in (BroadcastStatus.RUNNING, BroadcastStatus.PAUSED, BroadcastStatus.DONE):
        raise InvalidBroadcast(f"Broadcast {broadcast.pk} is {broadcast.status}; nothing is sent again.")
    if broadcast.expires_at is not None and instant(broadcast.expires_at, database()) <= moment():
        raise InvalidBroadcast(f"The time of broadcast {broadcast.pk} has run out; nothing is sent again.")
    check_allowed(broadcast)
    cap = most_sends(broadcast)

    def write() -> int:
        with brief_transaction(database()):
            lock_broadcast(broadcast.pk)
            locked = lock_lanes(_lanes_of(broadcast, lane))
            found = [row.pk for row in locked if row.status != LaneStatus.CANCELLED]
            unknown = batches().filter(lane_id__in=found, status=BatchStatus.UNKNOWN)
            sizes = dict(unknown.values_list("pk", "pending"))
            if not sizes:
                return 0
            changes: dict[str, Any] = {"status": BatchStatus.RETRY, "sends": cap - 1, "due_at": moment()}
            if cap == 1:  # the claim will not see that it was sent before
                changes["resent"] = F("resent") + F("pending")
            unknown.filter(pk__in=sizes).update(**changes)
            _change(broadcast, (BroadcastStatus.DONE,), BroadcastStatus.RUNNING, finished_at=None)
            lanes().filter(pk__in=found).update(misses=0, hold_until=None)  # somebody knows better
            ended = lanes().filter(pk__in=found, status=LaneStatus.DONE)
            if broadcasts().filter(pk=broadcast.pk, status=BroadcastStatus.RUNNING).exists():
                ended.update(status=LaneStatus.RUNNING)
            else:  # paused: nothing is claimed before somebody resumes it
                ended.update(status=LaneStatus.PAUSED, pause_reason=PauseReason.OPERATOR)
            return sum(sizes.values())

    count = again_if_lost(write)
    if count:
        wake_workers(broadcast, workers)
    return count


def undo_deactivations(broadcast: Broadcast) -> int:
    """Make the tokens active again that this broadcast has deactivated; return how many.

    Those that have changed since for another reason are left alone.
    """
    rows = get_token_model()._base_manager.using(database())
    dead = (TokenStatus.UNREGISTERED, TokenStatus.INVALID)
    found = rows.filter(status__in=dead, status_source=broadcast.source)
    return tokens.reactivate(found, source=f"undo:{broadcast.pk}")


def sweep() -> int:
    """Call unknown what a worker had claimed that never came back, in lanes that nobody claims from."""
    closed = Q(lane__status__in=(LaneStatus.CANCELLED, LaneStatus.DONE))
    lost = batches().filter(closed, status=BatchStatus.LEASED, due_at__lte=moment())
    keys = list(lost.values_list("pk", flat=True)[:1000])
    waiting = (BatchStatus.PLANNED, BatchStatus.RETRY)
    late = batches().filter(lane__status=LaneStatus.CANCELLED, status__in=waiting)
    _cancel_batches(batches().filter(pk__in=list(late.values_list("pk", flat=True)[:1000])))
    return (
        batches()
        .filter(pk__in=keys, status=BatchStatus.LEASED, due_at__lte=moment())
        .update(status=BatchStatus.UNKNOWN, code="WorkerLost")
    )


def stay_awake(broadcast: Broadcast, seconds: float) -> None:
    """Tell ``push_tick`` that somebody looks after the broadcast for so long; 0: nobody does."""
    until = moment() + timedelta(seconds=seconds) if seconds else None
    broadcasts().filter(pk=broadcast.pk).update(awake_until=until)


def _lanes_of(broadcast: Broadcast, lane: str = "") -> QuerySet[BroadcastLane]:
    found = lanes().filter(broadcast_id=broadcast.pk)
    return found.filter(backend=lane) if lane else found


def _change(broadcast: Broadcast, states: Iterable[str], status: BroadcastStatus, **columns: Any) -> bool:
    """Change the status if it is one of ``states``; whether it was."""
    rows = broadcasts().filter(pk=broadcast.pk, status__in=list(states))
    if not rows.update(status=status, modified=clock.now(), **columns):
        return False
    broadcast.status = status
    for name, value in columns.items():
        setattr(broadcast, name, value)
    return True


def _announce(signal: Signal, broadcast: Broadcast, **about: Any) -> bool:
    """Send the signal once the transaction has committed."""

    def tell() -> None:  # no partial: Django 5.2 asks a robust callback that fails for its name
        found = broadcasts().filter(pk=broadcast.pk).first()
        if found is not None:
            signal.send_robust(sender=Broadcast, broadcast=found, **about)

    if signal.has_listeners(Broadcast):
        transaction.on_commit(tell, using=database(), robust=True)
    return True
