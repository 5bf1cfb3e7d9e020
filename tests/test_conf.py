"""Settings are read when they are used, and an alias's options are checked by name."""

import json
import pathlib

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_push.backends.base import BasePushBackend
from django_push.backends.expo import ExpoBackend
from django_push.conf import DEFAULT_DISPATCHER, DEFAULT_TOKEN_MODEL, emulator_url, push_settings
from django_push.exceptions import AmbiguousBackend, InvalidPushBackend
from django_push.handler import accepted_options, backend_class, make_backend, push_backends
from django_push.outcomes import TargetKind
from django_push.transport.http import RequestsTransport
from tests.test_credentials import KEY

EXPO = "django_push.backends.expo.ExpoBackend"
GCM = "django_push.backends.gcm.GCMBackend"
FCM = "django_push.backends.fcm.FCMBackend"
LOCMEM = "django_push.backends.locmem.LocMemBackend"


def configured(settings, backend=EXPO, **options):
    settings.PUSH_BACKENDS = {"main": {"BACKEND": backend, "OPTIONS": options}}


# --- the settings ---------------------------------------------------------------------------------


def test_defaults(settings):
    """Without any setting there is Expo, which needs no credentials."""
    for name in ("PUSH_BACKENDS", "PUSH_TOKEN_MODEL"):
        delattr(settings, name)
    assert list(push_backends) == ["default"]
    assert isinstance(push_backends["default"], ExpoBackend)
    assert push_settings.token_model == DEFAULT_TOKEN_MODEL
    assert push_settings.dispatcher == DEFAULT_DISPATCHER
    assert push_settings.emulator_url == ""


def test_none_is_unset(settings):
    """PUSH_BACKENDS = None is the default too."""
    settings.PUSH_BACKENDS = None
    assert list(push_backends) == ["default"]


@pytest.mark.parametrize("value", [[], "default", 5, [("default", {})]])
def test_backends_that_are_no_dictionary(settings, value):
    """PUSH_BACKENDS that is no dictionary is an error."""
    settings.PUSH_BACKENDS = value
    with pytest.raises(ImproperlyConfigured, match="PUSH_BACKENDS must be a dictionary"):
        list(push_backends)


def test_settings_are_read_when_used(settings):
    """A changed setting changes the backend: instances are made anew."""
    configured(settings, max_connections=2)
    first = push_backends["main"]
    assert first is push_backends["main"]
    configured(settings, max_connections=3)
    assert (first.max_connections, push_backends["main"].max_connections) == (2, 3)


def test_emulator_resets_backends(settings):
    """Setting the emulator's host points backends there that have been used already."""
    configured(settings)
    assert push_backends["main"].endpoint.startswith("https://exp.host")
    settings.PUSH_EMULATOR_HOST = "localhost:8025"
    assert push_backends["main"].endpoint == "http://localhost:8025/--/api/v2/push"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", ""),
        (None, ""),
        ("localhost:8025", "http://localhost:8025"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("[::1]:8025", "http://[::1]:8025"),
        ("LOCALHOST:80", "http://localhost:80"),
    ],
)
def test_emulator_url(host, url):
    """The emulator's host is a loopback address, with or without a scheme."""
    assert url == emulator_url(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "10.0.0.1:8025",
        "0.0.0.0:8025",
        "https://localhost",
        "localhost.example.com",
        "localhost:8025@example.com",
        "user:pass@localhost:8025",
        "localhost:99999",
        "localhost:port",
        "localhost/path",
        "localhost?q",
        "localhost#f",
        "localhost\\@example.com",
        "[::1",
        "127.0.0.2\n",
        8025,
        b"localhost",
        True,
    ],
)
def test_emulator_elsewhere(host):
    """The emulator is given real tokens over plain http, so it is on this machine or nowhere."""
    with pytest.raises(ImproperlyConfigured, match="PUSH_EMULATOR_HOST must be a loopback address"):
        emulator_url(host)


@pytest.mark.parametrize(
    ("backend", "options", "endpoint"),
    [
        (EXPO, {"access_token": "x"}, "http://localhost:8025/--/api/v2/push"),
        (GCM, {"endpoint": "https://relay.example/send", "api_key": "x"}, "http://localhost:8025/gcm/send"),
        (FCM, {"service_account_key": KEY}, "http://localhost:8025"),
    ],
)
def test_emulator(settings, backend, options, endpoint):
    """With an emulator every provider is sent to it, past any proxy."""
    configured(settings, backend, proxy="http://proxy.example:3128", **options)
    settings.PUSH_EMULATOR_HOST = "localhost:8025"
    made = make_backend("main")
    assert (endpoint, None) == (made.endpoint, made.proxy)


