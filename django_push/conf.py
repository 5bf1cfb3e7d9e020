"""The settings, typed, read at the moment of use so that tests can override them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

DEFAULT_TOKEN_MODEL = "django_push.PushToken"  # noqa: S105 - a model's label
DEFAULT_DISPATCHER = "django_push.dispatch.inline.InlineDispatcher"
#: Expo needs no credentials, so a site can send before it has configured anything.
DEFAULT_BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "default": {"BACKEND": "django_push.backends.expo.ExpoBackend"}
}


#: All settings of this app. A check warns of a name that is nearly one of them.
NAMES = ("PUSH_BACKENDS", "PUSH_TOKEN_MODEL", "PUSH_DISPATCHER", "PUSH_EMULATOR_HOST", "PUSH_AUDIENCES")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class PushSettings:
    """Every setting of this app, with its default."""

    @property
    def backends(self) -> Mapping[str, Mapping[str, Any]]:
        value = getattr(settings, "PUSH_BACKENDS", None)
        if value is None:
            return DEFAULT_BACKENDS
        if not isinstance(value, Mapping):
            del value  # it may hold keys, and an error page shows what is at hand where it is raised
            raise ImproperlyConfigured("PUSH_BACKENDS must be a dictionary of aliases.")
        return value

    @property
    def token_model(self) -> str:
        return getattr(settings, "PUSH_TOKEN_MODEL", DEFAULT_TOKEN_MODEL)

    @property
    def dispatcher(self) -> str:
        return getattr(settings, "PUSH_DISPATCHER", DEFAULT_DISPATCHER)

    @property
    def audiences(self) -> Mapping[str, Any]:
        """Named audiences: dotted paths of functions, or the functions, from queryset to queryset."""
        value = getattr(settings, "PUSH_AUDIENCES", None) or {}
        if not isinstance(value, Mapping):
            raise ImproperlyConfigured("PUSH_AUDIENCES must be a dictionary of names and functions.")
        return value

    @property
    def emulator_url(self) -> str:
        """The emulator's base URL without a final slash, or "" when providers are reached for real."""
        return emulator_url(getattr(settings, "PUSH_EMULATOR_HOST", "") or "")


def emulator_url(host: str) -> str:
    """Return ``http://host:port`` for ``host:port`` or a URL; "" for nothing.

    Raises ImproperlyConfigured for a host that is not this machine: the emulator gets real tokens
    over plain http.
    """
    if not host:
        return ""
    try:
        parts = urlsplit(host if "://" in host else f"http://{host}")
        is_here = parts.scheme == "http" and parts.hostname in _LOOPBACK
        port = f":{parts.port}" if parts.port else ""
    except (TypeError, ValueError):
        is_here = False
    if not is_here or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise ImproperlyConfigured("PUSH_EMULATOR_HOST must be a loopback address, host:port.")
    name = parts.hostname or ""
    return f"http://{f'[{name}]' if ':' in name else name}{port}"


push_settings = PushSettings()
