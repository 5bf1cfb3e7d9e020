import json
import urllib.error
import urllib.request

import pytest

from django_push.emulator import Faults, expo, fcm, gcm, inbox, routes
from django_push.emulator.state import INBOX_SIZE, State
from django_push.outcomes import mask
from tests.emulator.calls import json_call, read

SEND = "/--/api/v2/push/send"
LONG = "ExponentPushToken[0123456789abcdefghijkl]"


def push(state, **fields):
    return expo.answer(json_call(SEND, {"to": LONG, **fields}), state)


def test_page(emulator):
    """The page shows each push with provider, masked token, texts, data and outcome."""
    push(emulator.state, title="Order 17", body="On its way", data={"order": 17}, channelId="orders")
    expo.answer(json_call(SEND, {"to": "ExponentPushToken[unregistered-1]"}), emulator.state)
    with urllib.request.urlopen(f"{emulator.url}/") as response:
        page = response.read().decode()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for text in ("Order 17", "On its way", "<dd>17</dd>", "<dd>orders</dd>", "DeviceNotRegistered", ">ok<"):
        assert text in page
    assert LONG not in page
    assert mask(LONG) in page
    assert "1 accepted · 1 failed" in page


def test_escaped(state):
    """What a push says is text, never markup, and nothing is loaded from anywhere."""
    evil = "<script>alert(1)</script>"
    push(state, title=evil, body=evil, data={evil: evil}, richContent={"image": "https://evil.example/a.png"})
    page = inbox.page(state).body.decode()
    assert evil not in page
    assert page.count("&lt;script&gt;") == 4
    assert "src=" not in page
    assert "href=" not in page


def test_empty(state):
    """An empty inbox says so."""
    assert "No push yet" in inbox.page(state).body.decode()


def test_faults(state):
    """The page says which faults are on, and says nothing when none is."""
    assert 'class="faults"' not in inbox.page(state).body.decode()
    state.faults = Faults(kinds=["reset-after:0.25"], seed=7)
    assert "Faults are on: reset-after 0.25 (seed 7)</p>" in inbox.page(state).body.decode()
    state.latency = 0.05
    assert "(seed 7); latency 0.05 s</p>" in inbox.page(state).body.decode()
    state.faults = Faults()
    assert '<p class="faults">latency 0.05 s</p>' in inbox.page(state).body.decode()


def test_json(state):
    """The inbox is there as JSON, newest first, with each provider's fields under the same names."""
    push(state, title="one", richContent={"image": "i"}, badge=3, data={"a": [1]})
    gcm.answer(
        json_call(
            "/gcm/send",
            {"to": "b", "notification": {"title": "two", "android_channel_id": "c"}},
            authorization="key=k",
        ),
        state,
    )
    token = state.issue_access_token("a@example.com")
    message = {"topic": "news", "apns": {"payload": {"aps": {"alert": {"title": "three", "subtitle": "s"}}}}}
    fcm.answer(
        json_call("/v1/projects/p/messages:send", {"message": message}, authorization=f"Bearer {token}"),
        state,
    )
    three, two, one = read(inbox.as_list(state))["pushes"]
    assert (three["title"], three["subtitle"], three["kind"], three["target"]) == (
        "three",
        "s",
        "topic",
        "news",
    )
    assert (two["title"], two["details"]) == ("two", {"channel": "c"})
    assert (one["data"], one["details"]) == ({"a": "[1]"}, {"image": "i", "badge": "3"})
    assert (one["accepted"], one["outcome"], one["provider"]) == (True, "ok", "expo")


def test_plain_alert(state):
    """Apple's alert may be a string."""
    token = state.issue_access_token("a@example.com")
    message = {"token": "a", "apns": {"payload": {"aps": {"alert": "text"}}}}
    fcm.answer(
        json_call("/v1/projects/p/messages:send", {"message": message}, authorization=f"Bearer {token}"),
        state,
    )
    assert read(inbox.as_list(state))["pushes"][0]["body"] == "text"


def test_bounded():
    """Only the latest pushes are kept."""
    state = State()
    for _ in range(3):
        expo.answer(json_call(SEND, [{"to": [LONG] * 100}]), state)
    assert len(state.inbox) == INBOX_SIZE
    assert state.accepted[LONG] == 300


def test_over_http(emulator):
    """The page and the list are at / and /inbox.json, and there is nothing else."""
    with urllib.request.urlopen(f"{emulator.url}/inbox.json") as response:
        assert json.load(response) == {"pushes": []}
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{emulator.url}/admin")
    error.value.close()
    assert error.value.code == 404


def test_get_of_a_provider(state):
    """A provider's address is not for reading."""
    assert routes.get(SEND, state).status == 404
