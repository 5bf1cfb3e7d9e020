"""A network of your own making, for tests of what a backend does with an answer."""

from __future__ import annotations

from collections.abc import Callable

from django_push.transport.base import Authorize, CredentialsFailed, Transport
from django_push.wire import Reply, Request


class FakeTransport(Transport):
    """Answers each request with what ``answer(request)`` returns, and keeps what it was given.

    ``requests`` holds the requests in order, ``authorizations`` the Authorization header of each.
    """

    def __init__(self, answer: Callable[[Request], Reply], *, alias: str = "fake") -> None:
        super().__init__(alias=alias, timeout=1.0, max_connections=1)
        self.answer = answer
        self.requests: list[Request] = []
        self.authorizations: list[str | None] = []

    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        try:
            self.authorizations.append(authorize() if authorize else None)
        except CredentialsFailed as error:
            return error.reply()
        self.requests.append(request)
        return self.answer(request)
