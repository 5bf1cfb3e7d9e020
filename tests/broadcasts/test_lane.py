"""What one provider's answers do to a lane: pauses, holds, blocks, tries, and what each token is told."""

import json
import time
from datetime import timedelta

import pytest

from django_push import Outcome, PushMessage, testing
from django_push.broadcasts import breaker, control, lane, rates, results
from django_push.broadcasts.claims import GRACE
from django_push.emulator import Fault, Faults, service_account, start_emulator
from django_push.models import (
    BatchStatus,
    BroadcastLane,
    BroadcastStatus,
    PauseReason,
    PushProblem,
    RateBucket,
)
from django_push.wire import Failure, Reply
from tests.broadcasts.factories import (
    EXPO,
    LOCMEM,
    Tokens,
    all_ok,
    answer_all,
    batch_of,
    batches_of,
    copies,
    counted,
    drained,
    finished,
    lane_of,
    let_time_pass,
    make_expo_tokens,
    make_tokens,
    reloaded,
    started,
    states,
    status_of,
    unknown,
)

pytestmark = pytest.mark.django_db
GCM = {
    "BACKEND": "django_push.backends.gcm.GCMBackend",
    "OPTIONS": {"api_key": "k", "endpoint": "https://relay.example/gcm/send"},
}


# --- all is well ----------------------------------------------------------------------------------


def test_everybody_gets_one():
    """Each token of each alias gets the message once, and is counted."""
    rows = [*make_tokens(7), *make_tokens(3, backend="other")]
    made = started(batch_size=2, title="Hello", data={"id": 1})
    assert drained(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert {(push.message.title, push.message.data["id"]) for push in testing.outbox} == {("Hello", 1)}
    assert counted(made) == {Outcome.ACCEPTED: 10}
    assert (made.progress.told, made.progress.total, made.progress.resent) == (10, 10, 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"title": "Hi"}, "broadcast-{pk}"),
        ({"title": None, "body": "Hi"}, "broadcast-{pk}"),
        ({"title": "Hi", "tag": "mine"}, "mine"),
        ({"title": None, "data": {"a": 1}, "content_available": True}, None),
    ],
)
def test_a_second_copy_replaces_the_first(fields, expected):
    """A visible message has a tag of the broadcast's unless it has its own; a silent one has none."""
    make_tokens(1)
    made = started(**fields)
    drained(made)
    [push] = testing.outbox
    assert push.message.tag == (expected and expected.format(pk=made.pk))
    assert push.message.collapse_key is None


def test_each_token_in_its_language():
    """Translations go by the token's locale, each with the tag; others get the message itself."""
    for locale in ("de-AT", "fr", ""):
        Tokens.create(token=f"default-{locale}", backend="default", locale=locale)
    made = started(translations={"de": {"title": "Hallo"}, "fr": PushMessage(title="Salut")})
    drained(made)
    said = {push.token: (push.message.title, push.message.tag) for push in testing.outbox}
    tag = f"broadcast-{made.pk}"
    assert said == {
        "default-de-AT": ("Hallo", tag),
        "default-fr": ("Salut", tag),
        "default-": ("Hi", tag),
    }


def personal(token):
    if token.token.endswith("1"):
        raise RuntimeError("nobody")
    return {"body": token.token}


def test_each_token_its_own_text(caplog):
    """``personalize`` is called for each row; a token whose text fails is rejected, others are sent."""
    make_tokens(3)
    made = started(personalize="tests.broadcasts.test_lane.personal")
    drained(made)
    assert [push.message.body for push in testing.outbox] == ["default-0000", "default-0002"]
    assert counted(made) == {Outcome.ACCEPTED: 2, Outcome.MESSAGE_REJECTED: 1}
    assert "personalize failed" in caplog.text
    assert PushProblem.objects.get().broadcast_id == made.pk


# --- our key --------------------------------------------------------------------------------------


