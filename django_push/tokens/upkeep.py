"""The verbs of staff, users and clean-up: on a queryset, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone as clock

from django_push import signals
from django_push.models import TokenSource, TokenStatus, get_token_model
from django_push.tokens.writing import change, in_transaction, lock, pages, rows, status_columns


def deactivate(
    rows: QuerySet[Any], *, code: str, source: str, status: TokenStatus = TokenStatus.RETIRED
) -> int:
    """Stop sending to these tokens until they register again; return how many were active."""
    return change(
        rows,
        Q(status=TokenStatus.ACTIVE),
        lambda: status_columns(status, code, source),
        signals.token_deactivated,
        status=str(status),
        code=code,
        source=str(source),
    )


def reactivate(rows: QuerySet[Any], *, source: str) -> int:
    """Send to these tokens again; return how many were not active.

    It is no registration: a verdict on an earlier send that comes later still counts.
    """
    return change(
        rows,
        ~Q(status=TokenStatus.ACTIVE),
        lambda: status_columns(TokenStatus.ACTIVE, "", source) | {"replaced_by": None},
        signals.token_reactivated,
        source=str(source),
    )


def set_enabled(rows: QuerySet[Any], enabled: bool) -> int:
    """Write the user's wish to be told or not; return how many rows had the other."""
    return change(rows, Q(enabled=not enabled), lambda: {"enabled": enabled})


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
        stale = rows().filter(seen, status=TokenStatus.ACTIVE)
        retired = stale.count() if dry_run else _retire(stale, seen)
    if dead_for is not None:
        guard = ~Q(status=TokenStatus.ACTIVE) & Q(status_changed__lt=now - dead_for)
        dead = rows().filter(guard)
        deleted = dead.count() if dry_run else sum(_delete(pks, guard) for pks in pages(dead))
    return Pruned(retired, deleted)


def _retire(stale: QuerySet[Any], guard: Q) -> int:
    """Retire stale rows, unless their app has registered them since they were found."""
    source = str(TokenSource.PRUNE)
    return change(
        stale,
        guard & Q(status=TokenStatus.ACTIVE),
        lambda: status_columns(TokenStatus.RETIRED, "stale", source),
        signals.token_deactivated,
        status=str(TokenStatus.RETIRED),
        code="stale",
        source=source,
    )


def _delete(pks: list[int], guard: Q) -> int:
    """Delete a page of rows; those that point to them, which lose the pointer, are locked with them."""

    def prepare() -> list[int]:
        pointers = rows().filter(replaced_by__in=pks).values_list("pk", flat=True)
        return sorted({*pks, *pointers})

    def work(found: list[int]) -> int:
        lock(found)
        _, counts = rows().filter(guard, pk__in=pks).delete()
        return counts.get(get_token_model()._meta.label, 0)

    return in_transaction(prepare, work)
