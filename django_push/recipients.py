"""Who gets it: users, tokens, strings, querysets and iterables of these, as a stream of tokens.

The stream is cut into pages, so memory does not grow with the audience and queries grow with pages.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from django.contrib.auth import get_user_model
from django.db import models, router
from django.db.models import ExpressionWrapper, F, Q, QuerySet
from django.db.models.manager import BaseManager

from django_push.exceptions import AmbiguousBackend
from django_push.handler import push_backends
from django_push.message import Condition, Topic
from django_push.models import TokenStatus, database_now, digest, get_token_model
from django_push.outcomes import Outcome, Target, TargetKind, Ticket, mask

logger = logging.getLogger("django_push")

#: How many tokens are read at once.
PAGE = 2000
#: How many items of an iterable are looked up at once.
CHUNK = 1000

#: One recipient: a user, a token's row, a raw token, a topic or a condition.
Recipient: TypeAlias = "models.Model | str | Topic | Condition"
#: What ``to`` may be.
Recipients: TypeAlias = "Recipient | models.Manager[Any] | Iterable[Recipient]"


@dataclass(slots=True)
class Page:
    """Some tokens of one alias, read at ``sent_at`` by the database's clock.

    ``tickets`` are the verdicts on items that are no recipients at all; those have no alias.
    """

    alias: str
    targets: list[Target] = field(default_factory=list)
    sent_at: datetime | None = None
    tickets: list[Ticket] = field(default_factory=list)


class _Row(NamedTuple):
    """A token as it is read for sending. ``pk`` is None for one without a row."""

    pk: int | None
    backend: str
    token: str
    kind: str = TargetKind.TOKEN
    project: str = ""
    locale: str = ""
    user_id: Any = None
    status: str = TokenStatus.ACTIVE
    enabled: bool | int = True

    def __repr__(self) -> str:
        return f"<_Row {self.pk} {self.backend} {mask(self.token)}>"

    @property
    def target(self) -> Target:
        return Target(self.token, self.pk, self.kind, self.project, self.locale, self.user_id)


#: ``enabled`` is read as the database has it: making a bool of it costs as much as reading the row.
_COLUMNS = (*_Row._fields[:-1], ExpressionWrapper(F("enabled"), models.Field()))


def pages(to: Any, using: str | None, skipped: Counter[str]) -> Iterator[Page]:
    """Yield the sendable tokens of ``to`` in pages of one alias each, each token once.

    ``using`` narrows to one alias and names that of raw strings. What is not sent to is counted in
    ``skipped``. Raises TypeError at once for something that is no recipient, AmbiguousBackend for a
    single string or topic whose alias cannot be inferred.
    """
    return _Reader(using, skipped).read(to)


class _Reader:
    def __init__(self, using: str | None, skipped: Counter[str]) -> None:
        self.using = using
        self.skipped = skipped
        self.model = get_token_model()._meta.concrete_model or get_token_model()
        self.user_model = get_user_model()
        self.database = router.db_for_write(self.model)
        self.configured = frozenset(push_backends)
        self.unknown: set[str] = set()
        self.seen = _Seen()

    def read(self, to: Any) -> Iterator[Page]:
        if isinstance(to, BaseManager):
            to = to.all()
        if isinstance(to, QuerySet):
            return self._read_queryset(to)
        if isinstance(to, (str, Topic, Condition)):
            self._check_alias(to)  # what is ambiguous by itself is a mistake to hear of at once
            return self._read_items(iter([to]))
        if isinstance(to, (self.model, self.user_model)):
            return self._read_items(iter([to]))
        try:
            if isinstance(to, (bytes, bytearray, memoryview, Mapping)):
                raise TypeError
            return self._read_items(iter(to))
        except TypeError:  # a lazy AnonymousUser says only here that it is not iterable
            raise TypeError(
                f"Cannot push to {to.__class__.__name__}: give a user, a token, a string, a Topic or "
                "Condition, or an iterable or queryset of these."
            ) from None

    # --- querysets --------------------------------------------------------------------------------

    def _read_queryset(self, rows: QuerySet[Any]) -> Iterator[Page]:
        model = rows.model._meta.concrete_model
        if isinstance(rows.query.group_by, tuple):
            raise TypeError("Cannot push to values() with an aggregate: its rows are no tokens.")
        if issubclass(model, self.user_model):
            return self._read_users(rows)
        if not issubclass(model, self.model):
            raise TypeError(f"Cannot push to a queryset of {model.__name__}.")
        if _chosen_database(rows) is None:
            rows = rows.using(self.database)
        if _is_closed(rows):
            return self._read_keys("pk", rows.values_list("pk", flat=True))
        return self._read_rows(rows)

    def _read_users(self, users: QuerySet[Any]) -> Iterator[Page]:
        home = _chosen_database(users) or router.db_for_write(users.model)
        if _is_closed(users) or home != self.database:  # MySQL takes no LIMIT in a subquery
            return self._read_keys("user_id", users.values_list("pk", flat=True))
        return self._read_rows(self._rows().filter(user_id__in=users.order_by().values("pk")))

    def _read_keys(self, column: str, keys: Iterable[Any]) -> Iterator[Page]:
        """Read a set of keys that was fixed beforehand, in slices."""
        unique: Sequence[Any] = list(dict.fromkeys(keys))
        if column == "pk":
            unique = array("q", unique)
        for start in range(0, len(unique), CHUNK):
            part = list(unique[start : start + CHUNK])
            yield from self._read_rows(self._rows().filter(**{f"{column}__in": part}))

    def _read_rows(self, rows: QuerySet[Any]) -> Iterator[Page]:
        """Read rows by the literal key of the last, as tuples."""
        if self.using is not None:
            rows = rows.filter(backend=self.using)
        rows, last = rows.order_by("pk"), None
        rows.query.standard_ordering = True  # whatever reverse() has been called on
        while True:
            sent_at = database_now(self.database)
            page = rows if last is None else rows.filter(pk__gt=last)
            found = list(page.values_list(*_COLUMNS)[:PAGE])
            yield from self._paged(found, sent_at)
            if len(found) < PAGE:
                return
            if last is None:
                rows = self._only_active(rows, found[-1][0])
            last = found[-1][0]

    def _only_active(self, rows: QuerySet[Any], last: int) -> QuerySet[Any]:
        """Narrow a large audience to what its index holds in order; count the others at once.

        With an alias but no status a database may sort all of the alias's rows for every page.
        """
        others = rows.exclude(status=TokenStatus.ACTIVE).filter(pk__gt=last)
        if count := others.order_by().values("pk").distinct().count():
            self.skipped["inactive"] += count
        return rows.filter(status=TokenStatus.ACTIVE)

    def _paged(self, rows: Iterable[tuple[Any, ...]], sent_at: datetime) -> Iterator[Page]:
        pages: dict[str, Page] = {}
        previous = None
        for pk, backend, token, kind, project, locale, user_id, status, enabled in rows:
            if pk == previous:  # a join repeats a row
                continue
            previous = pk
            if self._is_sendable(backend, status, enabled):
                page = pages.get(backend) or _page(pages, backend)
                page.targets.append(Target(token, pk, kind, project, locale, user_id))
        for page in pages.values():
            page.sent_at = sent_at
            yield page

    def _is_sendable(self, backend: str, status: str, enabled: bool | int) -> bool:
        if status == "active" and enabled and backend in self.configured:
            return True
        if status != "active":
            self.skipped["inactive"] += 1
        elif not enabled:
            self.skipped["disabled"] += 1
        else:
            self.skipped["unknown_backend"] += 1
            if backend not in self.unknown:
                self.unknown.add(backend)
                logger.warning("tokens of %r skipped: not in PUSH_BACKENDS", backend)
        return False

    def _rows(self) -> QuerySet[Any]:
        return self.model._base_manager.using(self.database).all()

    # --- iterables --------------------------------------------------------------------------------

    def _read_items(self, items: Iterator[Any]) -> Iterator[Page]:
        while chunk := list(islice(items, CHUNK)):
            yield from self._read_chunk(chunk)

    def _read_chunk(self, chunk: Sequence[Any]) -> Iterator[Page]:
        sent_at = database_now(self.database)
        pages: dict[str, Page] = {}
        named: list[_Row] = []
        users: Counter[Any] = Counter()
        keys: Counter[int] = Counter()
        for item in chunk:
            if isinstance(item, self.model):
                self._place_row(item, named, keys)
            elif isinstance(item, self.user_model):
                users[item.pk] += 1
            elif isinstance(item, (Topic, Condition, str)):
                self._place(item, pages, named)
            else:
                _page(pages, "").tickets.append(_no_recipient(item))
        if users or keys:
            self._add_rows(users, keys, pages)
        if named:
            self._add_named(named, pages)
        for page in pages.values():
            page.sent_at = sent_at
            yield page

    def _place_row(self, row: Any, named: list[_Row], keys: Counter[int]) -> None:
        """A row is found by its key, or by its token if it is unsaved or of another database."""
        if row.pk is not None and row._state.db in (None, self.database):
            keys[row.pk] += 1
        elif row.pk is None and not row._state.adding:
            self.skipped["deleted"] += 1
        elif self.using is not None and row.backend != self.using:
            self.skipped["other_backend"] += 1
        else:
            named.append(_Row(None, *(getattr(row, name) for name in _Row._fields[1:])))

    def _place(self, item: str | Topic | Condition, pages: dict[str, Page], named: list[_Row]) -> None:
        """Put a string or topic where it belongs; one of an iterable never raises."""
        try:
            alias = self._alias_of(item) if isinstance(item, str) else self._alias_for(item)
        except AmbiguousBackend as error:
            value = item if isinstance(item, str) else _target(item).value
            is_unknown = isinstance(item, str) and not _accepting(item)
            ticket = Ticket(
                target=Target(value),
                outcome=Outcome.INVALID_TOKEN if is_unknown else Outcome.REJECTED,
                code="Malformed" if is_unknown else "AmbiguousBackend",
                detail=str(error),
            )
            _page(pages, "").tickets.append(ticket)
            return
        if isinstance(item, str):
            named.append(_Row(None, alias, item))
        elif self._is_new(f"{alias}:{_target(item).kind}", _target(item).value):
            _page(pages, alias).targets.append(_target(item))

    def _add_rows(self, users: Counter[Any], keys: Counter[int], pages: dict[str, Page]) -> None:
        """Add the rows of users, and those named by their keys."""
        who = Q(user_id__in=list(users)) | Q(pk__in=list(keys))
        rows = self._rows().filter(who).order_by("pk").values_list(*_COLUMNS, "user_id")
        missing = set(keys)
        for *columns, user in rows:
            row = _Row(*columns)
            missing.discard(row.pk or 0)
            times = keys[row.pk or 0] + (users[user] if user is not None else 0)
            if self.using is not None and row.backend != self.using:
                self._skip("other_backend", times)
                continue
            self._skip("duplicate", times - 1)
            self._add(row, pages)
        self._skip("deleted", sum(keys[pk] for pk in missing))

    def _add_named(self, named: Sequence[_Row], pages: dict[str, Page]) -> None:
        """Add tokens named by themselves; one that has a row is that row, and its state counts."""
        rows = self._rows().filter(
            backend__in={row.backend for row in named},
            token_digest__in={digest(row.token) for row in named},
        )
        known = {(row.backend, row.token): row for row in map(_Row._make, rows.values_list(*_COLUMNS))}
        for row in named:
            self._add(known.get((row.backend, row.token), row), pages)

    def _add(self, row: _Row, pages: dict[str, Page]) -> None:
        if self._is_new(row.backend, row.token) and self._is_sendable(row.backend, row.status, row.enabled):
            _page(pages, row.backend).targets.append(row.target)

    def _skip(self, reason: str, times: int) -> None:
        if times:
            self.skipped[reason] += times

    def _is_new(self, alias: str, value: str) -> bool:
        if self.seen.add(f"{alias}\0{value}"):
            return True
        self.skipped["duplicate"] += 1
        return False

    # --- the alias of what does not name it -------------------------------------------------------

    def _check_alias(self, to: str | Topic | Condition) -> None:
        if not isinstance(to, str):
            self._alias_for(to)
        elif _accepting(to):
            self._alias_of(to)

    def _alias_of(self, token: str) -> str:
        """Return the alias of a raw token: the one given, the only one, or the one of its form."""
        if self.using is not None:
            return self.using
        return next(iter(self.configured)) if len(self.configured) == 1 else push_backends.infer(token)

    def _alias_for(self, recipient: Topic | Condition) -> str:
        """Return the alias for a topic: the one given, or the only one that has topics."""
        if self.using is not None:
            return self.using
        kind = _target(recipient).kind
        fitting = [alias for alias in push_backends if kind in push_backends[alias].kinds]
        if len(fitting) != 1:
            names = ", ".join(map(repr, fitting)) or "none"
            raise AmbiguousBackend(f"Name the backend of a {kind}; those that have it: {names}.")
        return fitting[0]


class _Seen:
    """What was seen, as 8-byte digests: 20 bytes each, where a set of them takes 90."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, text: str) -> bool:
        """Keep the text's digest; whether it is new."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        bucket, rest = self._buckets.setdefault(key[:2], bytearray()), key[2:]
        at = bucket.find(rest)
        while at % len(rest) and at > 0:  # found across the border of two digests
            at = bucket.find(rest, at + 1)
        if at >= 0:
            return False
        bucket += rest
        return True


def _page(pages: dict[str, Page], alias: str) -> Page:
    page = pages.get(alias)
    if page is None:
        page = pages[alias] = Page(alias)
    return page


def _accepting(token: str) -> list[str]:
    return [alias for alias in push_backends if push_backends[alias].accepts(token)]


def _target(recipient: Topic | Condition) -> Target:
    if isinstance(recipient, Topic):
        return Target(recipient.name, kind=TargetKind.TOPIC)
    return Target(recipient.expression, kind=TargetKind.CONDITION)


def _no_recipient(item: object) -> Ticket:
    return Ticket(
        target=Target(""),
        outcome=Outcome.INVALID_TOKEN,
        code="NotARecipient",
        detail=f"{item.__class__.__name__} is no user, token, string, Topic or Condition",
    )


def _chosen_database(rows: QuerySet[Any]) -> str | None:
    """Return what ``using()`` has named, or None: ``db`` would ask the router."""
    chosen: str | None = rows._db  # type: ignore[attr-defined]
    return chosen


def _is_closed(rows: QuerySet[Any]) -> bool:
    """Whether the queryset can no longer be filtered."""
    query = rows.query
    return query.is_sliced or bool(query.combinator) or bool(query.distinct_fields)
