"""What a broadcast may become, each change by compare-and-set."""

import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db.models import F
from django.utils import timezone as clock

from django_push import Outcome, register_token, signals, testing
from django_push.broadcasts import audiences, control, undo_deactivations
from django_push.broadcasts.results import Result, record
from django_push.exceptions import BroadcastForbidden, InvalidBroadcast
from django_push.models import (
    FINAL,
    BatchStatus,
    Broadcast,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
)
from django_push.outcomes import Ticket
from tests.broadcasts.factories import (
    Tokens,
    answer_all,
    batch_of,
    batches_of,
    claimed,
    copies,
    counted,
    drafted,
    drained,
    finished,
    lane_of,
    let_time_pass,
    make_tokens,
    reloaded,
    started,
    states,
    status_of,
    unknown,
)

pytestmark = pytest.mark.django_db


def in_state(status):
    """Return a broadcast of one token that has come to be in a state, by the verbs alone."""
    make_tokens(1)
    if status == BroadcastStatus.DRAFT:
        return drafted()
    if status == BroadcastStatus.SCHEDULED:
        made = drafted(schedule=clock.now() + timedelta(hours=1))
        assert control.schedule(made)
        return made
    made = started(expires=timedelta(hours=1))
    if status == BroadcastStatus.PAUSED:
        assert control.pause(made)
    elif status == BroadcastStatus.DONE:
        assert finished(made).status == status
    elif status == BroadcastStatus.CANCELLED:
        assert control.cancel(made)
    elif status == BroadcastStatus.EXPIRED:
        run_out(made)
        assert control.expire(reloaded(made))
    return reloaded(made)


def run_out(made):
    Broadcast.objects.filter(pk=made.pk).update(expires_at=F("expires_at") - timedelta(days=1))


def lanes_of(made):
    return {lane.backend: lane.status for lane in made.lanes.order_by("backend")}


@pytest.fixture
def told(django_capture_on_commit_callbacks):
    """Return a function that runs a verb and returns the signals that its commit has sent."""
    heard = []

    names = {
        signals.broadcast_started: "started",
        signals.broadcast_paused: "paused",
        signals.broadcast_finished: "finished",
    }

    def hear(sender, signal, broadcast, **about):
        heard.append((names[signal], broadcast.status, *about.values()))

    for signal in names:
        signal.connect(hear)

    def run(verb):
        heard.clear()
        with django_capture_on_commit_callbacks(execute=True):
            verb()
            assert heard == []  # not before the commit
        return list(heard)

    yield run
    for signal in names:
        signal.disconnect(hear)


# --- which change is allowed ----------------------------------------------------------------------

VERBS = {
    "start": (control.start, {"draft", "scheduled"}),
    "schedule": (control.schedule, {"draft"}),
    "pause": (control.pause, {"running", "scheduled"}),
    "cancel": (control.cancel, {"draft", "scheduled", "running", "paused"}),
}


@pytest.mark.parametrize("status", list(BroadcastStatus))
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_changes_what_it_may_and_nothing_else(verb, status):
    """Out of any other state it says False and leaves the row as it is."""
    made = in_state(status)
    change, allowed = VERBS[verb]
    assert change(made) is (status in allowed)
    assert (reloaded(made).status == status) is (status not in allowed)


@pytest.mark.parametrize("status", list(BroadcastStatus))
def test_resume(status):
    """Only what is paused is resumed; of what is over it says so."""
    made = in_state(status)
    if status in FINAL:
        with pytest.raises(InvalidBroadcast, match=f"is {status}"):
            control.resume(made)
    else:
        assert control.resume(made) is (status == BroadcastStatus.PAUSED)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_goes_by_the_table_not_by_the_object(verb):
    """An object that was read before somebody else's change changes nothing."""
    make_tokens(1)
    stale = drafted()
    assert control.cancel(reloaded(stale))
    assert VERBS[verb][0](stale) is False
    assert reloaded(stale).status == BroadcastStatus.CANCELLED


# --- start ----------------------------------------------------------------------------------------