def test_emulator_and_test_backends(settings):
    """The emulator changes nothing for a backend that reaches no network."""
    configured(settings, LOCMEM)
    settings.PUSH_EMULATOR_HOST = "localhost:8025"
    assert make_backend("main")


# --- the options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "'main' is not in PUSH_BACKENDS (there: 'other')."),
        ({}, "PUSH_BACKENDS['main']: BACKEND must be the dotted path of a class."),
        ("x", "PUSH_BACKENDS['main']: BACKEND must be the dotted path of a class."),
        ({"BACKEND": 5}, "PUSH_BACKENDS['main']: BACKEND must be the dotted path of a class."),
        (
            {"BACKEND": EXPO, "OPTION": {}, 5: 6},
            "PUSH_BACKENDS['main']: unknown key 'OPTION'; there are BACKEND and OPTIONS.",
        ),
        (
            {"BACKEND": "json.JSONDecoder"},
            "PUSH_BACKENDS['main']: BACKEND is no subclass of BasePushBackend.",
        ),
        ({"BACKEND": "json.loads"}, "PUSH_BACKENDS['main']: BACKEND is no subclass of BasePushBackend."),
        ({"BACKEND": EXPO, "OPTIONS": []}, "PUSH_BACKENDS['main']: OPTIONS must be a dictionary."),
        ({"BACKEND": EXPO, "OPTIONS": None}, "PUSH_BACKENDS['main']: OPTIONS must be a dictionary."),
        (
            {"BACKEND": EXPO, "OPTIONS": {"acces_token": "canary"}},
            "PUSH_BACKENDS['main']: unknown option 'acces_token'; there are: access_token, broadcast_",
        ),
        ({"BACKEND": EXPO, "OPTIONS": {5: 6}}, "PUSH_BACKENDS['main']: unknown option 5;"),
        ({"BACKEND": EXPO, "OPTIONS": {"alias": "x"}}, "PUSH_BACKENDS['main']: unknown option 'alias';"),
        ({"BACKEND": GCM}, "PUSH_BACKENDS['main']: missing option: api_key, endpoint."),
        ({"BACKEND": FCM}, "PUSH_BACKENDS['main']: missing option: service_account_key."),
    ],
)
def test_wrong_alias(settings, config, message):
    """Whatever is wrong with an alias names the alias and says what."""
    settings.PUSH_BACKENDS = {"other": {"BACKEND": LOCMEM}} if config is None else {"main": config}
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends["main"]
    assert str(raised.value).startswith(message)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("path", ["nowhere.Backend", "django_push.backends.expo.Nothing", "Backend", ""])
def test_backend_that_cannot_be_imported(settings, path):
    """A dotted path to nothing names the alias."""
    settings.PUSH_BACKENDS = {"main": {"BACKEND": path}}
    with pytest.raises(InvalidPushBackend, match=r"PUSH_BACKENDS\['main'\]: BACKEND cannot be imported"):
        backend_class("main")


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "15"},
        {"timeout": True},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": None},
        {"max_connections": 0},
        {"max_connections": 2.0},
        {"max_connections": True},
        {"max_connections": 10**9},
        {"endpoint": "http://exp.host/x"},
        {"endpoint": "https://"},
        {"endpoint": "exp.host"},
        {"endpoint": "https://user:pass@exp.host"},
        {"endpoint": "https://exp.host:port"},
        {"endpoint": "https://[::1"},
        {"endpoint": "ftp://exp.host"},
        {"endpoint": 5},
        {"endpoint": None},
        {"proxy": "proxy.example:3128"},
        {"proxy": "socks5://proxy.example"},
        {"proxy": "http://"},
        {"proxy": "http://proxy:port"},
        {"proxy": 5},
        {"proxy": b"http://proxy.example"},
        {"ca_bundle": "/nowhere/ca.pem"},
        {"ca_bundle": 5},
        {"ca_bundle": False},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": b"x"},
    ],
    ids=repr,
)
def test_bad_option(settings, options):
    """A bad value of an option is an error that names the alias, before anything is sent."""
    configured(settings, **options)
    with pytest.raises(InvalidPushBackend, match=r"PUSH_BACKENDS\['main'\]: "):
        push_backends["main"]


