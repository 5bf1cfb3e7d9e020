"""A broadcast that was asked for: checked, counted, told, and then made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone as clock

from django_push import broadcasts
from django_push.broadcasts import rows
from django_push.broadcasts.preview import Preview, preview, through
from django_push.conf import push_settings
from django_push.exceptions import InvalidAudience, InvalidBroadcast, InvalidMessage, UnsupportedOption
from django_push.management import words
from django_push.management.arguments import USAGE_ERROR, group_named, user_named
from django_push.management.options import audience_of
from django_push.message import FIELDS, PushMessage
from django_push.models import Broadcast, UnknownPolicy
from django_push.outcomes import cut
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
        """Write it down as a draft, or return the one that has its key.

        Raises CommandError for options that are wrong.
        """
        kwargs = {**self.more, "translations": self.translations, "start": False, **changes}
        with options_at_fault():
            return broadcasts.broadcast(self.audience, self.message, **kwargs)

    def as_json(self) -> dict[str, Any]:
        """Return when and how it is sent as plain JSON values, times in UTC; ``starts_at`` None is now."""
        plain = ("name", "key", "rate", "on_unknown", "max_sends", "batch_size", "workers")
        expires = self.more["expires"]
        is_span = isinstance(expires, timedelta)
        return {
            **{name: self.more[name] for name in plain},
            "starts_at": self.schedule and words.utc(self.schedule).isoformat(),
            "expires_at": None if is_span or expires is None else words.utc(expires).isoformat(),
            "expires_after": expires.total_seconds() if is_span else None,
        }

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
        """Check all of it, and return an identical broadcast of the last minutes. Nothing is left of it.

        Raises CommandError for options that are wrong.
        """

        def check() -> Broadcast | None:
            using = rows.database()
            with transaction.atomic(using=using):
                rows.broadcasts().filter(pk=-1).update(name="")  # SQLite: begin with a write
                found = broadcasts.recent_twin(self.create())
                transaction.set_rollback(True, using=using)
            return found

        return rows.again_if_lost(check)


@contextmanager
def options_at_fault() -> Iterator[None]:
    """Say of what the library refuses to make a broadcast of that the options are wrong."""
    try:
        yield
    except (InvalidMessage, UnsupportedOption, InvalidAudience, InvalidBroadcast) as error:
        raise CommandError(str(error), returncode=USAGE_ERROR) from None


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Return what was asked for. Raises CommandError."""
    audience = _audience(options)
    with options_at_fault():
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
    more |= {name: usual if options[name] is None else options[name] for name, usual in _USUAL.items()}
    return Plan(message=message, translations=translations, audience=audience, more=more)


#: The rest of the plan, and what holds where it is not given.
_USUAL = {"on_unknown": UnknownPolicy.RETRY.value, "max_sends": 3, "batch_size": 0, "workers": 1}


def _audience(options: Mapping[str, Any]) -> Any:
    """Return who it is for, with names looked up that somebody may have misspelt. Raises CommandError."""
    audience, using = audience_of(options), options["using"]
    if using is not None and using not in push_settings.backends:
        known = ", ".join(map(repr, push_settings.backends)) or "none"
        raise CommandError(f"{using!r} is not in PUSH_BACKENDS (there: {known}).", returncode=USAGE_ERROR)
    if isinstance(audience, dict) and "user" in audience:
        audience["user"] = [user_named(name).pk for name in audience["user"]]
    if isinstance(audience, dict) and "group" in audience:
        audience["group"] = [group_named(name) for name in audience["group"]]
    return audience


def _said(options: Mapping[str, Any]) -> tuple[PushMessage, dict[str, PushMessage]]:
    """Return the message and its translations. Raises InvalidMessage."""
    fields = dict(options["message"] or {})
    translations = fields.pop("translations", {})
    if not isinstance(translations, dict) or not all(isinstance(t, dict) for t in translations.values()):
        raise InvalidMessage("translations must map a language to an object of fields.")
    for name in ("title", "body", "data", "provider_options"):
        if options[name] is not None:
            fields[name] = options[name]
    for names in (fields, *translations.values()):
        _check_names(names)
    message = message_of(None, fields)
    spoken = {
        language.replace("_", "-").lower(): message_of(None, {**fields, **text})
        for language, text in translations.items()
    }
    return message, spoken


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields:
        if name not in _FIELDS:
            raise InvalidMessage(f"There is no field {cut(name)!r}; there are: {', '.join(_FIELDS)}.")


_FIELDS = (*FIELDS, "provider_options", "translations")


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
    yield f"Audience  {through(would.audience, would.using)}: {words.tokens(would.total)}"
    for part in would.parts:
        yield f"  {part.total:>12,} {part.alias}"
        if part.left_out:
            yield f"               left out, for the provider cannot say it: {', '.join(part.left_out)}"
        for language, why in part.refusals.items():
            yield f"               will be refused{f' ({language})' if language else ''}: {why}"
    if unconfigured := would.skipped.get("unknown_backend"):
        yield f"  {unconfigured:>12,} of aliases that are not in PUSH_BACKENDS: skipped"
    yield from how(plan)


def how(plan: Plan) -> Iterator[str]:
    """Yield when and how it is sent."""
    more = plan.more
    if more["name"]:
        yield f"Name      {cut(more['name'])}"
    starts = words.here(plan.schedule) if plan.schedule else "now"
    ends = f", expires {words.typed(more['expires'])}" if more["expires"] else ""
    yield f"Starts    {starts}{ends}"
    if plan.schedule:
        yield "          The audience is read then; the count may be another."
    if more["rate"]:
        yield f"Rate      {words.rate(more['rate'])}"
    policy = words.on_unknown(more["on_unknown"], more["max_sends"])
    yield f"Unknown   {policy}"


def about_twin(twin: Broadcast) -> str:
    age = words.span((clock.now() - twin.created).total_seconds())
    return f"{words.headline(twin)}, says the same to the same audience, and was made {age} ago."
