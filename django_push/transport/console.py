"""Prints requests instead of sending them."""

from __future__ import annotations

import sys

from django_push.transport.base import Authorize, Transport
from django_push.wire import Reply, Request


class ConsoleTransport(Transport):
    """Writes each request's body to standard output."""

    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        sys.stdout.write(request.body.decode())
        sys.stdout.flush()
        return Reply(status=200)
