"""The connections under requests: watched by a deadline, exact about what may have been sent.

requests' HTTPAdapter keeps and finds them; nothing here follows a redirect, tries again, or reads the
environment.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from django_push.transport.deadline import Call

#: A connection idle for longer is not used again: a server or a NAT may have dropped it in silence,
#: and a request written to it would be lost as "maybe sent". Seconds.
MAX_IDLE = 50.0


class _Current(threading.local):
    """The call that this thread is busy with."""

    call: Call


current = _Current()


class _Watched:
    """A connection that works within the current call's deadline and tells it what it does."""

    sock: Any
    last_used = 0.0
    _is_open = False

    def connect(self) -> None:
        self._is_open = False
        super().connect()  # type: ignore[misc]
        self._is_open = True

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        call = current.call
        call.uses(self.sock)
        if self._is_open:  # what a proxy's tunnel is told before is not the request
            call.written = True
        self.last_used = time.monotonic()
        super().send(data)  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        """Asked by the pool before it hands the connection out again."""
        fresh = time.monotonic() - self.last_used < MAX_IDLE
        return fresh and super().is_connected  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        """Connect to one address of the host after the other, all of them within the deadline."""
        call = current.call
        host, port = self._dns_host.strip("[]"), self.port  # type: ignore[attr-defined]
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failed: OSError | None = None
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(call.remaining / (len(addresses) - tried))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failed = error
                continue
            call.uses(sock)
            sock.settimeout(call.remaining)  # a TLS handshake takes this for its total
            return sock
        raise failed or OSError("the host has no address")

    def _tunnel(self) -> None:
        super()._tunnel()  # type: ignore[misc]
        self.sock.settimeout(current.call.remaining)


class _Connection(_Watched, HTTPConnection):
    pass


class _SecureConnection(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class Adapter(HTTPAdapter):
    """requests' own adapter over the watched connections.

    It has one TLS context for all of them, which always verifies: loading the authorities anew for
    each connection, as requests does, costs more than a hundred requests. Raises OSError if
    ``ca_bundle`` cannot be read.
    """

    def __init__(self, *, connections: int, ca_bundle: str | None) -> None:
        self._tls = create_urllib3_context()
        path = ca_bundle or DEFAULT_CA_BUNDLE_PATH
        self._tls.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._tls, proxy_ssl_context=self._tls, **kwargs
        )
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, *args: Any) -> None:
        """Do nothing: the context verifies."""

    def build_response(self, req: Any, resp: Any) -> Any:
        """Return urllib3's response as it is: there is no use for cookies and a history."""
        return resp
