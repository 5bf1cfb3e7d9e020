"""JSON and texts as the backends write and read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from django_push.message import PushMessage, plain


def dumps(value: object) -> str:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=plain)


def loads(body: bytes) -> Any:
    """Return what the JSON says, or None for anything that is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def text(value: object) -> str:
    """Return what a provider said if it is a string: of another type it is not worth reading."""
    return value if isinstance(value, str) else ""


def option(options: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or None."""
    found: Any = options
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid upon it, object by object."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]  # both says so
    return merged


def stringify(data: Mapping[str, Any]) -> dict[str, str]:
    """Return data as the string-to-string map that FCM demands and GCM recommends.

    A string stays; anything else becomes its JSON text: ``17`` → ``"17"``, ``True`` → ``"true"``,
    ``None`` → ``"null"``, ``{"a": 1}`` → ``'{"a":1}'``.
    """
    return {key: value if isinstance(value, str) else dumps(value) for key, value in data.items()}


def payload_size(message: PushMessage) -> int:
    """Return the bytes of keys and values that the message takes on any device, at least."""
    return text_size((message.title, message.body, message.subtitle), message.data)


def text_size(texts: Iterable[object], data: Mapping[str, Any] | None) -> int:
    """Return the bytes of the texts that are there and of the data, as strings."""
    said = [str(value) for value in texts if value is not None]
    for pair in stringify(data or {}).items():
        said += pair
    return sum(len(value.encode()) for value in said)


def reserved_key(data: Mapping[str, Any] | None) -> str:
    """Return a key of ``data`` that Google's services keep to themselves, or ""."""
    for key in data or {}:
        if key in ("from", "message_type") or key.startswith(("google", "gcm")):
            return key
    return ""
