"""Which requests fail, and how: decided by share and seed, or by an exact schedule. What a fault does is in
``effects``.
"""

from __future__ import annotations

import enum
import random
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

#: The parts of the providers that can be hit. ``push`` is hit if nothing else is said.
PATHS = ("push", "receipts", "oauth")
#: The share of the requests that is hit if nothing else is said.
SHARE = 0.2
MAX_LATENCY = 86_400.0


class Fault(str, enum.Enum):
    """A way to fail. Up to ``UNAVAILABLE_HTML`` nothing is accepted; after it the pushes are out."""

    #: 429 with a Retry-After in seconds.
    RATE_LIMITED = "rate-limited"
    #: 429 with a Retry-After that is an HTTP-date.
    RATE_LIMITED_DATE = "rate-limited-date"
    #: 429 with a Retry-After that says nothing.
    RATE_LIMITED_GARBAGE = "rate-limited-garbage"
    #: 429 with a Retry-After of 10^9 seconds.
    RATE_LIMITED_HUGE = "rate-limited-huge"
    #: 429 without a Retry-After.
    RATE_LIMITED_BARE = "rate-limited-bare"
    #: 503 with the provider's own error body.
    REFUSED = "refused"
    #: 500 with the provider's own error body.
    REFUSED_500 = "refused-500"
    #: FCM's access tokens expire: 401 until a new one is bought. Expo and GCM have none.
    EXPIRED_AUTH = "expired-auth"
    #: The request is read and the connection reset.
    RESET_BEFORE = "reset-before"
    #: 503 with a proxy's HTML.
    UNAVAILABLE_HTML = "unavailable-html"
    #: The connection is reset in place of an answer.
    RESET_AFTER = "reset-after"
    #: 502 with a proxy's HTML.
    BAD_GATEWAY = "bad-gateway"
    #: Silence, until the client hangs up.
    HANG = "hang"
    #: The connection ends in the middle of the answer, before its Content-Length.
    TRUNCATED = "truncated"
    #: Half an answer, with the Content-Length of the half.
    TRUNCATED_HONEST = "truncated-honest"
    #: 200 with what is nearly JSON (for plain text: nearly a line of it).
    INVALID_JSON = "invalid-json"
    #: One ticket too few: the first is missing. An answer about one push is empty.
    SHORT = "short"
    #: One ticket too many: the first comes twice.
    LONG = "long"
    #: The answer comes a byte at a time.
    DRIP = "drip"


