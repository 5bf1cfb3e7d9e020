"""A drainer: claims, sends and records until nothing is left, its time is over, or it is told to stop.

Any number of drainers, started any number of times, in any place, is correct: the tables decide who
sends what. One drainer serves all lanes of a broadcast in turn, so that an alias that has to wait
keeps no other waiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import InterfaceError, OperationalError, connections

from django_push import wake
from django_push.broadcasts import control
from django_push.broadcasts.lane import LaneDrainer
from django_push.broadcasts.rows import broadcasts, database, lanes
from django_push.exceptions import BroadcastForbidden
from django_push.message import PushMessage
from django_push.models import PROTOCOL, Broadcast, BroadcastStatus, LaneStatus, PauseReason

logger = logging.getLogger("django_push")

#: How long a lane is served while others wait, and when none does. Seconds.
SLICE, LONG_SLICE = 2.0, 20.0
#: How often lanes are looked for that somebody has resumed, and others told that we are there. Seconds.
LOOK_AROUND = 5.0
#: For how long others are told that we are there.
AWAKE = 60.0
#: How long a lost database is waited for, also by somebody who was told to stop and has still to write
#: what came of the last requests. Seconds.
PATIENCE, LAST_PATIENCE = 300.0, 15.0
#: How often somebody who waits is asked whether to stop. Seconds.
NAP = 0.25
#: How long a worker's task runs, and waits when there is nothing to do; far below any time limit.
BUDGET, LINGER = 60.0, 10.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drainer ended: the broadcast's status, and in how many seconds there is more to do."""

    status: str
    wait: float | None = None

    @property
    def is_running(self) -> bool:
        return self.status == BroadcastStatus.RUNNING


def drain(
    broadcast: int,
    *,
    budget: float | None = None,
    linger: float | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    watch: Callable[[], None] = lambda: None,
    is_followed: bool = False,
) -> Drained:
    """Send a running broadcast until it ends or pauses.

    ``budget`` is the most seconds to work, ``linger`` the most to wait for something to do; None: as
    long as it takes. ``is_stopped`` is asked before each claim; what is in flight is finished.
    ``watch`` is called often, from this thread, while it works or waits. ``is_followed``: the caller has
    the rest done, if there is one; else ``push_tick`` may do it at once.
    """
    row = broadcasts().filter(pk=broadcast).first()
    if row is None:
        logger.warning("broadcast %s is gone", broadcast)
        return Drained(status="")
    if row.protocol > PROTOCOL:
        logger.error("broadcast %s was made by newer code; left to newer workers", broadcast)
        return Drained(status="")
    if row.status != BroadcastStatus.RUNNING:
        return Drained(row.status)
    return _Drainer(row, budget, linger, is_stopped, watch, is_followed).run()