def test_verification_has_no_switch(settings):
    """No option switches TLS verification off."""
    for name in ("verify", "verify_ssl", "insecure"):
        configured(settings, **{name: False})
        with pytest.raises(InvalidPushBackend, match="unknown option"):
            push_backends["main"]


def test_options_reach_the_transport(settings, tmp_path):
    """The common options are what the transport works with."""
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    configured(
        settings, timeout=3, max_connections=2, proxy="http://proxy.example:3128", ca_bundle=str(bundle)
    )
    transport = push_backends.channel("main").transport
    assert isinstance(transport, RequestsTransport)
    assert ("main", 3.0, 2, "http://proxy.example:3128", str(bundle)) == (
        transport.alias,
        transport.timeout,
        transport.max_connections,
        transport.proxy,
        transport.ca_bundle,
    )


class Own(BasePushBackend):
    """A third party's backend with an option of its own."""

    provider = "own"
    transport = "django_push.transport.base.NoTransport"

    def __init__(self, *, color, size=1, endpoint="https://own.example", **common):
        super().__init__(endpoint=endpoint, **common)
        if color == "broken":
            raise KeyError("canary")


class Closed(Own):
    """A subclass that takes nothing but what it names."""

    def __init__(self, *, alias, shape):
        super().__init__(alias=alias, color="blue")


class NoNetwork(Own):
    transport = "django_push.transport.nowhere.Transport"


def test_options_of_a_third_party():
    """A backend's options are its keyword arguments and those it passes on."""
    names, required = accepted_options(Own)
    common = {"timeout", "endpoint", "max_connections", "proxy", "ca_bundle"}
    assert {"color", "size", "broadcast_rate", "broadcast_ramp"} | common == names
    assert {"color"} == required
    assert ({"shape"}, {"shape"}) == accepted_options(Closed)


def test_third_party_that_fails(settings):
    """Another error of a constructor is told by its class alone: its text may hold an option."""
    configured(settings, f"{__name__}.Own", color="broken")
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends["main"]
    assert str(raised.value) == "PUSH_BACKENDS['main']: its options lead to KeyError."
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_transport_that_cannot_be_imported(settings):
    """A missing transport, such as that of an extra, names the alias."""
    configured(settings, f"{__name__}.NoNetwork", color="blue")
    with pytest.raises(InvalidPushBackend, match=r"\['main'\]: its transport cannot be imported"):
        push_backends["main"]


# --- the handler ----------------------------------------------------------------------------------


def test_handler_reads_like_a_dictionary(settings):
    """Aliases are listed and looked up without making a backend."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": "nowhere.X"}, "b": {"BACKEND": LOCMEM}}
    assert list(push_backends) == ["a", "b"]
    assert ("a" in push_backends, "c" in push_backends) == (True, False)
    assert push_backends["b"].alias == "b"


def test_infer(settings):
    """A token's form names its alias where only one accepts it."""
    settings.PUSH_BACKENDS = {
        "expo": {"BACKEND": EXPO},
        "gcm": {"BACKEND": GCM, "OPTIONS": {"endpoint": "https://relay.example/", "api_key": "x"}},
    }
    assert push_backends.infer("ExponentPushToken[abc]") == "expo"
    assert push_backends.infer("plain-token") == "gcm"
    with pytest.raises(AmbiguousBackend, match="No alias in PUSH_BACKENDS accepts"):
        push_backends.infer("with a blank")


def test_infer_between_two(settings):
    """A form that several aliases accept is an error that lists them, without the token."""
    relay = {"BACKEND": GCM, "OPTIONS": {"endpoint": "https://relay.example/", "api_key": "x"}}
    settings.PUSH_BACKENDS = {"one": relay, "two": relay}
    with pytest.raises(AmbiguousBackend, match="Name the backend: 'one', 'two' accept") as raised:
        push_backends.infer("canary-token")
    assert "canary" not in str(raised.value)


# --- the service account key's forms --------------------------------------------------------------


