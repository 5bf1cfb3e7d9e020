"""Connections are kept between calls, found out when stale, and never more than allowed."""

import signal
import threading
import time

import pytest

from django_push.transport import connections
from django_push.transport.http import RequestsTransport
from django_push.wire import Failure
from tests.transport.hostile import polite


def slow(seconds):
    def handle(peer):
        while peer.read_request():
            peer.server.stopped.wait(seconds)
            peer.answer()

    return handle


@pytest.mark.parametrize("tls", [False, True])
def test_reuse(transport, post, serve, certificate, tls):
    """Requests one after the other share a connection."""
    server = serve(polite, tls=certificate.server if tls else None)
    carrier = transport(ca_bundle=str(certificate.path))
    assert [carrier.fetch(post(server.url)).status for _ in range(5)] == [200] * 5
    assert server.connections == 1


@pytest.mark.parametrize("tls", [False, True])
def test_stale(transport, post, serve, certificate, tls):
    """A connection that the server has closed in between is not written to."""

    def handle(peer):
        if peer.read_request():
            peer.answer()

    server = serve(handle, tls=certificate.server if tls else None)
    carrier = transport(ca_bundle=str(certificate.path))
    for _ in range(5):
        assert carrier.fetch(post(server.url)).status == 200
        server.stopped.wait(0.03)
    assert server.connections == 5


def test_reset_in_between(transport, post, serve):
    """A connection that the server has reset in between is not written to."""

    def handle(peer):
        if peer.read_request():
            peer.answer()
            peer.server.stopped.wait(0.02)
            peer.reset()

    server = serve(handle)
    carrier = transport()
    for _ in range(3):
        assert carrier.fetch(post(server.url)).status == 200
        server.stopped.wait(0.06)


def test_idle(transport, post, serve, monkeypatch):
    """A connection idle for long is not used again: it may have been dropped in silence."""
    monkeypatch.setattr(connections, "MAX_IDLE", 0.05)
    server = serve(polite)
    carrier = transport()
    for _ in range(2):
        assert carrier.fetch(post(server.url)).status == 200
        server.stopped.wait(0.1)
    assert server.connections == 2


@pytest.mark.parametrize(
    "headers", [["Connection: close"], ["Connection: close", "Keep-Alive: timeout=5"]], ids=len
)
def test_connection_close(transport, post, serve, headers):
    """A connection that the server wants closed is closed."""

    def handle(peer):
        while peer.read_request():
            peer.answer(b"{}", *headers)

    server = serve(handle)
    carrier = transport()
    assert [carrier.fetch(post(server.url)).body for _ in range(3)] == [b"{}"] * 3
    assert server.connections == 3


def test_a_failed_connection_is_not_kept(transport, post, serve):
    """After a broken answer the next request has a new connection."""

    def handle(peer):
        peer.read_request()
        if peer.number == 1:
            peer.answer(b"x" * 3_000_000)
        else:
            peer.answer()

    server = serve(handle)
    carrier = transport()
    replies = [carrier.fetch(post(server.url)) for _ in range(2)]
    assert [reply.failure for reply in replies] == [Failure.MAYBE_SENT, None]


def test_most_connections(transport, post, serve):
    """An exchange uses as many connections as it may, and no more."""
    server = serve(slow(0.02))
    carrier = transport(max_connections=4)
    assert sum(r.status == 200 for _, r in carrier.exchange(post(server.url) for _ in range(40))) == 40
    assert (server.most_open, server.connections) == (4, 4)


