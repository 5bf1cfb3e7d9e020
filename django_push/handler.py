"""From an alias in PUSH_BACKENDS to a backend that is ready to send."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from django.core.signals import setting_changed
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from django_push.backends.base import BasePushBackend
from django_push.conf import push_settings
from django_push.credentials import ServiceAccountCredentials, StaticCredentials
from django_push.exceptions import AmbiguousBackend, InvalidPushBackend
from django_push.transport.base import Transport
from django_push.wire import Reply, Request, StaticAuth


class MissingExtra(InvalidPushBackend):
    """A backend needs a package that is not installed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A configured alias: the pure backend, and what carries its requests."""

    backend: BasePushBackend
    transport: Transport
    credentials: StaticCredentials | ServiceAccountCredentials | None

    def exchange(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        """Send requests with the alias's Authorization; see Transport.exchange."""
        return self.transport.exchange(requests, self.credentials)

    def renew_credentials(self) -> None:
        """Get a new Authorization, if it is of a kind that expires."""
        if self.credentials is not None:
            self.credentials.renew()


class PushBackendHandler:
    """``push_backends["alias"]``: instances are made once per process and reset with the settings.

    Raises InvalidPushBackend, which names the alias, for whatever is wrong with its settings.
    """

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._lock = threading.Lock()

    def __getitem__(self, alias: str) -> BasePushBackend:
        return self.channel(alias).backend

    def __iter__(self) -> Iterator[str]:
        return iter(push_settings.backends)

    def __contains__(self, alias: object) -> bool:
        return alias in push_settings.backends

    def channel(self, alias: str) -> Channel:
        """Return the alias's backend with its transport."""
        channel = self._channels.get(alias)
        if channel is None:
            with self._lock:
                channel = self._channels.get(alias)
                if channel is None:
                    channel = self._channels[alias] = make_channel(alias)
        return channel

    def infer(self, token: str) -> str:
        """Return the one alias that accepts the token's form.

        Raises AmbiguousBackend, naming the aliases that do, if it is not exactly one.
        """
        fitting = [alias for alias in self if self[alias].accepts(token)]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise AmbiguousBackend("No alias in PUSH_BACKENDS accepts a token of this form.")
        names = ", ".join(map(repr, fitting))
        raise AmbiguousBackend(f"Name the backend: {names} accept a token of this form.")

    def reset(self) -> None:
        """Forget all instances and give up their connections."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.transport.close()


@sensitive_variables()
def make_channel(alias: str) -> Channel:
    """Return a new backend of the alias with its transport. It reaches no network before it is used."""
    backend = make_backend(alias)
    try:
        transport_class: type[Transport] = import_string(backend.transport)
    except ImportError as error:
        raise InvalidPushBackend(f"its transport cannot be imported: {error}", alias=alias) from None
    transport = transport_class(
        alias=alias,
        timeout=backend.timeout,
        max_connections=backend.max_connections,
        proxy=backend.proxy,
        ca_bundle=backend.ca_bundle,
    )
    return Channel(backend, transport, _make_credentials(backend, transport))


@sensitive_variables()
def _make_credentials(
    backend: BasePushBackend, transport: Transport
) -> StaticCredentials | ServiceAccountCredentials | None:
    auth = backend.auth
    if auth is None:
        return None
    if isinstance(auth, StaticAuth):
        return StaticCredentials(auth)
    try:
        return ServiceAccountCredentials(auth, transport)
    except ImportError:
        reason = "google-auth is not installed; install django-push-tokens[fcm]."
        refused: InvalidPushBackend = MissingExtra(reason, alias=backend.alias)
    except ValueError:
        reason = "service_account_key: its private_key cannot be read."
        refused = InvalidPushBackend(reason, alias=backend.alias)
    raise refused


def backend_class(alias: str) -> type[BasePushBackend]:
    """Return the class that the alias names. Raises InvalidPushBackend."""
    path = _told(_backend_path(alias))
    try:
        found = import_string(path)
    except ImportError as error:
        raise InvalidPushBackend(f"BACKEND cannot be imported: {error}", alias=alias) from None
    if not (isinstance(found, type) and issubclass(found, BasePushBackend)):
        raise InvalidPushBackend("BACKEND is no subclass of BasePushBackend.", alias=alias)
    return found


def make_backend(alias: str) -> BasePushBackend:
    """Return a new instance of the alias's backend, pointed at the emulator if that is set."""
    return _told(_made(alias, backend_class(alias), push_settings.emulator_url))


