"""Each misconfiguration is told by one check, with an id and a hint, before anything is sent."""

import socket
import sys

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import models
from django.test.utils import isolate_apps

from django_push.backends.base import BasePushBackend
from django_push.checks import TAG
from django_push.models import AbstractPushToken
from tests.test_credentials import KEY

EXPO = "django_push.backends.expo.ExpoBackend"
GCM = "django_push.backends.gcm.GCMBackend"
FCM = "django_push.backends.fcm.FCMBackend"
LOCMEM = "django_push.backends.locmem.LocMemBackend"
GOOD = {
    "expo": {"BACKEND": EXPO, "OPTIONS": {"access_token": "x", "timeout": 5}},
    "gcm": {"BACKEND": GCM, "OPTIONS": {"endpoint": "https://relay.example/send", "api_key": "x"}},
    "fcm": {"BACKEND": FCM, "OPTIONS": {"service_account_key": KEY}},
    "locmem": {"BACKEND": LOCMEM},
}

EXPO_OPTIONS = [
    "access_token",
    "broadcast_ramp",
    "broadcast_rate",
    "ca_bundle",
    "endpoint",
    "max_connections",
    "proxy",
    "timeout",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A check that opens a socket fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("a check opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run(deploy=False):
    found = checks.run_checks(tags=[TAG], include_deployment_checks=deploy)
    assert all(message.hint for message in found)
    assert all(message.id.startswith("django_push.") for message in found)
    return found


def ids(**options):
    return [message.id.removeprefix("django_push.") for message in run(**options)]


def test_nothing_is_wrong(settings):
    """Good settings have no message, deployed or not."""
    settings.PUSH_BACKENDS = {alias: config for alias, config in GOOD.items() if alias != "locmem"}
    assert ids(deploy=True) == []


def test_nothing_is_set(settings):
    """No settings at all are good settings."""
    del settings.PUSH_BACKENDS
    assert ids(deploy=True) == []


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ([], ["E001"]),
        ("django_push.backends.expo.ExpoBackend", ["E001"]),
        ({}, ["W001"]),
        ({5: {"BACKEND": EXPO}}, ["E002"]),
        ({"": {"BACKEND": EXPO}}, ["E002"]),
        ({"x" * 65: {"BACKEND": EXPO}}, ["E002"]),
        ({"x" * 64: {"BACKEND": EXPO}}, []),
        ({"a": {}}, ["E003"]),
        ({"a": None}, ["E003"]),
        ({"a": EXPO}, ["E003"]),
        ({"a": {"BACKEND": 5}}, ["E003"]),
        ({"a": {"BACKEND": EXPO, "OPTION": {}}}, ["E004"]),
        ({"a": {"BACKEND": EXPO, 5: {}, "backend": 1}}, ["E004", "E004"]),
        ({"a": {"BACKEND": "nowhere.Backend"}}, ["E005"]),
        ({"a": {"BACKEND": "Backend"}}, ["E005"]),
        ({"a": {"BACKEND": ""}}, ["E005"]),
        ({"a": {"BACKEND": "tests.test_checks.Nothing"}}, ["E005"]),
        ({"a": {"BACKEND": "json.loads"}}, ["E006"]),
        ({"a": {"BACKEND": "json.JSONDecoder"}}, ["E006"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": []}}, ["E007"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": None}}, ["E007"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": {"acces_token": "canary"}}}, ["E008"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": {"verify": False, 5: 6}}}, ["E008", "E008"]),
        ({"a": {"BACKEND": GCM}}, ["E009", "E009"]),
        ({"a": {"BACKEND": GCM, "OPTIONS": {"apikey": "canary", "endpoint": "x"}}}, ["E008", "E009"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": {"timeout": 0}}}, ["E010"]),
        ({"a": {"BACKEND": EXPO, "OPTIONS": {"access_token": b"canary"}}}, ["E010"]),
        ({"a": {"BACKEND": FCM, "OPTIONS": {"service_account_key": "/nowhere/key.json"}}}, ["E010"]),
        (
            {"a": {"BACKEND": FCM, "OPTIONS": {"service_account_key": {**KEY, "private_key": "canary"}}}},
            ["E010"],
        ),
        ({"a": {"BACKEND": "tests.test_checks.Broken"}}, ["E010"]),
        ({"a": {}, "b": {"BACKEND": "nowhere.X"}, "c": {"BACKEND": EXPO}}, ["E003", "E005"]),
    ],
)
def test_backends(settings, backends, expected):
    """What is wrong with an alias is told by the id of its kind, and never with the value."""
    settings.PUSH_BACKENDS = backends
    assert expected == ids()
    assert "canary" not in str(run())


