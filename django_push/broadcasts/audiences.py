"""Which tokens a broadcast goes to: everyone, a named audience, filters, or a list.

What a caller gives becomes a specification, plain JSON that is kept with the broadcast and read anew
whenever tokens are claimed. Nothing that somebody typed becomes the name of a lookup: there are the
filters of the table below and no others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured, ValidationError
from django.db import models, router
from django.db.models import Count, Exists, Func, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Lower, Replace
from django.db.models.lookups import Exact, In, StartsWith
from django.db.models.manager import BaseManager
from django.utils import timezone as clock
from django.utils.module_loading import import_string

from django_push.conf import push_settings
from django_push.exceptions import AmbiguousBackend, InvalidAudience
from django_push.models import TokenStatus, get_token_model
from django_push.outcomes import Target, cut, mask
from django_push.recipients import pages
from django_push.tokens.writing import can_be_stored

EVERYONE = "everyone"
#: The kinds of a specification, beside ``everyone``.
NAMED, FILTERS, LIST = "named", "filters", "list"

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
#: A name of more characters may be a token that was taken for a name, and is not shown as a whole.
_SHOWN = 20
#: Beyond these a number is not the same in every database's JSON.
_MAX_INT = 2**53


# --- what a caller gives --------------------------------------------------------------------------


def specification(audience: Any) -> dict[str, Any]:
    """Return what is kept of an audience, as plain JSON.

    ``audience`` is ``"everyone"``, a name in PUSH_AUDIENCES, a mapping of filters, a specification, or
    a queryset or iterable of tokens and users: of that only its kind is kept. Raises InvalidAudience.
    """
    spec: dict[str, Any]
    if isinstance(audience, str):
        spec = {"kind": EVERYONE} if audience == EVERYONE else {"kind": NAMED, "name": audience}
    elif isinstance(audience, Mapping):
        spec = dict(audience) if "kind" in audience else {"kind": FILTERS, "filters": audience}
    elif _is_list(audience):
        spec = {"kind": LIST}
    else:
        raise InvalidAudience(f"{type(audience).__name__} is no audience: {_there_is()}")
    return _checked(spec)


def _checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    kind = spec.get("kind")
    if kind == NAMED:
        _function(spec.get("name"))
        return {"kind": NAMED, "name": spec["name"]}
    if kind == FILTERS:
        filters = _cleaned(spec.get("filters"))
        _check_aliases(filters.get("backend", ()))
        return {"kind": FILTERS, "filters": filters}
    if kind in (EVERYONE, LIST):
        return {"kind": kind}
    raise InvalidAudience(f"There is no such kind of audience: {_there_is()}")


def _is_list(audience: Any) -> bool:
    if isinstance(audience, (bytes, bytearray, memoryview)):
        return False
    rows = (get_token_model(), get_user_model())
    return isinstance(audience, (QuerySet, BaseManager, Iterable, *rows))


def _there_is() -> str:
    return (
        f"give 'everyone', a name in PUSH_AUDIENCES (there: {_listed(_audiences())}), a mapping of filters "
        f"({', '.join(FILTER_NAMES)}), or tokens or users."
    )


def describe(spec: Mapping[str, Any]) -> str:
    """Return a line for people: ``platform ios; locale de``. Never raises."""
    kind = spec.get("kind")
    if kind == NAMED:
        return f"named: {cut(spec.get('name'))}"
    if kind == LIST:
        return "a list of tokens"
    if kind == FILTERS:
        try:
            return "; ".join(_in_words(name, value) for name, value in _cleaned(spec.get("filters")).items())
        except InvalidAudience as error:
            return cut(error)
    return EVERYONE if kind == EVERYONE else "unknown"


# --- the tokens of a specification ----------------------------------------------------------------


def tokens_of(spec: Mapping[str, Any]) -> QuerySet[Any]:
    """Return the sendable tokens of a specification, each once, unordered, to be filtered further.

    Raises InvalidAudience if they cannot be told: a name that is gone, a function that fails, a list.
    Filters that compare versions read the table's versions, unless the specification is ``fixed``.
    """
    kind = spec.get("kind")
    if kind == EVERYONE:
        return _sendable()
    if kind == NAMED:
        return _named(spec.get("name"))
    if kind == FILTERS:
        filters = _cleaned(spec.get("filters"))
        return _sendable().filter(*_conditions(filters, spec.get("fixed") or _moment(filters)))
    if kind == LIST:
        raise InvalidAudience("A list is read once, when its broadcast is made.")
    raise InvalidAudience(f"There is no such kind of audience: {_there_is()}")


def fixed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification with now as the time that its durations count from, and today's versions.

    So an audience stays what it was when its broadcast began, and is not worked out at each claim.
    """
    if spec.get("kind") != FILTERS:
        return dict(spec)
    return {**spec, "fixed": _moment(_cleaned(spec.get("filters")))}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tokens there are, by alias and locale."""

    tokens: Mapping[tuple[str, str], int]

    @property
    def total(self) -> int:
        return sum(self.tokens.values())

    @property
    def by_alias(self) -> dict[str, int]:
        return self._by(0)

    @property
    def by_locale(self) -> dict[str, int]:
        return self._by(1)

    @property
    def unconfigured(self) -> dict[str, int]:
        """Those of aliases that are not in PUSH_BACKENDS; they are in the other figures too."""
        return {alias: n for alias, n in self.by_alias.items() if alias not in push_settings.backends}

    def _by(self, place: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        for key, n in self.tokens.items():
            found[key[place]] += n
        return dict(sorted(found.items()))


def counts(spec: Mapping[str, Any], using: str = "") -> Counts:
    """Count the tokens of a specification, of one alias or of all. One query."""
    rows = tokens_of(spec)
    if using:
        rows = rows.filter(backend=using)
    found = rows.values_list("backend", "locale").annotate(push_count=Count("pk")).order_by()
    return Counts({(alias, locale): n for alias, locale, n in found})


def chosen(
    audience: Any, using: str | None = "", *, skipped: Counter[str] | None = None
) -> Iterator[tuple[str, list[Target]]]:
    """Yield the sendable tokens of a list, in pages of one alias each, each token once.

    ``using`` narrows to one alias; tokens that are not sent to are counted in ``skipped``. Raises
    InvalidAudience for what has no row: a raw token that is not registered, a topic.
    """
    if isinstance(audience, str):
        raise InvalidAudience("A single string is no list of tokens.")
    try:
        source = pages(audience, using or None, Counter() if skipped is None else skipped)
    except (TypeError, AmbiguousBackend) as error:
        raise InvalidAudience(str(error)) from error
    return ((page.alias, targets) for page in source if (targets := _rows_of(page.targets, page.tickets)))


def _rows_of(targets: list[Target], tickets: list[Any]) -> list[Target]:
    for ticket in tickets:
        raise InvalidAudience(ticket.detail)
    for target in targets:
        if not target.is_token:
            raise InvalidAudience(f"A {target.kind} is no audience: send_push sends to it.")
        if target.pk is None:
            raise InvalidAudience(f"The token {mask(target.value)} has no row: register it first.")
    return targets


def _all() -> QuerySet[Any]:
    """Return all rows where they are written, with the words of the site's own manager but not its choice."""
    model = get_token_model()
    kind: type[QuerySet[Any]] = type(model._default_manager.all())
    return kind(model=model, using=router.db_for_write(model))


