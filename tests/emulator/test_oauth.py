import base64
import json
import time
from urllib.parse import urlencode

import pytest

from django_push.emulator import oauth, service_account
from tests.emulator.calls import call, read

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


def encode(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def assertion(header=None, signature="c2ln", **changes):
    now = int(time.time())
    claims = {
        "iss": "push@shop.iam.gserviceaccount.com",
        "aud": "http://127.0.0.1:1/token",
        "scope": SCOPE,
        "iat": now,
        "exp": now + 3600,
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return f"{encode(header or {'alg': 'RS256', 'kid': 'unknown'})}.{encode(claims)}.{signature}"


def ask(state, **form):
    body = urlencode({"grant_type": oauth.GRANT_TYPE, **form}).encode()
    return oauth.answer(call("/token", body, host="127.0.0.1:1"), state)


def test_grant(state):
    """An assertion buys an access token of one hour, which FCM then knows."""
    answer = ask(state, assertion=assertion())
    payload = read(answer)
    assert (answer.status, payload["expires_in"], payload["token_type"]) == (200, 3600, "Bearer")
    assert state.access_token(payload["access_token"]).client_email == "push@shop.iam.gserviceaccount.com"


def test_google_audience(state):
    """An assertion made for Google's own address is taken as well, as is the wider scope."""
    scope = "https://www.googleapis.com/auth/cloud-platform openid"
    assert (
        ask(state, assertion=assertion(aud="https://oauth2.googleapis.com/token", scope=scope)).status == 200
    )


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({}, "invalid_request"),
        ({"assertion": "a.b"}, "invalid_grant"),
        ({"assertion": "a.b.c"}, "invalid_grant"),
        ({"assertion": f"{encode([])}.{encode({})}.c2ln"}, "invalid_grant"),
        ({"assertion": assertion(signature="")}, "invalid_grant"),
        ({"assertion": assertion(header={"alg": "none"})}, "invalid_grant"),
        ({"assertion": assertion(iss=None)}, "invalid_grant"),
        ({"assertion": assertion(aud=None)}, "invalid_grant"),
        ({"assertion": assertion(aud="https://example.com/token")}, "invalid_grant"),
        ({"assertion": assertion(aud="http://127.0.0.1:1/other")}, "invalid_grant"),
        ({"assertion": assertion(exp=None)}, "invalid_grant"),
        ({"assertion": assertion(exp=1)}, "invalid_grant"),
        ({"assertion": assertion(iat=2**33, exp=2**33 + 60)}, "invalid_grant"),
        ({"assertion": assertion(exp=int(time.time()) + 7200)}, "invalid_grant"),
        ({"assertion": assertion(scope=None)}, "invalid_scope"),
        ({"assertion": assertion(scope="openid")}, "invalid_scope"),
        ({"assertion": assertion(iss="wrong@shop.iam.gserviceaccount.com")}, "invalid_grant"),
    ],
)
def test_refused(state, form, code):
    """Whatever is wrong with a grant is OAuth's error with status 400."""
    answer = ask(state, **form)
    assert (answer.status, read(answer)["error"]) == (400, code)


def test_known_key(state):
    """A signature is checked where the key is one of this process."""
    account = service_account()
    header = {"alg": "RS256", "kid": account["private_key_id"]}
    assert ask(state, assertion=assertion(header=header)).status == 400
    jwt = pytest.importorskip("google.auth.jwt")
    signer = pytest.importorskip("google.auth.crypt").RSASigner.from_service_account_info(account)
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "aud": "http://127.0.0.1:1/token",
        "scope": SCOPE,
        "iat": now,
        "exp": now + 60,
    }
    assert ask(state, assertion=jwt.encode(signer, claims).decode()).status == 200
