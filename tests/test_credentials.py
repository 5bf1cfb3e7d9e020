"""Bearer tokens are bought once for many threads, ahead of time, and a failure is told for what it is."""

import json
import os
import sys
import threading
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from django_push import credentials
from django_push.credentials import ServiceAccountCredentials, StaticCredentials
from django_push.exceptions import InvalidPushBackend
from django_push.handler import Channel, push_backends
from django_push.outcomes import Outcome
from django_push.transport.base import CredentialsFailed
from django_push.transport.fake import FakeTransport
from django_push.wire import Failure, Reply, Request, Secret, ServiceAccountAuth, StaticAuth


def pem(key, password=None):
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked).decode()


_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
KEY = {
    "type": "service_account",
    "project_id": "my-project",
    "private_key_id": "0" * 40,
    "private_key": pem(_RSA),
    "client_email": "push@my-project.iam.gserviceaccount.com",
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


def sold(token="token-1", expires_in=3600, **more):
    return Reply(
        status=200, body=json.dumps({"access_token": token, "expires_in": expires_in, **more}).encode()
    )


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self):
        self.ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(credentials, "time", clock)
    return clock


class Shop(FakeTransport):
    """An OAuth server that sells token-1, token-2, …, or gives the replies it was told to."""

    def __init__(self, *replies, delay=0.0):
        super().__init__(self.sell)
        self.replies = list(replies)
        self.delay = delay

    def sell(self, request):
        time.sleep(self.delay)
        return self.replies.pop(0) if self.replies else sold(f"token-{len(self.requests)}")


def account(shop, key=KEY):
    return ServiceAccountCredentials(ServiceAccountAuth(key=Secret(key), scope=SCOPE), shop)


def outcome_of(call):
    try:
        return call()
    except CredentialsFailed as error:
        return error.code


