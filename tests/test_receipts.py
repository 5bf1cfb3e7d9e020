"""What the provider says later: remembered, packed, asked about until answered, written once."""

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connection, connections
from hypothesis import given
from hypothesis import strategies as st

from django_push import (
    Outcome,
    Ticket,
    check_push_receipts,
    get_token_model,
    register_token,
    send_push,
    signals,
    testing,
)
from django_push.exceptions import InvalidPushBackend
from django_push.models import PushProblem, ReceiptBatch, database_now
from django_push.outcomes import Target
from django_push.receipts import GIVE_UP, SCHEDULE, ReceiptSummary, pack, remember, unpack
from django_push.wire import Failure, Reply
from tests.sending.conftest import BACKENDS, error, make_tokens, reply_of, token_name

OK = {"status": "ok"}
TOO_MANY = {"errors": [{"code": "TOO_MANY_REQUESTS"}]}
UUIDS = st.uuids().map(str)
KEYS = st.integers(min_value=1, max_value=2**63 - 1)
SUMS = st.integers(0, 2**32 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def backends(settings):
    settings.PUSH_BACKENDS = BACKENDS


@pytest.fixture
def provider():
    """Answer requests for receipts with what a test puts into ``receipts``, or with ``replies``."""
    receipts, replies, asked = {}, [], []

    def reply(request):
        asked.append(list(request.receipt_ids))
        if replies:
            return replies.pop(0)
        return reply_of({"data": {i: receipts[i] for i in request.receipt_ids if i in receipts}})

    with testing.fake_transport("expo", reply) as fake:
        fake.receipts, fake.replies, fake.asked = receipts, replies, asked
        yield fake


def sent(count=1, **fields):
    """Make tokens whose tickets ``id-0``, ``id-1`` … are due; return the rows."""
    rows = make_tokens(count, **fields)
    remember(
        [
            Ticket(target=Target(row.token, row.pk), outcome=Outcome.ACCEPTED, backend="expo", id=f"id-{n}")
            for n, row in enumerate(rows)
        ],
        database_now("default"),
    )
    age(minutes=16)
    return rows


def age(**gap):
    """Let time pass: rows are shifted, not the clock."""
    gap = timedelta(**gap)
    for batch in ReceiptBatch.objects.all():
        times = ("sent_at", "due_at", "deadline")
        ReceiptBatch.objects.filter(pk=batch.pk).update(**{n: getattr(batch, n) - gap for n in times})
    for row in get_token_model().objects.all():
        get_token_model().objects.filter(pk=row.pk).update(registered_at=row.registered_at - gap)


# --- packing --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(UUIDS, KEYS, SUMS), min_size=1, max_size=50))
def test_uuids_are_packed_in_28_bytes(pairs):
    """And come back as they were."""
    data = pack(pairs)
    assert unpack(data) == pairs
    assert len(data) == 1 + 28 * len(pairs)


@given(
    st.lists(st.tuples(st.one_of(UUIDS, UUIDS.map(str.upper), TEXTS), KEYS, SUMS), min_size=1, max_size=20)
)
def test_any_id_comes_back_as_it_was(pairs):
    """Text, upper case, and UUIDs joined by the packing's own separator."""
    assert unpack(pack(pairs)) == pairs


def test_an_id_that_looks_like_two_is_one():
    """The separator inside an id does not split it."""
    one = str(uuid.uuid4())
    pairs = [(f"{one},{one}", 1, 2)]
    assert unpack(pack(pairs)) == pairs


# --- remembering ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_row_holds_a_thousand_tickets():
    """More make more rows; all are due after 15 minutes and end after 23 hours."""
    now = database_now("default")
    tickets = [
        Ticket(target=Target("t", n + 1), outcome=Outcome.ACCEPTED, backend="expo", id=f"id-{n}")
        for n in range(2500)
    ]
    remember(tickets, now)
    batches = list(ReceiptBatch.objects.order_by("pk"))
    assert [batch.size for batch in batches] == [1000, 1000, 500]
    assert {(b.due_at - now, b.deadline - now) for b in batches} == {(SCHEDULE[0], GIVE_UP)}


@pytest.mark.django_db
def test_what_nothing_could_be_done_about_is_not_kept():
    """Failures, tickets without an id or a row, and an id that two tokens were given."""

    def ticket(**fields):
        given = {"target": Target("t", 1), "outcome": Outcome.ACCEPTED, "backend": "expo", "id": "a"}
        return Ticket(**{**given, **fields})

    remember(
        [ticket(outcome=Outcome.REJECTED), ticket(id=""), ticket(target=Target("t"))], database_now("default")
    )
    remember([ticket(id="b"), ticket(id="b", target=Target("u", 2))], database_now("default"))
    assert ReceiptBatch.objects.count() == 0


# --- asking ---------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_nothing_is_asked_before_it_is_due(provider):
    """A fresh ticket waits for a quarter of an hour."""
    make_tokens(1)
    remember(
        [Ticket(target=Target("t", 1), outcome=Outcome.ACCEPTED, backend="expo", id="a")],
        database_now("default"),
    )
    assert (str(check_push_receipts()), provider.asked) == ("nothing due", [])


@pytest.mark.django_db
def test_each_receipt_is_written(provider):
    """Taken, dead, a problem: counted, the dead one deactivated, the row of the batch gone."""
    rows = sent(3)
    provider.receipts.update(
        {"id-0": OK, "id-1": error("DeviceNotRegistered"), "id-2": error("MessageTooBig")}
    )
    assert check_push_receipts() == ReceiptSummary(ok=1, deactivated=1, problems=1)
    rows[1].refresh_from_db()
    assert (rows[1].status, rows[1].status_source) == ("unregistered", "receipt")
    [problem] = PushProblem.objects.all()
    assert (problem.code, problem.token_id, ReceiptBatch.objects.count()) == ("MessageTooBig", rows[2].pk, 0)


@pytest.mark.django_db
def test_missing_ids_are_asked_again_with_growing_gaps(provider):
    """Only those, at the next time of the schedule, until the deadline; then they are expired."""
    sent(2)
    provider.receipts["id-0"] = OK
    assert check_push_receipts() == ReceiptSummary(ok=1, missing=1)
    [batch] = ReceiptBatch.objects.all()
    assert (batch.due_at - batch.sent_at, batch.size, batch.attempts) == (SCHEDULE[1], 1, 1)
    assert not check_push_receipts()
    age(hours=3)
    assert check_push_receipts() == ReceiptSummary(missing=1)
    [batch] = ReceiptBatch.objects.all()
    assert batch.due_at - batch.sent_at == timedelta(hours=4)
    age(hours=21)
    assert check_push_receipts() == ReceiptSummary(expired=1)
    assert provider.asked == [["id-0", "id-1"], ["id-1"], ["id-1"]]
    assert ReceiptBatch.objects.count() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("reply", "gap"),
    [
        (
            reply_of({"errors": [{"code": "TOO_MANY_REQUESTS"}]}, 429, retry_after="600"),
            timedelta(minutes=10),
        ),
        (reply_of({"errors": [{"code": "TOO_MANY_REQUESTS"}]}, 429, retry_after="1"), timedelta(minutes=1)),
        (Reply(status=503, body=b""), timedelta(minutes=5)),
        (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), timedelta(minutes=5)),
        (reply_of({"errors": [{"code": "UNAUTHORIZED"}]}, 401), timedelta(minutes=5)),
        (Reply(status=200, body=b"<html>"), timedelta(minutes=5)),
    ],
)
def test_a_failed_request_is_asked_again_later(provider, caplog, reply, gap):
    """It changes no token and is logged; the provider's wait is kept, at least a minute."""
    [row] = sent()
    provider.replies.append(reply)
    before = database_now("default")
    assert check_push_receipts() == ReceiptSummary(failed=1)
    [batch] = ReceiptBatch.objects.all()
    assert gap <= batch.due_at - before < gap + timedelta(seconds=20)
    row.refresh_from_db()
    assert (row.status, "receipts of 'expo'" in caplog.text) == ("active", True)