def test_our_key_is_refused(caplog):
    """The lane is paused at once, no token is changed, and with a better key all are sent to."""
    rows = make_tokens(5)
    others = make_tokens(2, backend="other")
    answer_all(rows, Outcome.CREDENTIALS_REJECTED, code="401", detail="bad key")
    made = started(batch_size=2)
    assert drained(made).status == BroadcastStatus.PAUSED
    paused = lane_of(made)
    assert (paused.status, paused.pause_reason) == ("paused", PauseReason.CREDENTIALS)
    assert paused.pause_detail == "401 bad key"
    assert lane_of(made, "other").status == "done"
    assert {status_of(row) for row in rows} == {"active"}
    assert copies() == {row.token: 1 for row in (*rows[:2], *others)}
    assert batch_of(made, lane=paused).sends == 0
    assert "the provider refused our key" in caplog.text
    testing.reset()
    assert control.resume(reloaded(made))
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert (counted(made), made.progress.resent) == ({Outcome.ACCEPTED: 7}, 0)


# --- the breaker ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.UNREGISTERED, PauseReason.DEAD_TOKENS),
        (Outcome.INVALID_TOKEN, PauseReason.DEAD_TOKENS),
        (Outcome.PROVIDER_SETUP, PauseReason.DEAD_TOKENS),
        (Outcome.MESSAGE_REJECTED, PauseReason.REFUSED),
        (Outcome.REJECTED, PauseReason.REFUSED),
    ],
)
def test_the_breaker_pauses_a_lane(monkeypatch, outcome, reason):
    """When too many come back bad, the lane waits for a person; resumed, it is trusted."""
    monkeypatch.setattr(breaker, "LEAST", 4)
    rows = make_tokens(12)
    answer_all(rows, outcome)
    made = started(batch_size=2)
    assert drained(made).status == BroadcastStatus.PAUSED
    paused = lane_of(made)
    assert (paused.pause_reason, paused.pause_detail) == (reason, "4 of 4")
    assert len(testing.outbox) == 4
    assert control.resume(reloaded(made))
    assert lane_of(made).is_trusted
    assert drained(made).status == BroadcastStatus.DONE
    assert counted(made) == {outcome: 12}


def test_a_share_that_is_no_reason_to_pause(monkeypatch):
    """A fifth of dead tokens is what is to be expected."""
    monkeypatch.setattr(breaker, "LEAST", 4)
    rows = make_tokens(40)
    answer_all(rows[::5], Outcome.UNREGISTERED)
    made = started(batch_size=5)
    assert drained(made).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 32, Outcome.UNREGISTERED: 8}


def test_a_wrong_sender_never_pauses(monkeypatch):
    """Tokens of another sender are kept, and say nothing of this one."""
    monkeypatch.setattr(breaker, "LEAST", 1)
    rows = make_tokens(4)
    answer_all(rows, Outcome.SENDER_MISMATCH)
    made = started()
    assert drained(made).status == BroadcastStatus.DONE
    assert {status_of(row) for row in rows} == {"active"}


def test_a_setup_at_fault_is_logged_once(caplog):
    """The project's credentials at the provider are a matter for the log, not for each batch."""
    answer_all(make_tokens(4), Outcome.PROVIDER_SETUP, code="InvalidApnsCredential")
    made = started(batch_size=1)
    assert drained(made).status == BroadcastStatus.DONE
    assert caplog.text.count("InvalidApnsCredential") == 1


# --- too much -------------------------------------------------------------------------------------


def test_a_429_about_the_project_stops_everybody():
    """Every process of the alias waits as long as it was asked to, and no send is spent."""
    rows = make_tokens(4)
    verdict = {"code": "429", "about_project": True, "retry_after": 120.0}
    answer_all(rows, Outcome.RATE_LIMITED, **verdict)
    made, second = started(batch_size=2), started(title="Another")
    ended = drained(made)
    assert ended.status == BroadcastStatus.RUNNING
    assert 100 < ended.wait <= 120
    assert copies() == {row.token: 1 for row in rows[:2]}
    batch = batch_of(made)
    assert (batch.status, batch.sends) == (BatchStatus.RETRY, 0)
    assert (batch.due_at - batch.claimed_at).total_seconds() >= 120
    assert 100 < drained(second).wait <= 120
    assert not batches_of(second).exists()
    testing.reset()
    let_time_pass(made)
    assert finished(made).status == finished(second).status == BroadcastStatus.DONE
    assert copies() == {row.token: 2 for row in rows}
    assert made.progress.resent == 0


