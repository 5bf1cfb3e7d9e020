"""No key, bearer token or whole push token is in any repr, log or error page.

Canaries are planted for all of them; sends fail in every way, and whatever can be seen is searched.
"""

import contextlib
import copy
import json
import logging
import pickle
import sys

import pytest
from django.test import RequestFactory
from django.urls import path
from django.views.debug import ExceptionReporter

from django_push import Outcome, get_token_model, register_token, send_push
from django_push.backends.base import BasePushBackend
from django_push.exceptions import InvalidPushBackend
from django_push.handler import push_backends
from django_push.message import PushMessage
from django_push.outcomes import Target
from django_push.testing import fake_transport
from django_push.transport.base import CredentialsFailed
from django_push.transport.connections import Adapter
from django_push.wire import Failure, Reply, Secret, ServiceAccountAuth, StaticAuth
from tests.test_credentials import KEY
from tests.transport.conftest import serve  # noqa: F401 - a fixture

ACCESS_TOKEN = "canary-access-token-4711"
API_KEY = "canary-api-key-4712"
BEARER = "canary-bearer-4713"
PROXY_PASSWORD = "canary-proxy-4714"
EXPO_TOKEN = "ExponentPushToken[canary4715canary4715]"
FCM_TOKEN = "canary4716:canary4716canary4716canary4716"
PRIVATE_KEY = KEY["private_key"].splitlines()[3]
CANARIES = {
    "access token": ACCESS_TOKEN,
    "API key": API_KEY,
    "bearer": BEARER,
    "private key": PRIVATE_KEY,
    "private key's start": KEY["private_key"].splitlines()[1][:60],
    "Expo token": EXPO_TOKEN,
    "Expo token's inside": EXPO_TOKEN[18:-1],
    "FCM token": FCM_TOKEN,
}


def seen(text):
    """Return the names of the canaries that can be seen in a text."""
    text = text if isinstance(text, str) else repr(text)
    return [name for name, canary in CANARIES.items() if canary in text]


def aliases(base, **common):
    return {
        "expo": {
            "BACKEND": "django_push.backends.expo.ExpoBackend",
            "OPTIONS": {"access_token": ACCESS_TOKEN, "endpoint": f"{base}/expo", **common},
        },
        "gcm": {
            "BACKEND": "django_push.backends.gcm.GCMBackend",
            "OPTIONS": {"api_key": API_KEY, "endpoint": f"{base}/gcm", **common},
        },
        "fcm": {
            "BACKEND": "django_push.backends.fcm.FCMBackend",
            "OPTIONS": {"service_account_key": KEY, "endpoint": base, **common},
        },
    }


TOKENS = {"expo": EXPO_TOKEN, "gcm": FCM_TOKEN, "fcm": FCM_TOKEN}
SOLD = json.dumps({"access_token": BEARER, "expires_in": 3600}).encode()
#: Errors and tickets that repeat the token, as providers' do.
EXPO_ERROR = {"errors": [{"code": "VALIDATION_ERROR", "message": f'"{EXPO_TOKEN}" is not a token'}]}
GOOGLE_ERROR = {"error": {"status": "INVALID_ARGUMENT", "message": f"{FCM_TOKEN} is no token", "details": []}}
EXPO_TICKET = {
    "status": "error",
    "message": f'"{EXPO_TOKEN}" is not a registered push notification recipient',
    "details": {"error": "DeviceNotRegistered", "expoPushToken": EXPO_TOKEN},
}
GCM_RESULT = {"error": "NotRegistered"}


def echo(peer, **options):
    """Answer with an error that repeats the token."""
    path = peer.server.requests[-1][0].split()[1]
    peer.answer(json.dumps(EXPO_ERROR if path.startswith(b"/expo") else GOOGLE_ERROR).encode(), **options)


def tickets(peer):
    """Answer with a ticket that repeats the token."""
    path = peer.server.requests[-1][0].split()[1]
    said = {"data": [EXPO_TICKET]} if path.startswith(b"/expo") else {"results": [GCM_RESULT]}
    peer.answer(json.dumps(said).encode())


BROKEN_HEADERS = b"HTTP/1.1 200 OK\r\nX: y\r\nno header\r\nContent-Length: 2\r\n\r\n{}"