def in_threads(count, work):
    results = []
    threads = [threading.Thread(target=lambda: results.append(outcome_of(work))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- buying ---------------------------------------------------------------------------------------


def test_static():
    """A static Authorization is given as it is, and never renewed."""
    static = StaticCredentials(StaticAuth(header=Secret("key=x")))
    static.renew()
    assert static() == "key=x"


def test_what_is_asked_for():
    """A signed assertion for the scope goes to Google's token endpoint."""
    shop = Shop()
    assert account(shop)() == "Bearer token-1"
    [request] = shop.requests
    assert request.url == "https://oauth2.googleapis.com/token"
    assert b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" in request.body
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_one_purchase_for_many_threads():
    """Threads that need a token at once share one purchase."""
    shop = Shop(delay=0.1)
    assert in_threads(20, account(shop)) == ["Bearer token-1"] * 20
    assert len(shop.requests) == 1


def test_kept(clock):
    """A token is used until it is nearly expired."""
    shop = Shop()
    made = account(shop)
    for clock.ahead in (0.0, 1000.0, 3000.0):
        assert made() == "Bearer token-1"
    assert len(shop.requests) == 1


def test_renewed_ahead(clock):
    """Before it expires one thread renews the token; the others go on with the old one."""
    shop = Shop()
    made = account(shop)
    made()
    clock.ahead, shop.delay = 3400.0, 0.2
    results = in_threads(10, made)
    assert (results.count("Bearer token-1"), results.count("Bearer token-2")) == (9, 1)
    assert made() == "Bearer token-2"
    assert len(shop.requests) == 2


def test_failed_renewal_is_forgiven(clock):
    """While the old token serves, a failed renewal hurts nobody and is not repeated at once."""
    shop = Shop(sold("old"), Reply(status=503), sold("new"))
    made = account(shop)
    made()
    clock.ahead = 3400.0
    assert [made() for _ in range(5)] == ["Bearer old"] * 5
    assert len(shop.requests) == 2
    clock.ahead += credentials.PAUSE
    assert made() == "Bearer new"


def test_expired(clock):
    """An expired token is not sent: everybody waits for the new one."""
    shop = Shop()
    made = account(shop)
    made()
    clock.ahead, shop.delay = 3600.0, 0.1
    assert in_threads(5, made) == ["Bearer token-2"] * 5
    assert len(shop.requests) == 2


@pytest.mark.parametrize("expires_in", [0, -1, 1, 60, "60"])
def test_short_life(expires_in):
    """A token with a short life is not bought anew for each request."""
    shop = Shop(sold(expires_in=expires_in))
    made = account(shop)
    assert [made() for _ in range(10)] == ["Bearer token-1"] * 10
    assert len(shop.requests) == 1


def test_unbelievable_life(clock):
    """A token is not kept for years, whatever the answer says."""
    shop = Shop(sold(expires_in=10**8))
    made = account(shop)
    made()
    clock.ahead = 2 * 86_400.0
    assert made() == "Bearer token-2"


def test_renew_after_a_refusal(clock):
    """A refused token is replaced once, however many requests were refused with it."""
    shop = Shop()
    made = account(shop)
    made()
    clock.ahead = 60.0
    for _ in range(3):
        made.renew()
    assert made() == "Bearer token-2"
    for _ in range(3):
        made.renew()  # answers to requests that were on their way
    assert made() == "Bearer token-2"
    assert len(shop.requests) == 2


# --- failing --------------------------------------------------------------------------------------

INVALID_GRANT = b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}'


@pytest.mark.parametrize(
    ("reply", "code", "transient"),
    [
        (Reply(status=400, body=INVALID_GRANT), "OAuth invalid_grant", False),
        (Reply(status=401, body=b'{"error":"invalid_client"}'), "OAuth invalid_client", False),
        (Reply(status=403, body=b"<html>"), "OAuth HTTP 403", False),
        (Reply(status=404), "OAuth HTTP 404", False),
        (
            Reply(status=400, body=b'{"error":"temporarily_unavailable"}'),
            "OAuth temporarily_unavailable",
            True,
        ),
        (Reply(status=400, body=b'{"error":{"canary":1}}'), "OAuth HTTP 400", False),
        (Reply(status=400, body=b'{"error":"canary canary"}'), "OAuth HTTP 400", False),
        (Reply(status=429), "OAuth HTTP 429", True),
        (Reply(status=408), "OAuth HTTP 408", True),
        (Reply(status=500, body=INVALID_GRANT), "OAuth invalid_grant", True),
        (Reply(status=503), "OAuth HTTP 503", True),
        (Reply(status=302), "OAuth HTTP 302", True),
        (Reply(failure=Failure.NEVER_SENT, reason="gaierror"), "OAuth gaierror", True),
        (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), "OAuth timeout", True),
        (Reply(status=200), "OAuth HTTP 200", True),
        (Reply(status=200, body=b"<html>login</html>"), "OAuth HTTP 200", True),
        (Reply(status=200, body=b"\xff\xfe"), "OAuth HTTP 200", True),
        (Reply(status=200, body=b"[]"), "OAuth HTTP 200", True),
        (Reply(status=200, body=b'"text"'), "OAuth HTTP 200", True),
        (Reply(status=200, body=b"[" * 100_000), "OAuth HTTP 200", True),
        (Reply(status=200, body=b'{"access_token":"x"}'), "OAuth HTTP 200", True),
        (sold(token=None), "OAuth HTTP 200", True),
        (sold(token=5), "OAuth HTTP 200", True),
        (sold(token=""), "OAuth HTTP 200", True),
        (sold(token="canary\r\nX-Evil: 1"), "OAuth HTTP 200", True),
        (sold(expires_in="soon"), "OAuth HTTP 200", True),
        (sold(expires_in=None), "OAuth HTTP 200", True),
        (sold(expires_in=[]), "OAuth HTTP 200", True),
        (sold(expires_in=10**30), "OAuth HTTP 200", True),
    ],
)
def test_no_token(reply, code, transient):
    """A refusal by the OAuth server is told from trouble, at once and without its text."""
    shop = Shop(reply)
    start = time.monotonic()
    with pytest.raises(CredentialsFailed) as raised:
        account(shop)()
    assert (code, transient) == (raised.value.code, raised.value.transient)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    # google-auth would ask three times, and sleep for three seconds.
    assert len(shop.requests) == 1
    assert time.monotonic() - start < 0.5


def test_trouble_passes():
    """After a failure the next request asks again."""
    made = account(Shop(Reply(status=503), sold("new")))
    assert [outcome_of(made) for _ in range(2)] == ["OAuth HTTP 503", "Bearer new"]


