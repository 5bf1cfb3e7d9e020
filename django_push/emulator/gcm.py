"""GCM's HTTP protocol ("FCM legacy HTTP"): JSON to many, plain text to one, canonical ids.

Source: AOSP's GCM documentation (http.jd, server-ref.jd) and Firebase's legacy HTTP server reference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from django_push.emulator import markers
from django_push.emulator.exchange import Answer, Call, as_json, as_text, loads, proxy_page
from django_push.emulator.markers import Marker
from django_push.emulator.state import Push, State, summary
from django_push.outcomes import mask

PATHS = frozenset({"/gcm/send", "/fcm/send"})
_JSON = "application/json"
MAX_RECIPIENTS = 1000
MAX_TTL = 2_419_200
MAX_PAYLOAD = 4096
MAX_TOPIC_PAYLOAD = 2048

_TOKEN = re.compile(r"[A-Za-z0-9_\-:.~%+/=]+")
_TOPIC = re.compile(r"/topics/[a-zA-Z0-9\-_.~%]+")
_TOPIC_IN_CONDITION = re.compile(r"'([a-zA-Z0-9\-_.~%]+)'\s+in\s+topics")
MAX_CONDITION_TOPICS = 5
_NUMBER, _STRING, _BOOLEAN = (int, float), (str,), (bool,)
_ARRAY, _OBJECT = (list,), (dict,)
#: Types of the fields of a JSON request.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "to": _STRING,
    "registration_ids": _ARRAY,
    "condition": _STRING,
    "collapse_key": _STRING,
    "priority": _STRING,
    "content_available": _BOOLEAN,
    "mutable_content": _BOOLEAN,
    "delay_while_idle": _BOOLEAN,
    "time_to_live": _NUMBER,
    "restricted_package_name": _STRING,
    "dry_run": _BOOLEAN,
    "data": _OBJECT,
    "notification": _OBJECT,
}
_NOTIFICATION = {
    **dict.fromkeys(
        ("title", "body", "click_action", "icon", "tag", "color", "android_channel_id", "image", "subtitle"),
        _STRING,
    ),
    **dict.fromkeys(("title_loc_key", "body_loc_key"), _STRING),
    **dict.fromkeys(("title_loc_args", "body_loc_args"), (list, str)),
    "sound": (str, dict),
    "badge": (str, int),
}
_JSON_NAMES = {
    str: "string",
    list: "array",
    dict: "object",
    bool: "boolean",
    int: "number",
    float: "number",
}
#: What GCM says to a whole request that it cannot serve now.
_TROUBLE = {
    "rate": (429, "QuotaExceeded"),
    "unavailable": (503, "Unavailable"),
    "internal": (500, "InternalServerError"),
}
_PLAINTEXT = frozenset(
    {
        "registration_id",
        "collapse_key",
        "time_to_live",
        "delay_while_idle",
        "restricted_package_name",
        "dry_run",
    }
)


class _Ask(NamedTuple):
    """A request in either format: to whom, with what, and how to answer."""

    kind: str
    targets: Sequence[str]
    fields: Mapping[str, Any]
    is_json: bool


def answer(call: Call, state: State) -> Answer:
    """Answer a POST to ``/gcm/send`` or ``/fcm/send``."""
    if refused := _check_key(call, state):
        return refused
    kind = _content_type(call)
    try:
        if kind == _JSON:
            return _answer_json(call.body, state)
        if kind in ("", "application/x-www-form-urlencoded"):
            return _answer_plaintext(call.body, state)
    except _BadRequest as error:
        return as_text(400, str(error), note=f"gcm: 400 {error}")
    return as_text(400, f"Unsupported content type: {kind}", note="gcm: 400 content type")


def _content_type(call: Call) -> str:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()


class _BadRequest(Exception):
    """The request cannot be read; the text is the whole answer."""


def _check_key(call: Call, state: State) -> Answer | None:
    scheme, _, key = call.headers.get("authorization", "").partition("=")
    demanded = state.options.gcm_key
    if scheme.strip() != "key" or not key.strip():
        return as_text(401, "Unauthorized", note="gcm: 401 no key")
    if key.startswith("wrong") or (demanded is not None and key != demanded):
        return as_text(401, "INVALID_KEY", note="gcm: 401 INVALID_KEY")
    return None


# --- JSON -----------------------------------------------------------------------------------------


def _answer_json(body: bytes, state: State) -> Answer:
    try:
        payload = loads(body)
    except ValueError:
        raise _BadRequest("JSON_PARSING_ERROR: Unexpected token") from None
    if not isinstance(payload, dict):
        raise _BadRequest("JSON_TYPE_ERROR: The request must be a JSON object")
    for name, value in payload.items():
        if name not in _TYPES:
            raise _BadRequest(f'InvalidParameters: Unknown field "{name}"')
        _check_type(name, value, _TYPES[name])
    _check_notification(payload.get("notification", {}))
    _check_data(payload.get("data", {}))
    if payload.get("priority", "high") not in ("normal", "high"):
        raise _BadRequest('InvalidParameters: Field "priority" must be normal or high')
    kind, targets = _targets(payload)
    if targets == [""]:
        return _missing_registration()
    return _answer(_Ask(kind, targets, payload, is_json=True), state)


def _check_type(name: str, value: object, types: tuple[type, ...]) -> None:
    fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if not fits:
        raise _BadRequest(f'JSON_TYPE_ERROR: Field "{name}" must be a JSON {_JSON_NAMES[types[0]]}: {value}')


def _check_notification(notification: Mapping[str, Any]) -> None:
    for name, value in notification.items():
        if name not in _NOTIFICATION:
            raise _BadRequest(f'InvalidParameters: Unknown field "notification.{name}"')
        _check_type(f"notification.{name}", value, _NOTIFICATION[name])
    color = notification.get("color")
    if color is not None and not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise _BadRequest('InvalidParameters: Field "notification.color" must be in the form #rrggbb')


def _check_data(data: Mapping[str, Any]) -> None:
    """A flat object is demanded; what is no string arrives at the device as one."""
    for name, value in data.items():
        if isinstance(value, (dict, list)):
            raise _BadRequest(f'JSON_TYPE_ERROR: Field "data.{name}" must be a JSON string: {value}')


def _targets(payload: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return what is addressed; ``[""]`` for nobody. Raises for more than one form of target."""
    forms = [name for name in ("to", "registration_ids", "condition") if name in payload]
    if len(forms) > 1:
        raise _BadRequest(f'Must use either "{forms[0]}" field or "{forms[1]}", not both')
    if "registration_ids" in payload:
        return "token", _registration_ids(payload["registration_ids"])
    if "condition" in payload:
        _check_condition(payload["condition"])
        return "condition", [payload["condition"]]
    to = payload.get("to", "")
    if not to.startswith("/topics/"):
        return "token", [to]
    if not _TOPIC.fullmatch(to):
        raise _BadRequest('InvalidParameters: Field "to" must be /topics/ and a name of [a-zA-Z0-9-_.~%]+')
    return "topic", [to]


