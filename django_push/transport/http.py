"""HTTP by requests: pooled, bounded, with one deadline, and exact about what may have been sent."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import requests
from django.views.decorators.debug import sensitive_variables
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from django_push.transport.base import Authorize, CredentialsFailed, Transport
from django_push.transport.deadline import Call, watchdog
from django_push.wire import Failure, Reply, Request

#: A reply above this, after decompression, is not read on. Bytes.
MAX_REPLY = 2 * 1024 * 1024
#: A connection idle for longer is not used again: a server or a NAT may have dropped it in silence,
#: and a request written to it would be lost as "maybe sent". Seconds.
MAX_IDLE = 50.0
USER_AGENT = "django-push-tokens"
_CHUNK = 64 * 1024
_current = threading.local()


class _Watched:
    """Tells the call that uses this connection when the first byte of its request is written."""

    sock: Any
    last_used = 0.0

    def connect(self) -> None:
        call: Call | None = getattr(_current, "call", None)
        if call is not None:
            call.connection = self
        super().connect()  # type: ignore[misc]
        if call is not None:
            call.written = False  # what a proxy's tunnel was told is not the request

    def send(self, data: Any) -> None:
        call: Call | None = getattr(_current, "call", None)
        if self.sock is None:
            self.connect()
        if call is not None:
            call.connection = self
            call.written = True
        self.last_used = time.monotonic()
        super().send(data)  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        """Asked by the pool before it hands the connection out again."""
        fresh = time.monotonic() - self.last_used < MAX_IDLE
        return fresh and super().is_connected  # type: ignore[misc]


class _Connection(_Watched, HTTPConnection):
    pass


class _SecureConnection(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    """requests' own adapter over the watched connections. It follows no redirect and retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class RequestsTransport(Transport):
    """Keeps its connections and threads between calls, and makes new ones after a fork."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lock = threading.Lock()
        self._pid = 0
        self._adapter: _Adapter
        self._threads: ThreadPoolExecutor

    def exchange(
        self, requests: Iterable[Request], authorize: Authorize | None = None
    ) -> Iterator[tuple[Request, Reply]]:
        source = iter(requests)
        first = next(source, None)
        if first is None:
            return
        second = next(source, None)
        if second is None:  # the common case of a signal: no thread is needed
            yield first, self.fetch(first, authorize)
            return
        self._open()
        done: SimpleQueue[tuple[Request, Reply]] = SimpleQueue()
        in_flight = 0
        for request in _chain(first, second, source):
            if in_flight > self.max_connections:  # one waits, so that no connection does
                yield done.get()
                in_flight -= 1
            self._threads.submit(self._work, request, authorize, done)
            in_flight += 1
        while in_flight:
            yield done.get()
            in_flight -= 1

    def _work(
        self,
        request: Request,
        authorize: Authorize | None,
        done: SimpleQueue[tuple[Request, Reply]],
    ) -> None:
        done.put((request, self.fetch(request, authorize)))

    @sensitive_variables()
    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        self._open()
        try:
            headers = {"Authorization": authorize()} if authorize else {}
        except CredentialsFailed as error:
            return error.reply()
        prepared = _prepare(request, headers)
        call = Call(self.timeout)
        _current.call = call
        watchdog.watch(call)
        try:
            reply = self._post(prepared, call)
            if call.expired:  # the end that was read may be the watchdog's doing
                raise TimeoutError
            return reply
        except Exception as error:  # noqa: BLE001 - whatever the network did is a reply, and no
            # traceback with the Authorization in its frames may leave this function.
            failure = Failure.MAYBE_SENT if call.written else Failure.NEVER_SENT
            return Reply(failure=failure, reason="timeout" if call.expired else _reason(error))
        finally:
            call.finish()
            _current.call = None

    @sensitive_variables()
    def _post(self, prepared: requests.PreparedRequest, call: Call) -> Reply:
        response = self._adapter.send(
            prepared,
            stream=True,
            timeout=call.remaining,
            verify=self.ca_bundle or True,
            proxies={"http": self.proxy, "https": self.proxy} if self.proxy else None,
        )
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = _read(response, headers.get("content-encoding", ""))
        except BaseException:
            response.raw.close()  # an unread rest would be taken for the next answer
            raise
        response.raw.release_conn()
        return Reply(status=response.status_code, headers=headers, body=body)

    def _open(self) -> None:
        """Make the connections' pool and the threads, once per process."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._adapter = _Adapter(
                    pool_connections=4, pool_maxsize=self.max_connections + 1, max_retries=0
                )
                self._threads = ThreadPoolExecutor(
                    self.max_connections, thread_name_prefix=f"django-push-{self.alias}"
                )
                self._pid = os.getpid()

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                self._threads.shutdown(wait=False)
                self._adapter.close()
            self._pid = 0


def _chain(first: Request, second: Request, rest: Iterator[Request]) -> Iterator[Request]:
    yield first
    yield second
    yield from rest


@sensitive_variables()
def _prepare(request: Request, extra: dict[str, str]) -> requests.PreparedRequest:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": USER_AGENT,
        **request.headers,
        **extra,
    }
    prepared = requests.PreparedRequest()
    prepared.prepare(method="POST", url=request.url, headers=headers, data=request.body)
    return prepared


def _read(response: requests.Response, encoding: str) -> bytes:
    """Return the body, decompressed, never holding more than MAX_REPLY of it. Raises ValueError."""
    inflate = None
    if encoding.strip().lower() in ("gzip", "deflate", "x-gzip"):
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    parts, size = [], 0
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        part = inflate.decompress(chunk, MAX_REPLY + 1 - size) if inflate else chunk
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY:
            raise ReplyTooLong
    if inflate and not inflate.eof and size:
        raise EOFError("the compressed reply is cut short")
    return b"".join(parts)


class ReplyTooLong(ValueError):
    """The reply is longer than any provider's."""


def _reason(error: BaseException) -> str:
    """Return one word for what failed: the innermost error's class. No text of it: it may hold URLs."""
    seen: BaseException = error
    for _ in range(10):
        inner = getattr(seen, "reason", None) or next(
            (a for a in seen.args if isinstance(a, BaseException)), seen.__cause__
        )
        if not isinstance(inner, BaseException):
            break
        seen = inner
    name = type(seen).__name__
    return "timeout" if "Timeout" in name or "timeout" in name else name
