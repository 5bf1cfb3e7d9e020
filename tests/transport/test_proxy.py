"""A proxy comes from the option alone, and is told apart from the provider."""

import select
import socket

import pytest

from django_push.wire import Failure
from tests.transport.hostile import polite
from tests.transport.test_never_sent import unused_port

pytestmark = pytest.mark.slow  # as a whole: it takes seconds


def tunnel(peer):
    """Be a CONNECT proxy; remember what was asked."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := peer.sock.recv(4096)):
            return
        head += data
    peer.server.requests.append((head, b""))
    host, port = head.split()[1].decode().split(":")
    with socket.create_connection((host, int(port))) as other:
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pair = {peer.sock: other, other: peer.sock}
        while not peer.server.stopped.is_set():
            for sock in select.select(list(pair), [], [], 0.05)[0]:
                if not (data := sock.recv(65536)):
                    return
                pair[sock].sendall(data)


@pytest.fixture
def tls(serve, certificate):
    return serve(polite, tls=certificate.server)


@pytest.fixture
def carry(transport, certificate):
    """Make a transport that goes through a proxy."""
    return lambda proxy, **options: transport(proxy=proxy, ca_bundle=str(certificate.path), **options)


def at(server):
    return f"http://127.0.0.1:{server.port}"


def test_forward(carry, post, serve):
    """Plain http is forwarded by the proxy, with the whole URL."""
    proxy = serve(polite)
    assert carry(at(proxy)).fetch(post("http://127.0.0.1:9/send")).status == 200
    assert proxy.requests[0][0].startswith(b"POST http://127.0.0.1:9/send HTTP/1.1")


def test_tunnel(carry, post, serve, tls):
    """https goes through a tunnel, is verified at its end, and the connection is kept."""
    proxy = serve(tunnel)
    carrier = carry(at(proxy))
    assert [carrier.fetch(post(tls.url)).status for _ in range(2)] == [200, 200]
    assert (proxy.connections, tls.connections, len(tls.requests)) == (1, 1, 2)


def test_the_authorization_is_not_the_proxys(carry, post, serve, tls):
    """The proxy is told its own password and not the provider's Authorization."""
    proxy = serve(tunnel)
    url = f"http://me:proxypass@127.0.0.1:{proxy.port}"
    assert carry(url).fetch(post(tls.url), lambda: "Bearer canary").status == 200
    [(told, _)] = proxy.requests
    [(asked, _)] = tls.requests
    assert (b"Proxy-Authorization: Basic" in told, b"canary" in told) == (True, False)
    assert (b"Proxy-Authorization" in asked, b"Bearer canary" in asked) == (False, True)


def test_tls_to_the_proxy(carry, post, serve, tls, certificate):
    """An https proxy is verified too, and TLS goes through its TLS."""
    proxy = serve(tunnel, tls=certificate.server)
    reply = carry(f"https://127.0.0.1:{proxy.port}").fetch(post(tls.url))
    assert reply.status == 200


def test_unknown_proxy(carry, post, serve, tls, wrong_certificate):
    """An https proxy with another host's certificate is told nothing."""
    proxy = serve(tunnel, tls=wrong_certificate.server)
    reply = carry(f"https://127.0.0.1:{proxy.port}").fetch(post(tls.url))
    assert (reply.failure, proxy.requests) == (Failure.NEVER_SENT, [])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_deadline_in_two_tunnels(carry, post, serve, tls, certificate, stopwatch, scheme):
    """The deadline cuts a request inside a tunnel, and later ones are still watched."""
    hanging = serve(lambda peer: (peer.read_request(), peer.hang()), tls=certificate.server)
    proxy = serve(tunnel, tls=certificate.server if scheme == "https" else None)
    carrier = carry(f"{scheme}://127.0.0.1:{proxy.port}", timeout=0.4)
    for _ in range(2):
        reply = carrier.fetch(post(hanging.url))
        assert (reply.failure, reply.reason) == (Failure.MAYBE_SENT, "timeout")
    assert stopwatch() < 2.4


def test_proxy_refuses_connections(carry, post):
    """A proxy that is not there means never sent."""
    carrier = carry(f"http://127.0.0.1:{unused_port()}")
    for url in ("http://127.0.0.1:9/send", "https://127.0.0.1:9/send"):
        reply = carrier.fetch(post(url))
        assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "ConnectionRefusedError")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_no_tunnel(carry, post, serve, answer):
    """A proxy that makes no tunnel means never sent."""
    proxy = serve(lambda peer: (peer.read_request(), peer.send(answer)))
    reply = carry(at(proxy)).fetch(post("https://127.0.0.1:9/send"))
    assert Failure.NEVER_SENT is reply.failure


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_tunnel_that_hangs(carry, post, serve, stopwatch, start):
    """A proxy that drips or hangs, in its answer or behind it, ends at the deadline, never sent."""
    proxy = serve(lambda peer: (peer.read_request(), peer.send(start), peer.hang()))
    reply = carry(at(proxy), timeout=0.4).fetch(post("https://127.0.0.1:9/send"))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "timeout")
    assert stopwatch() < 1.6


def test_self_signed_behind_the_proxy(transport, post, serve, tls):
    """A tunnel's end is verified like any other."""
    proxy = serve(tunnel)
    reply = transport(proxy=at(proxy)).fetch(post(tls.url))
    assert (reply.failure, tls.requests) == (Failure.NEVER_SENT, [])


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_of_the_environment(transport, post, serve, tls, certificate, monkeypatch, name):
    """No proxy is taken from the environment."""
    proxy = serve(tunnel)
    monkeypatch.setenv(name, at(proxy))
    plain = serve(polite)
    carrier = transport(ca_bundle=str(certificate.path))
    assert [carrier.fetch(post(server.url)).status for server in (plain, tls)] == [200, 200]
    assert proxy.connections == 0


def test_no_proxy_of_the_environment(carry, post, serve, monkeypatch):
    """NO_PROXY does not switch the option off."""
    monkeypatch.setenv("NO_PROXY", "*")
    proxy = serve(polite)
    carry(at(proxy)).fetch(post("http://127.0.0.1:9/send"))
    assert proxy.connections == 1


def test_netrc(transport, post, serve, monkeypatch, tmp_path):
    """No password is taken from a netrc file."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(polite)
    transport().fetch(post(server.url))
    assert b"authorization" not in server.requests[0][0].lower()
