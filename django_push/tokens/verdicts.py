"""What providers said about tokens, brought into the table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from django.db.models import Q

from django_push import signals
from django_push.backends.base import MAX_TOKEN_LENGTH
from django_push.models import PushToken, TokenSource, TokenStatus, digest, instant
from django_push.outcomes import Outcome, Target, TargetKind, Ticket, TokenChanges, checksum
from django_push.tokens.replacement import holders, merge, rename
from django_push.tokens.writing import (
    PAGE,
    announce,
    can_be_stored,
    database,
    in_transaction,
    lock,
    status_columns,
    write,
)

logger = logging.getLogger("django_push")

MAX_PROJECT_LENGTH = 255
_DEATHS = {
    Outcome.UNREGISTERED: TokenStatus.UNREGISTERED,
    Outcome.INVALID_TOKEN: TokenStatus.INVALID,
}


def apply(tickets: Iterable[Ticket], sent_at: datetime, *, source: str = TokenSource.TICKET) -> TokenChanges:
    """Bring token rows in line with what providers said, and return what really changed.

    Only UNREGISTERED and INVALID_TOKEN deactivate; a canonical id replaces; a project is learned.
    A verdict counts only for a row that is active, was registered before ``sent_at`` (by the
    database's clock; equal is not before) and still has the token that was sent to.
    """
    # Plain successes, nearly all there are, say nothing about a token's state.
    telling = (t for t in tickets if t.outcome is not Outcome.ACCEPTED or t.replacement or t.project)
    about = [t for t in telling if t.pk is not None and (t.outcome.is_dead or t.replacement or t.project)]
    changes = TokenChanges()
    for start in range(0, len(about), PAGE):
        verdicts = _Verdicts(about[start : start + PAGE], sent_at, str(source))
        changes += in_transaction(verdicts.prepare, verdicts.write)
    return changes


class _Verdicts:
    """The verdicts of one page, written in one transaction."""

    def __init__(self, tickets: Sequence[Ticket], sent_at: datetime, source: str) -> None:
        self.sent_at = instant(sent_at, database())
        self.source = source
        self.dead = [ticket for ticket in tickets if ticket.outcome.is_dead]
        self.replaced = _canonical(
            t
            for t in tickets
            if t.replacement and not t.outcome.is_dead and can_be_stored(t.replacement, MAX_TOKEN_LENGTH)
        )
        self.learned = [t for t in tickets if t.project and can_be_stored(t.project, MAX_PROJECT_LENGTH)]

    def prepare(self) -> list[int]:
        """Find the rows that hold the new tokens already, without locks."""
        pks = {ticket.pk for ticket in (*self.dead, *self.learned)}
        pks |= {ticket.pk for ticket, _ in self.replaced}
        for alias in {ticket.backend for ticket, _ in self.replaced}:
            pks |= holders(alias, (digest(new) for ticket, new in self.replaced if ticket.backend == alias))
        return sorted(pk for pk in pks if pk is not None)

    def write(self, pks: Sequence[int]) -> TokenChanges:
        locked = {row.pk: row for row in lock(pks)}
        deactivated = self._deactivate(locked)
        self._learn(locked)
        return TokenChanges(deactivated, self._replace(locked))

    def _held(self, ticket: Ticket, locked: Mapping[int, PushToken]) -> PushToken | None:
        """Return the ticket's row if the verdict is about it as it is: the guard of time and identity."""
        row = locked.get(ticket.pk or 0)
        if (
            row is not None
            and row.status == TokenStatus.ACTIVE
            and instant(row.registered_at, database()) < self.sent_at
            and ticket.backend == row.backend
            and _names(ticket.target, row)
        ):
            return row
        return None

    def _deactivate(self, locked: Mapping[int, PushToken]) -> int:
        groups: dict[tuple[TokenStatus, str], list[int]] = {}
        for ticket in self.dead:
            row = self._held(ticket, locked)
            if row is not None:
                status = _DEATHS[ticket.outcome]
                groups.setdefault((status, ticket.code), []).append(row.pk)
                row.status = status
        guard = Q(status=TokenStatus.ACTIVE, registered_at__lt=self.sent_at)
        count = 0
        for (status, code), pks in groups.items():
            count += write(guard & Q(pk__in=pks), status_columns(status, code, self.source))
            for pk in pks:
                logger.info("push token %s is %s (%s, %s)", pk, status, code, self.source)
            announce(signals.token_deactivated, pks, status=str(status), code=code, source=self.source)
        return count

    def _learn(self, locked: Mapping[int, PushToken]) -> None:
        projects: dict[str, list[int]] = {}
        for ticket in self.learned:
            row = locked.get(ticket.pk or 0)
            if row is None or (row.backend, row.token) != (ticket.backend, ticket.token):
                continue
            if row.project != ticket.project:
                projects.setdefault(ticket.project, []).append(row.pk)
        for project, pks in projects.items():
            write(Q(pk__in=pks), {"project": project})

    def _replace(self, locked: Mapping[int, PushToken]) -> int:
        by_token = {(row.backend, row.token): row for row in locked.values()}
        count = 0
        for ticket, new in self.replaced:
            old = self._held(ticket, locked)
            if old is None:
                continue
            holder = by_token.get((old.backend, new))
            if holder is None:
                by_token[old.backend, new] = by_token.pop((old.backend, old.token))
                rename(old, new)
            elif holder is not old:
                merge(old, holder, locked, "canonical", self.source)
            count += 1
        return count


def _names(target: Target, row: PushToken) -> bool:
    """Whether what was sent to is the row's token; a receipt has kept no more than its checksum."""
    if target.kind == TargetKind.CHECKSUM:
        return target.value == str(checksum(row.token))
    return target.value == row.token


def _canonical(answers: Iterable[Ticket]) -> list[tuple[Ticket, str]]:
    """Pair each ticket with the last id of its chain within these answers; circles are left out.

    In the order of the new tokens' digests: so do two processes that write the same ones.
    """
    tickets = list(answers)
    following = {(t.backend, t.token): t.replacement for t in tickets}
    pairs = []
    for ticket in tickets:
        new, met = ticket.replacement, {ticket.token}
        while new not in met and (ticket.backend, new) in following:
            met.add(new)
            new = following[ticket.backend, new]
        if new not in met:
            pairs.append((ticket, new))
    return sorted(pairs, key=lambda pair: (digest(pair[1]), pair[0].pk))
