"""The addresses by which other processes switch faults and read the counts, and the oracle behind them."""

import http.client
import json

import pytest

from django_push.emulator import Fault, Faults, State, expo, gcm, start_emulator
from tests.emulator.calls import TOKEN, json_call

SEND = expo.SEND
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def ask(emulator):
    """Return a function that sends a request and returns status and JSON (or text) of its answer."""
    host, port = emulator.host.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)

    def ask(method, path, payload=None, **headers):
        body = None if payload is None else json.dumps(payload)
        connection.request(method, path, body, JSON | headers if method == "POST" else headers)
        response = connection.getresponse()
        text = response.read()
        is_json = response.getheader("Content-Type").startswith("application/json")
        return response.status, json.loads(text) if is_json else text.decode()

    yield ask
    connection.close()


def test_switch(ask, emulator):
    """Faults are switched on and off while it runs, and what was applied can be read."""
    asked = {"kinds": ["refused"], "share": 1, "seed": 7, "latency": 0.001, "limit": 2, "schedule": [None]}
    on = {
        "on": True,
        "kinds": {"refused": 1.0},
        "seed": 7,
        "limit": 2,
        "scheduled": [None],
        "paths": ["push"],
        "applied": {},
        "latency": 0.001,
    }
    assert ask("POST", "/faults", asked) == (200, on)
    assert [ask("POST", SEND, {"to": TOKEN})[0] for _ in range(4)] == [200, 503, 503, 200]
    used = on | {"on": False, "scheduled": [], "applied": {"refused": 2}}
    assert ask("GET", "/faults.json") == (200, used)
    ask("POST", "/faults", {"kinds": ["refused"], "share": 1})
    assert ask("POST", SEND, {"to": TOKEN})[0] == 503
    status, off = ask("POST", "/faults", {"kinds": []})
    assert (status, off["on"], off["latency"]) == (200, False, 0.001)
    assert ask("POST", SEND, {"to": TOKEN})[0] == 200
    assert emulator.state.requests == 6


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        ({"kinds": ["nonsense"]}, "'nonsense' is no fault"),
        ({"kind": ["hang"]}, "unknown: kind"),
        ({"latency": "slow"}, "latency must be a number of seconds"),
        ({"latency": -1}, "latency must be a number of seconds"),
        ({"limit": "many"}, "limit must be a whole number"),
        ([], "send a JSON object"),
        ("hang", "send a JSON object"),
    ],
)
def test_bad_switch(payload, word, ask, emulator):
    """What makes no sense is refused in words and changes nothing."""
    faults = emulator.state.faults = Faults(kinds=["hang"], share=0)
    status, answer = ask("POST", "/faults", payload)
    assert (status, answer["error"][: len(word)]) == (400, word)
    assert (emulator.state.faults, emulator.state.latency) == (faults, 0)


def test_no_json(emulator, ask):
    """A body that is no JSON is refused."""
    status, _ = ask("POST", "/faults", None, **{"Content-Length": "0"})
    assert status == 400


@pytest.mark.parametrize("path", ["/faults", "/reset"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": ""},
    ],
)
def test_form_of_a_page(path, headers, ask, emulator):
    """What a page in a browser can post to another site unasked is refused."""
    assert ask("POST", SEND, {"to": TOKEN})[0] == 200
    assert ask("POST", path, {"kinds": ["hang"]}, **headers)[0] == 415
    assert not emulator.state.faults.is_on
    assert emulator.state.accepted == {TOKEN: 1}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/faults"), ("POST", "/reset"), ("GET", "/faults.json"), ("GET", "/counts.json")],
)
def test_foreign_host(method, path, ask):
    """Under a name of its own a page reaches none of them."""
    payload = {} if method == "POST" else None
    assert ask(method, path, payload)[0] == 200
    assert ask(method, path, payload, Host="evil.example")[0] == 421


def test_no_preflight(ask):
    """A browser that asks whether it may send JSON is not told so."""
    assert ask("OPTIONS", "/faults", Origin="http://evil.example")[0] == 501


def test_counts(ask):
    """The counts tell what was accepted, how often twice, and how much in one second."""
    nothing = {
        "accepted_total": 0,
        "tokens": 0,
        "max_per_token": 0,
        "doubled": 0,
        "max_per_second": {},
        "requests": 0,
    }
    assert ask("GET", "/counts.json") == (200, nothing)
    other = "ExponentPushToken[bbb]"
    for to in (TOKEN, [TOKEN, TOKEN, other], "ExponentPushToken[unregistered-1]"):
        ask("POST", SEND, {"to": to})
    _, counts = ask("GET", "/counts.json")
    most = counts.pop("max_per_second")["expo"]
    assert most in range(1, 5)
    assert counts == {"accepted_total": 4, "tokens": 2, "max_per_token": 3, "doubled": 2, "requests": 3}
    assert ask("POST", "/reset", {}) == (200, nothing)
    assert ask("GET", "/counts.json") == (200, nothing)


def test_accepted_at():
    """Accepted pushes are counted per provider and whole second of the emulator's clock."""
    state = State()
    now = 1_700_000_000.25
    state.now = lambda: now
    expo.answer(json_call(SEND, {"to": [TOKEN, TOKEN, "ExponentPushToken[unregistered-1]"]}), state)
    gcm.answer(json_call("/gcm/send", {"to": "a"}, authorization="key=k"), state)
    now += 1
    expo.answer(json_call(SEND, {"to": TOKEN}), state)
    second = 1_700_000_000
    assert state.accepted_at == {("expo", second): 2, ("gcm", second): 1, ("expo", second + 1): 1}
    assert state.counts()["max_per_second"] == {"expo": 2, "gcm": 1}


def test_reset_keeps_the_start():
    """A reset forgets what was seen, and begins again with the faults and latency of the start."""
    faults = Faults(schedule=["refused"], seed=7)
    with start_emulator(faults=faults, latency=0.01) as emulator:
        state = emulator.state
        assert state.faults is faults
        assert state.faults.next("expo", "push") is Fault.REFUSED
        state.faults, state.latency = Faults(kinds=["hang"]), 0
        state.reset()
        assert (state.latency, state.faults.seed, state.faults.applied) == (0.01, 7, {})
        assert state.faults.next("expo", "push") is Fault.REFUSED


def test_bad_latency():
    """A latency that makes no sense is refused at the start."""
    with pytest.raises(ValueError, match="latency must be a number of seconds from 0 to 86400"):
        start_emulator(latency=-1)
