"""A drainer: lanes in turn, budgets, a lost database, and who asks to be woken again."""

import time

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from django_push import Outcome, testing
from django_push.broadcasts import control, drain, draining, lane, rates
from django_push.broadcasts.results import Result, record
from django_push.handler import Channel, push_backends
from django_push.models import PROTOCOL, BatchStatus, BroadcastStatus, PauseReason
from django_push.wire import Failure, Reply
from tests.broadcasts.factories import (
    EXPO,
    Threads,
    all_ok,
    answer_all,
    batch_of,
    batches_of,
    claimed,
    copies,
    counted,
    database_lost,
    drafted,
    drained,
    finished,
    lane_of,
    make_expo_tokens,
    make_tokens,
    reloaded,
    started,
    states,
    two_projects,
    unknown,
)

pytestmark = pytest.mark.django_db
alone = pytest.mark.django_db(transaction=True)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(draining, "NAP", 0.001)


# --- what it takes on -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [None, control.schedule, control.cancel])
def test_what_does_not_run_is_left_alone(verb):
    """Its status is the answer."""
    make_tokens(1)
    made = drafted()
    if verb is not None:
        verb(made)
    ended = drained(made)
    assert (ended.status, ended.wait, ended.is_running) == (reloaded(made).status, None, False)
    assert testing.outbox == []


def test_a_broadcast_that_is_gone(caplog):
    """A task that comes too late fails nobody."""
    assert drain(4711).status == ""
    assert "4711 is gone" in caplog.text


def test_a_broadcast_of_newer_code(caplog):
    """An older worker leaves it to newer ones, as it is."""
    make_tokens(1)
    made = started()
    made.protocol = PROTOCOL + 1
    made.save()
    assert drained(made).status == ""
    assert reloaded(made).status == BroadcastStatus.RUNNING
    assert not batches_of(made).exists()
    assert "newer code" in caplog.text


def test_a_broadcast_that_is_deleted_while_it_runs():
    """The drainer ends, and what is out is nobody's."""
    make_tokens(4)
    made = started(batch_size=1)

    def watch():
        reloaded(made).delete()

    assert drained(made, watch=once(watch)).status == ""
    assert len(testing.outbox) == 1


def once(work):
    done = []

    def watch():
        if not done:
            done.append(1)
            work()

    return watch


def test_a_task_that_comes_twice():
    """The second finds nothing to do."""
    make_tokens(3)
    made = started()
    for _ in range(3):
        assert drained(made).status == BroadcastStatus.DONE
    assert len(testing.outbox) == 3


@pytest.mark.parametrize("verb", [control.pause, control.cancel])
def test_an_operator_comes_between(verb):
    """What is in flight is finished, and nothing more is claimed."""
    make_tokens(6)
    made = started(batch_size=2)
    ended = drained(made, watch=once(lambda: verb(reloaded(made))))
    assert ended.status == reloaded(made).status
    assert not ended.is_running
    assert counted(made) == {Outcome.ACCEPTED: 2}


def test_it_expires_between_two_batches(monkeypatch):
    """What had not been sent by then never is, and it is said."""
    make_tokens(6)
    made = started(batch_size=2)
    over = []

    def run_out():
        row = reloaded(made)
        row.expires_at = row.started_at
        row.save()
        over.append(row)

    drained(made, watch=once(run_out), is_stopped=lambda: bool(over))
    ended = drained(made)
    assert ended.status == BroadcastStatus.EXPIRED
    assert lane_of(made).status == "cancelled"
    assert 0 < len(testing.outbox) < 6


def after(times):
    asked = []

    def is_stopped():
        asked.append(1)
        return len(asked) > times

    return is_stopped


# --- lanes in turn --------------------------------------------------------------------------------