@pytest.mark.django_db
def test_an_alias_that_fails_is_not_hammered(provider, monkeypatch):
    """After a failed claim the rest of the alias waits for the next run."""
    monkeypatch.setattr("django_push.receipts.TICKETS_PER_BATCH", 1)
    monkeypatch.setattr("django_push.receipts.BATCHES_PER_CLAIM", 2)
    sent(6)
    provider.replies.append(Reply(status=503, body=b""))
    assert check_push_receipts() == ReceiptSummary(failed=2)
    assert len(provider.asked) == 1


@pytest.mark.django_db
def test_failures_at_the_deadline_are_expired(provider):
    """What could not be asked about in 23 hours is counted and let go."""
    sent()
    age(hours=23)
    provider.replies.append(Reply(status=503, body=b""))
    assert check_push_receipts() == ReceiptSummary(expired=1)


@pytest.mark.django_db
@pytest.mark.parametrize("config", [None, {"BACKEND": "nowhere.Backend"}, BACKENDS["other"]])
def test_an_alias_that_cannot_be_asked_waits_and_expires(settings, caplog, config):
    """It is gone, broken or has no receipts: the others are served, and it ends at its deadline."""
    sent()
    settings.PUSH_BACKENDS = (
        {"expo": config, "other": BACKENDS["other"]} if config else {"other": BACKENDS["other"]}
    )
    assert check_push_receipts() == ReceiptSummary(failed=1)
    assert "receipts of 'expo'" in caplog.text
    age(hours=24)
    assert check_push_receipts() == ReceiptSummary(expired=1)


