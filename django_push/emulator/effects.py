"""What each fault does to a request: refused before it is taken, or taken and the answer spoiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, NamedTuple, Protocol

from django_push.emulator.exchange import Answer, Call, Delivery, as_json, loads, proxy_page
from django_push.emulator.faults import Fault
from django_push.emulator.state import State

_HUGE = 10**9


class Trouble(Protocol):
    """How a provider says that it cannot now: ``rate``, ``unavailable`` or ``internal``."""

    def __call__(self, call: Call, word: str, /, *headers: tuple[str, str]) -> Answer: ...


class Service(NamedTuple):
    """What is behind an address: whose it is, which of ``faults.PATHS`` ("" for none), who answers."""

    provider: str
    path: str
    answer: Callable[[Call, State], Answer]
    trouble: Trouble


def answer(service: Service, call: Call, state: State) -> Answer:
    """Answer as the provider does, or as the fault demands whose turn it is."""
    kind = state.faults.next(service.provider, service.path)
    if kind is None:
        return service.answer(call, state)
    if kind is Fault.EXPIRED_AUTH:
        state.expire_access_tokens()
        failed = service.answer(call, state)
    else:
        failed = _refused(kind, service, call, state) or _spoiled(kind, service.answer(call, state))
    return failed._replace(note=f"{failed.note} (fault: {kind.value})".lstrip())


def _refused(kind: Fault, service: Service, call: Call, state: State) -> Answer | None:
    """Return the answer to a request that is not taken, or None for a fault that comes later."""
    match kind:
        case Fault.REFUSED:
            return service.trouble(call, "unavailable")
        case Fault.REFUSED_500:
            return service.trouble(call, "internal")
        case Fault.RESET_BEFORE:
            return Answer(0, delivery=Delivery.RESET)
        case Fault.UNAVAILABLE_HTML:
            return proxy_page(503)
    if not kind.value.startswith(Fault.RATE_LIMITED.value):
        return None
    wait = _retry_after(kind, state.options.retry_after)
    return service.trouble(call, "rate", *([("Retry-After", wait)] if wait else []))


def _retry_after(kind: Fault, seconds: int) -> str:
    match kind:
        case Fault.RATE_LIMITED_DATE:
            return formatdate(time.time() + seconds, usegmt=True)
        case Fault.RATE_LIMITED_GARBAGE:
            return "soon"
        case Fault.RATE_LIMITED_HUGE:
            return str(_HUGE)
        case Fault.RATE_LIMITED_BARE:
            return ""
    return str(seconds)


def _spoiled(kind: Fault, given: Answer) -> Answer:
    """Return what becomes of the answer to a request that was taken."""
    match kind:
        case Fault.RESET_AFTER:
            return given._replace(status=0, delivery=Delivery.RESET)
        case Fault.HANG:
            return given._replace(status=0, delivery=Delivery.SILENCE)
        case Fault.BAD_GATEWAY:
            return proxy_page(502)._replace(note=given.note)
        case Fault.TRUNCATED:
            return given._replace(delivery=Delivery.CUT)
        case Fault.TRUNCATED_HONEST:
            return given._replace(body=given.body[: len(given.body) // 2])
        case Fault.INVALID_JSON:
            return given._replace(body=b"{" + given.body)
        case Fault.SHORT | Fault.LONG:
            return _recounted(given, is_short=kind is Fault.SHORT)
    return given._replace(delivery=Delivery.DRIP)


def _recounted(given: Answer, *, is_short: bool) -> Answer:
    """Return the answer with one ticket too few or too many. A refusal has no tickets and stays."""
    if given.status != 200:
        return given
    try:
        payload = loads(given.body)
    except ValueError:  # plain text
        return given._replace(body=b"" if is_short else given.body + b"\n" + given.body)
    return given._replace(body=as_json(200, _other_number(payload, is_short=is_short)).body)


def _other_number(payload: dict[str, Any], *, is_short: bool) -> object:
    """Take or double the first, so that whoever pairs by place gets all the others wrong."""
    name = next((name for name in ("data", "results") if name in payload), None)
    if name is None:
        return {} if is_short else [payload, payload]
    entries = payload[name]
    if isinstance(entries, dict) and "status" not in entries:  # receipts, by id
        entries = dict(list(entries.items())[1:]) if is_short else {**entries, "unasked": {"status": "ok"}}
    else:
        entries = entries if isinstance(entries, list) else [entries]
        entries = entries[1:] if is_short else [entries[0], *entries]
    return {**payload, name: entries}
