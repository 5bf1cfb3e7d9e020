"""FCM's HTTP v1 API: one request per token, and errors that must be read by their FcmError first.

Source of the protocol facts: Google's discovery document fcm:v1, Firebase's pages "FCM Error Codes"
and "Manage tokens", and recorded answers of public clients.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from django_push.outcomes import Outcome, TargetKind
from django_push.retry import parse_retry_after
from django_push.wire import Group, Parsed, Reply, Request, Secret, ServiceAccountAuth

#: FcmError's words, INVALID_ARGUMENT aside. What is missing is REJECTED.
CODES = {
    "UNREGISTERED": Outcome.UNREGISTERED,
    "SENDER_ID_MISMATCH": Outcome.SENDER_MISMATCH,
    "THIRD_PARTY_AUTH_ERROR": Outcome.PROVIDER_SETUP,
    "APNS_AUTH_ERROR": Outcome.PROVIDER_SETUP,
    "QUOTA_EXCEEDED": Outcome.RATE_LIMITED,
    "UNAVAILABLE": Outcome.UNAVAILABLE,
    "INTERNAL": Outcome.UNAVAILABLE,
}
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
#: What a rate limit without a Retry-After means: a minute at least. Seconds.
QUOTA_PAUSE = 60.0
MAX_COLLAPSE_ID = 64
_ANALYTICS_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")

#: What a service account key may be given as.
KeySource = str | os.PathLike[str] | Mapping[str, Any] | Callable[[], Any]


class FCMBackend(BasePushBackend):
    """Sends through Firebase Cloud Messaging, HTTP v1. Needs the extra ``fcm`` (google-auth).

    ``service_account_key`` is the path of the key file, its content as a dictionary or as JSON text,
    or a callable that returns one of these. ``project_id`` is read from the key if not given.
    """

    provider = "fcm"
    fields = frozenset(PushMessage.__dataclass_fields__) - {"provider_options"}
    kinds = frozenset({TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION})
    reserved_options = frozenset({"token", "fid", "topic", "condition", "message"})
    token_form = re.compile(r"[!-Z\\^-~]+")

    @sensitive_variables()
    def __init__(
        self,
        *,
        service_account_key: KeySource,
        project_id: str | None = None,
        endpoint: str = "https://fcm.googleapis.com",
        max_connections: int = 32,
        **common: Any,
    ) -> None:
        super().__init__(endpoint=endpoint, max_connections=max_connections, **common)
        try:
            key = _read_key(service_account_key)
            if urlsplit(self.endpoint).scheme == "http":  # the emulator, so never Google's OAuth
                key = {**key, "token_uri": f"{self.endpoint}/token"}
            self._check_key(key)
        except (ValueError, OSError, TypeError) as error:
            # The reason is ours or the system's; the key's text is in neither, nor in a cause.
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self.invalid(f"service_account_key: {reason}") from None
        self._auth = ServiceAccountAuth(key=Secret(key), scope=SCOPE)
        self.project_id = project_id or str(key.get("project_id") or "")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.:\-]{0,99}", self.project_id):
            raise self.invalid("project_id is missing in the key; give it as an option.") from None
        self.url = f"{self.endpoint}/v1/projects/{self.project_id}/messages:send"

    @property
    def auth(self) -> ServiceAccountAuth:
        return self._auth

    @sensitive_variables()
    def _check_key(self, key: Mapping[str, Any]) -> None:
        if key.get("type") != "service_account":
            raise ValueError("its type is not 'service_account'")
        missing = [n for n in ("client_email", "private_key", "token_uri") if not key.get(n)]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        uri = self._url("token_uri", key["token_uri"])
        if uri != GOOGLE_TOKEN_URI and urlsplit(uri)[:2] != urlsplit(self.endpoint)[:2]:
            # A key file from elsewhere must not decide where its signature is sent.
            raise ValueError(f"token_uri must be {GOOGLE_TOKEN_URI}, or at the endpoint's own host")

    def refuse_message(self, message: PushMessage, kind: str) -> Verdict | None:
        if key := reserved_key(message):
            return rejected("INVALID_ARGUMENT", f"data must not have the key {key!r}")
        collapse_id = message.tag or message.collapse_key or ""
        if len(collapse_id.encode()) > MAX_COLLAPSE_ID:
            return rejected("INVALID_ARGUMENT", "tag and collapse_key have at most 64 bytes on iOS")
        label = message.analytics_label
        if label is not None and not _ANALYTICS_LABEL.fullmatch(label):
            return rejected("INVALID_ARGUMENT", "analytics_label: 1 to 50 of a-z A-Z 0-9 - _ . ~ %")
        if message.link is not None and not message.link.startswith("https://"):
            return rejected("INVALID_ARGUMENT", "link must be an https:// URL")
        return super().refuse_message(message, kind)

    # --- out --------------------------------------------------------------------------------------

    def encode(self, message: PushMessage) -> tuple[str, str]:
        """Return what stands around the target in the body: ``{…"message":{`` and ``,…}}``."""
        options = dict(self.options(message))
        head = '{"validate_only":true,' if options.pop("validate_only", False) else "{"
        rest = dumps(merge(_message(message), options))[1:]
        return f'{head}"message":{{', rest if rest == "}" else f",{rest}"

    def request(self, groups: Sequence[Group], encoded: tuple[str, str]) -> Request:
        [(_, [target])] = groups
        head, rest = encoded
        return Request(
            url=self.url,
            body=f'{head}"{target.kind}":{json.dumps(target.value)}{rest}}}'.encode(),
            headers={"Content-Type": "application/json; charset=UTF-8"},
            groups=groups,
        )

    # --- and back ---------------------------------------------------------------------------------

    def read(self, request: Request, reply: Reply) -> Verdict | Parsed:
        payload = loads(reply.body)
        payload = payload if isinstance(payload, dict) else {}
        if reply.status == 200:
            name = payload.get("name")
            if isinstance(name, str) and name:
                return Verdict(Outcome.ACCEPTED, id=name)
            return Verdict(Outcome.UNKNOWN, "Unreadable")
        error = payload.get("error")
        error = error if isinstance(error, dict) else {}
        verdict = self._error(request, reply, error)
        is_refused = reply.status == 401 and verdict.outcome is Outcome.CREDENTIALS_REJECTED
        if is_refused and request.generation == 0:  # the bearer token may have expired
            return Parsed(resend=[replace(request, generation=1)], refresh_auth=True)
        return verdict

    def _error(self, request: Request, reply: Reply, error: Mapping[str, Any]) -> Verdict:
        code = _fcm_code(error)
        status = error.get("status")
        status = status if isinstance(status, str) else ""
        verdict = self.refusal(reply, code=code or status, detail=error.get("message") or "")
        if reply.status == 400 or code == "INVALID_ARGUMENT":
            return verdict._replace(outcome=_invalid_argument(request, error, code))
        if code:
            verdict = verdict._replace(outcome=CODES.get(code, Outcome.REJECTED))
        elif reply.status == 404:  # a wrong project or URL, never the token
            verdict = verdict._replace(outcome=Outcome.CREDENTIALS_REJECTED)
        if verdict.outcome is Outcome.UNREGISTERED and not request.targets[0].is_token:
            return verdict._replace(outcome=Outcome.REJECTED)
        if verdict.outcome.is_retryable:
            return _with_wait(verdict, reply, error)
        return verdict


@sensitive_variables()
def _read_key(source: KeySource) -> Mapping[str, Any]:
    """Return the service account's key as a dictionary. Raises ValueError or OSError."""
    if callable(source):
        source = source()
    if isinstance(source, str) and source.lstrip().startswith("{"):
        text = source
    elif isinstance(source, (str, os.PathLike)) and source:
        text = Path(source).read_text(encoding="utf-8")
    elif isinstance(source, Mapping):
        return dict(source)
    else:
        raise ValueError("give a path, a dictionary, JSON text or a callable")
    try:
        key = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON (cut short?)") from None
    if not isinstance(key, dict):
        raise ValueError("its JSON is no object")
    return key


