"""The one owner of token state: every change of a PushToken is a verb in this module.

Each write is a guarded bulk UPDATE that names its columns and its precondition, so repeating it
changes nothing and signals nothing. Rows are found without locks, then locked in the order of their
primary keys, then checked again and written: two processes that meet wait for each other, in order.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from django.db import IntegrityError, OperationalError, connections, router, transaction
from django.db.models import Q, QuerySet
from django.dispatch import Signal
from django.utils import timezone as clock

from django_push import signals
from django_push.backends.base import MAX_TOKEN_LENGTH
from django_push.exceptions import InvalidToken
from django_push.handler import push_backends
from django_push.models import (
    DatabaseNow,
    PushToken,
    TokenSource,
    TokenStatus,
    digest,
    get_token_model,
)
from django_push.outcomes import Outcome, TargetKind, Ticket, TokenChanges

logger = logging.getLogger("django_push")
T = TypeVar("T")

#: How many rows one statement changes at most.
PAGE = 1000
#: How often a transaction that lost a race (a deadlock, a row inserted meanwhile) is run again.
ATTEMPTS = 6
#: The longest walk along ``replaced_by``; a longer chain is taken for a circle.
MAX_CHAIN = 20

_DEATHS = {
    Outcome.UNREGISTERED: TokenStatus.UNREGISTERED,
    Outcome.INVALID_TOKEN: TokenStatus.INVALID,
}
#: The device facts that a registration may bring, with the most characters of each.
_FACTS = {
    "platform": 16,
    "device_id": 255,
    "device_name": 255,
    "app_version": 64,
    "locale": 35,
    "timezone": 64,
}


# --- registration -----------------------------------------------------------------------------------


def register_token(
    token: str,
    *,
    user: Any = None,
    backend: str | None = None,
    kind: str = TargetKind.TOKEN,
    device_id: str | None = None,
    platform: str | None = None,
    device_name: str | None = None,
    app_version: str | None = None,
    locale: str | None = None,
    timezone: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[PushToken, bool]:
    """Register what the app reports, and return its row and whether the row is new.

    Repeat it as often as the app likes. The row is active afterwards, whatever it was, and belongs
    to ``user``: the last login owns the phone. Without a user, an active row keeps its owner and a
    logged-out one has none. The same ``device_id`` with another token, from the same user or on an
    unclaimed row, is a rotation and keeps the row. Facts that are None stay as they are.

    Raises InvalidToken for a token or fact of a wrong form, AmbiguousBackend if no alias is given and
    not exactly one accepts the token's form, InvalidPushBackend for an unknown alias.
    """
    _check_form(token)
    alias = backend if backend is not None else push_backends.infer(token)
    if not push_backends[alias].accepts(token):
        raise InvalidToken(f"Not a token of the backend {alias!r}.")
    if kind not in (TargetKind.TOKEN, TargetKind.FID) or kind not in push_backends[alias].kinds:
        raise InvalidToken(f"The backend {alias!r} has no tokens of the kind {kind!r}.")
    if user is not None and getattr(user, "pk", None) is None:
        raise InvalidToken("user must be a saved user, or None.")
    given = {
        "device_id": device_id,
        "platform": platform,
        "device_name": device_name,
        "app_version": app_version,
        "locale": locale,
        "timezone": timezone,
    }
    facts: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in facts.items():
        _check_fact(name, value)
    if metadata is not None:
        facts["metadata"] = dict(metadata)
    registration = _Registration(
        token=token, alias=alias, kind=kind, user_id=getattr(user, "pk", None), facts=facts
    )
    model, using = _where()
    pk, created = _in_transaction(using, registration.prepare, registration.write)
    return model._base_manager.using(using).get(pk=pk), created


def unregister_token(token: str, *, user: Any = None, backend: str | None = None) -> int:
    """Retire a token at logout, in any alias unless one is given; return how many rows it changed.

    With ``user``, only a row of that user. Never an error for an unknown token.
    """
    if not isinstance(token, str):
        return 0
    rows = _rows().filter(token_digest=digest(token))
    if backend is not None:
        rows = rows.filter(backend=backend)
    if user is not None:
        rows = rows.filter(user_id=user.pk)
    return deactivate(rows, code="logout", source=TokenSource.REGISTRATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    """One registration, tried until no other process has come between its reading and its writing."""

    token: str
    alias: str
    kind: str
    user_id: Any
    facts: Mapping[str, Any]

    def prepare(self) -> list[int]:
        """Find the rows that it concerns, without locks."""
        mine = Q(token_digest=digest(self.token))
        if device_id := self.facts.get("device_id"):
            owners = Q(user=None) | Q(user_id=self.user_id) if self.user_id else Q(user=None)
            mine |= Q(device_id=device_id) & owners & ~Q(status=TokenStatus.REPLACED)
        return list(_rows().filter(mine, backend=self.alias).values_list("pk", flat=True))

    def write(self, pks: list[int]) -> tuple[int, bool]:
        """Lock those rows, look again, and write."""
        locked = _lock(pks)
        own = next((row for row in locked if self._is_own(row)), None)
        others = [row for row in locked if row is not own and self._is_same_device(row)]
        row = own or max(others, key=lambda other: other.registered_at, default=None)
        if row is None:
            return self._insert(), True
        self._supersede([other for other in others if other is not row], row)
        self._update(row)
        return row.pk, False

    def _is_own(self, row: PushToken) -> bool:
        return row.token == self.token and row.backend == self.alias

    def _is_same_device(self, row: PushToken) -> bool:
        # Compared here once more: a database may find "A" when asked for "a".
        device_id = self.facts.get("device_id")
        is_free = row.user_id is None or row.user_id == self.user_id
        return bool(device_id) and row.device_id == device_id and is_free

    def _insert(self) -> int:
        model, using = _where()
        row = model(
            token=self.token,
            backend=self.alias,
            kind=self.kind,
            user_id=self.user_id,
            status_source=TokenSource.REGISTRATION,
            last_seen_at=clock.now(),
            **self.facts,
        )
        row.save(force_insert=True, using=using)
        _announce(signals.token_registered, [row.pk], created=True)
        return row.pk

    def _update(self, row: PushToken) -> None:
        was_active = row.status == TokenStatus.ACTIVE
        changes: dict[str, Any] = {
            **self.facts,
            "kind": self.kind,
            "registered_at": DatabaseNow(),
            "last_seen_at": clock.now(),
            "replaced_by": None,
        }
        if not was_active:
            changes |= _status(TokenStatus.ACTIVE, "", TokenSource.REGISTRATION)
        if self.user_id is not None or not was_active:
            changes["user_id"] = self.user_id
        if row.token != self.token:
            changes |= {"token": self.token, "token_digest": digest(self.token), "project": ""}
        _write(Q(pk=row.pk), changes)
        self._announce(row, was_active=was_active)

    def _announce(self, row: PushToken, *, was_active: bool) -> None:
        _announce(signals.token_registered, [row.pk], created=False)
        if self.user_id is not None and row.user_id not in (None, self.user_id):
            previous = row.user_id
            _announce(signals.token_transferred, [row.pk], previous_user_id=previous)
        if row.token != self.token:
            _announce(signals.token_replaced, [row.pk], previous_token=row.token, replaced_id=None)
        if not was_active:
            _announce(signals.token_reactivated, [row.pk], source=str(TokenSource.REGISTRATION))

    def _supersede(self, others: Sequence[PushToken], row: PushToken) -> None:
        """Put aside the device's other rows: the install has one token."""
        for other in others:
            if other.status == TokenStatus.ACTIVE:
                _put_aside(other, row.pk, "rotated", TokenSource.REGISTRATION)
                _announce(
                    signals.token_replaced,
                    [row.pk],
                    previous_token=other.token,
                    replaced_id=other.pk,
                )