@pytest.mark.parametrize(("asked", "expected"), [(None, lane.DEFAULT_BLOCK), (1e9, lane.LONGEST_BLOCK)])
def test_how_long_a_429_is_believed(asked, expected):
    """Without a time it is a minute, and never more than an hour."""
    answer_all(make_tokens(1), Outcome.RATE_LIMITED, about_project=True, retry_after=asked)
    made = started()
    assert drained(made).wait == pytest.approx(expected, abs=10)


def test_a_429_about_one_device():
    """That token waits; the others and the alias do not."""
    rows = make_tokens(4)
    testing.answer(rows[1].token, Outcome.RATE_LIMITED, code="MessageRateExceeded", retry_after=30.0)
    made = started(batch_size=2)
    assert 25 < drained(made).wait < 35
    assert counted(made) == {Outcome.ACCEPTED: 3}
    assert not RateBucket.objects.filter(blocked_until__gt=0).exists()
    testing.reset()
    made = finished(made)
    assert copies() == {rows[1].token: 1}
    assert made.progress.resent == 0


def test_a_device_that_is_always_too_busy(monkeypatch):
    """After so many tries it is left at that, and the broadcast ends."""
    monkeypatch.setattr(results, "MOST_CLAIMS", 3)
    [row] = make_tokens(1)
    testing.answer(row.token, Outcome.RATE_LIMITED, code="MessageRateExceeded")
    made = finished(started())
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: 3}
    assert counted(made) == {Outcome.RATE_LIMITED: 1}


# --- no answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.UNAVAILABLE, Outcome.NOT_SENT, Outcome.UNKNOWN])
def test_a_provider_that_does_not_answer(monkeypatch, outcome):
    """It is left alone for longer and longer, then the lane is paused; what is not told stays."""
    monkeypatch.setattr(lane, "MOST_MISSES", GRACE + 1)
    rows = make_tokens(20)
    answer_all(rows, outcome, code="Down")
    made = started(batch_size=1, max_sends=10)
    drained(made)
    assert lane_of(made).misses == GRACE
    assert len(testing.outbox) == GRACE
    first = lane_of(made)
    assert first.hold_until is not None
    for _ in range(10):
        let_time_pass(made)
        drained(made)
    paused = lane_of(made)
    assert (paused.status, paused.pause_reason) == ("paused", PauseReason.PROVIDER_DOWN)
    assert paused.pause_detail == "Down"
    assert len(testing.outbox) == GRACE + 2
    assert {status_of(row) for row in rows} == {"active"}
    testing.reset()
    assert control.resume(reloaded(made))
    assert lane_of(made).misses == 0
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 20}


def test_holds_grow_and_end_with_an_answer():
    """Each miss doubles the hold, up to the longest; any answer lifts it."""
    rows = make_tokens(8)
    unknown(*rows)
    made = started(batch_size=1)
    waits = []
    for misses in (GRACE - 1, GRACE, GRACE + 1, GRACE + 6):
        BroadcastLane.objects.update(misses=misses, hold_until=None)
        drained(made)
        batch = batches_of(made).order_by("claimed_at").last()
        waits.append((lane_of(made).hold_until - batch.claimed_at).total_seconds())
        let_time_pass(made)
    assert waits == pytest.approx([5, 10, 20, 300], abs=3)
    testing.reset()
    drained(made)
    assert (lane_of(made).misses, lane_of(made).hold_until) == (0, None)


