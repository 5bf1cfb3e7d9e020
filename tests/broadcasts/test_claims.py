"""What may be sent, by whom, and until when: claims and leases."""

import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_push import Outcome, register_token, testing, unregister_token
from django_push.broadcasts import audiences, control
from django_push.broadcasts.claims import GRACE, Claim, Idle, claim
from django_push.broadcasts.packing import unpack
from django_push.broadcasts.results import Result, record
from django_push.models import BatchStatus, BroadcastBatch, LaneStatus, get_token_model
from django_push.outcomes import Ticket
from tests.broadcasts.factories import (
    LEASE,
    Tokens,
    batch_of,
    batches_of,
    claimed,
    copies,
    finished,
    lane_of,
    let_time_pass,
    make_tokens,
    started,
    states,
)

pytestmark = pytest.mark.django_db


def keys(held):
    return [target.pk for target in held.targets]


def result_of(held, outcome=Outcome.ACCEPTED):
    tickets = [Ticket(target=target, outcome=outcome, backend="default") for target in held.targets]
    return Result(refused=tickets) if outcome is Outcome.NOT_SENT else Result(final=tickets)


# --- the next page --------------------------------------------------------------------------------


def test_pages_are_disjoint_and_cover_the_audience():
    """Claims take the audience in the order of its keys, each token once, until none is left."""
    rows = make_tokens(7)
    made = started()
    claims = [claimed(made, 3) for _ in range(3)]
    assert [keys(found) for found in claims] == [
        [row.pk for row in part] for part in (rows[:3], rows[3:6], rows[6:])
    ]
    assert [found.size for found in claims] == [3, 3, 1]
    assert lane_of(made).is_read
    assert lane_of(made).cursor == rows[-1].pk


def test_the_committed_claim_is_the_record_of_intent():
    """Its row has the tokens, counts a send and ends with the lease before anything goes out."""
    rows = make_tokens(2)
    made = started()
    held = claimed(made)
    batch = batch_of(made)
    assert [pk for pk, _ in unpack(batch.pks)] == [row.pk for row in rows]
    assert (batch.status, batch.claim_no, batch.sends, batch.pending) == (BatchStatus.LEASED, 1, 1, 2)
    assert batch.due_at - batch.claimed_at == timedelta(seconds=LEASE)
    assert held.number == 1
    assert not held.is_again
    assert 0 < held.lease_ends - time.monotonic() <= LEASE


def test_an_exact_last_page():
    """An audience that ends with a page is known to be over at the next claim."""
    make_tokens(4)
    made = started()
    claims = [claimed(made, 2), claimed(made, 2)]
    assert not lane_of(made).is_read
    for found in claims:
        assert record(made, found, result_of(found))
    assert claimed(made, 2) == Idle(status=LaneStatus.DONE)
    assert lane_of(made).status == LaneStatus.DONE


def test_only_sendable_tokens_of_the_alias():
    """Muted, retired and other aliases' tokens are not claimed."""
    muted, gone, row = make_tokens(3)
    make_tokens(1, backend="other")
    Tokens.filter(pk=muted.pk).update(enabled=False)
    Tokens.filter(pk=gone.pk).update(status="retired")
    assert keys(claimed(started())) == [row.pk]


def test_tokens_registered_during_the_run_are_not_included():
    """The audience ends with the newest token at the start."""
    [row] = make_tokens(1)
    made = started()
    register_token("late", backend="default")
    assert keys(claimed(made)) == [row.pk]
    assert lane_of(made).is_read


def test_tokens_behind_the_cursor_that_become_sendable():
    """What was not sendable when its page was claimed is not part of the broadcast."""
    first, second = make_tokens(2)
    Tokens.filter(pk=first.pk).update(enabled=False)
    made = started()
    assert keys(claimed(made, 1)) == [second.pk]
    Tokens.filter(pk=first.pk).update(enabled=True)
    claimed(made, 1)
    assert copies() == {}
    assert batches_of(made).count() == 1


def test_a_deleted_token_ahead_of_the_cursor():
    """A row that goes before its page is claimed is simply not there."""
    rows = make_tokens(4)
    made = started()
    claimed(made, 2)
    Tokens.filter(pk=rows[2].pk).delete()
    assert keys(claimed(made, 2)) == [rows[3].pk]


# --- again ----------------------------------------------------------------------------------------


def test_a_lease_that_has_not_ended():
    """Somebody else's claim is left alone for as long as it lasts."""
    make_tokens(1)
    made = started()
    claimed(made)
    idle = claimed(made)
    assert isinstance(idle, Idle)
    assert idle.status == LaneStatus.RUNNING
    assert 0 < idle.wait <= LEASE


def test_a_lease_that_has_ended():
    """The batch is claimed again, counted as one more send, with all its tokens sent again."""
    rows = make_tokens(2)
    made = started()
    claimed(made)
    let_time_pass(made)
    again = claimed(made)
    assert keys(again) == [row.pk for row in rows]
    assert (again.number, again.sends, again.is_again, again.resent) == (2, 2, True, 2)
    batch = batch_of(made)
    assert (batch.claim_no, batch.sends, batch.resent) == (2, 2, 2)