def _message(message: PushMessage) -> dict[str, Any]:
    """Return the v1 message without its target; empty blocks are left out."""
    blocks = {
        "notification": _present(title=message.title, body=message.body, image=message.image),
        "data": stringify(message.data or {}),
        "android": _android(message),
        "apns": _apns(message),
        "webpush": _webpush(message),
        "fcm_options": _present(analytics_label=message.analytics_label),
    }
    return {name: block for name, block in blocks.items() if block}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {})}


def _is_visible(message: PushMessage) -> bool:
    return any(text is not None for text in (message.title, message.body, message.image))


def _android(message: PushMessage) -> dict[str, Any]:
    sound = message.sound
    shown = _present(
        icon=message.icon,
        color=message.color,
        sound=sound.get("name") if isinstance(sound, Mapping) else sound,
        tag=message.tag,
        channel_id=message.channel_id,
        click_action=message.category,
        notification_count=message.badge,
    )
    ttl = message.ttl_seconds
    return _present(
        collapse_key=message.collapse_key,
        priority=message.priority.upper() if message.priority else None,
        ttl=None if ttl is None else f"{ttl}s",
        # A notification block makes a data message visible, so it comes only beside a text.
        notification=shown if _is_visible(message) else {},
    )


def _apns(message: PushMessage) -> dict[str, Any]:
    headers: dict[str, str] = {}
    collapse_id = message.tag or message.collapse_key
    if collapse_id:
        headers["apns-collapse-id"] = collapse_id
    if (ttl := message.ttl_seconds) is not None:
        headers["apns-expiration"] = str(int(time.time()) + ttl if ttl else 0)
    if message.content_available and not _is_visible(message):
        headers |= {"apns-priority": "5", "apns-push-type": "background"}  # Apple takes no other
    elif message.priority:
        headers["apns-priority"] = "10" if message.priority == "high" else "5"
    payload = {"aps": aps} if (aps := _aps(message)) else {}
    return _present(headers=headers, payload=payload)


