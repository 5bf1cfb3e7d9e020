"""Which address is whose: the one function that every request goes through."""

from __future__ import annotations

from django_push.emulator import control, effects, expo, fcm, gcm, inbox, oauth
from django_push.emulator.effects import Service
from django_push.emulator.exchange import Answer, Call, as_text
from django_push.emulator.state import State

_EXPO_PATHS = {expo.SEND: "push", expo.GET_RECEIPTS: "receipts"}


def post(call: Call, state: State) -> Answer:
    """Answer a POST as the provider at this address does, and keep it."""
    if call.path in control.PATHS:
        return control.answer(call, state)
    service = _service(call.path)
    answer = effects.answer(service, call, state) if service else _unknown()
    state.record(call, answer.status)
    return answer._replace(delay=state.latency)


def get(path: str, state: State) -> Answer:
    """Answer a GET: the inbox, the counts and the faults are all that there is to see."""
    match path:
        case "/":
            return inbox.page(state)
        case "/inbox.json":
            return inbox.as_list(state)
        case "/counts.json":
            return control.counts(state)
        case "/faults.json":
            return control.faults(state)
    return as_text(404, "Not Found")


def _service(path: str) -> Service | None:
    if path.startswith(expo.PREFIX):
        return Service("expo", _EXPO_PATHS.get(path, ""), expo.answer, expo.trouble)
    if path in gcm.PATHS:
        return Service("gcm", "push", gcm.answer, gcm.trouble)
    if path == oauth.PATH:
        return Service("google", "oauth", oauth.answer, oauth.trouble)
    if path.startswith("/v1/projects/"):
        return Service("fcm", "push" if fcm.PATH.fullmatch(path) else "", fcm.answer, fcm.trouble)
    return None


def _unknown() -> Answer:
    return as_text(404, "Not Found", note="no provider has this address")
