import gzip
import http.client
import json
import socket
import threading
import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_push.emulator import Faults, start_emulator
from tests.emulator.calls import TOKEN

SEND = "/--/api/v2/push/send"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def connection(emulator):
    host, port = emulator.host.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    yield connection
    connection.close()


def post(connection, path, body, headers=JSON):
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_keeps_connections(emulator, connection):
    """Many requests go over one connection, without a wait between head and body."""
    started = time.monotonic()
    for _ in range(50):
        status, _ = post(connection, SEND, json.dumps({"to": TOKEN}))
        assert status == 200
        sock = connection.sock
    assert connection.sock is sock
    assert time.monotonic() - started < 1.5
    assert emulator.state.requests == 50
    assert emulator.state.accepted == {TOKEN: 50}


def test_gzip(connection):
    """A compressed body is read; one that is broken is a 400."""
    body = gzip.compress(json.dumps([{"to": TOKEN, "body": "x" * 2000}]).encode())
    headers = JSON | {"Content-Encoding": "gzip"}
    assert post(connection, SEND, body, headers)[0] == 200
    assert post(connection, SEND, body[:-9], headers)[0] == 400
    assert post(connection, SEND, b"no gzip", headers)[0] == 400


def test_each_provider_has_its_address(connection):
    """The addresses are those of the providers, and there are no others."""
    found = {
        path: post(connection, path, "{}")[0]
        for path in (
            SEND,
            "/gcm/send",
            "/fcm/send",
            "/token",
            "/v1/projects/p/messages:send",
            "/fcm/send/x",
            "/other",
        )
    }
    assert list(found.values()) == [400, 401, 401, 400, 401, 404, 404]


def test_recorded(emulator, connection):
    """Raw requests are kept with their status and without their credentials."""
    body = json.dumps({"to": TOKEN})
    post(connection, f"{SEND}?useFcmV1=true", body, JSON | {"Authorization": "Bearer secret"})
    [recorded] = emulator.state.recorded
    assert (recorded.path, recorded.status, recorded.body) == (SEND, 200, body.encode())
    assert "secret" not in str(recorded)


@pytest.mark.parametrize("host", ["evil.example", "["])
def test_foreign_host(connection, host):
    """A page in a browser cannot reach it under a name of its own, nor can one that is none."""
    headers = JSON | {"Host": host}
    assert post(connection, SEND, "{}", headers)[0] == 421
    connection.request("GET", "/", headers={"Host": host})
    assert connection.getresponse().status == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "9000000"}, 413),
        ({"Content-Length": "1" * 5000}, 413),
        ({"Content-Length": "x"}, 411),
    ],
)
def test_length(connection, headers, status):
    """A body without a length, or with one that is too long, is not read, and the connection ends."""
    connection.putrequest("POST", SEND)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.getheader("Connection")) == (status, "close")


def test_other_methods(connection):
    """Only GET and POST are understood."""
    connection.request("PUT", SEND)
    assert connection.getresponse().status == 501


def test_stop_is_silent():
    """A stopped emulator answers nobody, over kept connections neither."""
    emulator = start_emulator()
    host, port = emulator.host.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as kept:
        kept.sendall(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 404"
        emulator.stop()
        while kept.recv(4096):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    emulator.stop()


def test_no_threads_left():
    """After the with block no thread of it is left."""
    before = set(threading.enumerate())
    with start_emulator() as emulator:
        host, port = emulator.host.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        assert post(connection, SEND, "{}")[0] == 400
    connection.close()
    deadline = time.monotonic() + 2
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "options", [{"latency": 60}, *({"faults": Faults(schedule=[kind])} for kind in ("hang", "drip"))]
)
def test_stop_ends_the_wait(options):
    """A stopped emulator keeps nobody waiting, and what it had accepted stays counted."""
    with start_emulator(**options) as emulator:
        host, port = emulator.host.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("POST", SEND, json.dumps({"to": TOKEN}), JSON)
        deadline = time.monotonic() + 5
        while not emulator.state.accepted and time.monotonic() < deadline:
            time.sleep(0.005)
        began = time.monotonic()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()
    connection.close()
    assert time.monotonic() - began < 2
    assert emulator.state.accepted == {TOKEN: 1}


def test_silence_ends(monkeypatch):
    """A client that never hangs up is left after a while."""
    monkeypatch.setattr("django_push.emulator.server.MAX_SILENCE", 0.05)
    with start_emulator(faults=Faults(schedule=["hang"])) as emulator:
        host, port = emulator.host.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        with pytest.raises(http.client.RemoteDisconnected):
            post(connection, SEND, json.dumps({"to": TOKEN}))
        connection.close()


