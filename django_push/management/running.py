"""A broadcast that is in this process's hands, and that a signal pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db import Error as DatabaseTrouble
from django.db import connections

from django_push import broadcasts
from django_push.broadcasts import rows
from django_push.management.progress import STOPPING, Watcher
from django_push.management.stopping import Stop, write_error
from django_push.models import Broadcast, BroadcastStatus, LaneStatus

if TYPE_CHECKING:
    from typing_extensions import Self

#: Why a lane is paused that Ctrl-C has paused: the same key may go on with it unasked.
BY_SIGNAL = "push_broadcast was told to stop"
#: How often it is looked whether others have ended what is left. Seconds.
LOOK = 1.0

_IN_FLIGHT = "What was in flight may have been sent; it is taken up again when its lease ends."
_STANDING = {
    BroadcastStatus.DRAFT: "It was a draft, of which nothing is sent, or has just started: see --status.",
    BroadcastStatus.SCHEDULED: "It is still planned: --pause it, or push_tick starts it.",
    BroadcastStatus.RUNNING: (
        f"{_IN_FLIGHT} It is still marked as running: --pause it, or push_tick goes on with it."
    ),
    BroadcastStatus.PAUSED: f"{_IN_FLIGHT} It is paused.",
}


class Run:
    """Has a broadcast in hand while it is entered: from before it is made until its end is told.

    ``row`` is set as soon as there is one. A signal pauses it, whatever is being done; ``tell`` says so.
    """

    def __init__(self) -> None:
        self.row: Broadcast | None = None
        self.tell: Callable[[], object] = _say_so
        self.stop = Stop(self._hear, self._pause_elsewhere, self._last_word)
        self._is_paused = False

    def of(self, row: Broadcast) -> Self:
        """Take a broadcast that there is."""
        self.row = row
        return self

    def __enter__(self) -> Self:
        self.stop.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.__exit__(*exc)

    def heed(self) -> None:
        """Pause it if a signal has asked for that, whoever sends it."""
        if self.stop.asked:
            self._pause()
            self._refresh()

    def drain(self, watcher: Watcher) -> None:
        """Send it in this process until it ends or somebody stops it."""
        self.tell = watcher.screen.stopping
        with watcher.screen:
            self._drain(watcher)
            watcher.look()
        self.tell = _say_nothing  # it has ended: there is nothing left to stop

    def _drain(self, show: Callable[[], None]) -> None:
        row = self._row

        def watch() -> None:
            if self.stop.asked:
                self._pause_once()
            show()

        while True:
            broadcasts.drain(row.pk, is_stopped=self.stop.is_asked, watch=watch)
            if self.stop.asked:
                self._pause()
            self._refresh()
            if self.stop.asked or row.status != BroadcastStatus.RUNNING:
                return
            show()
            self.stop.wait(LOOK)

    def _hear(self) -> None:
        self.tell()

    @property
    def _row(self) -> Broadcast:
        assert self.row is not None
        return self.row

    def _refresh(self) -> None:
        self._row.refresh_from_db(using=rows.database())

    def _pause_once(self) -> None:
        """Let other workers stop, too, while we wait for what is in flight."""
        if not self._is_paused:
            try:
                self._pause()
            except DatabaseTrouble:
                return  # the drainer knows what to do about it

    def _pause(self) -> None:
        broadcasts.pause(self._row, detail=BY_SIGNAL)
        self._is_paused = True

    def _pause_elsewhere(self) -> None:
        """Pause with a connection of its own: called in another thread."""
        try:
            if self.row is not None:
                self._pause_once()
        finally:
            connections.close_all()

    def _last_word(self) -> str:
        if self.row is None:
            return "Stopped at once. If --status lists it, it is a draft: nothing of it is sent."
        standing = _STANDING.get(BroadcastStatus(self.row.status), f"It is {self.row.status}.")
        again = "" if self.row.is_final else f" Go on with --resume {self.row.pk}."
        return f"Stopped at once. {standing}{again}"


def _say_so() -> None:
    write_error(STOPPING)


def _say_nothing() -> None:
    return


def was_stopped(row: Broadcast) -> bool:
    """Whether nothing but a signal to this command has paused it."""
    paused = row.lanes.filter(status=LaneStatus.PAUSED)
    return paused.exists() and not paused.exclude(pause_detail=BY_SIGNAL).exists()
