"""When a person should look: the breaker's verdicts, and the waits before a batch is sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_push.broadcasts.breaker import BAD, LEAST, SHARE, describe, verdict
from django_push.broadcasts.results import FIRST_WAIT, LAST_WAIT, backoff
from django_push.models import COUNTED, PauseReason

counts = st.dictionaries(st.sampled_from(COUNTED), st.none() | st.integers(0, 2000))
DEAD, REFUSED = PauseReason.DEAD_TOKENS, PauseReason.REFUSED


@given(counts, st.sampled_from([1, LEAST]))
def test_law(found, least):
    """It trips if and only if a reason has enough verdicts, and more than a fifth of all."""
    total = sum(n or 0 for n in found.values())
    bad = {reason: sum(found.get(str(o)) or 0 for o in outcomes) for reason, outcomes in BAD.items()}
    expected = [reason for reason, n in bad.items() if n >= least and n > SHARE * total]
    assert (expected[0] if expected else None) == verdict(found, least=least)


@given(counts, st.integers(1, 5000))
def test_accepted_calm_it(found, more):
    """It does not trip for what was accepted besides."""
    if verdict(found, least=LEAST) is None:
        found["accepted"] = (found.get("accepted") or 0) + more
        assert verdict(found, least=LEAST) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, None),
        ({"accepted": 10_000}, None),
        ({"unregistered": 199}, None),
        ({"unregistered": 200}, DEAD),
        ({"unregistered": 200, "accepted": 800}, None),
        ({"unregistered": 201, "accepted": 799}, DEAD),
        ({"unregistered": 100, "invalid_token": 60, "provider_setup": 41, "accepted": 700}, DEAD),
        ({"message_rejected": 150, "rejected": 51, "accepted": None}, REFUSED),
        ({"sender_mismatch": 1000, "rate_limited": 1000, "unavailable": 1000, "not_sent": 1000}, None),
    ],
)
def test_verdicts(found, expected):
    """More than a fifth of the verdicts, and 200 at least; what says nothing of a token is not bad."""
    assert expected == verdict(found, least=LEAST)


def test_words():
    """How many of how many."""
    found = {"unregistered": 30, "provider_setup": 1, "rejected": 9, "accepted": 60}
    assert (describe(found, DEAD), describe(found, REFUSED)) == ("31 of 100", "9 of 100")


@given(st.integers(1, 10_000))
def test_backoff(times):
    """Waits double from the first to the last, and are spread by half."""
    least = min(FIRST_WAIT * 2 ** min(times - 1, 50), LAST_WAIT)
    assert least <= backoff(times) <= 1.5 * least


def test_backoff_is_spread():
    """Batches that failed together do not come back together."""
    assert len({backoff(1) for _ in range(20)}) > 10