# --- verdicts ---------------------------------------------------------------------------------------


def apply(tickets: Iterable[Ticket], sent_at: datetime, *, source: str = TokenSource.TICKET) -> TokenChanges:
    """Bring token rows in line with what providers said, and return what really changed.

    Only UNREGISTERED and INVALID_TOKEN deactivate; a canonical id replaces; a project is learned.
    A verdict counts only for a row that is active, was registered before ``sent_at`` (by the
    database's clock; equal is not before) and still has the token that was sent to.
    """
    about = [t for t in tickets if t.pk is not None and (t.outcome.is_dead or _teaches(t))]
    changes = TokenChanges()
    for start in range(0, len(about), PAGE):
        verdicts = _Verdicts(about[start : start + PAGE], sent_at, source)
        changes += _in_transaction(_where()[1], verdicts.prepare, verdicts.write)
    return changes


def _teaches(ticket: Ticket) -> bool:
    return bool(ticket.replacement or ticket.project)


class _Verdicts:
    """The verdicts of one page, written in one transaction."""

    def __init__(self, tickets: Sequence[Ticket], sent_at: datetime, source: str) -> None:
        self.sent_at = sent_at
        self.source = source
        self.dead = [ticket for ticket in tickets if ticket.outcome.is_dead]
        self.replaced = _canonical([t for t in tickets if t.replacement and not t.outcome.is_dead])
        self.learned = [ticket for ticket in tickets if ticket.project]

    def prepare(self) -> list[int]:
        """Find the rows that hold the new tokens already, without locks."""
        pks = {ticket.pk for ticket in (*self.dead, *self.learned)}
        pks |= {ticket.pk for ticket, _ in self.replaced}
        for alias in {ticket.backend for ticket, _ in self.replaced}:
            digests = [digest(new) for ticket, new in self.replaced if ticket.backend == alias]
            rows = _rows().filter(backend=alias, token_digest__in=digests)
            pks.update(rows.values_list("pk", flat=True))
        return sorted(pk for pk in pks if pk is not None)

    def write(self, pks: list[int]) -> TokenChanges:
        rows = {row.pk: row for row in _lock(pks)}
        deactivated = self._deactivate(rows)
        self._learn(rows)
        replaced = self._replace(rows) if self.replaced else 0
        return TokenChanges(deactivated, replaced)

    def _holds(self, row: PushToken | None, ticket: Ticket) -> bool:
        """Whether the verdict is about this row as it is: the guard of time and identity."""
        return (
            row is not None
            and row.status == TokenStatus.ACTIVE
            and row.registered_at < self.sent_at
            and ticket.target.value in ("", row.token)  # a receipt knows the row, not the token
        )

    def _deactivate(self, rows: Mapping[int, PushToken]) -> int:
        groups: dict[tuple[TokenStatus, str], list[int]] = {}
        for ticket in self.dead:
            row = rows.get(ticket.pk or 0)
            if self._holds(row, ticket):
                groups.setdefault((_DEATHS[ticket.outcome], ticket.code), []).append(ticket.pk or 0)
        guard = Q(status=TokenStatus.ACTIVE, registered_at__lt=self.sent_at)
        count = 0
        for (status, code), pks in groups.items():
            count += _write(guard & Q(pk__in=pks), _status(status, code, self.source))
            for pk in pks:
                rows[pk].status = status
                logger.info("push token %s is %s (%s, %s)", pk, status, code, self.source)
            _announce(signals.token_deactivated, pks, status=str(status), code=code, source=self.source)
        return count

    def _learn(self, rows: Mapping[int, PushToken]) -> None:
        projects: dict[str, list[int]] = {}
        for ticket in self.learned:
            row = rows.get(ticket.pk or 0)
            if row is not None and row.token == ticket.token and row.project != ticket.project:
                projects.setdefault(ticket.project, []).append(row.pk)
        for project, pks in projects.items():
            _write(Q(pk__in=pks), {"project": project})

    def _replace(self, rows: Mapping[int, PushToken]) -> int:
        by_token = {(row.backend, row.token): row for row in rows.values()}
        count = 0
        for ticket, new in self.replaced:
            old = rows.get(ticket.pk or 0)
            if old is None or not self._holds(old, ticket):
                continue
            holder = by_token.get((old.backend, new))
            if holder is None:
                _rename(old, new)
                by_token[old.backend, new] = old
                _announce(
                    signals.token_replaced,
                    [old.pk],
                    previous_token=ticket.token,
                    replaced_id=None,
                )
            elif not _merge(old, holder, self.source):
                continue
            count += 1
        return count


