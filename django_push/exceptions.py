"""What this app raises. None of these carries a secret, a whole token or another library's objects."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured, PermissionDenied


class PushError(Exception):
    """Base of everything that django_push raises."""


class InvalidPushBackend(PushError, ImproperlyConfigured):
    """An alias is unknown, or its BACKEND or OPTIONS are wrong. Raised before anything is sent."""

    def __init__(self, message: str, *, alias: str = "") -> None:
        super().__init__(f"PUSH_BACKENDS[{alias!r}]: {message}" if alias else message)
        self.alias = alias


class InvalidMessage(PushError, ValueError):
    """The message cannot be sent to anyone: it is empty, or a field has a wrong type or value."""


class UnsupportedOption(PushError, ValueError):
    """No backend in question can express a field of the message."""


class InvalidToken(PushError, ValueError):
    """A token's form is not one that the backend accepts."""


class AmbiguousBackend(PushError, ValueError):
    """The alias was not given and cannot be inferred from the token's form."""


class InvalidAudience(PushError, ValueError):
    """An audience has a name, a filter or a form that there is not."""


class InvalidBroadcast(PushError, ValueError):
    """A broadcast cannot be what was asked for: a past expiry, a key of another one, a wrong state."""


class BroadcastForbidden(PushError, PermissionDenied):
    """The recorded user may not broadcast."""
