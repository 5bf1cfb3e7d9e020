"""Broadcasts: one message to an audience, durable, resumable, bounded in what can be sent twice.

The tables are the truth; a queue only wakes workers. The steps:

- ``creating`` checks a call and writes the broadcast down; ``audiences`` says who gets it;
- ``control`` starts, pauses, resumes, cancels and ends it;
- ``claims`` takes some tokens on for a while, ``results`` writes what came of them: the protocol;
- ``draining`` and ``lane`` send, as a loop over claims, as fast as ``rates`` and ``quota`` allow;
- ``breaker`` tells when a person should look; ``ticking`` does what is due and was left by others.
"""

from django_push.broadcasts.control import (
    cancel,
    pause,
    resend_unknown,
    resume,
    undo_deactivations,
    wake_workers,
)
from django_push.broadcasts.creating import begin, broadcast, recent_twin
from django_push.broadcasts.draining import Drained, drain
from django_push.broadcasts.ticking import Tick, prune, tick

__all__ = [
    "Drained",
    "Tick",
    "begin",
    "broadcast",
    "cancel",
    "drain",
    "pause",
    "prune",
    "recent_twin",
    "resend_unknown",
    "resume",
    "tick",
    "undo_deactivations",
    "wake_workers",
]