class Faults:
    """What goes wrong, how often, and how often it did. Thread-safe.

    ``kinds`` are names of ``Fault``, each with a share of the requests of its own if it is written
    ``KIND:SHARE``; ``share`` is split evenly among the others. ``schedule`` is exact: one kind, or None
    for a healthy answer, for each request, before chance sets in. ``limit`` is the most requests that
    are hit, ``paths`` says which parts of the providers are. A ``seed`` that is not given is made up; with
    it, the same requests in the same order are hit again. Raises ValueError.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[str] = (),
        share: float = SHARE,
        seed: int | None = None,
        limit: int | None = None,
        schedule: Iterable[str | None] = (),
        paths: Iterable[str] = ("push",),
    ) -> None:
        self.shares: Mapping[Fault, float] = _shares(_names("kinds", kinds), _share(share))
        self.seed = secrets.randbelow(2**32) if seed is None else _whole("seed", seed)
        self.limit = None if limit is None else _whole("limit", limit)
        self.schedule: Sequence[Fault | None] = tuple(
            None if name is None else _fault(name) for name in _names("schedule", schedule)
        )
        self.paths = tuple(_path(name) for name in _names("paths", paths))
        self.applied: Counter[Fault] = Counter()
        self._ahead = deque(self.schedule)
        self._chance = random.Random(self.seed)  # noqa: S311 - to be repeated, not to be secret
        self._lock = threading.Lock()

    def again(self) -> Faults:
        """Return the same faults, not begun."""
        return Faults(
            kinds=[f"{kind.value}:{share!r}" for kind, share in self.shares.items()],
            seed=self.seed,
            limit=self.limit,
            schedule=self.schedule,
            paths=self.paths,
        )

    @property
    def is_on(self) -> bool:
        """Whether a request to come may be hit."""
        with self._lock:
            return not self._is_used_up() and bool(self.shares or any(self._ahead))

    def next(self, provider: str, path: str) -> Fault | None:
        """Return what befalls the next request, and count it."""
        if path not in self.paths:
            return None
        with self._lock:
            kind = self._ahead.popleft() if self._ahead else self._drawn()
            if kind is None or self._is_used_up() or (kind is Fault.EXPIRED_AUTH and provider != "fcm"):
                return None
            self.applied[kind] += 1
            return kind

    def shown(self) -> dict[str, Any]:
        """Return what is on, and how often each was applied, as JSON can say it."""
        is_on = self.is_on
        with self._lock:
            return {
                "on": is_on,
                "kinds": {kind.value: share for kind, share in self.shares.items()},
                "seed": self.seed,
                "limit": self.limit,
                "scheduled": [kind and kind.value for kind in self._ahead],
                "paths": list(self.paths),
                "applied": {kind.value: times for kind, times in self.applied.items()},
            }

    def __str__(self) -> str:
        """Return a line for people, or "" if nothing is on."""
        if not self.is_on:
            return ""
        said = [f"{kind.value} {share:.3g}" for kind, share in self.shares.items()]
        if scheduled := len(self._ahead):
            said.append(f"{scheduled} scheduled")
        return f"{', '.join(said)} (seed {self.seed})"

    def _is_used_up(self) -> bool:
        return self.limit is not None and self.applied.total() >= self.limit

    def _drawn(self) -> Fault | None:
        """Draw once for each request, so that the sequence depends on the seed alone."""
        if not self.shares:
            return None
        drawn = self._chance.random()
        for kind, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return kind
        return None


def parse(text: str) -> tuple[Fault, float | None]:
    """Read ``KIND`` or ``KIND:SHARE``. Raises ValueError."""
    name, colon, share = text.partition(":")
    try:
        number = float(share) if colon else None
    except ValueError:
        raise ValueError(f"{share!r} is no share: give a number from 0 to 1") from None
    return _fault(name), None if number is None else _share(number)


def seconds(name: str, value: object) -> float:
    """Return a latency. Raises ValueError."""
    if not _is_number(value) or not 0 <= value <= MAX_LATENCY:
        raise ValueError(f"{name} must be a number of seconds from 0 to {MAX_LATENCY:.0f}")
    return float(value)


def _shares(names: Iterable[str], share: float) -> dict[Fault, float]:
    asked = dict(parse(name) for name in names)
    sharing = sum(own is None for own in asked.values())
    found = {kind: share / sharing if own is None else own for kind, own in asked.items()}
    if sum(found.values()) > 1 + 1e-9:
        raise ValueError("the shares must not be more than 1 together")
    return {kind: own for kind, own in found.items() if own}


def _names(what: str, value: Any) -> list[Any]:
    """Return a list of names; what came as JSON may be anything."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"{what} must be a list")
    names = list(value)
    if not all(isinstance(name, str) or (name is None and what == "schedule") for name in names):
        raise ValueError(f"{what} must be a list of names")
    return names


def _fault(name: str) -> Fault:
    try:
        return Fault(name)
    except ValueError:
        known = ", ".join(kind.value for kind in Fault)
        raise ValueError(f"{name!r} is no fault; there are {known}") from None


def _path(name: str) -> str:
    if name not in PATHS:
        raise ValueError(f"{name!r} is no path; there are {', '.join(PATHS)}")
    return name


def _share(value: object) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError("a share is a number from 0 to 1")
    return float(value)


def _whole(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