def test_what_is_due_again_goes_first():
    """An old batch is claimed before the next page."""
    rows = make_tokens(4)
    made = started()
    claimed(made, 2)
    let_time_pass(made)
    assert keys(claimed(made, 2)) == [row.pk for row in rows[:2]]
    assert keys(claimed(made, 2)) == [row.pk for row in rows[2:]]


@pytest.mark.parametrize(("policy", "sends"), [("retry", 3), ("retry", 1), ("skip", 1)])
def test_a_worker_that_is_lost_again_and_again(policy, sends):
    """A batch is claimed up to the cap, or once if what is unknown is skipped; then it is unknown."""
    make_tokens(2)
    made = started(on_unknown=policy, max_sends=sends if policy == "retry" else 3)
    for _ in range(sends):
        assert isinstance(claimed(made), Claim)
        let_time_pass(made)
    assert claimed(made) == Idle(status=LaneStatus.DONE)
    batch = batch_of(made)
    assert (batch.status, batch.code, batch.sends) == (BatchStatus.UNKNOWN, "WorkerLost", sends)
    assert made.progress.unknown == 2
    assert made.progress.resent == 2 * (sends - 1)


@pytest.mark.parametrize("change", ["delete", "mute", "retire", "transfer", "move", "logout"])
def test_a_token_that_changes_between_two_claims(change):
    """What is no longer sendable, or is somebody else's, is skipped and counted as such."""
    ada, bob = (get_user_model().objects.create(username=name) for name in ("ada", "bob"))
    row, other = make_tokens(2, user=ada)
    made = started()
    claimed(made)
    rows = Tokens.filter(pk=row.pk)
    if change == "delete":
        rows.delete()
    elif change == "mute":
        rows.update(enabled=False)
    elif change == "retire":
        rows.update(status="retired")
    elif change == "transfer":
        register_token(row.token, user=bob, backend="default")
    elif change == "move":
        rows.update(backend="other")
    else:
        unregister_token(row.token, backend="default")
    let_time_pass(made)
    again = claimed(made)
    assert keys(again) == [other.pk]
    batch = batch_of(made)
    assert (batch.pending, batch.skipped, batch.size, batch.resent) == (1, 1, 2, 1)
    assert again.counts == {"skipped": 1}


def test_a_token_claimed_by_its_user_between_two_claims():
    """A login on a phone that was nobody's is a change of hands too."""
    [row] = make_tokens(1)
    made = started()
    claimed(made)
    register_token(row.token, user=get_user_model().objects.create(username="ada"), backend="default")
    let_time_pass(made)
    assert claimed(made) == Idle(status=LaneStatus.DONE)
    assert made.progress.skipped == 1


def test_a_batch_of_which_nothing_is_left():
    """It is done without a send, and the next one is claimed at once."""
    rows = make_tokens(4)
    made = started()
    claimed(made, 2)
    Tokens.filter(pk__in=[row.pk for row in rows[:2]]).delete()
    let_time_pass(made)
    assert keys(claimed(made, 2)) == [row.pk for row in rows[2:]]
    assert states(made) == [BatchStatus.DONE, BatchStatus.LEASED]
    assert batches_of(made)[0].sends == 1


def test_a_token_that_rotates_between_two_claims():
    """The row is sent to by the token that it has now."""
    [row] = make_tokens(1, device_id="d")
    made = started()
    claimed(made)
    Tokens.filter(pk=row.pk).update(token="default-new")
    let_time_pass(made)
    assert [target.value for target in claimed(made).targets] == ["default-new"]


def test_refused_tokens_are_claimed_at_their_time():
    """A refusal waits for as long as it was told to, and is no second send."""
    make_tokens(1)
    made = started()
    held = claimed(made)
    record(made, held, result_of(held, Outcome.NOT_SENT))
    idle = claimed(made)
    assert 9 < idle.wait <= 15
    let_time_pass(made)
    again = claimed(made)
    assert (again.number, again.sends, again.is_again, again.resent) == (2, 1, False, 0)


# --- nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [control.pause, control.cancel])
def test_nothing_is_claimed_after_a_pause_or_cancel(verb):
    """Once it has committed, no claim finds a running lane."""
    make_tokens(1)
    made = started()
    assert verb(made)
    idle = claimed(made)
    assert idle.wait is None
    assert idle.status == lane_of(made).status != LaneStatus.RUNNING
    assert not BroadcastBatch.objects.exists()


def test_nothing_is_claimed_of_a_broadcast_that_is_gone():
    """A lane that was deleted counts as cancelled."""
    make_tokens(1)
    made = started()
    lane = lane_of(made)
    pk = lane.pk
    made_pk, _ = made.pk, made.delete()
    made.pk = made_pk
    assert claim(made, pk, 10, LEASE) == Idle(status=LaneStatus.CANCELLED)


