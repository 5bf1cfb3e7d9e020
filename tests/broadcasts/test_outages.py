"""A provider that is away, and time that runs out: what is final then, and what is only later."""

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.db.models import CharField, Value
from django.db.models.functions import Cast, Concat

from django_push import Outcome, testing
from django_push.broadcasts import claims, control, draining, lane, results
from django_push.broadcasts.claims import GRACE, Claim
from django_push.broadcasts.results import Result, record
from django_push.models import BatchStatus, BroadcastBatch, BroadcastLane, BroadcastStatus, PauseReason
from django_push.outcomes import Ticket
from tests.broadcasts.factories import (
    EXPO,
    Tokens,
    all_ok,
    answer_all,
    batch_of,
    batches_of,
    claimed,
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
    unknown,
)

pytestmark = pytest.mark.django_db


def drained_for_long(made, times=results.MOST_CLAIMS + 4):
    """Drain again and again, with much time in between, for as long as it runs."""
    for _ in range(times):
        if not drained(made).is_running:
            return
        let_time_pass(made)


def sent_in_the_end(made, rows):
    """Let the provider be back: whether every token gets its push."""
    testing.reset()
    if reloaded(made).status == BroadcastStatus.PAUSED:
        assert control.resume(reloaded(made))
    assert finished(made).status == BroadcastStatus.DONE
    return copies() == {row.token: 1 for row in rows} and counted(made) == {Outcome.ACCEPTED: len(rows)}


@pytest.mark.parametrize("outcome", [Outcome.NOT_SENT, Outcome.UNAVAILABLE])
def test_an_outage_of_a_small_audience(monkeypatch, outcome):
    """The lane is paused before a token is given up, also if somebody resumes it too early."""
    monkeypatch.setattr(lane, "MOST_MISSES", 10)
    rows = make_tokens(3)
    answer_all(rows, outcome, code="Down")
    made = started()
    for _ in range(3):
        drained_for_long(made)
        assert reloaded(made).status == BroadcastStatus.PAUSED
        assert lane_of(made).pause_reason == PauseReason.PROVIDER_DOWN
        assert counted(made) == {}
        assert control.resume(reloaded(made))
    assert sent_in_the_end(made, rows)


@pytest.mark.parametrize("outcome", [Outcome.NOT_SENT, Outcome.UNAVAILABLE])
def test_a_bad_hour_of_the_provider(outcome):
    """Nobody need press a button: it goes on by itself with the first answer."""
    rows = make_tokens(40)
    answer_all(rows, outcome, code="Down")
    made = started(batch_size=10)
    drained_for_long(made, times=30)
    assert reloaded(made).status == BroadcastStatus.RUNNING
    assert sent_in_the_end(made, rows)


def test_few_are_asked_about_while_nobody_answers(monkeypatch):
    """Each token that the provider is asked about may have got the push."""
    monkeypatch.setattr(claims, "PROBE", 2)
    rows = make_tokens(60)
    unknown(*rows)
    made = started(batch_size=10)
    drained_for_long(made, times=6)
    assert [batch.size for batch in batches_of(made)] == [10] * GRACE + [2] * 5
    testing.reset()
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert [batch.size for batch in batches_of(made)] == [10] * GRACE + [2] * 6 + [10, 8]


def failed_together(made, held):
    """Let the provider's answers about claims that were out together be lost."""
    drainer = draining._Drainer(made, None, 0.0, lambda: False, lambda: None, True)
    own = drainer._lane(lane_of(made).pk, "default")
    for each in held:
        tickets = [Ticket(target=target, outcome=Outcome.UNKNOWN, code="Timeout") for target in each.targets]
        own._write(lane._Open(each, iter(()), Result(unknown=tickets), is_handed_out=True))


def test_one_outage_for_many_workers():
    """Batches that are out together lead to the first hold and no further; then each probe counts one."""
    make_tokens(400)
    made = started(batch_size=10)
    failed_together(made, [claimed(made, 10) for _ in range(12)])
    own = lane_of(made)
    assert own.misses == GRACE
    held_for = (own.hold_until - batches_of(made).last().claimed_at).total_seconds()
    assert held_for == pytest.approx(lane.FIRST_HOLD, abs=2)
    for number in range(1, 4):
        let_time_pass(made)
        failed_together(made, [claimed(made, 10)])
        assert lane_of(made).misses == GRACE + number
    assert reloaded(made).status == BroadcastStatus.RUNNING


def test_a_probe_beside_what_came_late():
    """Batches that were out before the first hold do not make the next longer."""
    make_tokens(100)
    made = started(batch_size=10)
    late = [claimed(made, 10) for _ in range(8)]
    failed_together(made, late[:4])
    let_time_pass(made)
    probe = claimed(made, 10)
    failed_together(made, [*late[4:6], probe, *late[6:]])
    assert lane_of(made).misses == GRACE + 1


def test_few_are_asked_about_again(monkeypatch):
    """Also of batches that wait for another try, when nothing else is left; the rest waits on."""
    monkeypatch.setattr(claims, "PROBE", 2)
    rows = make_tokens(20)
    unknown(*rows)
    made = started(batch_size=10, max_sends=5)
    drained_for_long(made, times=2)
    assert lane_of(made).misses == GRACE
    assert {(batch.size, batch.resent) for batch in batches_of(made)} == {(10, 10), (10, 0)}
    drained(made)
    assert sorted(batch.size for batch in batches_of(made)) == [2, 8, 10]
    assert made.progress.resent == 12
    testing.reset()
    made = finished(made)
    assert made.status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 20}
    assert (made.progress.total, made.progress.resent) == (20, 32)


