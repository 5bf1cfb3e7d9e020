"""One check per misconfiguration, each with an id and what to do. None raises, none asks a provider."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, register
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import BigAutoField, Model, UniqueConstraint
from django.utils.module_loading import import_string

from django_push.backends.base import BasePushBackend
from django_push.broadcasts.audiences import EVERYONE
from django_push.conf import NAMES, push_settings
from django_push.dispatch import MissingQueue
from django_push.exceptions import InvalidPushBackend
from django_push.handler import MissingExtra, accepted_options, make_channel, redirected
from django_push.models import AbstractPushToken, Broadcast, RateBucket, ReceiptBatch, get_token_model

TAG = "push"
#: The longest alias that fits into a token's row.
MAX_ALIAS = 64
#: How like one of ours a setting must be to be taken for a slip: PUSH_BACKEND yes, PUSH_BACKUP no.
_LIKENESS = 0.82
_KEYS = ("BACKEND", "OPTIONS")


def _error(number: int, message: str, hint: str) -> CheckMessage:
    return checks.Error(message, hint=hint, id=f"django_push.E{number:03}")


def _warning(number: int, message: str, hint: str) -> CheckMessage:
    return checks.Warning(message, hint=hint, id=f"django_push.W{number:03}")


# --- PUSH_BACKENDS --------------------------------------------------------------------------------


@register(TAG)
def check_backends(**kwargs: Any) -> list[CheckMessage]:
    """Check the aliases one by one."""
    try:
        backends = push_settings.backends
    except ImproperlyConfigured:
        hint = 'Write {"default": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}.'
        return [_error(1, "PUSH_BACKENDS is no dictionary.", hint)]
    if not backends:
        hint = "Name a backend, or leave the setting out to have Expo."
        return [_warning(1, "PUSH_BACKENDS is empty: nothing can be sent.", hint)]
    return [message for alias in backends for message in _check_alias(alias, backends[alias])]


def _check_alias(alias: object, config: object) -> Iterator[CheckMessage]:
    where = f"PUSH_BACKENDS[{alias!r}]"
    if not isinstance(alias, str) or not 0 < len(alias) <= MAX_ALIAS:
        hint = f"It is a string of 1 to {MAX_ALIAS} characters, which is kept with each token."
        yield _error(2, f"{where}: this is no alias.", hint)
        return
    if not isinstance(config, Mapping) or not isinstance(config.get("BACKEND"), str):
        hint = 'Write {"BACKEND": "django_push.backends.expo.ExpoBackend"}.'
        yield _error(3, f"{where}: there is no BACKEND.", hint)
        return
    unknown = [key for key in config if key not in _KEYS]
    for key in unknown:
        yield _error(4, f"{where}: unknown key {key!r}.", _did_you_mean(key, _KEYS))
    problem, cls = _find_class(where, config["BACKEND"])
    if problem is not None:
        yield problem
        return
    assert cls is not None
    wrong = list(_check_options(where, cls, config.get("OPTIONS", {})))
    yield from wrong
    if not unknown and not wrong:
        yield from _check_values(alias, config.get("OPTIONS", {}))


def _find_class(where: str, path: str) -> tuple[CheckMessage | None, type[BasePushBackend] | None]:
    """Return the class of a dotted path, or what is wrong with the path."""
    try:
        cls = import_string(path)
    except Exception as error:  # noqa: BLE001 - a module may do anything when it is imported
        hint = "Write the dotted path of a class, and see that its package is installed."
        return _error(5, f"{where}: {path!r} cannot be imported: {error}", hint), None
    if not (isinstance(cls, type) and issubclass(cls, BasePushBackend)):
        hint = "Subclass django_push.backends.base.BasePushBackend."
        return _error(6, f"{where}: {path!r} is no push backend.", hint), None
    return None, cls


def _check_options(where: str, cls: type[BasePushBackend], options: object) -> Iterator[CheckMessage]:
    if not isinstance(options, Mapping):
        yield _error(7, f"{where}: OPTIONS is no dictionary.", "Its keys are the backend's options.")
        return
    names, required = accepted_options(cls)
    for name in options:
        if name not in names:
            yield _error(8, f"{where}: unknown option {name!r}.", _did_you_mean(name, names))
    try:
        given = redirected(cls, options, push_settings.emulator_url)
    except ImproperlyConfigured:  # the emulator's own check tells
        return
    for name in sorted(required - given.keys()):
        yield _error(9, f"{where}: the option {name!r} is missing.", f"{cls.__name__} needs it.")


def _check_values(alias: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """Make the backend as sending would: its constructor knows what is wrong with a value."""
    if any(callable(value) for value in options.values()):
        return  # it may ask a vault over the network
    try:
        make_channel(alias)
    except MissingExtra as error:
        yield _error(11, str(error), "Run: pip install 'django-push-tokens[fcm]'.")
    except InvalidPushBackend as error:
        yield _error(10, str(error), "See the backend's options in the documentation.")
    except ImproperlyConfigured:
        return
    except Exception as error:  # noqa: BLE001 - a third party's; its text may hold an option
        message = f"PUSH_BACKENDS[{alias!r}]: {type(error).__name__} from its options."
        yield _error(10, message, "See the backend's options in its documentation.")


# --- the other settings ---------------------------------------------------------------------------


@register(TAG)
def check_token_model(**kwargs: Any) -> list[CheckMessage]:
    """Check what PUSH_TOKEN_MODEL names."""
    label = push_settings.token_model
    try:
        model = apps.get_model(label)
    except Exception as error:  # noqa: BLE001 - ValueError, LookupError, or anything of a wrong type
        hint = "Name an installed model, no abstract one, as 'app_label.ModelName'."
        return [_error(12, f"PUSH_TOKEN_MODEL: {label!r} is no model: {error}", hint)]
    if not issubclass(model, AbstractPushToken):
        hint = "Subclass django_push.models.AbstractPushToken."
        return [_error(13, f"PUSH_TOKEN_MODEL: {label} is no push token model.", hint)]
    if not isinstance(model._meta.pk, BigAutoField):
        message = f"PUSH_TOKEN_MODEL: the primary key of {model._meta.label} is no BigAutoField."
        return [_error(14, message, "Leave the primary key as AbstractPushToken has it.")]
    if not any(set(unique.fields) == {"backend", "token_digest"} for unique in _uniques(model)):
        message = f"PUSH_TOKEN_MODEL: {model._meta.label} may hold a token twice."
        return [_error(24, message, "Let its Meta inherit AbstractPushToken.Meta, and make a migration.")]
    return []


def _uniques(model: type[Model]) -> list[UniqueConstraint]:
    return [one for one in model._meta.constraints if isinstance(one, UniqueConstraint) and not one.condition]


@register(TAG)
def check_databases(**kwargs: Any) -> list[CheckMessage]:
    """Check that what is written in one transaction is in one database."""
    if check_token_model():
        return []
    engine: list[type[Model]] = [Broadcast, ReceiptBatch, RateBucket]
    home = router.db_for_write(get_token_model())
    strays = [other._meta.label for other in engine if router.db_for_write(other) != home]
    if not strays:
        return []
    message = f"{', '.join(strays)}: in another database than the tokens ({home!r})."
    return [_error(25, message, "Let the router send all models of django_push and the tokens to one.")]


@register(TAG)
def check_dispatcher(**kwargs: Any) -> list[CheckMessage]:
    """Check what PUSH_DISPATCHER names."""
    path = push_settings.dispatcher
    try:
        dispatcher = import_string(path)
    except MissingQueue as error:
        return [_error(18, f"PUSH_DISPATCHER: {error}", f"Run: pip install '{error.package}'.")]
    except Exception as error:  # noqa: BLE001 - a module may do anything when it is imported
        hint = "Write the dotted path of a class, such as 'django_push.dispatch.inline.InlineDispatcher'."
        return [_error(15, f"PUSH_DISPATCHER: {path!r} cannot be imported: {error}", hint)]
    if not (isinstance(dispatcher, type) and callable(getattr(dispatcher, "enqueue", None))):
        hint = "It is a class with a method enqueue(job, payload)."
        return [_error(16, f"PUSH_DISPATCHER: {path!r} is no dispatcher.", hint)]
    return list(_check_made(dispatcher))


def _check_made(dispatcher: type) -> Iterator[CheckMessage]:
    """Make the dispatcher as enqueueing would: its constructor knows whether its queue is set up."""
    hint = "See the dispatcher's settings in the documentation."
    try:
        dispatcher()
    except ImproperlyConfigured as error:
        yield _error(19, f"PUSH_DISPATCHER: {error}", hint)
    except Exception as error:  # noqa: BLE001 - a third party's; its text may hold a broker's address
        message = f"PUSH_DISPATCHER: {type(error).__name__} when {dispatcher.__name__} is made."
        yield _error(19, message, hint)


@register(TAG)
def check_emulator(**kwargs: Any) -> list[CheckMessage]:
    """Check that the emulator is on this machine."""
    try:
        assert isinstance(push_settings.emulator_url, str)
    except ImproperlyConfigured as error:
        hint = "The emulator gets real tokens over plain http: write 'localhost:8025', or ''."
        return [_error(17, str(error), hint)]
    return []


@register(TAG)
def check_audiences(**kwargs: Any) -> list[CheckMessage]:
    """Check the named audiences one by one. None is asked for its tokens."""
    try:
        audiences = push_settings.audiences
    except ImproperlyConfigured:
        hint = 'Write {"beta testers": "shop.audiences.beta_testers"}.'
        return [_error(20, "PUSH_AUDIENCES is no dictionary.", hint)]
    return [message for name in audiences for message in _check_audience(name, audiences[name])]


def _check_audience(name: object, function: object) -> Iterator[CheckMessage]:
    where = f"PUSH_AUDIENCES[{name!r}]"
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ALIAS or name == EVERYONE:
        hint = f"It is a string of 1 to {MAX_ALIAS} characters, other than {EVERYONE!r}."
        yield _error(21, f"{where}: this is no name of an audience.", hint)
        return
    if isinstance(function, str):
        try:
            function = import_string(function)
        except Exception as error:  # noqa: BLE001 - a module may do anything when it is imported
            hint = "Write the dotted path of a function."
            yield _error(22, f"{where}: {function!r} cannot be imported: {error}", hint)
            return
    if not callable(function):
        hint = "It is a function, or its dotted path, that is given a queryset of tokens and returns one."
        yield _error(23, f"{where}: this is no function.", hint)


@register(TAG)
def check_names(**kwargs: Any) -> list[CheckMessage]:
    """Warn of settings that are nearly one of ours; others may be another app's."""
    others = sorted(name for name in set(dir(settings)) - set(NAMES) if name.startswith("PUSH_"))
    return [
        _warning(2, f"There is no setting {name}.", _did_you_mean(name, NAMES))
        for name in others
        if difflib.get_close_matches(name, NAMES, 1, _LIKENESS)
    ]


