"""One HTTP exchange as the pure modules see it: a request that is read, an answer to be written."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from http.client import responses
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A request. ``headers`` has lower-case names; ``body`` is decompressed."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Delivery(enum.Enum):
    """How an answer goes out."""

    WHOLE = "whole"
    #: Half of the body, then the connection ends; the Content-Length is that of the whole.
    CUT = "cut"
    #: A byte at a time.
    DRIP = "drip"
    #: Nothing is written and the connection is reset.
    RESET = "reset"
    #: Nothing is written until the client hangs up.
    SILENCE = "silence"


class Answer(NamedTuple):
    """What is written back. ``note`` says it in a few words for the log, with masked tokens.

    ``status`` is 0 where nothing is written. ``delay`` is the seconds before it goes out.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    note: str = ""
    delivery: Delivery = Delivery.WHOLE
    delay: float = 0.0


def as_json(status: int, payload: object, *headers: tuple[str, str], note: str = "") -> Answer:
    """Return an answer in JSON."""
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status, body, (("Content-Type", "application/json; charset=utf-8"), *headers), note)


def as_text(status: int, text: str, *headers: tuple[str, str], note: str = "") -> Answer:
    """Return an answer in plain text."""
    return Answer(status, text.encode(), (("Content-Type", "text/plain; charset=utf-8"), *headers), note)


def as_html(status: int, text: str, *headers: tuple[str, str], note: str = "") -> Answer:
    """Return an answer in HTML."""
    return Answer(status, text.encode(), (("Content-Type", "text/html; charset=utf-8"), *headers), note)


def proxy_page(status: int = 502) -> Answer:
    """Return what a proxy in front of a provider says: HTML, and nothing about the push."""
    said = f"{status} {responses[status]}"
    page = f"<html><head><title>{said}</title></head><body><h1>{said}</h1></body></html>"
    return as_html(status, page, note="proxy's HTML")


def loads(body: bytes) -> Any:
    """Return what the JSON says. Raises ValueError."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def bearer(call: Call) -> str:
    """Return the token of a Bearer Authorization, or ""."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