def _sendable() -> QuerySet[Any]:
    return _all().filter(status=TokenStatus.ACTIVE, enabled=True)


# --- named audiences ------------------------------------------------------------------------------


def _audiences() -> Mapping[str, Any]:
    try:
        return push_settings.audiences
    except ImproperlyConfigured as error:
        raise InvalidAudience(str(error)) from error


def _function(name: Any) -> Callable[[QuerySet[Any]], Any]:
    named = _audiences()
    if not isinstance(name, str) or name not in named:
        shown = (
            repr(name if len(name) <= _SHOWN else mask(name)) if isinstance(name, str) else "without a name"
        )
        raise InvalidAudience(f"There is no audience {shown}; there are: {_listed([EVERYONE, *named])}.")
    found = named[name]
    if isinstance(found, str):
        try:
            found = import_string(found)
        except Exception as error:
            raise InvalidAudience(f"{_where(name)} cannot be imported: {type(error).__name__}.") from error
    if not callable(found):
        raise InvalidAudience(f"{_where(name)} is no function.")
    function: Callable[[QuerySet[Any]], Any] = found
    return function


def _named(name: Any) -> QuerySet[Any]:
    function, rows = _function(name), _sendable()
    try:
        found = function(rows)
    except Exception as error:
        raise InvalidAudience(f"{_where(name)} raised {type(error).__name__}.") from error
    if (wrong := _why_not(found)) is not None:
        raise InvalidAudience(f"{_where(name)} {wrong}.")
    return _narrowed(found.using(rows.db).order_by(), rows)


