"""What a reader with no good intentions has tried: a second call, a cancel, a queue that piles up, quotas."""

import time
from datetime import timedelta

import pytest
from django.db.models import F

from django_push import Outcome, testing
from django_push.broadcasts import control, drain, draining, prune, rates, results, tick, ticking
from django_push.broadcasts.rates import Bucket, Limit, Reservation, reserved, returned
from django_push.broadcasts.results import Result, record, record_progress
from django_push.dispatch import jobs
from django_push.exceptions import InvalidBroadcast
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    PushProblem,
    RateBucket,
    database_seconds,
)
from django_push.outcomes import Ticket
from tests.broadcasts.factories import (
    LOCMEM,
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
    unknown,
)

pytestmark = pytest.mark.django_db


def tickets(targets, outcome):
    return [Ticket(target=target, outcome=outcome, backend="default") for target in targets]


def test_a_second_call_with_another_list():
    """The key alone decides: the first call's broadcast is returned, with the first call's members."""
    rows = make_tokens(3)
    first = drafted(rows[:2], key="k")
    assert drafted(rows, key="k").pk == first.pk
    assert lane_of(first).size == 2


# --- cancel, expire, send again -------------------------------------------------------------------


def test_a_cancel_tells_what_may_have_been_sent():
    """What waits after an answer was lost is unknown; what was refused, or never claimed, is cancelled."""
    made = started(make_tokens(6), batch_size=2)
    lost, refused = claimed(made), claimed(made)
    record(made, lost, Result(unknown=tickets(lost.targets, Outcome.UNKNOWN)))
    record(made, refused, Result(refused=tickets(refused.targets, Outcome.NOT_SENT)))
    assert states(made) == [BatchStatus.RETRY, BatchStatus.RETRY, BatchStatus.PLANNED]
    assert control.cancel(made)
    assert states(made) == [BatchStatus.UNKNOWN, BatchStatus.CANCELLED, BatchStatus.CANCELLED]
    assert (made.progress.unknown, made.progress.cancelled) == (2, 4)


def test_a_cancel_after_unknown_ones_were_to_be_sent_again():
    """They may have been sent, even if the only send there may be was given back to them."""
    unknown(*make_tokens(2))
    made = finished(started(max_sends=1))
    assert control.resend_unknown(made, workers=0) == 2
    assert batch_of(made).sends == 0
    assert control.cancel(reloaded(made))
    assert states(made) == [BatchStatus.UNKNOWN]


def test_a_cancel_after_some_of_those_were_refused():
    """What is split off from its batch still tells that somebody had it sent again, so may have it."""
    make_tokens(4)
    made = started(on_unknown="skip")
    lost = claimed(made)
    record(made, lost, Result(unknown=tickets(lost.targets, Outcome.UNKNOWN)))
    assert control.resend_unknown(made, workers=0) == 4
    again = claimed(reloaded(made))
    unknown_ones = tickets(again.targets[:2], Outcome.UNKNOWN)
    record(made, again, Result(unknown=unknown_ones, refused=tickets(again.targets[2:], Outcome.UNAVAILABLE)))
    assert states(made) == [BatchStatus.UNKNOWN, BatchStatus.RETRY]
    assert control.cancel(reloaded(made))
    assert states(made) == [BatchStatus.UNKNOWN, BatchStatus.UNKNOWN]
    progress = made.progress
    assert (progress.unknown, progress.cancelled, progress.resent) == (4, 0, 4)


def test_unknown_ones_are_not_sent_again_after_its_time():
    """What has come late is not wanted any more."""
    unknown(*make_tokens(2))
    made = finished(started(expires=timedelta(hours=1)))
    Broadcast.objects.update(expires_at=F("expires_at") - timedelta(hours=2))
    with pytest.raises(InvalidBroadcast, match="run out"):
        control.resend_unknown(made)
    assert states(made) == [BatchStatus.UNKNOWN]