# --- deployment -----------------------------------------------------------------------------------


@register(TAG, deploy=True)
def check_deployed_emulator(**kwargs: Any) -> list[CheckMessage]:
    """Warn of an emulator that takes all pushes."""
    if not getattr(settings, "PUSH_EMULATOR_HOST", ""):
        return []
    hint = "Leave the setting out where phones are to get the pushes."
    return [_warning(3, "PUSH_EMULATOR_HOST is set: no push leaves this machine.", hint)]


@register(TAG, deploy=True)
def check_deployed_backends(**kwargs: Any) -> list[CheckMessage]:
    """Warn of backends that send nothing."""
    try:
        backends = push_settings.backends
    except ImproperlyConfigured:
        return []
    messages: list[CheckMessage] = []
    for alias, config in backends.items():
        path = config.get("BACKEND") if isinstance(config, Mapping) else None
        _, cls = _find_class("", path) if isinstance(path, str) else (None, None)
        if cls is not None and cls.transport in _TEST_TRANSPORTS:
            message = f"PUSH_BACKENDS[{alias!r}]: {cls.__name__} sends nothing."
            messages.append(
                _warning(4, message, "Name a provider's backend where phones are to get the pushes.")
            )
    return messages


_TEST_TRANSPORTS = {
    "django_push.transport.base.NoTransport",
    "django_push.transport.console.ConsoleTransport",
    "django_push.transport.memory.MemoryTransport",
}


def _did_you_mean(name: object, names: Iterable[str]) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, 1)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known)}."
