"""FCM's HTTP v1 API: one message to one target, and errors in Google's own form.

What may stand in a message is in ``fcm_fields``; here is who may send, what else is demanded of a
message, and what is answered. Source: Google's discovery document fcm:v1, Firebase's pages "FCM Error
Codes" and "Migrate to HTTP v1", and answers recorded by public clients.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_push.emulator import markers
from django_push.emulator.exchange import Answer, Call, as_json, bearer, loads, proxy_page
from django_push.emulator.fcm_fields import REQUEST, parse
from django_push.emulator.markers import Marker
from django_push.emulator.state import Push, State, summary

PATH = re.compile(r"/v1/projects/([^/]+)/messages:send")
MAX_PAYLOAD = 4096
MAX_TOPIC_PAYLOAD = 2048
MAX_TTL = 2_419_200
MAX_CONDITION_TOPICS = 5
TARGETS = ("token", "fid", "topic", "condition")

_TOKEN = re.compile(r"[A-Za-z0-9_\-:.~%+/=]+")
_FID = re.compile(r"[A-Za-z0-9_\-]+")
_TOPIC = re.compile(r"[a-zA-Z0-9\-_.~%]{1,900}")
_TOPIC_IN_CONDITION = re.compile(r"'([a-zA-Z0-9\-_.~%]+)'\s+in\s+topics")
_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class _Error(NamedTuple):
    """What belongs to one of FcmError's words: HTTP status, canonical status, text."""

    http: int
    status: str
    text: str


_ERRORS = {
    "UNREGISTERED": _Error(404, "NOT_FOUND", "Requested entity was not found."),
    "INVALID_ARGUMENT": _Error(
        400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"
    ),
    "SENDER_ID_MISMATCH": _Error(403, "PERMISSION_DENIED", "SenderId mismatch"),
    "THIRD_PARTY_AUTH_ERROR": _Error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
    "QUOTA_EXCEEDED": _Error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"),
    "UNAVAILABLE": _Error(503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": _Error(500, "INTERNAL", "Internal error encountered."),
}

#: A field of the request, and what is wrong with it.
Violation = tuple[str, str]


def answer(call: Call, state: State) -> Answer:
    """Answer a POST to ``/v1/projects/{project}/messages:send``."""
    found = PATH.fullmatch(call.path)
    if found is None:
        return _refuse(404, "NOT_FOUND", "Method not found.")
    project = found[1]
    if refused := _check_access(call, project, state):
        return refused
    try:
        payload = loads(call.body)
    except ValueError:
        text = "Invalid JSON payload received. Unexpected token."
        return _refuse(400, "INVALID_ARGUMENT", text, _bad_request([("", text)]))
    request, violations = parse(payload, REQUEST)
    if violations:
        text = "\n".join(description for _, description in violations)
        return _refuse(400, "INVALID_ARGUMENT", text, _bad_request(violations))
    message = request.get("message") or {}
    if violation := next(_faults(message), None):
        details = [_fcm_error("INVALID_ARGUMENT"), _bad_request([violation])]
        return _refuse(400, "INVALID_ARGUMENT", violation[1], *details)
    return _send(message, project, is_dry=bool(request.get("validate_only")), state=state)


def _check_access(call: Call, project: str, state: State) -> Answer | None:
    """Refuse an access token that we did not issue, that is too old, or that is for another project."""
    given = bearer(call)
    known = state.access_token(given)
    if known is None or known.expires_at <= state.now():
        return _unauthenticated(
            "CREDENTIALS_MISSING"
            if not given
            else "ACCESS_TOKEN_EXPIRED"
            if known
            else "ACCESS_TOKEN_INVALID"
        )
    if project.startswith("wrong") or state.options.fcm_project not in (None, project):
        return _refuse(404, "NOT_FOUND", "Requested entity was not found.")
    name, _, domain = known.client_email.partition("@")
    home = domain.removesuffix(".iam.gserviceaccount.com")
    is_elsewhere = home not in (domain, project) and not project.isdigit()
    if name.startswith("denied") or is_elsewhere:
        text = (
            "Permission 'cloudmessaging.messages.create' denied on resource"
            f" '//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not exist)."
        )
        info = {"@type": _ERROR_INFO, "reason": "IAM_PERMISSION_DENIED", "domain": "fcm.googleapis.com"}
        return _refuse(403, "PERMISSION_DENIED", text, info)
    return None


def _unauthenticated(reason: str) -> Answer:
    text = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or"
        " other valid authentication credential."
    )
    info = {
        "@type": _ERROR_INFO,
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "fcm.googleapis.com"},
    }
    challenge = ("WWW-Authenticate", 'Bearer realm="https://accounts.google.com/"')
    return _refuse(401, "UNAUTHENTICATED", text, info, headers=(challenge,))


