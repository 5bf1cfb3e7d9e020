"""The breaker: when so much goes wrong in a lane that a person should look. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from django_push.models import COUNTED, PauseReason
from django_push.outcomes import Outcome

#: A lane is paused when more than this share of its verdicts are bad, and at least so many.
SHARE = 0.2
LEAST = 200

#: What counts as bad, and why the lane is paused then.
BAD = {
    PauseReason.DEAD_TOKENS: (Outcome.UNREGISTERED, Outcome.INVALID_TOKEN, Outcome.PROVIDER_SETUP),
    PauseReason.REFUSED: (Outcome.MESSAGE_REJECTED, Outcome.REJECTED),
}


def verdict(counts: Mapping[str, int | None], *, least: int = 1) -> PauseReason | None:
    """Return what is wrong with these verdicts, by outcome; None if nothing is."""
    total = sum(counts.get(name) or 0 for name in COUNTED)
    for reason in BAD:
        bad = _bad(counts, reason)
        if bad >= least and bad > SHARE * total:
            return reason
    return None


def describe(counts: Mapping[str, int | None], reason: PauseReason) -> str:
    """Say how many are bad."""
    total = sum(counts.get(name) or 0 for name in COUNTED)
    return f"{_bad(counts, reason)} of {total}"


def _bad(counts: Mapping[str, int | None], reason: PauseReason) -> int:
    return sum(counts.get(outcome.value) or 0 for outcome in BAD[reason])
