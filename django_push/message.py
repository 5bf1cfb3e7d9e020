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
_IN_TOPICS = re.compile(rf"'{TOPIC_NAME.pattern}'\s+in\s+topics\b")
#: How many objects and lists may stand in one another. Phones and providers read no such data, and
#: what is deeper could be checked here but not be written further down.
MAX_DEPTH = 100

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
        if not isinstance(text, str):
            raise InvalidMessage(f"A condition is a string, not {_type(text)}.")
        rest, topics = _IN_TOPICS.subn("", text)
        if not 1 <= topics <= MAX_CONDITION_TOPICS or re.search(r"[^\s()&|!]", rest):
            raise InvalidMessage(
                "A condition joins one to five topics with &&, || and !, each as \"'news' in topics\"."
            )


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
            if not isinstance(getattr(self, name), (bool, type(None))):
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
        _check_options(self.provider_options)
        if not any(_says_something(getattr(self, name)) for name in _CONTENT) and not any(
            self.provider_options.values()
        ):
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
        return any(_has_promise(getattr(self, name)) for name in (*_TEXTS, *_JSON))

    def render(self, language: str) -> PushMessage:
        """Return this message with its lazy texts in ``language``, a code that Django supports."""
        with translation.override(language):
            changes = {name: _render(getattr(self, name)) for name in (*_TEXTS, *_JSON)}
            return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return what ``PushMessage(**…)`` makes this message of again, as plain JSON values."""
        values = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        if self.ttl is not None:
            values["ttl"] = self.ttl_seconds
        if self.provider_options:
            values["provider_options"] = self.provider_options
        fields: dict[str, Any] = json.loads(json.dumps(values, default=plain))
        return fields

    def to_keep(self) -> dict[str, Any]:
        """Return ``to_json`` for a table or a queue.

        Raises InvalidMessage for a NUL character, which PostgreSQL keeps in no JSON.
        """
        fields = self.to_json()
        if _NUL.search(json.dumps(fields)):
            raise InvalidMessage("The message has a NUL character, which cannot be kept.")
        return fields


#: U+0000 as JSON has it; a backslash before it would be another's.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


FIELDS = tuple(f.name for f in dataclasses.fields(PushMessage) if f.name != "provider_options")
_TEXTS = ("title", "body", "subtitle")
_STRINGS = (
    "image", "icon", "color", "collapse_key", "tag", "channel_id", "category", "thread_id",
    "link", "analytics_label",
)  # fmt: skip
_JSON = ("data", "sound", "provider_options")
_CONTENT = ("title", "body", "subtitle", "data", "image", "sound", "badge", "content_available")


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
    if value is not None and not (isinstance(value, str) and value in choices):
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
        _check_keys(value, MAX_DEPTH)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_unread)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"{name} must be JSON: {error}") from None
    if not is_utf8(text):
        raise InvalidMessage(f"{name} has surrogate characters and cannot be sent as UTF-8.")


def _check_keys(value: object, depth: int) -> None:
    if not depth:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item, depth - 1)


def _check_options(options: object) -> None:
    if not isinstance(options, Mapping):
        raise InvalidMessage("provider_options must map a provider's name to a dictionary.")
    for provider, said in options.items():
        if not isinstance(provider, str):
            raise InvalidMessage(f"provider_options: {provider!r} is no provider's name.")
        if not isinstance(said, Mapping):
            raise InvalidMessage(f"provider_options[{provider!r}] must be a dictionary.")
        _check_json(f"provider_options[{provider!r}]", said)


def _says_something(value: object) -> bool:
    """Whether a field is content. A badge of 0 is: it clears the badge. A lazy text is, unread."""
    if isinstance(value, (Promise, bool)):
        return value is not False
    return value == 0 or bool(value)


def plain(value: object) -> object:
    """Let json write lazy texts and mappings that are no dict; anything else is not JSON."""
    return str(value) if isinstance(value, Promise) else _unread(value)


def _unread(value: object) -> object:
    """As ``plain``, but leave a lazy text unread: translations may not be loaded yet."""
    if isinstance(value, Promise):
        return ""
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