def test_who_is_late_for_a_part_of_a_batch(monkeypatch):
    """A claimant that was taken for lost has nothing to say about either part."""
    monkeypatch.setattr(claims, "PROBE", 2)
    rows = make_tokens(6)
    made = started(max_sends=5)
    lost = claimed(made)
    BroadcastLane.objects.update(misses=GRACE)
    let_time_pass(made)
    probe = claimed(made)
    assert [target.pk for target in probe.targets] == [row.pk for row in rows[:2]]
    assert (probe.is_again, probe.resent) == (True, 2)
    tickets = [Ticket(target=target, outcome=Outcome.ACCEPTED) for target in lost.targets]
    assert not record(made, lost, Result(final=tickets))
    assert record(made, probe, Result(final=tickets[:2]))
    made = finished(made)
    assert counted(made) == {Outcome.ACCEPTED: 6}
    assert (made.progress.total, made.progress.resent) == (6, 6)
    assert copies() == {row.token: 1 for row in rows[2:]}


def test_a_probe_that_asks_nobody(settings):
    """Tokens that are refused before they are sent to keep the others waiting no longer."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(30)
    Tokens.update(token=Concat(Value("mal formed "), Cast("pk", CharField())))
    made = started(batch_size=10)
    BroadcastLane.objects.update(misses=GRACE)
    with testing.fake_transport("default", all_ok) as transport:
        assert drained(made).status == BroadcastStatus.DONE
    assert (transport.requests, made.progress.failed) == ([], 30)


def test_a_person_who_knows_better(monkeypatch):
    """What somebody has sent again is not left alone because of what was before."""
    rows = make_tokens(30)
    unknown(*rows)
    made = finished(started(batch_size=10, max_sends=1))
    assert lane_of(made).misses == GRACE
    control.resend_unknown(made, workers=0)
    assert (lane_of(made).misses, lane_of(made).hold_until) == (0, None)


def test_a_project_that_is_slowed_down_for_long():
    """It waits, as often as the provider asks for it."""
    rows = make_tokens(3)
    answer_all(rows, Outcome.RATE_LIMITED, about_project=True, retry_after=60.0)
    made = started()
    drained_for_long(made)
    assert reloaded(made).status == BroadcastStatus.RUNNING
    assert counted(made) == {}
    assert sent_in_the_end(made, rows)


def test_an_outage_after_many_claims():
    """Claims that were refused for another reason do not make the first lost connection final."""
    rows = make_tokens(3)
    answer_all(rows, Outcome.RATE_LIMITED, about_project=True, retry_after=60.0)
    made = started()
    drained_for_long(made)
    answer_all(rows, Outcome.NOT_SENT)
    drained(made)
    assert counted(made) == {}
    let_time_pass(made)
    assert sent_in_the_end(made, rows)


def test_a_token_that_is_refused_alone():
    """It is given up after so many claims, while the provider answers about others."""
    rows = make_tokens(3)
    testing.answer(rows[1].token, Outcome.UNAVAILABLE)
    made = started()
    for _ in range(results.MOST_CLAIMS + 1):
        drained(made)
        let_time_pass(made)
        BroadcastLane.objects.update(misses=0)  # another batch has been answered
    assert reloaded(made).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 2, Outcome.UNAVAILABLE: 1}
    assert copies()[rows[1].token] == results.MOST_CLAIMS


def test_a_token_refused_here_says_nothing_of_the_provider():
    """One malformed token in each batch does not hide that nobody answers about the others."""
    rows = make_tokens(9)
    for row in rows[::3]:
        Tokens.filter(pk=row.pk).update(token=f"mal formed {row.pk}")
    unknown(*rows)
    made = started(batch_size=3)
    drained(made)
    assert counted(made) == {Outcome.INVALID_TOKEN: 3}
    assert lane_of(made).misses == GRACE
    assert lane_of(made).hold_until is not None


# --- time -----------------------------------------------------------------------------------------


def test_time_runs_out_within_a_batch(settings, monkeypatch):
    """No request goes out afterwards; the rest is not sent, and that is said at once."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(250)
    made = started(batch_size=250, expires=timedelta(hours=1))
    moment, late = control.moment, []

    def answer(request):
        late.append(7200.0)  # so slow is the provider
        return all_ok(request)

    shifted = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(late), sleep=time.sleep)
    monkeypatch.setattr(lane, "time", shifted)
    monkeypatch.setattr(control, "moment", lambda: moment() + timedelta(seconds=sum(late)))
    began = time.monotonic()
    with testing.fake_transport("default", answer) as transport:
        assert drained(made).status == BroadcastStatus.EXPIRED
    assert time.monotonic() - began < 3
    assert [len(request.targets) for request in transport.requests] == [100]
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.pending) == (BatchStatus.CANCELLED, 100, 150)
    assert (made.progress.cancelled, made.progress.unknown) == (150, 0)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL gives times in a zone")
@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("due", ["2024-11-03 05:30+00", "2024-11-03 06:30+00"])
def test_a_batch_that_is_due_in_the_hour_that_comes_twice(settings, use_tz, due):
    """It is claimed, whichever of the two it is."""
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "America/New_York"
    make_tokens(2)
    made = started()
    held = claimed(made)
    refused = [Ticket(target=target, outcome=Outcome.NOT_SENT) for target in held.targets]
    record(made, held, Result(refused=refused))
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {BroadcastBatch._meta.db_table} SET due_at = %s", [due])
    again = claimed(made)
    assert isinstance(again, Claim)
    assert (again.batch, again.number) == (held.batch, 2)
