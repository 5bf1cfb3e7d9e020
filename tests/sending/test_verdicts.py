"""From a provider's answer to the result and the token's row."""

import logging
from unittest import mock

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError

from django_push import Outcome, PushMessage, get_token_model, iter_push, send_push, testing, tokens
from django_push.handler import Channel, push_backends
from django_push.models import ReceiptBatch
from django_push.outcomes import checksum
from django_push.receipts import unpack
from django_push.sending import lane
from django_push.transport.base import Transport
from django_push.wire import Failure, Reply
from tests.sending.conftest import Expo, error, make_tokens, reply_of, statuses, token_name

pytestmark = pytest.mark.django_db


def test_each_token_has_one_ticket_in_the_result(expo, user):
    """An accepted and a dead token of one user are both in the result, and only one row changes."""
    make_tokens(2, user=user)
    expo({token_name(1): error("DeviceNotRegistered")})
    result = send_push(user, title="Hi")
    assert {t.token: t.outcome for t in result} == {
        token_name(0): Outcome.ACCEPTED,
        token_name(1): Outcome.UNREGISTERED,
    }
    assert (result.accepted, result.failed, result.ok, len(result)) == (1, 1, False, 2)
    assert result.changes.deactivated == 1
    assert statuses() == ["active", "unregistered"]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (reply_of({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}, 401), "credentials_rejected"),
        (reply_of({"errors": [{"code": "VALIDATION_ERROR", "message": "x"}]}, 400), "message_rejected"),
        (Reply(status=502, body=b"<html>"), "unknown"),
        (Reply(status=503, body=b""), "unknown"),
        (Reply(status=200, body=b"\xff{"), "unknown"),
        (reply_of({"data": []}), "unknown"),
        (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), "unknown"),
        (Reply(failure=Failure.NEVER_SENT, reason="refused"), "not_sent"),
        (reply_of({"data": [error("DeviceNotRegisteredYet")]}), "rejected"),
        (reply_of({"data": [error("InvalidCredentials")]}), "provider_setup"),
        (reply_of({"data": [error("MismatchSenderId")]}), "sender_mismatch"),
        (reply_of({"data": [error("MessageTooBig")]}), "message_rejected"),
    ],
)
def test_only_dead_tokens_are_deactivated(expo, reply, outcome):
    """No other failure touches the row, and none raises."""
    [row] = make_tokens(1)
    expo(replies=[reply])
    result = send_push(row, title="Hi", retry_budget=0)
    assert [outcome] == [ticket.outcome.value for ticket in result]
    assert statuses() == ["active"]


def test_a_canonical_id_replaces_the_token(providers):
    """GCM's registration_id becomes the row's token; the push itself is accepted."""
    [row] = make_tokens(1, backend="gcm")
    answer = {"results": [{"message_id": "1", "registration_id": "gcm-new"}]}
    with testing.fake_transport("gcm", lambda request: reply_of(answer)):
        result = send_push(row, title="Hi")
    row.refresh_from_db()
    assert (row.token, row.status, result.changes.replaced) == ("gcm-new", "active", 1)


def test_mixed_projects_are_regrouped_and_learned(expo):
    """A request of two projects is sent once more in two, and the rows remember their project."""
    make_tokens(3)
    details = {"@a/shop": [token_name(0), token_name(2)], "@a/staging": [token_name(1)]}
    mixed = {"errors": [{"code": "PUSH_TOO_MANY_EXPERIENCE_IDS", "message": "", "details": details}]}
    provider = expo(replies=[reply_of(mixed, 400)])
    assert send_push(get_token_model().objects.all(), title="Hi").accepted == 3
    assert [[token_name(0), token_name(2)], [token_name(1)]] == provider.asked[1:]
    projects = get_token_model().objects.order_by("pk").values_list("project", flat=True)
    assert list(projects) == ["@a/shop", "@a/staging", "@a/shop"]


def test_a_refused_key_ends_its_alias_and_no_other(expo):
    """The rest of the alias is told so without a request; the other alias is served."""
    make_tokens(350)
    make_tokens(1, backend="other")
    refusal = reply_of({"errors": [{"code": "UNAUTHORIZED", "message": ""}]}, 401)
    provider = expo(replies=[refusal])
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert result.counts == {Outcome.CREDENTIALS_REJECTED: 350, Outcome.ACCEPTED: 1}
    assert len(provider.asked) == 1