def test_most_connections_of_many_threads(transport, post, serve, caplog):
    """Many threads share one transport's connections, whether they send one request or several."""
    server = serve(slow(0.005))
    carrier = transport(max_connections=3)
    statuses = []

    def work(count):
        for _, reply in carrier.exchange(post(server.url) for _ in range(count)):
            statuses.append(reply.status)

    threads = [threading.Thread(target=work, args=(1 + n % 3,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 60
    assert server.most_open <= 3
    assert server.connections <= 3
    assert "discarding" not in caplog.text


def test_no_connection_is_free(transport, post, serve):
    """A request that finds no free connection within its time is never sent."""
    server = serve(lambda peer: peer.hang())
    carrier = transport(max_connections=1, timeout=1.5)
    hanging = threading.Thread(target=carrier.fetch, args=(post(server.url),))
    hanging.start()
    while not carrier._live or carrier._live.slots._value:
        time.sleep(0.001)
    carrier.timeout = 0.1
    reply = carrier.fetch(post(server.url))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "busy")
    assert hanging.is_alive()
    server.stop()
    hanging.join()


def test_threads_are_bounded(transport, post, serve):
    """An alias has no more threads than connections, and keeps them between calls."""
    server = serve(slow(0.005))
    carrier = transport(alias="bounded", max_connections=3)
    for _ in range(3):
        for _ in carrier.exchange(post(server.url) for _ in range(12)):
            pass
    mine = [t for t in threading.enumerate() if t.name.startswith("django-push-bounded")]
    assert 1 <= len(mine) <= 3


def test_one_request_needs_no_thread(transport, post, serve):
    """A single request of a web server's thread is sent by that thread."""
    server = serve(polite)
    carrier = transport(alias="lonely")
    statuses = []

    def send():
        statuses.extend(reply.status for _, reply in carrier.exchange([post(server.url)]))

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert statuses == [200]
    assert not [t for t in threading.enumerate() if t.name.startswith("django-push-lonely")]


@pytest.mark.parametrize("count", [1, 6])
def test_interrupt_loses_no_reply(count, transport, post, serve):
    """Ctrl-C while the answers are awaited is raised after those in flight have come."""
    server = serve(slow(0.3))
    carrier = transport(alias="interrupted")

    def interrupt(*args):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    statuses = []

    def read():
        for _, reply in carrier.exchange(post(server.url) for _ in range(count)):
            statuses.append(reply.status)

    try:
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert statuses == [200] * min(count, carrier.max_connections + 1)


def test_close(transport, post, serve):
    """A closed transport opens new connections when it is used again."""
    server = serve(polite)
    carrier = transport()
    for _ in range(2):
        assert sum(r.status == 200 for _, r in carrier.exchange(post(server.url) for _ in range(2))) == 2
        carrier.close()
        carrier.close()
    assert 2 <= server.connections <= 4


def test_close_during_an_exchange(transport, post, serve):
    """An exchange survives that its transport is closed meanwhile."""
    server = serve(polite)
    carrier = transport(max_connections=2)
    statuses = []
    for _, reply in carrier.exchange(post(server.url) for _ in range(20)):
        statuses.append(reply.status)
        carrier.close()
    assert len(statuses) == 20
    assert {200} == set(statuses)


def test_close_before_use():
    """A transport that was never used can be closed."""
    RequestsTransport(alias="x", timeout=1.0, max_connections=1).close()


def test_two_hosts(transport, post, serve):
    """Each host has its own connections."""
    servers = [serve(polite), serve(polite)]
    carrier = transport()
    for _ in range(3):
        for server in servers:
            assert carrier.fetch(post(server.url)).status == 200
    assert [server.connections for server in servers] == [1, 1]


def test_tls_context_is_made_once(transport, post, serve, certificate, monkeypatch):
    """The authorities are loaded once, not for each connection."""
    made = []
    real = connections.create_urllib3_context
    monkeypatch.setattr(connections, "create_urllib3_context", lambda: made.append(1) or real())
    server = serve(slow(0.02), tls=certificate.server)
    carrier = transport(ca_bundle=str(certificate.path))
    assert sum(r.status == 200 for _, r in carrier.exchange(post(server.url) for _ in range(8))) == 8
    assert server.connections > 1
    assert made == [1]