def key_file(tmp_path, content):
    path = tmp_path / "key.json"
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    "give",
    [
        lambda path: path,
        str,
        lambda path: KEY,
        lambda path: json.dumps(KEY),
        lambda path: f"\n  {json.dumps(KEY)}",
        lambda path: lambda: KEY,
        lambda path: lambda: json.dumps(KEY),
        lambda path: lambda: path,
        lambda path: lambda: str(path),
    ],
    ids=["path", "text path", "dict", "JSON", "JSON, indented", "callable dict", "JSON", "path", "text path"],
)
def test_key_forms(settings, tmp_path, give):
    """A service account key is a path, a dictionary, JSON text, or a callable that returns one."""
    configured(settings, FCM, service_account_key=give(key_file(tmp_path, json.dumps(KEY))))
    made = push_backends["main"]
    assert made.url == "https://fcm.googleapis.com/v1/projects/my-project/messages:send"
    assert TargetKind.TOPIC in made.kinds


def missing():
    raise LookupError("canary: no such secret in the vault")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "service_account_key: give a path"),
        (5, "service_account_key: give a path"),
        (None, "service_account_key: give a path"),
        ("/nowhere/key.json", "service_account_key: No such file or directory"),
        (pathlib.Path("/"), "service_account_key: Is a directory"),
        ("{canary", "service_account_key: it is not JSON"),
        ("{}", "service_account_key: its type is not 'service_account'"),
        (lambda: "[1]", "service_account_key"),
        ({**KEY, "type": "authorized_user"}, "its type is not 'service_account'"),
        ({**KEY, "type": "external_account"}, "its type is not 'service_account'"),
        ({**KEY, "private_key": ""}, "private_key missing"),
        ({**KEY, "client_email": None}, "client_email missing"),
        ({**KEY, "project_id": None}, "project_id is missing"),
        ({**KEY, "project_id": "../../evil"}, "project_id is missing"),
        ({**KEY, "token_uri": "https://evil.example/token"}, "token_uri must be"),
        ({**KEY, "token_uri": "http://oauth2.googleapis.com/token"}, "token_uri must be https"),
        ({**KEY, "token_uri": "http://127.0.0.1:1/token"}, "token_uri must be"),
        ({**KEY, "token_uri": "https://me@oauth2.googleapis.com/token"}, "token_uri must not hold"),
        ({**KEY, "token_uri": "https://oauth2.googleapis.com@evil.example/token"}, "token_uri must not hold"),
        ({**KEY, "token_uri": "https://oauth2.googleapis.com\\@evil.example/token"}, "token_uri must"),
        ({**KEY, "token_uri": "https://oauth2.googleapis.com.evil.example/token"}, "token_uri must be"),
        ({**KEY, "token_uri": "https://oauth2.googleapis.com/other"}, "token_uri must be"),
        ({**KEY, "token_uri": "file:///etc/passwd"}, "token_uri must be"),
        ({**KEY, "token_uri": 5}, "token_uri must be"),
        ({**KEY, "private_key": "canary"}, "its private_key cannot be read"),
        ({**KEY, "private_key": 5}, "its private_key cannot be read"),
        ({**KEY, "private_key": KEY["private_key"][:200]}, "its private_key cannot be read"),
        (missing, "LookupError"),
    ],
)
def test_bad_key(settings, key, reason):
    """A key that is missing, cut short, of another type or from elsewhere names the alias."""
    configured(settings, FCM, service_account_key=key)
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends["main"]
    assert str(raised.value).startswith("PUSH_BACKENDS['main']: ")
    assert reason in str(raised.value)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("content", ["", '{"type": "service_acc', "\x00", "[]", "null", "[" * 100_000])
def test_bad_key_file(settings, tmp_path, content):
    """A key file that is empty, cut short or something else names the alias."""
    configured(settings, FCM, service_account_key=key_file(tmp_path, content))
    with pytest.raises(InvalidPushBackend, match=r"PUSH_BACKENDS\['main'\]: "):
        push_backends["main"]


def test_key_file_that_is_no_text(settings, tmp_path):
    """A binary key file, such as a PKCS#12 one, names the alias and shows none of its bytes."""
    path = tmp_path / "key.p12"
    path.write_bytes(b"canary\xff\xfe")
    configured(settings, FCM, service_account_key=path)
    with pytest.raises(InvalidPushBackend, match=r"PUSH_BACKENDS\['main'\]: ") as raised:
        push_backends["main"]
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_project_id(settings):
    """The project may be named in the options, where the key is of another project."""
    configured(settings, FCM, service_account_key=KEY, project_id="other-project")
    assert "/projects/other-project/" in push_backends["main"].url
