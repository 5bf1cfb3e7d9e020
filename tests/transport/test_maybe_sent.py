"""Failures after the first byte was written are told as maybe sent: the provider may have acted."""

import pytest

from django_push.wire import Failure
from tests.transport.hostile import once, saying

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(once(lambda peer: peer.reset()), id="reset"),
        pytest.param(saying(b""), id="closed without an answer"),
        pytest.param(saying(b"HTTP/1.1 20"), id="closed in the status line"),
        pytest.param(saying(OK + b"Content-Len"), id="closed in a header"),
        pytest.param(saying(OK + b"Content-Length: 100\r\n\r\n{"), id="closed in the body"),
        pytest.param(saying(OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"), id="closed in a chunk"),
        pytest.param(saying(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"), id="no last chunk"),
        pytest.param(saying(OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), id="no chunk size"),
        pytest.param(saying(OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}"), id="two lengths"),
        pytest.param(saying(b"\x16\x03\x01\x02\x00"), id="TLS"),
        pytest.param(saying(b"SSH-2.0-OpenSSH_9.6\r\n"), id="another protocol"),
        pytest.param(saying(b"<html>hello</html>\r\n\r\n"), id="HTTP/0.9"),
        pytest.param(saying(b"HTTP/1.1 abc OK\r\n\r\n"), id="no status"),
        pytest.param(saying(b"HTTP/1.1 99 Low\r\n\r\n"), id="a status below 100"),
        pytest.param(saying(OK + b"X: y\r\n" * 200 + b"\r\n"), id="200 headers"),
        pytest.param(saying(OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n"), id="a header of 100 kB"),
        pytest.param(saying(b"HTTP/1.1 200 " + b"y" * 100_000), id="a status line of 100 kB"),
        pytest.param(saying(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), id="an interim answer alone"),
        pytest.param(saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), id="another protocol offered"),
    ],
)
def test_broken_answer(transport, post, serve, handle):
    """An answer that breaks off or is no HTTP is maybe sent."""
    reply = transport().fetch(post(serve(handle).url))
    assert Failure.MAYBE_SENT is reply.failure
    assert reply.reason
    assert (reply.status, reply.body) == (0, b"")


def test_reset_before_reading(transport, post, serve):
    """A reset while the request is being written is maybe sent: some of it may have been read."""
    server = serve(lambda peer: (peer.sock.recv(10), peer.reset()))
    reply = transport().fetch(post(server.url, b"x" * 20_000_000))
    assert Failure.MAYBE_SENT is reply.failure


def test_answer_before_the_end_of_the_request(transport, post, serve):
    """A refusal sent while the request is still being written is read."""

    def refuse(peer):
        peer.sock.recv(10)
        peer.answer(b"too big", "Connection: close", status="413 Too Large")
        while peer.sock.recv(1 << 20):
            pass

    reply = transport().fetch(post(serve(refuse).url, b"x" * 5_000_000))
    assert (reply.status, reply.body) == (413, b"too big")


def test_tls_close_in_the_body(transport, post, serve, certificate):
    """TLS that breaks off in the body is maybe sent."""
    server = serve(saying(OK + b"Content-Length: 100\r\n\r\n{"), tls=certificate.server)
    reply = transport(ca_bundle=str(certificate.path)).fetch(post(server.url))
    assert Failure.MAYBE_SENT is reply.failure


def test_nothing_is_tried_again(transport, post, serve):
    """A request that failed is not written a second time."""
    server = serve(once(lambda peer: peer.reset()))
    transport().fetch(post(server.url))
    assert (server.connections, len(server.requests)) == (1, 1)
