"""What became of each token: the words that all providers' answers are translated into."""

from __future__ import annotations

import enum
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Above this many tokens a PushResult keeps only the tickets that were not accepted.
KEEP_ALL_TICKETS = 10_000
#: And never more than this many of those; the counts stay complete.
KEEP_FAILED_TICKETS = 100_000
#: A provider's text is untrusted and may be long; this much of it is kept.
DETAIL_LENGTH = 200


class Outcome(str, enum.Enum):
    """The normalised verdict that tickets and receipts share."""

    #: The provider took the push. Not a delivery.
    ACCEPTED = "accepted"
    #: The provider says that the install behind the token is gone. The token is deactivated.
    UNREGISTERED = "unregistered"
    #: The token is malformed, or the provider says that it is none of its own. Deactivated.
    INVALID_TOKEN = "invalid_token"  # noqa: S105
    #: The token belongs to another sender or app than our credentials. Kept.
    SENDER_MISMATCH = "sender_mismatch"
    #: The message is at fault: too big, a wrong field. Kept.
    MESSAGE_REJECTED = "message_rejected"
    #: The project's own credentials at the provider (APNs key, FCM key at Expo) are at fault. Kept.
    PROVIDER_SETUP = "provider_setup"
    #: The provider refused our key. Kept; ends the sends of that alias in this run.
    CREDENTIALS_REJECTED = "credentials_rejected"
    #: Too much at once, for the project or for one device. Kept; may be sent again later.
    RATE_LIMITED = "rate_limited"
    #: The provider says in its own words that it cannot serve now. Kept; may be sent again.
    UNAVAILABLE = "unavailable"
    #: No connection was made, so nothing was sent. Kept; may be sent again.
    NOT_SENT = "not_sent"
    #: An explicit refusal with a code that is in no table of ours. Kept.
    REJECTED = "rejected"
    #: Maybe sent, no readable verdict: a timeout, a broken reply. Kept; sending again may double.
    UNKNOWN = "unknown"
    #: A dry run: it would have been sent.
    PLANNED = "planned"

    @property
    def is_retryable(self) -> bool:
        """Whether the same push may be sent again without risking a double."""
        return self in _RETRYABLE

    @property
    def is_dead(self) -> bool:
        """Whether it deactivates the token. Only these two ever do."""
        return self in _DEAD

    def __str__(self) -> str:
        return self.value


_RETRYABLE = frozenset({Outcome.RATE_LIMITED, Outcome.UNAVAILABLE, Outcome.NOT_SENT})
_DEAD = frozenset({Outcome.UNREGISTERED, Outcome.INVALID_TOKEN})


def mask(token: str) -> str:
    """Return enough of a token to recognise it in a log, and too little to use it."""
    head, inner = "", token
    if token.startswith(("ExponentPushToken[", "ExpoPushToken[")):
        head, bracket, inner = token.partition("[")
        head += bracket
    shown = len(inner) // 4
    start, end = min(6, shown), min(4, shown)
    return head + _printable(f"{inner[:start]}…{inner[len(inner) - end :]}")


def checksum(token: str) -> int:
    """Return 32 bits by which a receipt tells later whether a row still has the token that was sent to."""
    return zlib.crc32(token.encode("utf-8", "surrogatepass"))


def cut(text: object) -> str:
    """Return a provider's text as one printable line of at most DETAIL_LENGTH characters."""
    return _printable(str(text)[: DETAIL_LENGTH * 2]).strip()[:DETAIL_LENGTH]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


class TargetKind:
    """What a Target's value is; the first two are those of a PushToken row."""

    TOKEN = "token"  # noqa: S105
    FID = "fid"
    TOPIC = "topic"
    CONDITION = "condition"
    #: Not sent to: a receipt's token, of which no more is known than ``checksum``.
    CHECKSUM = "checksum"


