"""A broadcast that is sent in this process, and that a signal pauses."""

from __future__ import annotations

from collections.abc import Callable

from django.db import Error as DatabaseTrouble
from django.db import connections

from django_push import broadcasts
from django_push.broadcasts import rows
from django_push.management.stopping import Stop
from django_push.models import Broadcast, BroadcastStatus, LaneStatus

#: Why a lane is paused that Ctrl-C has paused: the same key may go on with it unasked.
BY_SIGNAL = "push_broadcast was told to stop"
#: How often it is looked whether others have ended what is left. Seconds.
LOOK = 1.0


class Run:
    """Sends a broadcast in this process until it ends or somebody stops it."""

    def __init__(self, row: Broadcast, tell: Callable[[], object]) -> None:
        self.row = row
        self.stop = Stop(on_first=tell, last_act=self._pause_elsewhere, last_word=self._last_word)
        self.is_paused = False

    def drain(self, show: Callable[[], None]) -> None:
        def watch() -> None:
            if self.stop.asked:
                self._pause_once()
            show()

        while True:
            broadcasts.drain(self.row.pk, is_stopped=self.stop.is_asked, watch=watch)
            if self.stop.asked:
                self._pause()
            self.row.refresh_from_db(using=rows.database())
            if self.stop.asked or self.row.status != BroadcastStatus.RUNNING:
                return
            show()
            self.stop.wait(LOOK)

    def _pause_once(self) -> None:
        """Let other workers stop, too, while we wait for what is in flight."""
        if not self.is_paused:
            try:
                self._pause()
            except DatabaseTrouble:
                return  # the drainer knows what to do about it

    def _pause(self) -> None:
        broadcasts.pause(self.row, detail=BY_SIGNAL)
        self.is_paused = True

    def _pause_elsewhere(self) -> None:
        """Pause with a connection of its own: called in another thread."""
        try:
            if not self.is_paused:
                self._pause()
        finally:
            connections.close_all()

    def _last_word(self) -> str:
        running = "It is still marked as running: --pause it, or push_tick goes on with it."
        return (
            "Stopped at once. What was in flight may have been sent; it is taken up again when its lease "
            f"ends. {'It is paused.' if self.is_paused else running} Go on with --resume {self.row.pk}."
        )


def was_stopped(row: Broadcast) -> bool:
    """Whether nothing but a signal to this command has paused it."""
    paused = row.lanes.filter(status=LaneStatus.PAUSED)
    return paused.exists() and not paused.exclude(pause_detail=BY_SIGNAL).exists()
