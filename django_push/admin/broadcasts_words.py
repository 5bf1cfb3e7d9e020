"""A broadcast in words for staff: what it says, to whom, and when, by the clock of this place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from django.utils import formats
from django.utils import timezone as clock
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_push.admin.forms import SendPushForm
from django_push.broadcasts.audiences import EVERYONE, LIST, describe
from django_push.broadcasts.rows import database
from django_push.models import Broadcast, PauseReason, UnknownPolicy, instant
from django_push.outcomes import cut

#: How much of a text stands in a list.
SHOWN = 60
#: What a phone shows of a message; the rest are facts.
SEEN = ("title", "subtitle", "body", "image")

RECEIPTS: dict[str, Any] = {
    "ok": gettext_lazy("handed over"),
    "dead": gettext_lazy("dead tokens"),
    "failed": gettext_lazy("failed"),
    "expired": gettext_lazy("never came"),
}


def number(value: int) -> str:
    """Return a number with its digits grouped: ``12,000``."""
    return formats.number_format(value, decimal_pos=0, use_l10n=True, force_grouping=True)


def tokens(count: int) -> str:
    return ngettext("%(n)s token", "%(n)s tokens", count) % {"n": number(count)}


def at(value: datetime | None) -> datetime | None:
    """Return a column that the database's clock has written as a time of this place."""
    if value is None:
        return None
    value = instant(value, database())
    return clock.localtime(value.replace(tzinfo=timezone.utc) if clock.is_naive(value) else value)


def time_in_words(value: datetime | None) -> str:
    """Return a time of this place; "" for none."""
    return "" if value is None else formats.date_format(value, "DATETIME_FORMAT")


def short_time(value: datetime | None) -> str:
    """Return a time of this place as it fits into a list."""
    return "" if value is None else formats.date_format(value, "SHORT_DATETIME_FORMAT")


def soon_in_words(value: datetime | None) -> str:
    """Return the time of day, with seconds, of what is to be within the hour."""
    return "" if value is None else formats.date_format(value, "H:i:s")


def headline(row: Broadcast) -> str:
    """Return a broadcast's name, else the beginning of what it says."""
    said = next((row.message[name] for name in ("title", "body") if row.message.get(name)), "")
    text = row.name or cut(said)
    return f"{text[:SHOWN]}…" if len(text) > SHOWN else text or str(row)


def audience(row: Broadcast) -> str:
    """Return a line that says who gets it."""
    who = {EVERYONE: _("everyone"), LIST: _("a list of tokens")}.get(row.audience.get("kind", ""))
    said = who or describe(row.audience)
    return f"{said} ({row.using})" if row.using else said


def reason(word: str) -> str:
    """Return why something is paused."""
    return str(PauseReason(word).label) if word in PauseReason.values else cut(word)


def facts(row: Broadcast) -> Iterator[tuple[str, Any]]:
    """Yield what was asked for and when what happened; nothing that is empty."""
    made = clock.localtime(row.created) if clock.is_aware(row.created) else row.created
    found: list[tuple[Any, Any]] = [
        (_("Audience"), audience(row)),
        (_("Created by"), row.created_by_name or _("the site's code")),
        (_("Created"), time_in_words(made)),
        (_("Scheduled for"), time_in_words(at(row.scheduled_at))),
        (_("Started"), time_in_words(at(row.started_at))),
        (_("Finished"), time_in_words(at(row.finished_at))),
        (_("Expires"), time_in_words(at(row.expires_at))),
        (_("Rate"), rate(row.rate)),
        (_("If no answer comes"), on_unknown(row.on_unknown, row.max_sends)),
        (_("Personalized by"), row.personalize),
        (_("Idempotency key"), row.idempotency_key),
    ]
    yield from ((label, value) for label, value in found if value)


def rate(value: float | None) -> str:
    if value is None:
        return ""
    return _("at most %(n)s tokens a second") % {"n": formats.localize(value)}


def on_unknown(policy: str, most: int) -> str:
    if policy == UnknownPolicy.SKIP or most == 1:
        return _("what may have been sent is never sent again")
    return _("what may have been sent is sent again, at most %(n)d times in all") % {"n": most}


def fields(message: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the fields of a message that no phone shows as they are, with their labels."""
    for name, value in message.items():
        if name not in SEEN:
            known = SendPushForm.base_fields.get(name)
            label = known.label if known is not None else name.replace("_", " ")
            yield label, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
