from pathlib import Path

import pytest

from django_push.emulator import markers
from django_push.emulator.markers import Marker, find, project


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("ExponentPushToken[unregistered-17]", Marker("token", "unregistered")),
        ("unregistered", Marker("token", "unregistered")),
        ("anna-unregistered1", Marker("token", "unregistered")),
        ("app:too-big_2", Marker("token", "too-big")),
        ("invalid-field-2", Marker("token", "invalid-field")),
        ("invalid-2", Marker("token", "invalid")),
        ("code-QUOTA_EXCEEDED", Marker("token", "code", "QUOTA_EXCEEDED")),
        ("receipt-code-Whatever-1", Marker("receipt", "code", "Whatever")),
        ("receipt-unregistered", Marker("receipt", "unregistered")),
        ("receipt-mismatch-nested-1", Marker("receipt", "mismatch-nested")),
        ("request-html", Marker("request", "html")),
        ("unavailable-once-1", Marker("token", "unavailable", times=1)),
        ("request-rate-twice", Marker("request", "rate", times=2)),
        ("a-replaced-by-c", Marker("token", "replaced", "c")),
        ("ExponentPushToken[replaced-by-c]", Marker("token", "replaced", "c")),
        ("a-replaced-by-b-replaced-by-c", Marker("token", "replaced", "b-replaced-by-c")),
        ("a-replaced-by-unregistered", Marker("token", "replaced", "unregistered")),
    ],
)
def test_find(token, expected):
    """A marker is found at the start of a token and after a separator, the leftmost one."""
    assert find(token) == expected


@pytest.mark.parametrize(
    "token",
    ["abc", "notunregistered", "unregisteredly", "Unregistered", "html", "rated", "ExponentPushToken[aaa]"],
)
def test_no_marker(token):
    """A word inside another word is no marker."""
    assert find(token) is None


def test_project():
    """A token names its Expo project, beside another marker; else it belongs to the default one."""
    token = "ExponentPushToken[project-shop-unregistered-1]"
    assert project(token) == "@emulator/shop"
    assert find(token) == Marker("token", "unregistered")
    assert project("ExponentPushToken[a]") == "@emulator/app"


def test_first_times_only(state):
    """A marker with -twice works for two requests with that token, one without for all."""
    assert [bool(state.marker("rate-twice-1")) for _ in range(4)] == [True, True, False, False]
    assert [bool(state.marker("rate-1")) for _ in range(4)] == [True] * 4
    assert bool(state.marker("rate-twice-2"))


def test_documented():
    """Each marker is in the module's table and in the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "emulator.rst").read_text()
    words = [
        *markers.TOKEN,
        *(f"request-{word}" for word in markers.REQUEST),
        "receipt-mismatch-nested",
        "receipt-never",
        "project-NAME",
        "code-WORD",
        "replaced-by-NEW",
        "-once",
        "-twice",
    ]
    assert [word for word in words if f"``{word}``" not in page] == []
    assert [word for word in words if f"``{word}" not in markers.__doc__] == []
