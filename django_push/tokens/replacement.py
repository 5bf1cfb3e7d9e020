"""A new token in the place of an old one: renamed, or merged into the row that has it already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q

from django_push import signals
from django_push.exceptions import InvalidToken
from django_push.handler import push_backends
from django_push.models import DatabaseNow, PushToken, TokenStatus, digest, instant
from django_push.tokens.writing import (
    Overtaken,
    announce,
    database,
    in_transaction,
    lock,
    rows,
    status_columns,
    write,
)

#: The longest walk along ``replaced_by``; a longer chain is cut short.
MAX_CHAIN = 20


def replace(row: PushToken, new: str, *, source: str) -> bool:
    """Give the row a new token, merging it into the row that has that token; whether it changed.

    Raises InvalidToken for a token that is none of the row's backend.
    """
    if not push_backends[row.backend].accepts(new):
        raise InvalidToken(f"Not a token of the backend {row.backend!r}.")

    def prepare() -> list[int]:
        return sorted({row.pk, *holders(row.backend, [digest(new)])})

    def work(pks: Sequence[int]) -> bool:
        locked = {found.pk: found for found in lock(pks)}
        old = locked.get(row.pk)
        if old is None or old.token != row.token or old.status != TokenStatus.ACTIVE or old.token == new:
            return False
        holder = next((r for r in locked.values() if (r.backend, r.token) == (old.backend, new)), None)
        if holder is None:
            rename(old, new)
        else:
            merge(old, holder, locked, "replaced", source)
        return True

    return in_transaction(prepare, work)


def holders(alias: str, digests: Iterable[str]) -> set[int]:
    """Find the rows that have these tokens and the rows that replaced those, without locks."""
    pks: set[int] = set()
    found = rows().filter(backend=alias, token_digest__in=list(digests))
    for _ in range(MAX_CHAIN + 1):
        step = dict(found.values_list("pk", "replaced_by_id"))
        pks |= step.keys()
        following = set(step.values()) - pks - {None}
        if not following:
            break
        found = rows().filter(pk__in=following)
    return pks


def rename(row: PushToken, new: str) -> None:
    """Give the row its new token."""
    changes = {"token": new, "token_digest": digest(new), "registered_at": DatabaseNow()}
    write(Q(pk=row.pk, status=TokenStatus.ACTIVE, token_digest=digest(row.token)), changes)
    announce(signals.token_replaced, [row.pk], previous_token=row.token, replaced_id=None)
    row.token = new


def merge(old: PushToken, holder: PushToken, locked: Mapping[int, PushToken], code: str, source: str) -> None:
    """Let the row that holds the new token stand in the active old one's place.

    The newer registration keeps its owner and their wish. A holder that was called dead or replaced
    is alive again, since the provider names it; one that was logged out stays so, unless the old
    row was registered later.
    """
    holder = _living_end(holder, old, locked)
    is_newer = seen(old) > seen(holder)
    changes: dict[str, Any] = _of_newer(old, holder) if is_newer else {}
    if holder.status != TokenStatus.ACTIVE and (is_newer or holder.status != TokenStatus.RETIRED):
        changes |= status_columns(TokenStatus.ACTIVE, "", source) | {"replaced_by_id": None}
        announce(signals.token_reactivated, [holder.pk], source=str(source))
    owner = changes.get("user_id", holder.user_id)
    if holder.user_id is not None and owner != holder.user_id:
        announce(signals.token_transferred, [holder.pk], previous_user_id=holder.user_id)
    if changes:
        woken = {"registered_at": DatabaseNow()} if "status" in changes else {}  # older deaths are past
        write(Q(pk=holder.pk), {**changes, **woken})
        for name, value in changes.items():
            setattr(holder, name, value)
    put_aside(old, holder, code, source)


def _living_end(holder: PushToken, old: PushToken, locked: Mapping[int, PushToken]) -> PushToken:
    """Follow ``replaced_by`` to an active row; without one, and in a circle, stay with the holder."""
    row = holder
    for _ in range(MAX_CHAIN):
        if row.status != TokenStatus.REPLACED or row.replaced_by_id is None:
            break
        if row.replaced_by_id not in locked:
            raise Overtaken
        row = locked[row.replaced_by_id]
    is_fit = row.status == TokenStatus.ACTIVE and row.backend == holder.backend and row.pk != old.pk
    return row if is_fit else holder


def _of_newer(old: PushToken, holder: PushToken) -> dict[str, Any]:
    """Return what the holder takes over from a row that was registered later."""
    changes: dict[str, Any] = {
        "last_seen_at": old.last_seen_at or holder.last_seen_at,
        "device_id": old.device_id or holder.device_id,
        "registered_at": max(instant(row.registered_at, database()) for row in (old, holder)),
    }
    if old.user_id is not None or holder.status != TokenStatus.ACTIVE:
        changes |= {"user_id": old.user_id, "enabled": old.enabled}
    return changes


def put_aside(row: PushToken, by: PushToken, code: str, source: str) -> None:
    """Mark an active row as replaced; the pointer stays within the alias."""
    changes = status_columns(TokenStatus.REPLACED, code, source)
    changes["replaced_by_id"] = by.pk if by.backend == row.backend else None
    write(Q(pk=row.pk, status=TokenStatus.ACTIVE), changes)
    announce(signals.token_replaced, [by.pk], previous_token=row.token, replaced_id=row.pk)
    for name, value in changes.items():
        setattr(row, name, value)


def seen(row: PushToken) -> datetime:
    """Return when the app last registered the row, by which it is decided which row is newer.

    Not ``registered_at``, that a replacement moves without any registration.
    """
    return row.last_seen_at or row.created
