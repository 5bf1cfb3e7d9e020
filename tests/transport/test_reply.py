"""What a reply may hold: capped, decompressed, never taken for another request's."""

import gzip
import tracemalloc
import zlib

import pytest

from django_push.transport.http import MAX_REPLY
from django_push.wire import Failure
from tests.transport.hostile import once, polite, saying

OK = b"HTTP/1.1 200 OK\r\n"
TEXT = b'{"data":[{"status":"ok","id":"x"}]}'


def chunked(body, size=7):
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(OK + b"Content-Length: %d\r\n\r\n" % len(TEXT) + TEXT, TEXT, id="length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(TEXT), TEXT, id="chunked"),
        pytest.param(OK + b"\r\n" + TEXT, TEXT, id="until the connection's end"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + TEXT, TEXT, id="HTTP/1.0"),
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", b"", id="empty"),
        pytest.param(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", b"{}", id="one length, twice"),
        pytest.param(OK + b"Content-Length: 2\r\n\r\n{}{}{}", b"{}", id="more than its length"),
        pytest.param(OK + b"Content-Length: 2\r\n\r\n\xff\xfe", b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}", b"{}", id="100"),
        pytest.param(OK + b"Content-Length: 2\r\nContent-Encoding: identity\r\n\r\n{}", b"{}", id="identity"),
        pytest.param(
            OK + b"Content-Length: 2\r\nContent-Encoding: br\r\n\r\n{}", b"{}", id="unknown encoding"
        ),
        pytest.param(OK + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", b"", id="empty gzip"),
    ],
)
def test_body(transport, post, serve, raw, body):
    """A body comes as it is, however it is framed."""
    reply = transport().fetch(post(serve(saying(raw)).url))
    assert (None, 200, body) == (reply.failure, reply.status, reply.body)


@pytest.mark.parametrize("name", ["gzip", "GZip", "x-gzip", "deflate"])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("frame", ["length", "chunked"])
def test_compressed(transport, post, serve, name, pack, frame):
    """A compressed body is decompressed."""

    def act(peer):
        body = pack(TEXT)
        if frame == "length":
            peer.answer(body, f"Content-Encoding: {name}")
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nTransfer-Encoding: chunked\r\n\r\n"
            peer.send(head.encode() + chunked(body))

    assert transport().fetch(post(serve(once(act)).url)).body == TEXT


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(gzip.compress(TEXT)[:-9], id="cut short"),
        pytest.param(gzip.compress(TEXT)[:4], id="cut in the header"),
        pytest.param(b"this is no gzip at all", id="garbage"),
        pytest.param(gzip.compress(TEXT)[:-4] + b"\0\0\0\0", id="wrong length"),
        pytest.param(raw_deflate(TEXT), id="raw deflate"),
        pytest.param(TEXT, id="not compressed"),
    ],
)
def test_broken_compression(transport, post, serve, body):
    """A compressed body that cannot be decompressed wholly is no answer."""
    server = serve(once(lambda peer: peer.answer(body, "Content-Encoding: gzip")))
    reply = transport().fetch(post(server.url))
    assert (reply.failure, reply.body) == (Failure.MAYBE_SENT, b"")


def flood(header, block, times):
    head = OK + header + (b"" if b"\r\n\r\n" in header else b"\r\n\r\n")
    return once(lambda peer: (peer.send(head), peer.flood(block, times)))


def bomb(peer):
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(50)) + packer.flush()
    peer.answer(body, "Content-Encoding: gzip")


MEGABYTE = b"x" * (1 << 20)


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(flood(b"Content-Length: 52428800", MEGABYTE, 50), id="50 MB"),
        pytest.param(flood(b"Connection: close", MEGABYTE, 50), id="50 MB without a length"),
        pytest.param(
            flood(b"Transfer-Encoding: chunked", b"100000\r\n%b\r\n" % MEGABYTE, 50), id="endless chunks"
        ),
        pytest.param(
            flood(b"Transfer-Encoding: chunked", b"ffffffffff\r\n" + MEGABYTE, 50), id="a chunk of 1 TB"
        ),
        pytest.param(
            flood(b"Transfer-Encoding: chunked\r\n\r\n1", b"0" * (1 << 20), 50), id="a chunk's line"
        ),
        pytest.param(once(bomb), id="a gzip bomb"),
        pytest.param(
            flood(b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}"), MEGABYTE, 50),
            id="a tail behind the gzip",
        ),
    ],
)
def test_too_long(transport, post, serve, handle):
    """A reply over the cap is given up early and costs little more memory than the cap."""
    server = serve(handle)
    carrier = transport()
    tracemalloc.start()
    try:
        reply = carrier.fetch(post(server.url))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (reply.failure, reply.body) == (Failure.MAYBE_SENT, b"")
    assert reply.reason in ("ReplyTooLong", "ProtocolError", "InvalidChunkLength", "IncompleteRead")
    assert peak < 4 * MAX_REPLY