# In development Django's error page shows the local variables of every frame, even of functions that
# are marked as sensitive. So those that hold an option return an error, and others raise it.

_Found = TypeVar("_Found")


def _told(found: _Found | InvalidPushBackend) -> _Found:
    if isinstance(found, InvalidPushBackend):
        raise found
    return found


@sensitive_variables()
def _backend_path(alias: str) -> str | InvalidPushBackend:
    config = push_settings.backends.get(alias)
    if config is None:
        known = ", ".join(map(repr, push_settings.backends)) or "none"
        return InvalidPushBackend(f"{alias!r} is not in PUSH_BACKENDS (there: {known}).")
    path = config.get("BACKEND") if isinstance(config, Mapping) else None
    if not isinstance(path, str):
        return InvalidPushBackend("BACKEND must be the dotted path of a class.", alias=alias)
    if unknown := [repr(key) for key in config if key not in ("BACKEND", "OPTIONS")]:
        return InvalidPushBackend(f"unknown key {min(unknown)}; there are BACKEND and OPTIONS.", alias=alias)
    return path


@sensitive_variables()
def _made(alias: str, cls: type[BasePushBackend], emulator: str) -> BasePushBackend | InvalidPushBackend:
    given = push_settings.backends[alias].get("OPTIONS", {})
    if not isinstance(given, Mapping):
        return InvalidPushBackend("OPTIONS must be a dictionary.", alias=alias)
    options = redirected(cls, given, emulator)
    names, required = accepted_options(cls)
    for name in options:
        if name not in names:
            known = ", ".join(sorted(names))
            return InvalidPushBackend(f"unknown option {name!r}; there are: {known}.", alias=alias)
    if missing := required - options.keys():
        return InvalidPushBackend(f"missing option: {', '.join(sorted(missing))}.", alias=alias)
    try:
        return cls(alias=alias, **options)
    except InvalidPushBackend as error:
        error.__context__ = error.__cause__ = None  # it may hold what could not be read
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - its text may hold what was given
        return InvalidPushBackend(f"its options lead to {type(error).__name__}.", alias=alias)


def redirected(cls: type[BasePushBackend], options: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return the options of a backend that is reached over the network, pointed at the emulator's URL.

    Past any proxy: what goes to this machine over plain http stays on it.
    """
    if not url or cls.transport != BasePushBackend.transport:
        return dict(options)
    kept = {name: value for name, value in options.items() if name != "proxy"}
    return {**kept, "endpoint": url + cls.emulator_path}


def accepted_options(cls: type[BasePushBackend]) -> tuple[set[str], set[str]]:
    """Return the names of all options of a backend class, and of those that must be given.

    They are the keyword arguments of ``__init__``, up the classes as long as each takes ``**more``.
    """
    names: set[str] = set()
    required: set[str] = set()
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in names:
                names.add(parameter.name)
                if parameter.default is parameter.empty:
                    required.add(parameter.name)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"alias"}, required - {"alias"}


push_backends = PushBackendHandler()


def _reset_on_change(*, setting: str, **kwargs: object) -> None:
    if setting in ("PUSH_BACKENDS", "PUSH_EMULATOR_HOST"):
        push_backends.reset()


setting_changed.connect(_reset_on_change, dispatch_uid="django_push.handler")