# --- what is demanded of a message ----------------------------------------------------------------


def _faults(message: Mapping[str, Any]) -> Iterator[Violation]:
    """Yield what is wrong with a message whose fields all have their types."""
    if sum(name in message for name in TARGETS) != 1:
        yield "message", "Recipient of the message is not set."
    yield from _target_faults(message)
    android, webpush = message.get("android", {}), message.get("webpush", {})
    blocks = {"message": message, "message.android": android, "message.webpush": webpush}
    for path, block in blocks.items():
        for key in block.get("data", {}):
            if key in ("from", "message_type") or key.startswith(("google", "gcm")):
                yield f"{path}.data", f"Invalid data payload key: {key}"
    ttl = float(android.get("ttl", "0s")[:-1])
    if not 0 <= ttl <= MAX_TTL:
        yield "message.android.ttl", "TTL must be between 0 and 4 weeks."
    color = android.get("notification", {}).get("color")
    if color is not None and not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        yield "message.android.notification.color", "Color must be in the form #RRGGBB."
    for path, block in {**blocks, "message.apns": message.get("apns", {})}.items():
        label = block.get("fcm_options", {}).get("analytics_label")
        if label is not None and not _LABEL.fullmatch(label):
            yield f"{path}.fcm_options.analytics_label", "Invalid analytics label."
    link = webpush.get("fcm_options", {}).get("link")
    if link is not None and not link.startswith("https://"):
        yield "message.webpush.fcm_options.link", "The link must be an HTTPS URL."


def _target_faults(message: Mapping[str, Any]) -> Iterator[Violation]:
    if "topic" in message and not _TOPIC.fullmatch(message["topic"].removeprefix("/topics/")):
        yield "message.topic", "Malformed topic name."
    if "condition" in message:
        topics = _TOPIC_IN_CONDITION.findall(message["condition"])
        rest = _TOPIC_IN_CONDITION.sub("T", message["condition"])
        is_formed = re.fullmatch(r"[T()!&|\s]+", rest) and rest.count("(") == rest.count(")")
        if not is_formed or not 1 <= len(topics) <= MAX_CONDITION_TOPICS:
            yield "message.condition", "Invalid condition expression provided."


def _is_too_big(message: Mapping[str, Any], kind: str) -> bool:
    """Whether keys and values are over the limit, on Android or in Apple's payload."""
    android = message.get("android", {})
    data = android.get("data") or message.get("data", {})
    shown = {**message.get("notification", {}), **android.get("notification", {})}
    texts = [text for pair in data.items() for text in pair]
    texts += [str(shown[name]) for name in ("title", "body") if name in shown]
    most = MAX_PAYLOAD if kind in ("token", "fid") else MAX_TOPIC_PAYLOAD
    apple = as_json(200, message.get("apns", {}).get("payload", {})).body
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) > most or len(apple) > most


# --- the answer -----------------------------------------------------------------------------------


def _send(message: Mapping[str, Any], project: str, *, is_dry: bool, state: State) -> Answer:
    kind = next(name for name in TARGETS if name in message)
    target = message[kind]
    marker = state.marker(target)
    failed = _failed(message, kind, target, marker, state)
    said = _word(failed) if failed else "ok"
    push = Push("fcm", target, kind, said, failed is None, state.now(), _content(message))
    if not is_dry:
        state.note([push])
    note = f"fcm: {'dry run: ' if is_dry else ''}{summary([push])}"
    if failed is not None:
        return failed._replace(note=note)
    message_id = "fake_message_id" if is_dry else _message_id(kind)
    return as_json(200, {"name": f"projects/{project}/messages/{message_id}"}, note=note)


def _failed(
    message: Mapping[str, Any], kind: str, target: str, marker: Marker | None, state: State
) -> Answer | None:
    is_token = kind in ("token", "fid")
    if _is_too_big(message, kind):
        return _refuse(400, "INVALID_ARGUMENT", "Message is too big")
    if kind == "token" and not _TOKEN.fullmatch(target):
        return _coded("INVALID_ARGUMENT")
    if kind == "fid" and not _FID.fullmatch(target):
        return _coded("UNREGISTERED")
    if marker is None:
        return None
    if marker.scope == "request":
        return _request_failed(marker.word, state)
    if marker.scope != "token" or (not is_token and marker.word not in markers.TOPIC):
        return None
    return _token_failed(marker, kind, state)


