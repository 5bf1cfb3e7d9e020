"""What crosses between the pure backends and the network: requests, replies, and what was read of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from django_push.message import PushMessage
from django_push.outcomes import Outcome, Receipt, Target, Ticket

#: One message and the targets that get it.
Group = tuple[PushMessage, Sequence[Target]]


class Secret:
    """A value that must not be seen: its repr hides it, and it refuses to be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def reveal(self) -> Any:
        """Return the value. Call it where it is used, never to keep it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not pickled.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticAuth:
    """An Authorization header that never changes: the whole header value."""

    header: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountAuth:
    """A Google service account whose key buys bearer tokens of one hour."""

    key: Secret
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One POST for some targets. It holds no secret; the Authorization is added at the socket.

    ``groups`` is what it says to whom, in the order in which the provider answers. ``generation``
    counts how often the backend has asked for it to be sent again in another form; it caps that.
    ``receipt_ids`` is set instead of groups when it asks for receipts.
    """

    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    groups: Sequence[Group] = ()
    generation: int = 0
    receipt_ids: Sequence[str] = ()

    @property
    def targets(self) -> list[Target]:
        return [target for _, targets in self.groups for target in targets]


class Failure(enum.Enum):
    """Why there is no HTTP answer."""

    #: No byte of the request was written.
    NEVER_SENT = "never sent"
    #: The request was written, wholly or in part, and no whole answer came.
    MAYBE_SENT = "maybe sent"
    #: The credentials could not be turned into an Authorization; nothing was sent.
    NO_CREDENTIALS = "no credentials"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """What came back: an HTTP answer, or how the network failed.

    ``headers`` has lower-case names. ``reason`` says in a word what failed; never an URL or a header.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    failure: Failure | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a backend read in a reply.

    ``tickets`` and the targets of ``resend`` together are the targets of the request, each once.
    ``refresh_auth`` asks for new credentials before the resend.
    """

    tickets: Sequence[Ticket] = ()
    resend: Sequence[Request] = ()
    refresh_auth: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReceipts:
    """What a backend read in a reply to a request for receipts.

    Ids that are in neither ``receipts`` nor answered by ``failure`` have no receipt yet.
    ``failure`` is set, with a code, when the whole request failed: nothing is known then.
    """

    receipts: Sequence[Receipt] = ()
    failure: Outcome | None = None
    code: str = ""
    detail: str = ""
    retry_after: float | None = None