def test_start_makes_a_lane_for_each_alias():
    """Each has its tokens counted; the clock and the newest key are written down."""
    make_tokens(2)
    rows = make_tokens(3, backend="other")
    made = started()
    assert lanes_of(made) == {"default": LaneStatus.RUNNING, "other": LaneStatus.RUNNING}
    assert [lane_of(made, alias).size for alias in ("default", "other")] == [2, 3]
    assert made.started_at is not None
    assert made.highest_pk == rows[-1].pk


def test_start_narrowed_to_an_alias():
    """``using`` leaves the others alone."""
    make_tokens(1)
    make_tokens(1, backend="other")
    made = started(using="other")
    assert lanes_of(made) == {"other": LaneStatus.RUNNING}
    assert finished(made).progress.total == 1


def test_start_with_tokens_of_unknown_aliases(caplog):
    """They get no lane, are counted and logged."""
    make_tokens(1)
    make_tokens(3, backend="gone")
    made = started()
    assert lanes_of(made) == {"default": LaneStatus.RUNNING}
    assert (made.unconfigured, made.progress.unconfigured) == (3, 3)
    assert "3 tokens of unknown backends" in caplog.text


@pytest.mark.parametrize("audience", ["everyone", [], {"locale": "fr"}])
def test_an_empty_audience_is_done_at_once(audience):
    """There is nothing to wait for."""
    made = started(audience)
    assert made.status == BroadcastStatus.DONE
    assert made.finished_at is not None
    assert made.progress.total == 0


def test_tokens_that_are_registered_while_it_is_counted(monkeypatch):
    """They are not in the audience: none is counted as sent to that no lane serves."""
    rows = make_tokens(3)
    made = drafted()
    counts = audiences.counts

    def slowly(*args):
        found = counts(*args)
        make_tokens(2, backend="other")
        return found

    monkeypatch.setattr(audiences, "counts", slowly)
    assert control.start(made)
    assert reloaded(made).highest_pk == rows[-1].pk
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert (made.progress.total, made.unconfigured) == (3, 0)


class Slow:
    """A dispatcher that does the work itself, so takes long."""

    can_defer = True
    asked = []

    def enqueue(self, job, payload, *, delay=0.0):
        self.asked.append(payload["wake"])
        time.sleep(0.01)


@pytest.mark.parametrize(("long", "times"), [(0.0, 1), (10.0, 4)])
def test_a_dispatcher_that_takes_long(settings, monkeypatch, long, times):
    """It has done the work, and is not asked again for every other worker."""
    settings.PUSH_DISPATCHER = f"{__name__}.Slow"
    monkeypatch.setattr(control, "LONG", long)
    make_tokens(1)
    made = started()
    Slow.asked.clear()
    control.ask_for_workers(made.pk, 4)
    assert Slow.asked == [1] * times


# --- signals --------------------------------------------------------------------------------------


def test_signals_of_a_whole_life(told):
    """Each is sent once, after the commit, with the row as it is."""
    make_tokens(2)
    made = drafted(batch_size=1)
    assert told(lambda: control.start(made)) == [("started", "running")]
    assert told(lambda: control.start(made)) == []
    assert told(lambda: control.pause(made)) == [("paused", "paused", "operator")]
    assert told(lambda: control.pause(made)) == []
    assert told(lambda: control.resume(made, workers=0)) == []
    assert told(lambda: finished(made)) == [("finished", "done")]
    assert told(lambda: control.settle(made)) == []


@pytest.mark.parametrize(("status", "verb"), [("cancelled", "cancel"), ("expired", "expire")])
def test_signals_of_an_early_end(told, status, verb):
    """It is told once that it is over."""
    make_tokens(1)
    made = started(expires=timedelta(hours=1))
    run_out(made)
    made = reloaded(made)
    assert told(lambda: getattr(control, verb)(made)) == [("finished", status)]
    assert told(lambda: getattr(control, verb)(made)) == []


def test_signals_of_an_empty_broadcast(told):
    """It has begun and it is over."""
    made = drafted()
    assert [name for name, *_ in told(lambda: control.start(made))] == ["started", "finished"]