def test_nothing_is_claimed_after_its_time():
    """An expired broadcast's tokens are not sent to, even if nobody has said so yet."""
    make_tokens(1)
    made = started(expires=timedelta(hours=1))
    made.expires_at -= timedelta(hours=2)
    assert claimed(made).wait is None
    assert not BroadcastBatch.objects.exists()


def test_nothing_is_claimed_while_the_lane_is_left_alone():
    """A hold is waited for."""
    make_tokens(1)
    made = started()
    lane = lane_of(made)
    lane.hold_until = made.started_at + timedelta(minutes=5)
    lane.save()
    assert 0 < claimed(made).wait <= 300


def test_one_asks_after_many_misses():
    """From the third batch without an answer on, a claim holds the lane for all others."""
    make_tokens(2)
    made = started()
    lane = lane_of(made)
    lane.misses = GRACE
    lane.save()
    probe = claimed(made, 1)
    assert probe.misses == GRACE
    idle = claimed(made, 1)
    assert idle.wait == pytest.approx(LEASE, abs=5)


def test_an_audience_that_cannot_be_read_any_more(settings):
    """A named audience that is gone raises, and leaves no claim behind."""
    settings.PUSH_AUDIENCES = {"all": "tests.broadcasts.test_claims.all_of_them"}
    make_tokens(1)
    made = started("all")
    settings.PUSH_AUDIENCES = {}
    with pytest.raises(audiences.InvalidAudience):
        claimed(made)
    assert not BroadcastBatch.objects.exists()


def all_of_them(tokens):
    return tokens


# --- lists ----------------------------------------------------------------------------------------


def test_a_list_is_claimed_as_it_was_written_down():
    """Planned batches are claimed whole, or cut to what may be sent at once."""
    rows = make_tokens(5)
    made = started([rows[4], rows[0], rows[2]], batch_size=2)
    claims = [claimed(made, 1), claimed(made, 1), claimed(made, 1)]
    assert [len(found.targets) for found in claims] == [1, 1, 1]
    assert sorted(pk for found in claims for pk in keys(found)) == [rows[0].pk, rows[2].pk, rows[4].pk]
    assert [found.sends for found in claims] == [1, 1, 1]
    assert not any(found.is_again for found in claims)
    for found in claims:
        record(made, found, result_of(found))
    assert claimed(made) == Idle(status=LaneStatus.DONE)


def test_a_list_of_tokens_that_have_all_gone():
    """It ends by itself: everything was skipped."""
    rows = make_tokens(3)
    made = started(rows, batch_size=1)
    Tokens.filter(backend="default").delete()
    assert claimed(made) == Idle(status=LaneStatus.DONE)
    assert (made.progress.skipped, made.progress.total, made.progress.pending) == (3, 3, 0)


def test_a_listed_token_that_changes_hands_before_it_is_claimed():
    """What was chosen for one user is not sent to another."""
    ada, bob = (get_user_model().objects.create(username=name) for name in ("ada", "bob"))
    [row] = make_tokens(1, user=ada)
    made = started(ada)
    register_token(row.token, user=bob, backend="default")
    assert finished(made).status == "done"
    assert testing.outbox == []
    assert made.progress.skipped == 1


# --- cost -----------------------------------------------------------------------------------------


def test_statements_of_a_claim(django_assert_max_num_queries):
    """A claim of a thousand tokens takes at most six statements and the transaction's own two."""
    make_tokens(1000)
    made = started()
    lane = lane_of(made)
    with django_assert_max_num_queries(8):
        assert len(claim(made, lane.pk, 1000, LEASE).targets) == 1000


@pytest.mark.skipif(
    connection.vendor == "mysql", reason="its plan is chosen by statistics it has yet to gather"
)
def test_the_page_is_read_by_its_index():
    """The hot query goes by alias, status and key, and sorts nothing."""
    make_tokens(300)
    make_tokens(4000, backend="other")
    made = started()
    claimed(made, 50)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {get_token_model()._meta.db_table}")
    with CaptureQueriesContext(connection) as queries:
        claimed(made, 50)
    table = get_token_model()._meta.db_table
    [page] = [q["sql"] for q in queries if q["sql"].startswith("SELECT") and f'FROM "{table}"' in q["sql"]]
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    with connection.cursor() as cursor:
        cursor.execute(explain + page)
        plan = "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())
    names = [index.name for index in get_token_model()._meta.indexes]
    by_page = [i.name for i in get_token_model()._meta.indexes if i.fields == ["backend", "status", "id"]]
    assert by_page, names
    assert by_page[0] in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_the_cursor_moves_with_the_claim():
    """It is written with the batch, not with its result."""
    rows = make_tokens(3)
    made = started()
    claimed(made, 2)
    assert lane_of(made).cursor == rows[1].pk
