"""HTTP by requests: pooled, bounded, with one deadline, and exact about what may have been sent."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import requests
from django.views.decorators.debug import sensitive_variables

from django_push.transport.base import Authorize, CredentialsFailed, Transport
from django_push.transport.connections import Adapter, current
from django_push.transport.deadline import Call, watchdog
from django_push.wire import Failure, Reply, Request

#: A reply above this, before or after decompression, is not read on. Bytes.
MAX_REPLY = 2 * 1024 * 1024
USER_AGENT = "django-push-tokens"
_CHUNK = 64 * 1024


class RequestsTransport(Transport):
    """Keeps its connections and threads between calls, and makes new ones after a fork."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._after_fork()
        _transports.add(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._live: _Live | None = None

    def exchange(
        self, requests: Iterable[Request], authorize: Authorize | None = None
    ) -> Iterator[tuple[Request, Reply]]:
        errors: list[Exception] = []
        source = _until_error(requests, errors)
        first, second = next(source, None), next(source, None)
        if first is None:
            pass
        elif second is not None:
            yield from self._in_threads(itertools.chain([first, second], source), authorize)
        elif threading.current_thread() is threading.main_thread():  # a signal may come, as Ctrl-C
            yield from self._in_threads([first], authorize)
        else:  # the common case of a web server's thread
            yield first, self.fetch(first, authorize)
        if errors:
            raise errors[0]

    def _in_threads(
        self, requests: Iterable[Request], authorize: Authorize | None
    ) -> Iterator[tuple[Request, Reply]]:
        batch = _Batch(authorize)
        in_flight = 0
        try:
            for request in requests:
                if in_flight > self.max_connections:  # one waits, so that no connection does
                    yield batch.next()
                    in_flight -= 1
                if batch.interrupt is not None:
                    break
                self._submit(request, batch)
                in_flight += 1
            while in_flight:
                yield batch.next()
                in_flight -= 1
        finally:
            batch.is_wanted = False
        if batch.interrupt is not None:
            raise batch.interrupt

    def _submit(self, request: Request, batch: _Batch) -> None:
        with self._lock:  # against a close in between
            self._opened().threads.submit(self._work, request, batch)

    def _work(self, request: Request, batch: _Batch) -> None:
        if not batch.is_wanted:  # nobody listens any more
            return
        reply = Reply(failure=Failure.MAYBE_SENT, reason="aborted")
        try:
            reply = self.fetch(request, batch.authorize)
        finally:  # whatever happens: the caller waits for one reply per request
            batch.done.put((request, reply))

    @sensitive_variables()
    def fetch(self, request: Request, authorize: Authorize | None = None) -> Reply:
        """Send one request and return its reply; before that, wait for one of the connections.

        The wait takes no longer than ``timeout``, which then begins anew.
        """
        call = Call(self.timeout)
        try:
            headers = _headers(request, authorize)
            live = self._open()
            if not live.slots.acquire(timeout=self.timeout):
                return Reply(failure=Failure.NEVER_SENT, reason="busy")
            try:
                current.call = call = Call(self.timeout)
                watchdog.watch(call)
                return self._post(live, request, headers, call)
            finally:
                watchdog.forget(call)
                live.slots.release()
        except CredentialsFailed as error:
            return error.reply()
        except Exception as error:  # noqa: BLE001 - whatever the network did is a reply, and no
            # traceback with the Authorization in its frames may leave this function.
            failure = Failure.MAYBE_SENT if call.written else Failure.NEVER_SENT
            return Reply(failure=failure, reason="timeout" if call.expired else _reason(error))

    @sensitive_variables()
    def _post(self, live: _Live, request: Request, headers: dict[str, str], call: Call) -> Reply:
        # Session.prepare_request would cost as much again as the request, for cookies, netrc and
        # encodings that have no place here.
        prepared: Any = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = "POST", request.url, request.body
        prepared.headers = headers
        response: Any = live.adapter.send(
            prepared,
            stream=True,
            timeout=call.remaining,
            proxies={"http": self.proxy, "https": self.proxy} if self.proxy else None,
        )
        try:
            if response.status < 200 or response._original_response.msg.defects:
                # An interim answer, with the real one still to come; or headers that break off.
                raise BrokenReply
            named = {name.lower(): value for name, value in response.headers.itermerged()}
            reply = Reply(
                status=response.status,
                headers=named,
                body=_read(response, named.get("content-encoding", "")),
            )
            call.finish()
            if call.expired:  # the end that was read may be the watchdog's doing
                raise TimeoutError
        except BaseException:
            response.close()  # an unread rest would be taken for the next answer
            raise
        response.release_conn()
        return reply

    def _open(self) -> _Live:
        live = self._live
        if live is None:
            with self._lock:
                live = self._opened()
        return live

    def _opened(self) -> _Live:
        if self._live is None:
            self._live = _Live(self)
        return self._live

    def close(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.threads.shutdown(wait=False)
            live.adapter.close()


class _Live:
    """What a transport has open in this process: connections, threads, and how many may be in use."""

    def __init__(self, transport: Transport) -> None:
        most = transport.max_connections
        self.adapter = Adapter(connections=most, ca_bundle=transport.ca_bundle)
        self.threads = ThreadPoolExecutor(most, thread_name_prefix=f"django-push-{transport.alias}")
        self.slots = threading.BoundedSemaphore(most)


@dataclass(slots=True)
class _Batch:
    """One exchange, as the threads that work for it see it."""

    authorize: Authorize | None
    done: SimpleQueue[tuple[Request, Reply]] = field(default_factory=SimpleQueue)
    is_wanted: bool = True
    #: Ctrl-C or a time limit, put aside until what is in flight has been answered.
    interrupt: BaseException | None = None

    def next(self) -> tuple[Request, Reply]:
        """Wait for the next reply; the first interrupt does not end the wait, the second does."""
        while True:
            try:
                return self.done.get()
            except BaseException as error:  # noqa: PERF203 - the wait is what the loop is for
                if self.interrupt is not None:
                    raise
                self.interrupt = error


def _until_error(requests: Iterable[Request], errors: list[Exception]) -> Iterator[Request]:
    """Yield the requests; put an error of theirs aside until what is in flight has been answered."""
    try:
        yield from requests
    except Exception as error:  # noqa: BLE001 - raised by exchange, at its end
        errors.append(error)


@sensitive_variables()
def _headers(request: Request, authorize: Authorize | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": USER_AGENT,
        "Content-Length": str(len(request.body)),
        **request.headers,
    }
    if authorize is not None:
        headers["Authorization"] = authorize()
    return headers


def _read(response: Any, encoding: str) -> bytes:
    """Return the body, decompressed, never holding more than MAX_REPLY of it. Raises ValueError."""
    inflate = None
    if encoding.strip().lower() in ("gzip", "deflate", "x-gzip"):
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    parts, received, size = [], 0, 0
    for chunk in response.stream(_CHUNK, decode_content=False):
        received += len(chunk)
        part = inflate.decompress(chunk, MAX_REPLY + 1 - size) if inflate else chunk
        parts.append(part)
        size += len(part)
        if max(size, received) > MAX_REPLY:
            raise ReplyTooLong
    if inflate and received and not inflate.eof:
        raise EOFError("the compressed reply is cut short")
    return b"".join(parts)


class ReplyTooLong(ValueError):
    """The reply is longer than any provider's."""


class BrokenReply(ValueError):
    """The status is 1xx and ends nothing, or the headers are no headers."""


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
    return "timeout" if "timeout" in name.lower() else name


_transports: weakref.WeakSet[RequestsTransport] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Leave connections, threads and held locks to the parent process."""
    for transport in list(_transports):
        transport._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