def test_one_lost_answer_is_no_outage():
    """The batches around it are told, and the lane goes on."""
    rows = make_tokens(6)
    unknown(rows[2])
    made = started(batch_size=1)
    drained(made)
    assert lane_of(made).misses == 0
    assert counted(made) == {Outcome.ACCEPTED: 5}


@pytest.mark.parametrize(
    ("policy", "most", "sent"), [("retry", 3, 3), ("retry", 1, 1), ("skip", 3, 1), ("retry", 2, 2)]
)
def test_unknown_is_sent_up_to_the_cap(policy, most, sent):
    """Never more often than was asked for, and the counts say what may be doubled."""
    [row] = make_tokens(1)
    unknown(row)
    made = finished(started(on_unknown=policy, max_sends=most))
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: sent}
    assert (made.progress.unknown, made.progress.resent) == (1, sent - 1)


# --- mixed ----------------------------------------------------------------------------------------


def test_a_batch_of_every_answer():
    """Each token is told, tried or left according to its own, and the counts add up all the way."""
    outcomes = [outcome for outcome in Outcome if outcome is not Outcome.PLANNED]
    rows = make_tokens(len(outcomes))
    for row, outcome in zip(rows, outcomes, strict=True):
        testing.answer(row.token, outcome, code="C")
    made = started()
    assert drained(made).status == BroadcastStatus.PAUSED  # the credentials
    progress = made.progress
    assert progress.told + progress.pending == progress.total == len(rows)
    dead = {Outcome.UNREGISTERED: "unregistered", Outcome.INVALID_TOKEN: "invalid"}
    for row, outcome in zip(rows, outcomes, strict=True):
        assert status_of(row) == dead.get(outcome, "active")
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome is Outcome.CREDENTIALS_REJECTED:
            testing.answer(row.token, Outcome.ACCEPTED)
    control.resume(reloaded(made))
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    progress = made.progress
    assert (progress.total, progress.told, progress.pending) == (len(rows), len(rows), 0)
    assert progress.unknown == 1
    sent = copies()
    by_outcome = {outcome: sent[row.token] for row, outcome in zip(rows, outcomes, strict=True)}
    assert by_outcome[Outcome.UNKNOWN] == 3
    assert by_outcome[Outcome.UNREGISTERED] == by_outcome[Outcome.ACCEPTED] == 1
    assert progress.counts[Outcome.ACCEPTED] == 2


@pytest.mark.parametrize("policy", ["retry", "skip"])
def test_what_was_refused_beside_an_unknown_is_still_sent(policy):
    """A token that surely has nothing is not left out because its neighbour may have."""
    lost, busy, fine = make_tokens(3)
    unknown(lost)
    testing.answer(busy.token, Outcome.UNAVAILABLE)
    made = started(on_unknown=policy)
    drained(made)
    testing.answer(busy.token, Outcome.ACCEPTED)
    made = finished(made)
    assert copies() == {lost.token: 3 if policy == "retry" else 1, busy.token: 2, fine.token: 1}
    assert counted(made) == {Outcome.ACCEPTED: 2}
    assert made.progress.unknown == 1
    assert made.progress.total == 3


# --- taken over, stopped --------------------------------------------------------------------------


def test_a_batch_that_is_taken_over_while_it_is_out(caplog):
    """Its result is discarded, and the other's counts."""
    [row] = make_tokens(1)
    made = started()

    def take_over(request):
        batches_of(made).update(claim_no=2, sends=2)
        return Reply(status=200, body=json.dumps([{"outcome": "unregistered"}]).encode())

    with testing.fake_transport("default", take_over):
        drained(made)
    assert status_of(row) == "active"
    assert (counted(made), states(made)) == ({}, [BatchStatus.LEASED])
    assert "taken over" in caplog.text