def test_a_refused_key_is_remembered_between_pages_of_two_aliases(expo, monkeypatch, caplog):
    """Where pages of two aliases alternate, the refused one is not asked again at each page."""
    monkeypatch.setattr("django_push.recipients.PAGE", 10)
    model = get_token_model()
    for n in range(40):
        model.objects.create(backend="expo", token=token_name(n))
        model.objects.create(backend="other", token=f"other-{n}")
    refusal = reply_of({"errors": [{"code": "UNAUTHORIZED", "message": ""}]}, 401)
    provider = expo(replies=[refusal])
    result = send_push(model.objects.all(), title="Hi")
    assert result.counts == {Outcome.CREDENTIALS_REJECTED: 40, Outcome.ACCEPTED: 40}
    assert len(provider.asked) == 1
    assert sum("refused our key" in record.message for record in caplog.records) == 1


def test_a_refused_key_ends_only_its_expo_project(expo):
    """The tokens of another Expo project are still sent to."""
    make_tokens(1, project="@a/one")
    get_token_model().objects.create(backend="expo", token=token_name(8), project="@a/two")
    refusal = reply_of({"errors": [{"code": "UNAUTHORIZED", "message": ""}]}, 401)
    expo(replies=[refusal])
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert result.counts == {Outcome.CREDENTIALS_REJECTED: 1, Outcome.ACCEPTED: 1}


def test_a_refused_bearer_token_is_renewed_once(providers):
    """What the backend asks to resend after a 401 goes out again with new credentials."""
    from django_push.wire import Parsed

    channel = push_backends.channel("gcm")
    credentials = mock.Mock(return_value="key=k")
    [row] = make_tokens(1, backend="gcm")
    seen = []

    class Renewing(type(channel.backend)):
        def parse(self, request, reply):
            seen.append(request)
            if len(seen) == 1:
                return Parsed(resend=[request], refresh_auth=True)
            return super().parse(request, reply)

    backend = Renewing(alias="gcm", endpoint="https://gcm.example.com/send", api_key="k")
    fake = testing.FakeTransport(lambda request: reply_of({"results": [{"message_id": "1"}]}))
    with mock.patch.dict(push_backends._channels, {"gcm": Channel(backend, fake, credentials)}):
        result = send_push(row, title="Hi")
    assert ([mock.call.renew()], 1, 1) == (credentials.method_calls, result.accepted, len(result))


def test_setup_trouble_is_logged_once_as_an_error(expo, caplog):
    """A project without its APNs key logs one error, however many tokens it hits."""
    make_tokens(5)
    expo(dict.fromkeys([token_name(n) for n in range(5)], error("InvalidCredentials")))
    send_push(get_token_model().objects.all(), title="Hi")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "InvalidCredentials" in errors[0].getMessage()


def test_accepted_tickets_are_kept_for_receipts(expo):
    """Their ids are packed with the keys of their rows; failures have none."""
    rows = make_tokens(3)
    expo({token_name(1): error("DeviceNotRegistered")})
    send_push(get_token_model().objects.all(), title="Hi")
    [batch] = ReceiptBatch.objects.all()
    kept = [(f"id-{rows[n].token}", rows[n].pk, checksum(rows[n].token)) for n in (0, 2)]
    assert (kept, 2) == (unpack(bytes(batch.tickets)), batch.size)


def test_a_dry_run_sends_and_changes_nothing(expo):
    """It tells what would go where; even a malformed token's row stays as it is."""
    make_tokens(2)
    get_token_model().objects.create(backend="expo", token="malformed")
    provider = expo()
    result = send_push(get_token_model().objects.all(), title="Hi", dry_run=True)
    assert result.counts == {Outcome.PLANNED: 2, Outcome.INVALID_TOKEN: 1}
    assert (result.dry_run, len(provider.asked), ReceiptBatch.objects.count()) == (True, 0, 0)
    assert {"active"} == set(statuses())


