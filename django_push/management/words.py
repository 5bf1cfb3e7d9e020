"""A broadcast in words for the person at the terminal, and as JSON for a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from django.utils import timezone as clock
from django.utils import translation

from django_push.broadcasts.audiences import describe
from django_push.broadcasts.preview import through
from django_push.broadcasts.rows import database
from django_push.management.explain import EXPLANATIONS
from django_push.models import (
    Broadcast,
    BroadcastStatus,
    LaneProgress,
    LaneStatus,
    PauseReason,
    Progress,
    UnknownPolicy,
    instant,
)
from django_push.outcomes import Outcome, cut

#: Failures that are no failure of the broadcast: the token was dead, and is deactivated.
DEAD = (Outcome.UNREGISTERED, Outcome.INVALID_TOKEN)
#: How much of a message is shown.
SHOWN = 60

#: What must be put right before a lane that is paused for it can go on.
_FIRST: dict[str, str] = {
    PauseReason.CREDENTIALS: "put the key in the alias's OPTIONS right",
    PauseReason.BACKEND: "put the alias in PUSH_BACKENDS right",
    PauseReason.AUDIENCE: "make the audience readable (PUSH_AUDIENCES; --status tells why it is not)",
    PauseReason.MESSAGE: "mend what cannot say the message (--status and the log tell)",
    PauseReason.PERMISSION: "give its user the permission broadcast_push",
}
#: What is said of dead tokens where it is counted how many are deactivated still.
_DEAD = {
    Outcome.UNREGISTERED: "The app is no longer installed there.",
    Outcome.INVALID_TOKEN: "That is no token of this provider.",
}

_RECEIPTS = {
    "ok": "handed over",
    "dead": "dead tokens",
    "failed": "failed",
    "expired": "never came",
}


# --- pieces ---------------------------------------------------------------------------------------


def tokens(count: int) -> str:
    """Return ``1 token``, ``1,234 tokens``."""
    return f"{count:,} token{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """Return a span of time: ``40 s``, ``12 min``, ``3 h 5 min``, ``2 d 3 h``."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(large: int, unit: str, small: int, smaller: str) -> str:
    return f"{large} {unit} {small} {smaller}" if small else f"{large} {unit}"


def at(value: datetime | None) -> str:
    """Return a column that the database's clock has written as a time of day here."""
    if value is None:
        return ""
    return f"{clock.localtime(aware(value)):%Y-%m-%d %H:%M:%S %Z}"


def here(value: datetime) -> str:
    """Return a time that Django's clock has written, or somebody has typed, as a time of day here."""
    return f"{clock.localtime(utc(value)):%Y-%m-%d %H:%M:%S %Z}"


def utc(value: datetime) -> datetime:
    """Return such a time in UTC: one that the clocks skip in spring is told by its real instant."""
    zoned = clock.make_aware(value) if clock.is_naive(value) else value
    return zoned.astimezone(timezone.utc)


def aware(value: datetime) -> datetime:
    """Return a column that the database's clock has written with its zone: without one it is UTC."""
    value = instant(value, database())
    return value.replace(tzinfo=timezone.utc) if clock.is_naive(value) else value


def reason(word: str) -> str:
    """Return why something is paused."""
    with translation.override("en"):
        return str(PauseReason(word).label) if word in PauseReason.values else cut(word)


def remedy(row: Broadcast, progress: Progress) -> str:
    """Return how to go on with what is paused, and what to put right before that."""
    paused = [lane.pause_reason for lane in progress.lanes if lane.status == LaneStatus.PAUSED]
    first = [_FIRST[why] for why in dict.fromkeys([row.pause_reason, *paused]) if why in _FIRST]
    if not first:
        return f"Go on with --resume {row.pk}."
    return f"First {', and '.join(first)}; then go on with --resume {row.pk}."


