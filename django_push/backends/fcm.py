"""FCM's HTTP v1 API: one request per token, and errors that must be read by their FcmError first.

Source of the protocol facts: Google's discovery document fcm:v1, Firebase's pages "FCM Error Codes"
and "Manage tokens", and recorded answers of public clients.
"""

from __future__ import annotations

import hashlib
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

from django_push.backends.base import BasePushBackend, Verdict, rejected
from django_push.backends.values import (
    dumps,
    loads,
    merge,
    option,
    payload_size,
    reserved_key,
    stringify,
    text,
    text_size,
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
#: The most bytes of an apns-collapse-id (Apple).
MAX_COLLAPSE_ID = 64
#: The maps of string to string in a message: Google refuses any other value in them.
_DATA = ("data", "android.data", "webpush.data")
_STRING_MAPS = (*_DATA, "apns.headers", "webpush.headers")
_ANALYTICS_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")

#: The second asks for errors with their details, as Google's own SDKs do: what tells a dead token from
#: other errors is in these alone.
_HEADERS = {"Content-Type": "application/json; charset=UTF-8", "X-GOOG-API-FORMAT-VERSION": "2"}

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
    object_options = frozenset(_STRING_MAPS) | {
        "notification", "fcm_options", "android", "android.notification", "android.fcm_options",
        "apns", "apns.payload", "apns.payload.aps", "apns.fcm_options", "webpush",
        "webpush.notification", "webpush.fcm_options",
    }  # fmt: skip
    token_form = re.compile(r"[!-Z\\^-~]+")

    @sensitive_variables()
    def __init__(
        self,
        *,
        service_account_key: KeySource,
        project_id: str | None = None,
        endpoint: str = "https://fcm.googleapis.com",
        max_connections: int = 32,
        broadcast_rate: float | None = 8000.0,
        broadcast_ramp: float = 60.0,
        **common: Any,
    ) -> None:
        # Google's default quota is 600,000 a minute, and it asks for a ramp of a minute.
        super().__init__(
            endpoint=endpoint,
            max_connections=max_connections,
            broadcast_rate=broadcast_rate,
            broadcast_ramp=broadcast_ramp,
            **common,
        )
        self.endpoint = self.endpoint.rstrip("/")
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
        self.project_id = text(project_id or key.get("project_id"))
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
        if refused := super().refuse_message(message, kind):
            return refused
        options = self.options(message)
        if not isinstance(options.get("validate_only", False), bool):
            return rejected("INVALID_ARGUMENT", "validate_only must be True or False")
        for data in (message.data, *(option(options, path) for path in _DATA)):
            if key := reserved_key(data):
                return rejected("INVALID_ARGUMENT", f"data must not have the key {key!r}")
        label = message.analytics_label
        if label is not None and not _ANALYTICS_LABEL.fullmatch(label):
            return rejected("INVALID_ARGUMENT", "analytics_label: 1 to 50 of a-z A-Z 0-9 - _ . ~ %")
        if message.link is not None and not message.link.startswith("https://"):
            return rejected("INVALID_ARGUMENT", "link must be an https:// URL")
        return None

    def least_size(self, message: PushMessage) -> int:
        options = self.options(message)
        if not options:
            return payload_size(message)
        if options.keys() & {"android", "apns", "webpush"}:
            return 0  # these may replace anything on their platform, and the token's is not known
        said = merge(_message(message, options), options)
        notification = said.get("notification") or {}
        return text_size(map(notification.get, ("title", "body")), said.get("data"))

    # --- out --------------------------------------------------------------------------------------

    def encode(self, message: PushMessage) -> tuple[str, str]:
        """Return what stands around the target in the body: ``{…"message":{`` and ``,…}}``."""
        options = dict(self.options(message))
        head = '{"validate_only":true,' if options.pop("validate_only", False) else "{"
        rest = dumps(_with_strings(merge(_message(message, options), options)))[1:]
        return f'{head}"message":{{', rest if rest == "}" else f",{rest}"

    def request(self, groups: Sequence[Group], encoded: tuple[str, str]) -> Request:
        [(_, [target])] = groups
        head, rest = encoded
        return Request(
            url=self.url,
            body=f'{head}"{target.kind}":{json.dumps(target.value)}{rest}}}'.encode(),
            headers=_HEADERS,
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
        """Read an error: by its FcmError, else by its HTTP status."""
        code = _fcm_code(error)
        said = code or text(error.get("status")) or ("error" if error else "")
        verdict = self.refusal(reply, code=said, detail=text(error.get("message")))
        if code == "INVALID_ARGUMENT" or (not code and reply.status == 400):
            outcome = _invalid_argument(request, error, code)
        elif code:
            outcome = CODES.get(code, Outcome.REJECTED)
        elif reply.status == 404:  # a wrong project or URL, never the token
            outcome = Outcome.CREDENTIALS_REJECTED
        else:
            outcome = verdict.outcome
        if outcome.is_dead and not request.targets[0].is_token:
            outcome = Outcome.REJECTED
        verdict = verdict._replace(outcome=outcome, retry_after=None, about_project=False)
        return _with_wait(verdict, reply, error) if outcome.is_retryable else verdict


@sensitive_variables()
def _read_key(source: KeySource) -> Mapping[str, Any]:
    """Return the service account's key as a dictionary. Raises ValueError or OSError."""
    if callable(source):
        source = _called(source)
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith("{"):
        content = source.lstrip("\ufeff")
    elif isinstance(source, (str, os.PathLike)) and source:
        content = Path(source).read_text(encoding="utf-8-sig")
    else:
        raise ValueError("give a path, a dictionary, JSON text or a callable")
    try:
        key = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON (cut short?)") from None
    if not isinstance(key, dict):
        raise ValueError("its JSON is no object")
    return key


@sensitive_variables()
def _called(source: Callable[[], Any]) -> Any:
    try:
        return source()
    except Exception as error:  # noqa: BLE001 - what a vault's client raises may hold what it read
        raise ValueError(f"the callable raised {type(error).__name__}") from None


def _message(message: PushMessage, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the v1 message without its target; empty blocks are left out."""
    blocks = {
        "notification": _present(title=message.title, body=message.body, image=message.image),
        "data": stringify(message.data or {}),
        "android": _android(message, options),
        "apns": _apns(message, options),
        "webpush": _webpush(message),
        "fcm_options": _present(analytics_label=message.analytics_label),
    }
    return {name: block for name, block in blocks.items() if block}


def _with_strings(said: dict[str, Any]) -> dict[str, Any]:
    """Return the message with strings for all values of its string maps, whoever gave them."""
    for path in _STRING_MAPS:
        if found := option(said, path):
            strings: dict[str, Any] = stringify(found)
            for name in reversed(path.split(".")):
                strings = {name: strings}
            said = merge(said, strings)
    return said


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {})}


def _is_visible(message: PushMessage, options: Mapping[str, Any]) -> bool:
    """Whether it has a text or a picture to show, in its own words or in the options'."""
    own = any(said is not None for said in (message.title, message.body, message.image))
    return own or any(option(options, path) for path in ("notification", "android.notification"))


def _is_noticed(message: PushMessage, options: Mapping[str, Any]) -> bool:
    """Whether an iPhone shows or plays anything. What it does not is a background push to Apple."""
    own = any(said is not None for said in (message.subtitle, message.sound, message.badge))
    return own or _is_visible(message, options) or bool(option(options, "apns.payload.aps"))


def _android(message: PushMessage, options: Mapping[str, Any]) -> dict[str, Any]:
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
        notification=shown if _is_visible(message, options) else {},
    )


def _apns(message: PushMessage, options: Mapping[str, Any]) -> dict[str, Any]:
    headers: dict[str, str] = {}
    if collapse_id := message.tag or message.collapse_key:
        headers["apns-collapse-id"] = _collapse_id(collapse_id)
    if (ttl := message.ttl_seconds) is not None:
        headers["apns-expiration"] = str(int(time.time()) + ttl if ttl else 0)
    is_noticed = _is_noticed(message, options)
    if message.content_available and not is_noticed:
        headers |= {"apns-priority": "5", "apns-push-type": "background"}  # Apple takes no other
    elif message.priority:
        headers["apns-priority"] = "10" if message.priority == "high" and is_noticed else "5"
    payload = {"aps": aps} if (aps := _aps(message)) else {}
    return _present(headers=headers, payload=payload)


def _collapse_id(name: str) -> str:
    """Return the name, or its digest where Apple would refuse it: equal names stay equal."""
    if len(name) <= MAX_COLLAPSE_ID and name.isascii() and name.isprintable():
        return name
    return hashlib.sha256(name.encode()).hexdigest()


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


def _objects(found: object) -> list[Mapping[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _details(error: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [d for d in _objects(error.get("details")) if text(d.get("@type")).endswith(kind)]


def _fcm_code(error: Mapping[str, Any]) -> str:
    codes = (text(detail.get("errorCode")) for detail in _details(error, ".FcmError"))
    return next(filter(None, codes), "")


def _invalid_argument(request: Request, error: Mapping[str, Any], code: str) -> Outcome:
    """Tell a token that Google calls invalid from a message that is at fault.

    It is the token only if every violation names ``message.token``, or if an FcmError without any
    violation says so in its text. A bad FID is answered UNREGISTERED instead.
    """
    if request.targets[0].kind != TargetKind.TOKEN:
        return Outcome.MESSAGE_REJECTED
    bad_requests = _details(error, ".BadRequest")
    if bad_requests:
        fields = [
            violation.get("field")
            for bad_request in bad_requests
            for violation in _objects(bad_request.get("fieldViolations")) or [{}]
        ]
        about_token = all(field == "message.token" for field in fields)
    else:
        about_token = bool(code) and "registration token" in text(error.get("message")).lower()
    return Outcome.INVALID_TOKEN if about_token else Outcome.MESSAGE_REJECTED


def _with_wait(verdict: Verdict, reply: Reply, error: Mapping[str, Any]) -> Verdict:
    """Say how long to wait, and whether the project or this one device is over its rate."""
    wait = parse_retry_after(reply.headers.get("retry-after"))
    if verdict.outcome is not Outcome.RATE_LIMITED:
        return verdict._replace(retry_after=wait)
    quota = [v for f in _details(error, ".QuotaFailure") for v in _objects(f.get("violations"))]
    said = [error, *quota]
    texts = [text(each.get(name)) for each in said for name in ("message", "subject", "description")]
    of_device = any("device" in each.lower() for each in texts)
    return verdict._replace(retry_after=QUOTA_PAUSE if wait is None else wait, about_project=not of_device)
