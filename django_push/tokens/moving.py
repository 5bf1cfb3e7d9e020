"""Moving the tokens of one alias to another, as GCM's to FCM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db.models import F, Q

from django_push.backends.base import BasePushBackend
from django_push.exceptions import InvalidPushBackend
from django_push.handler import push_backends
from django_push.models import DatabaseNow, PushToken, TokenSource, TokenStatus
from django_push.tokens.replacement import holders, merge, put_aside, seen
from django_push.tokens.writing import change, in_transaction, lock, pages, rows, status_columns, write

#: Rows that have nothing left to move: merged into another alias, or their successor was deleted.
_SETTLED = Q(status=TokenStatus.REPLACED, replaced_by=None)


@dataclass(frozen=True, slots=True)
class Moved:
    """What an alias move did, or would do.

    ``moved`` rows changed their alias, ``merged`` ones went into a row that was there, ``refused``
    ones stayed, because the target does not accept such tokens.
    """

    moved: int = 0
    merged: int = 0
    refused: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.moved + other.moved, self.merged + other.merged, self.refused + other.refused)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of the rows of one page."""

    free: Sequence[PushToken]
    #: Rows whose token the target has, with that row.
    taken: Sequence[tuple[PushToken, PushToken]]
    #: Rows whose device has registered another token at the target since, with that row.
    rotated: Sequence[tuple[PushToken, PushToken]]
    refused: Sequence[PushToken]

    @property
    def counts(self) -> Moved:
        return Moved(len(self.free), len(self.taken) + len(self.rotated), len(self.refused))


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
    Raises InvalidPushBackend for an unknown target, or one that is the source; the source need not
    be configured any more.
    """
    backend = push_backends[target]
    if source == target:
        raise InvalidPushBackend("tokens cannot be moved to the alias that they have.", alias=target)
    done = Moved()
    for pks in pages(rows().filter(backend=source), ~_SETTLED):
        if dry_run:
            found = list(rows().filter(pk__in=_with_twins(pks, target)))
            done += _plan(found, pks, source, backend).counts
        else:
            done += in_transaction(
                partial(_with_twins, pks, target), partial(_move_page, pks, source, backend)
            )
        on_page(done.moved + done.merged)
    if not dry_run:
        _cut_pointers(source, target)
    return done


def _with_twins(pks: Sequence[int], target: str) -> list[int]:
    """Return a page's rows, and the target's rows that have the same tokens or devices, or replaced those."""
    found = list(rows().filter(pk__in=pks).values_list("token_digest", "device_id", "status"))
    devices = {device for _, device, status in found if device and status == TokenStatus.ACTIVE}
    same = rows().filter(backend=target, device_id__in=devices, status=TokenStatus.ACTIVE)
    digests = [token_digest for token_digest, *_ in found]
    return sorted({*pks, *holders(target, digests), *same.values_list("pk", flat=True)})


def _plan(found: Sequence[PushToken], pks: Sequence[int], source: str, backend: BasePushBackend) -> _Plan:
    twins = {row.token: row for row in found if row.backend == backend.alias}
    page = set(pks)
    old = [row for row in found if row.pk in page and row.backend == source]
    fits = {row.pk: backend.accepts(row.token) and row.kind in backend.kinds for row in old}
    fitting = [row for row in old if fits[row.pk]]
    single = [row for row in fitting if row.token not in twins]
    devices = _by_device(twins.values())
    later = {row.pk: _since(row, devices.get((row.device_id, row.user_id), ())) for row in single}
    return _Plan(
        free=[row for row in single if later[row.pk] is None],
        taken=[(row, twins[row.token]) for row in fitting if row.token in twins],
        rotated=[(row, newer) for row in single if (newer := later[row.pk]) is not None],
        refused=[row for row in old if not fits[row.pk]],
    )


def _by_device(found: Iterable[PushToken]) -> Mapping[tuple[str, Any], Sequence[PushToken]]:
    """Return the active rows of each device of each user."""
    devices: dict[tuple[str, Any], list[PushToken]] = {}
    for row in found:
        if row.device_id and row.status == TokenStatus.ACTIVE:
            devices.setdefault((row.device_id, row.user_id), []).append(row)
    return devices


def _since(row: PushToken, others: Iterable[PushToken]) -> PushToken | None:
    """Return the row by which the same install has registered since, if the old one is active."""
    newer = [other for other in others if row.status == TokenStatus.ACTIVE and seen(other) >= seen(row)]
    return max(newer, key=seen, default=None)


def _move_page(pks: Sequence[int], source: str, backend: BasePushBackend, with_twins: Sequence[int]) -> Moved:
    locked: Mapping[int, PushToken] = {row.pk: row for row in lock(with_twins)}
    plan = _plan(list(locked.values()), pks, source, backend)
    free = Q(pk__in=[row.pk for row in plan.free])
    write(free, {"backend": backend.alias, "registered_at": DatabaseNow()})
    for row, twin in plan.taken:
        if row.status == TokenStatus.ACTIVE:
            merge(row, twin, locked, "moved", TokenSource.COMMAND)
        else:
            settled = status_columns(TokenStatus.REPLACED, "moved", TokenSource.COMMAND)
            write(Q(pk=row.pk), {**settled, "replaced_by_id": None})
    for row, newer in plan.rotated:
        put_aside(row, newer, "rotated", TokenSource.COMMAND)
    here = _by_device(row for row in locked.values() if row.backend == backend.alias)
    for row in plan.free:
        row.backend = backend.alias
        for older in here.get((row.device_id, row.user_id), ()) if row.status == TokenStatus.ACTIVE else ():
            put_aside(older, row, "rotated", TokenSource.COMMAND)
    return plan.counts


def _cut_pointers(source: str, target: str) -> None:
    """``replaced_by`` stays within the alias."""
    pointing = rows().filter(backend__in=[source, target], replaced_by__isnull=False)
    crossing = pointing.exclude(replaced_by__backend=F("backend"))
    change(crossing, Q(status=TokenStatus.REPLACED), lambda: {"replaced_by_id": None})