def test_a_large_dry_run_yields_as_it_goes(providers, monkeypatch):
    """Its tickets do not pile up until the end."""
    monkeypatch.setattr(lane, "FLUSH", 100)
    make_tokens(1000)
    seen = iter_push(get_token_model().objects.all(), title="Hi", dry_run=True)
    next(seen)
    assert seen.gi_frame.f_locals["self"].lanes["expo"].waiting < 100
    assert sum(1 for _ in seen) == 999


def test_a_message_too_big_for_all_is_read_page_by_page(providers, monkeypatch):
    """An audience that is refused before sending does not pile up either."""
    monkeypatch.setattr("django_push.recipients.PAGE", 50)
    monkeypatch.setattr(lane, "FLUSH", 50)
    monkeypatch.setattr(lane, "MOST_WAITING", 100)
    make_tokens(400)
    seen = iter_push(get_token_model().objects.all(), title="x" * 10_000)
    first = next(seen)
    assert (first.code, first.outcome) == ("MessageTooBig", Outcome.MESSAGE_REJECTED)
    assert seen.gi_frame.f_locals["self"].lanes["expo"].waiting <= 100
    assert sum(1 for _ in seen) == 399
    assert {"active"} == set(statuses())


# --- what must not be lost ------------------------------------------------------------------------


class Slow(Transport):
    """Keeps some requests in flight before it yields the first reply, as a real transport does."""

    def __init__(self, provider, flight=4):
        super().__init__(alias="expo", timeout=1.0, max_connections=flight)
        self.provider = provider

    def exchange(self, requests, authorize=None):
        flying = []
        for request in requests:
            flying.append((request, self.provider(request)))
            if len(flying) >= self.max_connections:
                yield flying.pop(0)
        yield from flying


@pytest.fixture
def slow(providers):
    def start(provider):
        channel = push_backends.channel("expo")
        replaced = Channel(channel.backend, Slow(provider), None)
        patch = mock.patch.dict(push_backends._channels, {"expo": replaced})
        patch.start()
        stack.append(patch)
        return provider

    stack = []
    yield start
    for patch in stack:
        patch.stop()


ALL_DEAD = {token_name(n): error("DeviceNotRegistered") for n in range(1000)}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(lane, "FLUSH", 100)


@pytest.mark.parametrize("leave", ["break", "close", "forget", "raise"])
def test_an_abandoned_iter_push_writes_what_is_in_flight(slow, small, leave):
    """Whoever stops listening loses no verdict on a request that went out, and sends no more."""
    make_tokens(1000)
    provider = slow(Expo(ALL_DEAD))
    pushes = iter_push(get_token_model().objects.all(), title="Hi")
    if leave == "break":
        for _ in pushes:
            break
        del _
    elif leave == "raise":
        with pytest.raises(ZeroDivisionError):
            [1 / 0 for _ in pushes]
    else:
        next(pushes)
    if leave == "close":
        pushes.close()
    del pushes
    asked = sum(map(len, provider.asked))
    assert 0 < asked < 1000
    assert asked == statuses().count("unregistered")


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_generator_that_raises_loses_no_verdict(slow, failure):
    """What went out before is written, then the generator's exception is raised."""
    rows = make_tokens(1500)
    slow(Expo(ALL_DEAD))

    def recipients():
        yield from rows[:1000]
        raise failure

    seen = []
    with pytest.raises(failure):
        seen.extend(iter_push(recipients(), title="Hi"))
    assert statuses().count("unregistered") == 1000


def test_a_generator_that_raises_settles_what_waits_for_another_try(expo, clock):
    """A rate-limited token has its verdict in the tickets when the recipients cannot be read on."""
    rows = make_tokens(1000)
    expo({token_name(5): error("MessageRateExceeded")})

    def recipients():
        yield from rows
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(iter_push(recipients(), title="Hi"))
    outcomes = [ticket.outcome for ticket in seen]
    assert (len(outcomes), outcomes.count(Outcome.RATE_LIMITED)) == (1000, 1)
    assert clock.slept == []


