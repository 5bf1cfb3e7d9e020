"""What the provider says later of a broadcast's pushes: counted, heeded, and undone with it."""

from datetime import timedelta

import pytest
from django.db.models import F

from django_push import Outcome, check_push_receipts, register_token, testing
from django_push.broadcasts import control, tick, undo_deactivations
from django_push.models import PushProblem, ReceiptBatch
from tests.broadcasts.factories import (
    EXPO,
    Tokens,
    all_ok,
    counted,
    drained,
    lane_of,
    make_expo_tokens,
    reloaded,
    started,
    status_of,
)
from tests.sending.conftest import reply_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows(settings):
    settings.PUSH_BACKENDS = {"default": EXPO, "other": EXPO}
    return make_expo_tokens(4)


def sent(**fields):
    """Return a broadcast that was sent, whose receipts are due."""
    made = started(**fields)
    with testing.fake_transport("default", all_ok), testing.fake_transport("other", all_ok):
        drained(made)
    due()
    return made


def due():
    ReceiptBatch.objects.update(due_at=F("due_at") - timedelta(hours=1))


def answers(**said):
    """Answer the receipts of tokens by their key: ``dead``, ``failed``, ``none``; else they are fine."""
    dead = {"status": "error", "message": "gone", "details": {"error": "DeviceNotRegistered"}}
    failed = {"status": "error", "message": "no key", "details": {"error": "InvalidCredentials"}}

    def answer(request):
        found = {}
        for name in request.receipt_ids:
            pk = int(name.removeprefix("id-"))
            if pk in said.get("none", ()):
                continue
            found[name] = {"status": "ok"}
            if pk in said.get("dead", ()):
                found[name] = dead
            if pk in said.get("failed", ()):
                found[name] = failed
        return reply_of({"data": found})

    return testing.fake_transport("default", answer)


def receipts_of(made):
    lane = lane_of(made)
    return (lane.receipts_ok, lane.receipts_dead, lane.receipts_failed, lane.receipts_expired)


def test_receipts_are_counted_into_the_lane(rows):
    """Those handed over, dead and failed, each under its name."""
    made = sent()
    with answers(dead=[rows[0].pk], failed=[rows[1].pk]):
        check_push_receipts()
    assert receipts_of(made) == (2, 1, 1, 0)
    assert made.progress.lanes[0].receipts == {"ok": 2, "dead": 1, "failed": 1}
    assert counted(made) == {Outcome.ACCEPTED: 4}
    problem = PushProblem.objects.get()
    assert (problem.broadcast_id, problem.token_id) == (made.pk, rows[1].pk)


def test_receipts_of_a_later_check_are_added(rows):
    """What had no receipt yet is asked for again, and counted once."""
    made = sent()
    with answers(none=[rows[0].pk]):
        check_push_receipts()
    assert receipts_of(made) == (3, 0, 0, 0)
    due()
    with answers(dead=[rows[0].pk]):
        check_push_receipts()
        check_push_receipts()
    assert receipts_of(made) == (3, 1, 0, 0)


def test_receipts_that_never_come(rows):
    """After their deadline they are counted as such."""
    made = sent()
    ReceiptBatch.objects.update(deadline=F("deadline") - timedelta(days=2))
    with answers(none=[row.pk for row in rows]):
        check_push_receipts()
    assert receipts_of(made) == (0, 0, 0, 4)
    assert not ReceiptBatch.objects.exists()


def test_a_dead_receipt_deactivates_in_the_broadcast_s_name(rows):
    """And undo brings back exactly those, as long as nothing else has happened to them."""
    made = sent()
    Tokens.filter(pk=rows[3].pk).update(status="unregistered", status_source="receipt")
    with answers(dead=[rows[0].pk, rows[1].pk]):
        check_push_receipts()
    row = Tokens.get(pk=rows[0].pk)
    assert (row.status, row.status_source) == ("unregistered", f"broadcast:{made.pk}")
    Tokens.filter(pk=rows[1].pk).update(status="retired", status_source="registration")
    assert undo_deactivations(made) == 1
    assert [status_of(row) for row in rows] == ["active", "retired", "active", "unregistered"]


def test_a_token_registered_again_since_the_claim(rows):
    """An older broadcast's receipt does not deactivate it; it is counted all the same."""
    made = sent()
    register_token(rows[0].token, backend="default")
    with answers(dead=[rows[0].pk]):
        check_push_receipts()
    assert status_of(rows[0]) == "active"
    assert receipts_of(made) == (3, 1, 0, 0)


def test_receipts_while_the_broadcast_runs(rows):
    """They do not wait for its end."""
    made = started(batch_size=2)
    with testing.fake_transport("default", all_ok) as transport:
        drained(made, is_stopped=lambda: bool(transport.requests))
    due()
    with answers(dead=[rows[0].pk]):
        assert tick(look_after=lambda key: None).receipts.deactivated == 1
    assert reloaded(made).status == "running"
    assert receipts_of(made) == (1, 1, 0, 0)


def test_receipts_of_two_broadcasts(rows):
    """Each gets its own."""
    first = sent(using="default")
    second = sent(using="default", title="Another")
    with answers(dead=[rows[0].pk]):
        check_push_receipts()
    assert receipts_of(first) == receipts_of(second) == (3, 1, 0, 0)
    assert ReceiptBatch.objects.count() == 0


def test_receipts_of_a_broadcast_that_is_gone(rows):
    """The token is still deactivated; there is nothing to count into."""
    made = sent()
    made.delete()
    with answers(dead=[rows[0].pk]):
        assert check_push_receipts().deactivated == 1
    assert status_of(rows[0]) == "unregistered"


def test_receipts_of_a_cancelled_broadcast(rows):
    """What was sent before is still told."""
    made = started(batch_size=2)
    with testing.fake_transport("default", all_ok) as transport:
        drained(made, is_stopped=lambda: bool(transport.requests))
    control.cancel(made)
    due()
    with answers(dead=[rows[0].pk]):
        check_push_receipts()
    assert receipts_of(made) == (1, 1, 0, 0)
    assert status_of(rows[0]) == "unregistered"
