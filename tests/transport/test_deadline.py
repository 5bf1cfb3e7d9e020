"""One total deadline holds, however slowly a server drips."""

import threading

import pytest

from django_push.transport.deadline import Call, Watchdog
from django_push.wire import Failure
from tests.transport.hostile import once, polite

pytestmark = pytest.mark.slow  # as a whole: it takes seconds

TIMEOUT = 0.3
OK = b"HTTP/1.1 200 OK\r\n"


def drip(after=b"", **options):
    return once(lambda peer: (peer.send(after), peer.drip(**options)))


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(once(lambda peer: peer.hang()), id="no answer"),
        pytest.param(drip(), id="the status line drips"),
        pytest.param(drip(OK, data=b"X: y"), id="a header drips"),
        pytest.param(drip(OK + b"Content-Length: 9999\r\n\r\n"), id="the body drips"),
        pytest.param(drip(OK + b"Connection: close\r\n\r\n"), id="a body of unknown length drips"),
        pytest.param(drip(b"HTTP/1.0 200 OK\r\n\r\n"), id="HTTP/1.0 drips"),
        pytest.param(drip(OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"), id="a chunk drips"),
        pytest.param(
            drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", data=b"1\r\nx\r\n" * 99), id="chunks drip"
        ),
        pytest.param(
            drip(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", data=b"T: x\r\n" * 99), id="trailers drip"
        ),
        pytest.param(
            once(lambda peer: peer.flood(b"HTTP/1.1 100 Continue\r\n\r\n", 10_000_000)), id="endless 100s"
        ),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_drip(transport, post, serve, certificate, stopwatch, handle, tls):
    """A dripping answer ends at the deadline, maybe sent."""
    server = serve(handle, tls=certificate.server if tls else None)
    reply = transport(timeout=TIMEOUT, ca_bundle=str(certificate.path)).fetch(post(server.url))
    assert (reply.failure, reply.reason) == (Failure.MAYBE_SENT, "timeout")
    assert TIMEOUT * 0.9 < stopwatch() < TIMEOUT + 1.0


@pytest.mark.parametrize("act", [lambda peer: peer.hang(), lambda peer: peer.drip(b"\x16\x03\x03\x40\x00")])
def test_handshake(transport, post, serve, stopwatch, act):
    """A handshake that hangs or drips ends at the deadline, never sent."""
    server = serve(act)
    reply = transport(timeout=TIMEOUT).fetch(post(server.url.replace("http:", "https:")))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "timeout")
    assert stopwatch() < TIMEOUT + 1.0


def test_request_that_is_not_read(transport, post, serve, stopwatch):
    """A server that reads nothing cannot hold a large request longer than the deadline."""
    server = serve(lambda peer: peer.hang())
    reply = transport(timeout=TIMEOUT).fetch(post(server.url, b"x" * 50_000_000))
    assert (reply.failure, reply.reason) == (Failure.MAYBE_SENT, "timeout")
    assert stopwatch() < TIMEOUT + 1.2


def test_the_next_user_of_a_connection_is_left_alone(transport, post, serve):
    """A deadline that passes after the answer does not cut the connection that was kept."""
    server = serve(polite)
    carrier = transport(timeout=0.2)
    for _ in range(3):
        assert carrier.fetch(post(server.url)).status == 200
        server.stopped.wait(0.15)
    assert server.connections == 1


def test_one_thread_looks_at_the_clock(transport, post, serve):
    """All transports of a process share one thread for their deadlines."""
    server = serve(polite)

    def watchers():
        carrier = transport(max_connections=3)
        assert sum(r.status == 200 for _, r in carrier.exchange(post(server.url) for _ in range(9))) == 9
        return [thread for thread in threading.enumerate() if thread.name == "django-push-deadlines"]

    assert watchers() == watchers()


def test_watchdog_keeps_no_answered_call():
    """What has been answered is not kept until its deadline."""
    watchdog = Watchdog()
    calls = [Call(60.0) for _ in range(100)]
    for call in calls:
        watchdog.watch(call)
        watchdog.forget(call)
    assert set() == watchdog._calls


def test_watchdog_heeds_a_nearer_deadline():
    """A call with a nearer deadline than those watched before is expired in time."""
    watchdog = Watchdog()
    far, near = Call(60.0), Call(0.05)
    watchdog.watch(far)
    watchdog.watch(near)
    for _ in range(100):
        if near.expired:
            break
        threading.Event().wait(0.01)
    assert (near.expired, far.expired) == (True, False)
    watchdog.forget(far)


def test_a_finished_call_does_not_expire():
    """A watchdog that comes too late changes nothing."""
    call = Call(0.0)
    call.finish()
    call.expire()
    assert not call.expired


def test_a_late_call_cuts_the_socket_it_is_given():
    """A socket that is opened after the deadline is shut at once."""

    class Proxied:
        def __init__(self):
            self.socket = None

    call = Call(0.0)
    call.expire()
    call.uses(Proxied())
    assert call.expired
