"""The dispatcher that needs nothing: the work is done at once, in the calling process."""

from __future__ import annotations

from typing import Any

from django_push.dispatch import jobs


class InlineDispatcher:
    """Runs each job when it is asked for. ``enqueue_push`` asks after the commit."""

    def enqueue(self, job: str, payload: dict[str, Any]) -> None:
        jobs.run(job, payload)
