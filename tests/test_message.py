"""PushMessage, Topic and Condition: what is a message, and what is none."""

import contextlib
import dataclasses
import subprocess
import sys
from collections import UserDict
from datetime import timedelta
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType

import pytest
from django.utils import translation
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from django_push.exceptions import InvalidMessage, PushError
from django_push.message import FIELDS, Condition, PushMessage, Topic, language_for
from tests import strategies

CYCLE = {}
CYCLE["again"] = CYCLE
DEEP = []
for _ in range(150):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "nothing in the message"),
        ({"title": ""}, "nothing in the message"),
        ({"data": {}}, "nothing in the message"),
        ({"title": "", "body": "", "data": {}, "sound": ""}, "nothing in the message"),
        ({"content_available": False}, "nothing in the message"),
        ({"provider_options": {"fcm": {}}}, "nothing in the message"),
        ({"ttl": 5, "priority": "high", "collapse_key": "x", "tag": "y"}, "nothing in the message"),
        ({"title": b"bytes"}, "title must be a string, not bytes"),
        ({"body": 17}, "body must be a string, not int"),
        ({"title": ["x"]}, "title must be a string, not list"),
        ({"title": "a\ud800b"}, "title has surrogate characters"),
        ({"title": "x", "tag": "\udfff"}, "tag has surrogate characters"),
        ({"title": "x", "link": b"https://x"}, "link must be a string"),
        ({"title": "x", "image": gettext_lazy("x")}, "image must be a string, not __proxy__"),
        ({"title": "x", "sound": 5}, "sound must be a string or a dictionary"),
        ({"title": "x", "sound": "\ud800"}, "sound has surrogate characters"),
        ({"title": "x", "sound": {"name": {1}}}, "sound must be JSON"),
        ({"data": "x"}, "data must be a dictionary, not str"),
        ({"data": ["x"]}, "data must be a dictionary, not list"),
        ({"data": [("a", 1)]}, "data must be a dictionary, not list"),
        ({"data": {1: "x"}}, "data must be JSON: the key 1 is no string"),
        ({"data": {"a": {None: "x"}}}, "data must be JSON: the key None is no string"),
        ({"data": {"a": [{("b",): 1}]}}, "data must be JSON: the key"),
        ({"data": {"a": Decimal(1)}}, "data must be JSON: Decimal is no JSON type"),
        ({"data": {"a": {1, 2}}}, "data must be JSON: set is no JSON type"),
        ({"data": {"a": b"x"}}, "data must be JSON: bytes is no JSON type"),
        ({"data": {"a": float("nan")}}, "data must be JSON"),
        ({"data": {"a": [float("inf")]}}, "data must be JSON"),
        ({"data": {"a": "\ud800"}}, "data has surrogate characters"),
        ({"data": {"\ud800": "a"}}, "data has surrogate characters"),
        ({"data": {"a": 10**5000}}, "data must be JSON"),
        ({"data": {"a": DEEP}}, "data must be JSON: it is nested more than 100 deep"),
        ({"data": CYCLE}, "data must be JSON: it is nested more than 100 deep"),
        ({"title": "x", "badge": -1}, "badge must be 0 to"),
        ({"title": "x", "badge": 2**31}, "badge must be 0 to"),
        ({"title": "x", "badge": True}, "badge must be a whole number, not bool"),
        ({"title": "x", "badge": "1"}, "badge must be a whole number, not str"),
        ({"title": "x", "badge": 1.0}, "badge must be a whole number, not float"),
        ({"title": "x", "ttl": -1}, "ttl must be 0 to 2419200 seconds"),
        ({"title": "x", "ttl": 2_419_201}, "ttl must be 0 to 2419200 seconds"),
        ({"title": "x", "ttl": timedelta(days=29)}, "ttl must be 0 to 2419200 seconds"),
        ({"title": "x", "ttl": timedelta(seconds=-1)}, "ttl must be 0 to 2419200 seconds"),
        ({"title": "x", "ttl": 1.5}, "ttl must be a whole number"),
        ({"title": "x", "ttl": "60"}, "ttl must be a whole number"),
        ({"title": "x", "ttl": False}, "ttl must be a whole number"),
        ({"title": "x", "priority": "HIGH"}, "priority must be one of: normal, high"),
        ({"title": "x", "priority": 5}, "priority must be one of"),
        ({"title": "x", "priority": []}, "priority must be one of"),
        ({"title": "x", "priority": gettext_lazy("high")}, "priority must be one of"),
        ({"title": "x", "interruption_level": "loud"}, "interruption_level must be one of"),
        ({"title": "x", "color": "red"}, "color must be #rrggbb"),
        ({"title": "x", "color": "#fff"}, "color must be #rrggbb"),
        ({"title": "x", "color": "#ffffff\n"}, "color must be #rrggbb"),
        ({"title": "x", "content_available": 1}, "content_available must be True or False"),
        ({"title": "x", "mutable_content": "yes"}, "mutable_content must be True or False"),
        ({"title": "x", "provider_options": ["fcm"]}, "provider_options must map"),
        ({"title": "x", "provider_options": None}, "provider_options must map"),
        ({"title": "x", "provider_options": {5: {}}}, "provider_options: 5 is no provider's name"),
        ({"title": "x", "provider_options": {"fcm": "x"}}, "provider_options['fcm'] must be a dictionary"),
        ({"title": "x", "provider_options": {"fcm": {"a": {1}}}}, "provider_options['fcm'] must be JSON"),
        (
            {"title": "x", "provider_options": {"fcm": {"a": "\ud800"}}},
            "provider_options['fcm'] has surrogate",
        ),
    ],
)
def test_what_is_no_message(fields, said):
    """Each mistake is an InvalidMessage that names the field."""
    with pytest.raises(InvalidMessage) as caught:
        PushMessage(**fields)
    assert said in str(caught.value)
    assert isinstance(caught.value, (PushError, ValueError))


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "x"},
        {"title": "\0\n\u202e😀"},
        {"title": "x" * 10_240},
        {"title": mark_safe("<b>x</b>")},
        {"body": "x"},
        {"subtitle": "x"},
        {"data": {"a": None}},
        {"data": UserDict(a=MappingProxyType({"b": (1, 2)}))},
        {"image": "https://example.com/a.png"},
        {"sound": "default"},
        {"sound": {"critical": True}},
        {"badge": 0},
        {"badge": IntEnum("Count", "one").one},
        {"content_available": True},
        {"provider_options": {"fcm": {"android": {}}}},
        {"title": "x", "ttl": 0},
        {"title": "x", "ttl": 2_419_200},
        {"title": "x", "ttl": timedelta(weeks=4)},
        {"title": "x", "color": "#A0b1C2"},
        {"title": "", "badge": 3},
    ],
)
def test_what_is_a_message(fields):
    """Anything that shows, plays, counts or carries something is a message."""
    assert PushMessage(**fields).said == fields.keys() - {"provider_options"}