def test_ctrl_c_while_waiting_writes_everything(expo, clock, monkeypatch):
    """The wait before another try can be interrupted; the verdicts so far are written."""
    make_tokens(2)
    expo({token_name(0): error("DeviceNotRegistered"), token_name(1): error("MessageRateExceeded")})

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", lambda s: interrupted(s) if s else None)
    with pytest.raises(KeyboardInterrupt):
        send_push(get_token_model().objects.all(), title="Hi")
    assert statuses() == ["unregistered", "active"]


def test_a_database_that_fails_once_is_written_to_again(slow, small, monkeypatch):
    """A failed write stops the sends; what is in flight is awaited and all of it is written."""
    make_tokens(1000)
    provider = slow(Expo(ALL_DEAD))
    apply, calls = tokens.apply, []

    def flaky(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OperationalError("gone for a moment")
        return apply(*args, **kwargs)

    monkeypatch.setattr(tokens, "apply", flaky)
    with pytest.raises(OperationalError):
        send_push(get_token_model().objects.all(), title="Hi")
    asked = sum(map(len, provider.asked))
    assert 100 < asked < 1000
    assert asked == statuses().count("unregistered")


def test_a_database_that_stays_away_is_logged(slow, small, monkeypatch, caplog):
    """Verdicts that cannot be written are named in the log by their keys, and the error is raised."""
    rows = make_tokens(100)
    slow(Expo({token_name(0): error("DeviceNotRegistered")}))
    monkeypatch.setattr(tokens, "apply", mock.Mock(side_effect=OperationalError("gone")))
    with pytest.raises(OperationalError):
        send_push(get_token_model().objects.all(), title="Hi")
    assert f"100 verdicts could not be written; dead: [{rows[0].pk}]" in caplog.text


def test_receipts_are_remembered_once_when_a_later_write_fails(slow, small, monkeypatch):
    """A second attempt to write does not keep the ids of the first again."""
    make_tokens(500)
    slow(Expo())
    apply, calls = tokens.apply, []

    def flaky(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OperationalError("gone for a moment")
        return apply(*args, **kwargs)

    monkeypatch.setattr(tokens, "apply", flaky)
    with pytest.raises(OperationalError):
        send_push(get_token_model().objects.all(), title="Hi")
    ids = [i for batch in ReceiptBatch.objects.all() for i, *_ in unpack(bytes(batch.tickets))]
    assert len(ids) == len(set(ids)) >= 300


def test_a_token_registered_again_while_it_is_sent_to_stays_active(expo):
    """The verdict counts from when the tokens were read, so a newer registration wins."""
    from django_push import register_token

    [row] = make_tokens(1)
    provider = Expo({row.token: error("DeviceNotRegistered")})

    def reply(request):
        register_token(row.token, backend="expo")
        return provider(request)

    with testing.fake_transport("expo", reply):
        result = send_push(row, title="Hi")
    assert ([t.outcome for t in result], result.changes.deactivated) == ([Outcome.UNREGISTERED], 0)
    assert statuses() == ["active"]


def test_the_result_keeps_only_failures_of_many(expo, monkeypatch):
    """Above the limit the accepted tickets are counted, not kept."""
    monkeypatch.setattr("django_push.outcomes.KEEP_ALL_TICKETS", 500)
    make_tokens(700)
    expo(replies=[reply_of({"data": [error("MessageTooBig")] * 100})])
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert (result.accepted, result.counts[Outcome.MESSAGE_REJECTED]) == (600, 100)
    assert {Outcome.MESSAGE_REJECTED} == {ticket.outcome for ticket in result}


def test_fields_that_one_alias_cannot_say_are_counted(providers, expo):
    """In a mixed audience they are left out where they cannot be said."""
    make_tokens(2)
    make_tokens(1, backend="other")
    expo()
    message = PushMessage(title="Hi", analytics_label="x")
    result = send_push(get_token_model().objects.all(), message)
    assert (dict(result.left_out), result.accepted) == ({"analytics_label": 2}, 3)


def test_a_user_without_tokens_is_an_empty_result(expo):
    """Nobody is sent to, nothing failed."""
    user = get_user_model().objects.create(username="bob")
    result = send_push(user, title="Hi")
    assert (len(result), result.ok, str(result)) == (0, True, "nobody")