def _canonical(tickets: Sequence[Ticket]) -> list[tuple[Ticket, str]]:
    """Pair each ticket with the last id of its chain within these answers; circles are left out."""
    following = {(t.backend, t.token): t.replacement for t in tickets}
    pairs = []
    for ticket in tickets:
        new, seen = ticket.replacement, {ticket.token}
        while new not in seen and (ticket.backend, new) in following:
            seen.add(new)
            new = following[ticket.backend, new]
        if new not in seen:
            pairs.append((ticket, new))
    return pairs


def _rename(row: PushToken, new: str) -> None:
    """Give the row its new token."""
    changes = {"token": new, "token_digest": digest(new), "registered_at": DatabaseNow()}
    _write(Q(pk=row.pk, status=TokenStatus.ACTIVE, token_digest=digest(row.token)), changes)
    row.token = new


def _merge(old: PushToken, holder: PushToken, source: str) -> bool:
    """Let the row that holds the new token stand in the old one's place; whether it did.

    The newer registration keeps its owner. A holder that was called dead is alive again, since the
    provider names it; one that was logged out stays so, unless the old row was registered later.
    """
    end = _end_of_chain(holder)
    if end is None or end.pk == old.pk:  # the holder itself was replaced by the old row: a circle
        return False
    if end.status == TokenStatus.ACTIVE:
        holder = end
    changes: dict[str, Any] = {}
    if old.registered_at > holder.registered_at:
        changes = {"user_id": old.user_id, "device_id": old.device_id, "enabled": old.enabled}
    if holder.status in (TokenStatus.UNREGISTERED, TokenStatus.INVALID, TokenStatus.REPLACED) or (
        holder.status == TokenStatus.RETIRED and changes
    ):
        changes |= _status(TokenStatus.ACTIVE, "", source)
        changes |= {"replaced_by": None}
        _announce(signals.token_reactivated, [holder.pk], source=source)
    if changes:
        _write(Q(pk=holder.pk), {**changes, "registered_at": DatabaseNow()})
        if changes.get("user_id", holder.user_id) != holder.user_id and holder.user_id is not None:
            previous = holder.user_id
            _announce(signals.token_transferred, [holder.pk], previous_user_id=previous)
        holder.user_id = changes.get("user_id", holder.user_id)
        holder.status = changes.get("status", holder.status)
        holder.registered_at = max(old.registered_at, holder.registered_at)
    pointer = holder.pk if holder.backend == old.backend else None
    _put_aside(old, pointer, "canonical", source)
    _announce(signals.token_replaced, [holder.pk], previous_token=old.token, replaced_id=old.pk)
    return True


