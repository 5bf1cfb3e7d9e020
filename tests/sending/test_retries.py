"""What is sent again, when, and when the sends end: on a clock that a test moves."""

import pytest

from django_push import Outcome, get_token_model, send_push
from django_push.wire import Failure, Reply
from tests.sending.conftest import OK, error, make_tokens, reply_of, statuses, token_name

pytestmark = pytest.mark.django_db

BUSY = error("MessageRateExceeded")


def everyone():
    return get_token_model().objects.all()


def too_many(**headers):
    return reply_of({"errors": [{"code": "TOO_MANY_REQUESTS", "message": "slow"}]}, 429, **headers)


def unavailable(**headers):
    return reply_of({"errors": [{"code": "INTERNAL_SERVER_ERROR", "message": ""}]}, 503, **headers)


def test_only_the_token_that_may_be_tried_again_is(expo, clock):
    """One busy device of three is asked again; the others are not, and each has one ticket."""
    make_tokens(3)
    provider = expo({token_name(1): [BUSY, OK]})
    result = send_push(everyone(), title="Hi")
    assert [[token_name(0), token_name(1), token_name(2)], [token_name(1)]] == provider.asked
    assert (result.accepted, len(result.tickets)) == (3, 3)


def test_a_retry_waits_a_second_and_more(expo, clock):
    """Without a Retry-After the waits grow from one second; the third try is the last."""
    make_tokens(1)
    provider = expo({token_name(0): BUSY})
    result = send_push(everyone(), title="Hi")
    first, second = clock.slept
    assert 1 <= first <= 1.5
    assert 2 <= second <= 3
    assert (len(provider.asked), [t.outcome for t in result]) == (3, [Outcome.RATE_LIMITED])


def test_retry_after_is_a_least(expo, clock):
    """The provider's wait is never shortened."""
    make_tokens(1)
    expo(replies=[unavailable(retry_after="4")])
    assert send_push(everyone(), title="Hi").accepted == 1
    assert [pytest.approx(4)] == clock.slept


def test_a_wait_beyond_the_budget_is_left_to_the_caller(expo, clock):
    """The result says after how long; nothing is slept."""
    make_tokens(1)
    expo(replies=[unavailable(retry_after="60")])
    result = send_push(everyone(), title="Hi")
    assert (clock.slept, result.retry_after, len(result.retryable)) == ([], 60.0, 1)


def test_a_budget_of_zero_tries_once(expo, clock):
    """What may be tried again is in the result as it came."""
    make_tokens(1)
    provider = expo({token_name(0): BUSY})
    result = send_push(everyone(), title="Hi", retry_budget=0)
    assert (len(provider.asked), len(result.retryable), clock.slept) == (1, 1, [])


def test_a_budget_that_is_given_is_the_only_limit(expo, clock):
    """With ten minutes, a device that is busy seven times gets its push."""
    make_tokens(1)
    provider = expo({token_name(0): [BUSY] * 7 + [OK]})
    assert send_push(everyone(), title="Hi", retry_budget=600).accepted == 1
    assert len(provider.asked) == 8


@pytest.mark.parametrize("budget", [-1, float("nan"), "8"])
def test_a_budget_that_is_no_number_is_refused(expo, budget):
    """It raises before anything is sent."""
    with pytest.raises(ValueError, match="retry_budget"):
        send_push([], title="Hi", retry_budget=budget)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(failure=Failure.MAYBE_SENT, reason="timeout"),
        Reply(status=504, body=b"<html>"),
        Reply(status=500, body=b""),
        reply_of({"data": [{"status": "ok", "id": "1"}] * 2}),
    ],
)
def test_what_may_have_been_sent_is_not_sent_again(expo, clock, reply):
    """UNKNOWN ends there: a second request could double the push."""
    make_tokens(1)
    provider = expo(replies=[reply])
    result = send_push(everyone(), title="Hi", retry_budget=600)
    assert ([t.outcome for t in result], len(provider.asked)) == ([Outcome.UNKNOWN], 1)