def _token_failed(marker: Marker, kind: str, state: State) -> Answer | None:
    """Return what is said to the marker of one token."""
    wait = (("Retry-After", str(state.options.retry_after)),)
    match marker.word:
        case "code":
            return _refuse(400, "INVALID_ARGUMENT", f"Emulated {marker.value}", _fcm_error(marker.value))
        case "invalid" | "invalid-field" if kind == "fid":
            return _coded("UNREGISTERED")
        case "invalid-field":
            return _coded("INVALID_ARGUMENT", _bad_request([("message.token", "Invalid registration token")]))
        case "payload":
            text = "Invalid value at 'message.data[0].value' (TYPE_STRING), 12"
            return _refuse(400, "INVALID_ARGUMENT", text, _bad_request([("message.data[0].value", text)]))
        case "too-big":
            return _refuse(400, "INVALID_ARGUMENT", "Message is too big")
        case "rate":
            subject = "device" if kind in ("token", "fid") else "topic"
            return _coded("QUOTA_EXCEEDED", _quota(subject), headers=() if subject == "device" else wait)
        case "unavailable":
            return _coded("UNAVAILABLE", headers=wait)
    words = markers.TOKEN.get(marker.word)
    return _coded(words.fcm) if words and words.fcm else None


def _request_failed(word: str, state: State) -> Answer:
    match word:
        case "rate" | "unavailable":
            return _trouble(word, ("Retry-After", str(state.options.retry_after)))
        case "internal":
            return _trouble(word)
        case "html":
            return proxy_page()
    return Answer(500)


def trouble(call: Call, word: str, /, *headers: tuple[str, str]) -> Answer:
    """Refuse the request because FCM cannot now: ``rate``, ``unavailable`` or ``internal``."""
    return _trouble(word, *headers)


def _trouble(word: str, *headers: tuple[str, str]) -> Answer:
    if word == "rate":
        return _coded("QUOTA_EXCEEDED", _quota("project"), headers=headers)
    error = _ERRORS[word.upper()]  # without an FcmError: the service speaks, not the push
    return _refuse(error.http, error.status, error.text, headers=headers)


def _coded(code: str, *details: Mapping[str, Any], headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """Refuse with one of FcmError's words."""
    error = _ERRORS[code]
    return _refuse(error.http, error.status, error.text, _fcm_error(code), *details, headers=headers)


def _refuse(
    http: int,
    status: str,
    text: str,
    *details: Mapping[str, Any],
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    error: dict[str, Any] = {"code": http, "message": text, "status": status}
    if details:
        error["details"] = details
    return as_json(http, {"error": error}, *headers, note=f"fcm: {status} {text.splitlines()[0][:120]}")


def _word(failed: Answer) -> str:
    """Return the most telling word of a refusal: FcmError's, else the HTTP status."""
    found = re.search(rb'"errorCode":"([^"]+)"', failed.body)
    return found[1].decode() if found else f"HTTP {failed.status}"


def _fcm_error(code: str) -> dict[str, Any]:
    return {"@type": _FCM_ERROR, "errorCode": code}


def _bad_request(violations: Sequence[Violation]) -> dict[str, Any]:
    shown = [
        {"field": field, "description": text} if field else {"description": text}
        for field, text in violations
    ]
    return {"@type": _BAD_REQUEST, "fieldViolations": shown}


def _quota(subject: str) -> dict[str, Any]:
    text = f"Message rate exceeded for this {subject}"
    return {"@type": _QUOTA_FAILURE, "violations": [{"subject": f"{subject}:emulated", "description": text}]}


def _content(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a phone would show."""
    android = message.get("android", {})
    aps = message.get("apns", {}).get("payload", {}).get("aps", {})
    alert = aps.get("alert") if isinstance(aps, dict) else None
    shown = {
        **(alert if isinstance(alert, dict) else {"body": alert}),
        **message.get("notification", {}),
        **android.get("notification", {}),
    }
    return {**shown, "data": android.get("data") or message.get("data", {})}


def _message_id(kind: str) -> str:
    number = int.from_bytes(os.urandom(8), "big") >> 1
    if kind in ("topic", "condition"):
        return str(number)
    return f"0:{number % 10**16:016d}%{os.urandom(8).hex()}"
