"""Expo's push service: what it is told, and what its tickets, errors and receipts mean.

Source of the protocol facts: Expo's documentation "Send notifications with the Expo Push Service"
and the behaviour of its Node SDK 6.1.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.views.decorators.debug import sensitive_variables

from django_push.backends.base import BasePushBackend, Verdict
from django_push.backends.values import dumps, loads, merge, text, text_size
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Receipt, Target, cut, mask
from django_push.retry import parse_retry_after
from django_push.wire import Group, Parsed, ParsedReceipts, Reply, Request, Secret, StaticAuth

#: Expo's words, in tickets, receipts and request errors alike. What is missing is REJECTED.
CODES = {
    "DeviceNotRegistered": Outcome.UNREGISTERED,
    "MismatchSenderId": Outcome.SENDER_MISMATCH,
    "MessageTooBig": Outcome.MESSAGE_REJECTED,
    "DeveloperError": Outcome.MESSAGE_REJECTED,
    "VALIDATION_ERROR": Outcome.MESSAGE_REJECTED,
    "API_ERROR": Outcome.MESSAGE_REJECTED,
    "InvalidCredentials": Outcome.PROVIDER_SETUP,
    "UNAUTHORIZED": Outcome.CREDENTIALS_REJECTED,
    "invalid_token": Outcome.CREDENTIALS_REJECTED,
    "MessageRateExceeded": Outcome.RATE_LIMITED,
    "TOO_MANY_REQUESTS": Outcome.RATE_LIMITED,
    "ProviderError": Outcome.UNAVAILABLE,
    "ExpoError": Outcome.UNAVAILABLE,
}
MIXED_PROJECTS = "PUSH_TOO_MANY_EXPERIENCE_IDS"
#: How often a request may come back in smaller parts: two single out one message each, 2**7 parts
#: are one recipient of 100 each, and some may find out in between that they mix projects.
MAX_GENERATION = 12
#: Bodies above this are sent compressed, as Expo's own SDK does. Bytes.
GZIP_ABOVE = 1024
#: The documented most of one request for receipts.
RECEIPTS_PER_REQUEST = 1000

_TOKEN = re.compile(r"Expo(?:nent)?PushToken\[[^\]\s]*\]?")
#: Where a VALIDATION_ERROR lies: the message's place in the request, or one recipient of it.
_PLACE = re.compile(r"\W{0,2}\[([0-9]{1,3})\](?:\.to\[([0-9]{1,3})\])?")
#: PushMessage's fields by Expo's names.
_NAMES = {
    "title": "title",
    "body": "body",
    "subtitle": "subtitle",
    "data": "data",
    "icon": "icon",
    "sound": "sound",
    "badge": "badge",
    "ttl_seconds": "ttl",
    "priority": "priority",
    "collapse_key": "collapseId",
    "tag": "tag",
    "channel_id": "channelId",
    "category": "categoryId",
    "interruption_level": "interruptionLevel",
    "content_available": "_contentAvailable",
    "mutable_content": "mutableContent",
}


class ExpoBackend(BasePushBackend):
    """Sends through Expo. ``access_token`` is needed only with "enhanced push security" switched on."""

    provider = "expo"
    emulator_path = "/--/api/v2/push"
    fields = frozenset(_NAMES) - {"ttl_seconds"} | {"ttl", "image"}
    recipients_per_request = 100
    has_receipts = True
    reserved_options = frozenset({"to"})
    object_options = frozenset({"data", "richContent"})
    token_form = re.compile(
        r"Expo(?:nent)?PushToken\[[!-Z\\^-~]+\]"
        r"|[A-Za-z0-9]{8}-[A-Za-z0-9]{4}-[A-Za-z0-9]{4}-[A-Za-z0-9]{4}-[A-Za-z0-9]{12}"
    )

    @sensitive_variables()
    def __init__(
        self,
        *,
        access_token: str | None = None,
        endpoint: str = "https://exp.host/--/api/v2/push",
        max_connections: int = 6,
        broadcast_rate: float | None = 540.0,
        **common: Any,
    ) -> None:
        # Expo takes 600 a second for each project; what is left is for direct sends.
        super().__init__(
            endpoint=endpoint, max_connections=max_connections, broadcast_rate=broadcast_rate, **common
        )
        self.endpoint = self.endpoint.rstrip("/")
        if access_token is not None and not re.fullmatch(r"[!-~]+", text(access_token)):
            raise self.invalid("access_token must be a string of printable characters.") from None
        self._auth = StaticAuth(header=Secret(f"Bearer {access_token}")) if access_token else None

    @property
    def auth(self) -> StaticAuth | None:
        return self._auth

    # --- out --------------------------------------------------------------------------------------

    def build(self, groups: Iterable[Group]) -> Iterator[Request]:
        """Yield requests of at most 100 recipients, of one project each, mixing messages freely."""
        for part in _packed(groups, self.recipients_per_request):
            yield self._request(part)

    def encode(self, message: PushMessage) -> str:
        """Return the message as Expo's JSON object without its opening brace and recipients."""
        return dumps(self._fields(message))[1:]

    def _fields(self, message: PushMessage) -> dict[str, Any]:
        fields = {
            name: value for field, name in _NAMES.items() if (value := getattr(message, field)) is not None
        }
        if message.image is not None:
            fields["richContent"] = {"image": message.image}
        return merge(fields, self.options(message))

    def least_size(self, message: PushMessage) -> int:
        said = self._fields(message)
        return text_size(map(said.get, ("title", "body", "subtitle")), said.get("data"))

    def _request(self, groups: Sequence[Group], generation: int = 0) -> Request:
        encoded: dict[int, str] = {}
        parts = []
        for message, targets in groups:
            said = encoded.get(id(message)) or encoded.setdefault(id(message), self.encode(message))
            to = dumps([target.value for target in targets])
            parts.append(f'{{"to":{to}{"" if said == "}" else ","}{said}')
        return self._post("send", f"[{','.join(parts)}]", groups=groups, generation=generation)

    def _post(self, action: str, content: str, **about: Any) -> Request:
        body, headers = content.encode(), {"Content-Type": "application/json"}
        if len(body) > GZIP_ABOVE:
            body = gzip.compress(body, 1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Request(url=f"{self.endpoint}/{action}", body=body, headers=headers, **about)

    # --- and back ---------------------------------------------------------------------------------

    def read(self, request: Request, reply: Reply) -> Verdict | Sequence[Verdict] | Parsed:
        payload = loads(reply.body)
        entries = payload.get("data") if isinstance(payload, dict) else None
        if isinstance(entries, dict):  # one recipient may be answered with an object, not a list
            entries = [entries]
        if (error := _request_error(payload)) and not (reply.status == 200 and entries):
            return self._request_failed(request, reply, error)
        if reply.status != 200:
            return self.refusal(reply)
        if not isinstance(entries, list):
            return Verdict(Outcome.UNKNOWN, "Unreadable")
        if _is_misaligned(request.targets, entries):
            return Verdict(Outcome.UNKNOWN, "Misaligned", "an answer names another token")
        wait = parse_retry_after(reply.headers.get("retry-after"))
        return [_verdict(entry, wait) for entry in entries]

    def _request_failed(self, request: Request, reply: Reply, error: Mapping[str, Any]) -> Verdict | Parsed:
        """Read an answer that refuses the whole request."""
        code, said = text(error.get("code")), text(error.get("message"))
        verdict = self.refusal(reply, code=code or "errors", detail=_masked(said))
        if reply.status >= 500 or verdict.outcome not in (Outcome.REJECTED, Outcome.UNKNOWN):
            return verdict  # the status says enough
        if request.generation < MAX_GENERATION:
            if code == MIXED_PROJECTS and (parts := _by_project(request, error.get("details"))):
                return self._resend(request, parts)
            if code == "VALIDATION_ERROR" and (isolated := self._isolate(request, said)):
                return isolated
        known = CODES.get(code, Outcome.REJECTED)
        # A whole request is never about one token, so no code of it may be a token's death.
        known = Outcome.REJECTED if known.is_dead else known
        return verdict._replace(outcome=known, about_project=known is Outcome.RATE_LIMITED)

    def _resend(self, request: Request, parts: Iterable[Sequence[Group]]) -> Parsed:
        return Parsed(resend=[self._request(part, request.generation + 1) for part in parts if part])

    def _isolate(self, request: Request, said: str) -> Parsed | None:
        """Keep one bad message from blocking the others of its request.

        The error names the place, as in ``"[3].data" must be of type object``: that message (or, for
        ``[3].to[7]``, that one recipient) is refused and the rest sent again. Without a place the
        messages are halved. None: there is only this message, and it is refused.
        """
        groups = list(request.groups)
        place = _PLACE.match(said)
        index = int(place[1]) if place else len(groups)
        if place is None or index >= len(groups):
            return self._resend(request, _halves(groups)) if len(groups) > 1 else None
        message, targets = groups[index]
        bad, good = targets, targets[:0]
        if place[2] is not None and int(place[2]) < len(targets):
            at = int(place[2])
            bad, good = targets[at : at + 1], [*targets[:at], *targets[at + 1 :]]
        rest = [*groups[:index], *([(message, good)] if good else []), *groups[index + 1 :]]
        verdict = Verdict(Outcome.MESSAGE_REJECTED, "VALIDATION_ERROR", _masked(said))
        resent = self._resend(request, [rest] if request.generation < 2 else _halves(rest))
        return Parsed([self.ticket(target, verdict) for target in bad], resent.resend)

    # --- receipts ---------------------------------------------------------------------------------

    def build_receipts(self, ids: Sequence[str]) -> Iterator[Request]:
        for start in range(0, len(ids), RECEIPTS_PER_REQUEST):
            part = ids[start : start + RECEIPTS_PER_REQUEST]
            yield self._post("getReceipts", dumps({"ids": part}), receipt_ids=part)

    def parse_receipts(self, request: Request, reply: Reply) -> ParsedReceipts:
        if reply.failure is not None:
            return ParsedReceipts(failure=Outcome.UNAVAILABLE, code=cut(reply.reason))
        payload = _loads_once(reply.body)
        data = payload.get("data") if isinstance(payload, dict) else None
        error = _request_error(payload)
        if error or reply.status != 200 or not isinstance(data, dict):
            return self._receipts_failed(reply, error or {})
        asked = set(request.receipt_ids)
        receipts = (_receipt(i, entry) for i, entry in data.items() if i in asked)
        # One that is unreadable is asked for again.
        return ParsedReceipts(receipts=[r for r in receipts if r.outcome is not Outcome.UNKNOWN])

    def _receipts_failed(self, reply: Reply, error: Mapping[str, Any]) -> ParsedReceipts:
        code = text(error.get("code"))
        refused = self.refusal(reply, code=code, detail=_masked(text(error.get("message"))))
        known = CODES.get(code, refused.outcome)
        return ParsedReceipts(
            failure=refused.outcome if known.is_dead else known,
            code=refused.code,
            detail=refused.detail,
            retry_after=parse_retry_after(reply.headers.get("retry-after")),
        )


def _packed(groups: Iterable[Group], size: int) -> Iterator[list[Group]]:
    """Yield lists of groups with at most ``size`` recipients in all, of one project each."""
    open_parts: dict[str, list[Group]] = {}
    filled: Counter[str] = Counter()
    for message, targets in groups:
        projects: dict[str, list[Target]] = {}
        for target in targets:
            projects.setdefault(target.project, []).append(target)
        for project, members in projects.items():
            start = 0
            while start < len(members):
                some = members[start : start + size - filled[project]]
                open_parts.setdefault(project, []).append((message, some))
                start += len(some)
                filled[project] += len(some)
                if filled[project] == size:
                    yield open_parts.pop(project)
                    filled[project] = 0
    yield from open_parts.values()


def _request_error(payload: object) -> Mapping[str, Any] | None:
    """Return the error of a whole request in either shape: ``errors`` or OAuth's ``error``."""
    if not isinstance(payload, dict):
        return None
    errors = payload.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return errors[0]
    if code := text(payload.get("error")):
        return {"code": code, "message": payload.get("error_description")}
    return None


def _halves(groups: Sequence[Group]) -> tuple[Sequence[Group], Sequence[Group]]:
    """Cut between messages; a single one between its recipients."""
    if len(groups) == 1:
        [(message, targets)] = groups
        half = len(targets) // 2
        return ([(message, targets[:half])] if half else []), [(message, targets[half:])]
    half = len(groups) // 2
    return groups[:half], groups[half:]


def _by_project(request: Request, details: object) -> list[list[Group]] | None:
    """Regroup a request that mixed projects: by the answer's details, else token by token.

    Nothing of such a request was sent. None when there is only one recipient.
    """
    if len(request.targets) < 2:
        return None
    project_of: dict[str, str] = {}
    for project, tokens in details.items() if isinstance(details, dict) else ():
        for token in tokens if isinstance(tokens, list) else ():
            project_of.setdefault(text(token), cut(project))
    parts: dict[str, list[Group]] = {}
    for message, targets in request.groups:
        members: dict[str, list[Target]] = {}
        for target in targets:
            project = project_of.get(target.value, target.project)
            members.setdefault(project, []).append(target._replace(project=project))
        for project, named in members.items():
            parts.setdefault(project, []).append((message, named))
    if len(parts) > 1:
        return list(parts.values())
    return [[(message, [target])] for message, targets in request.groups for target in targets]


def _verdict(entry: object, wait: float | None = None) -> Verdict:
    """Read one ticket or receipt."""
    if not isinstance(entry, dict):
        return Verdict(Outcome.UNKNOWN, "Unreadable")
    if entry.get("status") == "ok":
        return Verdict(Outcome.ACCEPTED, id=text(entry.get("id")))
    if entry.get("status") != "error":
        return Verdict(Outcome.UNKNOWN, "Unreadable")
    details = entry.get("details")
    code, outcome = _classify(details if isinstance(details, dict) else {})
    return Verdict(
        outcome,
        cut(code),
        _masked(text(entry.get("message"))),
        retry_after=wait if outcome.is_retryable else None,
        about_project=code == "TOO_MANY_REQUESTS",
    )


def _classify(details: Mapping[str, Any]) -> tuple[str, Outcome]:
    """Return the code that decides, and its outcome: a nested provider's code before Expo's own.

    A nested code never kills a token: Expo says DeviceNotRegistered itself when one is dead.
    """
    for provider in ("fcm", "apns"):
        inner = details.get(provider)
        code = text(inner.get("error")) if isinstance(inner, dict) else ""
        if code in CODES and not CODES[code].is_dead:
            return code, CODES[code]
    code = text(details.get("error"))
    return code, CODES.get(code, Outcome.REJECTED)


def _is_misaligned(targets: Sequence[Target], entries: Sequence[object]) -> bool:
    """Whether an entry names another token than the one in its place."""
    for target, entry in zip(targets, entries, strict=False):
        if not isinstance(entry, dict) or "details" not in entry:
            continue
        # Only the bracketed form is compared: how Expo repeats a bare UUID is not known.
        inner, sent = _named(entry).partition("[")[2], target.value.partition("[")[2]
        if inner and sent and inner != sent:
            return True
    return False


def _named(entry: Mapping[str, Any]) -> str:
    """Return the token that an entry is about by its own word: in its details, else in its text."""
    details = entry.get("details")
    named = text(details.get("expoPushToken")) if isinstance(details, dict) else ""
    if named:
        return named
    found = _TOKEN.search(text(entry.get("message"))[:1000])
    return found[0] if found else ""


def _receipt(ticket_id: str, entry: object) -> Receipt:
    verdict = _verdict(entry)
    inner = _named(entry).partition("[")[2] if isinstance(entry, dict) and verdict.outcome.is_dead else ""
    return Receipt(
        id=ticket_id,
        outcome=verdict.outcome,
        code=verdict.code,
        detail=verdict.detail,
        named=(f"ExponentPushToken[{inner}", f"ExpoPushToken[{inner}") if inner else (),
    )


def _masked(said: str) -> str:
    """Return Expo's text, which repeats tokens, without a whole one."""
    return cut(_TOKEN.sub(lambda found: mask(found[0]), said[:1000]))


def _loads_once(body: bytes) -> Any:
    """Read JSON without the keys that come twice in an object: what they say is not known."""
    try:
        return json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        count = Counter(key for key, _ in pairs)
        return {key: value for key, value in found.items() if count[key] == 1}
    return found
