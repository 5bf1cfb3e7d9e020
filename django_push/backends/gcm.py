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

from django_push.backends.base import (
    BasePushBackend,
    Verdict,
    dumps,
    loads,
    merge,
    rejected,
    reserved_key,
    stringify,
)
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
        if key := reserved_key(message):
            return rejected("InvalidDataKey", f"data must not have the key {key!r}")
        unsaid = set() if self.is_json else self.options(message).keys() - _PLAINTEXT_OPTIONS
        if unsaid:
            return rejected("InvalidParameters", f"plain text has no {min(unsaid)!r}")
        return super().refuse_message(message, kind)

    # --- out --------------------------------------------------------------------------------------

    def encode(self, message: PushMessage) -> dict[str, Any]:
        """Return the payload without its recipients."""
        fields = _named(message, _OPTIONS)
        if message.data:
            fields["data"] = stringify(message.data)
        notification = _named(message, _NOTIFICATION)
        if message.badge is not None:
            notification["badge"] = str(message.badge)
        if notification and self.is_json:
            fields["notification"] = notification
        return merge(fields, self.options(message))

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
        wait = parse_retry_after(reply.headers.get("retry-after"))
        if reply.status != 200:
            return self._request_failed(reply, payload)
        if not request.targets[0].is_token:
            return [_topic_verdict(payload, wait)]
        results = payload.get("results")
        if not isinstance(results, list):
            return Verdict(Outcome.UNKNOWN, "Unreadable")
        return [self._verdict(result, wait) for result in results]

    def _request_failed(self, reply: Reply, payload: Mapping[str, Any]) -> Verdict:
        """Read an answer that refuses the whole request; its reason may be JSON, a line or prose."""
        code = payload.get("error") or _error_line(reply.body)
        code = code if isinstance(code, str) else ""
        verdict = self.refusal(reply, code=code, detail="" if code else _prose(reply.body))
        if reply.status == 400:
            known = CODES.get(code, Outcome.MESSAGE_REJECTED)
            # A whole request is never about one token of a thousand.
            return verdict._replace(outcome=Outcome.MESSAGE_REJECTED if known.is_dead else known)
        if reply.status == 404:
            return verdict._replace(outcome=Outcome.CREDENTIALS_REJECTED)
        return verdict

    def _verdict(self, result: object, wait: float | None) -> Verdict:
        """Read one of the results, which answer the tokens by their place."""
        if not isinstance(result, dict):
            return Verdict(Outcome.UNKNOWN, "Unreadable")
        if isinstance(code := result.get("error"), str):
            return _error_verdict(code, wait)
        if not isinstance(message_id := result.get("message_id"), (str, int)):
            return Verdict(Outcome.UNKNOWN, "Unreadable")
        canonical = result.get("registration_id")
        replacement = str(canonical) if self.accepts(canonical) else ""
        return Verdict(Outcome.ACCEPTED, id=str(message_id), replacement=replacement)


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
            pairs += [(f"data.{key}", text) for key, text in stringify(value).items()]
        elif name != "registration_ids":
            pairs.append((name, str(int(value) if isinstance(value, bool) else value)))
    return urlencode(pairs)


def _read_plaintext(body: bytes) -> dict[str, Any] | None:
    """Read ``id=…`` (and ``registration_id=…``) or ``Error=…`` as the JSON answer that says the same.

    None for anything else: an answer that is not understood is no success.
    """
    try:
        lines = body.decode().strip().splitlines()
    except UnicodeDecodeError:
        return None
    pairs = [tuple(line.split("=", 1)) for line in lines]
    match pairs:
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


def _topic_verdict(payload: Mapping[str, Any], wait: float | None) -> Verdict:
    if isinstance(code := payload.get("error"), str):
        verdict = _error_verdict(code, wait)
        # A topic has no token that could be dead.
        return verdict._replace(outcome=Outcome.REJECTED) if verdict.outcome.is_dead else verdict
    if isinstance(message_id := payload.get("message_id"), (int, str)):
        return Verdict(Outcome.ACCEPTED, id=str(message_id))
    return Verdict(Outcome.UNKNOWN, "Unreadable")


def _error_line(body: bytes) -> str:
    found = re.match(rb"\s*Error=([A-Za-z_]{1,60})\s*$", body[:200])
    return found[1].decode() if found else ""


def _prose(body: bytes) -> str:
    text = body[:1000].decode(errors="replace")
    return "" if text.lstrip().startswith("<") else cut(text)
