"""For tests: what is sent lands in ``django_push.testing.outbox``, and answers can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_push.backends.base import BasePushBackend, Verdict, dumps, loads
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
        answers = loads(reply.body)
        return [Verdict(**{**answer, "outcome": Outcome(answer["outcome"])}) for answer in answers]
