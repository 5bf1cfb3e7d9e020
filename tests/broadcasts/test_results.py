"""What came of a claim: written once, by its last claimant alone."""

import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.db.models import F

from django_push import Outcome, receipts, register_token
from django_push.broadcasts import control, results
from django_push.broadcasts.claims import Idle
from django_push.broadcasts.packing import unpack
from django_push.broadcasts.results import Result, backoff, record, record_progress, renew
from django_push.models import (
    COUNTED,
    BatchStatus,
    BroadcastBatch,
    PushProblem,
    ReceiptBatch,
)
from django_push.outcomes import Ticket
from tests.broadcasts.factories import (
    LEASE,
    Tokens,
    batch_of,
    batches_of,
    claimed,
    counted,
    database_lost,
    let_time_pass,
    make_tokens,
    started,
    states,
    status_of,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows():
    return make_tokens(4)


@pytest.fixture
def made(rows):
    return started()


def ticket(target, outcome=Outcome.ACCEPTED, **fields):
    return Ticket(target=target, outcome=outcome, backend="default", **fields)


def tickets(targets, outcome=Outcome.ACCEPTED, **fields):
    return [ticket(target, outcome, **fields) for target in targets]


def due_in(batch):
    """Return the seconds that a batch waits from its last claim on."""
    return (batch.due_at - batch.claimed_at).total_seconds()


# --- all told -------------------------------------------------------------------------------------


def test_all_accepted(made):
    """The batch is done, its keys are gone, its counters stay."""
    held = claimed(made)
    assert record(made, held, Result(final=tickets(held.targets)))
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.pending, bytes(batch.pks)) == (BatchStatus.DONE, 4, 0, b"")
    assert not PushProblem.objects.exists()
    assert not ReceiptBatch.objects.exists()


@pytest.mark.parametrize("outcome", [Outcome(name) for name in COUNTED])
def test_each_outcome_has_its_counter(made, outcome):
    """What is final is counted under its own name, in the batch and in the progress."""
    held = claimed(made)
    assert record(made, held, Result(final=tickets(held.targets, outcome)))
    assert getattr(batch_of(made), outcome.value) == 4
    assert counted(made) == {outcome: 4}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.UNREGISTERED, "unregistered"), (Outcome.INVALID_TOKEN, "invalid")],
)
def test_dead_tokens_are_deactivated(made, rows, outcome, status):
    """A dead token's row says which broadcast it died of."""
    held = claimed(made)
    dead, *others = held.targets
    final = [ticket(dead, outcome, code="Gone"), *tickets(others)]
    assert record(made, held, Result(final=final))
    row = Tokens.get(pk=rows[0].pk)
    assert (row.status, row.status_code, row.status_source) == (status, "Gone", f"broadcast:{made.pk}")
    assert status_of(rows[1]) == "active"
    assert not PushProblem.objects.exists()


def test_a_token_registered_again_since_the_claim(made, rows):
    """A dead verdict of an older claim does not deactivate it."""
    held = claimed(made)
    register_token(rows[0].token, backend="default")
    assert record(made, held, Result(final=tickets(held.targets, Outcome.UNREGISTERED)))
    assert [status_of(row) for row in rows] == ["active", *["unregistered"] * 3]


def test_a_token_registered_again_between_two_claims(made, rows):
    """The verdict of the second claim, which came after it, does."""
    claimed(made)
    register_token(rows[0].token, backend="default")
    let_time_pass(made)
    held = claimed(made)
    assert record(made, held, Result(final=tickets(held.targets, Outcome.UNREGISTERED)))
    assert status_of(rows[0]) == "unregistered"


def test_a_canonical_id_replaces_the_token(made, rows):
    """A reply that names another id for an accepted push changes the row."""
    held = claimed(made)
    first, *others = held.targets
    final = [ticket(first, replacement="default-canonical"), *tickets(others)]
    assert record(made, held, Result(final=final))
    assert Tokens.get(pk=rows[0].pk).token == "default-canonical"


def test_problems_have_rows(made, rows, monkeypatch):
    """Failures that are no dead tokens get a row each, up to a limit; their texts are cut."""
    monkeypatch.setattr(results, "MOST_PROBLEMS", 2)
    held = claimed(made)
    final = tickets(held.targets, Outcome.MESSAGE_REJECTED, code="Big" * 100, detail="too big")
    assert record(made, held, Result(final=final))
    problem, _ = PushProblem.objects.order_by("pk")
    assert (problem.backend, problem.broadcast_id, problem.token_id) == ("default", made.pk, rows[0].pk)
    assert (problem.outcome, len(problem.code), problem.detail) == ("message_rejected", 200, "too big")


