"""Google's OAuth token endpoint: a service account's signed assertion buys an access token of one hour."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django_push.emulator import keys
from django_push.emulator.exchange import Answer, Call, as_json
from django_push.emulator.state import ACCESS_TOKEN_LIFETIME, State

PATH = "/token"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/firebase.messaging",
        "https://www.googleapis.com/auth/cloud-platform",
    }
)
_GOOGLE = "oauth2.googleapis.com"
_TROUBLE = {
    "rate": (429, "rate_limit_exceeded"),
    "unavailable": (503, "temporarily_unavailable"),
    "internal": (500, "internal_failure"),
}
#: How far the clocks of client and server may be apart. Seconds.
_SKEW = 300


class _Refused(Exception):
    """The grant is refused: OAuth's error code, and a text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code, self.text = code, text


def answer(call: Call, state: State) -> Answer:
    """Answer a POST to ``/token``."""
    try:
        email = _check(call)
    except _Refused as refused:
        payload = {"error": refused.code, "error_description": refused.text}
        return as_json(400, payload, note=f"oauth: {refused.code}: {refused.text}")
    token = state.issue_access_token(email)
    bought = {"access_token": token, "expires_in": ACCESS_TOKEN_LIFETIME, "token_type": "Bearer"}
    return as_json(200, bought, note=f"oauth: access token for {email}")


def trouble(call: Call, word: str, /, *headers: tuple[str, str]) -> Answer:
    """Refuse because the endpoint cannot now: ``rate``, ``unavailable`` or ``internal``."""
    status, code = _TROUBLE[word]
    return as_json(status, {"error": code}, *headers, note=f"oauth: {code}")


def _check(call: Call) -> str:
    """Return the account that the assertion is of. Raises _Refused."""
    form = parse_qs(call.body.decode("ascii", "replace"), keep_blank_values=True)
    grant_type = form.get("grant_type", [""])[0]
    if grant_type != GRANT_TYPE:
        raise _Refused("unsupported_grant_type", f"Invalid grant_type: {grant_type}")
    assertion = form.get("assertion", [""])[0]
    if not assertion:
        raise _Refused("invalid_request", "Missing required parameter: assertion")
    header, claims, signature = _read(assertion)
    if header.get("alg") != "RS256":
        raise _Refused("invalid_grant", "Invalid JWT Signature.")
    _check_claims(claims, call.headers.get("host", ""))
    email = str(claims["iss"])
    signed = assertion.rpartition(".")[0].encode()
    if keys.verify(str(header.get("kid", "")), signed, signature) is False:
        raise _Refused("invalid_grant", "Invalid JWT Signature.")
    if email.startswith("wrong"):
        raise _Refused("invalid_grant", "Invalid grant: account not found")
    return email


def _read(assertion: str) -> tuple[Mapping[str, Any], Mapping[str, Any], bytes]:
    try:
        first, second, third = assertion.split(".")
        header, claims = json.loads(_decode(first)), json.loads(_decode(second))
        signature = _decode(third)
    except (ValueError, RecursionError):
        raise _Refused("invalid_grant", "Invalid JWT: it must have three parts of base64url.") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or not signature:
        raise _Refused("invalid_grant", "Invalid JWT: header and claims must be JSON objects.")
    return header, claims, signature


def _check_claims(claims: Mapping[str, Any], host: str) -> None:
    for name in ("iss", "aud"):
        if not isinstance(claims.get(name), str) or not claims[name]:
            raise _Refused("invalid_grant", f"Invalid JWT: {name} is missing.")
    audience = urlsplit(claims["aud"])
    if audience.path != PATH or audience.netloc not in (host, _GOOGLE):
        raise _Refused("invalid_grant", "Invalid JWT: Failed audience check.")
    # The client's clock is the real one, whatever the emulator's own was advanced to.
    now, issued, expires = time.time(), claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(expires, int):
        raise _Refused("invalid_grant", "Invalid JWT: iat and exp must be numbers.")
    if not (issued - _SKEW <= now <= expires + _SKEW and 0 < expires - issued <= ACCESS_TOKEN_LIFETIME):
        text = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        raise _Refused("invalid_grant", f"{text} Check your iat and exp values in the JWT claim.")
    if not SCOPES & set(str(claims.get("scope", "")).split()):
        raise _Refused("invalid_scope", "Empty or missing scope not allowed.")


def _decode(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