def test_unknown_ones_of_a_paused_broadcast():
    """Their lane is paused as well: nothing is sent before somebody resumes it."""
    lost = make_tokens(2)
    others = make_tokens(2, backend="other")
    unknown(*lost)
    made = started(max_sends=1)
    control.pause(made, lane="other")
    drained(made)
    assert reloaded(made).status == BroadcastStatus.PAUSED
    testing.reset()
    assert control.resend_unknown(reloaded(made)) == 2
    paused = lane_of(made)
    assert (paused.status, paused.pause_reason) == (LaneStatus.PAUSED, PauseReason.OPERATOR)
    assert claimed(made).status == LaneStatus.PAUSED
    assert control.resume(reloaded(made))
    assert finished(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in (*lost, *others)}


# --- workers --------------------------------------------------------------------------------------


class Queue:
    """A dispatcher that keeps what it is asked for."""

    can_defer = True
    jobs = []

    def enqueue(self, job, payload, *, delay=0.0):
        self.jobs.append((job, payload))


class Broken(Queue):
    """A dispatcher whose broker is away."""

    def enqueue(self, job, payload, *, delay=0.0):
        raise RuntimeError("the broker is away")


@pytest.fixture
def queue(settings, monkeypatch):
    monkeypatch.setattr(Queue, "jobs", [])
    monkeypatch.setattr(draining, "LINGER", 0.0)
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"
    return Queue.jobs


def test_ticks_without_workers_do_not_multiply_tasks(queue):
    """When the workers are back, those of the last tick go on, and those before end at once."""
    [row] = make_tokens(1)
    unknown(row)
    made = started(workers=2)
    queue.clear()
    for _ in range(60):
        Broadcast.objects.update(awake_until=None)
        tick(with_receipts=False)
    assert len(queue) == 120
    for _ in range(3):
        asked = list(queue)
        queue.clear()
        for job, payload in asked:
            jobs.run(job, payload)
        assert queue == [("drain_broadcast", {"broadcast": made.pk, "wake": reloaded(made).wake_no})] * 2
    assert copies() == {row.token: 1}


def test_a_worker_whose_dispatcher_fails(queue, settings, caplog):
    """Its own work is done and counted, and ``push_tick`` has the rest at once."""
    rows = make_tokens(2)
    unknown(rows[0])
    made = started()
    settings.PUSH_DISPATCHER = f"{__name__}.Broken"
    assert draining.work(made.pk, made.wake_no).is_running
    assert counted(made) == {Outcome.ACCEPTED: 1}
    assert reloaded(made).awake_until is None
    assert "no worker could be asked for" in caplog.text


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        (control.cancel, BroadcastStatus.CANCELLED),
        (control.pause, BroadcastStatus.PAUSED),
        (lambda made: control.pause(made, lane="default"), BroadcastStatus.PAUSED),
    ],
    ids=["cancel", "pause", "pause-lane"],
)
def test_who_waits_for_quota_hears_of_a_cancel(monkeypatch, verb, status):
    """A block of an hour is not waited for by one whose broadcast is over, or paused."""
    monkeypatch.setattr(draining, "NAP", 0.01)
    monkeypatch.setattr(draining, "LOOK_AROUND", 0.05)
    make_tokens(1)
    made = started()
    rates.block("default", 3600.0)
    began, done = time.monotonic(), []

    def watch():
        if not done:
            done.append(verb(reloaded(made)))

    ended = drain(made.pk, watch=watch, is_stopped=lambda: time.monotonic() - began > 3)
    assert time.monotonic() - began < 2
    assert (done, ended.status) == ([True], status)
    assert testing.outbox == []


# --- quota ----------------------------------------------------------------------------------------


def test_a_list_is_cut_to_a_second_s_quota():
    """Planned batches are as large as was thought right before there was a rate."""
    rows = make_tokens(10)
    made = started(rows, rate=3)
    drained(made, budget=0.3)
    assert len(testing.outbox) == 3
    assert sorted(batches_of(made).values_list("status", "size")) == [("done", 3), ("planned", 7)]
    progress = made.progress
    assert (progress.accepted, progress.pending, progress.total) == (3, 7, 10)


