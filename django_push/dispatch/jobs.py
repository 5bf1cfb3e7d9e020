"""The jobs that a dispatcher may be asked for, by name; each takes a payload of plain JSON.

Each may be run early, late, twice or by several processes at once; only ``send_push`` would send twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django_push import receipts, sending
from django_push.broadcasts import draining, ticking

Job = Callable[[Mapping[str, Any]], object]


class UnknownJob(KeyError):
    """A job of another version of this library."""

    def __str__(self) -> str:
        return f"There is no job {self.args[0]!r}: this worker runs an older version than what queued it."


def _check_push_receipts(payload: Mapping[str, Any]) -> object:
    return receipts.check_push_receipts(backend=payload.get("backend"))


def _drain_broadcast(payload: Mapping[str, Any]) -> object:
    return draining.work(payload["broadcast"], payload.get("wake"))


def _tick(payload: Mapping[str, Any]) -> object:
    return ticking.tick()


JOBS: Mapping[str, Job] = {
    "send_push": sending.send_enqueued,
    "check_push_receipts": _check_push_receipts,
    "drain_broadcast": _drain_broadcast,
    "tick": _tick,
}


def run(job: str, payload: Mapping[str, Any]) -> object:
    """Run a job. What it returns may not fit into a queue. Raises UnknownJob."""
    if job not in JOBS:
        raise UnknownJob(job)
    return JOBS[job](payload)
