"""Which tokens a broadcast goes to: everyone, a named audience, filters, or a list.

What a caller gives becomes a specification, plain JSON that is kept with the broadcast and read anew
whenever tokens are claimed. Nothing that somebody typed becomes the name of a lookup: there are the
filters of the table below and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import DataError, NotSupportedError, OperationalError, ProgrammingError, router
from django.db.models import Count, Exists, OuterRef, QuerySet
from django.db.models.manager import BaseManager
from django.utils.module_loading import import_string

from django_push.broadcasts.filters import FILTER_NAMES, cleaned, conditions, fixed_moment, in_words
from django_push.conf import push_settings
from django_push.exceptions import AmbiguousBackend, InvalidAudience
from django_push.models import TokenStatus, get_token_model
from django_push.outcomes import Target, cut, mask
from django_push.recipients import pages
from django_push.tokens.writing import sqlstate

EVERYONE = "everyone"
#: The kinds of a specification, beside ``everyone``.
NAMED, FILTERS, LIST = "named", "filters", "list"
#: A name of more characters may be a token that was taken for a name, and is not shown as a whole.
_SHOWN = 20


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
        spec = dict(audience) if _is_specification(audience) else {"kind": FILTERS, "filters": audience}
    elif _is_list(audience):
        spec = {"kind": LIST}
    else:
        raise InvalidAudience(f"{type(audience).__name__} is no audience: {_there_is()}")
    return _checked(spec)


def _is_specification(audience: Mapping[str, Any]) -> bool:
    """Whether a mapping is one of ours rather than filters: no filter among its keys may be passed over."""
    return "kind" in audience and audience.keys() <= {"kind", "name", "filters", "fixed"}


def _checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    kind = spec.get("kind")
    if kind == NAMED:
        _function(spec.get("name"))
        return {"kind": NAMED, "name": spec["name"]}
    if kind == FILTERS:
        filters = cleaned(spec.get("filters"))
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
            return "; ".join(in_words(name, value) for name, value in cleaned(spec.get("filters")).items())
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
        filters = cleaned(spec.get("filters"))
        rows = _sendable()
        return rows.filter(*conditions(filters, spec.get("fixed") or _fixed_moment(filters)))
    if kind == LIST:
        raise InvalidAudience("A list is read once, when its broadcast is made.")
    raise InvalidAudience(f"There is no such kind of audience: {_there_is()}")


@contextmanager
def readable() -> Iterator[None]:
    """Raise InvalidAudience where reading the tokens fails for the audience's own sake.

    A site's function may ask what a column does not hold, or more than ``statement_timeout`` allows. A
    lost database or a lost lock are nobody's fault, and go on as they are.
    """
    try:
        yield
    except InvalidAudience:
        raise
    except _OWN_FAULTS as error:
        raise InvalidAudience(f"It cannot be read: {type(error).__name__}.") from error
    except OperationalError as error:
        if _took_too_long(error):
            raise InvalidAudience("Reading it takes more than the database allows.") from error
        if _is_wrong_query(error):
            raise InvalidAudience(f"It cannot be read: {type(error).__name__}.") from error
        raise


_OWN_FAULTS = (
    DataError,
    ProgrammingError,
    NotSupportedError,
    FieldError,
    TypeError,
    ValueError,
    ArithmeticError,
)


def _took_too_long(error: OperationalError) -> bool:
    state = sqlstate(error)
    # PostgreSQL: statement_timeout, temp_file_limit, too complex; MariaDB; MySQL
    return state in ("57014", "53400") or state.startswith("54") or _code(error) in (1969, 3024)


def _is_wrong_query(error: OperationalError) -> bool:
    """Whether the query is at fault, for which MySQL and SQLite have no error of another kind.

    An unknown column, a bad regular expression (MariaDB, MySQL), an unknown function; SQLITE_ERROR.
    """
    # Before Python 3.11 an error of SQLite has no code, only its text.
    is_sqlite_error = getattr(error.__cause__, "sqlite_errorcode", None) == 1
    is_sqlite_error = is_sqlite_error or str(error).startswith(("no such ", "near ", "misuse of "))
    return is_sqlite_error or _code(error) in (1054, 1139, 1305, *range(3685, 3700))


def _code(error: OperationalError) -> object:
    return error.args[0] if error.args else None


def fixed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification with now as the time that its durations count from, and today's versions.

    So an audience stays what it was when its broadcast began, and is not worked out at each claim.
    """
    if spec.get("kind") != FILTERS:
        return dict(spec)
    return {**spec, "fixed": _fixed_moment(cleaned(spec.get("filters")))}


def _fixed_moment(filters: Mapping[str, Any]) -> dict[str, Any]:
    with readable():
        return fixed_moment(filters, _sendable())


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
    with readable():
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
    return rows._fields is not None  # type: ignore[attr-defined]  # Django says it nowhere else


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


def _check_aliases(aliases: Iterable[str]) -> None:
    for alias in aliases:
        if alias not in push_settings.backends:
            known = _listed(push_settings.backends)
            raise InvalidAudience(f"backend: {cut(alias)!r} is not in PUSH_BACKENDS (there: {known}).")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names)) or "none"
