"""What is wrong with a call is said before anything is written down, in one of the app's own words."""

from datetime import datetime, timedelta

import pytest

from django_push import PushMessage
from django_push.broadcasts import control
from django_push.exceptions import (
    InvalidAudience,
    InvalidBroadcast,
    InvalidMessage,
    InvalidPushBackend,
    UnsupportedOption,
)
from django_push.models import Broadcast, BroadcastBatch
from tests.broadcasts.factories import EXPO, drafted, finished, make_tokens, reloaded

pytestmark = pytest.mark.django_db

WRONG = [
    ({"key": ""}, "key must not be empty"),
    ({"key": 5}, "key must be a string"),
    ({"key": "k" * 256}, "at most 255"),
    ({"key": "a\0b"}, "key must be a string"),
    ({"name": "n" * 201}, "at most 200"),
    ({"name": 5}, "name must be a string"),
    ({"name": "a\0b"}, "name must be a string"),
    ({"using": 5}, "using must be a string"),
    ({"personalize": 5}, "personalize must be a string"),
    ({"personalize": "no.such.path"}, "personalize"),
    ({"personalize": "nodots"}, "personalize"),
    ({"on_unknown": "maybe"}, "on_unknown must be one of: retry, skip"),
    ({"on_unknown": None}, "on_unknown must be one of"),
    ({"rate": 0}, "rate must be"),
    ({"rate": -1}, "rate must be"),
    ({"rate": float("nan")}, "rate must be"),
    ({"rate": float("inf")}, "rate must be"),
    ({"rate": "5"}, "rate must be"),
    ({"max_sends": 0}, "max_sends must be a whole number from 1 to 10"),
    ({"max_sends": 11}, "max_sends must be"),
    ({"max_sends": True}, "max_sends must be"),
    ({"max_sends": 1.0}, "max_sends must be"),
    ({"batch_size": -1}, "batch_size must be"),
    ({"batch_size": 1001}, "batch_size must be"),
    ({"workers": 0}, "workers must be"),
    ({"workers": 65}, "workers must be"),
    ({"schedule": "tomorrow"}, "schedule must be"),
    ({"schedule": timedelta(hours=1)}, "schedule must be"),
    ({"schedule": datetime.max}, "schedule must be"),
    ({"schedule": datetime.min}, "schedule"),
    ({"expires": "tomorrow"}, "expires must be"),
    ({"expires": 3600}, "expires must be"),
    ({"expires": datetime.max}, "expires must be"),
    ({"expires": timedelta.max}, "expires must be"),
    ({"expires": timedelta(0)}, "expires before it starts"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_options(given, words):
    """InvalidBroadcast names the option and says what it may be."""
    with pytest.raises(InvalidBroadcast, match=words):
        drafted(**given)
    assert not Broadcast.objects.exists()


@pytest.mark.parametrize(
    "given",
    [
        {"title": None},
        {"titel": "Hi"},
        {"title": 5},
        {"ttl": -1},
        {"translations": {"de": {"titel": "Hallo"}}},
        {"translations": {"de": "Hallo"}},
        {"translations": {5: {"title": "Hallo"}}},
        {"translations": [("de", {"title": "Hallo"})]},
        {"translations": {f"x{n}": {"title": "Hallo"} for n in range(201)}},
        {"title": "x" * 70_000},
        {"translations": {"de": {"body": "x" * 70_000}}},
        {"title": "a\0b"},
        {"data": {"a": ["\0"]}},
        {"data": {"\0": 1}},
        {"data": {"a": "\ud800"}},
        {"provider_options": {"locmem": {"a": "\0"}}},
        {"title": "\ud800"},
        {"translations": {"de": {"title": "a\0b"}}},
    ],
)
def test_messages(given):
    """InvalidMessage, for what no database could keep as well."""
    with pytest.raises(InvalidMessage):
        drafted(**given)
    assert not Broadcast.objects.exists()


@pytest.mark.parametrize("text", ["\\u0000", "C:\\ud800", "😀", "\\\\u0000"])
def test_texts_that_only_look_bad(text):
    """A backslash is a character like any other."""
    make_tokens(1)
    made = reloaded(drafted(title=text))
    assert made.message["title"] == text


def test_a_message_given_twice():
    """As an object and by its fields: nobody knows which was meant."""
    with pytest.raises(TypeError, match="not both"):
        drafted(message=PushMessage(title="Hi"))


@pytest.mark.parametrize(
    "audience",
    ["nobody", "", 5, None, b"token", {"nonsense": 1}, {}, ["a-raw-token"], [5], {"kind": "nonsense"}],
)
def test_audiences(audience):
    """InvalidAudience, and nothing is left half written."""
    with pytest.raises(InvalidAudience):
        drafted(audience)
    assert not Broadcast.objects.exists()
    assert not BroadcastBatch.objects.exists()


def test_an_alias_that_there_is_not():
    """It is named, with those that there are."""
    with pytest.raises(InvalidPushBackend, match="'nobody' is not in PUSH_BACKENDS"):
        drafted(using="nobody")


def test_a_field_that_no_backend_can_say(settings):
    """UnsupportedOption if all are such; one that some can say is left out by the others."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    with pytest.raises(UnsupportedOption, match="analytics_label"):
        drafted(analytics_label="x")
    settings.PUSH_BACKENDS = {
        "default": EXPO,
        "other": {"BACKEND": "django_push.backends.locmem.LocMemBackend"},
    }
    make_tokens(1, backend="other")
    made = drafted(analytics_label="x")
    control.start(made)
    assert finished(made).progress.accepted == 1


@pytest.mark.parametrize("name", ["name", "personalize", "using", "key"])
def test_none_is_as_if_it_was_not_given(name):
    """A form's empty field does not fail."""
    assert drafted(**{name: None}).pk
