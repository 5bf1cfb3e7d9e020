"""Sending after the commit, and from async code."""

import asyncio
import json
import warnings

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.utils.translation import gettext_lazy

from django_push import (
    Topic,
    asend_push,
    enqueue_push,
    get_token_model,
    iter_push,
    register_token,
    send_push,
    testing,
)
from django_push.dispatch import jobs
from django_push.exceptions import InvalidMessage, InvalidToken, UnsupportedOption
from django_push.sending import queued
from tests.sending.conftest import make_tokens

Token = get_token_model()
queue = []


class Queue:
    """A dispatcher that keeps its jobs, as JSON, until the test runs them."""

    def enqueue(self, job, payload):
        queue.append((job, json.dumps(payload)))


def work():
    while queue:
        job, payload = queue.pop(0)
        jobs.run(job, json.loads(payload))


def by_name(row):
    return {"title": f"Hi {row.token}"}


@pytest.fixture(autouse=True)
def locmem(settings):
    settings.PUSH_BACKENDS = {"other": {"BACKEND": "django_push.backends.locmem.LocMemBackend"}}
    queue.clear()


@pytest.fixture
def queueing(settings, db):
    settings.PUSH_DISPATCHER = "tests.sending.test_enqueue.Queue"


def titles():
    return [push.message.title for push in testing.outbox]


@pytest.mark.django_db(transaction=True)
def test_it_is_sent_after_the_commit_without_a_warning():
    """Not inside the transaction, not after a rollback, and at once where there is none."""
    make_tokens(2, backend="other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with transaction.atomic():
            assert enqueue_push(Token.objects.all(), title="Hi") == 2
            with transaction.atomic():
                pass
            assert testing.outbox == []
        assert len(testing.outbox) == 2
        with transaction.atomic():
            enqueue_push(Token.objects.all(), title="never")
            transaction.set_rollback(True)
        enqueue_push(Token.objects.all(), title="now")
    assert titles() == ["Hi", "Hi", "now", "now"]


@pytest.mark.django_db(transaction=True)
def test_a_dispatcher_that_fails_does_not_fail_the_request(settings, caplog):
    """The site's transaction has committed; the failure is logged."""
    settings.PUSH_DISPATCHER = "tests.sending.test_enqueue.Broken"
    make_tokens(1, backend="other")
    with transaction.atomic():
        enqueue_push(Token.objects.all(), title="Hi")
    assert "broker is away" in caplog.text


class Broken:
    def enqueue(self, job, payload):
        raise ConnectionError("broker is away")


def test_what_is_queued_has_ids_and_no_token(queueing, user, django_capture_on_commit_callbacks):
    """The payload is plain JSON, and no token is in it."""
    make_tokens(2, backend="other", user=user)
    with django_capture_on_commit_callbacks(execute=True):
        enqueue_push(user, title="Hi", ttl=60, data={"a": [1]})
    [(job, payload)] = queue
    assert (job, "other-0" in payload) == ("send_push", False)
    work()
    assert (titles(), testing.outbox[0].message.ttl) == (["Hi", "Hi"], 60)


def test_whether_to_send_is_checked_again(queueing, user, django_capture_on_commit_callbacks):
    """Muted, dead, deleted and handed-on tokens get nothing; an anonymous one that was claimed does."""
    rows = make_tokens(5, backend="other", user=user)
    Token.objects.create(backend="other", token="anonymous")
    with django_capture_on_commit_callbacks(execute=True):
        assert enqueue_push(Token.objects.all(), title="Hi") == 6
    bob = get_user_model().objects.create(username="bob")
    Token.objects.filter(pk=rows[0].pk).update(enabled=False)
    Token.objects.filter(pk=rows[1].pk).update(status="unregistered")
    rows[2].delete()
    register_token("other-3", user=bob, backend="other")
    register_token("anonymous", user=bob, backend="other")
    work()
    assert sorted(push.token for push in testing.outbox) == ["anonymous", "other-4"]


def test_languages_topics_and_personal_texts_survive_the_queue(queueing, django_capture_on_commit_callbacks):
    """Each token in its language, a topic in LANGUAGE_CODE, and personalize by its path."""
    Token.objects.create(backend="other", token="de", locale="de-AT")
    Token.objects.create(backend="other", token="en")
    with django_capture_on_commit_callbacks(execute=True):
        enqueue_push([*Token.objects.order_by("pk"), Topic("news")], title=gettext_lazy("Saturday"))
        path = f"{by_name.__module__}.by_name"
        enqueue_push(Token.objects.order_by("pk"), title="x", personalize=path)
    work()
    said = [(push.token, push.message.title) for push in testing.outbox]
    assert said == [
        ("de", "Samstag"),
        ("en", "Saturday"),
        ("news", "Saturday"),
        ("de", "Hi de"),
        ("en", "Hi en"),
    ]


@pytest.mark.django_db
def test_mistakes_raise_at_the_call(monkeypatch):
    """In the request that makes them, not in the worker."""
    make_tokens(5, backend="other")
    with pytest.raises(InvalidToken, match="Register"):
        enqueue_push("raw", title="Hi", using="other")
    with pytest.raises(InvalidToken, match="NoneType"):
        enqueue_push([None], title="Hi")
    with pytest.raises(InvalidMessage):
        enqueue_push(Token.objects.all())
    with pytest.raises(TypeError):
        enqueue_push(None, title="Hi")
    with pytest.raises(ImportError):
        enqueue_push(Token.objects.all(), title="Hi", personalize="nowhere.nothing")
    monkeypatch.setattr(queued, "ENQUEUE_LIMIT", 4)
    with pytest.raises(ValueError, match="at most 4"):
        enqueue_push(Token.objects.all(), title="Hi")


@pytest.mark.usefixtures("db", "providers")
def test_a_field_that_nobody_can_say_raises_at_the_call():
    """As send_push does."""
    with pytest.raises(UnsupportedOption):
        enqueue_push([], title="Hi", analytics_label="x", using="expo")


def test_nobody_queues_nothing(queueing, user, django_capture_on_commit_callbacks):
    """An audience without sendable tokens makes no job."""
    make_tokens(1, backend="other", user=user, enabled=False)
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        assert enqueue_push(user, title="Hi") == 0
    assert (callbacks, queue) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_sending_inside_a_transaction_warns_the_caller():
    """The warning names the line that called; a dry run does not warn."""
    with transaction.atomic():
        for call in (send_push, iter_push):
            with pytest.warns(RuntimeWarning, match="enqueue_push") as seen:
                call([], title="Hi")
            assert [warning.filename for warning in seen] == [__file__]
        send_push([], title="Hi", dry_run=True)


@pytest.mark.django_db
def test_a_tests_own_transaction_does_not_warn():
    """TestCase's atomic block is no reason."""
    send_push([], title="Hi")


@pytest.mark.django_db
def test_async_code_sends_through_the_same_path():
    """Under async_to_sync the work is done in this thread."""
    make_tokens(2, backend="other")
    result = async_to_sync(asend_push)(Token.objects.all(), title="Hi")
    assert (result.accepted, len(testing.outbox)) == (2, 2)


@pytest.mark.django_db(transaction=True)
def test_async_code_under_a_running_loop():
    """Inside asyncio.run no loop is started and nothing is refused as unsafe."""

    async def main():
        try:
            return await asend_push("t", title="Hi", using="other", dry_run=True)
        finally:
            await sync_to_async(connections.close_all)()  # those of the thread that did it

    assert {str(k): n for k, n in asyncio.run(main()).counts.items()} == {"planned": 1}
