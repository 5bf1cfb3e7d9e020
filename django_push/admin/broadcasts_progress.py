"""How far broadcasts are: a few figures for each row of a list, everything for one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Min, Q, Sum
from django.utils.translation import gettext as _

from django_push.admin.broadcasts_words import RECEIPTS, at, number, reason, soon_in_words, tokens
from django_push.admin.words import OUTCOMES
from django_push.broadcasts.rows import batches, database, moment
from django_push.models import (
    COUNTED,
    BatchStatus,
    Broadcast,
    BroadcastLane,
    BroadcastStatus,
    LaneProgress,
    LaneStatus,
    Progress,
    instant,
)
from django_push.outcomes import Outcome

#: Failures that are no failure of the broadcast: the token was dead, and is deactivated.
DEAD = (Outcome.UNREGISTERED, Outcome.INVALID_TOKEN)
#: A broadcast in another status changes only as far as workers tell what was in flight.
LIVE = (BroadcastStatus.SCHEDULED, BroadcastStatus.RUNNING, BroadcastStatus.PAUSED)


# --- the list -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Figures:
    """What a row of a list shows; all numbers are tokens."""

    told: int = 0
    total: int = 0
    accepted: int = 0
    failed: int = 0
    unknown: int = 0


def figures_of(rows: Sequence[Broadcast]) -> dict[int, Figures]:
    """Return the figures of some broadcasts, by key: one query for all of them."""
    if not rows:
        return {}
    lanes = BroadcastLane.objects.using(rows[0]._state.db)
    found = lanes.filter(broadcast_id__in=[row.pk for row in rows]).annotate(
        sum_size=Sum("batches__size", default=0),
        sum_pending=Sum("batches__pending", default=0),
        sum_skipped=Sum("batches__skipped", default=0),
        sum_accepted=Sum("batches__accepted", default=0),
        sum_unknown=Sum("batches__pending", filter=Q(batches__status=BatchStatus.UNKNOWN), default=0),
        sum_cancelled=Sum("batches__pending", filter=Q(batches__status=BatchStatus.CANCELLED), default=0),
    )
    figures = {row.pk: Figures() for row in rows}
    for lane in found:
        _add(figures[lane.broadcast_id], lane)
    return figures


def _add(figures: Figures, lane: Any) -> None:
    """Add a lane's sums, and those of its batches that were pruned."""
    pruned: dict[str, int] = lane.totals or {}
    size = lane.sum_size + pruned.get("size", 0)
    skipped = lane.sum_skipped + pruned.get("skipped", 0)
    unknown = lane.sum_unknown + pruned.get("unknown", 0)
    cancelled = lane.sum_cancelled + pruned.get("cancelled", 0)
    verdicts = lane.sum_size - lane.sum_pending - lane.sum_skipped
    verdicts += sum(pruned.get(name, 0) for name in COUNTED)
    accepted = lane.sum_accepted + pruned.get("accepted", 0)
    figures.told += verdicts + skipped + unknown + cancelled
    figures.total += size if lane.is_read else max(lane.size, size)
    figures.accepted += accepted
    figures.failed += verdicts - accepted
    figures.unknown += unknown


# --- one broadcast --------------------------------------------------------------------------------


def picture(row: Broadcast) -> dict[str, Any]:
    """Return what the part of the page shows that changes while the broadcast goes on."""
    progress = row.progress
    now = moment()
    return {
        "row": row,
        "progress": progress,
        "state": row.status,
        "status": row.get_status_display(),
        "why": reason(row.pause_reason) if row.status == BroadcastStatus.PAUSED else "",
        "is_live": row.status in LIVE or is_in_flight(row),
        "started": row.started_at is not None,
        "told": tokens_of(progress.told, progress.total),
        "bar": (progress.told, progress.total) if progress.total else (1, 1),
        "share": share(progress.told, progress.total),
        "figures": list(_figures(progress)),
        "outcomes": [
            (OUTCOMES[outcome.value], number(count), share(count, progress.counts.total()))
            for outcome, count in progress.counts.most_common()
        ],
        "lanes": [_lane(row, lane, now) for lane in progress.lanes],
        "unattended": _is_unattended(row, progress, now),
    }


def is_in_flight(row: Broadcast) -> bool:
    """Whether a worker has claimed some of it and not told yet."""
    return batches().filter(lane__broadcast_id=row.pk, status=BatchStatus.LEASED).exists()


