import time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.db.models import Q

from django_push.models import DatabaseNow, database_now, get_token_model, instant
from django_push.tokens import apply
from django_push.tokens.writing import write
from tests.tokens.helpers import dead, fresh, register

pytestmark = pytest.mark.django_db
Tokens = get_token_model().objects
#: One o'clock, twice, in the morning that summer time ended in New York.
FIRST = datetime(2026, 11, 1, 5, 30, tzinfo=timezone.utc)
SECOND = datetime(2026, 11, 1, 6, 10, tzinfo=timezone.utc)


def test_value_and_expression_agree():
    """The value lies between two times that the database wrote, in Python and in SQL."""
    row = register("a")
    write(Q(pk=row.pk), {"registered_at": DatabaseNow()})
    time.sleep(0.002)
    between = database_now("default")
    time.sleep(0.002)
    assert fresh(row).registered_at < between
    assert Tokens.filter(registered_at__lt=between).exists()
    assert not Tokens.filter(registered_at__gte=between).exists()
    write(Q(pk=row.pk), {"registered_at": DatabaseNow()})
    assert fresh(row).registered_at > between
    assert Tokens.filter(registered_at__gt=between).exists()


def test_has_microseconds():
    """The clock does not stop at seconds or milliseconds."""
    assert any(database_now("default").microsecond % 1000 for _ in range(20))
    row = register("a")

    def written():
        write(Q(pk=row.pk), {"registered_at": DatabaseNow()})
        return fresh(row).registered_at.microsecond % 1000

    assert any(written() for _ in range(20))


def test_is_now():
    """It is the time of day: in UTC where the column knows no zone."""
    now = instant(database_now("default"), "default")
    assert abs(now.replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)) < timedelta(seconds=5)


def test_can_be_compared_in_a_filter_and_selected():
    """The expression works on either side of a comparison, and as a column."""
    register("a")
    time.sleep(0.002)
    assert Tokens.filter(registered_at__lt=DatabaseNow()).annotate(now=DatabaseNow()).get().now is not None
    assert not Tokens.filter(registered_at__gt=DatabaseNow()).exists()


def test_padding():
    """Times that end in zeros order as the others do, though SQLite compares text."""
    whole = database_now("default").replace(microsecond=0)
    times = [whole + timedelta(microseconds=us) for us in (0, 1, 10, 100_000, 900_000, 999_999)]
    rows = [register(f"t{n}") for n in range(len(times))]
    for row, at in zip(rows, times, strict=True):
        write(Q(pk=row.pk), {"registered_at": at})
    for n, at in enumerate(times):
        assert Tokens.filter(registered_at__lt=at).count() == n
        assert Tokens.filter(registered_at__lte=at).count() == n + 1


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only PostgreSQL stores instants")
class TestEndOfSummerTime:
    def read(self, at):
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::timestamptz", [at])
            (found,) = cursor.fetchone()
        return found

    def test_hour_that_comes_twice(self):
        """Times of the hour that comes twice keep their order, whatever USE_TZ and the session say."""
        assert instant(self.read(FIRST), "default") == FIRST
        assert instant(self.read(SECOND), "default") == SECOND

    def test_same_zone(self):
        """Times in one zone are compared as instants, not as what the clock on the wall said."""
        zone = ZoneInfo("America/New_York")
        first, second = (at + timedelta(minutes=n) for at, n in ((FIRST, 0), (SECOND, 0)))
        local = first.astimezone(zone), second.astimezone(zone)
        assert local[0] > local[1]
        assert instant(local[0], "default") < instant(local[1], "default")

    def test_registered_in_the_second_hour(self):
        """A token that registered in the second hour outlives a verdict on a send in the first."""
        row = register("a")
        write(Q(pk=row.pk), {"registered_at": SECOND})
        assert not apply([dead(row)], self.read(FIRST))
        write(Q(pk=row.pk), {"registered_at": FIRST})
        assert apply([dead(row)], self.read(SECOND))
