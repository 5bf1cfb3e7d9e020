"""One total deadline per request.

A read timeout starts anew with every byte, so a server that drips bytes can hold a call for ever.
Here one thread per process looks at the clock for all calls and shuts the socket of one that is late.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from typing import Any


class Call:
    """One request on its way: what it uses, and how far it came."""

    __slots__ = ("_lock", "_sock", "deadline", "expired", "written")

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        #: Whether a byte of the request itself was given to the socket.
        self.written = False
        self.expired = False
        self._sock: Any = None
        self._lock = threading.Lock()

    @property
    def remaining(self) -> float:
        """The seconds left, never less than a thousandth."""
        return max(self.deadline - time.monotonic(), 0.001)

    def uses(self, sock: Any) -> None:
        """Say which socket to shut. The connection may let go of it while its reply is still read."""
        with self._lock:
            self._sock = sock
            if self.expired:
                _shut(sock)

    def finish(self) -> None:
        """Let go of the socket, so that a late watchdog cannot shut it for its next user."""
        with self._lock:
            self._sock = None
            self.deadline = math.inf

    def expire(self) -> None:
        """Shut the socket in use; whoever reads or writes it sees its end at once."""
        with self._lock:
            if self.deadline < math.inf:
                self.expired = True
                _shut(self._sock)


def _shut(sock: Any) -> None:
    # TLS inside the TLS of a proxy is no socket, but has one.
    raw = sock if isinstance(sock, socket.socket) else getattr(sock, "socket", None)
    if raw is not None:
        # The base class's method: an SSLSocket's own one tears its state from under a reader.
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(raw, socket.SHUT_RDWR)


class Watchdog:
    """Expires the calls given to it when their deadline comes."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._calls: set[Call] = set()
        self._is_running = False
        self._looks_at = math.inf

    def watch(self, call: Call) -> None:
        """Look after a call until it is late or forgotten."""
        with self._wake:
            if not self._is_running:
                threading.Thread(target=self._run, name="django-push-deadlines", daemon=True).start()
                self._is_running = True
            self._calls.add(call)
            # Deadlines mostly come in order, so the thread is seldom woken for a new one.
            if call.deadline < self._looks_at:
                self._looks_at = call.deadline
                self._wake.notify()

    def forget(self, call: Call) -> None:
        """End the watch over a call that has been answered."""
        call.finish()
        with self._wake:
            self._calls.discard(call)

    def _run(self) -> None:
        while True:
            with self._wake:
                now = time.monotonic()
                late = [call for call in self._calls if call.deadline <= now]
                self._calls.difference_update(late)
                self._looks_at = min((call.deadline for call in self._calls), default=math.inf)
                if not late:
                    self._wake.wait(None if self._looks_at == math.inf else self._looks_at - now)
            for call in late:
                call.expire()


watchdog = Watchdog()
if hasattr(os, "register_at_fork"):
    # The child has no such thread, and a lock that was held at the fork would stay locked in it.
    os.register_at_fork(after_in_child=watchdog.__init__)  # type: ignore[misc]
