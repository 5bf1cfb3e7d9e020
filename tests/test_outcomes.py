"""The words for what became of each token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_push import outcomes
from django_push.outcomes import Outcome, PushResult, Target, TargetKind, Ticket, TokenChanges, cut, mask
from tests import strategies


def ticket(outcome=Outcome.ACCEPTED, value="token", **more):
    return Ticket(target=Target(value, 1), outcome=outcome, backend="default", **more)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_an_outcome_does(outcome):
    """Two outcomes deactivate, three may be sent again, and none does both."""
    assert outcome.is_dead == (outcome in {Outcome.UNREGISTERED, Outcome.INVALID_TOKEN})
    assert outcome.is_retryable == (outcome in {Outcome.RATE_LIMITED, Outcome.UNAVAILABLE, Outcome.NOT_SENT})
    assert f"{outcome}" == str(outcome) == outcome.value


# --- masking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ExponentPushToken[abcdefghijklmnopqrstuv]", "ExponentPushToken[abcde…tuv]"),
        ("ExpoPushToken[abcdefghijklmnopqrstuv]", "ExpoPushToken[abcde…tuv]"),
        ("c1d2e3f4:APA91b" + "x" * 100, "c1d2e3…xxxx"),
        ("secret" * 20 + "[", "secret…ret["),
        ("abc", "…"),
        ("abcd", "a…d"),
        ("", "…"),
        ("\n\ud800\0abcdefghij", "   …hij"),
    ],
)
def test_mask(value, expected):
    """The kind of a token and its ends are shown, in one printable line."""
    assert mask(value) == expected


@given(strategies.tokens)
def test_masking_shows_at_most_half(value):
    """Of what is secret in a token at most half is shown, and never more than ten characters."""
    shown = mask(value)
    assert shown.isprintable()
    for prefix in ("ExponentPushToken[", "ExpoPushToken["):
        value, shown = value.removeprefix(prefix), shown.removeprefix(prefix)
    assert len(shown) - 1 <= min(len(value) // 2, 10)


def test_reprs_mask_tokens():
    """Neither a target's nor a ticket's repr shows a whole token or a replacement."""
    value = "ExponentPushToken[abcdefghijklmnopqrstuv]"
    told = ticket(value=value, replacement="APA91bNEWNEWNEW")
    assert repr(told.target) == "<Target token ExponentPushToken[abcde…tuv] pk=1>"
    for text in (repr(told), str(told), repr(PushResult(tickets=[told]))):
        assert value not in text
        assert "APA91bNEWNEWNEW" not in text
    assert (told.token, told.pk) == (value, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\tc\0d\u202ee", "a b c d e"),
        ("  x  ", "x"),
        ("x" * 500, "x" * 200),
        ("\ud800", ""),
        (ValueError("no"), "no"),
        (None, "None"),
    ],
)
def test_cut(text, expected):
    """A provider's text becomes one printable line of at most 200 characters."""
    assert cut(text) == expected


@given(st.text(st.characters(), max_size=600))
def test_cut_is_total_and_idempotent(text):
    """Any text becomes such a line, and cutting it again changes nothing."""
    line = cut(text)
    assert line.isprintable()
    assert len(line) <= 200
    assert cut(line) == line


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TargetKind.TOKEN, True),
        (TargetKind.FID, True),
        (TargetKind.TOPIC, False),
        (TargetKind.CONDITION, False),
    ],
)
def test_targets(kind, expected):
    """Tokens and installation ids are tokens; topics and conditions are not."""
    assert Target("x", kind=kind).is_token is expected


# --- results ------------------------------------------------------------------------------------------


def result_of(*tickets):
    result = PushResult()
    for told in tickets:
        result.add(told)
    return result


def test_an_empty_result():
    """Nobody to send to is no failure."""
    result = PushResult()
    assert (len(result), result.ok, result.failed, result.accepted) == (0, True, 0, 0)
    assert (bool(result), result.retry_after, str(result)) == (True, None, "nobody")


def test_a_result_counts():
    """Counts, the parts of a result and its words agree."""
    result = result_of(
        ticket(),
        ticket(Outcome.UNREGISTERED),
        ticket(Outcome.RATE_LIMITED, retry_after=5.0),
        ticket(Outcome.UNAVAILABLE, retry_after=9.0),
        ticket(Outcome.NOT_SENT),
    )
    result.skipped["disabled"] = 2
    assert (len(result), result.accepted, result.failed, result.ok) == (5, 1, 4, False)
    assert [t.outcome for t in result.retryable] == [
        Outcome.RATE_LIMITED,
        Outcome.UNAVAILABLE,
        Outcome.NOT_SENT,
    ]
    assert result.retry_after == 9.0
    assert [t.outcome for t in result.of(Outcome.UNREGISTERED)] == [Outcome.UNREGISTERED]
    assert result.backends == {"default": 5}
    assert list(result) == result.tickets
    expected = "1 accepted, 1 not_sent, 1 rate_limited, 1 unavailable, 1 unregistered; skipped: 2 disabled"
    assert str(result) == expected


def test_planned_is_neither_accepted_nor_failed():
    """A dry run fails nobody."""
    result = result_of(ticket(Outcome.PLANNED))
    assert (result.accepted, result.failed, result.ok) == (0, 0, True)


def test_a_large_result_keeps_what_went_wrong(monkeypatch):
    """Above the first limit accepted tickets go, above the second failures too; the counts stay whole."""
    monkeypatch.setattr(outcomes, "KEEP_ALL_TICKETS", 10)
    monkeypatch.setattr(outcomes, "KEEP_FAILED_TICKETS", 8)
    bad = ticket(Outcome.UNREGISTERED)
    result = result_of(*[ticket(), bad] * 5)
    assert len(result.tickets) == 10
    result.add(ticket())
    assert result.tickets == [bad] * 5
    for _ in range(5):
        result.add(bad)
    assert result.tickets == [bad] * 8
    assert (len(result), result.accepted, result.failed) == (16, 6, 10)


@given(st.lists(strategies.outcomes, max_size=40))
def test_counts_add_up(told):
    """Accepted, failed and planned are all that was tried, in any order."""
    result = result_of(*map(ticket, told))
    assert result.accepted + result.failed + result.counts[Outcome.PLANNED] == len(result) == len(told)
    assert list(map(str, result.tickets)) == [str(ticket(outcome)) for outcome in told]
    assert result.ok == (set(told) <= {Outcome.ACCEPTED, Outcome.PLANNED})


def test_changes_add_up():
    """Changes are summed by kind; none is false."""
    total = TokenChanges(deactivated=1) + TokenChanges(deactivated=2, replaced=3)
    assert total == TokenChanges(deactivated=3, replaced=3)
    assert total
    assert not TokenChanges()
