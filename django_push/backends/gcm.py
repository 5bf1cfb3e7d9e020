"""GCM's HTTP protocol (also "FCM legacy HTTP"), for gateways and relays that still speak it.

Google's own servers stopped in 2024, so the endpoint has no default. Source of the protocol facts:
AOSP's GCM documentation (http.jd, server-ref.jd) and Firebase's legacy HTTP server reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django.views.decorators.debug import sensitive_variables

from django_push.backends.base import BasePushBackend, Verdict, rejected
from django_push.backends.values import dumps, loads, merge, option, reserved_key, stringify, text, text_size
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind, cut
from django_push.retry import parse_retry_after
from django_push.wire import Group, Reply, Request, Secret, StaticAuth

#: GCM's words. What is missing is REJECTED.
CODES = {
    "NotRegistered": Outcome.UNREGISTERED,
    "InvalidRegistration": Outcome.INVALID_TOKEN,
    "MismatchSenderId": Outcome.SENDER_MISMATCH,
    "InvalidPackageName": Outcome.SENDER_MISMATCH,
    "MessageTooBig": Outcome.MESSAGE_REJECTED,
    "InvalidDataKey": Outcome.MESSAGE_REJECTED,
    "InvalidTtl": Outcome.MESSAGE_REJECTED,
    "InvalidParameters": Outcome.MESSAGE_REJECTED,
    "MissingRegistration": Outcome.MESSAGE_REJECTED,
    "InvalidApnsCredential": Outcome.PROVIDER_SETUP,
    "DeprecatedEndpoint": Outcome.CREDENTIALS_REJECTED,
    "INVALID_KEY": Outcome.CREDENTIALS_REJECTED,
    "DeviceMessageRateExceeded": Outcome.RATE_LIMITED,
    "TopicsMessageRateExceeded": Outcome.RATE_LIMITED,
    "QuotaExceeded": Outcome.RATE_LIMITED,
    "DeviceQuotaExceeded": Outcome.RATE_LIMITED,
    "Unavailable": Outcome.UNAVAILABLE,
    "InternalServerError": Outcome.UNAVAILABLE,
}

#: PushMessage's fields by the names of GCM's options and of its notification block.
_OPTIONS = {
    "collapse_key": "collapse_key",
    "priority": "priority",
    "ttl_seconds": "time_to_live",
    "content_available": "content_available",
    "mutable_content": "mutable_content",
}
_NOTIFICATION = {
    "title": "title",
    "body": "body",
    "subtitle": "subtitle",
    "image": "image",
    "icon": "icon",
    "color": "color",
    "sound": "sound",
    "tag": "tag",
    "channel_id": "android_channel_id",
    "category": "click_action",
}
_JSON_FIELDS = frozenset({*_OPTIONS, *_NOTIFICATION, "data", "badge", "ttl"}) - {"ttl_seconds"}
_PLAINTEXT_FIELDS = frozenset({"collapse_key", "ttl", "data"})
_PLAINTEXT_OPTIONS = frozenset(
    {"collapse_key", "time_to_live", "delay_while_idle", "restricted_package_name", "dry_run", "data"}
)


class GCMBackend(BasePushBackend):
    """Sends to a server that speaks GCM's protocol: JSON to 1000 tokens at once, or plain text to one.

    ``endpoint`` is the whole URL to post to, ``api_key`` the server key, ``format`` ``json`` or
    ``plaintext`` (no notification block, no topics).
    """

    provider = "gcm"
    emulator_path = "/gcm/send"
    reserved_options = frozenset({"to", "registration_ids", "condition", "notification_key"})
    object_options = frozenset({"data", "notification"})
    token_form = re.compile(r"[!-Z\\^-~]+")

    @sensitive_variables()
    def __init__(self, *, endpoint: str, api_key: str, format: str = "json", **common: Any) -> None:  # noqa: A002 - the option's name
        super().__init__(endpoint=endpoint, **common)
        if not isinstance(api_key, str) or not re.fullmatch(r"[!-~]+", api_key):
            raise self.invalid("api_key must be a string of printable characters.") from None
        if format not in ("json", "plaintext"):
            raise self.invalid("format must be 'json' or 'plaintext'.")
        self._auth = StaticAuth(header=Secret(f"key={api_key}"))
        self.is_json = format == "json"
        self.fields = _JSON_FIELDS if self.is_json else _PLAINTEXT_FIELDS
        self.recipients_per_request = 1000 if self.is_json else 1
        if self.is_json:
            self.kinds = frozenset({TargetKind.TOKEN, TargetKind.TOPIC, TargetKind.CONDITION})

    @property
    def auth(self) -> StaticAuth:
        return self._auth

    def refuse_message(self, message: PushMessage, kind: str) -> Verdict | None:
        if refused := super().refuse_message(message, kind):
            return refused
        key = reserved_key(message.data) or reserved_key(option(self.options(message), "data"))
        if key:
            return rejected("InvalidDataKey", f"data must not have the key {key!r}")
        return None if self.is_json else self._refuse_plaintext(message)

    def _refuse_plaintext(self, message: PushMessage) -> Verdict | None:
        options = self.options(message)
        if unsaid := options.keys() - _PLAINTEXT_OPTIONS:
            return rejected("InvalidParameters", f"plain text has no {min(unsaid)!r}")
        for name, value in options.items():
            if name != "data" and isinstance(value, (Mapping, list, tuple)):
                return rejected("InvalidParameters", f"plain text has one value for {name!r}")
        if not (message.data or message.collapse_key or options):
            return rejected("InvalidParameters", "plain text carries data, and there is none")
        return None

    def least_size(self, message: PushMessage) -> int:
        said = self.encode(message)
        notification = said.get("notification") or {}
        return text_size(map(notification.get, ("title", "body", "subtitle")), said.get("data"))

    # --- out --------------------------------------------------------------------------------------

    def encode(self, message: PushMessage) -> dict[str, Any]:
        """Return the payload without its recipients."""
        fields = _named(message, _OPTIONS)
        notification = _named(message, _NOTIFICATION)
        if message.badge is not None:
            notification["badge"] = str(int(message.badge))
        if not self.is_json:
            fields = {name: value for name, value in fields.items() if name in _PLAINTEXT_OPTIONS}
        elif notification:
            fields["notification"] = notification
        fields = merge(fields | {"data": message.data or {}}, self.options(message))
        fields["data"] = stringify(fields["data"] or {})
        return {name: value for name, value in fields.items() if value != {}}

    def request(self, groups: Sequence[Group], encoded: dict[str, Any]) -> Request:
        [(_, targets)] = groups
        payload = _recipients(targets) | encoded
        if self.is_json:
            body, kind = dumps(payload), "application/json"
        else:
            body, kind = _plaintext(payload), "application/x-www-form-urlencoded;charset=UTF-8"
        return Request(url=self.endpoint, body=body.encode(), headers={"Content-Type": kind}, groups=groups)

    # --- and back ---------------------------------------------------------------------------------

    def read(self, request: Request, reply: Reply) -> Verdict | Sequence[Verdict]:
        payload = loads(reply.body) if self.is_json else _read_plaintext(reply.body)
        payload = payload if isinstance(payload, dict) else {}
        if reply.status != 200:
            return self._request_failed(reply, payload)
        wait = parse_retry_after(reply.headers.get("retry-after"))
        if not request.targets[0].is_token:
            return _not_dead(self._verdict(payload, wait))._replace(replacement="")
        results = payload.get("results")
        if isinstance(results, list):
            return [self._verdict(result, wait) for result in results]
        if code := text(payload.get("error")):
            return _not_dead(_error_verdict(code, wait))
        return Verdict(Outcome.UNKNOWN, "Unreadable")

    def _request_failed(self, reply: Reply, payload: Mapping[str, Any]) -> Verdict:
        """Read an answer that refuses the whole request; its reason may be JSON, a line or prose."""
        code = text(payload.get("error")) or _error_line(reply.body)
        verdict = self.refusal(reply, code=code, detail="" if code else _prose(reply.body))
        if reply.status == 404:
            return verdict._replace(outcome=Outcome.CREDENTIALS_REJECTED)
        if reply.status == 400:
            known = CODES.get(code, Outcome.MESSAGE_REJECTED)
            wait = parse_retry_after(reply.headers.get("retry-after")) if known.is_retryable else None
            # A whole request is never about one token of a thousand.
            known = Outcome.MESSAGE_REJECTED if known.is_dead else known
            return verdict._replace(outcome=known, retry_after=wait)
        return verdict

    def _verdict(self, result: object, wait: float | None) -> Verdict:
        """Read one of the results, which answer the tokens by their place, or a topic's answer."""
        if not isinstance(result, dict):
            return _UNREADABLE
        error = result.get("error")
        if error is not None:
            return _error_verdict(error, wait) if error and isinstance(error, str) else _UNREADABLE
        message_id = result.get("message_id")
        if type(message_id) is int:
            message_id = str(message_id)
        if not message_id or not isinstance(message_id, str):
            return _UNREADABLE
        canonical = result.get("registration_id")
        if canonical is not None and self.accepts(canonical):
            return Verdict(Outcome.ACCEPTED, id=message_id, replacement=canonical)
        return Verdict(Outcome.ACCEPTED, id=message_id)


