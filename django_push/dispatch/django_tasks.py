"""Jobs as tasks of django.tasks, which Django 6 has and the package django-tasks brings to Django 5.2."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from django_push.dispatch import MissingQueue, jobs


def _library() -> Any:
    """Return Django's own tasks where there are some: their backends and the package's do not mix."""
    if django.VERSION >= (6, 0):
        return import_module("django.tasks")
    try:
        return import_module("django_tasks")
    except ImportError as error:
        raise MissingQueue("DjangoTasksDispatcher with Django 5.2", "django-tasks", error) from None


_tasks = _library()


def _somewhere(function: Callable[..., None]) -> Any:
    """Make a task for whichever backend there is: TASKS need not have ``default``, nor QUEUES."""
    aliases = list(_tasks.task_backends.settings)
    alias = "default" if "default" in aliases or not aliases else aliases[0]
    queues = _tasks.task_backends[alias].queues
    queue_name = "default" if "default" in queues or not queues else min(queues)
    return _tasks.task(backend=alias, queue_name=queue_name)(function)


@_somewhere
def run_job(job: str, payload: dict[str, Any]) -> None:
    """Do what a dispatcher was asked for. Workers find this by its path, which is kept with each task."""
    jobs.run(job, payload)


class DjangoTasksDispatcher:
    """Enqueues each job as a task. A subclass may say where to.

    Raises ImproperlyConfigured if the backend, as TASKS has it, does not take such tasks.
    """

    #: The alias in TASKS.
    backend = "default"
    #: One of the backend's QUEUES.
    queue_name = "default"
    #: From -100 to 100, where the backend knows priorities.
    priority = 0

    def __init__(self) -> None:
        where = {"backend": self.backend, "queue_name": self.queue_name, "priority": self.priority}
        try:
            self._task = _tasks.task(**where)(run_job.func)
        except (_tasks.exceptions.TaskException, ImproperlyConfigured) as error:
            raise ImproperlyConfigured(f"{type(self).__name__}: {error}") from error

    @property
    def can_defer(self) -> bool:
        """Whether the backend knows ``run_after``."""
        return bool(self._task.get_backend().supports_defer)

    def enqueue(self, job: str, payload: dict[str, Any], *, delay: float = 0.0) -> None:
        task = self._task
        if delay > 0:
            if not self.can_defer:
                raise ValueError(f"The task backend {self.backend!r} cannot defer a task.")
            task = task.using(run_after=timezone.now() + timedelta(seconds=delay))
        task.enqueue(job, payload)