def test_a_message_is_a_value():
    """Equal fields are an equal message; nothing can be set, and positions have no meaning."""
    assert PushMessage(title="x", data={"a": 1}) == PushMessage(title="x", data={"a": 1})
    assert PushMessage(title="x") != PushMessage(title="y")
    with pytest.raises(dataclasses.FrozenInstanceError):
        PushMessage(title="x").title = "y"
    with pytest.raises(TypeError):
        PushMessage("x")
    with pytest.raises(TypeError):
        PushMessage(titel="x")
    assert "provider_options" not in FIELDS


def test_no_two_messages_share_their_options():
    """The default of provider_options is each message's own."""
    assert PushMessage(title="x").provider_options is not PushMessage(title="y").provider_options


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(None, None), (0, 0), (60, 60), (timedelta(minutes=1), 60), (timedelta(seconds=1.9), 1)],
)
def test_ttl_in_seconds(ttl, seconds):
    """A timedelta is rounded down to whole seconds."""
    assert PushMessage(title="x", ttl=ttl).ttl_seconds == seconds


# --- languages ----------------------------------------------------------------------------------------


def texts_of(message):
    return [message.title, message.data["nested"][0]["text"], message.provider_options["fcm"]["x"]]


def test_lazy_texts_wait_for_their_language():
    """Lazy texts in any place are rendered in the language asked for, again and again."""
    message = PushMessage(
        title=gettext_lazy("Monday"),
        data={"nested": [{"text": gettext_lazy("Tuesday")}], "n": 1},
        provider_options={"fcm": {"x": gettext_lazy("Friday")}},
        badge=1,
    )
    assert message.is_lazy
    with translation.override("fr"):
        german = message.render("de")
    assert texts_of(german) == ["Montag", "Dienstag", "Freitag"]
    assert texts_of(message.render("fr")) == ["lundi", "mardi", "vendredi"]
    assert not german.is_lazy
    assert all(type(text) is str for text in texts_of(german))
    assert (german.badge, german.data["n"]) == (1, 1)


def test_plain_messages_are_not_lazy():
    """A message of plain strings needs no language, and rendering leaves it equal."""
    message = PushMessage(title="x", data={"a": [1, {"b": "c"}]}, sound={"name": "x"}, ttl=timedelta(1))
    assert not message.is_lazy
    assert message.render("de") == message


@pytest.mark.parametrize(
    "fields",
    [
        {"body": lazystr("x")},
        {"subtitle": lazystr("x")},
        {"data": {"a": [lazystr("x")]}},
        {"sound": {"name": lazystr("x")}},
    ],
)
def test_where_lazy_texts_may_be(fields):
    """Texts, data, sound and options may be lazy."""
    assert PushMessage(**{"title": "x", **fields}).is_lazy


