"""Ctrl-C and SIGTERM: once asks to stop, twice stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: The exit code of a process that was stopped at once, as shells have it for Ctrl-C.
INTERRUPTED = 130
#: How often somebody who sleeps looks whether to stop. Seconds.
NAP = 0.25


class Stop:
    """Knows whether the process was asked to stop, while it is entered.

    ``on_first`` and ``on_second`` are called by the signals, so anywhere in the program: they may not
    take a lock that it may hold. After ``on_second`` the process ends.
    """

    def __init__(
        self, on_first: Callable[[], object] = lambda: None, on_second: Callable[[], object] = lambda: None
    ) -> None:
        self.on_first, self.on_second = on_first, on_second
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # nobody else may
            self._before = {name: signal.signal(name, self._handle) for name in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def is_asked(self) -> bool:
        return self.asked

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until asked to stop."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, NAP))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self.on_first()
            return
        try:
            self.on_second()
        finally:
            os._exit(INTERRUPTED)


def write_error(text: str) -> None:
    """Write a line to the standard error, from within a signal too: no buffer, no lock."""
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        return
