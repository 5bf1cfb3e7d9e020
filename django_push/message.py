"""PushMessage: what to say, whoever carries it. Decides which messages are no messages at all."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from django.conf import settings
from django.utils import translation
from django.utils.functional import Promise

from django_push.exceptions import InvalidMessage

#: Four weeks, in seconds: the longest that GCM and FCM keep a message (their reference pages).
MAX_TTL = 2_419_200
PRIORITIES = ("normal", "high")
INTERRUPTION_LEVELS = ("passive", "active", "time-sensitive", "critical")
TOPIC_NAME = re.compile(r"[a-zA-Z0-9\-_.~%]{1,900}")
MAX_CONDITION_TOPICS = 5

#: A string, or a lazy translation that is rendered in each token's own language.
Text: TypeAlias = str | Promise


@dataclass(frozen=True, slots=True)
class Topic:
    """A recipient: everybody whose app has subscribed to the topic (GCM, FCM). Without ``/topics/``."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not TOPIC_NAME.fullmatch(self.name):
            raise InvalidMessage(
                "A topic's name has 1 to 900 of the characters a-z A-Z 0-9 - _ . ~ %, without '/topics/'."
            )


@dataclass(frozen=True, slots=True)
class Condition:
    """A recipient: a boolean expression of at most five topics, as ``'a' in topics && 'b' in topics``."""

    expression: str

    def __post_init__(self) -> None:
        text = self.expression
        if not isinstance(text, str) or not text.strip():
            raise InvalidMessage("A condition is an expression such as \"'news' in topics\".")
        if not 1 <= len(re.findall(r"'[^']*'\s+in\s+topics", text)) <= MAX_CONDITION_TOPICS:
            raise InvalidMessage("A condition names one to five topics: \"'news' in topics\".")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushMessage:
    """What to say, in words that belong to no provider.

    ``ttl`` is in seconds or a timedelta, at most four weeks; 0 means now or never. ``priority`` is
    ``normal`` or ``high``; unset, each provider's own default holds. ``data`` is the app's own JSON
    object; FCM and GCM carry it as strings (docs: "Data"). ``sound`` may be a dictionary
    ``{"critical": True, "name": "alarm.wav", "volume": 1.0}`` for an iOS critical alert.
    ``provider_options`` maps a provider's name to JSON that is merged over what this message says to
    that provider, and wins.

    Raises InvalidMessage for a wrong type or value, and for a message with nothing in it.
    """

    title: Text | None = None
    body: Text | None = None
    subtitle: Text | None = None
    data: Mapping[str, Any] | None = None
    image: str | None = None
    icon: str | None = None
    color: str | None = None
    sound: str | Mapping[str, Any] | None = None
    badge: int | None = None
    ttl: int | timedelta | None = None
    priority: str | None = None
    collapse_key: str | None = None
    tag: str | None = None
    channel_id: str | None = None
    category: str | None = None
    thread_id: str | None = None
    link: str | None = None
    interruption_level: str | None = None
    content_available: bool | None = None
    mutable_content: bool | None = None
    analytics_label: str | None = None
    provider_options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        for name in _STRINGS:
            _check_string(name, getattr(self, name))
        for name in ("content_available", "mutable_content"):
            if getattr(self, name) not in (None, True, False):
                raise InvalidMessage(f"{name} must be True or False.")
        _check_choice("priority", self.priority, PRIORITIES)
        _check_choice("interruption_level", self.interruption_level, INTERRUPTION_LEVELS)
        _check_count("badge", self.badge, 2**31 - 1)
        _check_count("ttl", self.ttl_seconds, MAX_TTL, " seconds (four weeks)")
        if self.color is not None and not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise InvalidMessage("color must be #rrggbb.")
        if not isinstance(self.sound, (str, Mapping, type(None))):
            raise InvalidMessage("sound must be a string or a dictionary.")
        if isinstance(self.sound, str):
            _check_string("sound", self.sound)
        for name in ("data", "sound"):
            if isinstance(value := getattr(self, name), Mapping):
                _check_json(name, value)
        if not isinstance(self.data, (Mapping, type(None))):
            raise InvalidMessage(f"data must be a dictionary, not {_type(self.data)}.")
        if not isinstance(self.provider_options, Mapping):
            raise InvalidMessage("provider_options must map a provider's name to a dictionary.")
        for provider, options in self.provider_options.items():
            if not isinstance(options, Mapping):
                raise InvalidMessage(f"provider_options[{provider!r}] must be a dictionary.")
            _check_json(f"provider_options[{provider!r}]", options)
        if not any(getattr(self, name) or getattr(self, name) == 0 for name in _CONTENT):
            raise InvalidMessage("There is nothing in the message: give a title, a body or data.")

    @property
    def ttl_seconds(self) -> int | None:
        """The ttl in whole seconds, rounded down."""
        if isinstance(self.ttl, timedelta):
            return int(self.ttl.total_seconds())
        return self.ttl

    @property
    def said(self) -> frozenset[str]:
        """The names of the fields that are set, ``provider_options`` aside."""
        return frozenset(name for name in FIELDS if getattr(self, name) is not None)

    @property
    def is_lazy(self) -> bool:
        """Whether a text waits for a language."""
        texts = (getattr(self, name) for name in _TEXTS)
        return any(isinstance(text, Promise) for text in texts) or _has_promise(self.data)

    def render(self, language: str) -> PushMessage:
        """Return this message with its lazy texts in ``language``, a code that Django supports."""
        with translation.override(language):
            changes: dict[str, Any] = {
                name: str(text) for name in _TEXTS if isinstance(text := getattr(self, name), Promise)
            }
            return dataclasses.replace(self, data=_render(self.data), **changes)

    def to_json(self) -> dict[str, Any]:
        """Return what ``PushMessage(**…)`` makes this message of again, as plain JSON values."""
        values = {name: getattr(self, name) for name in self.said}
        if self.ttl is not None:
            values["ttl"] = self.ttl_seconds
        if self.provider_options:
            values["provider_options"] = self.provider_options
        plain: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
        return plain


