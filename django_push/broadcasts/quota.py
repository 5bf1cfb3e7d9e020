"""What a lane may send now: within the quota of its alias, and the rate of its broadcast."""

from __future__ import annotations

import time

from django_push.broadcasts import rates
from django_push.broadcasts.rates import Limit, Reservation
from django_push.handler import Channel
from django_push.models import Broadcast

#: How many tokens are claimed at once, unless one request of the backend takes more.
BATCH = 500
#: How often is looked for what is seldom there: batches that are due again, a block. Seconds.
LOOK = 1.0
#: By how much the clocks of the database and of this process may differ within a wait. Seconds.
SLACK = 0.05


class Every:
    """Says yes once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.said_at = float("-inf")

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self.said_at < self.seconds:
            return False
        self.said_at = now
        return True

    def reset(self) -> None:
        """Say yes the next time."""
        self.said_at = float("-inf")


class Quota:
    """One drainer's dealings with the limits. ``size`` is how many tokens to claim at once."""

    def __init__(self, broadcast: Broadcast, channel: Channel) -> None:
        backend = channel.backend
        self.limits = [Limit(backend.alias, backend.broadcast_rate, backend.broadcast_ramp)]
        if broadcast.rate is not None:
            self.limits.append(Limit(broadcast.source, broadcast.rate))
        known = [limit.rate for limit in self.limits if limit.rate is not None]
        most = broadcast.batch_size or max(BATCH, backend.recipients_per_request)
        #: No more than a second's quota.
        self.size = max(1, min([most, *map(int, known)]))
        self.is_limited = bool(known)
        self.reserved: list[Reservation] = []
        #: When what is reserved may be used, by the monotonic clock.
        self.usable_at = 0.0
        #: Without a limit only a provider's block is looked for, and not each time.
        self.is_turn_of_block = Every(LOOK)

    def wait(self) -> float:
        """Reserve for a batch, if that has not been done; return the seconds until it may be sent."""
        if not self.is_limited and not self.is_turn_of_block():
            return 0.0
        if self.reserved:
            if rates.held_for(self.limits[0]) > self._left + SLACK:
                # Its moment lies within a block, and only the alias is ever blocked: get in line behind
                # that. It is not given back, or all who do this would get the same moment.
                self.reserved[0] = rates.take(self.limits[0], self.size)
                self.usable_at = max(self.usable_at, time.monotonic() + self.reserved[0].wait)
            return self._left
        self.reserved = [rates.take(limit, self.size) for limit in self.limits]
        wait = max(reservation.wait for reservation in self.reserved)
        self.usable_at = time.monotonic() + wait
        return wait

    @property
    def _left(self) -> float:
        return max(0.0, self.usable_at - time.monotonic())

    def give_back(self, count: int) -> None:
        """Return what was reserved for so many tokens; the reservation is used."""
        taken, self.reserved = self.reserved, []
        for limit, reservation in zip(self.limits, taken, strict=False):  # perhaps none
            rates.give_back(limit, count, reservation)

    def block(self, seconds: float) -> None:
        """Let nobody send through the alias for so long."""
        rates.block(self.limits[0].key, seconds)
        self.is_turn_of_block.reset()