@pytest.mark.django_db
def test_only_the_alias_that_is_named(provider):
    """An unknown one is an error."""
    sent()
    assert not check_push_receipts(backend="other")
    with pytest.raises(InvalidPushBackend, match="nowhere"):
        check_push_receipts(backend="nowhere")
    assert check_push_receipts(backend="expo") == ReceiptSummary(missing=1)


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["again", "rotated", "retired"])
def test_a_dead_receipt_of_an_outdated_token_changes_nothing(provider, change):
    """Registered again, rotated or retired since the send: the guard is that of tickets."""
    [row] = sent(device_id="d")
    if change == "again":
        register_token(row.token, backend="expo")
    elif change == "rotated":
        register_token(token_name(99), backend="expo", device_id="d")
    else:
        get_token_model().objects.update(status="retired")
    before = get_token_model().objects.values("status", "token").get()
    provider.receipts["id-0"] = error("DeviceNotRegistered")
    assert check_push_receipts() == ReceiptSummary(outdated=1)
    assert get_token_model().objects.values("status", "token").get() == before


@pytest.mark.django_db
def test_setup_trouble_is_one_error_in_the_log(provider, caplog):
    """And a problem for each token; none is deactivated."""
    sent(3)
    provider.receipts.update({f"id-{n}": error("InvalidCredentials") for n in range(3)})
    assert check_push_receipts() == ReceiptSummary(problems=3)
    assert caplog.text.count("InvalidCredentials") == 1
    assert PushProblem.objects.filter(outcome="provider_setup").count() == 3
    assert get_token_model().objects.filter(status="active").count() == 3


@pytest.mark.django_db
def test_receivers_are_told_the_summary(provider):
    """The signal comes once per run; a receiver that fails stops nobody."""
    sent()
    seen = []

    def receiver(summary, **kwargs):
        seen.append(summary)
        raise ZeroDivisionError

    signals.receipts_checked.connect(receiver)
    try:
        check_push_receipts()
    finally:
        signals.receipts_checked.disconnect(receiver)
    assert seen == [ReceiptSummary(missing=1)]


@pytest.mark.django_db
def test_the_whole_way_from_a_send_to_a_receipt(provider):
    """The ids of accepted tickets are those that are asked about."""
    rows = make_tokens(2)
    ids = [str(uuid.uuid4()) for _ in rows]
    provider.replies.append(reply_of({"data": [{"status": "ok", "id": i} for i in ids]}))
    send_push(get_token_model().objects.all(), title="Hi")
    age(minutes=16)
    provider.receipts.update({ids[0]: OK, ids[1]: error("DeviceNotRegistered")})
    assert check_push_receipts() == ReceiptSummary(ok=1, deactivated=1)
    assert sorted(provider.asked[1]) == sorted(ids)


# --- several checkers -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_batch_whose_checker_died_is_taken_up_again(provider):
    """Not while its claim holds, but after it has lapsed."""
    from django_push.receipts import _claim

    sent()
    provider.receipts["id-0"] = OK
    assert len(_claim("expo")) == 1
    assert not check_push_receipts()
    age(minutes=11)
    assert check_push_receipts() == ReceiptSummary(ok=1)


@pytest.mark.django_db
def test_a_checker_that_is_overtaken_counts_nothing(provider):
    """It wakes after its claim has lapsed and another has answered."""
    from django_push.receipts import _check, _claim

    sent()
    provider.receipts["id-0"] = error("MessageTooBig")
    late = _claim("expo")
    age(minutes=11)
    assert check_push_receipts() == ReceiptSummary(problems=1)
    assert not _check("expo", late)
    assert PushProblem.objects.count() == 1


@pytest.mark.django_db
def test_a_run_can_be_stopped_between_claims(provider, monkeypatch):
    """What is left stays due."""
    monkeypatch.setattr("django_push.receipts.TICKETS_PER_BATCH", 1)
    monkeypatch.setattr("django_push.receipts.BATCHES_PER_CLAIM", 1)
    sent(3)
    assert check_push_receipts(is_stopped=lambda: len(provider.asked) >= 2) == ReceiptSummary(missing=2)


@pytest.mark.services
@pytest.mark.skipif(connection.vendor == "sqlite", reason="needs a database server")
@pytest.mark.django_db(transaction=True)
def test_two_checkers_never_ask_about_the_same_ticket(provider, monkeypatch):
    """Eight threads, 200 rows: each ticket is asked about and counted once."""
    monkeypatch.setattr("django_push.receipts.TICKETS_PER_BATCH", 1)
    monkeypatch.setattr("django_push.receipts.BATCHES_PER_CLAIM", 5)
    sent(200)
    provider.receipts.update({f"id-{n}": error("MessageTooBig") for n in range(200)})
    start, found = threading.Barrier(8), []

    def check():
        try:
            start.wait()
            found.append(check_push_receipts())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(i for ids in provider.asked for i in ids) == sorted(f"id-{n}" for n in range(200))
    assert sum(found, ReceiptSummary()) == ReceiptSummary(problems=200)
    assert PushProblem.objects.values("token_id").distinct().count() == 200
    assert not ReceiptBatch.objects.exists()
