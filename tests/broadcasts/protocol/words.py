"""What the machine and both engines, the model and the real one, say to each other."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

#: A worker's verdicts: the first two are final.
ACCEPTED, DEAD, REFUSED, UNSENT, UNKNOWN = "accepted", "dead", "refused", "unsent", "unknown"
FINAL = (ACCEPTED, DEAD)
#: How long a claim is its claimant's. Seconds.
LEASE = 60
#: A batch that was claimed so often is left at its refusals.
MOST_CLAIMS = 12


class Died(Exception):
    """A worker's process ended within a transaction."""


@dataclass(frozen=True)
class Setup:
    """A broadcast: its tokens as (alias, user), and how it is sent."""

    tokens: tuple[tuple[str, int | None], ...]
    is_list: bool
    size: int
    max_sends: int
    on_unknown: str

    @property
    def cap(self) -> int:
        return self.max_sends if self.on_unknown == "retry" else 1


@dataclass
class Held:
    """A claim as its worker knows it."""

    alias: str
    batch: int
    number: int
    targets: tuple[int, ...]
    raw: Any = None


@dataclass(frozen=True)
class Row:
    """A batch as it is in the table."""

    pk: int
    alias: str
    status: str
    chosen: frozenset[int]
    size: int
    pending: int
    number: int
    sends: int
    resent: int
    skipped: int
    counts: Counter = field(default_factory=Counter)