class Broken(BasePushBackend):
    """A third party's backend that fails when it is made."""

    provider = "broken"

    def __init__(self, *, endpoint="https://x.example", **common):
        super().__init__(endpoint=endpoint, **common)

    @property
    def auth(self):
        raise KeyError("canary")


def test_each_alias_is_named(settings):
    """A message says which alias it is about."""
    settings.PUSH_BACKENDS = {"shop": {"BACKEND": GCM}}
    assert all("PUSH_BACKENDS['shop']" in message.msg for message in run())


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"acces_token": "x"}, "Did you mean 'access_token'?"),
        ({"max_connection": 1}, "Did you mean 'max_connections'?"),
        ({"zzz": 1}, f"There are: {', '.join(EXPO_OPTIONS)}."),
    ],
)
def test_did_you_mean(settings, options, hint):
    """An unknown option comes with the one that it is like, or all that there are."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": EXPO, "OPTIONS": options}}
    [message] = run()
    assert hint == message.hint


def test_without_google_auth(settings, monkeypatch):
    """A missing extra has an id of its own, and the hint installs it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google", None)
    settings.PUSH_BACKENDS = {"a": GOOD["fcm"]}
    [message] = run()
    assert message.id == "django_push.E011"
    assert "pip install 'django-push-tokens[fcm]'" in message.hint


def test_a_callable_is_not_called(settings):
    """A key that a vault is asked for is not asked for by a check."""
    settings.PUSH_BACKENDS = {
        "a": {"BACKEND": FCM, "OPTIONS": {"service_account_key": lambda: pytest.fail("called")}}
    }
    assert ids() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("django_push.PushToken", []),
        ("PushToken", ["E012"]),
        ("nowhere.PushToken", ["E012"]),
        ("django_push.Nothing", ["E012"]),
        ("django_push.AbstractPushToken", ["E012"]),
        ("", ["E012"]),
        (5, ["E012"]),
        (None, ["E012"]),
        ("auth.User", ["E013"]),
    ],
)
def test_token_model(settings, value, expected):
    """PUSH_TOKEN_MODEL names an installed model that is a subclass of ours."""
    settings.PUSH_TOKEN_MODEL = value
    assert expected == ids()


@isolate_apps("tests")
def test_primary_key(settings, monkeypatch):
    """The engine keeps tokens' primary keys as bigints."""

    class Other(AbstractPushToken):
        id = models.UUIDField(primary_key=True)

        class Meta(AbstractPushToken.Meta):
            app_label = "tests"

    monkeypatch.setattr("django_push.checks.apps.get_model", lambda label: Other)
    assert ids() == ["E014"]


@isolate_apps("tests")
def test_unique_token(settings, monkeypatch):
    """A token model whose Meta does not inherit ours would hold a token twice."""

    class Loose(AbstractPushToken):
        class Meta:
            app_label = "tests"

    monkeypatch.setattr("django_push.checks.apps.get_model", lambda label: Loose)
    assert ids() == ["E024"]


