"""Expo's push service: its validation, tickets, request errors and receipts.

Source: Expo's documentation "Send notifications with the Expo Push Service", the types of its Node
SDK 6.1, and answers recorded in public issues. Fields that Expo's documentation does not name are let
pass: what Expo does with them is not known.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_push.emulator import markers
from django_push.emulator.exchange import Answer, Call, as_json, as_text, bearer, loads, proxy_page
from django_push.emulator.markers import Marker
from django_push.emulator.state import Push, State, summary

PREFIX = "/--/api/v2/push"
SEND = f"{PREFIX}/send"
GET_RECEIPTS = f"{PREFIX}/getReceipts"
MAX_RECIPIENTS = 100
MAX_RECEIPTS = 1000
MAX_PAYLOAD = 4096

_TOKEN = re.compile(
    r"Expo(?:nent)?PushToken\[[^\]]+\]"
    r"|[a-z\d]{8}-[a-z\d]{4}-[a-z\d]{4}-[a-z\d]{4}-[a-z\d]{12}",
    re.IGNORECASE,
)
_PRIORITIES = ("default", "normal", "high")
_INTERRUPTION_LEVELS = ("active", "critical", "passive", "time-sensitive")
#: Types by field, as the validation's own words. None stands for a JSON null.
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("title", "body", "subtitle", "icon", "categoryId", "collapseId", "tag"), ((str,), "a string")
    ),
    "channelId": ((str, type(None)), "a string"),
    **dict.fromkeys(("ttl", "expiration", "badge"), ((int, float), "a number")),
    **dict.fromkeys(("mutableContent", "_contentAvailable", "_displayInForeground"), ((bool,), "a boolean")),
    **dict.fromkeys(("data", "richContent"), ((dict,), "of type object")),
    "sound": ((str, dict, type(None)), "a string"),
}
_CHOICES = {"priority": _PRIORITIES, "interruptionLevel": _INTERRUPTION_LEVELS}
#: What Expo says to people beside its code.
_TEXTS = {
    "DeviceNotRegistered": '"{token}" is not a registered push notification recipient',
    "MessageTooBig": "The total notification payload is over 4096 bytes",
    "MessageRateExceeded": "Messages are sent too frequently to this device",
    "MismatchSenderId": "The FCM server key and the sender ID of google-services.json do not match",
    "InvalidCredentials": "Unable to retrieve the push credentials of the project",
    "ProviderError": "There was an unknown error with the provider's server. Try again later",
    "ExpoError": "An unknown error occurred at Expo. Try again later",
    "DeveloperError": "The message cannot be sent as it is",
}
_OK: Mapping[str, Any] = {"status": "ok"}
#: What Expo says to a whole request that it cannot serve now.
_TROUBLE = {
    "rate": (429, "TOO_MANY_REQUESTS", "Exceeded 600 notifications per second, please try again."),
    "unavailable": (503, "INTERNAL_SERVER_ERROR", "The service is not available."),
    "internal": (500, "INTERNAL_SERVER_ERROR", "An unknown error occurred."),
}


class _Recipient(NamedTuple):
    """A token, where it stands in the request, and the message that it gets."""

    token: str
    path: str
    at: str
    message: Mapping[str, Any]


def answer(call: Call, state: State) -> Answer:
    """Answer a POST below ``/--/api/v2/push``."""
    try:
        payload = loads(call.body)
    except ValueError:
        return as_text(404, "Not Found", note="expo: the body is no JSON")
    if refused := _check_access_token(call, state):
        return refused
    if call.path == SEND:
        return _send(payload, state)
    if call.path == GET_RECEIPTS:
        return _receipts(payload, state)
    return as_text(404, "Not Found", note="expo: no such address")


def _check_access_token(call: Call, state: State) -> Answer | None:
    """Refuse an access token in either of the two shapes that Expo uses."""
    given, demanded = bearer(call), state.options.expo_access_token
    if demanded is not None and not given:
        text = "This project demands an access token: enhanced push security is enabled."
        return _refuse(403, "UNAUTHORIZED", text)
    if given.startswith("wrong") or (demanded is not None and given != demanded):
        payload = {"error": "invalid_token", "error_description": "The bearer token is invalid"}
        return as_json(401, payload, note="expo: invalid_token")
    return None


# --- send -----------------------------------------------------------------------------------------


def _send(payload: object, state: State) -> Answer:
    if fault := _fault(payload):
        return _refuse(400, "VALIDATION_ERROR", fault)
    recipients = list(_recipients(payload))
    if len(recipients) > MAX_RECIPIENTS:
        text = (
            f"Received {len(recipients)} push notifications; at most {MAX_RECIPIENTS} fit into one request."
        )
        return _refuse(400, "PUSH_TOO_MANY_NOTIFICATIONS", text)
    if mixed := _mixed_projects(recipients):
        return mixed
    asked = {token: state.marker(token) for token in dict.fromkeys(r.token for r in recipients)}
    if failed := _request_failed(recipients, asked, state):
        return failed
    return _tickets(payload, recipients, asked, state)


def _recipients(payload: Any) -> Iterator[_Recipient]:
    many = isinstance(payload, list)
    for index, message in enumerate(payload if many else [payload]):
        path = f"[{index}]." if many else ""
        if isinstance(message["to"], str):
            yield _Recipient(message["to"], path, f"{path}to", message)
            continue
        for place, token in enumerate(message["to"]):
            yield _Recipient(token, path, f"{path}to[{place}]", message)


def _mixed_projects(recipients: Sequence[_Recipient]) -> Answer | None:
    projects: dict[str, list[str]] = {}
    for recipient in recipients:
        projects.setdefault(markers.project(recipient.token), []).append(recipient.token)
    if len(projects) < 2:
        return None
    text = "All push notification messages in the same request must be for the same project"
    return _refuse(400, "PUSH_TOO_MANY_EXPERIENCE_IDS", text, details=projects)


def _request_failed(
    recipients: Sequence[_Recipient], asked: Mapping[str, Marker | None], state: State
) -> Answer | None:
    """Return the answer of the first recipient whose marker fails the whole request."""
    for recipient in recipients:
        marker = asked[recipient.token]
        if marker is None:
            continue
        failed = _failure(marker, recipient, state)
        if failed is not None:
            word = f"HTTP {failed.status}"
            state.note(_push(r, word, state, is_accepted=False) for r in recipients)
            return failed
    return None


def _failure(marker: Marker, recipient: _Recipient, state: State) -> Answer | None:
    if marker.scope == "token" and marker.word in ("invalid", "invalid-field"):
        return _refuse(400, "VALIDATION_ERROR", f'"{recipient.at}" must be a valid Expo push token.')
    if marker.scope == "token" and marker.word == "payload":
        return _refuse(400, "VALIDATION_ERROR", f'"{recipient.path}data" must be of type object.')
    if marker.scope != "request":
        return None
    match marker.word:
        case "rate" | "unavailable" as word:
            return _trouble(word, ("Retry-After", str(state.options.retry_after)))
        case "internal" as word:
            return _trouble(word)
        case "html":
            return proxy_page()
    return Answer(500, note="expo: empty 500")


def trouble(call: Call, word: str, /, *headers: tuple[str, str]) -> Answer:
    """Refuse the whole request because Expo cannot now: ``rate``, ``unavailable`` or ``internal``."""
    return _trouble(word, *headers)


def _trouble(word: str, *headers: tuple[str, str]) -> Answer:
    status, code, text = _TROUBLE[word]
    return _refuse(status, code, text, *headers)


def _tickets(
    payload: object,
    recipients: Sequence[_Recipient],
    asked: Mapping[str, Marker | None],
    state: State,
) -> Answer:
    tickets: list[dict[str, Any]] = []
    receipts: dict[str, Mapping[str, Any]] = {}
    pushes: list[Push] = []
    too_big = {id(r.message): _is_too_big(r.message) for r in recipients}
    for recipient in recipients:
        marker = asked[recipient.token]
        code = "MessageTooBig" if too_big[id(recipient.message)] else _ticket_code(marker)
        if code:
            tickets.append(_error(code, recipient.token))
        else:
            ticket_id = _new_id(state)
            tickets.append({"status": "ok", "id": ticket_id})
            if (receipt := _receipt(marker, recipient.token, state)) is not None:
                receipts[ticket_id] = receipt
        pushes.append(_push(recipient, code or "ok", state, is_accepted=not code))
    state.file_receipts(receipts)
    state.note(pushes)
    is_single = isinstance(payload, dict) and len(tickets) == 1
    return as_json(200, {"data": tickets[0] if is_single else tickets}, note=f"expo: {summary(pushes)}")


def _ticket_code(marker: Marker | None) -> str:
    if marker is None or marker.scope != "token":
        return ""
    if marker.word == "code":
        return marker.value
    return markers.TOKEN[marker.word].expo if marker.word in markers.TOKEN else ""


def _receipt(marker: Marker | None, token: str, state: State) -> Mapping[str, Any] | None:
    """Return the receipt of an accepted ticket, or None if there never is one."""
    if marker is None or marker.scope != "receipt":
        return _OK
    code = marker.value if marker.word == "code" else markers.RECEIPT[marker.word]
    if not code:
        return None
    receipt = _error(code, token)
    receipt["details"]["sentAt"] = int(state.now())
    if marker.word == "mismatch-nested":
        receipt["details"] |= {"fault": "fcm", "fcm": {"error": "MismatchSenderId"}}
    return receipt


def _error(code: str, token: str) -> dict[str, Any]:
    """Return an error ticket or receipt. Only a dead token is named in it."""
    details = {"error": code}
    if code == "DeviceNotRegistered":
        details["expoPushToken"] = token
    text = _TEXTS.get(code, f"The push could not be sent: {code}").format(token=token)
    return {"status": "error", "message": text, "details": details}


def _is_too_big(message: Mapping[str, Any]) -> bool:
    texts = [message.get(name) or "" for name in ("title", "subtitle", "body")]
    if message.get("data"):
        texts.append(json.dumps(message["data"], ensure_ascii=False, separators=(",", ":")))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) > MAX_PAYLOAD


def _new_id(state: State) -> str:
    """Return a UUID of version 7, as Expo's recent tickets have: milliseconds, then chance."""
    digits = f"{int(state.now() * 1000):012x}7{os.urandom(2).hex()[:3]}8{os.urandom(8).hex()[:15]}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _push(recipient: _Recipient, said: str, state: State, *, is_accepted: bool) -> Push:
    message = recipient.message
    return Push("expo", recipient.token, "token", said, is_accepted, state.now(), message)