def _narrowed(found: QuerySet[Any], rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return those of a site's tokens that are sendable, each once, in a form that can be filtered."""
    found.query.standard_ordering = True  # whatever reverse() has been called on
    found.query.select_for_update = False
    if any(getattr(part, "contains_over_clause", False) for part in found.query.annotations.values()):
        return rows.filter(pk__in=found.values("pk"))  # a window would be another if it were filtered
    if _may_repeat(found.query):
        return rows.filter(Exists(found.filter(pk=OuterRef("pk"))))
    return found.filter(status=TokenStatus.ACTIVE, enabled=True)


def _why_not(found: Any) -> str | None:
    """Return why the result of a site's function is no audience, or None."""
    if not isinstance(found, QuerySet):
        return f"returned {type(found).__name__}, no queryset"
    model = found.model._meta
    if model.concrete_model is not get_token_model()._meta.concrete_model:
        return f"returned a queryset of {model.object_name}, not of tokens"
    query = found.query
    if query.is_sliced or query.combinator or query.distinct_fields or _is_values(found):
        return "returned a slice, union, distinct() of fields or values(), which cannot be filtered further"
    return None


def _is_values(rows: QuerySet[Any]) -> bool:
    return rows._fields is not None  # type: ignore[attr-defined]


def _may_repeat(query: Any) -> bool:
    """Whether a row may come twice, or the query is one that counts differently when it is grouped."""
    to_many = any(
        not (join.join_field.many_to_one or join.join_field.one_to_one)
        for join in query.alias_map.values()
        if join.join_type
    )
    return to_many or bool(query.distinct or query.group_by or query.extra_tables)


def _where(name: str) -> str:
    return f"PUSH_AUDIENCES[{name!r}]"


# --- filters: their values ------------------------------------------------------------------------
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


def _cleaned(filters: Any) -> dict[str, Any]:
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


def _check_aliases(aliases: Iterable[str]) -> None:
    for alias in aliases:
        if alias not in push_settings.backends:
            known = _listed(push_settings.backends)
            raise InvalidAudience(f"backend: {cut(alias)!r} is not in PUSH_BACKENDS (there: {known}).")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


# --- filters: what they ask the database ----------------------------------------------------------


def _conditions(filters: Mapping[str, Any], moment: Any) -> list[Any]:
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


def _moment(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the filters need to know of this moment, as plain JSON."""
    moment: dict[str, Any] = {}
    if any(name in filters for name in _TIMED):
        moment["at"] = clock.now().timestamp()
    if any(name in filters for name in _COMPARED):
        moment["versions"] = _versions(filters)
    return moment


def _versions(filters: Mapping[str, Any]) -> list[str]:
    """Return the versions in the table that lie within the bounds: SQL would compare them as texts."""
    versions = list(
        _sendable().order_by().values_list("app_version", flat=True).distinct()[: MOST_VERSIONS + 1]
    )
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


def _in_words(name: str, value: Any) -> str:
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
