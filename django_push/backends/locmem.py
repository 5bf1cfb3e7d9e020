"""For tests: what is sent lands in ``django_push.testing.outbox``, and answers can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_push.backends.base import BasePushBackend, Verdict
from django_push.backends.values import dumps, loads, text
from django_push.message import PushMessage
from django_push.outcomes import Outcome, TargetKind
from django_push.wire import Group, Reply, Request


class LocMemBackend(BasePushBackend):
    """Keeps what it is given in memory. It takes every token, field, topic and condition."""

    provider = "locmem"
    transport = "django_push.transport.memory.MemoryTransport"
    fields = frozenset(PushMessage.__dataclass_fields__) - {"provider_options"}
    kinds = frozenset({TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION})
    recipients_per_request = 1000

    def __init__(self, *, endpoint: str = "http://localhost", **common: Any) -> None:
        super().__init__(endpoint=endpoint, **common)

    def encode(self, message: PushMessage) -> str:
        return dumps(message.to_json())

    def request(self, groups: Sequence[Group], encoded: str) -> Request:
        return Request(url=self.endpoint, body=encoded.encode(), groups=groups)

    def read(self, request: Request, reply: Reply) -> Verdict | Sequence[Verdict]:
        """Read one answer per target: an outcome's value, and what else a Verdict has."""
        if reply.status != 200:
            return self.refusal(reply)
        answers = loads(reply.body)
        return [_verdict(answer) for answer in answers] if isinstance(answers, list) else _UNREADABLE


_UNREADABLE = Verdict(Outcome.UNKNOWN, "Unreadable")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def _verdict(answer: object) -> Verdict:
    if not isinstance(answer, dict) or not answer.keys() <= set(Verdict._fields):
        return _UNREADABLE
    outcome = _OUTCOMES.get(text(answer.get("outcome")))
    said = {name: answer[name] for name in _TEXTS if name in answer}
    wait = answer.get("retry_after")
    if outcome is None or not all(isinstance(value, str) for value in said.values()):
        return _UNREADABLE
    if wait is not None and (isinstance(wait, bool) or not isinstance(wait, (int, float))):
        return _UNREADABLE
    about_project = answer.get("about_project") is True
    return Verdict(outcome, retry_after=wait, about_project=about_project, **said)


_TEXTS = ("code", "detail", "id", "replacement")
