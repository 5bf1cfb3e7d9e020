"""All that is due, done by whoever comes by: nothing depends on a queue's memory."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection
from django.db.models import F
from django.utils import timezone as clock

from django_push import Outcome, testing
from django_push.broadcasts import control, prune, tick
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastStatus,
    PauseReason,
    PushProblem,
    ReceiptBatch,
)
from django_push.wire import Reply
from tests.broadcasts.factories import (
    EXPO,
    all_ok,
    answer_all,
    batches_of,
    claimed,
    copies,
    database_lost,
    drafted,
    drained,
    finished,
    lane_of,
    let_time_pass,
    make_expo_tokens,
    make_tokens,
    reloaded,
    started,
    states,
    unknown,
)

pytestmark = pytest.mark.django_db


class Queue:
    """A dispatcher that keeps what it is asked for, or is away."""

    can_defer = True
    is_away = False
    jobs = []

    def enqueue(self, job, payload, *, delay=0.0):
        if self.is_away:
            raise RuntimeError("the broker is away")
        self.jobs.append((job, payload["broadcast"]))


@pytest.fixture
def queue(settings, monkeypatch):
    Queue.jobs.clear()
    monkeypatch.setattr(Queue, "is_away", False)
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"
    return Queue.jobs


def scheduled(**fields):
    made = drafted(schedule=clock.now() + timedelta(hours=1), **fields)
    assert control.schedule(made)
    return made


def let_its_time_come(*broadcasts):
    keys = [made.pk for made in broadcasts]
    Broadcast.objects.filter(pk__in=keys).update(scheduled_at=F("scheduled_at") - timedelta(hours=2))


def test_nothing_is_due(queue):
    """It says so, and asks for nothing."""
    make_tokens(1)
    scheduled()
    drafted()
    done = tick()
    assert (str(done), queue) == ("nothing due", [])
    assert json.loads(json.dumps(done.as_json()))["started"] == 0


# --- scheduled ------------------------------------------------------------------------------------


def test_a_scheduled_broadcast_is_started_when_its_time_comes(queue):
    """Once, by the first to come by, and a worker is woken."""
    make_tokens(1)
    made = scheduled()
    assert tick().started == 0
    let_its_time_come(made)
    done = tick()
    assert (done.started, done.woken, queue) == (1, 1, [("drain_broadcast", made.pk)])
    assert str(done) == "1 started, 1 woken"
    assert reloaded(made).status == BroadcastStatus.RUNNING
    assert tick().started == 0


def test_tokens_registered_before_the_start_are_included(queue):
    """The audience is that of the start, not of the day when it was scheduled."""
    first = make_tokens(1)
    made = scheduled()
    later = make_tokens(1, backend="other")
    let_its_time_come(made)
    tick()
    finished(made)
    assert set(copies()) == {first[0].token, later[0].token}


def test_the_default_dispatcher_sends_at_once(settings):
    """With nothing set up the tick itself sends."""
    rows = make_tokens(3)
    made = scheduled()
    let_its_time_come(made)
    tick()
    assert reloaded(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}


@pytest.mark.parametrize("reason", [PauseReason.PERMISSION, PauseReason.AUDIENCE])
def test_a_start_that_is_refused(queue, settings, reason, caplog):
    """It is paused for the reason; what else is due is done."""
    settings.PUSH_AUDIENCES = {"all": "tests.broadcasts.test_ticking.everybody"}
    make_tokens(1)
    user = get_user_model().objects.create(username="ada")
    user.user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    audience = "all" if reason == PauseReason.AUDIENCE else "everyone"
    made, other = scheduled(audience=audience, user=user), scheduled(title="Another")
    if reason == PauseReason.AUDIENCE:
        settings.PUSH_AUDIENCES = {}
    else:
        get_user_model().objects.filter(pk=user.pk).delete()
    let_its_time_come(made, other)
    assert tick().started == 1
    assert (reloaded(made).status, reloaded(made).pause_reason) == (BroadcastStatus.PAUSED, reason)
    assert reloaded(other).status == BroadcastStatus.RUNNING
    assert f"broadcast {made.pk}: not started" in caplog.text


def everybody(tokens):
    return tokens


@pytest.fixture
def two_due(queue):
    """Two scheduled broadcasts whose time has come, the first of which cannot be started."""
    make_tokens(1)
    found = scheduled(title="One"), scheduled(title="Two")
    let_its_time_come(*found)
    return found


def fails_for(made, verb, error):
    """Return a verb that fails for one broadcast."""

    def attempt(broadcast, *args):
        if getattr(broadcast, "pk", broadcast) == made.pk:
            raise error
        return verb(broadcast, *args)

    return attempt


REFUSED = OperationalError("canceling statement due to lock timeout")


def test_a_start_whose_statement_is_called_off(two_due, monkeypatch, caplog):
    """The database is there: others are started, and this one at the next tick."""
    first, second = two_due
    with monkeypatch.context() as patch:
        patch.setattr(control, "start", fails_for(first, control.start, REFUSED))
        assert tick().started == 1
    assert f"broadcast {first.pk}: what is due could not be done" in caplog.text
    assert (reloaded(first).status, reloaded(second).status) == ("scheduled", "running")
    assert tick().started == 1


def test_an_expiry_whose_statement_is_called_off(two_due, monkeypatch):
    """The same of what is to be ended."""
    first, second = two_due
    Broadcast.objects.update(expires_at=F("scheduled_at"))
    with monkeypatch.context() as patch:
        patch.setattr(control, "expire", fails_for(first, control.expire, REFUSED))
        assert tick().expired == 1
    assert reloaded(second).status == BroadcastStatus.EXPIRED
    assert tick().expired == 1


def test_a_broker_in_the_database_whose_statement_is_called_off(two_due, monkeypatch):
    """The same of the worker that is asked for: the other has one, and this one at the next tick."""
    first, second = two_due
    assert tick().woken == 2
    Broadcast.objects.update(awake_until=None)
    asked = []
    assert tick(look_after=fails_for(first, asked.append, REFUSED)).woken == 1
    assert tick(look_after=asked.append).woken == 1
    assert asked == [second.pk, first.pk]


def test_a_database_that_is_lost_at_a_start(two_due, monkeypatch):
    """Nothing more can be done: that is said, not logged for each of them."""
    first, _ = two_due
    monkeypatch.setattr(control, "start", fails_for(first, control.start, REFUSED))
    monkeypatch.setattr(connection, "is_usable", lambda: False)
    with pytest.raises(OperationalError):
        tick()
    with pytest.raises(OperationalError):
        tick(look_after=fails_for(first, lambda pk: None, REFUSED))


# --- stranded -------------------------------------------------------------------------------------


def test_two_ticks_do_not_wake_twice(queue):
    """A broadcast that was just looked after is left to the worker that was asked for."""
    make_tokens(1)
    made = started()
    assert tick().woken == 1
    assert tick().woken == 0
    Broadcast.objects.update(awake_until=F("awake_until") - timedelta(seconds=control.AWAKE_FOR))
    assert tick().woken == 1
    assert queue == [("drain_broadcast", made.pk)] * 2


def test_a_tick_right_after_a_start(queue, monkeypatch):
    """Whoever was just asked for is waited for, unless the queue was away."""
    make_tokens(1)
    made = started()
    control.ask_for_workers(made.pk, 1)
    assert (len(queue), tick().woken) == (1, 0)
    monkeypatch.setattr(Queue, "is_away", True)
    with pytest.raises(RuntimeError):
        control.ask_for_workers(made.pk, 1)
    monkeypatch.setattr(Queue, "is_away", False)
    assert (tick().woken, len(queue)) == (1, 2)


def test_a_worker_that_is_gone(queue):
    """Its lease ends, its broadcast is woken, and nobody is missed."""
    rows = make_tokens(4)
    made = started(batch_size=2)
    drained(made, watch=lambda: None, is_stopped=lambda: len(testing.outbox) >= 2)
    claimed(made)
    assert tick().woken == 1
    assert drained(made).is_running
    let_time_pass(made)
    assert finished(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert made.progress.resent == 2


def test_what_is_not_running_is_not_woken(queue):
    """Paused and ended ones wait for somebody, or for nothing."""
    make_tokens(1)
    paused, over = started(), started()
    control.pause(paused)
    control.cancel(over)
    assert tick().woken == 0


def test_a_queue_that_is_away(queue, monkeypatch, caplog):
    """It is logged, the next one is tried, the rest is done, and the next tick asks again."""
    make_tokens(1)
    started()
    started()
    monkeypatch.setattr(Queue, "is_away", True)
    done = tick()
    assert done.woken == 0
    assert done.receipts is not None
    assert caplog.text.count("no worker was woken") == 2
    monkeypatch.setattr(Queue, "is_away", False)
    assert tick().woken == 2


def test_a_stop(queue):
    """It is heard before each broadcast."""
    make_tokens(1)
    started()
    done = tick(is_stopped=lambda: True)
    assert (done.woken, done.receipts, queue) == (0, None, [])


# --- over -----------------------------------------------------------------------------------------


def test_what_has_expired_is_ended(queue):
    """Whatever state it was in, and before it is started or woken."""
    make_tokens(1)
    late, slow = scheduled(expires=timedelta(hours=1)), started(expires=timedelta(hours=1))
    let_its_time_come(late)
    Broadcast.objects.update(expires_at=F("expires_at") - timedelta(hours=3))
    done = tick()
    assert (done.expired, done.started, done.woken) == (2, 0, 0)
    assert {reloaded(made).status for made in (late, slow)} == {BroadcastStatus.EXPIRED}
    assert tick().expired == 0


def test_what_never_came_back_is_called_unknown(queue):
    """Leases of a cancelled broadcast that have ended."""
    make_tokens(2)
    made = started()
    claimed(made)
    control.cancel(made)
    assert tick().swept == 0
    let_time_pass(made)
    assert str(tick()) == "1 swept"
    assert (states(made), made.progress.unknown) == ([BatchStatus.UNKNOWN], 2)


def test_receipts_are_asked_for(queue, settings):
    """Those that are due, unless it is told to leave them."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(2)
    made = started()
    with testing.fake_transport("default", all_ok):
        drained(made)
    ReceiptBatch.objects.update(due_at=F("due_at") - timedelta(hours=1))

    def answer(request):
        reply = {"data": {name: {"status": "ok"} for name in request.receipt_ids}}
        return Reply(status=200, body=json.dumps(reply).encode())

    with testing.fake_transport("default", answer):
        assert tick(with_receipts=False).receipts is None
        assert tick().receipts.ok == 2
    assert lane_of(made).receipts_ok == 2