def test_lanes_take_turns(monkeypatch):
    """No alias waits until another has been through."""
    monkeypatch.setattr(draining, "SLICE", 0.01)
    make_tokens(12)
    make_tokens(12, backend="other")
    made = started(batch_size=1)
    slow = lane.claim
    monkeypatch.setattr(lane, "claim", lambda *args, **more: time.sleep(0.002) or slow(*args, **more))
    assert drained(made).status == BroadcastStatus.DONE
    order = [push.backend for push in testing.outbox]
    first_of = {alias: order.index(alias) for alias in ("default", "other")}
    last_of = {alias: len(order) - order[::-1].index(alias) for alias in ("default", "other")}
    assert first_of["other"] < last_of["default"]
    assert first_of["default"] < last_of["other"]


def test_a_lane_that_waits_keeps_no_other_waiting():
    """While one alias is asked to wait, the other is sent to its end."""
    rows = make_tokens(2)
    make_tokens(6, backend="other")
    answer_all(rows, Outcome.RATE_LIMITED, about_project=True, retry_after=600.0)
    made = started(batch_size=2)
    ended = drained(made)
    assert lane_of(made, "other").status == "done"
    assert ended.is_running
    assert ended.wait > 500


def test_a_lane_that_is_resumed_is_noticed(monkeypatch):
    """A drainer that is at work on others takes it on."""
    monkeypatch.setattr(draining, "LOOK_AROUND", 0.0)
    make_tokens(2)
    make_tokens(4, backend="other")
    made = started(batch_size=1)
    control.pause(made, lane="default")
    resume = once(lambda: control.resume(reloaded(made), lane="default", workers=0))
    assert drained(made, watch=resume).status == BroadcastStatus.DONE
    assert len(testing.outbox) == 6


@pytest.mark.parametrize(
    "lose",
    [
        lambda users: users.get().user_permissions.clear(),
        lambda users: users.update(is_active=False),
        lambda users: users.get().delete(),
    ],
    ids=["permission", "inactive", "deleted"],
)
def test_a_user_who_may_no_longer_broadcast(impatient, monkeypatch, lose):
    """It is noticed at the next look around, also by a drainer that has all the time there is."""
    monkeypatch.setattr(draining, "LOOK_AROUND", 0.0)
    users = get_user_model().objects.filter(username="ada")
    users.create(username="ada").user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    make_tokens(3)
    made = started(user=users.get(), rate=0.1)
    began = time.monotonic()
    ended = drain(
        made.pk,
        watch=lambda: len(testing.outbox) == 1 and reloaded(made).created_by_id and lose(users),
        is_stopped=lambda: time.monotonic() - began > 3,
    )
    assert ended.status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.PERMISSION
    assert len(testing.outbox) == 1


# --- how long -------------------------------------------------------------------------------------


def test_a_budget_that_is_used_up():
    """Without any it claims nothing, and says that there is something to do at once."""
    make_tokens(1)
    made = started()
    ended = drain(made.pk, budget=0.0)
    assert (ended.status, ended.wait) == (BroadcastStatus.RUNNING, 0.0)
    assert not batches_of(made).exists()


def test_a_wait_that_is_longer_than_the_linger():
    """It ends, and says when there is something to do."""
    unknown(*make_tokens(1))
    made = started()
    ended = drain(made.pk, linger=1.0)
    assert ended.is_running
    assert 5 < ended.wait <= 15


def test_a_wait_that_is_worth_it(monkeypatch):
    """A short one is waited out, others' work being looked at meanwhile."""
    monkeypatch.setattr(draining, "NAP", 0.01)
    monkeypatch.setattr("django_push.broadcasts.results.FIRST_WAIT", 0.05)
    [row] = make_tokens(1)
    testing.answer(row.token, Outcome.UNAVAILABLE)
    made = started()
    watched = []

    def watch():
        watched.append(1)
        if len(testing.outbox) == 2:
            testing.answers.clear()

    assert drain(made.pk, linger=5.0, watch=watch).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 1}
    assert len(testing.outbox) == 3
    assert len(watched) > 3


def test_a_stop_while_it_waits(monkeypatch):
    """It is heard within a nap."""
    monkeypatch.setattr(draining, "NAP", 0.01)
    unknown(*make_tokens(1))
    made = started()
    began = time.monotonic()
    ended = drain(made.pk, is_stopped=lambda: bool(testing.outbox) and time.monotonic() - began > 0.05)
    assert ended.is_running
    assert time.monotonic() - began < 2


