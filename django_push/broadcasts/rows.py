"""The engine's rows: where they are, their clock, their locks, and transactions that lose a race."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from django.db import IntegrityError, OperationalError, connections, router
from django.db.models import F, QuerySet

from django_push.models import (
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    BroadcastQuerySet,
    DatabaseNow,
    database_now,
    instant,
)
from django_push.tokens.writing import is_collision

#: How often a transaction that lost a race is run again.
ATTEMPTS = 10

T = TypeVar("T")


def database() -> str:
    """Return the database of the engine's rows, which must be that of the tokens (a check says so)."""
    return router.db_for_write(Broadcast)


def broadcasts() -> BroadcastQuerySet:
    return Broadcast.objects.using(database())


def lanes() -> QuerySet[BroadcastLane]:
    return BroadcastLane.objects.using(database())


def batches() -> QuerySet[BroadcastBatch]:
    return BroadcastBatch.objects.using(database())


def moment() -> datetime:
    """Return the database's time in the form in which it compares rightly. One query, none on SQLite."""
    return instant(database_now(database()), database())


def lock_broadcast(pk: int) -> Broadcast | None:
    """Lock a broadcast, and return it as it is now; None if it is gone. First in a transaction.

    Whoever changes the status of a broadcast or of its lanes does this first, so that they take turns.
    A claim locks its lane alone, and comes before or after the lane's change.
    """
    found = broadcasts().filter(pk=pk)
    if not found.update(protocol=F("protocol")):  # a lock on every database
        return None
    return found.first()


def lock_lanes(found: QuerySet[BroadcastLane]) -> list[BroadcastLane]:
    """Lock lanes in the order of their keys, and return them as they are now.

    First in a transaction, or after ``lock_broadcast``. SQLite has no lock of a row: a write takes that
    of the file, which a transaction that has read first could not wait for.
    """
    connection = connections[database()]
    if not connection.features.has_select_for_update:
        found.update(cursor=F("cursor"))
        return list(found.order_by("pk"))
    # On PostgreSQL, let batches of a lane be inserted meanwhile by who has claimed them.
    return list(found.order_by("pk").select_for_update(no_key=connection.vendor == "postgresql"))


def lock_lane(pk: int) -> tuple[BroadcastLane, datetime] | None:
    """Lock a lane, and return it with the database's time; None if it is gone. First in a transaction.

    The time is that of the asking, so never later than what is read afterwards.
    """
    connection = connections[database()]
    found = lanes().filter(pk=pk)
    if not connection.features.has_select_for_update:
        now = moment()
        row = next(iter(lock_lanes(found)), None)
        return None if row is None else (row, now)
    timed = found.annotate(now=DatabaseNow())
    row = timed.select_for_update(no_key=connection.vendor == "postgresql").first()
    return None if row is None else (row, instant(row.now, connection.alias))


def again_if_lost(work: Callable[[], T]) -> T:
    """Run a transaction; again if the database called it off for another's sake."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except (IntegrityError, OperationalError) as error:
            if attempt == ATTEMPTS or not is_collision(error):
                raise
        time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 - no secret
    raise AssertionError("unreachable")
