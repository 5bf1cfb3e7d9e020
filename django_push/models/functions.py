"""The database's clock: the one time that guards, leases and due columns are compared by."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func
from django.utils.timezone import is_naive, make_aware


class DatabaseNow(Func):
    """Now, by the database's clock, at the start of the statement, with microseconds.

    Where the column knows no zone (MySQL, SQLite) the value is UTC, whatever the session's zone or
    USE_TZ, so that it never runs backwards at the end of summer time. SQLite has no server: its
    clock is this machine's, and its own functions stop at milliseconds, so the value is written
    here, padded to six digits because SQLite compares it as text. Never compare it with
    ``timezone.now()``.
    """

    template = "STATEMENT_TIMESTAMP()"
    output_field = DateTimeField()

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return "%s", [_utc_now().isoformat(sep=" ", timespec="microseconds")]


def database_now(using: str) -> datetime:
    """Return DatabaseNow as a value that compares rightly with columns written by it.

    One query, none on SQLite.
    """
    connection = connections[using]
    if connection.vendor == "sqlite":
        now = _utc_now()
    else:
        sql = "UTC_TIMESTAMP(6)" if connection.vendor == "mysql" else "STATEMENT_TIMESTAMP()"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {sql}")
            (now,) = cursor.fetchone()
    if connection.vendor != "postgresql" and connection.timezone is not None:
        now = make_aware(now, connection.timezone)
    return now


def database_seconds(using: str) -> float:
    """Return the database's clock in Unix seconds, for what is only compared with itself.

    One query, none on SQLite.
    """
    connection = connections[using]
    if connection.vendor == "sqlite":
        return datetime.now(timezone.utc).timestamp()
    is_mysql = connection.vendor == "mysql"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT UTC_TIMESTAMP(6)" if is_mysql else "SELECT EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP())"
        )
        (now,) = cursor.fetchone()
    return float(now.replace(tzinfo=timezone.utc).timestamp() if is_mysql else now)


def database_time(value: datetime, using: str) -> datetime:
    """Return a moment as a column written by DatabaseNow has it, so that the two compare rightly.

    A time without a zone is one of TIME_ZONE.
    """
    connection = connections[using]
    if is_naive(value):
        value = make_aware(value)
    if connection.vendor == "postgresql":
        return value.astimezone(timezone.utc)
    value = value.astimezone(timezone.utc).replace(tzinfo=None)
    return value if connection.timezone is None else make_aware(value, connection.timezone)


def instant(value: datetime, using: str) -> datetime:
    """Return a column's value in a form that orders as the database does, in Python and in SQL.

    PostgreSQL gives times in the session's zone, where an hour comes twice at the end of summer time:
    without USE_TZ they say which only by ``fold``, that comparing and writing them forgets.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return value
    zone = value.tzinfo or ZoneInfo(connection.timezone_name)
    return value.replace(tzinfo=zone).astimezone(timezone.utc)


def _utc_now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)
