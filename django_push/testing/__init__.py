"""For a site's own tests: the outbox, chosen answers, and a network of one's own making.

With the locmem backend each push lands in ``outbox``. Empty it, and the answers, between tests:
``reset()``, or the pytest fixture ``push_outbox``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.test import override_settings

from django_push.conf import push_settings
from django_push.handler import Channel, push_backends
from django_push.outcomes import Outcome
from django_push.transport.fake import FakeTransport
from django_push.transport.memory import SentPush, answers, outbox
from django_push.wire import Reply, Request

__all__ = ["FakeTransport", "SentPush", "answer", "fake_transport", "locmem", "outbox", "reset"]


def reset() -> None:
    """Empty the outbox and forget the chosen answers."""
    outbox.clear()
    answers.clear()


def answer(token: str, outcome: Outcome, **verdict: Any) -> None:
    """Choose what the locmem backend answers for a token until ``reset``.

    ``verdict`` may have ``code``, ``detail``, ``id``, ``retry_after`` and ``replacement``.
    """
    answers[token] = {"outcome": outcome.value, **verdict}


def locmem() -> override_settings:
    """Return a decorator and context manager that turns every alias into a locmem backend."""
    backend = {"BACKEND": "django_push.backends.locmem.LocMemBackend"}
    return override_settings(PUSH_BACKENDS=dict.fromkeys(push_settings.backends, backend))


@contextlib.contextmanager
def fake_transport(alias: str, reply: Callable[[Request], Reply]) -> Iterator[FakeTransport]:
    """Answer every request of a configured alias with what ``reply(request)`` returns.

    The alias keeps its backend and its credentials; only the network is yours.
    """
    channel = push_backends.channel(alias)
    fake = FakeTransport(reply, alias=alias)
    replaced = Channel(channel.backend, fake, channel.credentials)
    with mock.patch.dict(push_backends._channels, {alias: replaced}):
        yield fake
