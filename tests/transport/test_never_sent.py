"""Failures before a byte of the request was written are told as never sent: it may be sent again."""

import socket

import pytest

from django_push.transport import connections
from django_push.wire import Failure
from tests.transport.hostile import polite


def unused_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_connection_refused(transport, post):
    """A port without a listener is never sent to."""
    reply = transport().fetch(post(f"http://127.0.0.1:{unused_port()}/send"))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "ConnectionRefusedError")


def test_unknown_host(transport, post, monkeypatch):
    """A host name that does not resolve is never sent to."""

    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(connections.socket, "getaddrinfo", fail)
    reply = transport().fetch(post("https://nowhere.invalid/send"))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "gaierror")


@pytest.mark.parametrize("host", ["a..b", "x" * 80, "[::1", "exa mple"])
def test_impossible_host(transport, post, host):
    """A host name that cannot exist is a reply, not an exception."""
    assert Failure.NEVER_SENT is transport().fetch(post(f"http://{host}/send")).failure


def test_connect_timeout(transport, post, full_backlog, stopwatch):
    """A connection that is never accepted ends at the deadline, never sent."""
    reply = transport(timeout=0.4).fetch(post(f"http://127.0.0.1:{full_backlog}/send"))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "timeout")
    assert 0.3 < stopwatch() < 1.4


def test_the_deadline_covers_all_addresses(transport, post, full_backlog, stopwatch, monkeypatch):
    """A host with several dead addresses does not get the deadline once for each."""
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", full_backlog))
    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *a, **k: [address] * 5)
    reply = transport(timeout=0.5).fetch(post("http://many.example/send"))
    assert Failure.NEVER_SENT is reply.failure
    assert stopwatch() < 1.6


def test_a_dead_first_address_leaves_time_for_the_second(transport, post, serve, full_backlog, monkeypatch):
    """The next address is tried while there is time."""
    server = serve(polite)
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        for port in (full_backlog, server.port)
    ]
    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *a, **k: found)
    assert transport(timeout=0.6).fetch(post("http://many.example/send")).status == 200


def test_self_signed(transport, post, serve, certificate):
    """A certificate of no known authority is refused before anything is sent."""
    server = serve(polite, tls=certificate.server)
    reply = transport().fetch(post(server.url))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "SSLCertVerificationError")
    assert server.requests == []


def test_wrong_host_name(transport, post, serve, wrong_certificate):
    """A trusted certificate of another host is refused before anything is sent."""
    server = serve(polite, tls=wrong_certificate.server)
    reply = transport(ca_bundle=str(wrong_certificate.path)).fetch(post(server.url))
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "SSLCertVerificationError")
    assert server.requests == []


def test_ca_bundle(transport, post, serve, certificate):
    """A bundle of one's own is trusted in place of the usual authorities."""
    server = serve(polite, tls=certificate.server)
    assert transport(ca_bundle=str(certificate.path)).fetch(post(server.url)).status == 200


def test_ca_directory(transport, post, serve, certificate, tmp_path):
    """A directory is no bundle: nothing in it is trusted, and nothing is sent."""
    server = serve(polite, tls=certificate.server)
    reply = transport(ca_bundle=str(tmp_path)).fetch(post(server.url))
    assert Failure.NEVER_SENT is reply.failure


def test_unreadable_ca_bundle(transport, post, serve, certificate, tmp_path):
    """A bundle that is missing or no PEM is never taken for "no verification"."""
    server = serve(polite, tls=certificate.server)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for path in (garbage, tmp_path / "missing.pem"):
        assert Failure.NEVER_SENT is transport(ca_bundle=str(path)).fetch(post(server.url)).failure
    assert server.requests == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_authorities_of_the_environment(transport, post, serve, certificate, monkeypatch, name):
    """The environment adds no authority."""
    monkeypatch.setenv(name, str(certificate.path))
    server = serve(polite, tls=certificate.server)
    assert Failure.NEVER_SENT is transport().fetch(post(server.url)).failure


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b""])
def test_no_tls_at_all(transport, post, serve, greeting):
    """A server that speaks no TLS on an https URL is never sent to."""
    server = serve(lambda peer: peer.send(greeting))
    reply = transport().fetch(post(server.url.replace("http:", "https:")))
    assert Failure.NEVER_SENT is reply.failure


def test_reset_in_the_handshake(transport, post, serve):
    """A reset before TLS stands is never sent."""
    server = serve(lambda peer: peer.reset())
    reply = transport().fetch(post(server.url.replace("http:", "https:")))
    assert Failure.NEVER_SENT is reply.failure


def test_a_bad_header_value(transport, post, serve):
    """A header that cannot be written is never sent, and its text is in no reason."""
    server = serve(polite)
    reply = transport().fetch(post(server.url), lambda: "Bearer canary\r\nX: y")
    assert (reply.failure, reply.reason) == (Failure.NEVER_SENT, "ValueError")
    assert server.requests == []
