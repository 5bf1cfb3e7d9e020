"""When it may be sent again, and after how long."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_push.outcomes import Outcome, Target, Ticket
from django_push.retry import DEFAULT_POLICY, MAX_RETRY_AFTER, RetryPolicy, parse_retry_after
from tests import strategies

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def ticket(outcome=Outcome.UNAVAILABLE, retry_after=None):
    return Ticket(target=Target("x"), outcome=outcome, retry_after=retry_after)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("007", 7.0),
        ("86400", 86400.0),
        ("86401", 86400.0),
        ("9" * 400, 86400.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("Sun, 01 Mar 2026 12:00:30 +9999999999", None),
        ("Sun, 99 Mar 2026 12:00:30 GMT", None),
        (None, None),
        ("", None),
        (" ", None),
        ("soon", None),
        ("-5", None),
        ("1.5", 2.0),
        ("1e3", None),
        ("+5", None),
        ("٣٣", None),
        ("²", None),
        ("nan", None),
        ("inf", None),
        ("5, 10", 5.0),
        ("\0", None),
    ],
)
def test_retry_after(value, seconds):
    """Seconds and dates are read; the past is now, garbage is nothing, and a day is the most."""
    assert parse_retry_after(value, now=NOW) == seconds


@given(strategies.retry_afters)
def test_retry_after_is_total(value):
    """Any header is a delay of at most a day, or nothing."""
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@given(st.integers(0, 10**6))
def test_both_forms_say_the_same(seconds):
    """A date so many seconds ahead is so many seconds."""
    date = (NOW + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert parse_retry_after(date, now=NOW) == parse_retry_after(str(seconds), now=NOW)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_cannot_double_is_sent_again(outcome):
    """A refusal for now and what was never sent may be sent again; UNKNOWN never by itself."""
    again = {Outcome.RATE_LIMITED, Outcome.UNAVAILABLE, Outcome.NOT_SENT}
    assert (DEFAULT_POLICY.delay(ticket(outcome), attempt=1, elapsed=0) is not None) == (outcome in again)


@pytest.mark.parametrize(
    ("attempt", "least"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 32.0), (5000, 32.0)]
)
def test_backoff_doubles(attempt, least):
    """The wait starts at a second and doubles up to its most, with up to half of it on top."""
    for share in (0.0, 0.999):
        policy = RetryPolicy(budget=1000.0, attempts=10_000, jitter=lambda share=share: share)
        wait = policy.delay(ticket(), attempt=attempt, elapsed=0)
        assert wait == pytest.approx(least * (1 + share / 2))


@pytest.mark.parametrize(("retry_after", "expected"), [(None, 1.0), (0.0, 1.0), (0.5, 1.0), (5.0, 5.0)])
def test_retry_after_is_a_least(retry_after, expected):
    """The provider's wish lengthens the wait and never shortens it."""
    policy = RetryPolicy(jitter=lambda: 0.0)
    assert policy.delay(ticket(retry_after=retry_after), attempt=1, elapsed=0) == expected


def test_the_end():
    """Neither the attempts nor the budget are exceeded."""
    policy = RetryPolicy(budget=8.0, attempts=3, jitter=lambda: 0.0)
    assert policy.delay(ticket(), attempt=2, elapsed=6.0) == 2.0
    assert policy.delay(ticket(), attempt=2, elapsed=6.1) is None
    assert policy.delay(ticket(), attempt=3, elapsed=0) is None
    assert policy.delay(ticket(retry_after=9.0), attempt=1, elapsed=0) is None
    assert RetryPolicy(budget=0).delay(ticket(), attempt=1, elapsed=0) is None


@given(
    strategies.outcomes,
    st.none() | st.floats(0, MAX_RETRY_AFTER),
    st.integers(1, 100),
    st.floats(0, 10**6),
    st.floats(0, 10**6),
)
def test_delays_are_within_the_budget(outcome, retry_after, attempt, elapsed, budget):
    """A delay keeps the provider's least and ends within the budget."""
    policy = RetryPolicy(budget=budget, attempts=50)
    wait = policy.delay(ticket(outcome, retry_after), attempt=attempt, elapsed=elapsed)
    if wait is not None:
        assert outcome.is_retryable
        assert attempt < 50
        assert wait >= max(retry_after or 0, 1.0)
        assert elapsed + wait <= budget
