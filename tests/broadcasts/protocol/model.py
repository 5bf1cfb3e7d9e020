"""The protocol of broadcasts in plain Python: what DESIGN says, without a database.

Each method is one transaction. A planted bug is a subclass that overrides one method of it.
"""

import copy
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.broadcasts.protocol.words import (
    DEAD,
    FINAL,
    LEASE,
    MOST_CLAIMS,
    REFUSED,
    UNSENT,
    Died,
    Held,
    Row,
)

OPEN = ("running", "paused")


@dataclass
class Token:
    alias: str
    user: int | None
    is_active: bool
    registered_at: int


@dataclass
class Lane:
    status: str = "running"
    cursor: int = 0
    is_read: bool = False


@dataclass
class Batch:
    alias: str
    status: str
    #: The user of each token without a verdict, as chosen.
    chosen: dict
    size: int
    number: int = 0
    sends: int = 0
    resent: int = 0
    skipped: int = 0
    due_at: int = 0
    claimed_at: int = 0
    counts: Counter = field(default_factory=Counter)


@dataclass
class Ticket:
    """What a worker remembers of its claim."""

    claimed_at: int
    is_again: bool
    sends: int
    resent: int
    size: int
    counts: Counter
    #: The tokens without a verdict, as far as it has been written.
    chosen: dict