def _end_of_chain(row: PushToken) -> PushToken | None:
    """Follow ``replaced_by`` to the row that is not replaced; None for a circle."""
    for _ in range(MAX_CHAIN):
        if row.status != TokenStatus.REPLACED or row.replaced_by_id is None:
            return row
        [row] = _lock([row.replaced_by_id]) or [row]
    return None


def _put_aside(row: PushToken, by: int | None, code: str, source: str) -> None:
    changes = _status(TokenStatus.REPLACED, code, source) | {"replaced_by_id": by}
    _write(Q(pk=row.pk, status=TokenStatus.ACTIVE), changes)
    row.status = TokenStatus.REPLACED
    row.replaced_by_id = by


# --- verbs of staff, users and clean-up -------------------------------------------------------------


def deactivate(
    rows: QuerySet[Any], *, code: str, source: str, status: TokenStatus = TokenStatus.RETIRED
) -> int:
    """Stop sending to these tokens until they register again; return how many were active."""
    pks = _change(rows, Q(status=TokenStatus.ACTIVE), lambda: _status(status, code, source))
    _announce(signals.token_deactivated, pks, status=str(status), code=code, source=source)
    return len(pks)


def reactivate(rows: QuerySet[Any], *, source: str) -> int:
    """Send to these tokens again; return how many were not active."""

    def changes() -> dict[str, Any]:
        return _status(TokenStatus.ACTIVE, "", source) | {"replaced_by": None}

    pks = _change(rows, ~Q(status=TokenStatus.ACTIVE), changes)
    _announce(signals.token_reactivated, pks, source=source)
    return len(pks)


def set_enabled(rows: QuerySet[Any], enabled: bool) -> int:
    """Write the user's wish to be told or not; return how many rows had the other."""
    return len(_change(rows, Q(enabled=not enabled), lambda: {"enabled": enabled}))


def replace(row: PushToken, new: str, *, source: str) -> bool:
    """Give the row a new token, merging it into the row that has that token; whether it changed."""
    if not push_backends[row.backend].accepts(new):
        raise InvalidToken(f"Not a token of the backend {row.backend!r}.")

    def prepare() -> list[int]:
        rows = _rows().filter(backend=row.backend, token_digest=digest(new))
        return [*rows.values_list("pk", flat=True), row.pk]

    def write(pks: list[int]) -> bool:
        rows = {found.pk: found for found in _lock(pks)}
        old = rows.get(row.pk)
        if old is None or old.token != row.token or old.status != TokenStatus.ACTIVE:
            return False
        holder = next((r for r in rows.values() if r.token == new), None)
        if holder is not None:
            return holder.pk != old.pk and _merge(old, holder, source)
        previous = old.token
        _rename(old, new)
        _announce(signals.token_replaced, [old.pk], previous_token=previous, replaced_id=None)
        return True

    return _in_transaction(_where()[1], prepare, write)


