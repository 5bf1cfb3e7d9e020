"""The emulator's own addresses: other processes switch faults and read the counts.

They demand JSON by its content type: a page in a browser cannot send that to another site unasked.
"""

from __future__ import annotations

from typing import Any

from django_push.emulator.exchange import Answer, Call, as_json, as_text, loads
from django_push.emulator.faults import Faults, seconds
from django_push.emulator.state import State

FAULTS, RESET = "/faults", "/reset"
PATHS = frozenset({FAULTS, RESET})
_FIELDS = frozenset({"kinds", "share", "seed", "limit", "schedule", "paths"})


def answer(call: Call, state: State) -> Answer:
    """Answer a POST to one of ``PATHS``."""
    if call.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return as_text(415, "Send application/json.", note="control: 415 content type")
    if call.path == RESET:
        state.reset()
        return as_json(200, state.counts(), note="control: reset")
    try:
        _switch(loads(call.body), state)
    except ValueError as error:
        return as_json(400, {"error": str(error)}, note="control: 400 faults")
    return faults(state)._replace(note=f"control: faults: {state.faults or 'off'}")


def faults(state: State) -> Answer:
    """Return which faults are on and how often each was applied."""
    return as_json(200, {**state.faults.shown(), "latency": state.latency})


def counts(state: State) -> Answer:
    """Return the oracle's numbers."""
    return as_json(200, state.counts())


def _switch(asked: Any, state: State) -> None:
    """Put these faults in place of the old ones; a latency that is not named stays. Raises ValueError."""
    if not isinstance(asked, dict):
        raise ValueError("send a JSON object")
    if unknown := sorted(asked.keys() - _FIELDS - {"latency"}):
        raise ValueError(f"unknown: {', '.join(unknown)}")
    latency = seconds("latency", asked.get("latency", state.latency))
    state.faults = Faults(**{name: asked[name] for name in _FIELDS & asked.keys()})
    state.latency = latency
