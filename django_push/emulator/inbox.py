"""The inbox: the latest pushes, as a page that shows them like a phone and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from django.template import Context, Engine
from django.template.base import Template

from django_push.emulator.exchange import Answer, as_html, as_json
from django_push.emulator.state import Push, State, shown_target

_TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
#: The page loads nothing from anywhere, whatever a push says.
_HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)
#: The providers' names for what a phone shows.
_NAMES = {
    "channel": ("channelId", "android_channel_id", "channel_id"),
    "category": ("categoryId", "click_action"),
    "image": ("image",),
    "sound": ("sound",),
    "badge": ("badge", "notification_count"),
    "tag": ("tag",),
}


def page(state: State) -> Answer:
    """Return the inbox as HTML that refreshes itself."""
    pushes = [_shown(push) for push in state.latest()]
    counts = {
        "accepted": sum(state.accepted.values()),
        "failed": sum(state.seen.values()) - sum(state.accepted.values()),
        "requests": state.requests,
    }
    shown = {"pushes": pushes, "counts": counts, "faults": str(state.faults), "latency": state.latency}
    return as_html(200, _template().render(Context(shown)), *_HEADERS)


def as_list(state: State) -> Answer:
    """Return the inbox as JSON, newest first."""
    return as_json(200, {"pushes": [_shown(push) for push in state.latest()]}, *_HEADERS)


@cache
def _template() -> Template:
    """Load the page by an engine of its own, so that a site's TEMPLATES cannot hide it."""
    return Engine(dirs=[str(_TEMPLATES)]).get_template("django_push/emulator/inbox.html")


def _shown(push: Push) -> dict[str, Any]:
    content = push.content
    data = content.get("data") or {}
    return {
        "provider": push.provider,
        "target": shown_target(push),
        "kind": push.kind,
        "outcome": push.said,
        "accepted": push.is_accepted,
        "time": datetime.fromtimestamp(push.at).astimezone().strftime("%H:%M:%S"),
        "title": _text(content.get("title")),
        "subtitle": _text(content.get("subtitle")),
        "body": _text(content.get("body")),
        "data": {key: _text(value) for key, value in data.items()},
        "details": _details(content),
    }


def _details(content: Mapping[str, Any]) -> dict[str, str]:
    rich = content.get("richContent")
    content = {**content, **(rich if isinstance(rich, dict) else {})}
    found = {
        label: next((_text(content[name]) for name in names if content.get(name) is not None), "")
        for label, names in _NAMES.items()
    }
    return {label: text for label, text in found.items() if text}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
