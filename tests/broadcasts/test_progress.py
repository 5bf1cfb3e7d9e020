"""How far a broadcast is, in one query, with counts that add up at every moment."""

import json
from datetime import timedelta

import pytest

from django_push import Outcome, testing
from django_push.broadcasts import control
from django_push.models import COUNTED, BroadcastBatch, LaneProgress, Progress
from tests.broadcasts.factories import (
    Tokens,
    answer_all,
    batches_of,
    claimed,
    drained,
    finished,
    lane_of,
    let_time_pass,
    make_tokens,
    reloaded,
    started,
    unknown,
)

pytestmark = pytest.mark.django_db


def assert_sound(made):
    """Every token of each lane is in one place, and each batch is the sum of its parts."""
    progress = made.progress
    for lane in progress.lanes:
        assert lane.told + lane.pending - lane.planned == lane.claimed
        assert 0 <= lane.told <= lane.claimed <= lane.total
        assert min(lane.pending, lane.planned, lane.unknown, lane.cancelled, lane.skipped, lane.resent) >= 0
    for batch in batches_of(made):
        told = sum(getattr(batch, name) for name in COUNTED)
        assert batch.size == batch.pending + batch.skipped + told


@pytest.mark.parametrize("lanes", [0, 1, 2])
def test_one_query(django_assert_num_queries, lanes):
    """However many lanes and batches there are."""
    for alias in ("default", "other")[:lanes]:
        make_tokens(6, backend=alias)
    made = started(batch_size=2)
    drained(made)
    with django_assert_num_queries(1):
        progress = made.progress
    assert (progress.total, progress.accepted) == (6 * lanes, 6 * lanes)


def test_before_and_while_and_after():
    """What is expected, in flight, told; exact once the audience is read."""
    make_tokens(5)
    made = started()
    assert (made.progress.total, made.progress.told, made.progress.pending) == (5, 0, 0)
    claimed(made, 2)
    [lane] = made.progress.lanes
    assert (lane.expected, lane.claimed, lane.pending, lane.in_flight) == (5, 2, 2, 1)
    assert (lane.total, lane.told, lane.is_read) == (5, 0, False)
    Tokens.filter(pk__gt=lane_of(made).cursor + 1).delete()
    let_time_pass(made)
    made = finished(made)
    [lane] = made.progress.lanes
    assert (lane.total, lane.told, lane.pending, lane.is_read, lane.status) == (3, 3, 0, True, "done")


def test_an_audience_that_was_counted_too_low():
    """The total never lies below what has been claimed."""
    make_tokens(4)
    made = started()
    lane = lane_of(made)
    lane.size = 1
    lane.save()
    claimed(made, 3)
    assert made.progress.total == 3


def test_a_list_is_exact_from_the_start():
    """Planned tokens are pending, and not claimed."""
    made = started(make_tokens(5), batch_size=2)
    [lane] = made.progress.lanes
    assert (lane.total, lane.claimed, lane.planned, lane.pending, lane.in_flight) == (5, 0, 5, 5, 0)
    claimed(made)
    [lane] = made.progress.lanes
    assert (lane.total, lane.claimed, lane.planned, lane.in_flight) == (5, 2, 3, 1)
    assert_sound(made)


def test_counts_add_up_all_the_way():
    """With every kind of answer, deletions and doubles, at each step."""
    rows = make_tokens(30)
    others = make_tokens(9, backend="other")
    unknown(*rows[:4], others[0])
    answer_all(rows[4:7], Outcome.UNREGISTERED)
    answer_all(rows[7:9], Outcome.UNAVAILABLE)
    answer_all(rows[9:11], Outcome.REJECTED)
    made = started(batch_size=4)
    for step in range(12):
        drained(made, watch=lambda: assert_sound(made))
        assert_sound(made)
        Tokens.filter(pk=rows[step].pk).delete()
        let_time_pass(made)
        if step == 3:
            testing.reset()
    made = reloaded(made)
    assert made.status == "done"
    assert (made.progress.total, made.progress.told, made.progress.pending) == (39, 39, 0)


def test_counts_add_up_after_a_cancel():
    """What was not sent is told apart from what may have been."""
    rows = make_tokens(9)
    unknown(rows[0])
    answer_all(rows[1:2], Outcome.UNAVAILABLE)
    made = started(rows, batch_size=3)
    drained(made, is_stopped=lambda: len(testing.outbox) >= 3)
    claimed(made)
    control.cancel(made)
    assert_sound(made)
    let_time_pass(made)
    control.sweep()
    assert_sound(made)
    progress = made.progress
    assert (progress.accepted, progress.unknown) == (1, 4)
    assert (progress.cancelled, progress.pending, progress.told) == (4, 0, 9)


def test_failures_are_what_has_a_verdict_and_is_no_success():
    """The unknown are not among them."""
    counts = {Outcome.ACCEPTED: 5, Outcome.REJECTED: 2, Outcome.UNREGISTERED: 1}
    progress = Progress(lanes=(LaneProgress(backend="a", status="done", counts=counts, unknown=7),))
    assert (progress.accepted, progress.failed, progress.unknown, progress.told) == (5, 3, 7, 15)


def test_as_json():
    """Plain values, of all lanes and of each, receipts and reasons included."""
    rows = make_tokens(3)
    answer_all(rows, Outcome.CREDENTIALS_REJECTED, code="401")
    make_tokens(1, backend="other")
    Tokens.create(token="x", backend="gone")
    made = started()
    drained(made)
    lane = lane_of(made, "other")
    lane.receipts_ok = 1
    lane.save()
    said = json.loads(json.dumps(made.progress.as_json()))
    assert said["total"] == 4
    assert said["unconfigured"] == 1
    assert said["counts"] == {"accepted": 1}
    first, second = said["lanes"]
    assert (first["status"], first["pause_reason"], first["pause_detail"]) == ("paused", "credentials", "401")
    assert (second["counts"], second["receipts"]) == ({"accepted": 1}, {"ok": 1})


def test_a_hold_is_shown():
    """Until when the provider is left alone."""
    make_tokens(1)
    made = started()
    lane = lane_of(made)
    lane.hold_until = made.started_at + timedelta(minutes=1)
    lane.save()
    assert made.progress.lanes[0].hold_until == lane_of(made).hold_until is not None


def test_progress_of_one_does_not_count_another_s():
    """Two broadcasts of the same tokens are apart."""
    make_tokens(4)
    first, second = started(), started(title="Another")
    drained(first)
    claimed(second, 1)
    assert (first.progress.accepted, second.progress.accepted) == (4, 0)
    assert BroadcastBatch.objects.count() == 2
    assert second.progress.pending == 1