def test_receipts_are_remembered_with_the_result(made):
    """Accepted tickets of a provider with receipts are kept, with the broadcast that sent them."""
    held = claimed(made)
    final = [ticket(target, id=f"id-{target.pk}") for target in held.targets]
    assert record(made, held, Result(final=final, has_receipts=True))
    kept = ReceiptBatch.objects.get()
    assert (kept.size, kept.broadcast_id, kept.backend) == (4, made.pk, "default")
    assert kept.sent_at == batch_of(made).claimed_at


# --- not told -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.UNAVAILABLE, Outcome.NOT_SENT])
def test_refusals_wait_and_give_their_send_back(made, outcome):
    """What was surely not accepted is no send, and is tried again after a while, doubled each time."""
    for number in (1, 2, 3):
        held = claimed(made)
        assert (held.number, held.sends) == (number, 1)
        assert record(made, held, Result(refused=tickets(held.targets, outcome, code="Busy")))
        batch = batch_of(made)
        assert (batch.status, batch.sends, batch.pending) == (BatchStatus.RETRY, 0, 4)
        assert (batch.code, batch.resent) == ("Busy", 0)
        least = 10 * 2 ** (number - 1)
        assert least <= due_in(batch) <= least * 1.5 + 2
        let_time_pass(made)
    assert counted(made) == {}


def test_a_retry_after_is_a_least(made):
    """What the provider asks for is never shortened."""
    held = claimed(made)
    assert record(made, held, Result(refused=tickets(held.targets, Outcome.UNAVAILABLE), wait=500.0))
    assert 500 <= due_in(batch_of(made)) < 510


def test_what_was_never_sent_is_due_at_once(made):
    """Tokens that a worker gave back unsent wait for nothing."""
    held = claimed(made)
    assert record(made, held, Result(unsent=list(held.targets)))
    batch = batch_of(made)
    assert (batch.status, batch.sends) == (BatchStatus.RETRY, 0)
    assert due_in(batch) < 5
    assert claimed(made).sends == 1


def test_refused_too_often(made):
    """After so many claims a refusal is left at that: each token has a verdict."""
    held = claimed(made)
    held.number = results.MOST_CLAIMS
    BroadcastBatch.objects.update(claim_no=results.MOST_CLAIMS)
    assert record(made, held, Result(refused=tickets(held.targets, Outcome.RATE_LIMITED, code="429")))
    assert states(made) == [BatchStatus.DONE]
    assert counted(made) == {Outcome.RATE_LIMITED: 4}
    assert PushProblem.objects.filter(code="429").count() == 4


def test_our_own_key_is_never_given_up(made):
    """Tokens that were refused because of our credentials wait for better ones, however often."""
    held = claimed(made)
    held.number = results.MOST_CLAIMS + 5
    BroadcastBatch.objects.update(claim_no=held.number)
    assert record(made, held, Result(refused=tickets(held.targets, Outcome.CREDENTIALS_REJECTED)))
    assert states(made) == [BatchStatus.RETRY]
    assert counted(made) == {}


def test_unknown_is_sent_again_up_to_the_cap(made):
    """Each try is a send; after the last the batch is unknown, and says why."""
    for number in (1, 2, 3):
        held = claimed(made)
        assert (held.sends, held.resent) == (number, 4 * (number - 1))
        assert record(made, held, Result(unknown=tickets(held.targets, Outcome.UNKNOWN, code="Timeout")))
        batch = batch_of(made)
        assert batch.sends == number
        if number < 3:
            assert batch.status == BatchStatus.RETRY
            assert 10 * 2 ** (number - 1) <= due_in(batch)
        let_time_pass(made)
    assert (batch.status, batch.code, batch.pending) == (BatchStatus.UNKNOWN, "Timeout", 4)
    assert (made.progress.unknown, made.progress.resent) == (4, 8)
    assert claimed(made) == Idle(status="done")


def test_unknown_is_skipped_where_that_was_asked_for(rows):
    """With ``skip`` one send is all, and a token that was refused may still have it."""
    made = started(on_unknown="skip")
    held = claimed(made)
    first, *others = held.targets
    result = Result(unknown=[ticket(first, Outcome.UNKNOWN)], refused=tickets(others, Outcome.NOT_SENT))
    assert record(made, held, result)
    assert sorted(states(made)) == [BatchStatus.RETRY, BatchStatus.UNKNOWN]
    let_time_pass(made)
    again = claimed(made)
    assert (len(again.targets), again.sends, again.is_again) == (3, 1, False)


