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
from django.db.models import Q, QuerySet

from django_push.exceptions import AmbiguousBackend
from django_push.handler import push_backends
from django_push.message import Condition, Topic
from django_push.models import (
    AbstractPushToken,
    TokenStatus,
    database_now,
    digest,
    get_token_model,
)
from django_push.outcomes import Outcome, Target, TargetKind, Ticket

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

    ``tickets`` are the verdicts on items that are no recipients at all.
    """

    alias: str
    targets: list[Target] = field(default_factory=list)
    sent_at: datetime | None = None
    tickets: list[Ticket] = field(default_factory=list)


class _Row(NamedTuple):
    """A token as it is read for sending."""

    pk: int
    backend: str
    token: str
    kind: str
    project: str
    locale: str
    status: str
    enabled: bool


_COLUMNS = ("pk", *_Row._fields[1:])


def pages(to: Any, using: str | None, skipped: Counter[str]) -> Iterator[Page]:
    """Yield the sendable tokens of ``to`` in pages of one alias each, each token once.

    ``using`` narrows to one alias and names that of raw strings. What is not sent to is counted in
    ``skipped``. Raises TypeError at once for something that is no recipient, AmbiguousBackend for a
    string whose alias cannot be inferred.
    """
    return _Reader(using, skipped).read(to)


class _Reader:
    def __init__(self, using: str | None, skipped: Counter[str]) -> None:
        self.using = using
        self.skipped = skipped
        self.model = get_token_model()
        self.user_model = get_user_model()
        self.database = router.db_for_write(self.model)
        self.configured = frozenset(push_backends)
        self.unknown: set[str] = set()
        #: 8-byte digests of what was seen, where the source may say the same twice.
        self.seen: set[bytes] = set()

    def read(self, to: Any) -> Iterator[Page]:
        if isinstance(to, models.Manager):
            to = to.all()
        if isinstance(to, QuerySet):
            return self._read_queryset(to)
        if isinstance(to, str):
            self._alias_of(to)  # a single string that is ambiguous is a mistake to hear of at once
            return self._read_items([to])
        if isinstance(to, (Topic, Condition)):
            self._alias_for(to)
            return self._read_items([to])
        if isinstance(to, (AbstractPushToken, self.user_model)):
            return self._read_items([to])
        if isinstance(to, Iterable) and not isinstance(to, (bytes, bytearray, Mapping)):
            return self._read_items(to)
        raise TypeError(
            f"Cannot push to {type(to).__name__}: give a user, a token, a string, a Topic or "
            "Condition, or an iterable or queryset of these."
        )

    # --- querysets --------------------------------------------------------------------------------

    def _read_queryset(self, rows: QuerySet[Any]) -> Iterator[Page]:
        model = rows.model._meta.concrete_model
        if issubclass(model, self.user_model):
            keys: Any = rows.values("pk")
            if _is_closed(rows):  # MySQL takes no LIMIT in a subquery
                keys = list(rows.values_list("pk", flat=True))
                return self._read_keys("user_id", keys)
            return self._read_rows(self._rows().filter(user_id__in=keys.order_by()))
        if not issubclass(model, AbstractPushToken):
            raise TypeError(f"Cannot push to a queryset of {model.__name__}.")
        if _is_closed(rows):
            return self._read_keys("pk", rows.values_list("pk", flat=True))
        return self._read_rows(rows)

    def _read_keys(self, column: str, keys: Iterable[int]) -> Iterator[Page]:
        """Read a set of keys that was fixed beforehand, in slices."""
        unique = array("q", sorted(set(keys))) if column == "pk" else sorted(set(keys))
        for start in range(0, len(unique), CHUNK):
            part = list(unique[start : start + CHUNK])
            yield from self._read_rows(self._rows().filter(**{f"{column}__in": part}))

    def _read_rows(self, rows: QuerySet[Any]) -> Iterator[Page]:
        """Read rows by the literal key of the last, as tuples."""
        if self.using is not None:
            rows = rows.filter(backend=self.using)
        rows, last = rows.order_by("pk"), None
        while True:
            sent_at = database_now(self.database)
            page = rows if last is None else rows.filter(pk__gt=last)
            found = list(page.values_list(*_COLUMNS)[:PAGE])
            yield from self._paged(map(_Row._make, found), sent_at)
            if len(found) < PAGE:
                return
            last = found[-1][0]

    def _paged(self, rows: Iterable[_Row], sent_at: datetime) -> Iterator[Page]:
        by_alias: dict[str, Page] = {}
        previous = None
        for row in rows:
            if row.pk == previous or not self._is_sendable(row):  # a join repeats a row
                continue
            previous = row.pk
            page = by_alias.get(row.backend)
            if page is None:
                page = by_alias[row.backend] = Page(row.backend, sent_at=sent_at)
            page.targets.append(Target(row.token, row.pk, row.kind, row.project, row.locale))
        yield from by_alias.values()

    def _is_sendable(self, row: _Row) -> bool:
        if row.status != TokenStatus.ACTIVE:
            self.skipped["inactive"] += 1
        elif not row.enabled:
            self.skipped["disabled"] += 1
        elif row.backend not in self.configured:
            self.skipped["unknown_backend"] += 1
            if row.backend not in self.unknown:
                self.unknown.add(row.backend)
                logger.warning("tokens of %r skipped: not in PUSH_BACKENDS", row.backend)
        else:
            return True
        return False

    def _rows(self) -> QuerySet[Any]:
        return self.model._base_manager.using(self.database).all()

    # --- iterables --------------------------------------------------------------------------------

    def _read_items(self, items: Iterable[Any]) -> Iterator[Page]:
        iterator = iter(items)
        while chunk := list(islice(iterator, CHUNK)):
            yield from self._read_chunk(chunk)

    def _read_chunk(self, chunk: Sequence[Any]) -> Iterator[Page]:
        sent_at = database_now(self.database)
        pages: dict[str, Page] = {}
        strings: list[tuple[str, str]] = []
        users: list[Any] = []
        keys: list[int] = []
        for item in chunk:
            if isinstance(item, AbstractPushToken) and item.pk is None:
                strings.append((item.backend, item.token))
            elif isinstance(item, AbstractPushToken):
                keys.append(item.pk)
            elif isinstance(item, self.user_model):
                users.append(item.pk)
            elif isinstance(item, (Topic, Condition, str)):
                self._place(item, pages, strings)
            else:
                _page(pages, "").tickets.append(_no_recipient(item))
        if users or keys:
            found = self._rows().filter(Q(user_id__in=users) | Q(pk__in=keys)).order_by("pk")
            self._add_rows(found, pages)
        if strings:
            self._add_strings(strings, pages)
        for page in pages.values():
            page.sent_at = sent_at
            yield page

    def _place(self, item: Any, pages: dict[str, Page], strings: list[tuple[str, str]]) -> None:
        """Put a string or topic where it belongs; one of an iterable never raises."""
        try:
            if isinstance(item, str):
                strings.append((self._alias_of(item), item))
                return
            alias = self._alias_for(item)
        except AmbiguousBackend as error:
            value = item if isinstance(item, str) else _target(item).value
            ticket = Ticket(
                target=Target(value),
                outcome=Outcome.REJECTED,
                code="AmbiguousBackend",
                detail=str(error),
            )
            _page(pages, "").tickets.append(ticket)
            return
        if self._is_new(alias, _target(item).value):
            _page(pages, alias).targets.append(_target(item))

    def _add_rows(self, rows: QuerySet[Any], pages: dict[str, Page]) -> None:
        for row in map(_Row._make, rows.values_list(*_COLUMNS)):
            if self.using is not None and row.backend != self.using:
                self.skipped["other_backend"] += 1
            elif self._is_new(row.backend, row.token) and self._is_sendable(row):
                target = Target(row.token, row.pk, row.kind, row.project, row.locale)
                _page(pages, row.backend).targets.append(target)

    def _add_strings(self, strings: Sequence[tuple[str, str]], pages: dict[str, Page]) -> None:
        """Add raw tokens; one that has a row is that row, and its state counts."""
        rows = self._rows().filter(
            backend__in={alias for alias, _ in strings},
            token_digest__in={digest(token) for _, token in strings},
        )
        known = {(r.backend, r.token): r for r in map(_Row._make, rows.values_list(*_COLUMNS))}
        for alias, token in strings:
            if not self._is_new(alias, token):
                continue
            row = known.get((alias, token))
            if row is None and alias in self.configured:
                _page(pages, alias).targets.append(Target(token))
            elif row is None:
                self.skipped["unknown_backend"] += 1
            elif self._is_sendable(row):
                target = Target(token, row.pk, row.kind, row.project, row.locale)
                _page(pages, alias).targets.append(target)

    def _is_new(self, alias: str, value: str) -> bool:
        key = hashlib.blake2b(f"{alias}\0{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if key in self.seen:
            self.skipped["duplicate"] += 1
            return False
        self.seen.add(key)
        return True

    def _alias_of(self, token: str) -> str:
        return self.using if self.using is not None else push_backends.infer(token)

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


def _page(pages: dict[str, Page], alias: str) -> Page:
    return pages.setdefault(alias, Page(alias))


def _target(recipient: Topic | Condition) -> Target:
    if isinstance(recipient, Topic):
        return Target(recipient.name, kind=TargetKind.TOPIC)
    return Target(recipient.expression, kind=TargetKind.CONDITION)


def _no_recipient(item: object) -> Ticket:
    return Ticket(
        target=Target(""),
        outcome=Outcome.INVALID_TOKEN,
        code="NotARecipient",
        detail=f"{type(item).__name__} is no user, token, string, Topic or Condition",
    )


def _is_closed(rows: QuerySet[Any]) -> bool:
    """Whether the queryset can no longer be filtered."""
    query = rows.query
    return query.is_sliced or bool(query.combinator) or bool(query.distinct_fields)