@dataclass(frozen=True, slots=True)
class Moved:
    """What an alias move did, or would do: rows moved, and rows merged into one that was there."""

    moved: int = 0
    merged: int = 0


def move(
    source: str,
    target: str,
    *,
    dry_run: bool = False,
    on_page: Callable[[int], object] = lambda rows: None,
) -> Moved:
    """Move the tokens of one alias to another that accepts the same tokens, as GCM's to FCM.

    A row whose token the target has already is merged into it by the rule of canonical ids.
    Committed page by page; run it again after a stop. ``on_page`` is told the rows done so far.
    Raises InvalidPushBackend for an unknown target; the source need not be configured any more.
    """
    push_backends.channel(target)
    moved = merged = 0
    for pks in _pages(_rows().filter(backend=source).exclude(status=TokenStatus.REPLACED)):
        prepare, write = partial(_with_twins, pks, target), partial(_move_page, target, dry_run)
        found = _in_transaction(_where()[1], prepare, write)
        moved, merged = moved + found.moved, merged + found.merged
        on_page(moved + merged)
    return Moved(moved, merged)


def _with_twins(pks: Sequence[int], target: str) -> tuple[list[int], list[int]]:
    """Return a page's rows, and the target's rows that have the same tokens."""
    digests = list(_rows().filter(pk__in=pks).values_list("token_digest", flat=True))
    twins = _rows().filter(backend=target, token_digest__in=digests)
    return list(pks), list(twins.values_list("pk", flat=True))


def _move_page(target: str, dry_run: bool, found: tuple[list[int], list[int]]) -> Moved:
    pks, twin_pks = found
    rows = _lock(sorted({*pks, *twin_pks}))
    twins = {row.token: row for row in rows if row.backend == target}
    old = [row for row in rows if row.pk in set(pks) and row.backend != target]
    free = [row.pk for row in old if row.token not in twins]
    taken = [row for row in old if row.token in twins]
    if not dry_run:
        _write(Q(pk__in=free), {"backend": target, "registered_at": DatabaseNow()})
        for row in taken:
            if row.status == TokenStatus.ACTIVE:
                _merge(row, twins[row.token], TokenSource.COMMAND)
            else:
                _write(Q(pk=row.pk), _status(TokenStatus.REPLACED, "moved", TokenSource.COMMAND))
    return Moved(len(free), len(taken))


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did, or would do."""

    retired: int = 0
    deleted: int = 0


def prune(
    *,
    unseen_for: timedelta | None = None,
    dead_for: timedelta | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Retire active tokens not seen for so long, and delete rows that have been dead for so long.

    FCM expires Android tokens after 270 idle days; its guide calls a token stale after one month.
    """
    now = clock.now()
    retired = deleted = 0
    if unseen_for is not None:
        seen = Q(last_seen_at__lt=now - unseen_for)
        seen |= Q(last_seen_at=None, created__lt=now - unseen_for)
        stale = _rows().filter(seen, status=TokenStatus.ACTIVE)
        retired = stale.count() if dry_run else deactivate(stale, code="stale", source=TokenSource.PRUNE)
    if dead_for is not None:
        dead = _rows().filter(status_changed__lt=now - dead_for).exclude(status=TokenStatus.ACTIVE)
        if dry_run:
            return Pruned(retired, dead.count())
        for pks in _pages(dead):
            guard = ~Q(status=TokenStatus.ACTIVE) & Q(status_changed__lt=now - dead_for)
            _, counts = _rows().filter(guard, pk__in=pks).delete()
            deleted += counts.get(get_token_model()._meta.label, 0)
    return Pruned(retired, deleted)


# --- how everything is written ----------------------------------------------------------------------


def _where() -> tuple[type[PushToken], str]:
    model = get_token_model()
    return model, router.db_for_write(model)


def _rows() -> QuerySet[PushToken]:
    model, using = _where()
    return model._base_manager.using(using).all()


