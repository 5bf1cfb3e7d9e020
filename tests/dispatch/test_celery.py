"""Jobs as Celery tasks, on a broker in memory. Real ones are in tests/services."""

import json
import socket
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest
from django.core import checks

from django_push import enqueue_push, get_token_model, testing, wake
from django_push.dispatch import MissingQueue, jobs

celery = pytest.importorskip("celery", reason="NOT RUN: this needs Celery")
# Only now: without Celery it cannot be imported.
from django_push.dispatch.celery import TIME_LIMIT, CeleryDispatcher, NotQueued, run_job  # noqa: E402

PATH = "django_push.dispatch.celery.CeleryDispatcher"


@pytest.fixture(autouse=True)
def app(settings):
    """A site's Celery app, for one test."""
    settings.PUSH_DISPATCHER = PATH
    app = celery.Celery("push-tests", broker="memory://", set_as_current=True)
    app.conf.task_default_queue = f"push-tests-{time.monotonic_ns()}"
    yield app
    app.close()


def take(app, queue=None):
    """Return the messages of a queue."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        while (message := channel.basic_get(queue or app.conf.task_default_queue, no_ack=True)) is not None:
            found.append(message)
    return found


@pytest.mark.django_db(transaction=True)
def test_what_is_in_a_message(app):
    """JSON with the message and no token; a monitor is shown the job's name only."""
    get_token_model().objects.create(backend="default", token="canary-token")
    enqueue_push(get_token_model().objects.all(), title="Hi")
    [message] = take(app)
    assert (message.headers["task"], message.content_type) == ("django_push.run_job", "application/json")
    assert (message.headers["argsrepr"], message.headers["ignore_result"]) == ("('send_push',)", True)
    (job, payload), *_ = json.loads(message.body)
    assert ("Hi" in str(payload), "canary" in f"{message.body}{message.headers}") == (True, False)
    assert run_job(job, payload) is None
    assert len(testing.outbox) == 1


@pytest.mark.parametrize(("delay", "expected"), [(90, 90), (960, 960), (1800, 1500), (10**6, 1500)])
def test_delay(app, delay, expected):
    """It becomes the ETA, and is cut before a broker would deliver the task again."""
    before = datetime.now(timezone.utc)
    assert wake.wake_later("check_push_receipts", {}, delay) is True
    [message] = take(app)
    late = datetime.fromisoformat(message.headers["eta"]) - before - timedelta(seconds=expected)
    assert abs(late) < timedelta(seconds=10)


class Elsewhere(CeleryDispatcher):
    queue_name = "push-tests-elsewhere"
    priority = 3


def test_a_subclass_says_where(app):
    """Another queue and priority."""
    Elsewhere().enqueue("a", {})
    [message] = take(app, "push-tests-elsewhere")
    assert message.properties["priority"] == 3


def test_time_limits(app):
    """The site's do not end a drainer with its claims, unless they name its task."""
    app.conf.update(task_time_limit=30, task_soft_time_limit=20)
    assert app.tasks["django_push.run_job"].time_limit == run_job.soft_time_limit == TIME_LIMIT
    with celery.Celery("push-tests-2", broker="memory://", set_as_current=True) as other:
        other.conf.task_annotations = {"django_push.run_job": {"time_limit": 60}}
        assert other.tasks["django_push.run_job"].time_limit == 60


@pytest.mark.parametrize(("broker", "expected"), [("amqp://127.0.0.1:1//", 4.0), ("memory://", None)])
def test_confirmations_are_waited_for_in_time(monkeypatch, broker, expected):
    """Where a site has RabbitMQ confirm what it got, a connection that looks alive keeps nobody waiting."""
    given = []
    monkeypatch.setattr("celery.app.task.Task.apply_async", lambda *args, **options: given.append(options))
    with celery.Celery("push-tests", broker=broker, set_as_current=True):
        CeleryDispatcher().enqueue("send_push", {})
    assert [options.get("confirm_timeout") for options in given] == [expected]


def test_eager(app, monkeypatch):
    """It runs at once, as the site wants it in its tests, but never early."""
    ran = []
    monkeypatch.setattr(jobs, "JOBS", {"a": ran.append})
    app.conf.task_always_eager = True
    wake.wake("a", {"b": 1})
    assert wake.wake_later("a", {}, 1) is False
    with pytest.raises(ValueError, match="eager"):
        CeleryDispatcher().enqueue("a", {}, delay=1)
    assert ran == [{"b": 1}]


@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        ("amqp://guest:canary@127.0.0.1:1//", "OperationalError, ConnectionRefusedError"),
        ("amqp://guest:can/ary@127.0.0.1//", "ValueError"),
        ("canary://127.0.0.1", "KeyError"),
    ],
)
def test_no_broker(broker, reason):
    """It fails soon, says why, and nothing of the broker's address is on the error."""
    with celery.Celery("push-tests", broker=broker, set_as_current=True) as app:
        started = time.monotonic()
        with pytest.raises(NotQueued, match="'send_push'") as caught:
            CeleryDispatcher().enqueue("send_push", {})
        assert app is not None
        assert time.monotonic() - started < 3
    assert reason in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert not any(word in str(caught.value) for word in ("canary", "ary@", "'can'"))


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_frozen_broker(monkeypatch, scheme):
    """One that takes connections and says nothing keeps nobody waiting for ever."""
    pytest.importorskip("redis", reason="NOT RUN: this needs redis")
    monkeypatch.setattr("django_push.dispatch.celery.REDIS_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://guest:canary@127.0.0.1:{server.getsockname()[1]}/0"
        with celery.Celery("push-tests", broker=url, set_as_current=True) as app:
            app.conf.broker_connection_timeout = 0.3
            started = time.monotonic()
            with pytest.raises(NotQueued, match="Timeout"):
                CeleryDispatcher().enqueue("send_push", {})
            assert time.monotonic() - started < 3


@pytest.mark.django_db(transaction=True)
def test_no_broker_does_not_fail_the_request(caplog):
    """The transaction has committed; the failure is logged."""
    get_token_model().objects.create(backend="default", token="t")
    with celery.Celery("push-tests", broker="amqp://guest:canary@127.0.0.1:1//", set_as_current=True):
        assert enqueue_push(get_token_model().objects.all(), title="Hi") == 1
    assert "did not take the job 'send_push'" in caplog.text
    assert "canary" not in caplog.text


def test_the_package_is_missing(monkeypatch):
    """The error, and the check, name what to install."""
    monkeypatch.setitem(sys.modules, "celery", None)
    monkeypatch.delitem(sys.modules, "django_push.dispatch.celery")
    with pytest.raises(MissingQueue, match=r"pip install 'django-push-tokens\[celery\]'"):
        wake.wake("a", {})
    [message] = checks.run_checks(tags=["push"])
    assert (message.id, "[celery]" in message.hint) == ("django_push.E018", True)
