"""How token state is written: pages, locks, guarded updates, retries, and events after the commit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from django.db import IntegrityError, InternalError, OperationalError, connections, router, transaction
from django.db.models import Q, QuerySet
from django.dispatch import Signal
from django.utils import timezone as clock

from django_push.models import PushToken, TokenStatus, get_token_model
from django_push.outcomes import cut

T = TypeVar("T")

#: How many rows one statement changes at most.
PAGE = 1000
#: How often a transaction that lost a race (a deadlock, a row inserted meanwhile) is run again.
ATTEMPTS = 6
#: The same if nothing was lost, but rows that are to be locked have come up meanwhile.
OVERTAKES = 50
#: For how long the engine's transactions may stand still with their locks, where the database can tell.
STANDSTILL = 30.0


class Overtaken(Exception):
    """Another process has written between our reading and our writing: to be read again."""


def database() -> str:
    return router.db_for_write(get_token_model())


def rows() -> QuerySet[PushToken]:
    """Return all rows, where they are written, untouched by a site's own manager."""
    return get_token_model()._base_manager.using(database()).all()


def lock(pks: Sequence[int]) -> list[PushToken]:
    """Lock rows in the order of their keys, and return them as they are now.

    Once in a transaction: a second call could wait for a lower key while holding a higher one.
    """
    return list(rows().filter(pk__in=pks).order_by("pk").select_for_update()) if pks else []


def write(guard: Q, changes: Mapping[str, Any]) -> int:
    """Write columns where the guard holds; return how many rows."""
    return rows().filter(guard).update(**{"modified": clock.now(), **changes})


def status_columns(status: TokenStatus, code: str, source: str) -> dict[str, Any]:
    """Return the columns of a change of status, the monitor's among them."""
    return {
        "status": status,
        "status_changed": clock.now(),
        "status_code": cut(code),
        "status_source": source,
    }


def change(
    found: QuerySet[Any],
    guard: Q,
    changes: Callable[[], Mapping[str, Any]],
    event: Signal | None = None,
    **about: Any,
) -> int:
    """Write to those of the rows that pass the guard, page by page, and tell; return how many."""

    def write_page(pks: list[int]) -> int:
        held = rows().filter(guard, pk__in=pks).order_by("pk").select_for_update()
        keys = list(held.values_list("pk", flat=True))
        if keys:
            write(guard & Q(pk__in=keys), changes())
            if event is not None:
                announce(event, keys, **about)
        return len(keys)

    return sum(in_transaction(partial(list, pks), write_page) for pks in pages(found, guard))


def pages(found: QuerySet[Any], guard: Q | None = None) -> Iterator[list[int]]:
    """Yield the keys of the rows, a page at a time, by the literal key of the last.

    A queryset that can no longer be filtered (a slice, a union) is read once, as keys.
    """
    found = found.all().using(database())
    query = found.query
    if query.is_sliced or query.combinator or query.distinct_fields:
        keys = sorted(set(found.values_list("pk", flat=True)))
        yield from (keys[start : start + PAGE] for start in range(0, len(keys), PAGE))
        return
    found = found.filter(guard or Q()).order_by("pk")
    found.query.standard_ordering = True  # whatever reverse() has been called on
    page = found
    while pks := list(page.values_list("pk", flat=True)[:PAGE]):
        yield pks
        page = found.filter(pk__gt=pks[-1])


def in_transaction(prepare: Callable[[], Any], work: Callable[[Any], T]) -> T:
    """Prepare without locks, write in one transaction; both again if another process came between."""
    using = database()
    is_outermost = not connections[using].in_atomic_block
    for attempt in range(1, OVERTAKES + 1):
        found = prepare()
        try:
            with transaction.atomic(using=using):
                _take_write_lock(using)
                return work(found)
        except Overtaken:
            if attempt == OVERTAKES:
                raise
        except (IntegrityError, OperationalError) as error:
            # Inside somebody else's transaction a deadlock has undone that too: it is theirs to run
            # again. A row that was inserted meanwhile has undone only ours.
            mine = isinstance(error, IntegrityError) or (is_outermost and is_collision(error))
            if not mine or attempt >= ATTEMPTS:
                raise
        time.sleep(random.uniform(0, 0.02 * min(attempt, ATTEMPTS)))  # noqa: S311 - no secret
    raise AssertionError("unreachable")


#: Gone with the transaction, so right behind a pooler too. A site's own limit stays if it is shorter.
_LIMIT = """
    SELECT set_config('idle_in_transaction_session_timeout', %(limit)s, true)
    WHERE current_setting('idle_in_transaction_session_timeout')::interval
        NOT BETWEEN '1 ms' AND %(limit)s::interval
"""


@contextmanager
def brief_transaction(using: str) -> Iterator[None]:
    """Open a transaction that PostgreSQL ends if this process stands still in the middle of it.

    Others wait for its locks: without a limit, for as long as a process is frozen or its machine is
    not missed. In somebody else's transaction it is theirs to say. Raises OperationalError in the
    process that has been thrown out, as where a connection is lost in another way.
    """
    connection = connections[using]
    is_outermost = not connection.in_atomic_block and connection.get_autocommit()
    try:
        with transaction.atomic(using=using):
            if is_outermost and connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(_LIMIT, {"limit": f"{round(STANDSTILL * 1000)}ms"})
            yield
    except InternalError as error:
        if sqlstate(error) == "25P03":  # psycopg's class for this one
            raise OperationalError(*error.args) from error
        raise


def _take_write_lock(using: str) -> None:
    """On SQLite, begin with a write: a transaction that reads first cannot wait for another writer."""
    if connections[using].vendor == "sqlite":
        rows().filter(pk=-1).update(project="")


def is_collision(error: Exception) -> bool:
    """Whether the database called the transaction off for another's sake."""
    code = error.args[0] if error.args else None
    return (
        code in (1020, 1205, 1213)  # MariaDB: record changed; MySQL: lock wait timeout, deadlock
        or sqlstate(error) in ("40001", "40P01")  # PostgreSQL: serialization failure, deadlock
        or "database is locked" in str(error)  # SQLite
        or "database table is locked" in str(error)
    )


def sqlstate(error: Exception) -> str:
    """Return PostgreSQL's SQLSTATE, "" for other databases' errors."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


def can_be_stored(text: str, length: int) -> bool:
    """Whether every database takes it: PostgreSQL has no NUL, none has half a surrogate pair."""
    return len(text) <= length and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def announce(signal: Signal, pks: Sequence[int], **about: Any) -> None:
    """Send the signal for each row once the transaction has committed; free without a receiver."""
    if not pks or not signal.has_listeners(get_token_model()):
        return
    keys = list(pks)

    def tell() -> None:  # no partial: Django 5.2 asks a robust callback that fails for its name
        _send(signal, keys, about)

    transaction.on_commit(tell, using=database(), robust=True)


def _send(signal: Signal, pks: Sequence[int], about: Mapping[str, Any]) -> None:
    model = get_token_model()
    for start in range(0, len(pks), PAGE):
        page = pks[start : start + PAGE]
        found = rows().in_bulk(page)
        for pk in page:
            if pk in found:
                signal.send_robust(sender=model, token=found[pk], **about)
