"""The jobs that a dispatcher may be asked for, by name; each takes a payload of plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django_push import sending

JOBS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {"send_push": sending.send_enqueued}


def run(job: str, payload: Mapping[str, Any]) -> object:
    """Run a job. Raises KeyError for a name that this version does not know."""
    return JOBS[job](payload)
