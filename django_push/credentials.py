"""Bearer tokens that expire: bought over our own transport, by one thread at a time, ahead of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timezone
from importlib import import_module
from typing import Any

from django.views.decorators.debug import sensitive_variables

from django_push.transport.base import CredentialsFailed, Transport
from django_push.wire import Reply, Request, Secret, ServiceAccountAuth, StaticAuth

#: A token is renewed this long before it expires, while the old one still serves. Seconds.
RENEW_AHEAD = 300.0
#: A refused token that is younger is not the reason for the refusal. Seconds.
FRESH = 5.0


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
        self._errors = import_module("google.auth.exceptions")
        self._credentials = module.Credentials.from_service_account_info(
            auth.key.reveal(), scopes=[auth.scope]
        )
        self._transport = transport
        self._lock = threading.Lock()
        self._header = Secret("")
        self._expires_at = 0.0
        self._bought_at = float("-inf")

    def __repr__(self) -> str:
        return "<ServiceAccountCredentials>"

    def __call__(self) -> str:
        left = self._expires_at - time.time()
        if left < RENEW_AHEAD:
            self._buy(is_urgent=left < FRESH)
        header: str = self._header.reveal()
        return header

    def renew(self) -> None:
        """Buy another token because the provider refused this one, unless it is brand-new."""
        with self._lock:
            if time.monotonic() - self._bought_at > FRESH:
                self._expires_at = 0.0

    def _buy(self, *, is_urgent: bool) -> None:
        """Buy a token; when the old one still serves, leave it to one thread and forgive a failure."""
        if not self._lock.acquire(blocking=is_urgent):
            return
        try:
            if self._expires_at - time.time() < RENEW_AHEAD:
                self._refresh()
        except CredentialsFailed:
            if is_urgent:
                raise
        finally:
            self._lock.release()

    @sensitive_variables()
    def _refresh(self) -> None:
        carrier = _Carrier(self._transport, self._errors.TransportError)
        try:
            self._credentials.refresh(carrier)
        except self._errors.GoogleAuthError:
            raise carrier.failure() from None
        self._header = Secret(f"Bearer {self._credentials.token}")
        self._expires_at = self._credentials.expiry.replace(tzinfo=timezone.utc).timestamp()
        self._bought_at = time.monotonic()


class _Carrier:
    """The request callable that google-auth asks for, over our transport."""

    def __init__(self, transport: Transport, error: type[Exception]) -> None:
        self._transport = transport
        self._error = error
        self._reply = Reply()

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
        if self._reply.failure is not None:
            raise self._error(self._reply.reason)
        return _Answer(self._reply)

    def failure(self) -> CredentialsFailed:
        """Return what the last answer means: a refusal, or trouble that may pass."""
        status = self._reply.status
        is_refusal = self._reply.failure is None and 200 <= status < 500 and status != 429
        code = self._reply.reason or f"OAuth HTTP {status}"
        return CredentialsFailed(code, transient=not is_refusal)


class _Answer:
    """google-auth's view of a reply."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.data = reply.body
