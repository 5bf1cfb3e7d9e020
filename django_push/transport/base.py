"""What carries requests: the contract that sending relies on, whatever the library underneath."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from django_push.wire import Failure, Reply, Request

#: Returns the Authorization header's value. Raises CredentialsFailed. May be called by any thread.
Authorize: TypeAlias = Callable[[], str]


class CredentialsFailed(Exception):
    """There is no Authorization. ``transient``: nobody refused us, so it may go better later."""

    def __init__(self, code: str, *, transient: bool) -> None:
        super().__init__(code)
        self.code = code
        self.transient = transient

    def reply(self) -> Reply:
        """Return what a request that could not be authorized comes back with."""
        failure = Failure.NEVER_SENT if self.transient else Failure.NO_CREDENTIALS
        return Reply(failure=failure, reason=self.code)


class Transport:
    """Takes requests and gives replies as they finish.

    It never retries, and never raises for what a provider or the network did. ``timeout`` is the
    total deadline of one request in seconds, ``max_connections`` the most in flight at once.
    """

    def __init__(
        self,
        *,
        alias: str,
        timeout: float,
        max_connections: int,
        proxy: str | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        self.alias = alias
        self.timeout = timeout
        self.max_connections = max_connections
        self.proxy = proxy
        self.ca_bundle = ca_bundle

    def exchange(
        self, requests: Iterable[Request], authorize: Authorize | None = None
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield each request with its reply, in the order in which they finish.

        ``requests`` is read in the calling thread and only as fast as replies come, so it may be
        endless and may use the database.
        """
        for request in requests:
            yield request, self.fetch(request, authorize)

    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        """Send one request and return its reply."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up connections and threads. A later call opens new ones."""


class NoTransport(Transport):
    """Carries nothing and answers 200."""

    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        return Reply(status=200)