def test_signals_of_a_last_lane_that_pauses(told):
    """When nothing runs any more, the broadcast is paused for the lane's reason."""
    make_tokens(1)
    make_tokens(1, backend="other")
    made = started()
    reason = PauseReason.CREDENTIALS
    assert told(lambda: control.pause_lane(made, "default", reason, "401")) == []
    assert told(lambda: control.pause_lane(made, "default", reason, "401")) == []
    heard = told(lambda: control.pause_lane(made, "other", reason, "401"))
    assert heard == [("paused", "paused", "credentials")]


def test_a_receiver_that_fails(told, caplog):
    """It is logged, and stops nobody."""

    def fail(**kwargs):
        raise RuntimeError("receiver")

    signals.broadcast_started.connect(fail)
    try:
        made = drafted()
        told(lambda: control.start(made))
    finally:
        signals.broadcast_started.disconnect(fail)
    assert reloaded(made).status == BroadcastStatus.DONE
    assert "receiver" in caplog.text


# --- lanes ----------------------------------------------------------------------------------------


@pytest.fixture
def two():
    """A running broadcast of two aliases."""
    make_tokens(2)
    make_tokens(2, backend="other")
    return started(batch_size=1)


def test_a_lane_is_paused_and_the_other_goes_on(two):
    """The broadcast is paused when the other has ended; then the lane may be resumed."""
    assert control.pause(two, lane="default")
    assert not control.pause(two, lane="default")
    assert reloaded(two).status == BroadcastStatus.RUNNING
    assert finished(two).status == BroadcastStatus.PAUSED
    assert reloaded(two).pause_reason == PauseReason.OPERATOR
    assert lanes_of(two) == {"default": "paused", "other": "done"}
    assert sorted(copies()) == ["other-0000", "other-0001"]
    assert control.resume(two, lane="default")
    assert not control.resume(two, lane="default")
    assert finished(two).status == BroadcastStatus.DONE
    assert set(copies().values()) == {1}
    assert len(copies()) == 4


def test_a_lane_is_cancelled_and_the_other_goes_on(two):
    """What was not sent of it never is; the broadcast is done with the rest."""
    drained(two, is_stopped=after(1))
    assert control.cancel(two, lane="default")
    assert not control.cancel(two, lane="default")
    assert finished(two).status == BroadcastStatus.DONE
    assert lanes_of(two) == {"default": "cancelled", "other": "done"}
    assert len([token for token in copies() if token.startswith("other")]) == 2
    assert len([token for token in copies() if token.startswith("default")]) < 2


def after(times):
    """Return an ``is_stopped`` that says so from some call on."""
    asked = []

    def is_stopped():
        asked.append(1)
        return len(asked) > times

    return is_stopped


def test_all_lanes_cancelled_one_by_one(two):
    """Then the broadcast is cancelled."""
    for alias in ("default", "other"):
        assert control.cancel(two, lane=alias)
    assert reloaded(two).status == BroadcastStatus.CANCELLED


def test_one_lane_of_a_paused_broadcast_is_resumed(two):
    """It runs; the other waits for its own resume."""
    control.pause(two)
    assert control.resume(two, lane="other")
    assert lanes_of(two) == {"default": "paused", "other": "running"}
    assert finished(two).status == BroadcastStatus.PAUSED
    assert lanes_of(two) == {"default": "paused", "other": "done"}


@pytest.mark.parametrize("verb", [control.pause, control.resume, control.cancel])
def test_a_lane_that_there_is_not(two, verb):
    """Nothing happens, and it is said."""
    assert verb(two, lane="nobody") is False
    assert reloaded(two).status == BroadcastStatus.RUNNING


def test_a_cancelled_list_is_left_unsent():
    """Planned batches are cancelled, and counted."""
    made = started(make_tokens(4), batch_size=2)
    claimed(made)
    assert control.cancel(made)
    assert states(made) == [BatchStatus.LEASED, BatchStatus.CANCELLED]
    assert made.progress.cancelled == 2
    assert lanes_of(made) == {"default": "cancelled"}


def test_a_list_whose_only_lane_was_cancelled_before_the_start():
    """It is over as soon as it is started."""
    made = drafted(make_tokens(1))
    assert control.cancel(made, lane="default")
    assert control.start(made)
    assert reloaded(made).status == BroadcastStatus.CANCELLED
    assert lanes_of(made) == {"default": "cancelled"}


