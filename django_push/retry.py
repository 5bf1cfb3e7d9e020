"""May it be sent again, and after how long. Pure: no clock of its own, no sleep."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from django_push.outcomes import Ticket

#: No provider asks for a longer wait in earnest; a longer one is read as this. Seconds.
MAX_RETRY_AFTER = 86_400.0


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for: whole seconds or an HTTP-date.

    None for a missing or unreadable header; a date in the past is 0.
    """
    text = (value or "").strip()
    if number := re.match(r"([0-9]{1,12})[0-9]*(?:\.[0-9]+)?\s*(?:,|$)", text):  # a list: the first
        return min(float(number[1]) + ("." in number[0]), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
        at = at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at
        seconds = (at - (now or datetime.now(timezone.utc))).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long one call may go on sending again.

    ``budget`` is the seconds from the first send within which a retry must start; ``attempts`` the
    most times one push is tried; ``base`` the first backoff, doubled at each attempt up to ``most``.
    """

    budget: float = 8.0
    attempts: int = 3
    base: float = 1.0
    most: float = 32.0
    jitter: Callable[[], float] = random.random

    def delay(self, ticket: Ticket, *, attempt: int, elapsed: float) -> float | None:
        """Return the seconds to wait before attempt ``attempt + 1``, or None to stop here.

        The provider's Retry-After is a least, never shortened. Google asks for a backoff of at least
        a second, doubled each time, with a random part for each message.
        """
        if not ticket.outcome.is_retryable or attempt >= self.attempts:
            return None
        backoff = min(self.base * 2.0 ** min(attempt - 1, 60), self.most) * (1 + self.jitter() / 2)
        wait = max(ticket.retry_after or 0.0, backoff)
        return wait if elapsed + wait <= self.budget else None


#: For a call inside a web request.
DEFAULT_POLICY = RetryPolicy()