def test_a_lease_that_ends_soon_is_renewed_before_the_next_request(settings, monkeypatch):
    """No request goes out that may outlast the lease; one that cannot be renewed is dropped."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(250)
    made = started(batch_size=250)
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)  # more than there ever is
    renewed = []
    monkeypatch.setattr(lane, "renew", lambda held, lease: not renewed.append(lease) and len(renewed) < 3)
    with testing.fake_transport("default", all_ok) as transport:
        drained(made)
    assert len(renewed) == 3
    assert [len(request.targets) for request in transport.requests] == [100, 100]
    assert states(made) == [BatchStatus.LEASED]


def test_a_stop_in_the_middle_of_a_batch(settings):
    """What is out is finished and counted; the rest is put back unsent, at once, with no send spent."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(250)
    made = started(batch_size=250)
    stop = []

    def answer(request):
        stop.append(1)
        return all_ok(request)

    with testing.fake_transport("default", answer) as transport:
        assert drained(made, is_stopped=lambda: bool(stop)).status == BroadcastStatus.RUNNING
    assert len(transport.requests) == 1
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.pending, batch.sends) == (BatchStatus.RETRY, 100, 150, 0)
    assert (batch.due_at - batch.claimed_at).total_seconds() < 5
    with testing.fake_transport("default", all_ok):
        assert drained(made).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 250}
    assert made.progress.resent == 0


def test_a_429_puts_the_rest_of_the_batch_back(settings):
    """What is claimed but not sent does not wait under a lease."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(250)
    made = started(batch_size=250)

    def answer(request):
        if len(transport.requests) == 2:
            return Reply(status=429, headers={"retry-after": "60"}, body=b"{}")
        return all_ok(request)

    with testing.fake_transport("default", answer) as transport:
        drained(made)
    assert len(transport.requests) == 2
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.pending, batch.sends) == (BatchStatus.RETRY, 100, 150, 0)
    assert rates.held_for(rates.Limit("default")) > 50


def test_progress_within_a_batch_is_written(settings, monkeypatch):
    """Verdicts are recorded while the rest is out, so that a crash doubles no more than that."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(250)
    monkeypatch.setattr(lane, "FLUSH", 0.0)
    made = started(batch_size=250)
    seen = []

    def answer(request):
        seen.append((batch_of(made).accepted, batch_of(made).pending))
        if len(seen) == 3:
            raise KeyboardInterrupt  # the process dies
        return all_ok(request)

    with testing.fake_transport("default", answer), pytest.raises(KeyboardInterrupt):
        drained(made)
    assert seen == [(0, 250), (100, 150), (200, 50)]
    let_time_pass(made)
    with testing.fake_transport("default", all_ok) as transport:
        assert drained(made).status == BroadcastStatus.DONE
    assert [len(request.targets) for request in transport.requests] == [50]
    assert made.progress.resent == 50


# --- the site changes -----------------------------------------------------------------------------


def test_an_alias_that_is_removed_while_it_runs(settings, caplog):
    """Its lane is paused, the others go on; with the alias back it is resumed."""
    make_tokens(2)
    make_tokens(2, backend="other")
    made = started()
    settings.PUSH_BACKENDS = {"other": LOCMEM}
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.BACKEND
    assert lane_of(made, "other").status == "done"
    assert "the alias is not configured" in caplog.text
    settings.PUSH_BACKENDS = {"default": LOCMEM, "other": LOCMEM}
    control.resume(reloaded(made))
    assert finished(made).status == BroadcastStatus.DONE
    assert len(copies()) == 4


def everybody(tokens):
    return tokens


def nobody(tokens):
    raise RuntimeError("secret-in-an-error")


@pytest.mark.parametrize("then", [{}, {"all": "tests.broadcasts.test_lane.nobody"}, {"all": "no.such.path"}])
def test_a_named_audience_that_is_removed_while_it_runs(settings, then, caplog):
    """The lane is paused with a reason; nothing is lost, and with the audience back it goes on."""
    settings.PUSH_AUDIENCES = {"all": "tests.broadcasts.test_lane.everybody"}
    make_tokens(2)
    made = started("all")
    settings.PUSH_AUDIENCES = then
    assert drained(made).status == BroadcastStatus.PAUSED
    paused = lane_of(made)
    assert paused.pause_reason == PauseReason.AUDIENCE
    assert paused.pause_detail
    assert "secret-in-an-error" not in caplog.text + paused.pause_detail
    settings.PUSH_AUDIENCES = {"all": "tests.broadcasts.test_lane.everybody"}
    control.resume(reloaded(made))
    assert finished(made).status == BroadcastStatus.DONE
    assert len(copies()) == 2