def test_it_looks_whether_others_have_done_it(monkeypatch):
    """A lease of another worker is looked at now and then, not waited for to its end."""
    monkeypatch.setattr(draining, "NAP", 0.01)
    monkeypatch.setattr(lane, "POLL", 0.02)
    make_tokens(1)
    made = started()
    held = claimed(made)

    def watch():
        if batches_of(made).get().status == BatchStatus.LEASED:
            record(made, held, Result(unsent=list(held.targets)))

    began = time.monotonic()
    assert drain(made.pk, watch=watch).status == BroadcastStatus.DONE
    assert time.monotonic() - began < 2
    assert len(testing.outbox) == 1


# --- awake ----------------------------------------------------------------------------------------


def test_others_are_told_that_somebody_is_there():
    """While it works ``awake_until`` lies ahead; when it ends with work left, nobody is said to be there."""
    make_tokens(2)
    made = started(batch_size=1)
    seen = []
    drained(made, watch=lambda: seen.append(reloaded(made).awake_until), is_stopped=after(8))
    assert all(until is not None for until in seen)
    assert seen
    row = reloaded(made)
    assert row.status != BroadcastStatus.RUNNING or row.awake_until is None


class Queue:
    """A dispatcher that keeps what it is asked for."""

    can_defer = True
    jobs = []

    def enqueue(self, job, payload, *, delay=0.0):
        self.jobs.append((job, payload, delay))


class Simple(Queue):
    can_defer = False


@pytest.fixture
def queue(settings):
    Queue.jobs.clear()
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"
    return Queue.jobs


def test_workers_of_an_earlier_call_come_to_an_end(queue, monkeypatch):
    """However often workers are asked for, those of the last time alone go on."""
    monkeypatch.setattr(draining, "LINGER", 0.0)
    unknown(*make_tokens(1))
    made = started(workers=2)
    for _ in range(3):
        control.ask_for_workers(made.pk, 2)
    asked = [payload["wake"] for _, payload, _ in queue]
    assert asked == [1, 1, 2, 2, 3, 3]
    queue.clear()
    for number in asked[:4]:
        assert draining.work(made.pk, number).status == ""
    assert (queue, testing.outbox) == ([], [])
    for number in asked[4:]:
        draining.work(made.pk, number)
    assert [payload["wake"] for _, payload, _ in queue] == [3, 3]


def test_a_worker_asks_to_be_woken_again(queue, monkeypatch):
    """When there is more to do, at the time when there is; others know that it will be looked after."""
    monkeypatch.setattr(draining, "LINGER", 0.0)
    unknown(*make_tokens(1))
    made = started()
    number = made.wake_no
    ended = draining.work(made.pk, number)
    asked = {"broadcast": made.pk, "wake": number}
    assert [(job, payload) for job, payload, _ in queue] == [("drain_broadcast", asked)]
    assert queue[0][2] == ended.wait > 5
    assert (reloaded(made).awake_until - made.started_at).total_seconds() > ended.wait + 50


def test_a_worker_that_has_done_all(queue):
    """It asks for nothing."""
    make_tokens(1)
    made = started()
    assert draining.work(made.pk).status == BroadcastStatus.DONE
    assert queue == []


def test_a_worker_whose_queue_cannot_wait(settings, queue, monkeypatch):
    """It leaves the rest to ``push_tick``, which finds that nobody is there."""
    settings.PUSH_DISPATCHER = f"{__name__}.Simple"
    monkeypatch.setattr(draining, "LINGER", 0.0)
    unknown(*make_tokens(1))
    made = started()
    assert draining.work(made.pk).is_running
    assert queue == []
    assert reloaded(made).awake_until is None


# --- the database goes away -----------------------------------------------------------------------


def writes(table):
    return lambda sql: sql.startswith(("UPDATE", "INSERT")) and f"broadcast{table}" in sql


