"""The contract of a backend, and what all providers' answers have in common.

A backend is pure: it builds requests, reads replies and touches neither network nor database. A
third party's is a subclass that fills in ``fields``, ``encode``, ``request`` and ``read``; the
tests in ``django_push.testing.contract`` hold it to what the sending path relies on.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, urlsplit

from django.views.decorators.debug import sensitive_variables

from django_push.backends.values import option, payload_size
from django_push.exceptions import InvalidPushBackend
from django_push.message import PushMessage
from django_push.outcomes import DETAIL_LENGTH, Outcome, Target, TargetKind, Ticket, cut, mask
from django_push.retry import parse_retry_after
from django_push.wire import (
    Failure,
    Group,
    Parsed,
    ParsedReceipts,
    Reply,
    Request,
    ServiceAccountAuth,
    StaticAuth,
)

logger = logging.getLogger("django_push")

#: The longest token that is taken. Real ones have 40 to 300 characters.
MAX_TOKEN_LENGTH = 4096
#: What Apple and Google carry, in bytes of keys and values.
MAX_PAYLOAD = 4096
#: The same for a topic or condition.
MAX_TOPIC_PAYLOAD = 2048
#: So much of a token's beginning may stand at the end of a text that was cut.
LEAST_SHOWN = 8
#: A longer id of a ticket is none: no provider gives such, and it would be kept for receipts.
MAX_ID_LENGTH = 500
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Verdict(NamedTuple):
    """What a provider says about one token, before it is known which: a Ticket without its target."""

    outcome: Outcome
    code: str = ""
    detail: str = ""
    id: str = ""
    retry_after: float | None = None
    replacement: str = ""
    about_project: bool = False


class BasePushBackend:
    """What sending asks of a provider.

    ``timeout`` is the total deadline of one request in seconds, ``max_connections`` the most requests
    in flight, ``proxy`` the URL of an HTTP proxy, ``ca_bundle`` the path of a PEM file to trust in
    place of the usual authorities (a relay of your own). ``broadcast_rate`` is the most tokens per
    second that broadcasts send, over all processes (None: no limit), reached evenly within
    ``broadcast_ramp`` seconds. Raises InvalidPushBackend for a bad option.
    """

    #: The provider's name: the key of ``provider_options``, and the emulator's.
    provider: ClassVar[str]
    #: Which class does the I/O: a dotted path.
    transport: ClassVar[str] = "django_push.transport.http.RequestsTransport"
    #: Where the emulator serves this provider.
    emulator_path: ClassVar[str] = ""
    #: Which fields of a PushMessage can it express?
    fields: frozenset[str] = frozenset()
    #: To what can it send?
    kinds: frozenset[str] = frozenset({TargetKind.TOKEN})
    #: How many recipients fit into one request?
    recipients_per_request: int = 1
    #: Does it say more about accepted tickets later?
    has_receipts: ClassVar[bool] = False
    #: Options at the top level of ``provider_options`` that would change who gets the message.
    reserved_options: ClassVar[frozenset[str]] = frozenset()
    #: Options, as dotted paths, that are objects: nothing else can be laid upon what the message says.
    object_options: ClassVar[frozenset[str]] = frozenset()
    #: The form of a token, as a whole.
    token_form: ClassVar[re.Pattern[str]] = re.compile(r"[!-~]+")

    @sensitive_variables("proxy")
    def __init__(
        self,
        *,
        alias: str,
        endpoint: str,
        timeout: float = 15.0,
        max_connections: int = 8,
        proxy: str | None = None,
        ca_bundle: str | None = None,
        broadcast_rate: float | None = None,
        broadcast_ramp: float = 0.0,
    ) -> None:
        self.alias = alias
        self.endpoint = self._url("endpoint", endpoint)
        if not _is_number(timeout) or not 0 < timeout <= 600:
            raise self.invalid("timeout must be more than 0 and at most 600 seconds.")
        if type(max_connections) is not int or not 1 <= max_connections <= 1000:
            raise self.invalid("max_connections must be 1 to 1000.")
        if proxy is not None and _split(proxy) is None:
            raise self.invalid("proxy must be an http:// or https:// URL.")
        if ca_bundle is not None and not _is_path(ca_bundle):
            raise self.invalid("ca_bundle must be the path of a file that is there.")
        self.timeout = float(timeout)
        self.max_connections = max_connections
        if broadcast_rate is not None and not (_is_number(broadcast_rate) and 0 < broadcast_rate <= 1e9):
            raise self.invalid("broadcast_rate must be a number of tokens per second above 0, or None.")
        if not _is_number(broadcast_ramp) or not 0 <= broadcast_ramp <= 86_400:
            raise self.invalid("broadcast_ramp must be 0 to 86400 seconds.")
        self.proxy = proxy
        self.ca_bundle = ca_bundle
        self.broadcast_rate = broadcast_rate
        self.broadcast_ramp = float(broadcast_ramp)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.alias!r}>"

    # --- who and what can it say ------------------------------------------------------------------

    @property
    def auth(self) -> StaticAuth | ServiceAccountAuth | None:
        """What the Authorization header is made of; None sends none."""
        return None

    def accepts(self, token: object) -> bool:
        """Whether the token has the form of this provider's tokens."""
        return (
            isinstance(token, str)
            and len(token) <= MAX_TOKEN_LENGTH
            and self.token_form.fullmatch(token) is not None
        )

    def refuse_target(self, target: Target) -> Verdict | None:
        """Return why this target cannot be sent to, or None."""
        if target.kind not in self.kinds:
            return Verdict(Outcome.REJECTED, "UnsupportedTarget", f"no {target.kind} at this provider")
        if target.is_token and not self.accepts(target.value):
            return Verdict(Outcome.INVALID_TOKEN, "Malformed", "not the form of this provider's tokens")
        return None

    def refuse_message(self, message: PushMessage, kind: str) -> Verdict | None:
        """Return why the provider is sure to refuse this message to a target of this kind, or None.

        Asked once per message and kind, not per token.
        """
        options = self.options(message)
        if reserved := self.reserved_options & options.keys():
            return rejected("InvalidOption", f"provider_options must not name {min(reserved)!r}")
        for path in sorted(self.object_options) if options else ():
            if not isinstance(option(options, path), (Mapping, type(None))):
                return rejected("InvalidOption", f"provider_options: {path} must be an object")
        is_token = kind in (TargetKind.TOKEN, TargetKind.FID)
        if self.least_size(message) > (most := MAX_PAYLOAD if is_token else MAX_TOPIC_PAYLOAD):
            return rejected("MessageTooBig", f"over {most} bytes of keys and values")
        return None

    def least_size(self, message: PushMessage) -> int:
        """Return the least bytes of keys and values that the message takes on the device.

        It never overstates: what is over the limit here is over the provider's, which has the last
        word. A provider whose options can shorten the message takes them into account.
        """
        return payload_size(message)

    def options(self, message: PushMessage) -> Mapping[str, Any]:
        """Return what the message says to this provider alone."""
        return message.provider_options.get(self.provider, {})

    # --- out --------------------------------------------------------------------------------------

    def build(self, groups: Iterable[Group]) -> Iterator[Request]:
        """Yield the requests that say each message to its targets. Each target is in one request.

        Tokens share requests as far as the provider lets them; a topic or condition has its own.
        """
        for message, targets in groups:
            encoded = self.encode(message)
            tokens = [target for target in targets if target.is_token]
            for part in chunks(tokens, self.recipients_per_request):
                yield self.request([(message, part)], encoded)
            for target in targets if len(tokens) < len(targets) else ():
                if not target.is_token:
                    yield self.request([(message, [target])], encoded)

    def encode(self, message: PushMessage) -> Any:
        """Return what all requests of a message share, so that it is encoded once."""
        raise NotImplementedError

    def request(self, groups: Sequence[Group], encoded: Any) -> Request:
        """Return one request for these groups, the first message already encoded."""
        raise NotImplementedError

    # --- and back ---------------------------------------------------------------------------------

    def parse(self, request: Request, reply: Reply) -> Parsed:
        """Read the provider's answer: one ticket for each target, or a request to send it again.

        Never raises, whatever the reply holds. An answer for another number of targets than were
        asked about says nothing about any of them.
        """
        if reply.failure is not None:
            return self._same(request, _FAILURES[reply.failure], cut(reply.reason))
        try:
            return self._parsed(request, self.read(request, reply))
        except Exception:
            # A slip in one provider's reading must not cost the run the verdicts of its other requests.
            logger.exception("%r cannot read a reply; what it said of its tokens is unknown", self)
            return self._same(request, Outcome.UNKNOWN, "Unreadable")

    def _parsed(self, request: Request, found: Verdict | Sequence[Verdict] | Parsed) -> Parsed:
        if isinstance(found, Parsed):
            return found
        if isinstance(found, Verdict):
            if len(request.targets) > 1 and (found.code or found.detail):
                found = _masked_of_all(found, request.targets)
            return Parsed(self.tickets(request, [found] * len(request.targets)))
        if len(found) != len(request.targets):
            return self._same(request, Outcome.UNKNOWN, "WrongCount")
        return Parsed(self.tickets(request, found))

    def read(self, request: Request, reply: Reply) -> Verdict | Sequence[Verdict] | Parsed:
        """Return a verdict about the whole request, one per target in order, or what to resend."""
        raise NotImplementedError

    def tickets(self, request: Request, verdicts: Sequence[Verdict]) -> list[Ticket]:
        """Pair verdicts with the request's targets. An id that came twice is the id of nothing."""
        unusable = _unusable_ids([verdict.id for verdict in verdicts if verdict.id])
        alias, is_resent = self.alias, request.generation > 0
        return [
            Ticket(
                target=target,
                outcome=verdict.outcome,
                backend=alias,
                id="" if verdict.id in unusable else verdict.id,
                code=verdict.code and _masked(verdict.code, target),
                detail=verdict.detail and _masked(verdict.detail, target),
                retry_after=verdict.retry_after,
                replacement=verdict.replacement if verdict.replacement != target.value else "",
                project=target.project if is_resent else "",
                about_project=verdict.about_project,
            )
            for target, verdict in zip(request.targets, verdicts, strict=True)
        ]

    def ticket(self, target: Target, verdict: Verdict) -> Ticket:
        """Return the ticket of a target that is not sent to."""
        return Ticket(
            target=target,
            outcome=verdict.outcome,
            backend=self.alias,
            code=verdict.code,
            detail=verdict.detail,
        )

    def refusal(self, reply: Reply, *, code: str = "", detail: object = "") -> Verdict:
        """Read an HTTP status that is no success. ``code`` is the provider's word, if it said one.

        A 500 or 503 is the provider's own answer only with its error body or a Retry-After; else,
        and for any other 5xx, a proxy may have spoken after the push had been taken.
        """
        status = reply.status
        wait = parse_retry_after(reply.headers.get("retry-after"))
        outcome = _STATUSES.get(status)
        if outcome is None and 400 <= status < 500:
            outcome = Outcome.REJECTED
        if outcome is None or (outcome is Outcome.UNAVAILABLE and not code and wait is None):
            outcome = Outcome.UNKNOWN
        retry_after = wait if outcome.is_retryable else None
        return Verdict(
            outcome,
            cut(code or f"HTTP {status}"),
            cut(detail),
            retry_after=retry_after,
            about_project=status == 429,
        )

    def build_receipts(self, ids: Sequence[str]) -> Iterator[Request]:
        """Yield the requests that ask for the receipts of these tickets."""
        return iter(())

    def parse_receipts(self, request: Request, reply: Reply) -> ParsedReceipts:
        """Read the answer to a request of ``build_receipts``. Never raises."""
        raise NotImplementedError

    # --- for subclasses ---------------------------------------------------------------------------

    def invalid(self, message: str) -> InvalidPushBackend:
        """Return the error that names this alias."""
        return InvalidPushBackend(message, alias=self.alias)

    def _same(self, request: Request, outcome: Outcome, code: str) -> Parsed:
        return Parsed(self.tickets(request, [Verdict(outcome, code)] * len(request.targets)))

    def _url(self, name: str, url: object) -> str:
        """Return the URL if it is https, or http to this machine."""
        parts = _split(url)
        if parts is None or parts.fragment:
            raise self.invalid(f"{name} must be an https:// URL.")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise self.invalid(f"{name} must be https; plain http goes to a loopback address only.")
        if parts.username or parts.password:
            raise self.invalid(f"{name} must not hold a user name or password.")
        return parts.geturl()