_UNREADABLE = Verdict(Outcome.UNKNOWN, "Unreadable")


def _named(message: PushMessage, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for field, name in names.items() if (value := getattr(message, field)) is not None}


def _recipients(targets: Sequence[Target]) -> dict[str, Any]:
    if targets[0].kind == TargetKind.TOPIC:
        return {"to": f"/topics/{targets[0].value}"}
    if targets[0].kind == TargetKind.CONDITION:
        return {"condition": targets[0].value}
    return {"registration_ids": [target.value for target in targets]}


def _plaintext(payload: Mapping[str, Any]) -> str:
    """Write the JSON payload as the form of one recipient, with ``data.`` before the data's keys."""
    pairs = [("registration_id", payload["registration_ids"][0])]
    for name, value in payload.items():
        if name == "data":
            pairs += [(f"data.{key}", said) for key, said in value.items()]
        elif name != "registration_ids" and value is not None:
            pairs.append((name, str(int(value) if isinstance(value, bool) else value)))
    return urlencode(pairs)


def _read_plaintext(body: bytes) -> dict[str, Any] | None:
    """Read ``id=…`` (and ``registration_id=…``) or ``Error=…`` as the JSON answer that says the same.

    None for anything else: an answer that is not understood is no success.
    """
    try:
        lines = body.decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError:
        return None
    match [tuple(line.split("=", 1)) for line in lines]:
        case [("Error", code)] if code:
            return {"error": code, "results": [{"error": code}]}
        case [("id", message_id)] if message_id:
            return {"results": [{"message_id": message_id}]}
        case [("id", message_id), ("registration_id", canonical)] if message_id:
            return {"results": [{"message_id": message_id, "registration_id": canonical}]}
    return None


def _error_verdict(code: str, wait: float | None) -> Verdict:
    outcome = CODES.get(code, Outcome.REJECTED)
    return Verdict(
        outcome,
        cut(code),
        retry_after=wait if outcome.is_retryable else None,
        about_project=code == "QuotaExceeded",
    )


def _not_dead(verdict: Verdict) -> Verdict:
    """Keep a word about a token from being said of what is none, or of a thousand at once."""
    return verdict._replace(outcome=Outcome.REJECTED) if verdict.outcome.is_dead else verdict


def _error_line(body: bytes) -> str:
    found = re.match(rb"\s*Error=([A-Za-z_]{1,60})\s*$", body[:200])
    return found[1].decode() if found else ""


def _prose(body: bytes) -> str:
    text = body[:1000].decode(errors="replace")
    return "" if text.lstrip().startswith("<") else cut(text)