FAULTS = {
    "accepted": lambda peer: peer.answer(b'{"data":[{"status":"ok","id":"x"}],"name":"x"}'),
    "bad tickets": tickets,
    "refused": lambda peer: echo(peer, status="400 Bad Request"),
    "unauthorized": lambda peer: echo(peer, status="401 Unauthorized"),
    "forbidden": lambda peer: peer.answer(b"<html>", status="403 Forbidden"),
    "unregistered": lambda peer: echo(peer, status="404 Not Found"),
    "rate": lambda peer: echo(peer, status="429 Slow Down"),
    "down": lambda peer: echo(peer, status="503 Down"),
    "redirect": lambda peer: peer.answer(b"", "Location: http://127.0.0.1:9/", status="302 Found"),
    "html": lambda peer: peer.answer(b"<html>hello</html>"),
    "cut": lambda peer: (peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), peer.reset()),
    "broken headers": lambda peer: peer.send(BROKEN_HEADERS),
    "reset": lambda peer: peer.reset(),
    "hang": lambda peer: peer.hang(),
    "long": lambda peer: peer.answer(b"x" * 3_000_000),
}


def provider(fault):
    """Sell bearer tokens, and fail otherwise."""

    def handle(peer):
        while asked := peer.read_request():
            if b"POST /token" in asked[0]:
                peer.answer(SOLD)
            else:
                FAULTS[fault](peer)

    return handle


