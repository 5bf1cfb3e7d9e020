"""The outbox of tests: what was sent, and the answers that a test has chosen."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target
from django_push.transport.base import Authorize, Transport
from django_push.wire import Reply, Request


@dataclass(frozen=True, slots=True)
class SentPush:
    """One push as a test sees it: to whom, what, through which alias."""

    backend: str
    target: Target = field(repr=False)
    message: PushMessage

    @property
    def token(self) -> str:
        return self.target.value

    @property
    def pk(self) -> int | None:
        return self.target.pk


#: Every push that was sent through a locmem backend since the test began.
outbox: list[SentPush] = []
#: By token, topic or condition: what the next sends are answered with, as a Verdict's fields.
answers: dict[str, dict[str, Any]] = {}
_ids = itertools.count(1)


class MemoryTransport(Transport):
    """Puts each push into the outbox."""

    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        said = []
        for message, targets in request.groups:
            for target in targets:
                outbox.append(SentPush(self.alias, target, message))
                accepted = {"outcome": Outcome.ACCEPTED.value, "id": f"locmem-{next(_ids)}"}
                said.append(answers.get(target.value, accepted))
        return Reply(status=200, body=json.dumps(said).encode())