class Model:
    """Lanes, batches and tokens as values, a clock that never stands still, and the engine's verbs."""

    def __init__(self):
        self.clock = 0
        self.state = "running"
        self.tokens = {}
        self.lanes = {}
        self.batches = {}
        self.numbers = 0

    def begin(self, setup):
        """Register the tokens and start; return what was registered: (key, alias, user)."""
        self.setup = setup
        made = [(self.register(alias, None, user), alias, user) for alias, user in setup.tokens]
        self.highest = self.numbers
        for alias in sorted({alias for _, alias, _ in made}):
            self.lanes[alias] = Lane()
            mine = [pk for pk, where, _ in made if where == alias]
            size = setup.size
            for start in range(0, len(mine) if setup.is_list else 0, size):
                chosen = {pk: self.tokens[pk].user for pk in mine[start : start + size]}
                self._insert(Batch(alias, "planned", chosen, len(chosen)))
        return made

    def close(self):
        pass

    # --- time ------------------------------------------------------------------------------------

    def now(self):
        self.clock += 1
        return self.clock

    def later(self, seconds):
        return self.now() + int(seconds * 1e6)

    def elapse(self, seconds):
        self.clock += int(seconds * 1e6)

    @contextmanager
    def transaction(self, dies=False):
        """Undo everything if the process dies before the commit."""
        kept = copy.deepcopy((self.lanes, self.batches, self.numbers)) if dies else None
        yield
        if dies:
            self.lanes, self.batches, self.numbers = kept
            raise Died

    # --- tokens ----------------------------------------------------------------------------------

    def register(self, alias, pk, user):
        if pk is None:
            self.numbers += 1
            pk = self.numbers
        self.tokens[pk] = Token(alias, user, True, self.now())
        return pk

    def unregister(self, pk):
        self.tokens[pk].is_active = False

    def delete(self, pk):
        del self.tokens[pk]

    def active(self):
        return {pk: token.user for pk, token in self.tokens.items() if token.is_active}

    def is_dead_for(self, token, held):
        """Whether a verdict of a claim is about the token as it is."""
        return token.registered_at < held.raw.claimed_at

    # --- claims ----------------------------------------------------------------------------------

    def most_sends(self):
        return self.setup.cap

    def again(self):
        """Which batches may be claimed again."""
        return ("retry", "leased")

    def claim(self, alias, dies=False):
        """Return a claim; the seconds until there may be one; None if there will be none."""
        with self.transaction(dies):
            return self._claim(alias)

    def _claim(self, alias):
        lane, now = self.lanes[alias], self.now()
        if not self.is_open(lane):
            return None
        for pk, batch in self._due(alias):
            if batch.due_at > now:
                break
            if batch.status == "leased" and batch.sends >= self.most_sends():
                batch.status = "unknown"
            elif held := self._take(pk, batch, now):
                return held
        held = self._claim_next(alias, lane, now)
        return held if held is not None else self._idle(alias, lane, now)

    def is_open(self, lane):
        return lane.status == "running"

    def _due(self, alias):
        rows = [(pk, b) for pk, b in self.batches.items() if b.alias == alias and b.status in self.again()]
        return sorted(rows, key=lambda row: (row[1].due_at, row[0]))

    def _claim_next(self, alias, lane, now):
        if lane.is_read:
            return None
        if self.setup.is_list:
            for pk, batch in self.batches.items():
                if (batch.alias, batch.status) == (alias, "planned") and (held := self._take(pk, batch, now)):
                    return held
            lane.is_read = True
            return None
        page = self._page(alias, lane)
        self._move(lane, page)
        return self._insert_claim(alias, page, now) if page else None

    def _page(self, alias, lane):
        fitting = (
            pk
            for pk, token in sorted(self.tokens.items())
            if token.alias == alias and token.is_active and lane.cursor < pk <= self.highest
        )
        return list(fitting)[: self.setup.size]

    def _move(self, lane, page):
        lane.cursor = page[-1] if page else lane.cursor
        lane.is_read = len(page) < self.setup.size

    def _insert_claim(self, alias, page, now):
        chosen = {pk: self.tokens[pk].user for pk in page}
        batch = Batch(alias, "leased", chosen, len(page), 1, 1, due_at=self.later(LEASE), claimed_at=now)
        return self._held(self._insert(batch), batch, False)

    def _insert(self, batch):
        self.numbers += 1
        self.batches[self.numbers] = batch
        return self.numbers

    def _take(self, pk, batch, now):
        users = self.active()
        left = {t: user for t, user in batch.chosen.items() if t in users and users[t] == user}
        is_again = batch.sends > 0
        batch.skipped += len(batch.chosen) - len(left)
        batch.chosen = left
        batch.number += 1
        if not left:
            batch.status = "done"
            return None
        batch.status, batch.due_at, batch.claimed_at = "leased", self.later(LEASE), now
        batch.sends += 1
        batch.resent += len(left) if is_again else 0
        return self._held(pk, batch, is_again)

    def _held(self, pk, batch, is_again):
        kept = Ticket(
            batch.claimed_at,
            is_again,
            batch.sends,
            batch.resent,
            batch.size,
            Counter(batch.counts),
            dict(batch.chosen),
        )
        return Held(batch.alias, pk, batch.number, tuple(sorted(batch.chosen)), kept)

    def _idle(self, alias, lane, now):
        due = min((batch.due_at for _, batch in self._due(alias)), default=None)
        if due is not None:
            return max(0.0, (due - now) / 1e6)
        if not lane.is_read:
            return 0.0
        lane.status = "done"
        return None

    # --- results ---------------------------------------------------------------------------------

    def is_ours(self, held):
        batch = self.batches[held.batch]
        return batch.number == held.number and batch.status == "leased"

    def renew(self, held):
        if not self.is_ours(held):
            return False
        self.batches[held.batch].due_at = self.later(LEASE)
        return True

    def progress(self, held, answers, is_confirmed=True):
        """Write final verdicts. Unconfirmed: it is committed, and tried again."""
        if not self.is_ours(held):
            return False
        batch = self.batches[held.batch]
        self._count(held, answers, batch)
        batch.due_at = self.later(LEASE)
        return True

    def record(self, held, answers, wait=0, is_confirmed=True):
        if not self.is_ours(held):
            return False
        batch = self.batches[held.batch]
        self._count(held, answers, batch, gives_up=held.number >= MOST_CLAIMS)
        left = held.raw.chosen
        refused = {pk: user for pk, user in left.items() if self.is_refused(answers[pk])}
        if refused and len(refused) < len(left):
            self._split(held, batch, refused, wait)
            left = {pk: user for pk, user in left.items() if pk not in refused}
            refused = {}
        batch.chosen = left
        if not left:
            batch.status = "done"
        elif refused:
            self._give_back(held, batch)
            batch.status = self._waiting(batch.alias, batch.sends)
            batch.due_at = self.later(max(self._backoff(held.number), wait))
        elif batch.sends < self.most_sends() and self.lanes[batch.alias].status != "cancelled":
            batch.status, batch.due_at = "retry", self.later(max(self._backoff(batch.sends), wait))
        else:
            batch.status = "unknown"
        return True

    def is_refused(self, word):
        return word in (REFUSED, UNSENT)

    def _give_back(self, held, batch):
        batch.sends -= 1
        if held.raw.is_again:
            batch.resent = max(0, held.raw.resent - len(batch.chosen))

    def _split(self, held, batch, refused, wait):
        """Refused tokens of a batch of which others are unknown go their own way."""
        self._shrink(batch, len(refused))
        if held.raw.is_again:
            batch.resent = max(0, held.raw.resent - len(refused))
        sends = held.raw.sends - 1
        due = self.later(max(self._backoff(held.number), wait))
        self._insert(
            Batch(
                batch.alias,
                self._waiting(batch.alias, sends),
                refused,
                len(refused),
                held.number,
                sends,
                due_at=due,
                claimed_at=batch.claimed_at,
            )
        )

    def _shrink(self, batch, by):
        batch.size -= by

    def _waiting(self, alias, sends):
        """Where what may be sent again waits: nowhere in a lane that was cancelled."""
        if self.lanes[alias].status != "cancelled":
            return "retry"
        return "unknown" if sends else "cancelled"

    def _count(self, held, answers, batch, gives_up=False):
        counted = (*FINAL, REFUSED) if gives_up else FINAL
        for pk, word in answers.items():
            if word not in counted:
                continue
            del held.raw.chosen[pk]
            held.raw.counts[word] += 1
            token = self.tokens.get(pk)
            if word == DEAD and token is not None and token.is_active and self.is_dead_for(token, held):
                token.is_active = False
        batch.counts = Counter(held.raw.counts)
        batch.chosen = dict(held.raw.chosen)

    def _backoff(self, times):
        return min(10 * 2 ** min(times - 1, 30), 600)

    # --- control ---------------------------------------------------------------------------------

    def _lanes(self, alias):
        return [lane for name, lane in self.lanes.items() if alias in ("", name)]

    def pause(self, alias=""):
        running = [lane for lane in self._lanes(alias) if lane.status == "running"]
        if not alias and self.state != "running":
            return False
        for lane in running:
            lane.status = "paused"
        if not alias:
            self.state = "paused"
            return True
        self.settle()
        return bool(running)

    def resume(self, alias=""):
        if self.state in ("done", "cancelled"):
            return False
        paused = [lane for lane in self._lanes(alias) if lane.status == "paused"]
        if not paused and (alias or self.state != "paused"):
            return False
        for lane in paused:
            lane.status = "running"
        self.state = "running"
        self.settle()
        return True

    def cancel(self, alias=""):
        open_ = [name for name, lane in self.lanes.items() if alias in ("", name) and lane.status in OPEN]
        if self.state in ("done", "cancelled") or (alias and not open_):
            return False
        for name in open_:
            self.lanes[name].status = "cancelled"
            for batch in self.batches.values():
                if batch.alias == name and batch.status in ("planned", "retry"):
                    batch.status = self._waiting(name, batch.sends or batch.resent)
        if not alias:
            self.state = "cancelled"
        self.settle()
        return True

    def resend(self):
        """Send once more to what is unknown; return the batches that it is."""
        if self.state == "cancelled":
            return 0
        going = [name for name, lane in self.lanes.items() if lane.status != "cancelled"]
        unknown = [b for b in self.batches.values() if b.status == "unknown" and b.alias in going]
        cap = self.setup.cap
        for batch in unknown:
            batch.status, batch.sends, batch.due_at = "retry", cap - 1, self.now()
            batch.resent += len(batch.chosen) if cap == 1 else 0
        for name in {batch.alias for batch in unknown}:
            lane = self.lanes[name]
            if lane.status == "done":
                lane.status = "paused" if self.state == "paused" else "running"
        if unknown and self.state == "done":
            self.state = "running"
        return sum(len(batch.chosen) for batch in unknown)

    def settle(self):
        states = {lane.status for lane in self.lanes.values()}
        if self.state in OPEN and "running" not in states:
            over = "cancelled" if states == {"cancelled"} else "done"
            self.state = "paused" if "paused" in states else over
        return self.state

    def sweep(self):
        """Call unknown what was claimed in lanes that nobody claims from any more."""
        now = self.now()
        for batch in self.batches.values():
            is_over = self.lanes[batch.alias].status in ("cancelled", "done")
            if is_over and batch.status == "leased" and batch.due_at <= now:
                batch.status = "unknown"

    # --- to look at ------------------------------------------------------------------------------

    def rows(self):
        return [
            Row(
                pk,
                b.alias,
                b.status,
                frozenset(b.chosen),
                b.size,
                len(b.chosen),
                b.number,
                b.sends,
                b.resent,
                b.skipped,
                Counter(b.counts),
            )
            for pk, b in self.batches.items()
        ]

    def status(self):
        return self.state

    def lane(self, alias):
        return self.lanes[alias].status
