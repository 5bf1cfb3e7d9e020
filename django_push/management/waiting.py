"""Why a broadcast does not go on at this moment, lane by lane."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Min, Sum

from django_push.broadcasts import rates
from django_push.broadcasts.rows import batches, database, moment
from django_push.management.words import reason, span, tokens
from django_push.models import (
    PROTOCOL,
    BatchStatus,
    Broadcast,
    BroadcastStatus,
    LaneProgress,
    LaneStatus,
    Progress,
    instant,
)
from django_push.outcomes import cut

#: Shorter waits are not worth a word. Seconds.
SHORT = 1.0


class Wait(NamedTuple):
    """For how many seconds a lane waits, or a part of it, and for what; 0 if it goes on meanwhile."""

    seconds: float
    why: str


def paused(progress: Progress) -> Iterator[str]:
    """Yield the lanes that are paused, and why. No query."""
    for lane in progress.lanes:
        if lane.status == LaneStatus.PAUSED:
            detail = f" ({cut(lane.pause_detail)})" if lane.pause_detail else ""
            yield f"{lane.backend} is paused: {reason(lane.pause_reason)}{detail}"


def waiting(row: Broadcast, progress: Progress) -> Iterator[str]:
    """Yield what running lanes wait for. A few queries for each."""
    for lane in progress.lanes:
        if lane.status == LaneStatus.RUNNING:
            yield from (wait.why for wait in waits(row, lane))


def waits(row: Broadcast, lane: LaneProgress) -> Iterator[Wait]:
    """Yield what a running lane waits for. A few queries."""
    now = moment()
    yield from _held(lane, now)
    yield from _others(row, lane, now)


def standing(row: Broadcast, progress: Progress) -> Iterator[str]:
    """Yield why a broadcast may not go on by itself: what it waits for, or for whom."""
    if row.protocol > PROTOCOL:
        yield "It was made by a newer version than this one, which leaves it alone."
    if row.status == BroadcastStatus.SCHEDULED and _is_past(row.scheduled_at):
        yield "Its time has come: push_tick starts it when it next runs."
    if row.status == BroadcastStatus.RUNNING:
        yield from waiting(row, progress)
        if row.protocol <= PROTOCOL and _is_left_alone(row):
            yield f"Nobody is sending it: --resume {row.pk} goes on here, push_tick hands it on."


def _is_left_alone(row: Broadcast) -> bool:
    """Whether nobody has said to look after it, and nobody holds a batch of it."""
    live = batches().filter(lane__broadcast_id=row.pk, status=BatchStatus.LEASED, due_at__gt=moment())
    return _is_past(row.awake_until, default=True) and not live.exists()


def _is_past(column: datetime | None, *, default: bool = False) -> bool:
    return default if column is None else instant(column, database()) <= moment()


def _held(lane: LaneProgress, now: datetime) -> Iterator[Wait]:
    if (asked := rates.held_for(rates.Limit(lane.backend))) > SHORT:
        yield Wait(asked, f"{lane.backend} waits {span(asked)}: the provider asked for it")
    elif lane.hold_until is not None and (left := _left(lane.hold_until, now)) > SHORT:
        yield Wait(left, f"{lane.backend} is left alone for {span(left)}: the provider did not answer")


def _others(row: Broadcast, lane: LaneProgress, now: datetime) -> Iterator[Wait]:
    """Batches that others hold, and those that are to be tried again."""
    found = batches().filter(lane__broadcast_id=row.pk, lane__backend=lane.backend)
    leased = found.filter(status=BatchStatus.LEASED).aggregate(count=Count("pk"), due=Min("due_at"))
    if leased["count"]:
        several, left = leased["count"] != 1, _left(leased["due"], now)
        has_more = lane.total - lane.told > lane.pending - lane.planned
        yield Wait(
            0.0 if has_more else left,
            f"{lane.backend}: {leased['count']} batch{'es are' if several else ' is'} out; if a worker was "
            f"lost, {'the first' if several else 'its'} lease ends in {span(left)}",
        )
    again = found.filter(status=BatchStatus.RETRY).aggregate(pending=Sum("pending"), due=Min("due_at"))
    if again["pending"] and (left := _left(again["due"], now)) > SHORT:
        yield Wait(left, f"{lane.backend}: {tokens(again['pending'])} will be tried again in {span(left)}")


def _left(until: datetime, now: datetime) -> float:
    return max(0.0, (instant(until, database()) - now).total_seconds())