def test_a_refusal_after_an_unknown_send(made):
    """It gives back its own send only, and takes back what it had counted as sent again."""
    held = claimed(made)
    record(made, held, Result(unknown=tickets(held.targets, Outcome.UNKNOWN)))
    let_time_pass(made)
    held = claimed(made)
    assert made.progress.resent == 4
    record(made, held, Result(refused=tickets(held.targets, Outcome.RATE_LIMITED)))
    batch = batch_of(made)
    assert (batch.sends, batch.resent) == (1, 0)
    let_time_pass(made)
    again = claimed(made)
    assert (again.sends, again.is_again, again.resent) == (2, True, 4)


# --- both -----------------------------------------------------------------------------------------


def test_a_mixed_batch_is_split(made, rows):
    """The refused go their own way, with no send; the unknown stay, with one; counts add up."""
    held = claimed(made)
    told, lost, refused, unsent = held.targets
    result = Result(
        final=[ticket(told)],
        unknown=[ticket(lost, Outcome.UNKNOWN, code="Timeout")],
        refused=[ticket(refused, Outcome.UNAVAILABLE, code="503")],
        unsent=[unsent],
    )
    assert record(made, held, result)
    first, second = batches_of(made)
    assert [pk for pk, _ in unpack(first.pks)] == [rows[1].pk]
    assert [pk for pk, _ in unpack(second.pks)] == [rows[2].pk, rows[3].pk]
    assert (first.status, first.sends, first.size, first.pending) == (BatchStatus.RETRY, 1, 2, 1)
    assert (second.status, second.sends, second.size, second.pending) == (BatchStatus.RETRY, 0, 2, 2)
    assert (first.accepted, second.accepted) == (1, 0)
    assert second.claim_no == 1
    progress = made.progress
    assert (progress.total, progress.pending, progress.told) == (4, 3, 1)


def test_a_split_of_a_batch_that_was_sent_before(made):
    """Each half keeps the sends that it had, and the doubles are those of the unknown alone."""
    held = claimed(made)
    record(made, held, Result(unknown=tickets(held.targets, Outcome.UNKNOWN)))
    let_time_pass(made)
    held = claimed(made)
    result = Result(
        unknown=tickets(held.targets[:1], Outcome.UNKNOWN),
        refused=tickets(held.targets[1:], Outcome.NOT_SENT),
    )
    assert record(made, held, result)
    first, second = batches_of(made)
    assert [(batch.sends, batch.size, batch.resent) for batch in (first, second)] == [(2, 1, 1), (1, 3, 0)]
    let_time_pass(made)
    again = [claimed(made), claimed(made)]
    assert sorted((len(found.targets), found.sends) for found in again) == [(1, 3), (3, 2)]
    assert made.progress.resent == 1 + 1 + 3


def test_some_told_and_some_refused(made, rows):
    """The batch keeps those that have no verdict."""
    held = claimed(made)
    result = Result(final=tickets(held.targets[:3]), refused=tickets(held.targets[3:], Outcome.RATE_LIMITED))
    assert record(made, held, result)
    batch = batch_of(made)
    assert (batch.accepted, batch.pending, batch.sends) == (3, 1, 0)
    let_time_pass(made)
    again = claimed(made)
    assert [target.pk for target in again.targets] == [rows[3].pk]
    assert again.counts["accepted"] == 3
    assert record(made, again, Result(final=tickets(again.targets)))
    assert (batch_of(made).status, batch_of(made).accepted) == (BatchStatus.DONE, 4)


# --- closed meanwhile -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("refused", BatchStatus.CANCELLED), ("unsent", BatchStatus.CANCELLED), ("unknown", BatchStatus.UNKNOWN)],
)
def test_a_result_after_a_cancel(made, kind, expected):
    """Verdicts are counted; what has none is not sent again, and what may have been sent says so."""
    held = claimed(made)
    assert control.cancel(made)
    result = Result(final=tickets(held.targets[:1]))
    rest = held.targets[1:]
    if kind == "unsent":
        result.unsent = list(rest)
    elif kind == "refused":
        result.refused = tickets(rest, Outcome.UNAVAILABLE)
    else:
        result.unknown = tickets(rest, Outcome.UNKNOWN)
    assert record(made, held, result)
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.pending) == (expected, 1, 3)


