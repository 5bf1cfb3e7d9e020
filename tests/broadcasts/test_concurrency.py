"""Workers of the same moment: threads with connections of their own, on a database server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models import F
from django.utils import timezone as clock

from django_push import Outcome, register_token, signals, testing
from django_push.broadcasts import broadcast, claims, control, creating, draining, lane, rows, tick
from django_push.broadcasts.claims import Claim
from django_push.broadcasts.results import Result, record
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastStatus,
    LaneStatus,
    instant,
)
from django_push.outcomes import Ticket
from django_push.tokens import writing
from tests.broadcasts.factories import (
    answer_all,
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
    status_of,
)

pytestmark = [
    pytest.mark.services,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor == "sqlite",
        reason="SQLite has one writer at a time; set PUSH_TEST_DATABASE to postgresql or mysql",
    ),
]

on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="others cannot tell")


def at_once(*verbs):
    """Run each verb in a thread and a connection of its own, from one moment; return their results."""
    barrier = threading.Barrier(len(verbs))

    def run(verb):
        try:
            connection.ensure_connection()
            barrier.wait(10)
            return verb()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(verbs)) as pool:
        return [done.result(60) for done in [pool.submit(run, verb) for verb in verbs]]


@pytest.fixture(autouse=True)
def _queue(settings):
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"
    Queue.jobs.clear()
    Queue.numbers.clear()


class Queue:
    """A dispatcher that keeps what it is asked for."""

    can_defer = True
    jobs = []
    numbers = []

    def enqueue(self, job, payload, *, delay=0.0):
        self.jobs.append(payload["broadcast"])
        self.numbers.append(payload["wake"])


@pytest.fixture
def heard():
    """The broadcasts that were said to be over."""
    names = []

    def hear(broadcast, **about):
        names.append(broadcast.pk)

    signals.broadcast_finished.connect(hear)
    yield names
    signals.broadcast_finished.disconnect(hear)


def test_claims_of_several_workers_are_disjoint():
    """No token is in two claims, and none is left out."""
    rows = make_tokens(60)
    made = started()

    def work():
        found = []
        while isinstance(held := claimed(made, 3), Claim):
            found += [target.pk for target in held.targets]
        return found

    taken = [pk for found in at_once(*[work] * 4) for pk in found]
    assert sorted(taken) == [row.pk for row in rows]


def test_a_batch_is_taken_over_by_one():
    """Of several workers that find the same lease at its end one gets it."""
    make_tokens(2)
    made = started()
    claimed(made)
    for number in (2, 3):
        let_time_pass(made)
        found = at_once(*[lambda: claimed(made)] * 4)
        assert [held.number for held in found if isinstance(held, Claim)] == [number]
        assert BroadcastBatch.objects.get().sends == number


def test_a_claim_that_waited_long_for_its_lane(monkeypatch):
    """Its lease is counted from when it got the lock: nobody finds it at its end before it has begun."""
    monkeypatch.setattr(claims, "LATE", 0.3)
    make_tokens(20)
    made = started(batch_size=10, on_unknown="skip")
    key = lane_of(made).pk
    is_locked = threading.Event()

    def stand():
        with transaction.atomic():
            rows.lock_lane(key)
            is_locked.set()
            time.sleep(1.2)

    def late():
        assert is_locked.wait(10)
        held = claimed(made, 10, lease=1.0)
        batch = BroadcastBatch.objects.get(pk=held.batch)
        return held.lease_ends - time.monotonic(), instant(batch.due_at, "default") - rows.moment()

    _, (left, left_by_the_row) = at_once(stand, late)
    assert left > 0
    assert left_by_the_row.total_seconds() > 0


@on_postgresql
@pytest.mark.parametrize("verb", ["claim", "drain"])
def test_a_process_that_stands_still_with_a_lock(monkeypatch, verb):
    """PostgreSQL ends its transaction: others go on, and it claims nothing when it wakes up."""
    monkeypatch.setattr(writing, "STANDSTILL", 0.3)
    monkeypatch.setattr(draining, "NAP", 0.01)
    make_tokens(20)
    made = started(batch_size=10)
    page = claims._page
    is_frozen, is_cancelled = threading.Event(), threading.Event()
    waited = []

    def freezes(*args):
        if not is_frozen.is_set():
            is_frozen.set()
            waited.append(is_cancelled.wait(5))
        return page(*args)

    def freeze():
        if verb == "drain":
            return drained(made).status
        with pytest.raises(OperationalError):
            claimed(made, 10)
        return lane_of(made).status

    def cancel():
        assert is_frozen.wait(10)
        control.cancel(reloaded(made))
        is_cancelled.set()

    monkeypatch.setattr(claims, "_page", freezes)
    assert at_once(freeze, cancel)[0] == BroadcastStatus.CANCELLED
    assert waited == [True]
    assert not batches_of(made).exists()


def test_workers_that_are_asked_for_at_once():
    """Each time has a number of its own, so that the last alone have the turn."""
    make_tokens(1)
    made = started()

    def ask():
        for _ in range(10):
            control.ask_for_workers(made.pk, 1)

    at_once(*[ask] * 4)
    assert sorted(Queue.numbers) == list(range(1, 41))
    assert reloaded(made).wake_no == 40


def test_a_result_against_its_takeover():
    """Either the result counts and nothing is claimed again, or it is discarded: never both, never none."""
    make_tokens(2)
    for _ in range(8):
        made = started()
        held = claimed(made)
        let_time_pass(made)
        tickets = [Ticket(target=target, outcome=Outcome.ACCEPTED) for target in held.targets]
        is_ours, again = at_once(
            lambda made=made, held=held, tickets=tickets: record(made, held, Result(final=tickets)),
            lambda made=made: claimed(made),
        )
        assert is_ours is not isinstance(again, Claim)
        assert batches_of(made).get().status == (BatchStatus.DONE if is_ours else BatchStatus.LEASED)


def test_drainers_of_several_processes(heard):
    """Everybody gets one, dead tokens go, the counts add up, and it is over once."""
    rows = [*make_tokens(60), *make_tokens(30, backend="other")]
    answer_all(rows[::10], Outcome.UNREGISTERED)
    made = started(batch_size=4)
    at_once(*[lambda: drained(made)] * 4)
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}
    assert counted(made) == {Outcome.ACCEPTED: 81, Outcome.UNREGISTERED: 9}
    assert (made.progress.resent, heard) == (0, [made.pk])
    assert status_of(rows[10]) == "unregistered"


def test_a_list_that_is_drained_by_several():
    """Planned batches are taken once each."""
    rows = make_tokens(40)
    made = started(rows, batch_size=2)
    at_once(*[lambda: drained(made)] * 4)
    assert finished(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}


@pytest.mark.parametrize("verb", [control.pause, control.cancel])
def test_nothing_is_claimed_after_a_committed_stop(verb):
    """Workers are claiming all the while; from the commit on none gets anything."""
    make_tokens(400)
    made = started()
    stopped = []

    def work():
        late = 0
        while True:
            was_stopped = bool(stopped)
            if not isinstance(claimed(made, 1), Claim):
                return late
            late += was_stopped

    def stop():
        time.sleep(0.05)
        assert verb(reloaded(made))
        stopped.append(1)

    *late, _ = at_once(work, work, work, stop)
    assert late == [0, 0, 0]
    assert lane_of(made).status in (LaneStatus.PAUSED, LaneStatus.CANCELLED)
    assert 0 < BroadcastBatch.objects.count() < 400


def test_a_start_against_a_cancel():
    """However they meet, a cancelled broadcast has no lane that runs."""
    make_tokens(1)
    for _ in range(8):
        made = drafted()
        at_once(
            lambda made=made: control.start(reloaded(made)),
            lambda made=made: control.cancel(reloaded(made)),
        )
        assert reloaded(made).status == BroadcastStatus.CANCELLED
        assert not made.lanes.filter(status=LaneStatus.RUNNING).exists()


def test_a_pause_against_a_resume():
    """They take turns: the lanes are what the broadcast is."""
    make_tokens(1)
    make_tokens(1, backend="other")
    made = started()
    for _ in range(6):
        at_once(
            lambda: control.pause(reloaded(made)),
            lambda: control.resume(reloaded(made), workers=0),
            lambda: control.pause(reloaded(made), lane="other"),
        )
        status = reloaded(made).status
        running = made.lanes.filter(status=LaneStatus.RUNNING).count()
        assert running == 0 if status == BroadcastStatus.PAUSED else running > 0
        control.resume(reloaded(made), workers=0)


def test_a_pause_in_the_middle_of_a_resume(monkeypatch):
    """It waits for the resume to commit, then pauses what that has set going."""
    make_tokens(1)
    make_tokens(1, backend="other")
    made = started()
    control.pause(reloaded(made), lane="other")
    change = control._change
    is_resumed = threading.Event()

    def slow(broadcast, states, status, **columns):
        is_changed = change(broadcast, states, status, **columns)
        if status == BroadcastStatus.RUNNING:
            is_resumed.set()
            time.sleep(0.3)
        return is_changed

    def pause():
        assert is_resumed.wait(10)
        return control.pause(reloaded(made))

    monkeypatch.setattr(control, "_change", slow)
    assert at_once(lambda: control.resume(reloaded(made), workers=0), pause) == [True, True]
    assert reloaded(made).status == BroadcastStatus.PAUSED
    assert not made.lanes.exclude(status=LaneStatus.PAUSED).exists()


def test_two_operators_press_at_once():
    """One key is one broadcast, started once, with its list written down once."""
    rows = make_tokens(6)
    for number in range(4):
        made = at_once(*[lambda n=number: broadcast(rows, title="Hi", key=f"k{n}", batch_size=2)] * 3)
        assert len({found.pk for found in made}) == 1
        assert batches_of(made[0]).count() == 3
        assert Queue.jobs == [made[0].pk]
        Queue.jobs.clear()


def test_two_processes_begin_a_draft():
    """It is started once."""
    make_tokens(1)
    for _ in range(4):
        made = drafted()
        assert sorted(at_once(*[lambda made=made: creating.begin(reloaded(made))] * 3)) == [
            False,
            False,
            True,
        ]
        assert made.lanes.count() == 1


def test_two_ticks_at_once():
    """What is scheduled is started once."""
    make_tokens(1)
    made = drafted(schedule=clock.now() + timedelta(hours=1))
    control.schedule(made)
    Broadcast.objects.update(scheduled_at=F("scheduled_at") - timedelta(hours=2))
    ticks = at_once(*[lambda: tick(with_receipts=False, look_after=lambda key: None)] * 3)
    assert sum(done.started for done in ticks) == 1
    assert made.lanes.count() == 1


def test_registrations_while_it_runs():
    """A token is dead in the end if its last registration came before its claim, and only then."""
    rows = make_tokens(40)
    answer_all(rows, Outcome.UNREGISTERED)
    made = started(batch_size=4)

    def register():
        for row in reversed(rows):
            register_token(row.token, backend="default")

    at_once(lambda: drained(made), register)
    assert finished(made).status == BroadcastStatus.DONE
    for place, batch in enumerate(batches_of(made)):
        for row in rows[4 * place : 4 * place + 4]:
            row.refresh_from_db()
            was_before = instant(row.registered_at, "default") < instant(batch.claimed_at, "default")
            assert (row.status == "unregistered") is was_before


def test_one_asks_a_provider_that_is_down(monkeypatch):
    """While it does not answer, one worker at a time tries, and no send is wasted by the others."""
    rows = make_tokens(40)
    answer_all(rows, Outcome.NOT_SENT)
    monkeypatch.setattr(lane, "MOST_MISSES", 100)
    made = started(batch_size=1)
    at_once(*[lambda: drained(made)] * 4)
    before = len(testing.outbox)
    assert before <= 3 * 4
    for number in range(1, 4):
        let_time_pass(made)
        at_once(*[lambda: drained(made)] * 4)
        assert len(testing.outbox) == before + number


def test_a_rate_that_several_share():
    """Together they keep it."""
    rows = make_tokens(60)
    made = started(rate=50)
    began = time.monotonic()
    at_once(*[lambda: drained(made, linger=5.0)] * 3)
    took = time.monotonic() - began
    assert copies() == {row.token: 1 for row in rows}
    assert took >= 0.9
