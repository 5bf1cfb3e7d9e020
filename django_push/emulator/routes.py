"""Which address is whose: the one function that every request goes through."""

from __future__ import annotations

from django_push.emulator import expo, fcm, gcm, inbox, oauth
from django_push.emulator.exchange import Answer, Call, as_text
from django_push.emulator.state import State


def post(call: Call, state: State) -> Answer:
    """Answer a POST as the provider at this address does, and keep it."""
    answer = _provider_answer(call, state)
    state.record(call, answer.status)
    return answer


def get(path: str, state: State) -> Answer:
    """Answer a GET: the inbox is all that there is to see."""
    if path == "/":
        return inbox.page(state)
    if path == "/inbox.json":
        return inbox.as_list(state)
    return as_text(404, "Not Found")


def _provider_answer(call: Call, state: State) -> Answer:
    if call.path.startswith(expo.PREFIX):
        return expo.answer(call, state)
    if call.path in gcm.PATHS:
        return gcm.answer(call, state)
    if call.path == oauth.PATH:
        return oauth.answer(call, state)
    if call.path.startswith("/v1/projects/"):
        return fcm.answer(call, state)
    return as_text(404, "Not Found", note="no provider has this address")