def test_a_split_after_a_cancel(made):
    """Both halves end."""
    held = claimed(made)
    control.cancel(made)
    result = Result(unknown=tickets(held.targets[:2], Outcome.UNKNOWN), unsent=list(held.targets[2:]))
    assert record(made, held, result)
    assert states(made) == [BatchStatus.UNKNOWN, BatchStatus.CANCELLED]
    assert (made.progress.unknown, made.progress.cancelled) == (2, 2)


# --- whose claim it is ----------------------------------------------------------------------------


def test_a_worker_that_wakes_up_late_is_not_listened_to(made, rows):
    """A result of a claim that was taken over changes nothing at all."""
    late = claimed(made)
    let_time_pass(made)
    held = claimed(made)
    final = [ticket(t, Outcome.UNREGISTERED, id=f"id-{t.pk}") for t in late.targets]
    assert not record(made, late, Result(final=final, has_receipts=True))
    assert not record_progress(made, late, Result(final=final), LEASE)
    assert not renew(late, LEASE)
    assert [status_of(row) for row in rows] == ["active"] * 4
    assert counted(made) == {}
    assert not ReceiptBatch.objects.exists()
    assert record(made, held, Result(final=tickets(held.targets)))
    assert counted(made) == {Outcome.ACCEPTED: 4}


def test_a_result_counts_once(made):
    """The same result written twice is written once."""
    held = claimed(made)
    assert record(made, held, Result(final=tickets(held.targets)))
    assert not record(made, held, Result(final=tickets(held.targets)))
    assert counted(made) == {Outcome.ACCEPTED: 4}


def test_a_lease_that_has_ended_but_was_not_taken_over(made):
    """Its claimant's result still counts."""
    held = claimed(made)
    let_time_pass(made)
    assert record(made, held, Result(final=tickets(held.targets)))
    assert states(made) == [BatchStatus.DONE]


def test_a_result_after_the_sweep(made):
    """What was called unknown meanwhile stays so: it is nobody's any more."""
    held = claimed(made)
    control.cancel(made)
    let_time_pass(made)
    assert control.sweep() == 1
    assert not record(made, held, Result(final=tickets(held.targets)))
    assert states(made) == [BatchStatus.UNKNOWN]


def test_a_result_of_a_broadcast_that_is_gone(made):
    """It has nowhere to go, and fails nobody."""
    held = claimed(made)
    made_pk, _ = made.pk, made.delete()
    made.pk = made_pk
    assert not record(made, held, Result(final=tickets(held.targets)))


def test_a_lease_is_renewed(made):
    """Both clocks have it: the database's and the claimant's."""
    held = claimed(made, lease=30)
    before = batch_of(made).due_at
    assert renew(held, 300)
    assert batch_of(made).due_at - before > timedelta(seconds=200)
    assert held.lease_ends - time.monotonic() > 290


# --- progress -------------------------------------------------------------------------------------


def test_progress_is_recorded_within_a_batch(made, rows):
    """What is told is counted and goes from the row; the lease begins anew; the rest stays ours."""
    held = claimed(made, lease=30)
    before = batch_of(made).due_at
    result = Result(final=[ticket(held.targets[0], Outcome.UNREGISTERED), ticket(held.targets[1])])
    assert record_progress(made, held, result, 300)
    batch = batch_of(made)
    assert (batch.status, batch.accepted, batch.unregistered, batch.pending) == (BatchStatus.LEASED, 1, 1, 2)
    assert [pk for pk, _ in unpack(batch.pks)] == [rows[2].pk, rows[3].pk]
    assert batch.due_at - before > timedelta(seconds=200)
    assert held.lease_ends - time.monotonic() > 290
    assert result.final == []
    assert status_of(rows[0]) == "unregistered"
    assert record(made, held, Result(final=tickets(held.targets[2:])))
    assert counted(made) == {Outcome.ACCEPTED: 3, Outcome.UNREGISTERED: 1}


def test_a_crash_after_progress_doubles_what_was_still_out(made, rows):
    """Those that were told are not claimed again."""
    held = claimed(made)
    record_progress(made, held, Result(final=tickets(held.targets[:3])), LEASE)
    let_time_pass(made)
    again = claimed(made)
    assert [target.pk for target in again.targets] == [rows[3].pk]
    assert (again.resent, again.counts["accepted"]) == (1, 3)


