"""Requests are read lazily, replies come as they finish, and nothing that was sent is forgotten."""

import itertools
import threading
import time

import pytest

from django_push.transport.base import CredentialsFailed
from django_push.wire import Failure
from tests.transport.hostile import polite


def test_nothing(transport):
    """No requests give no replies."""
    assert list(transport().exchange([])) == []


def test_each_has_its_reply(transport, post, serve):
    """Each request comes back once, with its own reply, in any order."""

    def echo(peer):
        while asked := peer.read_request():
            peer.server.stopped.wait(0.02 if asked[1] in (b"0", b"5") else 0)
            peer.answer(asked[1])

    server = serve(echo)
    sent = [post(server.url, str(n).encode()) for n in range(20)]
    came = list(transport().exchange(iter(sent)))
    assert sorted(map(id, sent)) == sorted(id(request) for request, _ in came)
    assert all(request.body == reply.body for request, reply in came)
    assert sent != [request for request, _ in came]


def test_endless_requests(transport, post, serve):
    """An endless iterator is read only as fast as replies are taken."""
    server = serve(polite)
    read = []

    def requests():
        while True:
            read.append(post(server.url))
            yield read[-1]

    carrier = transport(max_connections=3)
    replies = carrier.exchange(requests())
    assert not read
    for taken in range(30):
        next(replies)
        assert len(read) <= taken + 3 + 3
    replies.close()


def test_requests_are_read_in_the_calling_thread(transport, post, serve):
    """The iterator may use the database: it runs in the thread of the caller."""
    server = serve(polite)
    threads = set()

    def requests():
        for _ in range(10):
            threads.add(threading.current_thread())
            yield post(server.url)

    list(transport().exchange(requests()))
    assert {threading.current_thread()} == threads


def test_closed_early(transport, post, serve):
    """A caller who stops listening gets the iterator closed, and what waits is not sent."""
    closed = []

    def handle(peer):
        while peer.read_request():
            peer.server.stopped.wait(0.1)
            peer.answer()

    def requests():
        try:
            while True:
                yield post(server.url)
        finally:
            closed.append(True)

    server = serve(handle)
    carrier = transport(max_connections=2)
    replies = carrier.exchange(requests())
    next(replies)
    replies.close()
    assert closed == [True]
    carrier._live.threads.shutdown(wait=True)
    assert len(server.requests) <= 4
    carrier.close()


@pytest.mark.parametrize("good", [0, 1, 2, 9])
def test_requests_that_fail(transport, post, serve, good):
    """An error of the iterator is raised after the replies to what it gave before."""
    server = serve(polite)

    def requests():
        for _ in range(good):
            yield post(server.url)
        raise LookupError("the database has gone")

    came = []
    with pytest.raises(LookupError, match="the database has gone"):
        came.extend(transport(max_connections=2).exchange(requests()))
    # list.extend keeps what came before the error
    assert [200] * good == [reply.status for _, reply in came]
    assert good == len(server.requests)


def test_interrupted(transport, post, serve):
    """A keyboard interrupt in the iterator is raised at once and leaves no thread hanging."""
    server = serve(polite)

    def requests():
        yield post(server.url)
        yield post(server.url)
        raise KeyboardInterrupt

    carrier = transport(alias="interrupted")
    with pytest.raises(KeyboardInterrupt):
        list(carrier.exchange(requests()))
    carrier._live.threads.shutdown(wait=True)
    assert not [t for t in threading.enumerate() if t.name.startswith("django-push-interrupted")]
    carrier.close()


def test_bytes_that_cannot_be_sent(transport, serve, post):
    """A bug in a backend is a reply about that request, and the others are sent."""
    server = serve(polite)
    bad = post(None)
    replies = dict(transport().exchange([post(server.url), bad, post(server.url)]))
    assert Failure.NEVER_SENT is replies.pop(bad).failure
    assert [reply.status for reply in replies.values()] == [200, 200]


@pytest.mark.parametrize("count", [1, 5])
def test_authorize(transport, post, serve, count):
    """Each request carries what authorize returns at the time."""
    server = serve(polite)
    numbers = itertools.count()
    list(transport().exchange((post(server.url) for _ in range(count)), lambda: f"key={next(numbers)}"))
    found = sorted(
        line for head, _ in server.requests for line in head.split(b"\r\n") if b"Authorization" in line
    )
    assert [b"Authorization: key=%d" % n for n in range(count)] == found


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    ("error", "failure", "reason"),
    [
        (CredentialsFailed("invalid_grant", transient=False), Failure.NO_CREDENTIALS, "invalid_grant"),
        (CredentialsFailed("timeout", transient=True), Failure.NEVER_SENT, "timeout"),
        (KeyError("canary"), Failure.NEVER_SENT, "KeyError"),
    ],
)
def test_no_authorization(transport, post, serve, count, error, failure, reason):
    """Without an Authorization nothing is sent, and nobody waits for ever."""
    server = serve(polite)

    def authorize():
        raise error

    replies = [r for _, r in transport().exchange((post(server.url) for _ in range(count)), authorize)]
    assert [(failure, reason)] * count == [(reply.failure, reply.reason) for reply in replies]
    assert server.connections == 0


def test_a_thread_that_dies(transport, post, serve):
    """Whatever ends a thread, its request is answered."""
    server = serve(polite)

    def authorize():
        raise SystemExit

    replies = [r for _, r in transport().exchange((post(server.url) for _ in range(3)), authorize)]
    assert [reply.failure for reply in replies] == [Failure.MAYBE_SENT] * 3


def test_many_threads(transport, post, serve):
    """Exchanges of many threads at once keep their replies apart."""

    def echo(peer):
        while asked := peer.read_request():
            peer.answer(asked[1])

    server = serve(echo)
    carrier = transport(max_connections=4)
    wrong = []

    def work(name):
        bodies = {f"{name}-{n}".encode() for n in range(10)}
        for request, reply in carrier.exchange([post(server.url, body) for body in bodies]):
            if request.body != reply.body:
                wrong.append(reply)
            bodies.discard(reply.body)
        wrong.extend(bodies)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_exchanges_in_turn(transport, post, serve):
    """An exchange that is not read on does not hold up another."""
    server = serve(polite)
    carrier = transport(max_connections=2)
    first = carrier.exchange(post(server.url) for _ in range(10))
    next(first)
    start = time.monotonic()
    assert len(list(carrier.exchange(post(server.url) for _ in range(10)))) == 10
    assert time.monotonic() - start < 2
    assert len(list(first)) == 9
