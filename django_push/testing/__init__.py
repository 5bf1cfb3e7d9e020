"""For a site's own tests: the outbox, chosen answers, and a network of one's own making.

With the locmem backend each push lands in ``outbox``. Empty it, and the answers, between tests:
``reset()``, or the pytest fixture ``push_outbox`` of ``django_push.testing.pytest_plugin``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.test import override_settings

from django_push.conf import push_settings
from django_push.handler import Channel, push_backends
from django_push.message import Condition, Topic
from django_push.models import AbstractPushToken, get_token_model
from django_push.outcomes import Outcome, TargetKind
from django_push.transport.fake import FakeTransport
from django_push.transport.memory import SentPush, answers, outbox
from django_push.wire import Reply, Request

__all__ = [
    "FakeTransport",
    "SentPush",
    "answer",
    "fake_transport",
    "locmem",
    "outbox",
    "pushes",
    "reset",
]


def reset() -> None:
    """Empty the outbox and forget the chosen answers."""
    outbox.clear()
    answers.clear()


def answer(token: str, outcome: Outcome, **verdict: Any) -> None:
    """Choose what the locmem backend answers for a token until ``reset``.

    ``verdict`` may have ``code``, ``detail``, ``id``, ``retry_after`` and ``replacement``.
    """
    answers[token] = {"outcome": outcome.value, **verdict}


def pushes(to: Any = None, **fields: Any) -> list[SentPush]:
    """Return what is in the outbox, in order: all, or what went to ``to`` and says ``fields``.

    ``to`` is a user, a token's row, a raw token, a Topic or a Condition.
    """
    found = [push for push in outbox if to is None or _is_to(push, to)]
    return [p for p in found if all(getattr(p.message, name) == said for name, said in fields.items())]


def _is_to(push: SentPush, to: Any) -> bool:
    if isinstance(to, str):
        return push.token == to
    if isinstance(to, Topic):
        return (push.token, push.target.kind) == (to.name, TargetKind.TOPIC)
    if isinstance(to, Condition):
        return (push.token, push.target.kind) == (to.expression, TargetKind.CONDITION)
    if isinstance(to, AbstractPushToken):
        return push.pk == to.pk
    rows = get_token_model()._base_manager.filter(user=to)
    return push.pk is not None and rows.filter(pk=push.pk).exists()


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
