"""The backends that reach nobody."""

import json

import pytest

from django_push.backends.console import ConsoleBackend
from django_push.backends.dummy import DummyBackend
from django_push.backends.locmem import LocMemBackend
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind
from django_push.wire import Failure, Reply
from tests.backends.replies import ok, reply

MESSAGE = PushMessage(title="Grüße", data={"n": 1})
ALL = (ConsoleBackend, LocMemBackend, DummyBackend)
TOKEN = "ExponentPushToken[abcdefghijklmnopqrstuv]"


def one(backend, count=1):
    [request] = backend.build([(MESSAGE, [Target(f"token-{n:04d}", n) for n in range(count)])])
    return request


@pytest.mark.parametrize("cls", ALL)
def test_they_take_everything(cls):
    """Any provider's token, every field and every kind of target is taken; the settings need nothing."""
    backend = cls(alias="test")
    assert backend.fields == set(PushMessage.__dataclass_fields__) - {"provider_options"}
    assert backend.kinds == {TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION}
    assert backend.accepts(TOKEN)
    assert backend.accepts("c1d2:APA91b")
    assert backend.auth is None
    assert repr(backend) == f"<{cls.__name__} 'test'>"


@pytest.mark.parametrize("cls", ALL)
def test_they_refuse_what_is_too_big_for_any_provider(cls):
    """A test finds out about a payload that would be refused in production."""
    verdict = cls(alias="test").refuse_message(PushMessage(title="x" * 5000), TargetKind.TOKEN)
    assert verdict.code == "MessageTooBig"


def test_each_has_a_transport_of_its_own():
    """They differ in what carries their requests, and none of it is HTTP."""
    assert [cls.transport for cls in ALL] == [
        "django_push.transport.console.ConsoleTransport",
        "django_push.transport.memory.MemoryTransport",
        "django_push.transport.base.NoTransport",
    ]


def test_the_console_shows_message_and_masked_tokens():
    """What is printed tells the alias, who, and what; a token is masked, a topic is not."""
    backend = ConsoleBackend(alias="shop")
    first, second = backend.build([(MESSAGE, [Target(TOKEN, 1), Target("news", kind=TargetKind.TOPIC)])])
    said = '{"title":"Grüße","data":{"n":1}}'
    assert first.body.decode() == f"push via shop to ExponentPushToken[abcde…tuv]\n{said}\n"
    assert second.body.decode() == f"push via shop to topic news\n{said}\n"


@pytest.mark.parametrize("cls", [ConsoleBackend, DummyBackend])
def test_they_accept_what_was_carried(cls):
    """Carried is accepted; what the transport failed at is not."""
    backend = cls(alias="test")
    request = one(backend, 3)
    assert [t.outcome for t in backend.parse(request, Reply(status=200)).tickets] == [Outcome.ACCEPTED] * 3
    failed = Reply(failure=Failure.NEVER_SENT, reason="closed")
    assert {t.outcome for t in backend.parse(request, failed).tickets} == {Outcome.NOT_SENT}


def test_locmem_says_the_message_in_its_own_json():
    """What locmem sends is the message as PushMessage.to_json gives it."""
    assert json.loads(one(LocMemBackend(alias="default")).body) == MESSAGE.to_json()


@pytest.mark.parametrize("outcome", Outcome)
def test_locmem_answers_what_the_test_has_chosen(outcome):
    """Every outcome can be answered, with all that a verdict has."""
    backend = LocMemBackend(alias="default")
    answer = {
        "outcome": outcome.value,
        "id": "id-1",
        "code": "Word",
        "detail": "Why",
        "retry_after": 3,
        "replacement": "token-new",
        "about_project": True,
    }
    [ticket] = backend.parse(one(backend), ok([answer])).tickets
    assert ticket.outcome is outcome
    assert (ticket.id, ticket.code, ticket.detail, ticket.retry_after) == ("id-1", "Word", "Why", 3)
    assert (ticket.replacement, ticket.about_project) == ("token-new", True)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "accepted",
        {},
        {"outcome": "sent"},
        {"outcome": ["accepted"]},
        {"outcome": "accepted", "unheard": 1},
        {"outcome": "accepted", "id": 5},
        {"outcome": "accepted", "retry_after": "soon"},
        {"outcome": "accepted", "retry_after": True},
    ],
)
def test_a_mistaken_answer_is_unknown(answer):
    """An answer that says no outcome is unknown, as a provider's would be."""
    backend = LocMemBackend(alias="default")
    [ticket] = backend.parse(one(backend), ok([answer])).tickets
    assert (ticket.outcome, ticket.code) == (Outcome.UNKNOWN, "Unreadable")


@pytest.mark.parametrize(
    ("answer", "code"),
    [(ok([]), "WrongCount"), (ok({}), "Unreadable"), (ok(b"["), "Unreadable"), (reply(502, b""), "HTTP 502")],
)
def test_an_unreadable_answer_is_unknown(answer, code):
    """An answer of another length or form says nothing about anyone."""
    backend = LocMemBackend(alias="default")
    tickets = backend.parse(one(backend, 2), answer).tickets
    assert [(t.outcome, t.code) for t in tickets] == [(Outcome.UNKNOWN, code)] * 2