class _Drainer:
    def __init__(
        self,
        broadcast: Broadcast,
        budget: float | None,
        linger: float | None,
        is_stopped: Callable[[], bool],
        watch: Callable[[], None],
        is_followed: bool,
    ) -> None:
        self.broadcast = broadcast
        self.is_followed = is_followed
        self.ends = float("inf") if budget is None else time.monotonic() + budget
        self.linger = float("inf") if linger is None else linger
        self.is_told_to_stop = is_stopped
        self.watch = watch
        self.lanes: dict[str, LaneDrainer] = {}
        self.looked_at = 0.0
        self.lost_since: float | None = None

    def run(self) -> Drained:
        wait: float | None = 0.0
        while not self._is_over():
            try:
                wait = self._turn()
                self.lost_since = None
            except (OperationalError, InterfaceError) as error:
                self._reconnect(error)
                continue
            if wait is None or self._due_in() > min(self.linger, self.ends - time.monotonic()):
                break
            self._sleep(wait)
        return self._ended()

    def _is_over(self) -> bool:
        return self.is_told_to_stop() or time.monotonic() >= self.ends

    def _turn(self) -> float | None:
        """Serve the lane that is first in line; return the seconds until the next, None if none is left."""
        if time.monotonic() - self.looked_at > LOOK_AROUND and not self._look_around():
            return None
        if not self.lanes:
            return None
        lane = min(self.lanes.values(), key=lambda lane: lane.next_at)
        if (wait := lane.next_at - time.monotonic()) > 0:
            return wait
        slice_ = SLICE if len(self.lanes) > 1 else LONG_SLICE
        lane.drain(min(self.ends, time.monotonic() + slice_))
        lane.ready_at = max(lane.ready_at, time.monotonic())  # behind those that have waited
        if lane.is_over:
            self.lanes.pop(lane.alias).close()
            if not self.lanes:
                self.looked_at = 0.0
        return 0.0

    def _look_around(self) -> bool:
        """Find the lanes that are running; whether the broadcast is."""
        self.looked_at = time.monotonic()
        if control.expire(self.broadcast):
            return False
        self._check_allowed()
        found = lanes().filter(
            broadcast_id=self.broadcast.pk,
            broadcast__status=BroadcastStatus.RUNNING,
            status=LaneStatus.RUNNING,
        )
        running = dict(found.order_by("pk").values_list("backend", "pk"))
        for alias in self.lanes.keys() - running.keys():  # paused or cancelled by somebody
            if not self.lanes[alias].has_rest:
                self.lanes.pop(alias).close()
        for alias, pk in running.items():
            if alias not in self.lanes and (lane := self._lane(pk, alias)) is not None:
                self.lanes[alias] = lane
        if self.lanes:
            control.stay_awake(self.broadcast, AWAKE)
        return bool(self.lanes)

    def _check_allowed(self) -> None:
        """Pause all of it if its user may not broadcast any more."""
        try:
            control.check_allowed(self.broadcast)
        except BroadcastForbidden as error:
            running = lanes().filter(broadcast_id=self.broadcast.pk, status=LaneStatus.RUNNING)
            for alias in running.order_by("pk").values_list("backend", flat=True):
                control.pause_lane(self.broadcast, alias, PauseReason.PERMISSION, str(error))

    def _lane(self, pk: int, alias: str) -> LaneDrainer | None:
        """Return what serves a lane; None, and the lane is paused, if it cannot be served."""
        try:
            message = PushMessage(**self.broadcast.message)
            translations = {
                language: PushMessage(**fields) for language, fields in self.broadcast.translations.items()
            }
        except (TypeError, ValueError, AttributeError) as error:
            control.pause_lane(self.broadcast, alias, PauseReason.MESSAGE, str(error))
        else:
            return LaneDrainer.of(
                self.broadcast, pk, alias, message, translations, self.is_told_to_stop, self.watch
            )
        return None

    def _due_in(self) -> float:
        """Return the seconds until there is something to do for sure."""
        due = min((lane.due_at for lane in self.lanes.values()), default=0.0)
        return max(0.0, due - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(left, NAP))
            self.watch()
            if time.monotonic() - self.looked_at > LOOK_AROUND:
                return

    def _reconnect(self, error: Exception) -> None:
        """Wait for the database to come back. What was claimed meanwhile is somebody's after the lease."""
        now = time.monotonic()
        if self.lost_since is None:
            self.lost_since = now
            logger.warning("broadcast %s: the database is lost: %s", self.broadcast.pk, type(error).__name__)
        connection = connections[database()]
        patience = LAST_PATIENCE if self.is_told_to_stop() else PATIENCE
        if connection.in_atomic_block or now - self.lost_since > patience:
            raise error
        connection.close()
        time.sleep(NAP)

    def _ended(self) -> Drained:
        wait = self._due_in()
        while (drained := self._tried_to_end(wait)) is None:
            pass
        return drained

    def _tried_to_end(self, wait: float) -> Drained | None:
        try:
            return self._end(wait)
        except (OperationalError, InterfaceError) as error:
            self._reconnect(error)
            return None

    def _end(self, wait: float) -> Drained:
        for lane in self.lanes.values():
            if lane.has_rest:  # the database was lost: what it holds is written, however late
                lane.drain(0.0)
            lane.close()
        status = control.settle(self.broadcast)
        running = status == BroadcastStatus.RUNNING
        if running and not self.is_followed:
            control.stay_awake(self.broadcast, 0)
        return Drained(status, wait if running else None)


def work(broadcast: int, wake_no: int | None = None) -> Drained:
    """A worker's task: drain for a while, and ask for a successor if there is more to do.

    ``wake_no`` is the broadcast's when it was asked for. If others have been asked for since, it is
    their turn: so tasks that pile up in a queue do not multiply.
    """
    if not _is_turn(broadcast, wake_no):
        return Drained(status="")
    drained = drain(broadcast, budget=BUDGET, linger=LINGER, is_followed=True)
    if drained.is_running and not _is_followed(broadcast, wake_no, drained.wait or 0.0):
        control.stay_awake(Broadcast(pk=broadcast), 0)  # push_tick may have it
    return drained


def _is_turn(broadcast: int, wake_no: int | None) -> bool:
    return wake_no is None or broadcasts().filter(pk=broadcast, wake_no=wake_no).exists()


def _is_followed(broadcast: int, wake_no: int | None, delay: float) -> bool:
    """Ask for a successor, unless that is somebody else's to do; whether somebody will come."""
    if wake_no is None:
        return False
    if not _is_turn(broadcast, wake_no):
        return True
    try:
        is_asked = wake.wake_later("drain_broadcast", {"broadcast": broadcast, "wake": wake_no}, delay)
    except Exception:  # whatever a queue's library raises
        logger.exception("broadcast %s: no worker could be asked for", broadcast)
        return False
    if is_asked:
        control.stay_awake(Broadcast(pk=broadcast), delay + AWAKE)
    return is_asked
