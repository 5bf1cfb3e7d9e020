"""The transports that reach no network."""

import json

import pytest

from django_push import PushMessage
from django_push.outcomes import Target
from django_push.transport import memory
from django_push.transport.base import CredentialsFailed, NoTransport, Transport
from django_push.transport.console import ConsoleTransport
from django_push.transport.fake import FakeTransport
from django_push.wire import Failure, Reply, Request

REQUEST = Request(
    url="memory:",
    body=b"hello",
    groups=[(PushMessage(title="Hi"), [Target("token-1", 1), Target("token-2", 2)])],
)


def options(**more):
    return {"alias": "x", "timeout": 1.0, "max_connections": 1, **more}


def test_fake():
    """A fake answers as it is told and keeps what it was given."""
    fake = FakeTransport(lambda request: Reply(status=200, body=request.body))
    assert [(r, reply.body) for r, reply in fake.exchange([REQUEST], lambda: "key=x")] == [
        (REQUEST, b"hello")
    ]
    assert (fake.requests, fake.authorizations) == ([REQUEST], ["key=x"])
    fake.fetch(REQUEST)
    assert fake.authorizations == ["key=x", None]
    fake.close()


@pytest.mark.parametrize(
    ("transient", "failure"), [(True, Failure.NEVER_SENT), (False, Failure.NO_CREDENTIALS)]
)
def test_fake_without_credentials(transient, failure):
    """A fake sends nothing without an Authorization, like the real one."""
    fake = FakeTransport(lambda request: Reply(status=200))

    def authorize():
        raise CredentialsFailed("no", transient=transient)

    assert failure is fake.fetch(REQUEST, authorize).failure
    assert fake.requests == []


def test_fake_reads_requests_lazily():
    """A fake reads an endless iterator no faster than its replies are taken."""
    read = []

    def endless():
        while True:
            read.append(1)
            yield REQUEST

    replies = FakeTransport(lambda request: Reply(status=200)).exchange(endless())
    next(replies)
    next(replies)
    assert read == [1, 1]


def test_memory():
    """The outbox gets one entry per target, and a chosen answer is given."""
    memory.answers["token-2"] = {"outcome": "unregistered"}
    reply = memory.MemoryTransport(**options()).fetch(REQUEST)
    first, second = json.loads(reply.body)
    assert (first["outcome"], second["outcome"]) == ("accepted", "unregistered")
    assert [(sent.backend, sent.token, sent.pk, sent.message.title) for sent in memory.outbox] == [
        ("x", "token-1", 1, "Hi"),
        ("x", "token-2", 2, "Hi"),
    ]
    assert "token-1" not in repr(memory.outbox)


def test_console(capsys):
    """The console gets the body."""
    assert ConsoleTransport(**options()).fetch(REQUEST).status == 200
    assert capsys.readouterr().out == "hello"


def test_none():
    """No transport answers 200 to everything."""
    assert NoTransport(**options()).fetch(REQUEST).status == 200


def test_base_is_abstract():
    """A transport must say how it fetches."""
    with pytest.raises(NotImplementedError):
        Transport(**options()).fetch(REQUEST)
