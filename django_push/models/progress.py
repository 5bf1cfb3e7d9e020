"""How far a broadcast is: plain values, read in one query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django_push.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneProgress:
    """How far one alias's part is; all numbers are tokens, but ``in_flight``, which is batches.

    ``expected`` were counted at the start, ``claimed`` have been taken on so far. Of those,
    ``counts`` have a verdict, ``skipped`` could no longer be sent to, ``pending`` are in flight or
    wait for another try, ``unknown`` may have been sent to, ``cancelled`` were not. ``resent`` were
    sent to again although an earlier send may have reached them: the most that can be doubled.
    """

    backend: str
    status: str
    pause_reason: str = ""
    pause_detail: str = ""
    expected: int = 0
    claimed: int = 0
    pending: int = 0
    planned: int = 0
    in_flight: int = 0
    unknown: int = 0
    cancelled: int = 0
    skipped: int = 0
    resent: int = 0
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    is_read: bool = False
    hold_until: datetime | None = None
    receipts: Mapping[str, int] = field(default_factory=dict)

    @property
    def told(self) -> int:
        """Tokens with a final verdict, or that need none."""
        return sum(self.counts.values()) + self.skipped + self.unknown + self.cancelled

    @property
    def total(self) -> int:
        """The best estimate of how many there are: exact once the audience is read."""
        return (
            self.claimed + self.planned if self.is_read else max(self.expected, self.claimed + self.planned)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a broadcast is, over all its lanes."""

    lanes: tuple[LaneProgress, ...] = ()
    #: Tokens of the audience whose alias is not in PUSH_BACKENDS.
    unconfigured: int = 0

    @property
    def total(self) -> int:
        return sum(lane.total for lane in self.lanes)

    @property
    def told(self) -> int:
        return sum(lane.told for lane in self.lanes)

    @property
    def pending(self) -> int:
        return sum(lane.pending for lane in self.lanes)

    @property
    def unknown(self) -> int:
        return sum(lane.unknown for lane in self.lanes)

    @property
    def cancelled(self) -> int:
        return sum(lane.cancelled for lane in self.lanes)

    @property
    def skipped(self) -> int:
        return sum(lane.skipped for lane in self.lanes)

    @property
    def resent(self) -> int:
        return sum(lane.resent for lane in self.lanes)

    @property
    def counts(self) -> Counter[Outcome]:
        """Tokens with a verdict, by outcome."""
        counts: Counter[Outcome] = Counter()
        for lane in self.lanes:
            counts.update(lane.counts)
        return counts

    @property
    def accepted(self) -> int:
        return self.counts[Outcome.ACCEPTED]

    @property
    def failed(self) -> int:
        """Tokens with a verdict that is no success; the unknown are not among them."""
        counts = self.counts
        return counts.total() - counts[Outcome.ACCEPTED]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "total": self.total,
            "told": self.told,
            "pending": self.pending,
            "unknown": self.unknown,
            "cancelled": self.cancelled,
            "skipped": self.skipped,
            "resent": self.resent,
            "unconfigured": self.unconfigured,
            "counts": {str(outcome): n for outcome, n in sorted(self.counts.items())},
            "lanes": [
                {
                    "backend": lane.backend,
                    "status": lane.status,
                    "pause_reason": lane.pause_reason,
                    "pause_detail": lane.pause_detail,
                    "total": lane.total,
                    "told": lane.told,
                    "pending": lane.pending,
                    "unknown": lane.unknown,
                    "cancelled": lane.cancelled,
                    "skipped": lane.skipped,
                    "resent": lane.resent,
                    "counts": {str(outcome): n for outcome, n in sorted(lane.counts.items())},
                    "receipts": dict(lane.receipts),
                }
                for lane in self.lanes
            ],
        }