def test_longest(transport, post, serve):
    """A reply of exactly the cap is read, one byte more is not."""
    for extra, failure in ((0, None), (1, Failure.MAYBE_SENT)):
        server = serve(once(lambda peer, n=MAX_REPLY + extra: peer.answer(b"x" * n)))
        assert failure is transport().fetch(post(server.url)).failure


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(transport, post, serve, status):
    """A redirect is an answer; it is not followed."""
    elsewhere = serve(polite)
    server = serve(
        once(lambda peer: peer.answer(b"", f"Location: {elsewhere.url}", status=f"{status} Elsewhere"))
    )
    assert status == transport().fetch(post(server.url), lambda: "Bearer x").status
    assert (server.connections, elsewhere.connections) == (1, 0)


@pytest.mark.parametrize("status", [204, 304, 400, 401, 404, 407, 429, 500, 502, 503, 999])
def test_status(transport, post, serve, status):
    """Any status is an answer, and is not tried again."""
    server = serve(once(lambda peer: peer.answer(b"", "Retry-After: 0", status=f"{status} Some")))
    reply = transport().fetch(post(server.url))
    assert (None, status, "0") == (reply.failure, reply.status, reply.headers["retry-after"])
    assert server.connections == 1


def test_headers(transport, post, serve):
    """Header names are lower-case, and one that comes twice is joined."""
    server = serve(once(lambda peer: peer.answer(b"{}", "RETRY-AFTER: 7", "X-A: 1", "x-a: 2", "X-B: ü")))
    headers = transport().fetch(post(server.url)).headers
    assert (headers["retry-after"], headers["x-a"], headers["x-b"]) == ("7", "1, 2", "ü")


def test_cookies_are_not_kept(transport, post, serve):
    """A cookie that a server sets never comes back to it."""

    def handle(peer):
        while peer.read_request():
            peer.answer(b"{}", "Set-Cookie: a=b; Path=/")

    server = serve(handle)
    carrier = transport()
    for _ in range(2):
        carrier.fetch(post(server.url))
    assert not any(b"cookie" in head.lower() for head, _ in server.requests)


def test_request(transport, post, serve):
    """The request says what it is, once, and its body arrives byte by byte."""
    server = serve(polite)
    transport().fetch(post(server.url, b"\x00\xff body"), lambda: "key=x")
    [(head, body)] = server.requests
    assert body == b"\x00\xff body"
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /send HTTP/1.1"
    assert {
        b"Accept: application/json",
        b"Accept-Encoding: gzip",
        b"Authorization: key=x",
        b"Content-Length: 7",
        b"Content-Type: application/json",
        b"Host: 127.0.0.1:%d" % server.port,
        b"User-Agent: django-push-tokens",
    } == set(lines)
    assert len(lines) == 7


@pytest.mark.parametrize("late", [0.0, 0.1])
def test_second_answer(transport, post, serve, late):
    """An answer too many is not taken for that of the next request."""

    def handle(peer):
        while asked := peer.read_request():
            peer.answer(asked[1])
            peer.server.stopped.wait(late)
            peer.answer(b"nobody asked")

    server = serve(handle)
    carrier = transport()
    for body in (b"1", b"2", b"3"):
        assert body == carrier.fetch(post(server.url, body)).body
        server.stopped.wait(0.15)


def test_answer_after_an_interim_one(transport, post, serve):
    """What follows an interim answer is not taken for that of the next request."""

    def handle(peer):
        while peer.read_request():
            peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            peer.server.stopped.wait(0.05)
            peer.answer(b"late")

    server = serve(handle)
    carrier = transport()
    replies = [carrier.fetch(post(server.url)) for _ in range(3)]
    assert [reply.failure for reply in replies] == [Failure.MAYBE_SENT] * 3
    assert server.connections == 3