@pytest.mark.parametrize("kind", ["reset-before", "reset-after"])
def test_reset(kind, emulator, connection):
    """A connection that is reset has no orderly end, and no answer is recorded."""
    emulator.state.faults = Faults(schedule=[kind])
    with pytest.raises(ConnectionResetError) as reset:
        post(connection, SEND, json.dumps({"to": TOKEN}))
    assert reset.type is ConnectionResetError  # RemoteDisconnected, an orderly end, is one too
    assert [recorded.status for recorded in emulator.state.recorded] == [0]
    assert post(connection, SEND, json.dumps({"to": TOKEN}))[0] == 200


def test_truncated(emulator, connection):
    """The Content-Length of an answer that is cut promises the whole, or only the half that comes."""
    emulator.state.faults = Faults(schedule=[None, "truncated", "truncated-honest"])
    whole = len(post(connection, SEND, json.dumps({"to": TOKEN}))[1])
    with pytest.raises(http.client.IncompleteRead) as cut:
        post(connection, SEND, json.dumps({"to": TOKEN}))
    assert (len(cut.value.partial), cut.value.expected) == (whole // 2, whole - whole // 2)
    connection.close()
    assert len(post(connection, SEND, json.dumps({"to": TOKEN}))[1]) == whole // 2


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.com"])
def test_loopback_only(host):
    """It listens on this machine alone: real tokens may come over plain http."""
    with pytest.raises(ImproperlyConfigured):
        start_emulator(host=host)


def test_port_taken(emulator):
    """A port that is taken is an OSError."""
    with pytest.raises(OSError, match="in use"):
        start_emulator(port=int(emulator.host.split(":")[1]))


def test_ipv6():
    """It also listens on IPv6's loopback address."""
    try:
        emulator = start_emulator(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with emulator:
        assert emulator.url == f"http://{emulator.host}"
        assert emulator.host.startswith("[::1]:")
        connection = http.client.HTTPConnection("::1", int(emulator.host.rpartition(":")[2]), timeout=5)
        assert post(connection, SEND, json.dumps({"to": TOKEN}))[0] == 200
        connection.close()


def test_log():
    """Each request is one line, with masked tokens and no credentials."""
    lines = []
    with start_emulator(log=lines.append) as emulator:
        connection = http.client.HTTPConnection("127.0.0.1", int(emulator.host.split(":")[1]), timeout=5)
        token = "ExponentPushToken[unregistered-0123456789]"
        body = json.dumps([{"to": [token, TOKEN]}])
        post(connection, SEND, body, JSON | {"Authorization": "Bearer secret"})
        post(
            connection,
            "/gcm/send",
            json.dumps({"to": "request-empty"}),
            JSON | {"Authorization": "key=secret"},
        )
        post(connection, "/other", "")
        connection.close()
    assert lines[0].startswith("POST /--/api/v2/push/send 200 expo: 1 DeviceNotRegistered, 1 ok: ")
    assert len(lines) == 3
    text = "\n".join(lines)
    assert token not in text
    assert "secret" not in text


def test_log_of_faults():
    """A fault is named in the line of the request that it befell."""
    lines = []
    faults = Faults(schedule=["reset-before", "bad-gateway"])
    with start_emulator(faults=faults, log=lines.append) as emulator:
        connection = http.client.HTTPConnection("127.0.0.1", int(emulator.host.split(":")[1]), timeout=5)
        with pytest.raises(ConnectionResetError):
            post(connection, SEND, json.dumps({"to": TOKEN}))
        assert post(connection, SEND, json.dumps({"to": TOKEN}))[0] == 502
        connection.close()
    assert lines[0] == f"POST {SEND} - (fault: reset-before)"
    assert lines[1].startswith(f"POST {SEND} 502 expo: 1 ok: ")
    assert lines[1].endswith(" (fault: bad-gateway)")


def test_fault_is_printed(emulator, connection, monkeypatch, capsys):
    """A fault of the emulator itself ends the connection and is printed."""
    monkeypatch.setattr("django_push.emulator.routes.post", lambda call, state: 1 / 0)
    with pytest.raises(http.client.RemoteDisconnected):
        post(connection, SEND, "{}")
    deadline = time.monotonic() + 2
    printed = ""
    while "ZeroDivisionError" not in printed and time.monotonic() < deadline:
        printed += capsys.readouterr().err
    assert "ZeroDivisionError" in printed


def test_client_hangs_up(emulator, capsys):
    """A client that hangs up in the middle of a request makes no noise."""
    host, port = emulator.host.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