def test_a_failure_is_shared():
    """Threads that waited for a purchase which failed do not each try it again."""
    shop = Shop(*[Reply(failure=Failure.MAYBE_SENT, reason="timeout")] * 20, delay=0.2)
    start = time.monotonic()
    assert in_threads(20, account(shop)) == ["OAuth timeout"] * 20
    assert time.monotonic() - start < 1.5
    assert len(shop.requests) < 5


def test_a_key_that_cannot_sign(monkeypatch):
    """A key that turns out not to sign is a refusal; nothing is asked for."""
    shop = Shop()
    made = account(shop)

    class Broken:
        def refresh(self, carrier):
            raise TypeError("canary")

    made._credentials = Broken()
    with pytest.raises(CredentialsFailed) as raised:
        made()
    assert (raised.value.code, raised.value.transient) == ("OAuth BadKey", False)


@pytest.mark.parametrize(
    "private_key",
    [
        pytest.param("canary", id="text"),
        pytest.param("-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n", id="no key"),
        pytest.param(5, id="number"),
        pytest.param(b"\xff", id="bytes"),
        pytest.param(pem(_RSA, b"x"), id="encrypted"),
        pytest.param(pem(ec.generate_private_key(ec.SECP256R1())), id="elliptic curve"),
    ],
)
def test_unreadable_key(private_key):
    """A private key of any wrong form is a ValueError without a cause that could hold it."""
    with pytest.raises(ValueError, match="the private key cannot be read") as raised:
        account(Shop(), {**KEY, "private_key": private_key})
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork():
    """A child process does not inherit the lock that another thread held."""
    made = account(Shop())
    with made._lock:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if made() == "Bearer token-1" else 1)
    for _ in range(300):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        status = -1
    assert status == 0


# --- in the path ----------------------------------------------------------------------------------


@pytest.fixture
def fcm(settings):
    settings.PUSH_BACKENDS = {
        "fcm": {
            "BACKEND": "django_push.backends.fcm.FCMBackend",
            "OPTIONS": {"service_account_key": KEY},
        }
    }


def test_without_google_auth(fcm, monkeypatch):
    """Without the extra, the alias says which to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google", None)
    with pytest.raises(InvalidPushBackend) as raised:
        push_backends["fcm"]
    assert (
        str(raised.value)
        == "PUSH_BACKENDS['fcm']: google-auth is not installed; install django-push-tokens[fcm]."
    )


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(status=400, body=INVALID_GRANT), Outcome.CREDENTIALS_REJECTED),
        (Reply(status=503), Outcome.NOT_SENT),
        (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), Outcome.NOT_SENT),
        (Reply(status=200, body=b"<html>"), Outcome.NOT_SENT),
    ],
)
def test_outcome(fcm, reply, outcome):
    """A refused key is the credentials' fault; trouble at the OAuth server is a push not sent."""
    channel = push_backends.channel("fcm")
    fcm_server = FakeTransport(lambda request: Reply(status=200))
    made = account(Shop(reply))
    request = Request(url="https://fcm.googleapis.com/", body=b"{}")
    answer = fcm_server.fetch(request, made)
    assert fcm_server.requests == []
    [ticket] = channel.backend.parse(_to_one(channel), answer).tickets
    assert outcome is ticket.outcome


def _to_one(channel):
    from django_push.message import PushMessage
    from django_push.outcomes import Target

    [request] = channel.backend.build([(PushMessage(title="x"), [Target("token", 1)])])
    return request


def test_renewed_once_after_401(fcm):
    """A 401 buys one new token and sends again; a second 401 is the end."""
    channel = push_backends.channel("fcm")
    answered = FakeTransport(lambda request: Reply(status=401, body=b"{}"))
    first = channel.backend.parse(request := _to_one(channel), answered.fetch(request))
    assert (first.refresh_auth, len(first.resend)) == (True, 1)
    second = channel.backend.parse(first.resend[0], answered.fetch(first.resend[0]))
    assert [ticket.outcome for ticket in second.tickets] == [Outcome.CREDENTIALS_REJECTED]


def test_channel_renews(fcm, monkeypatch):
    """A channel passes the wish for a new token on; one without credentials has nothing to do."""
    channel = push_backends.channel("fcm")
    renewed = []
    monkeypatch.setattr(channel.credentials, "renew", lambda: renewed.append("now"))
    channel.renew_credentials()
    assert renewed == ["now"]
    Channel(channel.backend, channel.transport, None).renew_credentials()