@contextlib.contextmanager
def all_logs():
    """Collect whatever any logger says, with the text of its exceptions."""
    lines = []

    class Collect(logging.Handler):
        def emit(self, record):
            lines.append(logging.Formatter("%(name)s %(message)s").format(record))
            lines.extend(map(repr, record.args if isinstance(record.args, tuple) else [record.args]))

    handler, root = Collect(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def chain(error):
    """Return the errors behind an error, with their arguments."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return [repr([e, str(e), e.args, vars(e)]) for e in found]


@pytest.fixture
def rows(db, configured):
    """One token in each alias."""
    return {alias: register_token(token, backend=alias)[0] for alias, token in TOKENS.items()}


@pytest.fixture
def configured(settings):
    settings.PUSH_BACKENDS = aliases("http://127.0.0.1:9", timeout=0.3)
    return settings


# --- sends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_sends(settings, serve, rows, fault):  # noqa: F811
    """However a send ends, nothing that is logged, returned or reachable shows a canary."""
    server = serve(provider(fault))
    timeout = 0.3 if fault == "hang" else 5.0
    settings.PUSH_BACKENDS = aliases(f"http://127.0.0.1:{server.port}", timeout=timeout)
    with all_logs() as lines:
        result = send_push(get_token_model().objects.all(), title="Hi", retry_budget=0)
    assert len(result) == 3
    assert len(lines) > 3
    assert seen("\n".join(lines)) == []
    assert seen([result, str(result), *result.tickets]) == []
    assert seen([str(ticket.detail) for ticket in result.tickets]) == []
    for alias in rows:
        channel = push_backends.channel(alias)
        assert seen([channel, channel.backend, channel.transport, channel.credentials]) == []
        assert seen([str(channel), str(channel.backend), channel.backend.auth, vars(channel.backend)]) == []
    # It was really used: the provider has seen each key.
    heads = b"".join(head for head, _ in server.requests)
    for canary in (ACCESS_TOKEN, API_KEY, BEARER):
        assert canary.encode() in heads


def test_nobody_listens(configured, rows):
    """A connection refused, for the provider and for OAuth, shows no canary."""
    with all_logs() as lines:
        result = send_push(get_token_model().objects.all(), title="Hi", retry_budget=0)
    assert result.counts == {Outcome.NOT_SENT: 3}
    assert seen("\n".join([*lines, repr(result)])) == []


def test_requests_and_replies(configured):
    """Requests and replies hide bodies, headers and whole tokens."""
    for alias, token in TOKENS.items():
        backend = push_backends[alias]
        for request in backend.build([(PushMessage(title="x"), [Target(token, 1)])]):
            reply = Reply(
                status=200,
                headers={"x": BEARER},
                body=json.dumps(EXPO_ERROR if alias == "expo" else GOOGLE_ERROR).encode(),
            )
            parsed = backend.parse(request, reply)
            assert seen([request, str(request), reply, str(reply), request.targets, request.groups]) == []
            assert seen([parsed, *parsed.tickets]) == []


# --- the secret itself ----------------------------------------------------------------------------


def test_secret():
    """A secret shows stars, and is neither pickled, copied nor put into JSON."""
    secret = Secret(API_KEY)
    texts = [repr(secret), str(secret), f"{secret}", "%s" % secret, "{!r:>20}".format(secret)]  # noqa: UP031, UP032
    assert seen(" ".join(texts)) == []
    assert secret.reveal() == API_KEY
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"A secret is not pickled\."):
            pickle.dumps(secret, protocol)
    for refuse in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            refuse(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    "value",
    [
        StaticAuth(header=Secret(f"key={API_KEY}")),
        ServiceAccountAuth(key=Secret(KEY), scope="x"),
    ],
)
def test_auth(value):
    """What holds a secret shows none and is not pickled."""
    assert seen([value, str(value)]) == []
    with pytest.raises(TypeError, match=r"A secret is not pickled\."):
        pickle.dumps(value)


@pytest.mark.parametrize("alias", TOKENS)
def test_backends_are_not_pickled(configured, alias):
    """A backend with a key cannot end up in a queue or a cache."""
    channel = push_backends.channel(alias)
    for part in (channel.backend, channel):
        with pytest.raises(TypeError):
            pickle.dumps(part)


# --- errors of settings ---------------------------------------------------------------------------

WRONG = {
    "unknown option": ("expo", {"acces_token": ACCESS_TOKEN}),
    "bad value": ("expo", {"timeout": -1}),
    "bad proxy": ("expo", {"proxy": f"socks5://me:{PROXY_PASSWORD}@proxy.example"}),
    "a key of another type": ("expo", {"access_token": [ACCESS_TOKEN]}),
    "an unprintable key": ("gcm", {"api_key": f"{API_KEY}\n"}),
    "a missing option": ("gcm", {"endpoint": None}),
    "another type of account": ("fcm", {"service_account_key": {**KEY, "type": "authorized_user"}}),
    "a key cut short": ("fcm", {"service_account_key": json.dumps(KEY)[:900]}),
    "an unreadable key": ("fcm", {"service_account_key": {**KEY, "private_key": PRIVATE_KEY}}),
    "a key from elsewhere": ("fcm", {"service_account_key": {**KEY, "token_uri": "https://evil.example"}}),
    "a callable that fails": ("fcm", {"service_account_key": lambda: {}[json.dumps(KEY)]}),
}


def wrong_settings(settings, kind):
    alias, options = WRONG[kind]
    configured = aliases("https://provider.example")
    configured[alias]["OPTIONS"].update(options)
    settings.PUSH_BACKENDS = configured
    return alias


@pytest.mark.parametrize("kind", WRONG)
def test_error_of_settings(settings, kind):
    """An error of settings holds no option's value, nor does any error behind it."""
    alias = wrong_settings(settings, kind)
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends[alias]
    assert seen(chain(raised.value)) == []
    assert PROXY_PASSWORD not in "".join(chain(raised.value))
    assert alias == raised.value.alias


def test_key_file_that_is_no_text(settings, tmp_path):
    """The bytes of a file that cannot be read as text are in no error behind the error."""
    file = tmp_path / "key.p12"
    file.write_bytes(PRIVATE_KEY.encode() + b"\xff\xfe")
    settings.PUSH_BACKENDS = aliases("https://x.example")
    settings.PUSH_BACKENDS["fcm"]["OPTIONS"]["service_account_key"] = file
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends["fcm"]
    assert seen(chain(raised.value)) == []


# --- Django's error page --------------------------------------------------------------------------


def page():
    """Return Django's technical 500 page for the error at hand, as an HTML page, a text and a mail."""
    request = RequestFactory().get("/")
    reporter = ExceptionReporter(request, *sys.exc_info())
    return reporter.get_traceback_html() + reporter.get_traceback_text()


@pytest.fixture(params=[True, False], ids=["DEBUG", "mail to the admins"])
def debug(request, settings):
    """In development Django hides no local variable, whatever is marked as sensitive."""
    settings.DEBUG = request.param
    return request.param


@pytest.mark.parametrize("kind", WRONG)
def test_page_for_settings(settings, debug, kind):
    """The error page about wrong settings shows no option's value."""
    alias = wrong_settings(settings, kind)
    html = ""
    try:
        push_backends[alias]
    except InvalidPushBackend:
        html = page()
    assert "InvalidPushBackend" in html
    assert "handler.py" in html
    assert seen(html) == []


def boom(*args, **kwargs):
    raise RuntimeError("boom")


def _adapter(monkeypatch):
    monkeypatch.setattr(Adapter, "send", boom)


def _new_connection(monkeypatch):
    monkeypatch.setattr("django_push.transport.connections.socket.getaddrinfo", boom)


def _http(monkeypatch):
    monkeypatch.setattr("http.client.HTTPConnection.putheader", boom)


def _read(monkeypatch):
    for name in ("expo.ExpoBackend", "gcm.GCMBackend", "fcm.FCMBackend"):
        monkeypatch.setattr(f"django_push.backends.{name}.read", boom)


def _parse(monkeypatch):
    monkeypatch.setattr(BasePushBackend, "parse", boom)


def _sign(monkeypatch):
    monkeypatch.setattr("google.oauth2.service_account.Credentials.refresh", boom)


def _authorize(monkeypatch):
    monkeypatch.setattr("django_push.credentials.StaticCredentials.__call__", boom)
    monkeypatch.setattr("django_push.credentials.ServiceAccountCredentials.__call__", boom)


@pytest.mark.parametrize(
    "where",
    [_adapter, _new_connection, _http, _read, _parse, _sign, _authorize],
    ids=lambda where: where.__name__.strip("_"),
)
@pytest.mark.parametrize("alias", TOKENS)
def test_page_for_a_bug(settings, serve, rows, debug, monkeypatch, where, alias):  # noqa: F811
    """A bug in the middle of a send is no error at all, or one whose page and log show no canary."""
    server = serve(provider("accepted"))
    settings.PUSH_BACKENDS = aliases(f"http://127.0.0.1:{server.port}")
    where(monkeypatch)
    html = ""
    with all_logs() as lines:
        try:
            send_push(rows[alias], title="Hi", retry_budget=0)
        except RuntimeError:
            html = page()
    assert seen(html) == []
    assert seen("\n".join(lines)) == []
    assert bool(html) is (where is _parse)


@pytest.mark.parametrize("alias", TOKENS)
def test_page_for_requests_that_fail(configured, debug, alias):
    """An error of the caller's own requests shows nothing of the transport's."""
    channel = push_backends.channel(alias)

    def requests():
        yield from channel.backend.build([(PushMessage(title="x"), [Target(TOKENS[alias], 1)])] * 3)
        raise RuntimeError("boom")

    try:
        with fake_transport(
            alias,
            lambda request: Reply(
                status=200, body=json.dumps(EXPO_ERROR if alias == "expo" else GOOGLE_ERROR).encode()
            ),
        ):
            list(push_backends.channel(alias).exchange(requests()))
    except RuntimeError:
        assert seen(page()) == []
    try:
        list(channel.exchange(requests()))
    except RuntimeError:
        assert seen(page()) == []


def test_page_for_an_answer_that_fails(rows, debug):
    """A bug in a test's own answers shows no key either."""
    with fake_transport("expo", boom):
        try:
            send_push(rows["expo"], title="Hi")
        except RuntimeError:
            assert seen(page()) == []


def _fail(request):
    push_backends["expo"]
    raise RuntimeError("boom")


urlpatterns = [path("fail", _fail)]


def test_page_of_the_site(configured, client):
    """The page dumps the settings, and the options' names make Django hide their values."""
    configured.DEBUG = True
    configured.ROOT_URLCONF = __name__
    client.raise_request_exception = False
    html = client.get("/fail").content.decode()
    assert "PUSH_BACKENDS" in html
    assert "access_token" in html
    assert "service_account_key" in html
    assert seen(html) == []


def test_failed_credentials():
    """An error of credentials has a code, and no more."""
    error = CredentialsFailed("OAuth invalid_grant", transient=False)
    assert (error.reply().failure, error.reply().reason) == (Failure.NO_CREDENTIALS, "OAuth invalid_grant")
