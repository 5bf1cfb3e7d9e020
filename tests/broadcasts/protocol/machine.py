"""Workers, a provider, phones and an operator in random orders; and what a broadcast promises meanwhile.

One machine for both engines. It keeps its own account of what the provider accepted, what was recorded
and who registered; the promises compare the engine's rows with it. Each failure begins with the name of
the promise that was broken.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.broadcasts.protocol.words import (
    ACCEPTED,
    DEAD,
    FINAL,
    LEASE,
    MOST_CLAIMS,
    REFUSED,
    UNKNOWN,
    UNSENT,
    Died,
    Held,
    Setup,
)

ALIASES = ("default", "other")
WORKERS = 3
#: What the provider does with a request: whether it accepts, and what the worker hears.
REPLIES = {
    "accept": (True, ACCEPTED),
    "accept, then time out": (True, UNKNOWN),
    "time out": (False, UNKNOWN),
    "refuse": (False, REFUSED),
    "dead": (False, DEAD),
}
setups = st.builds(
    Setup,
    tokens=st.lists(
        st.tuples(st.sampled_from(["default", "default", "other"]), st.sampled_from([None, 0])),
        min_size=3,
        max_size=9,
    ).map(tuple),
    is_list=st.booleans(),
    size=st.integers(1, 3),
    max_sends=st.integers(1, 3),
    on_unknown=st.sampled_from(["retry", "retry", "skip"]),
)
replies = st.sampled_from(list(REPLIES))
#: A 429 may ask for some time.
waits = st.sampled_from([0, 0, 30])
numbers = st.integers(0, 11)
#: What a phone does: most start again, for the same user.
happenings = st.sampled_from([None, "register", "register", "transfer", "unregister", "delete", "newcomer"])
#: One lane, or all.
parts = st.sampled_from(["", "", *ALIASES])
#: What happens, how often, and to what. In one rule: Hypothesis leaves rules out of a run, and a run
#: without claims shows nothing.
STEPS = {
    "work": (6, numbers, replies, replies, waits, numbers, happenings),
    "claim": (2, numbers),
    "claim_and_die": (1, numbers),
    "send": (3, numbers, replies, st.booleans()),
    "renew": (1, numbers),
    "progress": (2, numbers, st.booleans()),
    "record": (2, numbers, waits, st.booleans()),
    "overtake": (3, numbers, st.booleans()),
    "kill": (1, numbers),
    "elapse": (3, st.sampled_from([LEASE // 2, LEASE + 1, LEASE + 1, 2000])),
    "happen": (2, numbers, happenings),
    "pause": (1, parts),
    "resume": (2, parts),
    "cancel": (1, st.sampled_from([None] * 4 + ["", *ALIASES])),
    "resend": (1,),
    "look_after": (1,),
}
steps = st.one_of(
    [
        st.tuples(st.just(name), *arguments)
        for name, (times, *arguments) in STEPS.items()
        for _ in range(times)
    ]
)


@dataclass
class Worker:
    """A process that holds a claim: what it has not sent yet, and what it has heard."""

    name: int
    held: Held
    #: The machine's time of the claim.
    since: int
    left: list[int]
    heard: dict[int, str] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """The promises of a broadcast, whatever happens in whatever order."""

    def __init__(self, engine):
        super().__init__()
        self.engine: Any = engine
        self.is_begun = self.is_broken = False
        self.steps = 0
        self.workers = {}
        #: Copies that the provider accepted, by token.
        self.copies = Counter()
        #: How often an operator asked for what is unknown to be sent again.
        self.asked = Counter()
        self.recorded = {}
        self.numbers = {}
        self.users = {}
        self.owner_when_chosen = {}
        self.registered = {}
        self.disturbed = set()
        self.stopped = set()
        self.cancelled = set()
        self.lanes = {}
        self.rows = {}

    def holds(self, is_kept, promise):
        if not is_kept:
            self.is_broken = True
            raise AssertionError(promise)

    def tick(self):
        self.steps += 1
        return self.steps

    @initialize(setup=setups)
    def begin(self, setup):
        self.setup = setup
        made = self.engine.begin(setup)
        for pk, alias, user in made:
            self.lanes[pk] = alias
            self.users[pk] = user
            self.registered[pk] = self.tick()
        self.aliases = sorted(set(self.lanes.values()))
        if setup.is_list:
            self.owner_when_chosen = dict(self.users)
        self.audience = frozenset(self.users)
        self.is_begun = True
        self.check()

    def teardown(self):
        try:
            if self.is_begun and not self.is_broken:
                self.finish()
        finally:
            self.engine.close()

    @rule(step=steps)
    def step(self, step):
        name, *arguments = step
        getattr(self, name)(*arguments)

    # --- workers ---------------------------------------------------------------------------------

    def one(self, number):
        """Return one of the workers that hold a claim, if any does."""
        names = sorted(self.workers)
        return self.workers[names[number % len(names)]] if names else None

    def claim(self, lane):
        if len(self.workers) < WORKERS:
            self.claimed(self.alias(lane))

    def alias(self, lane):
        return self.aliases[lane % len(self.aliases)]

    def claimed(self, alias):
        """Claim, and check the claim; return the worker, or what was told instead."""
        held = self.engine.claim(alias)
        if not isinstance(held, Held):
            return held
        self.holds(alias not in self.stopped, f"stopped: {alias} is paused or cancelled, and claimed from")
        before = self.rows.get(held.batch)
        known = held.batch in self.numbers or before is not None
        chosen = before.chosen if known else frozenset(held.targets)
        if known:
            self.holds(held.number > before.number, "fence: a claim without a number of its own")
        else:
            self.holds(not chosen & self.owner_when_chosen.keys(), "disjoint: a token is in two batches")
            self.holds(chosen <= self.audience, "disjoint: a token that is not in the audience")
            self.owner_when_chosen.update((pk, self.users.get(pk)) for pk in chosen)
        fit = {pk for pk in chosen if pk in self.users and self.users[pk] == self.owner_when_chosen[pk]}
        self.holds(set(held.targets) == fit, "sendable: not those that are registered, by who they were")
        self.numbers[held.batch] = held.number
        name = next(n for n in range(99) if n not in self.workers)
        self.workers[name] = worker = Worker(name, held, self.tick(), list(held.targets))
        return worker

    def claim_and_die(self, lane):
        """A worker's process ends before its claim commits: nothing has happened."""
        with suppress(Died):
            self.engine.claim(self.alias(lane), dies=True)

    def send(self, number, reply, is_all):
        """A worker sends one request, whether or not its lease has ended meanwhile."""
        if worker := self.one(number):
            self.sent(worker, reply, is_all)

    def sent(self, worker, reply, is_all=True):
        accepts, word = REPLIES[reply]
        batch = list(worker.left) if is_all else worker.left[: (len(worker.left) + 1) // 2]
        for pk in batch:
            self.copies[pk] += accepts
            worker.heard[pk] = word
        worker.left = [pk for pk in worker.left if pk not in batch]

    def renew(self, number):
        if worker := self.one(number):
            ours = self.is_ours(worker)
            self.holds(self.engine.renew(worker.held) == ours, "fence: a lease is its last claimant's")
            if not ours:
                del self.workers[worker.name]

    def progress(self, number, is_confirmed):
        """A worker writes the final verdicts that there are, and goes on."""
        worker = self.one(number)
        if worker is None:
            return
        final = {pk: word for pk, word in worker.heard.items() if word in FINAL}
        ours = self.is_ours(worker)
        told = self.engine.progress(worker.held, final, is_confirmed)
        self.holds(told == ours, "fence: progress counts if it is the last claimant's")
        if not ours:
            del self.workers[worker.name]
            return
        self.note(worker, final)
        worker.heard = {pk: word for pk, word in worker.heard.items() if pk not in final}

    def record(self, number, wait, is_confirmed):
        """A worker writes what came of its claim; what it has not sent goes back."""
        if worker := self.one(number):
            self.done(worker, wait, is_confirmed)

    def done(self, worker, wait=0, is_confirmed=True):
        del self.workers[worker.name]
        ours = self.is_ours(worker)
        answers = {**worker.heard, **dict.fromkeys(worker.left, UNSENT)}
        told = self.engine.record(worker.held, answers, wait, is_confirmed)
        self.holds(told == ours, "fence: a result counts if it is the last claimant's")
        if ours:
            counted = (*FINAL, REFUSED) if worker.held.number >= MOST_CLAIMS else FINAL
            self.note(worker, {pk: word for pk, word in answers.items() if word in counted})
        return ours

    def is_ours(self, worker):
        row = self.rows[worker.held.batch]
        return row.number == worker.held.number and row.status == "leased"

    def note(self, worker, final):
        """Keep account of verdicts that the engine has taken."""
        for pk, word in final.items():
            self.holds(pk not in self.recorded, "once: a token's verdict is counted twice")
            self.recorded[pk] = word
            if word == DEAD and pk in self.users and self.registered[pk] < worker.since:
                del self.users[pk]

    def work(self, lane, first, second, wait, number, meanwhile):
        """A worker claims, sends two requests and records, and something happens to one of its phones."""
        worker = self.claimed(self.alias(lane))
        if isinstance(worker, Worker):
            self.happened(worker.held.targets[number % len(worker.held.targets)], meanwhile)
            self.sent(worker, first, is_all=False)
            self.sent(worker, second)
            self.check()
            self.holds(self.done(worker, wait), "fence: the result of the last claimant counts")

    def overtake(self, number, is_told):
        """A worker is frozen past its lease, and another claims; whatever it does then, it does late."""
        worker = self.one(number)
        if worker and len(self.workers) < WORKERS:
            self.engine.elapse(LEASE + 1)
            self.claimed(worker.held.alias)
            self.check()
            if is_told:
                self.done(worker)

    def kill(self, number):
        if worker := self.one(number):
            del self.workers[worker.name]

    def elapse(self, seconds):
        """Time passes: leases end, waits end; a worker that does nothing meanwhile is frozen."""
        self.engine.elapse(seconds)

    # --- phones ----------------------------------------------------------------------------------

    def happen(self, number, what):
        names = sorted(self.audience)
        self.happened(names[number % len(names)], what)

    def happened(self, pk, what):
        """An app starts, for its user or for another, logs out, or its row is deleted; or one is new."""
        if what == "newcomer":
            pk = self.engine.register(self.lanes[pk], None, None)
            self.users[pk], self.registered[pk] = None, self.tick()
        if what in (None, "newcomer") or pk not in self.registered:
            return
        was = self.users.pop(pk, "nobody")
        if what == "delete":
            self.engine.delete(pk)
            del self.registered[pk]
        elif what == "unregister":
            self.engine.unregister(pk)
        else:
            self.users[pk] = was if what == "register" and was != "nobody" else 1
            self.engine.register(self.lanes[pk], pk, self.users[pk])
            self.registered[pk] = self.tick()
        if self.users.get(pk, "nobody") != was:
            self.disturbed.add(pk)

    # --- the operator ----------------------------------------------------------------------------

    def pause(self, part):
        if self.is_there(part) and self.engine.pause(part):
            self.stopped |= self.of(part)

    def resume(self, part):
        if self.is_there(part) and self.engine.resume(part):
            self.stopped = self.stopped - self.of(part) | self.cancelled

    def cancel(self, part):
        if part is not None and self.is_there(part) and self.engine.cancel(part):
            self.cancelled |= self.of(part)
            self.stopped |= self.cancelled

    def look_after(self):
        """What a periodic task does."""
        self.engine.sweep()
        self.engine.settle()

    def is_there(self, part):
        return not part or part in self.aliases

    def of(self, part):
        return {part} if part else set(self.aliases)

    def resend(self):
        """What is unknown is sent once more, by the operator's explicit act; what is paused stays so."""
        unknown = [row for row in self.rows.values() if row.status == "unknown"]
        going = [row for row in unknown if self.engine.lane(row.alias) != "cancelled"]
        was_paused = self.engine.status() == "paused"
        count = self.engine.resend()
        self.holds(count in (0, sum(row.pending for row in going)), "resend: not what is unknown")
        for row in going if count else ():
            self.asked.update(row.chosen)
        if count and not was_paused:
            self.stopped = {alias for alias in self.stopped if self.engine.lane(alias) != "running"}

    # --- the promises ----------------------------------------------------------------------------

    @invariant()
    def check(self):
        """The rows are looked at after each step."""
        if not self.is_begun:
            return
        self.rows = {row.pk: row for row in self.engine.rows()}
        rows = list(self.rows.values())
        self.counts_add_up(rows)
        self.no_token_is_in_two_batches(rows)
        self.copies_are_bounded(rows)
        self.nothing_was_sent_of_what_is_cancelled(rows)
        self.holds(self.engine.active() == self.users, "guard: a token's state is not what was said of it")

    def counts_add_up(self, rows):
        for row in rows:
            total = row.pending + row.skipped + row.counts.total()
            self.holds(row.size == total, f"conservation: {row}")
            self.holds(row.pending == len(row.chosen), f"conservation: {row}")
            self.holds(row.status != "done" or not row.pending, f"conservation: {row}")
        told = sum((row.counts for row in rows), Counter())
        self.holds(told == Counter(self.recorded.values()), "conservation: not what was recorded")
        chosen = sum(row.size for row in rows)
        self.holds(chosen == len(self.owner_when_chosen), "conservation: not all that were chosen")

    def no_token_is_in_two_batches(self, rows):
        pending = Counter(pk for row in rows for pk in row.chosen)
        self.holds(all(n == 1 for n in pending.values()), "disjoint: a token is pending twice")
        self.holds(not pending.keys() & self.recorded.keys(), "disjoint: a token is told and pending")

    def copies_are_bounded(self, rows):
        extra = sum(n - 1 for n in self.copies.values() if n > 1)
        self.holds(extra <= sum(row.resent for row in rows), "doubled: more often than was counted")
        most = max((n - self.asked[pk] for pk, n in self.copies.items()), default=0)
        self.holds(most <= self.setup.cap, "cap: sent more often than allowed")

    def nothing_was_sent_of_what_is_cancelled(self, rows):
        never = {pk for row in rows if row.status == "cancelled" for pk in row.chosen}
        sent = {pk for pk in never if self.copies[pk] and not self.asked[pk]}
        self.holds(not sent, "cancelled: called never sent, and was")

    # --- the end ---------------------------------------------------------------------------------

    def finish(self):
        """With a healthy provider it ends, and nobody is missed. Frozen workers never wake."""
        self.workers.clear()
        if self.engine.resume(""):
            self.stopped = set(self.cancelled)
        for alias in self.aliases:
            self.drain(alias)
        self.engine.elapse(LEASE + 1)
        self.engine.sweep()
        self.check()
        status = self.engine.settle()
        self.holds(status in ("done", "cancelled"), f"ends: it is {status}")
        for row in self.rows.values():
            is_over = row.status in ("done", "unknown", "cancelled")
            self.holds(is_over, f"ends: a batch is {row.status}")
        self.nobody_is_missed()

    def drain(self, alias):
        """Let one healthy worker serve a lane to its end."""
        for _ in range(100):
            found = self.claimed(alias)
            if found is None:
                return
            if isinstance(found, Worker):
                self.sent(found, "accept")
                self.check()
                self.holds(self.done(found), "ends: a healthy worker's result is not taken")
            else:
                self.engine.elapse(found + 1)
            self.check()
        self.holds(False, "ends: never, though the provider is healthy")

    def nobody_is_missed(self):
        left = {pk for row in self.rows.values() for pk in row.chosen}
        for pk in self.audience - self.disturbed:
            if self.lanes[pk] not in self.cancelled:
                self.holds(pk in self.recorded or pk in left, "coverage: a token was missed")
            if self.recorded.get(pk) == ACCEPTED:
                self.holds(self.copies[pk] > 0, "coverage: called accepted, and never sent")
