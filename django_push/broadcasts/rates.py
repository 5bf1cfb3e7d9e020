"""How fast an alias may be sent to: one quota for all processes, kept in one row (GCRA).

A process reserves, then waits for as long as it was told to. A provider's 429 about the whole project
holds everybody back, and so does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from django.db.models import F, QuerySet
from django.db.models.functions import Greatest

from django_push.broadcasts.rows import again_if_lost, database
from django_push.models import RateBucket, database_seconds
from django_push.tokens.writing import brief_transaction

#: A ramp begins with this share of the rate.
RAMP_FROM = 0.1
#: Seconds of today that a database may not tell apart.
_SAME = 1e-5
#: After so long without use the ramp begins anew. Seconds.
RAMP_IDLE = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota: ``rate`` in tokens per second (None: no limit), reached within ``ramp`` seconds."""

    key: str
    rate: float | None = None
    ramp: float = 0.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """The row as a value."""

    spoken_for: float = 0.0
    blocked_until: float = 0.0
    busy_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Quota that was taken: the seconds to wait for it, for how many tokens, at how many seconds each."""

    wait: float
    count: int = 0
    each: float = 0.0
    before: Bucket = Bucket()
    after: Bucket = Bucket()


def reserved(bucket: Bucket, limit: Limit, count: int, now: float) -> tuple[Bucket, float]:
    """Return the bucket with a reservation for ``count`` tokens, and the seconds to wait for it. Pure."""
    if limit.rate is None:
        return bucket, max(0.0, bucket.blocked_until - now)
    start = max(bucket.spoken_for, bucket.blocked_until, now)
    since = bucket.busy_since
    if now - bucket.spoken_for > RAMP_IDLE:
        since = start
    seconds = count / _rate(limit, start - since)
    return Bucket(start + seconds, bucket.blocked_until, since), start - now


def _rate(limit: Limit, busy_for: float) -> float:
    """Return the rate after so many seconds of use."""
    rate = limit.rate or 1.0
    if limit.ramp and busy_for < limit.ramp:
        rate *= max(RAMP_FROM, busy_for / limit.ramp)
    return rate


def take(limit: Limit, count: int) -> Reservation:
    """Reserve quota for ``count`` tokens, which may be given back."""
    if limit.rate is None:
        return Reservation(held_for(limit))

    def write(bucket: Bucket, now: float) -> tuple[Bucket, Reservation]:
        after, wait = reserved(bucket, limit, count, now)
        each = (after.spoken_for - now - wait) / max(1, count)
        return after, Reservation(wait, count, each, bucket, after)

    return _change(limit.key, write)


def give_back(limit: Limit, count: int, taken: Reservation | None = None) -> None:
    """Return quota that was reserved and is not needed; a negative count takes more.

    ``taken`` is the reservation: on a ramp it is what tells how much it was.
    """
    if limit.rate is None or not count:
        return

    def put_back(bucket: Bucket, now: float) -> tuple[Bucket, None]:
        return returned(bucket, limit, count, taken), None

    _change(limit.key, put_back)


def returned(bucket: Bucket, limit: Limit, count: int, taken: Reservation | None) -> Bucket:
    """Return the bucket with ``count`` tokens of a reservation given back. Pure."""
    if taken is None:
        each = 1 / _rate(limit, bucket.spoken_for - bucket.busy_since)
    elif count == taken.count and abs(bucket.spoken_for - taken.after.spoken_for) < _SAME:
        return Bucket(taken.before.spoken_for, bucket.blocked_until, taken.before.busy_since)
    else:
        each = taken.each
    return Bucket(bucket.spoken_for - count * each, bucket.blocked_until, bucket.busy_since)


def block(key: str, seconds: float) -> None:
    """Let nobody send through the alias for so long: the provider has asked for it."""
    until = database_seconds(database()) + seconds
    _create(key)
    _rows().filter(key=key).update(blocked_until=Greatest(F("blocked_until"), until))


def held_for(limit: Limit) -> float:
    """Return for how many seconds the provider has asked not to be sent to; 0 for none."""
    until = _rows().filter(key=limit.key).values_list("blocked_until", flat=True).first()
    return max(0.0, until - database_seconds(database())) if until else 0.0


def _change(key: str, change: Callable[[Bucket, float], tuple[Bucket, T]]) -> T:
    """Read and write a row; whoever else wants it waits."""
    return again_if_lost(lambda: _read_and_write(key, change))


def _read_and_write(key: str, change: Callable[[Bucket, float], tuple[Bucket, T]]) -> T:
    using = database()
    rows = _rows().filter(key=key)
    with brief_transaction(using):
        # Written first: that locks the row on every database, SQLite's whole file included.
        if not rows.update(busy_since=F("busy_since")):
            _create(key)
            rows.update(busy_since=F("busy_since"))
        now = database_seconds(using)
        found = Bucket(*rows.values_list("spoken_for", "blocked_until", "busy_since").get())
        bucket, told = change(found, now)
        rows.update(spoken_for=bucket.spoken_for, busy_since=bucket.busy_since)
    return told


def _create(key: str) -> None:
    _rows().bulk_create([RateBucket(key=key)], ignore_conflicts=True)


def _rows() -> QuerySet[RateBucket]:
    return RateBucket.objects.using(database())
