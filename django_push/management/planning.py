"""A broadcast that was asked for: checked, counted, told, and then made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone as clock

from django_push import broadcasts
from django_push.broadcasts import rows
from django_push.broadcasts.preview import Preview, preview
from django_push.exceptions import InvalidMessage
from django_push.management import words
from django_push.management.arguments import user_named
from django_push.management.options import audience_of
from django_push.message import PushMessage
from django_push.models import Broadcast
from django_push.sending.texts import message_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A broadcast that was asked for: the message, the audience, and the other arguments of ``broadcast``."""

    message: PushMessage
    translations: Mapping[str, PushMessage]
    audience: Any
    more: Mapping[str, Any]

    @property
    def schedule(self) -> datetime | None:
        found: datetime | None = self.more["schedule"]
        return found

    def create(self, **changes: Any) -> Broadcast:
        """Write it down as a draft, or return the one that has its key."""
        kwargs = {**self.more, "translations": self.translations, "start": False, **changes}
        return broadcasts.broadcast(self.audience, self.message, **kwargs)

    def preview(self) -> Preview:
        """Return who would get what."""
        return preview(
            self.message,
            self.audience,
            using=self.more["using"] or "",
            translations=self.translations,
            personalize=self.more["personalize"] or None,
        )

    def twin(self) -> Broadcast | None:
        """Check all of it, and return an identical broadcast of the last minutes. Nothing is left of it."""

        def check() -> Broadcast | None:
            using = rows.database()
            with transaction.atomic(using=using):
                rows.broadcasts().filter(pk=-1).update(name="")  # SQLite: begin with a write
                found = broadcasts.recent_twin(self.create())
                transaction.set_rollback(True, using=using)
            return found

        return rows.again_if_lost(check)


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Return what was asked for. Raises CommandError, InvalidMessage."""
    audience = audience_of(options)
    if isinstance(audience, dict) and "user" in audience:
        audience["user"] = [user_named(name).pk for name in audience["user"]]
    message, translations = _said(options)
    more = {
        "name": options["name"] or "",
        "using": options["using"],
        "personalize": options["personalize"] or "",
        "schedule": _as_time(options["schedule"]),
        "expires": options["expires"],
        "rate": options["rate"],
        "key": options["key"],
        "user": None if options["operator"] is None else user_named(options["operator"]),
    }
    for name in ("on_unknown", "max_sends", "batch_size"):
        if options[name] is not None:
            more[name] = options[name]
    return Plan(message=message, translations=translations, audience=audience, more=more)


def _said(options: Mapping[str, Any]) -> tuple[PushMessage, dict[str, PushMessage]]:
    """Return the message and its translations. Raises InvalidMessage."""
    fields = dict(options["message"] or {})
    translations = fields.pop("translations", {})
    if not isinstance(translations, dict) or not all(isinstance(t, dict) for t in translations.values()):
        raise InvalidMessage("translations must map a language to an object of fields.")
    for name in ("title", "body", "data", "provider_options"):
        if options[name] is not None:
            fields[name] = options[name]
    message = message_of(None, fields)
    spoken = {
        language.replace("_", "-").lower(): message_of(None, {**fields, **text})
        for language, text in translations.items()
    }
    return message, spoken


def _as_time(value: datetime | timedelta | None) -> datetime | None:
    """Return when that is by the database's clock."""
    if isinstance(value, timedelta):
        return words.aware(rows.moment() + value)
    return value


def about(plan: Plan, would: Preview) -> Iterator[str]:
    """Yield what is about to be sent, to whom and how."""
    said = plan.message.to_json()
    languages = f" (also: {', '.join(sorted(plan.translations))})" if plan.translations else ""
    yield f"Message   {words.title(said)}{languages}"
    yield f"Audience  {would.audience}: {words.tokens(would.total)}"
    for part in would.parts:
        yield f"  {part.total:>12,} {part.alias}"
        if part.left_out:
            yield f"               left out, for the provider cannot say it: {', '.join(part.left_out)}"
        for language, why in part.refusals.items():
            yield f"               will be refused{f' ({language})' if language else ''}: {why}"
    if unconfigured := would.skipped.get("unknown_backend"):
        yield f"  {unconfigured:>12,} of aliases that are not in PUSH_BACKENDS: skipped"
    more = plan.more
    starts = words.here(plan.schedule) if plan.schedule else "now"
    ends = f", expires {words.typed(more['expires'])}" if more["expires"] else ""
    yield f"Starts    {starts}{ends}"
    if plan.schedule:
        yield "          The audience is read then; the count may be another."
    if more["rate"]:
        yield f"Rate      {words.rate(more['rate'])}"
    policy = words.on_unknown(more.get("on_unknown", ""), more.get("max_sends", 3))
    yield f"Unknown   {policy}"


def about_twin(twin: Broadcast) -> str:
    age = words.span((clock.now() - twin.created).total_seconds())
    return f"{words.headline(twin)}, says the same to the same audience, and was made {age} ago."
