"""Forks and exits: a child sends with connections of its own, and nobody waits for idle threads."""

import os
import subprocess
import sys
import textwrap
import time
import warnings

import pytest

from tests.transport.hostile import polite

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(work):
    """Fork, do the work in the child, and return whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on, for threads
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    for _ in range(500):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


@NEEDS_FORK
@pytest.mark.parametrize("tls", [False, True])
def test_fork(transport, post, serve, certificate, tls):
    """A child process sends on connections and threads of its own; the parent's stay good."""
    server = serve(polite, tls=certificate.server if tls else None)
    carrier = transport(ca_bundle=str(certificate.path))

    def send(count=4):
        return [200] * count == [
            r.status for _, r in carrier.exchange(post(server.url) for _ in range(count))
        ]

    assert send()
    before = server.connections
    assert in_child(send)
    assert server.connections > before
    between = server.connections
    assert send(1)
    assert between == server.connections


@NEEDS_FORK
def test_fork_while_locks_are_held(transport, post, serve):
    """A child does not inherit the locks that other threads held at the fork."""
    server = serve(polite)
    carrier = transport(max_connections=1)
    carrier.fetch(post(server.url))
    with carrier._lock, carrier._live.slots:
        assert in_child(lambda: carrier.fetch(post(server.url)).status == 200)


@NEEDS_FORK
def test_deadline_in_a_child(transport, post, serve, stopwatch):
    """A child process has a watch of its own over its deadlines."""
    server = serve(polite)
    hanging = serve(lambda peer: peer.hang())
    carrier = transport(timeout=0.3)
    carrier.fetch(post(server.url))
    assert in_child(lambda: carrier.fetch(post(hanging.url)).reason == "timeout")
    assert stopwatch() < 2.0


SCRIPT = """
    import sys
    from django_push.transport.http import RequestsTransport
    from django_push.wire import Request

    transport = RequestsTransport(alias="x", timeout=30.0, max_connections=4)
    requests = [Request(url=sys.argv[1], body=b"{}") for _ in range(8)]
    print(sum(reply.status for _, reply in transport.exchange(requests)))
"""


def test_exit(serve):
    """An interpreter with idle connections and threads ends at once, without a warning."""
    server = serve(polite)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(SCRIPT), server.url],
        capture_output=True,
        check=False,
        text=True,
        timeout=20,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1600\n", "", 0)
    assert time.monotonic() - start < 10
