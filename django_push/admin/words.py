"""Our words for people: outcomes and reasons, translated."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from django_push.models import TokenSource
from django_push.outcomes import Outcome

OUTCOMES: dict[str, Any] = {
    Outcome.ACCEPTED.value: _("Accepted by the provider"),
    Outcome.UNREGISTERED.value: _("The app is no longer installed"),
    Outcome.INVALID_TOKEN.value: _("Not a valid token"),
    Outcome.SENDER_MISMATCH.value: _("The token belongs to another sender"),
    Outcome.MESSAGE_REJECTED.value: _("The provider refuses this message"),
    Outcome.PROVIDER_SETUP.value: _("The project's setup at the provider is at fault"),
    Outcome.CREDENTIALS_REJECTED.value: _("The provider refused our key"),
    Outcome.RATE_LIMITED.value: _("Too many at once; may be sent again later"),
    Outcome.UNAVAILABLE.value: _("The provider cannot serve now; may be sent again"),
    Outcome.NOT_SENT.value: _("Not sent: no connection; may be sent again"),
    Outcome.REJECTED.value: _("Refused"),
    Outcome.UNKNOWN.value: _("No readable answer: maybe sent"),
    Outcome.PLANNED.value: _("Would be sent"),
}

SKIPPED: dict[str, Any] = {
    "inactive": _("not active"),
    "disabled": _("disabled by the user or by staff"),
    "unknown_backend": _("the alias is not in PUSH_BACKENDS"),
    "duplicate": _("selected twice"),
    "other_backend": _("of another alias"),
    "deleted": _("deleted meanwhile"),
    "transferred": _("another user's by now"),
}

_SOURCES: dict[str, Any] = dict(TokenSource.choices)


def reason(code: str, source: str) -> str:
    """Say why a token has its status: ``DeviceNotRegistered (receipt)``."""
    kind, colon, number = source.partition(":")
    where = f"{_SOURCES.get(kind, kind)}{colon}{number}"
    return f"{code} ({where})" if code and where else code or where