def test_progress_whose_commit_was_not_confirmed(made):
    """Written twice, it counts once, and the claim goes on."""
    held = claimed(made)
    final = tickets(held.targets[:2])
    before = (held.counts, held.pending)
    assert record_progress(made, held, Result(final=list(final)), LEASE)
    held.counts, held.pending = before  # as if the answer to the commit had been lost
    assert record_progress(made, held, Result(final=list(final)), LEASE)
    assert record(made, held, Result(final=tickets(held.targets[2:])))
    assert counted(made) == {Outcome.ACCEPTED: 4}


def test_an_end_after_progress_whose_commit_was_not_confirmed(made):
    """The row knows more than its claimant, who writes what is new: each verdict counts once."""
    held = claimed(made)
    before = (held.counts, held.pending)
    final = [ticket(target, id=f"id-{target.pk}") for target in held.targets]
    assert record_progress(made, held, Result(final=final[:2], has_receipts=True), LEASE)
    held.counts, held.pending = before
    assert record(made, held, Result(final=final, has_receipts=True))
    assert counted(made) == {Outcome.ACCEPTED: 4}
    remembered = [
        one for batch in ReceiptBatch.objects.all() for one in receipts.unpack(bytes(batch.tickets))
    ]
    assert sorted(pk for _, pk, _ in remembered) == sorted(target.pk for target in held.targets)


# --- all or nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["pushtoken", "receiptbatch", "pushproblem", "broadcastbatch"])
def test_a_result_is_written_whole_or_not_at_all(made, rows, table):
    """Whichever statement fails, tokens, receipts, problems and counters stay as they were."""
    held = claimed(made)
    first, second, *others = held.targets
    result = Result(
        final=[
            ticket(first, Outcome.UNREGISTERED),
            ticket(second, Outcome.REJECTED),
            *(ticket(target, id=f"id-{target.pk}") for target in others),
        ],
        has_receipts=True,
    )

    def is_write(sql):
        return table in sql.lower() and sql.split()[0] in ("UPDATE", "INSERT")

    with database_lost(when=is_write) as failed, pytest.raises(OperationalError):
        record(made, held, result)
    assert failed
    assert states(made) == [BatchStatus.LEASED]
    assert (counted(made), status_of(rows[0])) == ({}, "active")
    assert not ReceiptBatch.objects.exists()
    assert not PushProblem.objects.exists()
    assert record(made, held, result)
    assert counted(made) == {Outcome.ACCEPTED: 2, Outcome.UNREGISTERED: 1, Outcome.REJECTED: 1}
    assert (status_of(rows[0]), PushProblem.objects.count()) == ("unregistered", 1)


@pytest.mark.parametrize("kind", ["accepted", "dead", "mixed"])
def test_statements_of_a_result(django_assert_max_num_queries, kind):
    """The result of a thousand tokens takes a handful of statements, whatever is in it."""
    make_tokens(1000)
    made = started()
    held = claimed(made)
    result = Result(final=tickets(held.targets), has_receipts=True)
    result.final = [ticket(target, id=f"id-{target.pk}") for target in held.targets]
    if kind != "accepted":
        result.final[:20] = tickets(held.targets[:20], Outcome.UNREGISTERED)
    if kind == "mixed":
        result.final[20:40] = tickets(held.targets[20:40], Outcome.REJECTED)
        result.refused = tickets(held.targets[900:950], Outcome.UNAVAILABLE)
        result.unknown = tickets(held.targets[950:], Outcome.UNKNOWN)
        del result.final[900:]
    most = {"accepted": 4, "dead": 9, "mixed": 15}[kind]
    with django_assert_max_num_queries(most):
        assert record(made, held, result)


def test_backoff_has_a_random_part_and_an_end():
    """It doubles from ten seconds to ten minutes, and never comes back at once for all."""
    waits = [backoff(1) for _ in range(50)]
    assert all(10 <= wait <= 15 for wait in waits)
    assert len(set(waits)) > 1
    assert all(600 <= backoff(times) <= 900 for times in (7, 100, 10_000))


def test_owners_are_kept_for_the_next_claim(rows):
    """What is left of a batch remembers whose each token was."""
    ada = get_user_model().objects.create(username="ada")
    Tokens.filter(pk=rows[3].pk).update(user=ada)
    made = started()
    held = claimed(made)
    record(made, held, Result(final=tickets(held.targets[:2]), unsent=list(held.targets[2:])))
    Tokens.filter(pk=rows[3].pk).update(user=None)
    BroadcastBatch.objects.update(due_at=F("due_at") - timedelta(hours=1))
    assert [target.pk for target in claimed(made).targets] == [rows[2].pk]
