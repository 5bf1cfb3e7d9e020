"""Asking for work later: what is passed to which dispatcher, and how often."""

import ast
from pathlib import Path

import pytest

import django_push
from django_push import Outcome, enqueue_push, get_token_model, testing, wake
from django_push.backends.locmem import LocMemBackend
from django_push.dispatch import jobs
from django_push.dispatch.inline import InlineDispatcher

asked = []


class Plain:
    """A dispatcher of before there were delays."""

    def enqueue(self, job, payload):
        asked.append((job, payload))


class Deferring:
    """A dispatcher that writes down what it is asked for."""

    can_defer = True

    def enqueue(self, job, payload, *, delay=0.0):
        asked.append((job, payload, delay))


class Broken(Deferring):
    def enqueue(self, job, payload, *, delay=0.0):
        raise ConnectionError("broker is away")


@pytest.fixture(autouse=True)
def _nothing_asked():
    asked.clear()


@pytest.fixture(params=[Plain, Deferring, Broken])
def dispatcher(request, settings):
    use(settings, request.param)
    return request.param


def use(settings, cls):
    settings.PUSH_DISPATCHER = f"{cls.__module__}.{cls.__name__}"


def test_older_dispatchers_work(settings):
    """One that knows no delay is never given one."""
    use(settings, Plain)
    wake.wake("a", {"b": 1})
    assert wake.wake_later("a", {}, 5) is False
    assert asked == [("a", {"b": 1})]


def test_a_delay_reaches_the_dispatcher(settings):
    """In seconds."""
    use(settings, Deferring)
    wake.wake("a", {})
    assert wake.wake_later("a", {"b": 1}, 5) is True
    assert asked == [("a", {}, 0.0), ("a", {"b": 1}, 5)]


def test_inline_runs_now_or_not_at_all(monkeypatch):
    """A delay is an error there, not a job that runs early."""
    monkeypatch.setattr(jobs, "JOBS", {"a": asked.append})
    with pytest.raises(ValueError, match="defer"):
        InlineDispatcher().enqueue("a", {}, delay=1)
    assert asked == []
    InlineDispatcher().enqueue("a", {"b": 1})
    assert asked == [{"b": 1}]
    assert wake.wake_later("a", {}, 1) is False


def test_a_receipt_check_is_asked_for_once_a_minute(settings, monkeypatch):
    """It runs when the receipts of that minute's pushes are due."""
    use(settings, Deferring)
    clock = [1000.0]
    monkeypatch.setattr(wake.time, "monotonic", lambda: clock[0])
    found = []
    for clock[0] in (1000.0, 1001.0, 1059.9, 1060.0, 1100.0, 1120.0):
        found.append(wake.schedule_receipt_check())
    assert found == [True, False, False, True, False, True]
    assert asked == [("check_push_receipts", {}, 960.0)] * 3


def test_a_receipt_check_that_cannot_be_scheduled_harms_nobody(dispatcher, caplog):
    """The pushes are out; a dispatcher that fails is logged."""
    assert wake.schedule_receipt_check() is (dispatcher is Deferring)
    assert ("broker is away" in caplog.text) is (dispatcher is Broken)


@pytest.mark.parametrize(
    ("token", "expected"),
    [("t", ["send_push", "check_push_receipts"]), ("dead", ["send_push"])],
)
@pytest.mark.django_db(transaction=True)
def test_enqueued_pushes_schedule_their_receipts(settings, token, expected):
    """One check for what was accepted by a provider that has receipts, and none for what was not."""
    use(settings, Deferring)
    settings.PUSH_BACKENDS = {"a": {"BACKEND": f"{__name__}.WithReceipts"}}
    if token == "dead":
        testing.answer(token, Outcome.UNREGISTERED)
    get_token_model().objects.create(backend="a", token=token)
    enqueue_push(get_token_model().objects.all(), title="Hi")
    jobs.run(*asked[0][:2])
    assert [job for job, *_ in asked] == expected


@pytest.mark.django_db(transaction=True)
def test_without_receipts_nothing_is_scheduled(settings):
    """Most providers say everything at once."""
    use(settings, Deferring)
    get_token_model().objects.create(backend="default", token="t")
    enqueue_push(get_token_model().objects.all(), title="Hi")
    jobs.run(*asked[0][:2])
    assert [job for job, *_ in asked] == ["send_push"]


class WithReceipts(LocMemBackend):
    has_receipts = True


def test_an_unknown_job_is_named():
    """A worker that is older than what queued the job says so."""
    with pytest.raises(KeyError, match=r"no job 'of_tomorrow'.*older version"):
        jobs.run("of_tomorrow", {})


@pytest.mark.django_db
def test_receipts_are_checked_by_name():
    """The job does what the command does."""
    assert str(jobs.run("check_push_receipts", {})) == "nothing due"


def test_only_the_dispatchers_import_a_queue():
    """No other module names one, not even inside a function."""
    package = Path(django_push.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if name.partition(".")[0] in ("celery", "kombu", "django_tasks") or name.startswith("django.tasks")
    }
    assert found == {"dispatch/celery.py"}  # the other one imports by name


def _imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