def database_failed(error: Exception, row: Broadcast | None = None) -> str:
    """Return a line on a failure of the database, without its words: these may name hosts and users."""
    line = f"The database failed ({type(error).__name__}): it is away or locked, or 'migrate' has not run."
    if row is None:
        return line
    return f"{line} Go on with --resume {row.pk}; what was in flight is taken up when its lease ends."


def counted(counts: Mapping[Outcome, int]) -> str:
    """Return ``1,200 accepted, 34 unregistered``, the largest first."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0].value))
    return ", ".join(f"{count:,} {outcome.value.replace('_', ' ')}" for outcome, count in found if count)


def title(message: Mapping[str, Any]) -> str:
    """Return the beginning of what a message says."""
    text = cut(" / ".join(str(message[name]) for name in ("title", "body") if message.get(name)))
    return f"{text[:SHOWN]}…" if len(text) > SHOWN else text or "(data alone)"


def name_of(row: Broadcast) -> str:
    """Return ``Broadcast 7 (Sale)``."""
    return f"Broadcast {row.pk} ({cut(row.name)})" if row.name else f"Broadcast {row.pk}"


def left_out(progress: Progress) -> int:
    """Return how many tokens will not be sent to, for their lane was cancelled or has expired."""
    closed = [lane for lane in progress.lanes if lane.status == LaneStatus.CANCELLED]
    return sum(max(0, lane.total - lane.told - lane.pending) + lane.cancelled for lane in closed)


def unclear(progress: Progress) -> str:
    """Return what a person should know of a broadcast that is done; "" if all went well."""
    failed = progress.failed - sum(progress.counts[outcome] for outcome in DEAD)
    parts = {
        "may or may not have got it": progress.unknown,
        "failed": failed,
        "were left out, for their lane was cancelled": left_out(progress),
    }
    return ", ".join(f"{tokens(count)} {what}" for what, count in parts.items() if count)


# --- a broadcast ----------------------------------------------------------------------------------


def headline(row: Broadcast) -> str:
    """Return ``Broadcast 7 is paused (paused by hand)``."""
    why = f" ({reason(row.pause_reason)})" if row.pause_reason else ""
    return f"{name_of(row)} is {BroadcastStatus(row.status).value}{why}"


def summary(row: Broadcast, progress: Progress, deactivated: int | None = None) -> Iterator[str]:
    """Yield what became of its tokens. ``deactivated`` of them are so still, if that was counted."""
    explained = EXPLANATIONS if deactivated is None else EXPLANATIONS | _DEAD
    yield f"{headline(row)}: {progress.told:,} of {tokens(progress.total)}."
    counts = sorted(progress.counts.items(), key=lambda item: (-item[1], item[0].value))
    for outcome, count in counts:
        yield f"  {count:>12,} {outcome.value.replace('_', ' ')}: {explained[outcome]}"
    if deactivated is not None:
        undo = f" --undo {row.pk} makes them active again." if deactivated else ""
        yield f"  {deactivated:>12,} of the dead are deactivated by it now.{undo}"
    rest = {
        "unknown: they may have got it. --resend-unknown sends once more.": progress.unknown,
        "skipped: deleted, muted, dead or in other hands since.": progress.skipped,
        "left out: cancelled, or their time ran out.": left_out(progress),
        "open: claimed, or to be tried again.": progress.pending,
        "of aliases that are not in PUSH_BACKENDS: not sent to.": progress.unconfigured,
        "were sent to again after a send that may have reached them: at most so many have two copies.": (
            progress.resent
        ),
    }
    for what, count in rest.items():
        if count:
            yield f"  {count:>12,} {what}"


def detail(row: Broadcast, progress: Progress, deactivated: int | None = None) -> Iterator[str]:
    """Yield all that there is to know of one broadcast; ``deactivated`` as for ``summary``."""
    yield from summary(row, progress, deactivated)
    yield ""
    for label, value in _facts(row):
        if value:
            yield f"  {label:<11}{value}"
    for lane in progress.lanes:
        yield from _lane(lane)


def _facts(row: Broadcast) -> Iterator[tuple[str, str]]:
    languages = ", ".join(sorted(row.translations))
    yield "message", title(row.message) + (f" (also: {languages})" if languages else "")
    yield "audience", through(describe(row.audience), row.using)
    yield "key", cut(row.idempotency_key or "")
    by = f" by {cut(row.created_by_name)}" if row.created_by_name else ""
    yield "created", here(row.created) + by
    yield "scheduled", at(row.scheduled_at)
    yield "started", at(row.started_at)
    yield "finished", at(row.finished_at)
    yield "expires", at(row.expires_at)
    yield "rate", rate(row.rate)
    yield "unknown", on_unknown(row.on_unknown, row.max_sends)


def rate(value: float | None) -> str:
    return f"at most {value:,g} tokens a second" if value is not None else ""


def on_unknown(policy: str, most: int) -> str:
    if policy == UnknownPolicy.SKIP:
        return "what may have been sent is never sent again"
    return f"what may have been sent is sent again, {most} times in all"


def _lane(lane: LaneProgress) -> Iterator[str]:
    why = f": {reason(lane.pause_reason)}" if lane.status == LaneStatus.PAUSED else ""
    more = f" ({cut(lane.pause_detail)})" if why and lane.pause_detail else ""
    yield f"  lane {lane.backend}: {lane.status}{why}{more}"
    parts = [f"{lane.told:,} of {tokens(lane.total)}", counted(lane.counts)]
    rest = {"unknown": lane.unknown, "skipped": lane.skipped, "cancelled": lane.cancelled}
    parts += [f"{count:,} {what}" for what, count in rest.items() if count]
    if lane.resent:
        parts.append(f"{lane.resent:,} perhaps sent twice")
    yield f"    {', '.join(filter(None, parts))}"
    if lane.receipts:
        yield "    receipts: " + ", ".join(f"{n:,} {_RECEIPTS[word]}" for word, n in lane.receipts.items())


# --- many -----------------------------------------------------------------------------------------


def table(rows: Iterable[tuple[Broadcast, Progress]]) -> Iterator[str]:
    """Yield a line for each broadcast."""
    yield f"{'ID':>6}  {'status':<10} {'created':<19} {'done':>11} {'of':>11} {'accepted':>11} {'unknown':>8}"
    for row, progress in rows:
        figures = (
            f"{progress.told:>11,} {progress.total:>11,} {progress.accepted:>11,} {progress.unknown:>8,}"
        )
        said = cut(row.name) or title(row.message)
        yield f"{row.pk:>6}  {row.status:<10} {here(row.created)[:19]} {figures}  {said}"


# --- for programs ---------------------------------------------------------------------------------


def as_json(row: Broadcast, progress: Progress) -> dict[str, Any]:
    """Return a broadcast as plain JSON values, times in UTC."""
    return {
        "id": row.pk,
        "name": row.name,
        "status": str(row.status),
        "pause_reason": str(row.pause_reason),
        "message": row.message,
        "translations": row.translations,
        "audience": describe(row.audience),
        "using": row.using,
        "key": row.idempotency_key,
        "created_by": row.created_by_name,
        "scheduled_at": _iso(row.scheduled_at),
        "started_at": _iso(row.started_at),
        "finished_at": _iso(row.finished_at),
        "expires_at": _iso(row.expires_at),
        "rate": row.rate,
        "on_unknown": str(row.on_unknown),
        "max_sends": row.max_sends,
        "progress": progress.as_json(),
    }


def _iso(value: datetime | None) -> str | None:
    return None if value is None else aware(value).astimezone(timezone.utc).isoformat()


def typed(value: datetime | timedelta) -> str:
    """Return a time as it was asked for: a time of day, or from the start on."""
    return f"{span(value.total_seconds())} after the start" if isinstance(value, timedelta) else here(value)
