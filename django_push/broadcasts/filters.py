"""The filters of an audience: an allow-list, what their values may be, and what they ask the database.

No name that somebody gave reaches a lookup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models, router
from django.db.models import Exists, Func, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Lower, Replace
from django.db.models.lookups import Exact, In, StartsWith
from django.utils import timezone as clock

from django_push.exceptions import InvalidAudience
from django_push.models import get_token_model
from django_push.outcomes import cut
from django_push.tokens.writing import can_be_stored

#: The most values of one filter, the most users, and the most keys of metadata.
MOST_VALUES = 100
MOST_USERS = 1000
MOST_KEYS = 10
#: With more different versions than this in the table, versions are not compared.
MOST_VERSIONS = 1000
#: The longest text of a value.
MAX_LENGTH = 255
#: The longest duration. Seconds.
MAX_SECONDS = 10 * 365 * 86400
#: Beyond these a number is not the same in every database's JSON.
_MAX_INT = 2**53


# --- their values ------------------------------------------------------------------------
# A cleaner returns a value as plain JSON that it returns again when given it. It raises ValueError.


def seconds(value: Any) -> int:
    """Return a duration in whole seconds: 90, "90", "15m", "12h", "30d", "2w" or a timedelta.

    Raises ValueError for anything else, for nothing and for more than ten years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        value = int(found[1]) * _UNITS[found[2].lower() or "s"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= MAX_SECONDS:
        raise ValueError("give seconds, or a number with s, m, h, d or w, such as '30d'; ten years at most")
    return int(value)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"\s*([0-9]{1,10})\s*([smhdw]?)\s*", re.IGNORECASE)


def duration_in_words(value: int) -> str:
    """Return seconds as ``seconds`` reads them, in the largest unit that fits: ``30d``."""
    return next(f"{value // size}{unit}" for unit, size in _LARGEST_FIRST if value % size == 0)


_LARGEST_FIRST = [(unit, _UNITS[unit]) for unit in "dhms"]


def version_key(text: str) -> tuple[int, ...] | None:
    """Return the numbers that a version begins with, by which versions compare; None if it has none.

    Zeros at the end and what follows the numbers make no difference: 2.0, v2.0.0 and 2.0-beta1 are one.
    """
    found = _VERSION.match(text)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


_VERSION = re.compile(r"\s*v?([0-9]+(?:\.[0-9]+)*)", re.IGNORECASE)


def _text(length: int = MAX_LENGTH) -> Callable[[Any], str]:
    def clean(value: Any) -> str:
        if not isinstance(value, str) or not value or not can_be_stored(value, length):
            raise ValueError(f"give a text of 1 to {length} characters")
        return str(value)

    return clean


