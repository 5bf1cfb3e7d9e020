"""One quota for all processes: reservations as arithmetic, in any order of any processes, then as a row."""

import itertools

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from django_push.broadcasts import rates
from django_push.broadcasts.rates import RAMP_FROM, RAMP_IDLE, Bucket, Limit, reserved
from django_push.models import RateBucket

#: Seconds between two reservations, of whichever processes.
pauses = st.just(0.0) | st.floats(0, 3) | st.floats(0, 200)
sizes = st.integers(1, 200)
limits = st.builds(Limit, st.just("alias"), st.floats(1, 5000), st.just(0.0) | st.floats(0.1, 120))
START = 1_700_000_000.0
#: What floats of today's Unix seconds cannot tell apart.
TINY = 1e-5


def sends(limit, asked):
    """Return when each reservation may be sent, and how many tokens it is for."""
    bucket, now, found = Bucket(), START, []
    for pause, count in asked:
        now += pause
        bucket, wait = reserved(bucket, limit, count, now)
        assert wait >= 0
        found.append((now + wait, count))
    return found


@given(limits, st.lists(st.tuples(pauses, sizes), max_size=40))
def test_any_second(limit, asked):
    """In no second more is sent than the rate and one batch, however many reserve and whenever."""
    found = sends(limit, asked)
    largest = max((count for _, count in found), default=0)
    for start, _ in found:
        inside = sum(count for at, count in found if start <= at < start + 1)
        assert inside <= limit.rate * (1 + TINY) + largest + limit.rate * TINY


@given(limits, st.lists(st.tuples(pauses, sizes), max_size=40))
def test_in_order(limit, asked):
    """Who reserves first sends first, and nobody while another's share is not over."""
    found = sends(limit, asked)
    for (earlier, count), (later, _) in itertools.pairwise(found):
        assert later - earlier >= count / limit.rate - TINY


@given(st.floats(1, 5000), st.lists(sizes, min_size=1, max_size=40))
def test_nothing_is_wasted(rate, counts):
    """Those who wait use the whole rate: all have been sent when the rate says so, and no later."""
    found = sends(Limit("alias", rate), [(0.0, count) for count in counts])
    assert found[-1][0] - START == pytest.approx(sum(counts[:-1]) / rate, abs=1e-3)


@given(st.floats(10, 5000), st.floats(1, 120), st.lists(sizes, min_size=2, max_size=40))
def test_ramp(rate, ramp, counts):
    """From rest the rate grows with time, from a tenth, and is whole at the ramp's end."""
    limit = Limit("alias", rate, ramp)
    found = sends(limit, [(0.0, count) for count in counts])
    for (at, count), (following, _) in itertools.pairwise(found):
        share = min(1.0, max(RAMP_FROM, (at - START) / ramp))
        assert following - at == pytest.approx(count / (rate * share), rel=1e-3, abs=1e-4)


def test_ramp_begins_anew():
    """After a minute without use the ramp begins anew; after less it goes on."""
    limit, used = Limit("alias", 100.0, 60.0), Bucket(START, 0.0, START - 300)
    assert reserved(used, limit, 100, START + 10)[0].spoken_for == pytest.approx(START + 11)
    late = START + RAMP_IDLE + 1
    assert reserved(used, limit, 100, late)[0].spoken_for == pytest.approx(late + 10)


@given(limits | st.just(Limit("alias")), st.floats(-50, 50), st.floats(-50, 50), sizes)
def test_blocks(limit, spoken_for, blocked, count):
    """Nothing is sent before the time that the provider has asked for."""
    bucket = Bucket(START + spoken_for, START + blocked, START - 500)
    after, wait = reserved(bucket, limit, count, START)
    assert START + wait >= bucket.blocked_until - TINY
    assert after.blocked_until == bucket.blocked_until
    if limit.rate is not None:
        assert START + wait >= bucket.spoken_for - TINY


@given(st.integers(1, 10**6))
def test_no_limit(count):
    """Without a rate nobody waits, and nothing is written."""
    assert (Bucket(), 0.0) == reserved(Bucket(), Limit("alias"), count, START)


@pytest.mark.django_db
class TestRow:
    """The bucket in the database."""

    def test_shared(self):
        """A second reservation waits for the first, whoever makes it."""
        limit = Limit("shared", 10.0)
        assert rates.take(limit, 100).wait == 0.0
        assert rates.take(limit, 100).wait == pytest.approx(10, abs=1)
        assert rates.take(limit, 1).wait == pytest.approx(20, abs=1)
        assert rates.take(Limit("another", 10.0), 1).wait == 0.0

    def test_given_back(self):
        """What is given back may be reserved again."""
        limit = Limit("back", 10.0)
        rates.take(limit, 1000)
        rates.give_back(limit, 1000)
        assert rates.take(limit, 1).wait == pytest.approx(0, abs=1)

    def test_blocked(self):
        """A block holds everybody back, with or without a rate; the longest counts, and is no one else's."""
        rates.block("blocked", 30)
        rates.block("blocked", 5)
        for limit in (Limit("blocked"), Limit("blocked", 1000.0)):
            assert rates.held_for(limit) == pytest.approx(30, abs=1)
            assert rates.take(limit, 1).wait == pytest.approx(30, abs=1)
        assert rates.held_for(Limit("unblocked")) == 0.0

    def test_unlimited(self):
        """Without a rate a reservation writes nothing."""
        with CaptureQueriesContext(connection) as queries:
            assert rates.take(Limit("free"), 10**6).wait == 0.0
            rates.give_back(Limit("free"), 10)
        assert [query["sql"].split()[0] for query in queries] == ["SELECT"]
        assert not RateBucket.objects.exists()

    def test_few_queries(self):
        """A reservation is one short transaction."""
        limit = Limit("few", 1000.0)
        rates.take(limit, 1)
        with CaptureQueriesContext(connection) as queries:
            rates.take(limit, 1)
        words = [query["sql"].split()[0] for query in queries]
        assert words.count("UPDATE") == 2
        assert words.count("INSERT") == 0
