"""The dispatcher that needs nothing: the work is done at once, in the calling process."""

from __future__ import annotations

from typing import Any

from django_push.dispatch import jobs


class InlineDispatcher:
    """Runs each job when it is asked for. ``enqueue_push`` asks after the commit."""

    can_defer = False

    def enqueue(self, job: str, payload: dict[str, Any], *, delay: float = 0.0) -> None:
        if delay > 0:
            raise ValueError("InlineDispatcher runs jobs at once; it cannot defer one.")
        jobs.run(job, payload)