def test_a_busy_device_does_not_hold_up_the_others(expo, clock):
    """All other requests go out before the wait."""
    make_tokens(500)
    provider = expo({token_name(0): [BUSY, OK]})
    at = []
    answer = provider.__call__
    provider.transport.answer = lambda request: (at.append(clock.now), answer(request))[1]
    assert send_push(everyone(), title="Hi").accepted == 500
    assert (len(at), len(set(at[:5]))) == (6, 1)


def test_a_rate_limit_of_the_project_holds_everything(expo, clock):
    """After a 429 nothing goes out before its Retry-After; then all is sent, each token once."""
    make_tokens(500)
    provider = expo(replies=[None, too_many(retry_after="3")])
    at = []
    answer = provider.__call__
    provider.transport.answer = lambda request: (at.append(clock.now), answer(request))[1]
    result = send_push(everyone(), title="Hi")
    assert (result.accepted, len(result.tickets)) == (500, 500)
    assert [pytest.approx(3)] == clock.slept
    assert at[2] - at[1] == pytest.approx(3)


def test_a_rate_limit_beyond_the_budget_ends_the_alias(expo, clock):
    """The rest is told RATE_LIMITED with the provider's wait, without a request."""
    make_tokens(500)
    provider = expo(replies=[None, too_many(retry_after="120")])
    result = send_push(everyone(), title="Hi")
    assert result.counts == {Outcome.ACCEPTED: 100, Outcome.RATE_LIMITED: 400}
    assert (len(provider.asked), clock.slept, result.retry_after) == (2, [], 120.0)
    assert len(result.retryable) == 400


def test_a_provider_that_is_down_is_not_hammered(expo, clock):
    """After 20 requests one at a time asks whether it is back; within the budget the run ends."""
    make_tokens(4_000)
    down = Reply(failure=Failure.NEVER_SENT, reason="refused")
    provider = expo(replies=[down] * 4_000)
    result = send_push(everyone(), title="Hi")
    assert result.counts == {Outcome.NOT_SENT: 4_000}
    assert 20 < len(provider.asked) < 30
    assert sum(clock.slept) < 8
    assert {"active"} == set(statuses())


def test_a_provider_that_only_times_out_is_not_hammered(expo, clock):
    """Requests without any verdict count as no answer, too; what was not sent may be tried again."""
    make_tokens(4_000)
    provider = expo(replies=[Reply(failure=Failure.MAYBE_SENT, reason="timeout")] * 4_000)
    result = send_push(everyone(), title="Hi")
    asked = sum(map(len, provider.asked))
    assert {Outcome.UNKNOWN: asked, Outcome.NOT_SENT: 4_000 - asked} == result.counts
    assert asked < 3_000


def test_a_provider_that_comes_back_gets_the_rest(expo, clock):
    """A pause within the budget loses nothing."""
    make_tokens(3_000)
    down = Reply(failure=Failure.NEVER_SENT, reason="refused")
    expo(replies=[down] * 21)
    result = send_push(everyone(), title="Hi")
    assert (result.accepted, len(result.tickets)) == (3_000, 3_000)


def test_two_aliases_wait_at_the_same_time(expo, clock, providers):
    """The wait of one alias is used by the other's: they are not added up."""
    from django_push import testing

    make_tokens(1)
    make_tokens(1, backend="other")
    expo({token_name(0): [BUSY, OK]})
    testing.answer("other-0", Outcome.RATE_LIMITED, code="Busy")
    result = send_push(everyone(), title="Hi")
    assert result.counts == {Outcome.ACCEPTED: 1, Outcome.RATE_LIMITED: 1}
    assert sum(clock.slept) <= 4.5


def test_a_learned_project_that_is_busy_is_tried_again_once(expo, clock):
    """A regrouped request that hits a rate limit is retried in its group."""
    make_tokens(2)
    details = {"@a/x": [token_name(0)], "@a/y": [token_name(1)]}
    mixed = {"errors": [{"code": "PUSH_TOO_MANY_EXPERIENCE_IDS", "message": "", "details": details}]}
    provider = expo({token_name(1): [BUSY, OK]}, replies=[reply_of(mixed, 400)])
    assert send_push(everyone(), title="Hi").accepted == 2
    assert [[token_name(0)], [token_name(1)], [token_name(1)]] == provider.asked[1:]
