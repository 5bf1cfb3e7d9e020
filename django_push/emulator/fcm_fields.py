"""The fields of an FCM v1 request and their types, read as Google reads JSON.

Names come in snake_case or camelCase and are returned in snake_case. Everything that is wrong is
collected, each fault with the field's path. Source: Google's discovery document fcm:v1 and the
proto3 JSON mapping.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: A map of strings, free JSON, and the scalar types, as their names in Google's messages.
MAP, STRUCT = "map", "google.protobuf.Struct"
STRING, BOOL, INT32, FLOAT = "TYPE_STRING", "TYPE_BOOL", "TYPE_INT32", "TYPE_FLOAT"
DURATION, TIMESTAMP = "google.protobuf.Duration", "google.protobuf.Timestamp"


class Enum(tuple[str, ...]):
    """The names of an enumeration; numbers and small letters are taken as well."""

    __slots__ = ()


#: A scalar's name, an Enum, a dictionary of fields, or a list with the type of its items.
Kind = str | Enum | Mapping[str, Any] | list[Any]

_COLOR = dict.fromkeys(("red", "green", "blue", "alpha"), FLOAT)
_ANALYTICS = {"analytics_label": STRING}
ANDROID_NOTIFICATION: Mapping[str, Kind] = {
    **dict.fromkeys(("title", "body", "icon", "color", "sound", "tag", "click_action", "image"), STRING),
    **dict.fromkeys(("body_loc_key", "title_loc_key", "channel_id", "ticker"), STRING),
    "body_loc_args": [STRING],
    "title_loc_args": [STRING],
    **dict.fromkeys(("sticky", "local_only", "default_sound", "default_vibrate_timings"), BOOL),
    **dict.fromkeys(("default_light_settings", "bypass_proxy_notification"), BOOL),
    "event_time": TIMESTAMP,
    "notification_priority": Enum(
        f"PRIORITY_{name}" for name in ("UNSPECIFIED", "MIN", "LOW", "DEFAULT", "HIGH", "MAX")
    ),
    "vibrate_timings": [DURATION],
    "visibility": Enum(("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET")),
    "notification_count": INT32,
    "light_settings": {"color": _COLOR, "light_on_duration": DURATION, "light_off_duration": DURATION},
    "proxy": Enum(("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED")),
}
ANDROID: Mapping[str, Kind] = {
    "collapse_key": STRING,
    "priority": Enum(("NORMAL", "HIGH")),
    "ttl": DURATION,
    "restricted_package_name": STRING,
    "data": MAP,
    "notification": ANDROID_NOTIFICATION,
    "fcm_options": _ANALYTICS,
    **dict.fromkeys(("direct_boot_ok", "bandwidth_constrained_ok", "restricted_satellite_ok"), BOOL),
}
MESSAGE: Mapping[str, Kind] = {
    **dict.fromkeys(("name", "token", "fid", "topic", "condition"), STRING),
    "data": MAP,
    "notification": dict.fromkeys(("title", "body", "image"), STRING),
    "android": ANDROID,
    "apns": {
        "headers": MAP,
        "payload": STRUCT,
        "fcm_options": {**_ANALYTICS, "image": STRING},
        "live_activity_token": STRING,
    },
    "webpush": {
        "headers": MAP,
        "data": MAP,
        "notification": STRUCT,
        "fcm_options": {**_ANALYTICS, "link": STRING},
    },
    "fcm_options": _ANALYTICS,
}
REQUEST: Mapping[str, Kind] = {"validate_only": BOOL, "message": MESSAGE}
_TARGETS = ("token", "topic", "condition", "fid")

_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

#: The path of a field, and what is wrong with it.
Violation = tuple[str, str]


def parse(payload: object, kind: Mapping[str, Kind]) -> tuple[dict[str, Any], list[Violation]]:
    """Return the request with names in snake_case, and everything that is wrong with it."""
    faults: list[Violation] = []
    value = _read(payload, kind, "", faults)
    return (value if isinstance(value, dict) else {}), faults


def _read(value: Any, kind: Kind, path: str, faults: list[Violation]) -> Any:
    """Return the value as its type has it, noting what does not fit."""
    if isinstance(kind, Mapping):
        return _read_object(value, kind, path, faults)
    if isinstance(kind, list):
        return _read_list(value, kind[0], path, faults)
    if kind == MAP:
        return _read_map(value, path, faults)
    if not _fits(value, kind):
        faults.append((path, f"Invalid value at '{path}' ({_type_name(kind)}), {_shown(value, kind)}"))
    return value


def _read_object(
    value: Any, fields: Mapping[str, Kind], path: str, faults: list[Violation]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        where = f" at '{path}'" if path else ""
        faults.append((path, f"Invalid JSON payload received. An object was expected{where}."))
        return {}
    found: dict[str, Any] = {}
    for name, item in value.items():
        snake = re.sub(r"[A-Z]", lambda capital: f"_{capital[0].lower()}", name)
        if snake not in fields:
            where = f" at '{path}'" if path else ""
            text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
            faults.append((path, text))
        elif item is not None:  # null is the same as no field
            if fields is MESSAGE and snake in _TARGETS and any(other in found for other in _TARGETS):
                text = f"Invalid value at '{path}' (oneof), oneof field 'target' is already set."
                faults.append((path, f"{text} Cannot set '{snake}'"))
            found[snake] = _read(item, fields[snake], f"{path}.{snake}".lstrip("."), faults)
    return found


def _read_list(value: Any, kind: Kind, path: str, faults: list[Violation]) -> list[Any]:
    items = value if isinstance(value, list) else [value]  # a single value is a list of one
    return [_read(item, kind, f"{path}[{index}]", faults) for index, item in enumerate(items)]


def _read_map(value: Any, path: str, faults: list[Violation]) -> dict[str, str]:
    """Read a map of strings; its faults name the entry by its place."""
    if not isinstance(value, dict):
        faults.append((path, f"Invalid JSON payload received. An object was expected at '{path}'."))
        return {}
    for index, item in enumerate(value.values()):
        _read(item, STRING, f"{path}[{index}].value", faults)
    return value


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(kind, Enum):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number or (isinstance(value, str) and value.upper() in kind)
    match kind:
        case "TYPE_STRING":
            return isinstance(value, str)
        case "TYPE_BOOL":
            return isinstance(value, bool)
        case "TYPE_INT32":
            return _is_int32(value)
        case "TYPE_FLOAT":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "google.protobuf.Duration":
            return isinstance(value, str) and _DURATION.fullmatch(value) is not None
        case "google.protobuf.Timestamp":
            return isinstance(value, str) and _TIMESTAMP.fullmatch(value) is not None
    return isinstance(value, dict)


def _is_int32(value: Any) -> bool:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,10}", value):
        value = int(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _type_name(kind: Kind) -> str:
    if isinstance(kind, Enum):
        return "type.googleapis.com/google.firebase.fcm.v1.Enum"
    return str(kind) if str(kind).startswith("TYPE_") else f"type.googleapis.com/{kind}"


def _shown(value: Any, kind: Kind) -> str:
    if kind == DURATION:
        return "Illegal duration format; duration must end with 's'"
    return json.dumps(value, ensure_ascii=False)[:200]
