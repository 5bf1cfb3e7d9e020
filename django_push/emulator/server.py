"""HTTP for the pure modules: a threaded server on a loopback address, with connections kept alive."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import urlsplit

from django_push.conf import emulator_url
from django_push.emulator import routes
from django_push.emulator.exchange import Answer, Call, Delivery, as_text
from django_push.emulator.faults import Faults
from django_push.emulator.state import Options, State

#: The longest body that is read, before and after decompression. Bytes.
MAX_BODY = 8 * 1024 * 1024
#: How long a client is kept waiting that does not hang up, and the time between a drip's bytes. Seconds.
MAX_SILENCE = 300.0
DRIP = 0.2
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
#: Linger for no time: what is closed so, is reset.
_NO_LINGER = struct.pack("ii", 1, 0)

#: Told one line for each request, tokens masked and credentials left out.
Log = Callable[[str], None]


@final
class Emulator:
    """A running server. Leaving the ``with`` block stops it.

    ``url`` is its base URL without a final slash, ``host`` the value for PUSH_EMULATOR_HOST, ``state``
    what it has seen.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.state = server.state
        self.host = server.host
        self.url = emulator_url(self.host)
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close every connection. Stopping twice does no harm."""
        self._server.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_connections()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def start_emulator(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    receipt_delay: float = 0.0,
    retry_after: int = 1,
    expo_access_token: str | None = None,
    gcm_key: str | None = None,
    fcm_project: str | None = None,
    faults: Faults | None = None,
    latency: float = 0.0,
    log: Log | None = None,
) -> Emulator:
    """Start the emulator in threads of this process; port 0 takes a free one.

    For the options see ``Options``, for faults and latency ``State``. Raises ImproperlyConfigured for
    a host that is no loopback address, OSError for a port that is taken.
    """
    emulator_url(f"[{host}]" if ":" in host else host)
    options = Options(
        receipt_delay=receipt_delay,
        retry_after=retry_after,
        expo_access_token=expo_access_token,
        gcm_key=gcm_key,
        fcm_project=fcm_project,
    )
    return Emulator(_Server(host, port, State(options, faults=faults, latency=latency), log))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, host: str, port: int, state: State, log: Log | None) -> None:
        self.state = state
        self.log = log
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        name = f"[{host}]" if ":" in host else host
        self.host = f"{name}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host's name that HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        if _lingers(request):
            super().shutdown_request(request)
        else:  # an orderly end before the reset would be what the client sees
            self.close_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def close_connections(self) -> None:
        """End the connections that clients keep alive, so that a stopped emulator is silent."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that hangs up be; a fault of the emulator itself is printed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        call = self._read()
        answer = routes.post(call, self.server.state) if isinstance(call, Call) else call
        if self.server.log is not None:
            self.server.log(f"POST {self.path} {answer.status or '-'} {answer.note}".rstrip())
        self._deliver(answer)

    def do_GET(self) -> None:
        self._write(routes.get(self._path(), self.server.state) if self._is_local() else _foreign())

    def _read(self) -> Call | Answer:
        """Return the request, or the answer that refuses to read it."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            return as_text(411, "Length Required")
        if len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            self.close_connection = True
            return as_text(413, "Request Entity Too Large")
        body = self.rfile.read(int(length))
        if not self._is_local():
            return _foreign()
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("content-encoding", "").lower() == "gzip":
            try:
                body = _unzip(body)
            except (ValueError, zlib.error):
                return as_text(400, "Bad Request", note="the body is no gzip")
        return Call(self._path(), headers, body)

    def _path(self) -> str:
        return urlsplit(self.path).path

    def _is_local(self) -> bool:
        """Whether the client meant us: a page in a browser can make its own name point here."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in _LOOPBACK
        except ValueError:  # a bracket that is not closed
            return False

    def _deliver(self, answer: Answer) -> None:
        """Let the answer go out as it asks for. Only a whole one leaves the connection open."""
        if answer.delay and self.server.stopping.wait(answer.delay):
            self.close_connection = True
            return
        if answer.delivery is Delivery.WHOLE:
            self._write(answer)
            return
        data = self._bytes(answer)
        self.close_connection = True
        match answer.delivery:
            case Delivery.RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            case Delivery.SILENCE:
                self.connection.settimeout(MAX_SILENCE)
                while self.connection.recv(4096):
                    pass
            case Delivery.CUT:
                self.wfile.write(data[: len(data) - (len(answer.body) + 1) // 2])
            case Delivery.DRIP:
                self._drip(data)

    def _drip(self, data: bytes) -> None:
        for place in range(len(data)):
            self.wfile.write(data[place : place + 1])
            if self.server.stopping.wait(DRIP):
                return

    def _write(self, answer: Answer) -> None:
        """Write head and body at once: two packets would wait for each other's acknowledgement."""
        self.wfile.write(self._bytes(answer))

    def _bytes(self, answer: Answer) -> bytes:
        reason = http.client.responses.get(answer.status, "")
        lines = [
            f"HTTP/1.1 {answer.status} {reason}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
            *(["Connection: close"] if self.close_connection else []),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.body

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the log is told by do_POST."""


def _unzip(body: bytes) -> bytes:
    """Return the decompressed body. Raises ValueError or zlib.error."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    text = inflate.decompress(body, MAX_BODY)
    if not inflate.eof:
        raise ValueError("cut short, or too long")
    return text


def _lingers(connection: socket.socket) -> bool:
    """Whether a connection is to end in order."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_NO_LINGER)) != _NO_LINGER


def _foreign() -> Answer:
    return as_text(421, "This emulator answers to a loopback address only.")
