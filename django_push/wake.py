"""Asking for work later, by the dotted path in PUSH_DISPATCHER, without importing any queue."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

from django.utils.module_loading import import_string

from django_push.conf import push_settings

logger = logging.getLogger("django_push")

#: How often a process asks for a check of receipts, in seconds.
CHECK_EVERY = 60.0
#: When that runs, in seconds: the first receipts are due after 15 minutes (receipts.SCHEDULE), and by
#: then those of everything that was sent before the next check may be asked for are due as well.
CHECK_AFTER = 15 * 60 + CHECK_EVERY


class Dispatcher(Protocol):
    """What runs work later. ``payload`` is plain JSON: ids and a message, never a secret."""

    @property
    def can_defer(self) -> bool:
        """Whether a job can be made to wait. Read with False as default: older classes have none."""

    def enqueue(self, job: str, payload: dict[str, Any], *, delay: float = 0.0) -> None:
        """Run the job, named in dispatch.jobs, with the payload: now, or in another process.

        ``delay`` is in seconds, and given only where there is one. Raises ValueError if there is one
        and jobs cannot wait: nothing is run early in its place.
        """


def get_dispatcher() -> Dispatcher:
    """Return an instance of the configured dispatcher. Raises ImportError if there is none."""
    dispatcher: Dispatcher = import_string(push_settings.dispatcher)()
    return dispatcher


def wake(job: str, payload: dict[str, Any]) -> None:
    """Ask for a job as soon as may be."""
    get_dispatcher().enqueue(job, payload)


def wake_later(job: str, payload: dict[str, Any], delay: float) -> bool:
    """Ask for a job in so many seconds; return False, and ask for nothing, if jobs cannot wait."""
    dispatcher = get_dispatcher()
    if not getattr(dispatcher, "can_defer", False):
        return False
    dispatcher.enqueue(job, payload, delay=delay)
    return True


class _Throttle:
    """Lets one caller through in so many seconds, in this process."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self._next = float("-inf")

    def is_my_turn(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = now + self.seconds
            return True


_checks = _Throttle(CHECK_EVERY)


def schedule_receipt_check() -> bool:
    """Ask for a check of receipts when those of a push of this moment are due; whether it was asked for.

    Once a minute at most, as one check covers what is sent in that minute. What fails is logged: the
    pushes are out, and ``push_check_receipts`` finds their receipts later.
    """
    if not _checks.is_my_turn():
        return False
    try:
        return wake_later("check_push_receipts", {}, CHECK_AFTER)
    except Exception:
        logger.exception("The check of receipts could not be scheduled.")
        return False