class Target(NamedTuple):
    """Where one push goes, as the sending path carries it: a token read from the database as a tuple.

    ``pk`` is None for a raw string without a row and for a topic or condition.
    """

    value: str
    pk: int | None = None
    kind: str = TargetKind.TOKEN
    project: str = ""
    locale: str = ""
    #: The primary key of the row's user when it was read.
    user_id: Any = None

    def __repr__(self) -> str:
        return f"<Target {self.kind} {mask(self.value)} pk={self.pk}>"

    @property
    def is_token(self) -> bool:
        return self.kind in (TargetKind.TOKEN, TargetKind.FID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What the provider said at once about one token.

    ``code`` is the provider's own word (or ours, where nothing was sent), ``detail`` its text cut to
    200 characters, ``id`` its message or receipt id, ``retry_after`` seconds, ``replacement`` the
    canonical id that replaces the token, ``project`` the Expo project learned in this exchange.
    ``about_project`` tells a rate limit of the whole project from that of one device.
    """

    target: Target
    outcome: Outcome
    backend: str = ""
    id: str = ""
    code: str = ""
    detail: str = ""
    retry_after: float | None = None
    replacement: str = field(default="", repr=False)
    project: str = ""
    about_project: bool = False

    @property
    def token(self) -> str:
        """The whole token, or the topic or condition. Keep it out of logs."""
        return self.target.value

    @property
    def pk(self) -> int | None:
        """The token's row, or None for a raw string without one, a topic or a condition."""
        return self.target.pk


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the provider says later about one accepted ticket.

    ``named`` is the token that the provider names, in each of its spellings; empty if it names none.
    """

    id: str
    outcome: Outcome
    code: str = ""
    detail: str = ""
    named: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class TokenChanges:
    """How many token rows a set of verdicts really changed."""

    deactivated: int = 0
    replaced: int = 0

    def __add__(self, other: TokenChanges) -> TokenChanges:
        return TokenChanges(self.deactivated + other.deactivated, self.replaced + other.replaced)

    def __bool__(self) -> bool:
        return bool(self.deactivated or self.replaced)


@dataclass(slots=True)
class PushResult:
    """What happened to every token of one call.

    ``counts`` has every token that was tried (or, in a dry run, planned) by outcome; ``skipped``
    those that were not tried, by reason: ``disabled``, ``inactive``, ``duplicate``, ``deleted``,
    ``transferred``, ``other_backend``, ``unknown_backend``. ``left_out`` counts, by field name, tokens
    whose provider could not say a field of the message. ``tickets`` keeps all tickets up to 10,000
    tokens and those that were not accepted above.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    tickets: list[Ticket] = field(default_factory=list)
    changes: TokenChanges = field(default_factory=TokenChanges)
    dry_run: bool = False

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self.tickets)

    def __len__(self) -> int:
        """Count the tokens that were tried."""
        return self.counts.total()

    def __bool__(self) -> bool:
        """A result is always true; ask ``accepted``, ``failed`` or ``ok`` what is in it."""
        return True

    @property
    def accepted(self) -> int:
        return self.counts[Outcome.ACCEPTED]

    @property
    def failed(self) -> int:
        return len(self) - self.accepted - self.counts[Outcome.PLANNED]

    @property
    def ok(self) -> bool:
        """Whether nothing that was tried failed. An empty audience is ok."""
        return not self.failed

    @property
    def retryable(self) -> list[Ticket]:
        """The kept tickets that may be sent again without risking a double."""
        return [ticket for ticket in self.tickets if ticket.outcome.is_retryable]

    @property
    def retry_after(self) -> float | None:
        """The seconds to wait before sending the retryable ones again, or None."""
        return max((t.retry_after for t in self.retryable if t.retry_after is not None), default=None)

    def of(self, *outcomes: Outcome) -> Sequence[Ticket]:
        """Return the kept tickets with one of these outcomes."""
        return [ticket for ticket in self.tickets if ticket.outcome in outcomes]

    def add(self, ticket: Ticket) -> None:
        """Count a ticket, and keep it as far as the limits allow."""
        self.extend([ticket])

    def extend(self, tickets: Sequence[Ticket]) -> None:
        """Count many tickets of one alias as ``add`` does, at a fraction of the cost."""
        if not tickets:
            return
        if len(self) + len(tickets) > KEEP_ALL_TICKETS:
            kept = self.tickets if len(self) > KEEP_ALL_TICKETS else list(filter(_is_failure, self.tickets))
            kept += itertools.islice(filter(_is_failure, tickets), max(0, KEEP_FAILED_TICKETS - len(kept)))
            self.tickets = kept
        else:
            self.tickets += tickets
        self.counts.update(ticket.outcome for ticket in tickets)
        self.backends[tickets[0].backend] += len(tickets)

    def __str__(self) -> str:
        tried = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.counts.items()))
        skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
        return (tried or "nobody") + (f"; skipped: {skipped}" if skipped else "")


def _is_failure(ticket: Ticket) -> bool:
    return ticket.outcome is not Outcome.ACCEPTED and ticket.outcome is not Outcome.PLANNED