def _registration_ids(ids: list[Any]) -> list[str]:
    if not ids:
        raise _BadRequest('"registration_ids" field cannot be empty')
    if len(ids) > MAX_RECIPIENTS:
        raise _BadRequest(
            f"Number of messages on bulk ({len(ids)}) exceeds maximum allowed ({MAX_RECIPIENTS})"
        )
    for index, value in enumerate(ids):
        _check_type(f"registration_ids[{index}]", value, _STRING)
    return ids


def _check_condition(condition: str) -> None:
    topics = _TOPIC_IN_CONDITION.findall(condition)
    rest = _TOPIC_IN_CONDITION.sub("T", condition)
    is_formed = re.fullmatch(r"[T()!&|\s]+", rest) and topics and rest.count("(") == rest.count(")")
    if not is_formed or not 1 <= len(topics) <= MAX_CONDITION_TOPICS:
        raise _BadRequest('InvalidParameters: Field "condition" is no boolean expression of 1 to 5 topics')


def _missing_registration() -> Answer:
    payload = {
        "multicast_id": _number(),
        "success": 0,
        "failure": 1,
        "canonical_ids": 0,
        "results": [{"error": "MissingRegistration"}],
    }
    return as_json(200, payload, note="gcm: MissingRegistration")


# --- plain text -----------------------------------------------------------------------------------


def _answer_plaintext(body: bytes, state: State) -> Answer:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise _BadRequest("Error=InvalidParameters") from None
    fields = _form(pairs)
    token = fields.pop("registration_id", "")
    if not token:
        return as_text(200, "Error=MissingRegistration", note="gcm: MissingRegistration")
    return _answer(_Ask("token", [token], fields, is_json=False), state)


