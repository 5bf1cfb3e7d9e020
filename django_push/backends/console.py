"""For development: what would be sent is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_push.backends.base import BasePushBackend, Verdict
from django_push.backends.values import dumps
from django_push.message import PushMessage
from django_push.outcomes import Outcome, TargetKind, mask
from django_push.wire import Group, Reply, Request


class ConsoleBackend(BasePushBackend):
    """Prints each message and its masked tokens to standard output, and calls all of them accepted."""

    provider = "console"
    transport = "django_push.transport.console.ConsoleTransport"
    fields = frozenset(PushMessage.__dataclass_fields__) - {"provider_options"}
    kinds = frozenset({TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION})
    recipients_per_request = 100

    def __init__(self, *, endpoint: str = "http://localhost", **common: Any) -> None:
        super().__init__(endpoint=endpoint, **common)

    def encode(self, message: PushMessage) -> str:
        return dumps(message.to_json())

    def request(self, groups: Sequence[Group], encoded: str) -> Request:
        [(_, targets)] = groups
        names = ", ".join(mask(t.value) if t.is_token else f"{t.kind} {t.value}" for t in targets)
        text = f"push via {self.alias} to {names}\n{encoded}\n"
        return Request(url=self.endpoint, body=text.encode(), groups=groups)

    def read(self, request: Request, reply: Reply) -> Verdict:
        return Verdict(Outcome.ACCEPTED) if reply.status == 200 else self.refusal(reply)
