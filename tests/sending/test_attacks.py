"""What a hostile reader found: each of these once went wrong."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db.models import F

from django_push import (
    Outcome,
    check_push_receipts,
    enqueue_push,
    get_token_model,
    register_token,
    send_push,
    testing,
)
from django_push.models import ReceiptBatch
from django_push.sending.queued import send_enqueued
from tests.sending.conftest import make_tokens, reply_of, statuses, token_name

pytestmark = pytest.mark.django_db


def answer_receipts(tickets, receipts):
    """Return Expo's answers: the tickets' ids in order, then what the receipts say by id."""

    def answer(request):
        if request.receipt_ids:
            return reply_of({"data": {i: receipts[i] for i in request.receipt_ids if i in receipts}})
        return reply_of({"data": [{"status": "ok", "id": i} for i in tickets[: len(request.targets)]]})

    return answer


def gone(token):
    return {"status": "error", "details": {"error": "DeviceNotRegistered", "expoPushToken": token}}


def due():
    ReceiptBatch.objects.update(due_at=F("due_at") - timedelta(minutes=20))


@pytest.mark.parametrize("order", [[], ["-pk"], ["-last_seen_at"]])
def test_a_reversed_queryset_is_sent_to_once(providers, monkeypatch, order):
    """Whatever the order of a queryset that fills several pages, each token gets one push."""
    monkeypatch.setattr("django_push.recipients.PAGE", 3)
    rows = make_tokens(10, backend="other")
    result = send_push(get_token_model().objects.order_by(*order).reverse(), title="Hi")
    assert result.accepted == len(rows)
    assert sorted(push.token for push in testing.outbox) == sorted(row.token for row in rows)


def test_a_receipt_of_the_token_before(providers, user):
    """A receipt for the old token does not reach the row that has rotated under the send."""
    [row] = make_tokens(1, user=user)
    with testing.fake_transport("expo", answer_receipts(["a"], {"a": gone("")})):
        assert send_push(user, title="Hi").accepted == 1
        # As if the rotation had been under way, uncommitted, when the token was read.
        rotated, _ = register_token(token_name(7), user=user, backend="expo", device_id="d")
        get_token_model().objects.filter(pk=rotated.pk).delete()
        row.token = token_name(7)
        row.save()
        due()
        summary = check_push_receipts()
    assert (summary.outdated, summary.deactivated) == (1, 0)
    assert statuses() == ["active"]


def test_a_receipt_that_names_another_token(providers):
    """Expo's answer was out of order: the token in its place is not the one that it calls dead."""
    make_tokens(2)
    receipts = {"a": {"status": "ok"}, "b": gone(token_name(0))}
    with testing.fake_transport("expo", answer_receipts(["a", "b"], receipts)):
        send_push(get_token_model().objects.all(), title="Hi")
        due()
        assert check_push_receipts().outdated == 1
    assert statuses() == ["active", "active"]


def test_a_receipt_that_names_its_token_otherwise(providers):
    """The prefix may be spelt in two ways; it is the same token."""
    make_tokens(1)
    named = token_name(0).replace("ExponentPushToken", "ExpoPushToken")
    with testing.fake_transport("expo", answer_receipts(["a"], {"a": gone(named)})):
        send_push(get_token_model().objects.all(), title="Hi")
        due()
        assert check_push_receipts().deactivated == 1


def test_a_ticket_whose_text_names_another_token(expo):
    """Without details the text tells of whom Expo speaks; out of order, nothing is known of anybody."""
    make_tokens(2)
    text = f'"{token_name(1)}" is not a registered push notification recipient'
    entry = {"status": "error", "message": text, "details": {"error": "DeviceNotRegistered"}}
    expo({token_name(0): entry})
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert result.counts == {Outcome.UNKNOWN: 2}
    assert statuses() == ["active", "active"]


def test_many_malformed_tokens_are_spared(settings, caplog):
    """An alias whose BACKEND was changed does not cost its tokens; a few odd ones are called invalid."""
    make_tokens(30, backend="other")
    settings.PUSH_BACKENDS = {"other": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert result.counts == {Outcome.REJECTED: 30}
    assert set(statuses("other")) == {"active"}
    assert "check PUSH_BACKENDS" in caplog.text
    few = list(get_token_model().objects.all()[:3])
    assert send_push(few, title="Hi").counts == {Outcome.INVALID_TOKEN: 3}


def test_a_queued_push_is_for_the_user_it_was_read_for(providers, user, monkeypatch):
    """A phone that changes hands between the reading and the queueing, or later, gets nothing."""
    make_tokens(1, backend="other", user=user)
    queued = []

    class Queue:
        def enqueue(self, job, payload):
            queued.append(json.loads(json.dumps(payload)))

    monkeypatch.setattr("django_push.sending.queued.get_dispatcher", Queue)
    monkeypatch.setattr("django.db.transaction.on_commit", lambda job, **options: job())
    assert enqueue_push(user, title="A secret") == 1
    bob = get_user_model().objects.create(username="bob")
    get_token_model().objects.update(user=bob)
    [payload] = queued
    [result] = send_enqueued(payload)
    assert result.skipped == {"transferred": 1}
    assert testing.outbox == []


def test_personalize_is_queued_by_its_path(user):
    """A function itself cannot be queued, and is refused in words."""
    with pytest.raises(TypeError, match="dotted path"):
        enqueue_push(user, title="Hi", personalize=lambda token: {})