def _aps(message: PushMessage) -> dict[str, Any]:
    sound = message.sound
    if isinstance(sound, Mapping):
        sound = {**sound, "critical": int(bool(sound.get("critical")))}
    alert = (
        _present(title=message.title, subtitle=message.subtitle, body=message.body)
        if message.subtitle is not None
        else {}
    )
    aps = {
        "alert": alert,
        "badge": message.badge,
        "sound": sound,
        "thread-id": message.thread_id,
        "category": message.category,
        "content-available": 1 if message.content_available else None,
        "mutable-content": 1 if message.mutable_content else None,
        "interruption-level": message.interruption_level,
    }
    return _present(**aps)


def _webpush(message: PushMessage) -> dict[str, Any]:
    ttl = message.ttl_seconds
    headers = _present(TTL=None if ttl is None else str(ttl))
    return _present(headers=headers, fcm_options=_present(link=message.link))


def _details(error: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    details = error.get("details")
    return [
        detail
        for detail in (details if isinstance(details, list) else [])
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith(kind)
    ]


def _fcm_code(error: Mapping[str, Any]) -> str:
    for detail in _details(error, ".FcmError"):
        if isinstance(code := detail.get("errorCode"), str):
            return code
    return ""


def _invalid_argument(request: Request, error: Mapping[str, Any], code: str) -> Outcome:
    """Tell a token that Google calls invalid from a message that is at fault.

    It is the token only if every violation names ``message.token``, or if an FcmError without any
    violation says so in its text. A bad FID is answered UNREGISTERED instead.
    """
    if code not in ("", "INVALID_ARGUMENT"):
        return CODES.get(code, Outcome.REJECTED)
    if request.targets[0].kind != TargetKind.TOKEN:
        return Outcome.MESSAGE_REJECTED
    bad_requests = _details(error, ".BadRequest")
    if bad_requests:
        fields = [_violated(v) for b in bad_requests for v in b.get("fieldViolations") or [None]]
        about_token = all(field == "message.token" for field in fields)
    else:
        about_token = bool(code) and "registration token" in str(error.get("message", "")).lower()
    return Outcome.INVALID_TOKEN if about_token else Outcome.MESSAGE_REJECTED


def _violated(violation: object) -> object:
    return violation.get("field") if isinstance(violation, dict) else None


def _with_wait(verdict: Verdict, reply: Reply, error: Mapping[str, Any]) -> Verdict:
    """Say how long to wait, and whether the project or this one device is over its rate."""
    wait = parse_retry_after(reply.headers.get("retry-after"))
    if verdict.outcome is not Outcome.RATE_LIMITED:
        return verdict._replace(retry_after=wait)
    of_device = "device" in dumps([error.get("message"), _details(error, ".QuotaFailure")]).lower()
    return verdict._replace(retry_after=QUOTA_PAUSE if wait is None else wait, about_project=not of_device)