# --- pruning --------------------------------------------------------------------------------------


def mixed():
    """Return a broadcast that has ended with some of everything."""
    rows = make_tokens(12)
    unknown(rows[0])
    answer_all(rows[1:3], Outcome.UNREGISTERED)
    answer_all(rows[3:5], Outcome.REJECTED)
    made = started(batch_size=2, max_sends=2)
    drained(made, is_stopped=lambda: len(testing.outbox) >= 8)
    let_time_pass(made)
    claimed(made, 2)
    rows[1].delete()
    control.cancel(made)
    let_time_pass(made)
    control.sweep()
    return reloaded(made)


def age(made, days=31):
    ago = timedelta(days=days)
    Broadcast.objects.filter(pk=made.pk).update(finished_at=F("finished_at") - ago)
    PushProblem.objects.update(created=F("created") - ago)


def test_pruning_keeps_the_counts():
    """The batches and problems go; what they said is said as before, however often it is pruned."""
    made = mixed()
    before = made.progress
    assert before.unknown
    assert before.failed
    count = batches_of(made).count() + PushProblem.objects.count()
    assert prune() == 0
    age(made)
    assert prune() == count
    assert not BroadcastBatch.objects.exists()
    assert not PushProblem.objects.exists()
    after = made.progress
    assert after.as_json() == before.as_json()
    assert prune() == 0
    assert made.progress.as_json() == before.as_json()


def test_pruning_leaves_what_is_not_over():
    """A broadcast that runs, or is paused, keeps its batches however old it is."""
    make_tokens(2)
    made = started(batch_size=1)
    claimed(made, 1)
    control.pause(made)
    age(made)
    Broadcast.objects.update(finished_at=F("started_at") - timedelta(days=60))
    assert prune() == 0
    assert batches_of(made).exists()


def test_pruning_is_part_of_a_tick(queue):
    """And is told."""
    make_tokens(1)
    made = finished(started())
    age(made)
    assert str(tick()) == "1 pruned"


def test_pruning_is_whole_or_not_at_all():
    """Counts are moved with the batches, or both stay."""
    made = mixed()
    before = made.progress.as_json()
    age(made)

    def is_delete(sql):
        return sql.startswith("DELETE") and "broadcastbatch" in sql

    with database_lost(when=is_delete) as failed, pytest.raises(OperationalError):
        prune()
    assert failed
    assert made.progress.as_json() == before