FIELDS = tuple(f.name for f in dataclasses.fields(PushMessage) if f.name != "provider_options")
_TEXTS = ("title", "body", "subtitle")
_STRINGS = (
    "image", "icon", "color", "collapse_key", "tag", "channel_id", "category", "thread_id",
    "link", "analytics_label",
)  # fmt: skip
_CONTENT = (
    "title", "body", "subtitle", "data", "image", "sound", "badge", "content_available",
    "provider_options",
)  # fmt: skip


def language_for(locale: str) -> str:
    """Return the language of this site that serves a token's locale best: ``de-AT`` → ``de``."""
    code = locale.replace("_", "-").lower()
    try:
        return translation.get_supported_language_variant(code) if code else settings.LANGUAGE_CODE
    except LookupError:
        return settings.LANGUAGE_CODE


def _type(value: object) -> str:
    return type(value).__name__


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, Promise):
        _check_string(name, value)


def _check_string(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidMessage(f"{name} must be a string, not {_type(value)}.")
    if not is_utf8(value):
        raise InvalidMessage(f"{name} has surrogate characters and cannot be sent as UTF-8.")


def is_utf8(text: str) -> bool:
    """Whether the text can be encoded: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InvalidMessage(f"{name} must be one of: {', '.join(choices)}.")


def _check_count(name: str, value: object, most: int, unit: str = "") -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidMessage(f"{name} must be a whole number, not {_type(value)}.")
    if not 0 <= value <= most:
        raise InvalidMessage(f"{name} must be 0 to {most}{unit}.")


def _check_json(name: str, value: Mapping[str, Any]) -> None:
    try:
        _check_keys(name, value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"{name} must be JSON: {error}") from None
    if not is_utf8(text):
        raise InvalidMessage(f"{name} has surrogate characters and cannot be sent as UTF-8.")


def _check_keys(name: str, value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(name, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(name, item)


def _plain(value: object) -> object:
    """Let json write lazy texts and mappings that are no dict; anything else is not JSON."""
    if isinstance(value, Promise):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{_type(value)} is no JSON type; convert it first")


def _has_promise(value: object) -> bool:
    if isinstance(value, Promise):
        return True
    if isinstance(value, Mapping):
        return any(_has_promise(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_has_promise(item) for item in value)


def _render(value: Any) -> Any:
    if isinstance(value, Promise):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _render(item) for key, item in value.items()}
    return [_render(item) for item in value] if isinstance(value, (list, tuple)) else value