def _lock(pks: Sequence[int]) -> list[PushToken]:
    """Lock rows in the order of their keys, and return them as they are now."""
    return list(_rows().filter(pk__in=pks).order_by("pk").select_for_update()) if pks else []


def _write(guard: Q, changes: Mapping[str, Any]) -> int:
    return _rows().filter(guard).update(modified=clock.now(), **changes) if changes else 0


def _status(status: TokenStatus, code: str, source: str) -> dict[str, Any]:
    """Return the columns of a change of status, the monitor's among them."""
    return {
        "status": status,
        "status_changed": clock.now(),
        "status_code": code[:200],
        "status_source": source,
    }


def _change(rows: QuerySet[Any], guard: Q, changes: Callable[[], Mapping[str, Any]]) -> list[int]:
    """Write to those of the rows that pass the guard, page by page; return their keys."""
    changed: list[int] = []
    for pks in _pages(rows.filter(guard)):

        def prepare(pks: list[int] = pks) -> list[int]:
            return pks

        def write(pks: list[int]) -> list[int]:
            held = _rows().filter(guard, pk__in=pks).order_by("pk").select_for_update()
            keys = list(held.values_list("pk", flat=True))
            if keys:
                _write(guard & Q(pk__in=keys), changes())
            return keys

        changed += _in_transaction(_where()[1], prepare, write)
    return changed


def _pages(rows: QuerySet[Any]) -> Iterator[list[int]]:
    """Yield the keys of the rows, a page at a time, by the literal key of the last."""
    last = None
    while True:
        page = rows.order_by("pk") if last is None else rows.filter(pk__gt=last).order_by("pk")
        pks = list(page.using(_where()[1]).values_list("pk", flat=True)[:PAGE])
        if not pks:
            return
        yield pks
        last = pks[-1]


def _in_transaction(using: str, prepare: Callable[[], Any], write: Callable[[Any], T]) -> T:
    """Prepare without locks, write in one transaction; both again if another process came between."""
    is_outermost = not connections[using].in_atomic_block
    for attempt in range(1, ATTEMPTS + 1):
        found = prepare()
        try:
            with transaction.atomic(using=using):
                _take_write_lock(using)
                return write(found)
        except (IntegrityError, OperationalError) as error:
            # Inside somebody else's transaction a deadlock has undone that too: it is theirs to run
            # again. A row that was inserted meanwhile has undone only ours.
            mine = isinstance(error, IntegrityError) or (is_outermost and _is_collision(error))
            if not mine or attempt == ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 - no secret
    raise AssertionError("unreachable")


def _take_write_lock(using: str) -> None:
    """On SQLite, begin with a write: a transaction that reads first cannot wait for another writer."""
    if connections[using].vendor == "sqlite":
        _rows().filter(pk=-1).update(project="")


def _is_collision(error: Exception) -> bool:
    """Whether the database called the transaction off for another's sake."""
    code = error.args[0] if error.args else None
    state = getattr(error.__cause__, "sqlstate", None) or getattr(error.__cause__, "pgcode", None)
    return (
        code in (1205, 1213)  # MySQL: lock wait timeout, deadlock
        or state in ("40001", "40P01")  # PostgreSQL: serialization failure, deadlock
        or "database is locked" in str(error)  # SQLite
        or "database table is locked" in str(error)
    )


def _announce(signal: Signal, pks: Sequence[int], **about: Any) -> None:
    """Send the signal for each row once the transaction has committed; free without a receiver."""
    model, using = _where()
    if pks and signal.has_listeners(model):
        transaction.on_commit(partial(_send, signal, list(pks), about), using=using, robust=True)


def _send(signal: Signal, pks: Sequence[int], about: Mapping[str, Any]) -> None:
    model, _ = _where()
    for start in range(0, len(pks), PAGE):
        rows = _rows().in_bulk(pks[start : start + PAGE])
        for row in rows.values():
            signal.send_robust(sender=model, token=row, **about)


def _check_form(token: object) -> None:
    if not isinstance(token, str) or not token:
        raise InvalidToken("A token is a string with something in it.")
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidToken(f"A token has at most {MAX_TOKEN_LENGTH} characters.")


def _check_fact(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > _FACTS[name]:
        raise InvalidToken(f"{name} must be a string of at most {_FACTS[name]} characters.")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidToken(f"{name} has characters that cannot be stored.")
