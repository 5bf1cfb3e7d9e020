"""Asking for work later, by the dotted path in PUSH_DISPATCHER, without importing any queue."""

from __future__ import annotations

from typing import Any, Protocol

from django.utils.module_loading import import_string

from django_push.conf import push_settings


class Dispatcher(Protocol):
    """What runs work later. ``payload`` is plain JSON: ids and a message, never a secret."""

    def enqueue(self, job: str, payload: dict[str, Any]) -> None:
        """Run the job, named in dispatch.jobs, with the payload: now, or in another process."""


def get_dispatcher() -> Dispatcher:
    """Return an instance of the configured dispatcher. Raises ImportError if there is none."""
    dispatcher: Dispatcher = import_string(push_settings.dispatcher)()
    return dispatcher