def test_a_scheduled_broadcast_is_paused_and_resumed():
    """It waits for its time again."""
    made = in_state(BroadcastStatus.SCHEDULED)
    assert control.pause(made)
    assert control.resume(made)
    assert reloaded(made).status == BroadcastStatus.SCHEDULED


# --- a change that comes between ------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_start_that_commits_just_before_a_pause_or_cancel(monkeypatch, verb):
    """The lanes that it has made are paused or cancelled too: nothing is claimed after."""
    make_tokens(1)
    made = drafted()
    control.schedule(made)
    lock = control.lock_broadcast

    def start_then_lock(pk):
        monkeypatch.setattr(control, "lock_broadcast", lock)
        assert control.start(reloaded(made))
        return lock(pk)

    monkeypatch.setattr(control, "lock_broadcast", start_then_lock)
    assert getattr(control, verb)(made)
    assert "running" not in lanes_of(made).values()
    assert claimed(made).wait is None


# --- expiry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["draft", "scheduled", "running", "paused"])
def test_expiry_ends_whatever_is_not_over(status):
    """What had not been sent by then never is."""
    made = in_state(status)
    Broadcast.objects.filter(pk=made.pk).update(expires_at=made.created - timedelta(days=3))
    assert control.expire(reloaded(made))
    assert reloaded(made).status == BroadcastStatus.EXPIRED
    assert finished(made).status == BroadcastStatus.EXPIRED
    assert testing.outbox == []


def test_expiry_before_its_time():
    """It has not come, or there is none."""
    make_tokens(1)
    assert not control.expire(started(expires=timedelta(hours=1)))
    assert not control.expire(started())


# --- unknown --------------------------------------------------------------------------------------


def left_unknown(policy="retry"):
    rows = make_tokens(2)
    unknown(*rows)
    made = finished(started(on_unknown=policy))
    assert (made.status, made.progress.unknown) == (BroadcastStatus.DONE, 2)
    testing.reset()
    return made, rows


@pytest.mark.parametrize(("policy", "doubled"), [("retry", 6), ("skip", 2)])
def test_resend_unknown(policy, doubled):
    """Each is sent once more, which is counted, and the broadcast is done again."""
    made, rows = left_unknown(policy)
    assert control.resend_unknown(made) == 2
    assert reloaded(made).status == BroadcastStatus.RUNNING
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert counted(made) == {Outcome.ACCEPTED: 2}
    assert (made.progress.resent, made.progress.unknown) == (doubled, 0)
    assert control.resend_unknown(made) == 0


@pytest.mark.parametrize("policy", ["retry", "skip"])
def test_resend_unknown_that_is_unknown_again(policy):
    """One explicit act is one more send, and no more."""
    made, rows = left_unknown(policy)
    unknown(*rows)
    assert control.resend_unknown(made) == 2
    made = finished(made)
    assert copies() == {row.token: 1 for row in rows}
    assert made.progress.unknown == 2


def test_resend_unknown_of_one_lane(two):
    """The other's stay unknown."""
    answer_all(Tokens.all(), Outcome.UNKNOWN)
    made = finished(two)
    assert control.resend_unknown(made, lane="other") == 2
    assert {lane.backend: lane.unknown for lane in made.progress.lanes} == {"default": 2, "other": 0}


def test_resend_unknown_leaves_a_cancelled_lane_alone(two):
    """Its tokens may have been sent to, and go on being called so."""
    answer_all(Tokens.filter(backend="default"), Outcome.UNKNOWN)
    two.max_sends = 1
    two.save()
    held = claimed(two, 1)
    tickets = [Ticket(target=target, outcome=Outcome.UNKNOWN) for target in held.targets]
    assert record(two, held, Result(unknown=tickets))
    assert control.cancel(two, lane="default")
    assert control.resend_unknown(two) == 0
    control.sweep()
    assert (two.progress.unknown, two.progress.cancelled) == (1, 0)


@pytest.mark.parametrize("status", ["cancelled", "expired", "draft", "scheduled"])
def test_resend_unknown_of_what_is_not_sent(status):
    """What was cancelled, has expired or has not begun is not sent again."""
    with pytest.raises(InvalidBroadcast, match=f"is {status}"):
        control.resend_unknown(in_state(status))