def test_a_function_that_is_removed_while_it_runs():
    """Without its ``personalize`` the message cannot be said."""
    make_tokens(1)
    made = started(personalize="tests.broadcasts.test_lane.personal")
    made.personalize = "tests.broadcasts.test_lane.no_more"
    made.save()
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.MESSAGE


@pytest.mark.parametrize(
    "message",
    [{"nonsense": 1}, {}, {"title": 5}, {"title": "Hi", "sender": "x"}],
)
def test_a_message_that_this_code_cannot_read(message):
    """A worker with older code pauses what it does not understand."""
    make_tokens(1)
    made = started()
    made.message = message
    made.save()
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.MESSAGE
    assert testing.outbox == []


def test_an_audience_that_grows_and_shrinks():
    """Those that are there when their page comes are sent to, and no newer ones."""
    rows = make_tokens(6)
    made = started(batch_size=2)

    def watch():
        if len(testing.outbox) == 2:
            Tokens.filter(pk=rows[4].pk).delete()
            make_tokens(3, backend="other")

    drained(made, watch=watch)
    assert set(copies()) == {row.token for row in rows if row is not rows[4]}


# --- rates ----------------------------------------------------------------------------------------


def test_a_rate_is_kept():
    """A batch is no more than a second's quota, and the second waits its time."""
    make_tokens(10)
    made = started(rate=5)
    ended = drained(made, budget=0.5)
    assert [len(testing.outbox), batch_of(made).size] == [5, 5]
    assert 0.5 < ended.wait <= 1


def test_quota_that_is_not_used_is_given_back():
    """A drainer that ends, or finds less than it has asked for, keeps nobody waiting."""
    make_tokens(3)
    made = started(rate=100)
    drained(made)
    assert rates.take(rates.Limit(made.source, 100.0), 1).wait < 0.1


# --- what is kept back ----------------------------------------------------------------------------


def test_no_whole_token_is_logged(caplog):
    """Whatever happens, logs and problems have no token and no text of the message."""
    caplog.set_level("DEBUG")
    rows = make_tokens(len(Outcome))
    for row, outcome in zip(rows, Outcome, strict=True):
        Tokens.filter(pk=row.pk).update(token=f"{row.token}-{'x' * 60}")
        testing.answer(f"{row.token}-{'x' * 60}", outcome, code="C")
    made = started(title="private-title")
    drained(made)
    assert "x" * 60 not in caplog.text
    assert "private-title" not in caplog.text
    kept = json.dumps(list(PushProblem.objects.values("code", "detail", "outcome")))
    assert "x" * 60 not in kept


def test_no_whole_token_is_kept_of_a_refused_request(settings):
    """A provider that repeats the request tells with one token's problem nothing of another."""
    settings.PUSH_BACKENDS = {"default": GCM}
    rows = make_tokens(2)
    for row in rows:
        Tokens.filter(pk=row.pk).update(token=f"whole-{row.pk}-{'x' * 30}")
    made = started()
    with testing.fake_transport("default", lambda request: Reply(status=400, body=b"no: " + request.body)):
        assert drained(made).status == BroadcastStatus.DONE
    details = PushProblem.objects.values_list("detail", flat=True)
    assert len(details) == 2
    assert "x" * 30 not in "".join(details)
    assert all("no: " in detail for detail in details)