def _form(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the form as the fields of a JSON request. Raises for names and values that it has not."""
    fields: dict[str, Any] = {"data": {}}
    for name, value in pairs:
        if name.startswith("data.") and len(name) > 5:
            fields["data"][name[5:]] = value
            continue
        if name not in _PLAINTEXT or name in fields:
            raise _BadRequest("Error=InvalidParameters")
        if name in ("delay_while_idle", "dry_run"):
            if value not in ("0", "1", "true", "false"):
                raise _BadRequest("Error=InvalidParameters")
            fields[name] = value in ("1", "true")
        elif name == "time_to_live":
            fields[name] = int(value) if re.fullmatch(r"-?[0-9]{1,12}", value) else -1
        else:
            fields[name] = value
    return fields


# --- what both formats share ----------------------------------------------------------------------


def _answer(ask: _Ask, state: State) -> Answer:
    asked = {target: state.marker(target) for target in dict.fromkeys(ask.targets)}
    for target, marker in asked.items():
        failed = _request_failed(marker, ask, state) if marker else None
        if failed is not None:
            state.note(_pushes(ask, [{"error": f"HTTP {failed.status}"}] * len(ask.targets), state))
            return failed._replace(note=f"gcm: HTTP {failed.status} because of {mask(target)}")
    fault = _message_fault(ask)
    results = [_result(target, asked[target], ask, fault) for target in ask.targets]
    pushes = list(_pushes(ask, results, state))
    if not ask.fields.get("dry_run"):
        state.note(pushes)
    return _written(ask, results, state)._replace(note=f"gcm: {summary(pushes)}")


def _request_failed(marker: Marker, ask: _Ask, state: State) -> Answer | None:
    wait = ("Retry-After", str(state.options.retry_after))
    if marker.scope == "request":
        match marker.word:
            case "rate" | "unavailable" as word:
                return _trouble(word, ask.is_json, wait)
            case "internal" as word:
                return _trouble(word, ask.is_json)
            case "html":
                return proxy_page()
        return Answer(500)
    if not ask.is_json and marker.scope == "token" and marker.word == "unavailable":
        return _trouble("unavailable", False, wait)._replace(status=500)  # its words have no such code
    return None


def trouble(call: Call, word: str, /, *headers: tuple[str, str]) -> Answer:
    """Refuse the whole request because GCM cannot now: ``rate``, ``unavailable`` or ``internal``."""
    return _trouble(word, _content_type(call) == _JSON, *headers)


def _trouble(word: str, is_json: bool, *headers: tuple[str, str]) -> Answer:
    status, code = _TROUBLE[word]
    note = f"gcm: {code}"
    if is_json:
        return as_json(status, {"error": code}, *headers, note=note)
    return as_text(status, f"Error={code}", *headers, note=note)


def _message_fault(ask: _Ask) -> str:
    """Return the code for what is wrong with the message whoever gets it, or ""."""
    ttl = ask.fields.get("time_to_live", 0)
    if not isinstance(ttl, int) or not 0 <= ttl <= MAX_TTL:
        return "InvalidTtl"
    data = ask.fields.get("data") or {}
    for key in data:
        if key in ("from", "message_type") or key.startswith(("google", "gcm")):
            return "InvalidDataKey"
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(ask.fields))
    most = MAX_PAYLOAD if ask.kind == "token" else MAX_TOPIC_PAYLOAD
    return "MessageTooBig" if size > most else ""


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys and values that count for the limit."""
    for key, value in (fields.get("data") or {}).items():
        yield key
        yield str(value)
    notification = fields.get("notification") or {}
    yield from (str(notification[name]) for name in ("title", "body", "subtitle") if name in notification)


def _result(target: str, marker: Marker | None, ask: _Ask, fault: str) -> dict[str, Any]:
    """Return one of the results of a JSON answer."""
    error = fault or _error(target, marker, ask)
    if error:
        return {"error": error}
    result: dict[str, Any] = {"message_id": "fake_message_id" if ask.fields.get("dry_run") else _message_id()}
    if marker is not None and marker.word == "replaced" and ask.kind == "token":
        result["registration_id"] = marker.value
    return result


def _error(target: str, marker: Marker | None, ask: _Ask) -> str:
    is_token = ask.kind == "token"
    if is_token and not _TOKEN.fullmatch(target):
        return "InvalidRegistration"
    if marker is None or marker.scope != "token" or (not is_token and marker.word not in markers.TOPIC):
        return ""
    if marker.word == "code":
        return marker.value
    if marker.word == "package" and not ask.fields.get("restricted_package_name"):
        return ""
    if marker.word == "rate" and not is_token:
        return "TopicsMessageRateExceeded"
    return markers.TOKEN[marker.word].gcm if marker.word in markers.TOKEN else ""


def _written(ask: _Ask, results: Sequence[Mapping[str, Any]], state: State) -> Answer:
    retries = any(result.get("error") == "Unavailable" for result in results)
    headers = (("Retry-After", str(state.options.retry_after)),) if retries else ()
    if not ask.is_json:
        return as_text(200, _lines(results[0]), *headers)
    if ask.kind != "token":
        error = results[0].get("error")
        return as_json(200, {"error": error} if error else {"message_id": _number()}, *headers)
    failures = sum("error" in result for result in results)
    payload = {
        "multicast_id": _number(),
        "success": len(results) - failures,
        "failure": failures,
        "canonical_ids": sum("registration_id" in result for result in results),
        "results": results,
    }
    return as_json(200, payload, *headers)


def _lines(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"Error={result['error']}"
    canonical = result.get("registration_id")
    return f"id={result['message_id']}" + (f"\nregistration_id={canonical}" if canonical else "")


def _pushes(ask: _Ask, results: Sequence[Mapping[str, Any]], state: State) -> Iterator[Push]:
    content = {**(ask.fields.get("notification") or {}), "data": ask.fields.get("data") or {}}
    for target, result in zip(ask.targets, results, strict=True):
        said = result.get("error") or ("canonical id" if "registration_id" in result else "ok")
        is_accepted = "error" not in result
        yield Push("gcm", target, ask.kind, said, is_accepted, state.now(), content)


def _number() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 1


def _message_id() -> str:
    return f"0:{_number() % 10**16:016d}%{os.urandom(4).hex()}"