@alone
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(writes("batch"), id="batch"),
        pytest.param(writes("lane"), id="lane"),
        pytest.param(lambda sql: sql.startswith("SELECT") and "pushtoken" in sql, id="page"),
        pytest.param(lambda sql: "ratebucket" in sql, id="rate"),
    ],
)
def test_a_database_that_is_lost_and_comes_back(impatient, when, caplog):
    """It is waited for; nobody is missed, and nobody gets two."""
    rows = make_tokens(6)
    made = started(batch_size=2, rate=1e6)
    with database_lost(3, when) as failed:
        assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == 3
    assert copies() == {row.token: 1 for row in rows}
    assert counted(made) == {Outcome.ACCEPTED: 6}
    assert "the database is lost: OperationalError" in caplog.text


@alone
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_result_that_could_not_be_written(impatient, times):
    """It is kept, and written when the database is back, before anything else is claimed."""
    rows = make_tokens(4)
    answer_all(rows[:1], Outcome.UNREGISTERED)
    made = started(batch_size=2)

    def is_result(sql):
        return writes("batch")(sql) and len(testing.outbox) == 2

    with database_lost(times, is_result) as failed:
        assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == times
    assert copies() == {row.token: 1 for row in rows}
    assert counted(made) == {Outcome.ACCEPTED: 3, Outcome.UNREGISTERED: 1}


@alone
@pytest.mark.parametrize("end", ["stop", "budget"])
def test_a_result_that_could_not_be_written_in_time(impatient, end):
    """It is written even if the drainer was told to stop meanwhile, or its time is over."""
    rows = make_tokens(4)
    made = started(batch_size=2)

    def is_result(sql):
        return writes("batch")(sql) and bool(testing.outbox)

    options = {"is_stopped": lambda: bool(testing.outbox)} if end == "stop" else {}
    with database_lost(2, is_result) as failed:
        if end == "budget":
            began = time.monotonic()
            options["watch"] = lambda: time.sleep(max(0.0, 0.6 - (time.monotonic() - began)))
            options["budget"] = 0.3
        drained(made, **options)
    assert len(failed) == 2
    assert counted(made) == {Outcome.ACCEPTED: 2}
    assert finished(made).progress.resent == 0
    assert copies() == {row.token: 1 for row in rows}


@alone
def test_a_database_that_is_lost_right_after_a_claim(impatient, monkeypatch):
    """What is claimed is sent when it is back, with no send wasted, rather than left under its lease."""
    give_back = rates.give_back
    failed = []

    def lost(*args):
        if not failed:
            failed.append(args)
            raise OperationalError("server closed the connection unexpectedly")
        give_back(*args)

    rows = make_tokens(5)  # less than a batch, so that there is something to give back
    made = started(rate=1e6, on_unknown="skip")
    monkeypatch.setattr(rates, "give_back", lost)
    assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == 1
    assert copies() == {row.token: 1 for row in rows}
    assert (counted(made), made.progress.unknown) == ({Outcome.ACCEPTED: 5}, 0)


@alone
def test_a_commit_that_is_not_confirmed(impatient, monkeypatch):
    """The answer to the commit is lost: what it wrote counts once, and what it claimed is claimed once."""
    rows = make_tokens(6)
    made = started(batch_size=2)
    commit = connection._commit
    lost = []

    def unconfirmed():
        commit()
        if 3 <= len(lost) < 6:
            lost.append(1)
            raise OperationalError("server closed the connection unexpectedly")
        lost.append(1)

    monkeypatch.setattr(connection, "_commit", unconfirmed)
    drained(made)
    monkeypatch.undo()
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 6}
    sent = copies()
    assert set(sent) == {row.token for row in rows}
    assert sum(sent.values()) - 6 <= made.progress.resent