# --- who ------------------------------------------------------------------------------------------


def operator(**fields):
    user = get_user_model().objects.create(username="ada", **fields)
    user.user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    return user


@pytest.mark.parametrize("change", ["permission", "inactive", "deleted"])
@pytest.mark.parametrize("verb", [control.start, control.resume, control.resend_unknown])
def test_the_recorded_user_may_not_any_more(change, verb):
    """Each verb that leads to sending asks again."""
    user = operator()
    make_tokens(1)
    made = drafted(user=user)
    if verb is not control.start:
        control.start(made)
        control.pause(made)
    made = reloaded(made)
    take_away(user, change)
    with pytest.raises(BroadcastForbidden, match="ada"):
        verb(made)
    assert reloaded(made).status == (BroadcastStatus.DRAFT if verb is control.start else "paused")


def take_away(user, change):
    if change == "permission":
        user.user_permissions.clear()
    elif change == "inactive":
        get_user_model().objects.update(is_active=False)
    else:
        get_user_model().objects.filter(pk=user.pk).delete()


@pytest.mark.parametrize("change", ["permission", "inactive", "deleted"])
def test_a_worker_finds_that_the_user_may_not_any_more(change, caplog):
    """The lanes are paused for it, and nothing is sent."""
    user = operator()
    make_tokens(1)
    made = started(user=user)
    take_away(user, change)
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.PERMISSION
    assert reloaded(made).pause_reason == PauseReason.PERMISSION
    assert testing.outbox == []


def test_anybody_may_pause_and_cancel():
    """To stop a broadcast takes no permission of the user who has begun it."""
    user = operator()
    make_tokens(1)
    made = started(user=user)
    user.delete()
    assert control.pause(made)
    assert control.cancel(made)


# --- undo -----------------------------------------------------------------------------------------


def test_undo_brings_back_exactly_what_the_broadcast_took():
    """Tokens that died of something else, or came back by themselves, are left alone."""
    rows = make_tokens(4)
    answer_all(rows[:3], Outcome.UNREGISTERED)
    made = finished(started())
    other = make_tokens(1, backend="other")[0]
    Tokens.filter(pk=other.pk).update(status="unregistered", status_source=f"broadcast:{made.pk}0")
    register_token(rows[0].token, backend="default")
    Tokens.filter(pk=rows[1].pk).update(status="retired", status_source="prune")
    assert undo_deactivations(made) == 1
    assert [status_of(row) for row in (*rows, other)] == [
        "active",
        "retired",
        "active",
        "active",
        "unregistered",
    ]
    assert undo_deactivations(made) == 0
    assert Tokens.get(pk=rows[2].pk).status_source == f"undo:{made.pk}"


# --- sweep ----------------------------------------------------------------------------------------


def test_sweep_calls_unknown_what_never_came_back():
    """Once its lease is over, and only where nobody claims any more."""
    make_tokens(2)
    made = started()
    claimed(made, 1)
    let_time_pass(made)
    assert control.sweep() == 0
    claimed(made, 1)
    control.cancel(made)
    assert control.sweep() == 0
    let_time_pass(made)
    assert control.sweep() == 1
    batch = batch_of(made)
    assert (batch.status, batch.code) == (BatchStatus.UNKNOWN, "WorkerLost")


def test_sweep_cancels_what_was_put_back_at_the_moment_of_a_cancel():
    """A result that had seen the lane running may have left a batch to be sent again."""
    make_tokens(1)
    made = started()
    claimed(made)
    control.cancel(made)
    batches_of(made).update(status=BatchStatus.RETRY, sends=0)
    assert control.sweep() == 0
    assert states(made) == [BatchStatus.CANCELLED]


def test_sweep_calls_unknown_what_may_have_been_sent_before():
    """A batch of a cancelled lane that waits, and had a claim that may have got through, is unknown."""
    make_tokens(1)
    made = started()
    claimed(made)
    control.cancel(made)
    batches_of(made).update(status=BatchStatus.RETRY, sends=1)
    control.sweep()
    assert states(made) == [BatchStatus.UNKNOWN]
