"""Why a broadcast does not go on at this moment, lane by lane."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Min, Sum

from django_push.broadcasts import rates
from django_push.broadcasts.rows import batches, database, moment
from django_push.management.words import reason, span, tokens
from django_push.models import BatchStatus, Broadcast, LaneProgress, LaneStatus, Progress, instant
from django_push.outcomes import cut

#: Shorter waits are not worth a word. Seconds.
SHORT = 1.0


def paused(progress: Progress) -> Iterator[str]:
    """Yield the lanes that are paused, and why. No query."""
    for lane in progress.lanes:
        if lane.status == LaneStatus.PAUSED:
            detail = f" ({cut(lane.pause_detail)})" if lane.pause_detail else ""
            yield f"{lane.backend} is paused: {reason(lane.pause_reason)}{detail}"


def waiting(row: Broadcast, progress: Progress) -> Iterator[str]:
    """Yield what running lanes wait for. A few queries for each."""
    now = moment()
    for lane in progress.lanes:
        if lane.status == LaneStatus.RUNNING:
            yield from _held(lane, now)
            yield from _others(row, lane, now)


def _held(lane: LaneProgress, now: datetime) -> Iterator[str]:
    if (asked := rates.held_for(rates.Limit(lane.backend))) > SHORT:
        yield f"{lane.backend} waits {span(asked)}: the provider asked for it"
    elif lane.hold_until is not None and (left := _left(lane.hold_until, now)) > SHORT:
        yield f"{lane.backend} is left alone for {span(left)}: the provider did not answer"


def _others(row: Broadcast, lane: LaneProgress, now: datetime) -> Iterator[str]:
    """Batches that others hold, and those that are to be tried again."""
    found = batches().filter(lane__broadcast_id=row.pk, lane__backend=lane.backend)
    leased = found.filter(status=BatchStatus.LEASED).aggregate(count=Count("pk"), due=Min("due_at"))
    if leased["count"]:
        several = leased["count"] != 1
        yield (
            f"{lane.backend}: {leased['count']} batch{'es' if several else ''} of another worker; if that is "
            f"lost, {'the first' if several else 'its'} lease ends in {span(_left(leased['due'], now))}"
        )
    again = found.filter(status=BatchStatus.RETRY).aggregate(pending=Sum("pending"), due=Min("due_at"))
    if again["pending"] and (left := _left(again["due"], now)) > SHORT:
        yield f"{lane.backend}: {tokens(again['pending'])} will be tried again in {span(left)}"


def _left(until: datetime, now: datetime) -> float:
    return max(0.0, (instant(until, database()) - now).total_seconds())
