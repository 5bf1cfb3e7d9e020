"""Ctrl-C and SIGTERM: once asks to stop, twice stops at once."""

from __future__ import annotations

import os
import signal
import sys
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
#: What the last act may take. Seconds.
LAST_WORD = 3.0
#: How often somebody who sleeps looks whether to stop. Seconds.
NAP = 0.25


class Stop:
    """Knows whether the process was asked to stop, while it is entered.

    ``on_first`` is called by the signal, so anywhere in the program: it may not take a lock that that may
    hold. ``last_act`` is called by the second signal, in a thread of its own, and has LAST_WORD seconds;
    then the process ends with ``last_word``. A third ends it without.
    """

    def __init__(
        self,
        on_first: Callable[[], object] = lambda: None,
        last_act: Callable[[], object] = lambda: None,
        last_word: Callable[[], str] = lambda: "Stopped at once.",
    ) -> None:
        self.on_first, self.last_act, self.last_word = on_first, last_act, last_word
        self.asked = self.is_ending = False
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
        elif not self.is_ending:
            self.is_ending = True  # the program goes on meanwhile: it may be in a transaction
            threading.Thread(target=self._end, daemon=True).start()
        else:
            os._exit(INTERRUPTED)

    def _end(self) -> None:
        act = threading.Thread(target=self.last_act, daemon=True)
        act.start()
        act.join(LAST_WORD)
        write_error(f"\n{self.last_word()}")
        os._exit(INTERRUPTED)


def write_error(text: str) -> None:
    """Write a line to the standard error, from within a signal too: no buffer, no lock."""
    if sys.__stderr__ is None:  # it was closed at the start, and 2 is the number of something else by now
        return
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        return
