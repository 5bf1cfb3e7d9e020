"""For benchmarks and switched-off environments: nothing is sent, everything is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_push.backends.base import BasePushBackend, Verdict
from django_push.message import PushMessage
from django_push.outcomes import Outcome, TargetKind
from django_push.wire import Group, Reply, Request


class DummyBackend(BasePushBackend):
    """Accepts every push and does nothing."""

    provider = "dummy"
    transport = "django_push.transport.base.NoTransport"
    fields = frozenset(PushMessage.__dataclass_fields__) - {"provider_options"}
    kinds = frozenset({TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION})
    recipients_per_request = 1000

    def __init__(self, *, endpoint: str = "http://localhost", **common: Any) -> None:
        super().__init__(endpoint=endpoint, **common)

    def encode(self, message: PushMessage) -> None:
        return None

    def request(self, groups: Sequence[Group], encoded: None) -> Request:
        return Request(url=self.endpoint, body=b"", groups=groups)

    def read(self, request: Request, reply: Reply) -> Verdict:
        return Verdict(Outcome.ACCEPTED) if reply.status == 200 else self.refusal(reply)