def test_one_database(settings):
    """Tokens and broadcasts are written in one transaction, so in one database."""

    class Apart:
        def db_for_write(self, model, **hints):
            return "elsewhere" if model._meta.model_name == "broadcast" else None

    settings.DATABASE_ROUTERS = [Apart()]
    [message] = run()
    assert message.id == "django_push.E025"
    assert "django_push.Broadcast:" in message.msg


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("nowhere.Dispatcher", ["E015"]),
        ("Dispatcher", ["E015"]),
        (5, ["E015"]),
        (None, ["E015"]),
        ("json.JSONDecoder", ["E016"]),
        ("json.loads", ["E016"]),
    ],
)
def test_dispatcher(settings, value, expected):
    """PUSH_DISPATCHER names a class that can enqueue."""
    settings.PUSH_DISPATCHER = value
    assert expected == ids()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"beta": "tests.test_checks.run", "staff": lambda tokens: tokens}, []),
        ({}, []),
        (None, []),
        (["beta"], ["E020"]),
        ({"everyone": lambda tokens: tokens}, ["E021"]),
        ({"": lambda tokens: tokens}, ["E021"]),
        ({"x" * 65: lambda tokens: tokens}, ["E021"]),
        ({5: lambda tokens: tokens}, ["E021"]),
        ({"beta": "nowhere.beta"}, ["E022"]),
        ({"beta": "tests.test_checks.nothing"}, ["E022"]),
        ({"beta": ""}, ["E022"]),
        ({"beta": "tests.test_checks.EXPO"}, ["E023"]),
        ({"beta": None, "staff": "x.y", 5: 5}, ["E021", "E022", "E023"]),
    ],
)
def test_audiences(settings, value, expected):
    """PUSH_AUDIENCES maps names to functions; none of them is called."""
    settings.PUSH_AUDIENCES = value
    assert expected == sorted(ids())


@pytest.mark.parametrize(
    ("value", "expected"), [("localhost:8025", []), ("example.com", ["E017"]), (5, ["E017"])]
)
def test_emulator(settings, value, expected):
    """An emulator elsewhere is told once, not for each alias."""
    settings.PUSH_BACKENDS = GOOD
    settings.PUSH_EMULATOR_HOST = value
    assert expected == ids()


def test_emulator_stands_in_for_an_endpoint(settings):
    """With an emulator GCM needs no endpoint."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": GCM, "OPTIONS": {"api_key": "x"}}}
    settings.PUSH_EMULATOR_HOST = "localhost:8025"
    assert ids() == []


@pytest.mark.parametrize(
    "name",
    [
        "PUSH_BACKEND",
        "PUSH_BACKENDSS",
        "PUSH_TOKENS_MODEL",
        "PUSH_DISPATCHERS",
        "PUSH_EMULATOR",
    ],
)
def test_slip(settings, name):
    """A setting that is nearly one of ours is told with the right name."""
    setattr(settings, name, "x")
    [message] = run()
    assert ("django_push.W002", f"There is no setting {name}.") == (message.id, message.msg)
    assert "Did you mean 'PUSH_" in message.hint


@pytest.mark.parametrize("name", ["PUSH_NOTIFICATIONS_SETTINGS", "PUSH_COLOR", "PUSHER_KEY", "BACKENDS"])
def test_settings_of_others(settings, name):
    """A setting of another app is none of our business."""
    setattr(settings, name, "x")
    assert ids() == []


def test_deployed_emulator(settings):
    """A deployed site with an emulator is warned, a development one is not."""
    settings.PUSH_BACKENDS = {"a": GOOD["expo"]}
    settings.PUSH_EMULATOR_HOST = "localhost:8025"
    assert (ids(), ids(deploy=True)) == ([], ["W003"])


@pytest.mark.parametrize("name", ["locmem.LocMemBackend", "console.ConsoleBackend", "dummy.DummyBackend"])
def test_deployed_test_backends(settings, name):
    """A deployed site with a backend that sends nothing is warned."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": f"django_push.backends.{name}"}, "b": GOOD["expo"]}
    assert (ids(), ids(deploy=True)) == ([], ["W004"])


@pytest.mark.parametrize(
    "backends", [[], {"a": None}, {"a": {"BACKEND": 5}}, {"a": {"BACKEND": "nowhere.X"}}]
)
def test_deployed_nonsense(settings, backends):
    """The deployment checks leave to the others what is not theirs."""
    settings.PUSH_BACKENDS = backends
    assert len(ids(deploy=True)) == 1


@pytest.mark.django_db
def test_manage_py_check(settings):
    """The checks are part of ``manage.py check``."""
    settings.PUSH_BACKENDS = {"a": {}}
    with pytest.raises(CommandError, match=r"django_push\.E003"):
        call_command("check")