@alone
@pytest.mark.parametrize(("name", "is_stopped"), [("PATIENCE", False), ("LAST_PATIENCE", True)])
def test_a_database_that_does_not_come_back(impatient, monkeypatch, name, is_stopped):
    """After so long the drainer gives up, sooner if it was told to stop, and says why."""
    monkeypatch.setattr(draining, name, 0.02)
    make_tokens(1)
    made = started()
    gone = []

    def from_then_on(sql):
        gone.extend([sql] * writes("lane")(sql))
        return bool(gone)

    with database_lost(10_000, from_then_on), pytest.raises(OperationalError):
        drained(made, is_stopped=lambda: is_stopped and bool(gone))
    assert gone
    assert finished(made).status == BroadcastStatus.DONE


def test_inside_somebody_s_transaction(impatient):
    """A transaction that is broken is its owner's to begin again: nothing is waited for."""
    make_tokens(1)
    made = started()
    with database_lost(1, writes("lane")) as failed, pytest.raises(OperationalError):
        drained(made)
    assert len(failed) == 1


# --- requests in flight ---------------------------------------------------------------------------


@pytest.fixture
def expo(settings, monkeypatch):
    """Return a function that sets what Expo answers, several requests being out at once."""
    settings.PUSH_BACKENDS = {"default": EXPO}

    def use(answer):
        transport = Threads(answer)
        channel = push_backends.channel("default")
        replaced = Channel(channel.backend, transport, channel.credentials)
        monkeypatch.setitem(push_backends._channels, "default", replaced)
        return transport

    return use


@pytest.mark.parametrize("end", ["none", "pause", "budget"])
def test_what_is_to_be_sent_in_another_form_when_the_time_is_over(expo, end):
    """A batch whose last reply asks for that is sent to its end, or put back; it is not left leased."""
    rows = make_expo_tokens(200)
    made = started(batch_size=100)
    transport = expo(two_projects)
    options = {}
    if end == "pause":  # both are out, and the next claim finds that it is
        transport.on_sent = lambda: len(transport.seen) == 2 and control.pause(reloaded(made))
    if end == "budget":
        answer = transport.answer
        began = time.monotonic()

        def slow(request):
            time.sleep(max(0.0, 0.2 - (time.monotonic() - began)))
            return answer(request)

        transport.answer = slow
        options["budget"] = 0.2
    drained(made, **options)
    assert BatchStatus.LEASED not in states(made)
    if end == "pause":
        control.resume(reloaded(made), workers=0)
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: len(rows)}
    assert made.progress.resent == 0


def test_what_is_put_back_in_another_form(expo):
    """None of it is unknown, so it stays one batch."""
    make_expo_tokens(100)
    made = started(batch_size=100)
    transport = expo(two_projects)
    drained(made, is_stopped=lambda: bool(transport.seen))
    batch = batch_of(made)
    assert (batch.status, batch.size, batch.sends, batch.code) == (BatchStatus.RETRY, 100, 0, "")


@alone
def test_replies_that_come_after_a_claim_has_failed(expo, impatient):
    """What was out when the database was lost is listened to, and counted."""
    rows = make_expo_tokens(600)
    made = started(batch_size=200)
    transport = expo(all_ok)

    def is_second_claim(sql):
        return len(transport.seen) == 2 and writes("lane")(sql)

    with database_lost(2, is_second_claim) as failed:
        assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == 2
    sent = [target.value for request in transport.seen for target in request.targets]
    assert sorted(sent) == [row.token for row in rows]
    assert counted(made) == {Outcome.ACCEPTED: 600}


@alone
def test_a_renewal_that_fails(expo, impatient, monkeypatch):
    """A lease that cannot be prolonged because the database is lost is prolonged when it is back."""
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)
    rows = make_expo_tokens(600)
    made = started(batch_size=600)
    transport = expo(all_ok)

    def is_renewal(sql):
        return len(transport.seen) == 2 and writes("batch")(sql)

    with database_lost(2, is_renewal) as failed:
        assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == 2
    assert sorted(t.value for r in transport.seen for t in r.targets) == [row.token for row in rows]
    assert (counted(made), made.progress.resent) == ({Outcome.ACCEPTED: 600}, 0)


