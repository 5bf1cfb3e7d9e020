"""A server on loopback that misbehaves as it is told: raw sockets, one thread per connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self._buffer = b""

    def read_request(self) -> tuple[bytes, bytes] | None:
        """Return the head and body of the next request, or None if the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(self._buffer) < length:
            if not self._fill():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        self.server.requests.append((head, body))
        return head, body

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    def answer(self, body: bytes = b"{}", *headers: str, status: str = "200 OK", length: bool = True) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes = b"", *, every: float = 0.05) -> None:
        """Send a byte at a time, then blanks, until the client has gone."""
        for at in range(10_000):
            self.send(data[at : at + 1] or b" ")
            if self.server.stopped.wait(every):
                return

    def flood(self, block: bytes, times: int) -> None:
        for _ in range(times):
            self.send(block)

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.server.stopped.wait(10)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Handler = Callable[[Peer], None]


class Server:
    """Accepts connections and lets ``handle`` do with each what it likes."""

    def __init__(self, handle: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self.handle = handle
        self.tls = tls
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._peers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._sock.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/send"

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            number = self.connections
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            if self.tls:
                try:
                    sock = self.tls.wrap_socket(sock, server_side=True)
                except OSError:
                    return
            self._peers.append(sock)
            self.handle(Peer(self, sock, number))
        except OSError:
            pass  # the client has gone, as it should
        finally:
            sock.close()
            with self._lock:
                self.open -= 1

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            peers = list(self._peers)
        for peer in [self._sock, *peers]:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer, socket.SHUT_RDWR)
        self._sock.close()
        for thread in self._threads:
            thread.join(5)


def polite(peer: Peer) -> None:
    """Answer every request with 200 and keep the connection."""
    while peer.read_request() is not None:
        peer.answer()


def once(act: Callable[[Peer], None]) -> Handler:
    """Read one request, then act."""

    def handle(peer: Peer) -> None:
        if peer.read_request() is not None:
            act(peer)

    return handle


def saying(raw: bytes) -> Handler:
    """Read one request, send these bytes and close."""
    return once(lambda peer: peer.send(raw))


def full_backlog() -> Iterator[int]:
    """Yield the port of a listening socket whose backlog is full, so that connecting to it hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(20):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    time.sleep(0.05)
    yield listener.getsockname()[1]
    for sock in [*fillers, listener]:
        sock.close()
