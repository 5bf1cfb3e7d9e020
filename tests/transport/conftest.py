import contextlib
import datetime
import ipaddress
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from django_push.transport.http import RequestsTransport
from django_push.wire import Request
from tests.transport import hostile


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate: its own authority."""

    path: Path

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context


def _certificate(path: Path, *names: x509.GeneralName) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificate(path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for this machine."""
    path = tmp_path_factory.mktemp("tls") / "here.pem"
    return _certificate(path, x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost"))


@pytest.fixture(scope="session")
def wrong_certificate(tmp_path_factory):
    """A certificate for another host."""
    path = tmp_path_factory.mktemp("tls") / "elsewhere.pem"
    return _certificate(path, x509.DNSName("elsewhere.example"))


@pytest.fixture
def serve():
    """Start a server with a handler; it is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(handle, **options):
            server = hostile.Server(handle, **options)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def transport():
    """Make a transport; it is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = RequestsTransport(
                **{"alias": "test", "timeout": 5.0, "max_connections": 4, **options},
            )
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def full_backlog():
    yield from hostile.full_backlog()


@pytest.fixture
def post():
    """Make a request."""

    def make(url, body=b'{"to":"x"}', **headers):
        return Request(url=url, body=body, headers={"Content-Type": "application/json", **headers})

    return make


@pytest.fixture
def stopwatch():
    """Return the seconds since the test began."""
    start = time.monotonic()
    return lambda: time.monotonic() - start