def _locale(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 35 or not _LOCALE.fullmatch(value):
        raise ValueError("give a locale, such as 'de' or 'de-AT'")
    return value.replace("_", "-")


_LOCALE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")


def _version(value: Any) -> str:
    text = _text(64)(value)
    if version_key(text) is None:
        raise ValueError("give a version that begins with numbers, such as '2.10'")
    return text


def _user(value: Any) -> int | str:
    """Return a user's key as JSON has it; what is no key of the user model is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        value = getattr(value, "hex", None)  # a UUID
    try:
        key = _user_key(value)
    except (ValidationError, ValueError, TypeError, OverflowError):
        key = None
    if key is None or (isinstance(key, int) and abs(key) >= 2**63):
        raise ValueError("give the ID of a user")
    return key if isinstance(key, int) else _text()(str(key))


def _user_key(value: Any) -> Any:
    return get_user_model()._meta.pk.to_python(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give True or False")
    return value


def _scalar(value: Any) -> str | int | float | bool:
    if isinstance(value, str):
        return _text()(value) if value else value
    if isinstance(value, (bool, int, float)) and abs(value) <= _MAX_INT:
        return value
    raise ValueError("give texts, numbers, True or False as values")


def _metadata(value: Any) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping) or not 1 <= len(value) <= MOST_KEYS:
        raise ValueError(f"give a mapping of 1 to {MOST_KEYS} keys")
    for key in value:
        # Digits alone would be taken for a place in an array.
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", key):
            raise ValueError("a key is 1 to 64 letters, digits and underscores, and begins with no digit")
    return {key: _any_of(_scalar)(said) for key, said in value.items()}


def _any_of(clean: Callable[[Any], Any], most: int = MOST_VALUES) -> Callable[[Any], list[Any]]:
    """Return a cleaner of one value or several, any of which is to match."""

    def clean_all(value: Any) -> list[Any]:
        values = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
        if not 1 <= len(values) <= most:
            raise ValueError(f"give 1 to {most} values")
        return [clean(item) for item in values]

    return clean_all


def cleaned(filters: Any) -> dict[str, Any]:
    """Return filters as plain JSON. Raises InvalidAudience."""
    if not isinstance(filters, Mapping) or not filters:
        raise InvalidAudience(f"Name a filter ({', '.join(FILTER_NAMES)}), or give 'everyone'.")
    cleaned = {}
    for name, value in filters.items():
        known = _FILTERS.get(name) if isinstance(name, str) else None
        if known is None:
            raise InvalidAudience(f"There is no filter {cut(name)!r}; there are: {', '.join(FILTER_NAMES)}.")
        try:
            cleaned[name] = known.clean(value)
        except ValueError as error:
            raise InvalidAudience(f"{name}: {error}.") from None
    return cleaned


# --- what they ask the database ----------------------------------------------------------


def conditions(filters: Mapping[str, Any], moment: Any) -> list[Any]:
    found = []
    try:
        if any(name in filters for name in _COMPARED):
            found.append(Q(app_version__in=list(moment["versions"])))
        if any(name in filters for name in _TIMED):
            zone = timezone.utc if settings.USE_TZ else None
            moment = {"at": datetime.fromtimestamp(moment["at"], zone)}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidAudience("What was fixed of the audience cannot be read.") from error
    for name, value in filters.items():
        if (where := _FILTERS[name].where) is not None:
            found.append(where(value))
        elif name in _TIMED:
            found.append(_TIMED[name](moment["at"] - timedelta(seconds=value)))
    return found


def fixed_moment(filters: Mapping[str, Any], rows: QuerySet[Any]) -> dict[str, Any]:
    """Return what the filters need to know of this moment, as plain JSON."""
    moment: dict[str, Any] = {}
    if any(name in filters for name in _TIMED):
        moment["at"] = clock.now().timestamp()
    if any(name in filters for name in _COMPARED):
        moment["versions"] = _versions(filters, rows)
    return moment


def _versions(filters: Mapping[str, Any], rows: QuerySet[Any]) -> list[str]:
    """Return the versions in the table that lie within the bounds: SQL would compare them as texts."""
    versions = list(rows.order_by().values_list("app_version", flat=True).distinct()[: MOST_VERSIONS + 1])
    if len(versions) > MOST_VERSIONS:
        raise InvalidAudience(
            f"There are more than {MOST_VERSIONS} different versions; compare them in a named audience."
        )
    first, end = (version_key(filters.get(name, "")) for name in _COMPARED)
    keys = {version: version_key(version) for version in versions}
    return sorted(
        version
        for version, key in keys.items()
        if key is not None and (first is None or key >= first) and (end is None or key < end)
    )


_COMPARED = ("app_version_from", "app_version_below")


def _seen_since(moment: datetime) -> Q:
    return Q(last_seen_at__gte=moment) | Q(last_seen_at=None, created__gte=moment)


def _unseen_since(moment: datetime) -> Q:
    return Q(last_seen_at__lt=moment) | Q(last_seen_at=None, created__lt=moment)


_TIMED = {"seen_within": _seen_since, "unseen_for": _unseen_since}


def _in_platforms(platforms: list[str]) -> In[Any]:
    return In(Lower("platform"), [platform.lower() for platform in platforms])


def _in_locales(locales: list[str]) -> Q:
    """A language alone has all its regions; with a region it is that one. Spelt with - or _, in any case."""
    column = Replace(Lower("locale"), Value("_"), Value("-"))
    found = Q()
    for locale in locales:
        code = locale.lower()
        found |= Q(Exact(column, code))
        if not _REGION.search(code):
            found |= Q(StartsWith(column, f"{code}-"))
    return found


_REGION = re.compile(r"-(?:[a-z]{2}|[0-9]{3})(?:-|$)")


def _in_groups(names: list[str]) -> Exists:
    users = get_user_model()
    home = router.db_for_write(users)
    try:
        field = users._meta.get_field("groups")
    except FieldDoesNotExist:
        raise InvalidAudience("group: the user model has no groups; use a named audience.") from None
    if home != router.db_for_write(get_token_model()) or not isinstance(field, models.ManyToManyField):
        raise InvalidAudience("group: users are in another database than tokens; use a named audience.")
    members = users._base_manager.using(home).filter(pk=OuterRef("user_id"), groups__name__in=names)
    return Exists(members)


class _KeyIs(Func):
    """Whether a key at the top of a JSON column holds exactly this value: 1 is neither "1" nor true.

    Django's own lookup does not tell these apart on every database.
    """

    output_field = models.BooleanField()

    def __init__(self, column: str, key: str, value: Any) -> None:
        super().__init__(column)
        self.key, self.value = key, json.dumps(value)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        column, params = compiler.compile(self.source_expressions[0])
        return f"({column} -> %s) = %s::jsonb", (*params, self.key, self.value)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        column, params = compiler.compile(self.source_expressions[0])
        parts = [f"{name}({column}, %s) = {name}(%s, '$')" for name in ("JSON_TYPE", "JSON_EXTRACT")]
        return f"({' AND '.join(parts)})", (*params, self._path, self.value) * 2

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        column, params = compiler.compile(self.source_expressions[0])
        pair = f"JSON_EXTRACT({column}, %s)", "JSON_EXTRACT(%s, '$')"
        names = ("JSON_TYPE", "JSON_UNQUOTE")
        parts = [f"CAST({name}({pair[0]}) AS BINARY) = {name}({pair[1]})" for name in names]
        return f"({' AND '.join(parts)})", (*params, self._path, self.value) * 2

    @property
    def _path(self) -> str:
        return f'$."{self.key}"'


def _with_metadata(wanted: dict[str, list[Any]]) -> Q:
    found = Q()
    for key, values in wanted.items():
        any_of = Q()
        for value in values:
            any_of |= Q(_KeyIs("metadata", key, value))
        found &= any_of
    return found


class _Filter(NamedTuple):
    """How a filter's value is checked, and what it asks; None where that depends on the moment."""

    clean: Callable[[Any], Any]
    where: Callable[[Any], Any] | None = None


_FILTERS = {
    "anonymous": _Filter(_flag, lambda value: Q(user__isnull=value)),
    "app_version": _Filter(_any_of(_text(64)), lambda values: Q(app_version__in=values)),
    "app_version_below": _Filter(_version),
    "app_version_from": _Filter(_version),
    "backend": _Filter(_any_of(_text(64)), lambda values: Q(backend__in=values)),
    "group": _Filter(_any_of(_text()), _in_groups),
    "locale": _Filter(_any_of(_locale), _in_locales),
    "metadata": _Filter(_metadata, _with_metadata),
    "platform": _Filter(_any_of(_text(16)), _in_platforms),
    "seen_within": _Filter(seconds),
    "unseen_for": _Filter(seconds),
    "user": _Filter(_any_of(_user, MOST_USERS), lambda keys: Q(user_id__in=map(_user_key, keys))),
}
#: What a mapping of filters may name.
FILTER_NAMES = tuple(_FILTERS)


def in_words(name: str, value: Any) -> str:
    """Return a filter and its value for people."""
    if name == "anonymous":
        return "anonymous" if value else "not anonymous"
    if name == "metadata":
        return ", ".join(f"metadata {key} {_or(said)}" for key, said in value.items())
    if name in _TIMED:
        value = [duration_in_words(value)]
    return f"{name.replace('_', ' ')} {_or(value if isinstance(value, list) else [value])}"


def _or(values: list[Any]) -> str:
    shown = " or ".join(cut(value) for value in values[:10])
    return shown if len(values) <= 10 else f"{shown} or {len(values) - 10} more"