@alone
@pytest.mark.parametrize("end", ["stop", "budget"])
def test_a_renewal_that_fails_when_the_time_is_over(expo, impatient, monkeypatch, end):
    """What was out is counted, and the rest put back: nothing stays leased."""
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)
    make_expo_tokens(600)
    made = started(batch_size=600)
    transport = expo(all_ok)
    began = time.monotonic()

    def is_renewal(sql):
        return len(transport.seen) == 2 and writes("batch")(sql)

    def is_over():
        return len(transport.seen) >= 2 if end == "stop" else False

    if end == "budget":
        transport.answer = lambda request: (
            time.sleep(max(0.0, 0.3 - time.monotonic() + began)) or all_ok(request)
        )
    with database_lost(1, is_renewal):
        drained(made, is_stopped=is_over, budget=0.3 if end == "budget" else None)
    assert BatchStatus.LEASED not in states(made)
    made = finished(made)
    assert counted(made) == {Outcome.ACCEPTED: 600}
    assert made.progress.resent == 0


@alone
def test_a_renewal_that_fails_beside_a_lost_answer(expo, impatient, monkeypatch):
    """The request that was about to go out is surely unsent, and no part of what is unknown."""
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)
    rows = make_expo_tokens(300)
    made = started(batch_size=300, on_unknown="skip")

    def first_is_lost(request):
        is_first = request.targets[0].pk == rows[0].pk
        return Reply(failure=Failure.MAYBE_SENT, reason="timeout") if is_first else all_ok(request)

    def is_renewal(sql):
        return len(transport.seen) == 1 and writes("batch")(sql)

    transport = expo(first_is_lost)
    with database_lost(1, is_renewal) as failed:
        drained(made)
    assert len(failed) == 1
    assert finished(made).status == BroadcastStatus.DONE
    assert sorted(t.value for r in transport.seen for t in r.targets) == [row.token for row in rows]
    assert (counted(made), made.progress.unknown) == ({Outcome.ACCEPTED: 200}, 100)


@alone
def test_a_renewal_that_fails_before_another_form(expo, impatient, monkeypatch):
    """The request goes out when the database is back; its batch is not left until the lease ends."""
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)
    make_expo_tokens(100)
    made = started(batch_size=100)
    transport = expo(two_projects)

    def is_renewal(sql):
        return len(transport.seen) == 1 and writes("batch")(sql)

    with database_lost(1, is_renewal) as failed:
        assert drained(made).status == BroadcastStatus.DONE
    assert len(failed) == 1
    assert [len(request.targets) for request in transport.seen] == [100, 50, 50]
    assert (counted(made), made.progress.resent) == ({Outcome.ACCEPTED: 100}, 0)


@pytest.mark.parametrize(("answer", "accepted"), [(all_ok, 100), (two_projects, 0)])
def test_a_cancel_that_is_found_before_a_request(settings, monkeypatch, answer, accepted):
    """That request does not go out, be it the next or one in another form."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    monkeypatch.setattr(lane, "LEAST_LEFT", 10.0)  # as after a long freeze
    make_expo_tokens(300)
    made = started(batch_size=300)

    def cancelled(request):
        control.cancel(reloaded(made))
        return answer(request)

    with testing.fake_transport("default", cancelled) as transport:
        assert drained(made).status == BroadcastStatus.CANCELLED
    assert [len(request.targets) for request in transport.requests] == [100]
    progress = made.progress
    assert (progress.accepted, progress.cancelled, progress.unknown) == (accepted, 300 - accepted, 0)


# --- cost -----------------------------------------------------------------------------------------


def test_statements_of_a_batch():
    """From quota to result each further batch takes at most 22 with a rate, dead tokens included."""
    counts = []
    for alias, batches in (("default", 1), ("other", 6)):
        rows = make_tokens(10 * batches, backend=alias)
        answer_all(rows[::5], Outcome.UNREGISTERED)
        made = started(using=alias, batch_size=10, rate=1e6)
        with CaptureQueriesContext(connection) as queries:
            assert drained(made).status == BroadcastStatus.DONE
        counts.append(len(queries))
    assert (counts[1] - counts[0]) / 5 <= 22