def dead(progress: Progress) -> int:
    """Return how many tokens came back dead, at once or in a receipt."""
    told = sum(progress.counts[outcome] for outcome in DEAD)
    return told + sum(lane.receipts.get("dead", 0) for lane in progress.lanes)


def tokens_of(told: int, total: int) -> str:
    return _("%(told)s of %(total)s") % {"told": number(told), "total": tokens(total)}


def share(part: int, whole: int) -> str:
    """Return ``42 %``, rounded down so that 100 is all of it."""
    return f"{100 * part // whole} %" if whole else ""


def _figures(progress: Progress) -> Iterator[tuple[str, str, str, str]]:
    """Yield the sums: a word for the style, a number, what it is, and what that means."""
    failed = progress.failed - sum(progress.counts[outcome] for outcome in DEAD)
    yield "good", number(progress.accepted), _("accepted"), _("by the providers; that is not delivered yet")
    yield "", number(progress.failed - failed), _("dead tokens"), _("deactivated")
    yield ("bad" if failed else ""), number(failed), _("failed"), _("refused or given up")
    unknown = progress.unknown
    yield ("bad" if unknown else ""), number(unknown), _("unknown"), _("no readable answer: maybe sent")
    found = [
        (progress.pending, _("open"), _("in flight, or waiting for another try")),
        (progress.skipped, _("skipped"), _("muted, dead, deleted or in other hands since")),
        (progress.cancelled, _("cancelled"), _("not sent to")),
        (progress.resent, _("sent again"), _("the most that can have been doubled")),
        (progress.unconfigured, _("of unknown aliases"), _("not in PUSH_BACKENDS: not sent to")),
    ]
    yield from (("", number(count), what, meaning) for count, what, meaning in found if count)


def _lane(row: Broadcast, lane: LaneProgress, now: datetime) -> dict[str, Any]:
    failed = sum(lane.counts.values()) - lane.counts.get(Outcome.ACCEPTED, 0)
    rest = [
        (lane.skipped, _("skipped")),
        (lane.cancelled, _("cancelled")),
        (lane.resent, _("sent again")),
    ]
    return {
        "alias": lane.backend,
        "state": lane.status,
        "status": str(LaneStatus(lane.status).label) if lane.status in LaneStatus.values else lane.status,
        "why": reason(lane.pause_reason) if lane.status == LaneStatus.PAUSED else "",
        "detail": lane.pause_detail if lane.status == LaneStatus.PAUSED else "",
        "told": lane.told,
        "total": lane.total,
        "words": tokens_of(lane.told, lane.total),
        "accepted": number(lane.counts.get(Outcome.ACCEPTED, 0)),
        "failed": number(failed),
        "unknown": number(lane.unknown),
        "in_flight": number(lane.in_flight),
        "rest": [(number(count), what) for count, what in rest if count],
        "receipts": [(number(count), RECEIPTS[word]) for word, count in lane.receipts.items()],
        "waits": list(_waits(row, lane, now)) if lane.status == LaneStatus.RUNNING else [],
    }


def _waits(row: Broadcast, lane: LaneProgress, now: datetime) -> Iterable[str]:
    """Yield what a running lane waits for."""
    held = lane.hold_until
    if held is not None and instant(held, database()) > now:
        said = _("The provider does not answer; it is asked again at %(time)s.")
        yield said % {"time": soon_in_words(at(held))}
    if lane.pending > lane.planned:
        again = batches().filter(
            lane__broadcast_id=row.pk, lane__backend=lane.backend, status=BatchStatus.RETRY
        )
        found = again.aggregate(due=Min("due_at"), pending=Sum("pending"))
        if found["due"] is not None and instant(found["due"], database()) > now:
            said = _("%(tokens)s will be tried again, from %(time)s on.")
            yield said % {"tokens": tokens(found["pending"]), "time": soon_in_words(at(found["due"]))}


def _is_unattended(row: Broadcast, progress: Progress, now: datetime) -> bool:
    """Whether it runs and no worker has said to look after it."""
    if row.status != BroadcastStatus.RUNNING or any(lane.in_flight for lane in progress.lanes):
        return False
    return row.awake_until is None or instant(row.awake_until, database()) <= now
