"""Bearer tokens that expire: bought over our own transport, by one thread at a time, ahead of time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from django.views.decorators.debug import sensitive_variables

from django_push.transport.base import CredentialsFailed, Transport
from django_push.wire import Reply, Request, Secret, ServiceAccountAuth, StaticAuth

#: A token is renewed this long before it expires, while the old one still serves; one with a short
#: life at half of it. Seconds.
RENEW_AHEAD = 300.0
#: A token with less than this left is not sent any more. Seconds.
LEAST_LEFT = 5.0
#: A refused token that is younger is not the reason for the refusal. Seconds.
FRESH = 5.0
#: A renewal ahead of time that failed is tried again after so long. Seconds.
PAUSE = 15.0
#: No token is believed to live longer, whatever the answer says. Seconds.
LONGEST_LIFE = 86_400.0


class StaticCredentials:
    """An Authorization header that never changes."""

    def __init__(self, auth: StaticAuth) -> None:
        self._header = auth.header

    def __call__(self) -> str:
        header: str = self._header.reveal()
        return header

    def renew(self) -> None:
        """Do nothing: there is no newer one."""


class ServiceAccountCredentials:
    """A Google service account's bearer token. Raises ImportError without google-auth, ValueError
    for a key that cannot be read."""

    @sensitive_variables()
    def __init__(self, auth: ServiceAccountAuth, transport: Transport) -> None:
        # Imported here, by name: the core must start without the extra, and without its cost.
        module = import_module("google.oauth2.service_account")
        self._credentials = _signer(module, auth)
        self._transport = transport
        self._header = Secret("")
        self._bought_at = self._renew_at = self._expires_at = float("-inf")
        self._failed_at, self._failure = float("-inf"), ("", True)
        self._after_fork()
        _accounts.add(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<ServiceAccountCredentials>"

    def __call__(self) -> str:
        now = time.monotonic()
        if now >= self._expires_at:
            with self._lock:
                self._buy(asked_at=now)
        elif now >= self._renew_at and self._lock.acquire(blocking=False):
            # The old one still serves: one thread renews it, and a failure is forgiven.
            try:
                self._renew_ahead()
            finally:
                self._lock.release()
        header: str = self._header.reveal()
        return header

    def renew(self) -> None:
        """Have another token bought because the provider refused this one, unless it is brand-new."""
        with self._lock:
            if time.monotonic() - self._bought_at > FRESH:
                self._expires_at = float("-inf")

    def _buy(self, *, asked_at: float) -> None:
        """Buy a token, unless somebody else has bought one, or failed to, while we waited for it."""
        if self._expires_at > time.monotonic():
            return
        if self._failed_at >= asked_at:
            code, transient = self._failure
            raise CredentialsFailed(code, transient=transient)
        try:
            self._refresh()
        except CredentialsFailed as error:
            self._failed_at, self._failure = time.monotonic(), (error.code, error.transient)
            raise

    def _renew_ahead(self) -> None:
        if self._renew_at > time.monotonic():  # done by another thread
            return
        try:
            self._refresh()
        except CredentialsFailed:
            self._renew_at = time.monotonic() + PAUSE

    @sensitive_variables()
    def _refresh(self) -> None:
        carrier = _Carrier(self._transport)
        began = time.monotonic()
        try:
            self._credentials.refresh(carrier)
            header = _header(self._credentials.token)
            life = _life(self._credentials.expiry)
        except Exception:  # noqa: BLE001 - google-auth reads answers that it does not expect with
            # errors of any kind, and its own hold the answer's text.
            header, life = "", 0.0
        if not header:
            raise carrier.failure()
        self._header = Secret(header)
        self._bought_at = time.monotonic()
        # However short its life, it serves for a moment: not every request is to buy another.
        least = self._bought_at + 1.0
        self._expires_at = max(began + life - LEAST_LEFT, least)
        self._renew_at = max(began + life - min(RENEW_AHEAD, life / 2), least)


@sensitive_variables()
def _signer(module: Any, auth: ServiceAccountAuth) -> Any:
    """Return google-auth's credentials. Raises ValueError without a cause: it could hold the key."""
    with contextlib.suppress(Exception):  # which errors there are depends on the key's form
        key = auth.key.reveal()
        made = module.Credentials.from_service_account_info(
            key,
            scopes=[auth.scope],
            # google-auth signs for Google whatever token_uri says; what an emulator is given must be
            # worth nothing there.
            additional_claims={"aud": key["token_uri"]},
        )
        made.sign_bytes(b"")  # a key on an elliptic curve is taken, but signs nothing
        return made
    raise ValueError("the private key cannot be read")


@sensitive_variables()
def _header(token: object) -> str:
    """Return the Authorization, or "" for what is no token."""
    is_token = isinstance(token, str) and re.fullmatch(r"[!-~]+", token)
    return f"Bearer {token}" if is_token else ""


def _life(expiry: datetime) -> float:
    """Return the seconds until google-auth's naive UTC time."""
    left = expiry.replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)
    return min(left.total_seconds(), LONGEST_LIFE)


class _Carrier:
    """The request callable that google-auth asks for, over our transport.

    google-auth gets to see good answers only: a bad one it would ask for twice more, asleep between.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        #: Status 0 without a failure: nothing was asked for, as the key signs nothing.
        self._reply = Reply(reason="BadKey")

    @sensitive_variables()
    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> _Answer:
        data = body.encode() if isinstance(body, str) else body or b""
        self._reply = self._transport.fetch(Request(url=url, body=data, headers=headers or {}))
        if self._reply.failure is not None or self._reply.status != 200:
            raise ConnectionError
        return _Answer(self._reply)

    def failure(self) -> CredentialsFailed:
        """Return what the last answer means: a refusal, or trouble that may pass."""
        reply = self._reply
        if reply.status == 0:
            return CredentialsFailed(f"OAuth {reply.reason}", transient=reply.failure is not None)
        error = _error_word(reply.body)
        passes = error in _PASSING or reply.status in (408, 429)
        is_refusal = (400 <= reply.status < 500 or bool(error)) and not passes and reply.status < 500
        return CredentialsFailed(f"OAuth {error or f'HTTP {reply.status}'}", transient=not is_refusal)


#: Errors of OAuth that may come with a 400 and pass (as google-auth has them).
_PASSING = ("internal_failure", "server_error", "temporarily_unavailable")


def _error_word(body: bytes) -> str:
    """Return OAuth's word for what is wrong, such as ``invalid_grant``, or ""."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    word = answer.get("error") if isinstance(answer, dict) else None
    return word if isinstance(word, str) and re.fullmatch(r"[a-z_]{1,40}", word) else ""


class _Answer:
    """google-auth's view of a reply."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.data = reply.body


_accounts: weakref.WeakSet[ServiceAccountCredentials] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Give each a lock that no thread of the parent process held at the fork."""
    for account in list(_accounts):
        account._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