# --- validation -----------------------------------------------------------------------------------


def _fault(payload: object) -> str:
    """Return what is wrong with a request to send, in the words of Expo's validation, or ""."""
    if isinstance(payload, dict):
        return next(_message_faults(payload, ""), "")
    if not isinstance(payload, list):
        return '"value" must be of type object.'
    if not payload:
        return '"value" must contain at least 1 items.'
    for index, message in enumerate(payload):
        if not isinstance(message, dict):
            return f'"[{index}]" must be of type object.'
        if fault := next(_message_faults(message, f"[{index}]."), ""):
            return fault
    return ""


def _message_faults(message: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from _recipient_faults(message, path)
    for name, value in message.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            yield f'"{path}{name}" must be one of [{", ".join(_CHOICES[name])}].'
        if name in _TYPES and not _is_a(value, _TYPES[name][0]):
            yield f'"{path}{name}" must be {_TYPES[name][1]}.'
    rich, sound = message.get("richContent"), message.get("sound")
    if isinstance(rich, dict) and not isinstance(rich.get("image", ""), str):
        yield f'"{path}richContent.image" must be a string.'
    if isinstance(sound, dict):
        yield from _sound_faults(sound, f"{path}sound")


def _recipient_faults(message: Mapping[str, Any], path: str) -> Iterator[str]:
    to = message.get("to", ())
    if "to" not in message:
        yield f'"{path}to" is required.'
    if to == []:
        yield f'"{path}to" must contain at least 1 items.'
    pairs = [(f"{path}to[{i}]", t) for i, t in enumerate(to)] if isinstance(to, list) else [(f"{path}to", to)]
    for at, token in pairs:
        if not isinstance(token, str):
            yield f'"{at}" must be a string.'
        elif not _TOKEN.fullmatch(token):
            yield f'"{at}" must be a valid Expo push token.'


def _sound_faults(sound: Mapping[str, Any], path: str) -> Iterator[str]:
    if not isinstance(sound.get("critical", False), bool):
        yield f'"{path}.critical" must be a boolean.'
    if not isinstance(sound.get("name"), (str, type(None))):
        yield f'"{path}.name" must be a string.'
    if not _is_a(sound.get("volume", 1), (int, float)):
        yield f'"{path}.volume" must be a number.'


def _is_a(value: object, types: tuple[type, ...]) -> bool:
    """Whether a JSON value has one of the types. A boolean is no number."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types)


# --- receipts -------------------------------------------------------------------------------------


def _receipts(payload: object, state: State) -> Answer:
    ids = payload.get("ids") if isinstance(payload, dict) else None
    if not isinstance(payload, dict):
        return _refuse(400, "VALIDATION_ERROR", '"value" must be of type object.')
    if not isinstance(ids, list):
        problem = "must be an array" if "ids" in payload else "is required"
        return _refuse(400, "VALIDATION_ERROR", f'"ids" {problem}.')
    for index, value in enumerate(ids):
        if not isinstance(value, str):
            return _refuse(400, "VALIDATION_ERROR", f'"ids[{index}]" must be a string.')
    if len(ids) > MAX_RECEIPTS:
        text = f"Received {len(ids)} ids; at most {MAX_RECEIPTS} receipts can be asked for at once."
        return _refuse(400, "PUSH_TOO_MANY_RECEIPTS", text)
    found = state.receipts(ids)
    return as_json(200, {"data": found}, note=f"expo: {len(found)} of {len(ids)} receipts")


def _refuse(
    status: int,
    code: str,
    text: str,
    *headers: tuple[str, str],
    details: Mapping[str, Any] | None = None,
) -> Answer:
    """Refuse the whole request as Expo does."""
    error: dict[str, Any] = {"code": code, "message": text, "isTransient": status == 429 or status >= 500}
    if details is not None:
        error["details"] = details
    note = f"expo: {code}" + (f" {text}" if code == "VALIDATION_ERROR" else "")
    return as_json(status, {"errors": [error]}, *headers, note=note)
