"""Jobs as tasks: Django's own where there are some, else those of the package django-tasks."""

import importlib
import json
import sys
from datetime import timedelta

import django
import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from django_push import enqueue_push, get_token_model, testing, wake
from django_push.dispatch import MissingQueue, jobs

LIBRARY = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
PATH = "django_push.dispatch.django_tasks.DjangoTasksDispatcher"
tasks = pytest.importorskip(LIBRARY, reason="NOT RUN: with Django 5.2 this needs django-tasks")
importlib.import_module(f"{LIBRARY}.signals")  # heeds setting_changed
dispatch = importlib.import_module("django_push.dispatch.django_tasks")

BACKENDS = {name: f"{LIBRARY}.backends.{name.lower()}.{name}Backend" for name in ("Immediate", "Dummy")}


def use(settings, name="Dummy", alias="default", **options):
    settings.TASKS = {alias: {"BACKEND": BACKENDS[name], **options}}
    settings.PUSH_DISPATCHER = PATH


def results(alias="default"):
    return tasks.task_backends[alias].results


@pytest.fixture(autouse=True)
def _undo(settings):
    yield
    use(settings)


@pytest.mark.django_db(transaction=True)
def test_immediate(settings):
    """The backend that Django has runs it at once, and its result is nothing."""
    use(settings, "Immediate")
    get_token_model().objects.create(backend="default", token="t")
    enqueue_push(get_token_model().objects.all(), title="Hi")
    assert [push.message.title for push in testing.outbox] == ["Hi"]
    assert wake.wake_later("send_push", {}, 1) is False
    with pytest.raises(ValueError, match="defer"):
        dispatch.DjangoTasksDispatcher().enqueue("send_push", {}, delay=1)


@pytest.mark.django_db(transaction=True)
def test_what_is_in_a_task(settings):
    """The job and its payload; the message, and no token."""
    use(settings)
    get_token_model().objects.create(backend="default", token="canary-token")
    enqueue_push(get_token_model().objects.all(), title="Hi")
    [result] = results()
    assert (result.task.module_path, result.args[0]) == (
        "django_push.dispatch.django_tasks.run_job",
        "send_push",
    )
    said = json.dumps([result.args, result.kwargs])
    assert ("Hi" in said, "canary" in said) == (True, False)
    assert result.task.func("send_push", result.args[1]) is None
    assert len(testing.outbox) == 1


@pytest.mark.parametrize("use_tz", [True, False])
def test_delay(settings, use_tz):
    """It becomes run_after."""
    settings.USE_TZ = use_tz
    use(settings)
    before = timezone.now()
    assert wake.wake_later("check_push_receipts", {}, 90) is True
    [result] = results()
    late = result.task.run_after - before - timedelta(seconds=90)
    assert timedelta() <= late < timedelta(seconds=10)


class Elsewhere(dispatch.DjangoTasksDispatcher):
    backend = "push"
    queue_name = "pushes"
    priority = 7


def test_a_subclass_says_where(settings):
    """Another alias, queue and priority; no default need be there."""
    use(settings, alias="push", QUEUES=["pushes"])
    Elsewhere().enqueue("a", {})
    [result] = results("push")
    assert (result.task.queue_name, result.task.priority, result.backend) == ("pushes", 7, "push")
    assert dispatch._somewhere(dispatch.run_job.func).queue_name == "pushes"


@pytest.mark.parametrize("options", [{"alias": "other"}, {"alias": "push", "QUEUES": ["default"]}])
def test_settings_that_do_not_fit(settings, options):
    """An alias or a queue that is not there is an error at the call, and in the checks."""
    use(settings, **options)
    settings.PUSH_DISPATCHER = f"{__name__}.Elsewhere"
    with pytest.raises(ImproperlyConfigured, match="Elsewhere: "):
        wake.wake("a", {})
    assert [message.id for message in checks.run_checks(tags=["push"])] == ["django_push.E019"]


def test_a_job_that_fails_is_a_task_that_failed(settings, caplog):
    """An older worker's task says what is the matter."""
    use(settings, "Immediate")
    result = dispatch.run_job.enqueue("of_tomorrow", {})
    assert result.status == tasks.TaskResultStatus.FAILED
    assert "older version" in result.errors[0].traceback


def test_results_are_not_kept(settings, monkeypatch):
    """What a job returns is not JSON."""
    use(settings, "Immediate")
    monkeypatch.setattr(jobs, "JOBS", {"a": lambda payload: object()})
    result = dispatch.run_job.enqueue("a", {})
    assert (result.status, result.return_value) == (tasks.TaskResultStatus.SUCCESSFUL, None)


def test_the_package_is_missing(settings, monkeypatch):
    """With Django 5.2 the error, and the check, name what to install."""
    settings.PUSH_DISPATCHER = PATH
    with monkeypatch.context() as patch:
        patch.setattr(django, "VERSION", (5, 2, 0, "final", 0))
        patch.setitem(sys.modules, "django_tasks", None)
        patch.delitem(sys.modules, "django_push.dispatch.django_tasks")
        with pytest.raises(MissingQueue, match="pip install 'django-tasks'"):
            wake.wake("a", {})
        [message] = checks.run_checks(tags=["push"])
    assert (message.id, "django-tasks" in message.hint) == ("django_push.E018", True)
