"""One total deadline per request.

A read timeout starts anew with every byte, so a server that drips bytes can hold a call for ever.
Here one thread per process looks at the clock for all calls and shuts the socket of one that is late.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import socket
import threading
import time
from typing import Protocol


class _HasSocket(Protocol):
    sock: socket.socket | None


class Call:
    """One request on its way: what it uses, and how far it came."""

    __slots__ = ("__weakref__", "_lock", "connection", "deadline", "expired", "written")

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        #: The connection in use; None before and after.
        self.connection: _HasSocket | None = None
        #: Whether a byte of the request itself was given to the socket.
        self.written = False
        self.expired = False
        self._lock = threading.Lock()

    @property
    def remaining(self) -> float:
        """The seconds left, never less than a thousandth."""
        return max(self.deadline - time.monotonic(), 0.001)

    def finish(self) -> None:
        """Let go of the connection, so that a late watchdog cannot shut it for its next user."""
        with self._lock:
            self.connection = None

    def expire(self) -> None:
        """Shut the socket in use; whoever reads or writes it sees its end at once."""
        with self._lock:
            connection = self.connection
            if connection is None:
                return
            self.expired = True
            if connection.sock is not None:
                # The base class's method: an SSLSocket's own one tears its state from under a reader.
                with contextlib.suppress(OSError, ValueError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class Watchdog:
    """Expires the calls given to it when their deadline comes."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._calls: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._pid = 0

    def watch(self, call: Call) -> None:
        """Look after a call until it has finished or is late."""
        with self._wake:
            if self._pid != os.getpid():  # the first call of this process, maybe after a fork
                self._pid = os.getpid()
                self._calls = []
                threading.Thread(target=self._run, name="django-push-deadlines", daemon=True).start()
            heapq.heappush(self._calls, (call.deadline, next(self._order), call))
            if self._calls[0][2] is call:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._calls:
                    self._wake.wait()
                deadline, _, call = self._calls[0]
                wait = deadline - time.monotonic()
                if wait > 0:
                    self._wake.wait(wait)
                    continue
                heapq.heappop(self._calls)
            call.expire()


watchdog = Watchdog()
if hasattr(os, "register_at_fork"):
    # A lock that another thread held at the fork would stay locked in the child.
    os.register_at_fork(after_in_child=watchdog.__init__)  # type: ignore[misc]