_FAILURES = {
    Failure.NEVER_SENT: Outcome.NOT_SENT,
    Failure.MAYBE_SENT: Outcome.UNKNOWN,
    Failure.NO_CREDENTIALS: Outcome.CREDENTIALS_REJECTED,
}
_STATUSES = {
    401: Outcome.CREDENTIALS_REJECTED,
    403: Outcome.CREDENTIALS_REJECTED,
    429: Outcome.RATE_LIMITED,
    500: Outcome.UNAVAILABLE,
    503: Outcome.UNAVAILABLE,
}


def rejected(code: str, detail: str) -> Verdict:
    """Return the verdict about a message that is refused before it is sent."""
    return Verdict(Outcome.MESSAGE_REJECTED, code, detail)


def chunks(targets: Sequence[Target], size: int) -> Iterator[Sequence[Target]]:
    """Cut a sequence into parts of at most ``size``."""
    for start in range(0, len(targets), size):
        yield targets[start : start + size]


def _masked(detail: str, target: Target) -> str:
    """Return a provider's text without the whole token, which some repeat in their errors.

    Nor with most of it, where the text has been cut within the token.
    """
    token = target.value
    if not target.is_token:
        return detail
    if token in detail:
        detail = detail.replace(token, mask(token))
    if token[: LEAST_SHOWN + 1] in detail:
        for shown in range(min(len(token), len(detail)), LEAST_SHOWN, -1):
            if detail.endswith(token[:shown]):
                return (detail[:-shown] + mask(token))[:DETAIL_LENGTH]
    return detail


def _masked_of_all(verdict: Verdict, targets: Sequence[Target]) -> Verdict:
    """Mask every token of a request in what is said about all of it: some repeat the whole request."""
    code, detail = verdict.code, verdict.detail
    for target in targets:
        code, detail = _masked(code, target), _masked(detail, target)
    return verdict._replace(code=code, detail=detail)


def _unusable_ids(ids: Sequence[str]) -> Collection[str]:
    """Return the ids that cannot be kept: those that came twice, overlong or unprintable ones."""
    longest = len(max(ids, key=len, default=""))
    if len(set(ids)) == len(ids) and longest <= MAX_ID_LENGTH and "".join(ids).isprintable():
        return ()  # the usual case, found out at C's speed
    count = Counter(ids)
    return {i for i in count if count[i] > 1 or len(i) > MAX_ID_LENGTH or not i.isprintable()}


def _split(url: object) -> SplitResult | None:
    """Return the parts of an http or https URL with a host, or None."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        usable = parts is not None and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if usable and parts is not None and parts.scheme in ("http", "https") else None


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike)) and os.path.exists(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