RAMP = Limit("ramp", 100.0, 60.0)


def test_idle_polls_cost_nothing(settings):
    """Who finds nothing to claim gives back what it has reserved, also where a ramp has charged more."""
    options = {"broadcast_rate": 100.0, "broadcast_ramp": 60.0}
    settings.PUSH_BACKENDS = {"default": {**LOCMEM, "OPTIONS": options}}
    make_tokens(1)
    made = started()
    claimed(made)
    for _ in range(50):
        assert drained(made).is_running
    assert RateBucket.objects.get(key="default").spoken_for <= database_seconds("default")
    for _ in range(300):
        rates.give_back(RAMP, 100, rates.take(RAMP, 100))
    assert rates.take(RAMP, 1).wait == pytest.approx(0, abs=0.01)


def test_what_is_given_back_on_a_ramp():
    """All of it is as if it had never been, so that waiting warms nothing up; of a part, what it cost."""
    now = 1_700_000_000.0
    before = Bucket(now - 30, 0.0, now - 40)
    after, wait = reserved(before, RAMP, 100, now)
    taken = Reservation(wait, 100, (after.spoken_for - now) / 100, before, after)
    assert returned(after, RAMP, 100, taken) == before
    part = returned(after, RAMP, 75, taken)
    assert part.spoken_for - now == pytest.approx((after.spoken_for - now) / 4)
    later, _ = reserved(after, RAMP, 100, now)
    both = returned(later, RAMP, 100, taken)
    assert later.spoken_for - both.spoken_for == pytest.approx(after.spoken_for - now)


# --- what is kept ---------------------------------------------------------------------------------


def ended_long_ago(made):
    Broadcast.objects.filter(pk=made.pk).update(finished_at=F("finished_at") - timedelta(days=31))


def test_pruning_leaves_what_is_sent_again_meanwhile(monkeypatch):
    """A broadcast that runs again when its lane's turn comes keeps its batches."""
    lost, _ = make_tokens(2)
    unknown(lost)
    made = finished(started(max_sends=1))
    ended_long_ago(made)
    lock, again = ticking.lock_lanes, []

    def late(found):
        again.append(control.resend_unknown(reloaded(made), workers=0))
        return lock(found)

    monkeypatch.setattr(ticking, "lock_lanes", late)
    assert prune() == 0
    assert again == [1]
    testing.reset()
    assert finished(made).progress.accepted == 2
    assert copies() == {lost.token: 1}


def test_quotas_of_broadcasts_are_pruned():
    """They go a day after their last use; those of aliases stay."""
    now = database_seconds("default")
    for key, used in [
        ("broadcast:1", 90_000),
        ("broadcast:2", 80_000),
        ("broadcast:3", -50),
        ("default", 90_000),
    ]:
        RateBucket.objects.create(key=key, spoken_for=now - used)
    RateBucket.objects.create(key="broadcast:4", blocked_until=now)
    prune()
    left = RateBucket.objects.order_by("key").values_list("key", flat=True)
    assert list(left) == ["broadcast:2", "broadcast:3", "broadcast:4", "default"]


def test_problems_of_a_batch_over_many_records(monkeypatch):
    """There are no more rows than the limit, over progress, its end, and another claim of it."""
    monkeypatch.setattr(results, "MOST_PROBLEMS", 3)
    make_tokens(10)
    made = started()
    held = claimed(made)
    for part in (held.targets[:2], held.targets[2:4], held.targets[4:5]):
        assert record_progress(made, held, Result(final=tickets(part, Outcome.REJECTED)), 75.0)
    assert PushProblem.objects.count() == 3
    refused = tickets(held.targets[5:], Outcome.NOT_SENT)
    assert record(made, held, Result(refused=refused))
    let_time_pass(made)
    again = claimed(made)
    assert record(made, again, Result(final=tickets(again.targets, Outcome.REJECTED)))
    assert counted(made) == {Outcome.REJECTED: 10}
    assert PushProblem.objects.count() == 3