def test_a_lost_connection_is_no_send(settings):
    """Where no byte was written the batch waits, its send given back."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(2)
    made = started()
    never = Reply(failure=Failure.NEVER_SENT, reason="refused")
    with testing.fake_transport("default", lambda request: never):
        assert drained(made).wait > timedelta(seconds=5).total_seconds()
    batch = batch_of(made)
    assert (batch.status, batch.sends) == (BatchStatus.RETRY, 0)


# --- over the network -----------------------------------------------------------------------------

FCM = {
    "BACKEND": "django_push.backends.fcm.FCMBackend",
    "OPTIONS": {"service_account_key": service_account, "broadcast_rate": 1e6, "broadcast_ramp": 0},
}
#: What is surely not accepted: no token gets two for it.
REFUSALS = {Fault.RATE_LIMITED_HUGE, Fault.RATE_LIMITED, Fault.REFUSED, Fault.EXPIRED_AUTH}
LOSSES = [Fault.RESET_AFTER, Fault.BAD_GATEWAY, Fault.TRUNCATED, Fault.INVALID_JSON, Fault.SHORT, Fault.LONG]
FAULTS = [("default", Fault.RATE_LIMITED_HUGE), ("default", Fault.REFUSED), ("default", Fault.RESET_BEFORE)]
FAULTS += [("default", loss) for loss in LOSSES]
FAULTS += [("fcm", Fault.RATE_LIMITED), ("fcm", Fault.EXPIRED_AUTH), ("fcm", Fault.RESET_AFTER)]


@pytest.fixture(scope="module")
def _server():
    with start_emulator(retry_after=0) as server:
        yield server


@pytest.fixture
def emulator(_server, settings):
    """A running emulator that has seen nothing, for Expo and for FCM."""
    _server.state.reset()
    settings.PUSH_EMULATOR_HOST = _server.host
    settings.PUSH_BACKENDS = {"default": EXPO, "fcm": FCM}
    yield _server.state
    _server.state.faults = Faults()


@pytest.mark.parametrize(("alias", "fault"), FAULTS)
def test_a_fault_of_the_provider_misses_nobody(emulator, monkeypatch, alias, fault):
    """By the provider's own count each has at least one, and no more are doubled than the tables admit."""
    monkeypatch.setattr("django_push.credentials.FRESH", 0.0)  # the one that expires is seconds old
    rows = make_tokens(8, backend="fcm") if alias == "fcm" else make_expo_tokens(60)
    made = started(batch_size=len(rows) // 2)
    emulator.faults = Faults(schedule=[None, fault])
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    sent = emulator.accepted
    assert set(sent) == {row.token for row in rows}
    doubled = sum(sent.values()) - len(rows)
    assert doubled <= made.progress.resent
    if fault in REFUSALS:
        assert (doubled, made.progress.resent) == (0, 0)
    assert counted(made) == {Outcome.ACCEPTED: len(rows)}
    assert made.progress.told == made.progress.total == len(rows)


def test_a_provider_that_has_had_enough_of_one_kind(emulator):
    """What may be sent once only is left unknown, and the rest is told."""
    rows = make_expo_tokens(250)
    made = started(on_unknown="skip", batch_size=250)
    emulator.faults = Faults(schedule=[None, Fault.RESET_AFTER, Fault.REFUSED])
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert set(emulator.accepted.values()) == {1}
    assert made.progress.unknown in (50, 100)  # whichever of the requests was hit
    assert made.progress.accepted == len(rows) - made.progress.unknown
    assert set(emulator.accepted) == {row.token for row in rows}


def test_what_could_not_be_written_waits_for_no_quota():
    """A result that a lost database has left is written at once, however long the provider asks to wait."""
    make_tokens(1)
    made = started()
    own = lane_of(made)
    drainer = lane.LaneDrainer.of(
        made, own.pk, own.backend, PushMessage(title="Hello"), {}, lambda: False, lambda: None
    )
    drainer.ready_at = time.monotonic() + 3600
    assert drainer.next_at == drainer.ready_at
    drainer.current = object()
    assert drainer.next_at == 0.0