def test_lazy_sentences():
    """A text that is put together lazily is rendered in its language as a whole."""
    body = format_lazy("{}, {}", gettext_lazy("Monday"), gettext_lazy("Tuesday"))
    assert PushMessage(title="x", body=body).render("de").body == "Montag, Dienstag"


def test_a_lazy_text_is_not_read_when_the_message_is_made():
    """A message with translations may stand at the top of a module that is imported before the apps."""
    program = (
        "from django.conf import settings; settings.configure(USE_I18N=True)\n"
        "from django.utils.translation import gettext_lazy as _\n"
        "from django_push.message import PushMessage\n"
        "PushMessage(title=_('Monday'), data={'a': _('x')}, provider_options={'fcm': {'a': _('x')}})\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_a_lazy_text_that_cannot_be_sent_fails_when_it_is_rendered():
    """What a translation turns out to be is checked like any text."""
    with pytest.raises(InvalidMessage):
        PushMessage(title=lazystr("\ud800")).render("de")


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("de_AT", "de"),
        ("de_CH.UTF-8", "de"),
        ("fr-Latn-CA", "fr"),
        ("en-GB", "en"),
        ("zh-Hant-TW", "en"),
        ("xx", "en"),
        ("de\0", "en"),
        ("../de", "en"),
        ("-" * 35, "en"),
        ("d" * 5000, "en"),
        ("٣", "en"),
    ],
)
def test_language_for(locale, language):
    """A locale is served by its nearest language of the site, else by the site's own."""
    assert language_for(locale) == language


# --- JSON ---------------------------------------------------------------------------------------------


@given(strategies.messages)
def test_to_json_round_trip(message):
    """What to_json gives makes the same message again."""
    said = message.to_json()
    again = PushMessage(**said)
    assert again.to_json() == said
    assert again == dataclasses.replace(message, ttl=message.ttl_seconds)


@pytest.mark.parametrize("fields", [{"title": "a\0b"}, {"data": {"a": ["\0"]}}, {"data": {"\\\0": 1}}])
def test_what_cannot_be_kept(fields):
    """Not every database keeps a NUL in JSON; six characters that only look like one are kept."""
    message = PushMessage(**fields)
    with pytest.raises(InvalidMessage, match="NUL"):
        message.to_keep()
    assert PushMessage(**message.to_json()) == message
    assert PushMessage(title="\\u0000", data={"a": "\\\\u0000"}).to_keep()["title"] == "\\u0000"


def test_to_json_is_plain():
    """Lazy texts, mappings and timedeltas become plain JSON values; the unset is left out, the order kept."""
    message = PushMessage(
        title=lazystr("x"),
        data=UserDict(a=(1, lazystr("y"))),
        ttl=timedelta(minutes=1),
        content_available=False,
    )
    said = {"title": "x", "data": {"a": [1, "y"]}, "ttl": 60, "content_available": False}
    assert list(message.to_json().items()) == list(said.items())


# --- topics and conditions ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["news", "a", "A-Z_0.9~%", "x" * 900])
def test_topics(name):
    """A topic's name has Google's characters."""
    assert Topic(name).name == name


@pytest.mark.parametrize(
    "name", ["", "/topics/news", "a b", "ü", "٣", "news\n", "x" * 901, None, 5, b"news", ["a"]]
)
def test_what_is_no_topic(name):
    """Other names are an InvalidMessage."""
    with pytest.raises(InvalidMessage, match="A topic's name"):
        Topic(name)


@pytest.mark.parametrize(
    "expression",
    [
        "'a' in topics",
        "'a' in topics && 'b' in topics",
        "'a' in topics && ('b' in topics || !('c' in topics))",
        "'a'  in\ttopics&&'b' in topics",
        " || ".join(f"'{name}' in topics" for name in "abcde"),
    ],
)
def test_conditions(expression):
    """A condition joins one to five topics."""
    assert Condition(expression).expression == expression


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "news",
        "'news'",
        "topics",
        "'a b' in topics",
        "'' in topics",
        '"a" in topics',
        "'a' in topicsx",
        "'a' in topics; 'b' in topics",
        "'a' in topics and 'b' in topics",
        "'a' in topics \ud800",
        "'\ud800' in topics",
        "'ü' in topics",
        " || ".join(f"'{name}' in topics" for name in "abcdef"),
        None,
        b"'a' in topics",
        5,
    ],
)
def test_what_is_no_condition(expression):
    """Anything else is an InvalidMessage."""
    with pytest.raises(InvalidMessage, match=r"[Aa] condition"):
        Condition(expression)


_PARTS = ["'a' in topics", " && ", " || ", "!", "(", ")", " ", "'ü' in topics", "'a'", "\ud800", "x", "\n"]


@given(st.lists(st.sampled_from(_PARTS), max_size=12).map("".join))
def test_conditions_can_be_sent(expression):
    """What passes as a condition names a topic and can be written as ASCII."""
    with contextlib.suppress(InvalidMessage):
        assert b"'a' in topics" in Condition(expression).expression.encode("ascii")
