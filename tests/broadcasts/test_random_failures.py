"""Failures at random: at any statement, after any commit, in any exchange. Then the promises are checked.

A seed decides all that happens, so a seed that fails does so again; what happened is in the message.
"""

import collections
import itertools
import json
import random
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django.test import override_settings

from django_push import register_token
from django_push.backends.expo import ExpoBackend
from django_push.broadcasts import claims, control, draining, lane, quota, results, rows, tick
from django_push.broadcasts.packing import unpack
from django_push.handler import Channel, push_backends
from django_push.models import (
    COUNTED,
    BatchStatus,
    Broadcast,
    BroadcastLane,
    BroadcastStatus,
    RateBucket,
    ReceiptBatch,
    TokenStatus,
)
from django_push.wire import Failure, Reply
from tests.broadcasts.factories import (
    EXPO,
    Threads,
    Tokens,
    batches_of,
    drained,
    let_time_pass,
    make_expo_tokens,
    reloaded,
    started,
    two_projects,
)
from tests.broadcasts.protocol.bugs import BUGS

pytestmark = pytest.mark.django_db(transaction=True)

#: How often somebody drains, and for how many of these times something may go wrong.
TURNS, BAD_TURNS = 60, 25
BACKEND = {**EXPO, "BACKEND": f"{__name__}.FewAtOnce"}
HOUR = 3600.0


class FewAtOnce(ExpoBackend):
    """Expo with small requests, so that few tokens are many of them."""

    recipients_per_request = 10


class Killed(BaseException):
    """The process is gone, whatever it was doing."""


class Chance:
    """What happens by chance; nothing does while it is off."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.is_on = True
        self.events = []

    def hits(self, share):
        return self.is_on and self.random.random() < share

    def pick(self, weights):
        """Return one of the names, by weight, and note it."""
        [name] = self.random.choices(list(weights), list(weights.values()))
        self.note(name)
        return name

    def note(self, event):
        self.events.append(event)

    @contextmanager
    def off(self):
        was, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = was


class Clock:
    """A monotonic clock of its own, so that nothing depends on how fast the machine is."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        self.now += 1e-4
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    @contextmanager
    def installed(self):
        with ExitStack() as stack:
            for module in (claims, results, lane, quota, draining):
                stack.enter_context(mock.patch.object(module, "time", self))
            yield


# --- what goes wrong ------------------------------------------------------------------------------


class Database:
    """Statements that fail or are the last, and commits and writes whose outcome is not told."""

    def __init__(self, chance, times, is_mild):
        """Let each thing go wrong so many times as often as is usual; in a mild story nobody dies of it."""
        self.chance = chance
        self.times = times
        self.is_mild = is_mild

    @contextmanager
    def installed(self):
        commit = connection._commit

        def unconfirmed():
            commit()
            self._break("commit", lost=0.02, killed=0.01)

        with connection.execute_wrapper(self._execute), mock.patch.object(connection, "_commit", unconfirmed):
            yield

    def _execute(self, run, sql, params, many, context):
        self._break("statement", lost=0.012, killed=0.006)
        result = run(sql, params, many, context)
        if not connection.in_atomic_block and sql.startswith(("UPDATE", "INSERT", "DELETE")):
            self._break("write", lost=0.012, killed=0.006)
        return result

    def _break(self, what, lost, killed):
        if self.is_mild:
            lost, killed = (0 if what == "commit" else lost), 0
        if self.chance.hits(self.times * (lost + killed)):
            is_lost = self.chance.random.random() < lost / (lost + killed)
            self.chance.note(f"{what} {'lost' if is_lost else 'killed'}")
            raise OperationalError("server closed the connection unexpectedly") if is_lost else Killed


class Provider:
    """Expo with moods. What it has ``accepted`` is the truth."""

    MOODS = {
        "fine": 10,
        "dead": 2,
        "busy": 2,
        "unavailable": 1,
        "lost before": 2,
        "lost after": 2,
        "never sent": 1,
        "two projects": 2,
        "slow down": 0.5,
        "killed after": 1,
    }
    BEFORE = {
        "unavailable": Reply(status=503, headers={"retry-after": "1"}, body=b"{}"),
        "slow down": Reply(status=429, headers={"retry-after": "1"}, body=b"{}"),
        "never sent": Reply(failure=Failure.NEVER_SENT, reason="refused"),
        "lost before": Reply(failure=Failure.MAYBE_SENT, reason="timeout"),
    }

    def __init__(self, chance, is_mild, meddle):
        self.chance = chance
        self.meddle = meddle
        self.moods = {name: n for name, n in self.MOODS.items() if not (is_mild and name == "killed after")}
        self.accepted, self.asked = collections.Counter(), collections.Counter()
        #: Tokens about which an answer was lost.
        self.lost = set()
        #: Tokens that were once said to be dead, those registered again since, and those ever.
        self.dead, self.saved, self.ever_saved = set(), set(), set()

    def __call__(self, request):
        self.meddle()
        mood = self.chance.pick(self.moods) if self.chance.is_on else "fine"
        if mood == "two projects" and request.generation == 0 and len(request.targets) > 1:
            return two_projects(request)
        self.asked.update(target.pk for target in request.targets)
        if mood.startswith("lost"):
            self.lost.update(target.pk for target in request.targets)
        if mood in self.BEFORE:
            return self.BEFORE[mood]
        said = [self._about(target, mood) for target in request.targets]
        if mood == "killed after":
            raise Killed
        if mood == "lost after":
            return self.BEFORE["lost before"]
        return Reply(status=200, body=json.dumps({"data": said}).encode())

    def _about(self, target, mood):
        if mood == "dead" and self.chance.hits(0.3):
            self._bury(target)
            return {"status": "error", "message": "x", "details": {"error": "DeviceNotRegistered"}}
        if mood == "busy" and self.chance.hits(0.5):
            return {"status": "error", "message": "x", "details": {"error": "MessageRateExceeded"}}
        self.accepted[target.pk] += 1
        return {"status": "ok", "id": f"id-{target.pk}-{self.accepted[target.pk]}"}

    def _bury(self, target):
        """Call a token dead; perhaps its phone registers it before that is heard."""
        self.dead.add(target.pk)
        self.saved.discard(target.pk)
        if self.chance.hits(0.3):
            with self.chance.off():
                register_token(target.value, backend="default")
            self.saved.add(target.pk)
            self.ever_saved.add(target.pk)


class Meddler:
    """Operators, other workers and ``push_tick``, who come between a request and its answer."""

    OTHERS = {"takeover": 2, "sweep": 1, "tick": 1}
    MILD = {"tick": 1}
    VERBS = {"pause": 1, "resume": 1, "resend": 1, "cancel": 0.15, "cancel lane": 0.15, "nothing": 1.7}

    def __init__(self, chance, clock, is_mild, made):
        self.chance, self.clock, self.made = chance, clock, made
        self.verbs = {**(self.MILD if is_mild else self.OTHERS), **(self.VERBS if chance.hits(0.5) else {})}
        self.is_busy = False
        self.is_cancelled = False
        #: How often each token was sent again on somebody's word.
        self.resent = collections.Counter()

    def __call__(self):
        if self.is_busy or not self.chance.hits(0.25):
            return
        self.is_busy = True
        verb = self.chance.pick(self.verbs)
        try:
            if verb == "takeover":
                self.take_over()
            else:
                with self.chance.off():
                    getattr(self, verb.replace(" ", "_"))(reloaded(self.made))
        finally:
            self.is_busy = False

    def take_over(self):
        """All leases end while this process is frozen; its own clock may not have noticed."""
        if self.chance.hits(0.5):
            self.clock.sleep(HOUR)
        with self.chance.off():
            let_time_pass(self.made)
        work(self.made)

    def sweep(self, made):
        let_time_pass(made)
        control.sweep()

    def tick(self, made):
        tick(with_receipts=False, look_after=lambda pk: None)

    def nothing(self, made):
        pass

    def pause(self, made):
        control.pause(made)

    def resume(self, made):
        if made.status == BroadcastStatus.PAUSED:
            control.resume(made, workers=0)

    def resend(self, made):
        if made.status in (BroadcastStatus.RUNNING, BroadcastStatus.PAUSED, BroadcastStatus.DONE):
            self.resent.update(keys_of(batches_of(made, status=BatchStatus.UNKNOWN)))
            control.resend_unknown(made, workers=0)

    def cancel(self, made):
        self.is_cancelled |= control.cancel(made)

    def cancel_lane(self, made):
        self.is_cancelled |= control.cancel(made, lane="default")


def keys_of(batches):
    """Return the keys of the tokens that batches still hold, as often as they do."""
    return [pk for batch in batches for pk, _ in unpack(batch.pks)]


def work(made, **options):
    """Drain as a process that may be killed, or lose its database for good."""
    try:
        drained(made, **options)
    except (Killed, OperationalError):
        connection.run_on_commit = []  # it is another process that comes next


# --- a story --------------------------------------------------------------------------------------


class Story:
    """One broadcast's life, as a seed has it."""

    def __init__(self, seed):
        self.seed = seed
        self.chance = Chance(seed)
        self.clock = Clock()
        pick = self.chance.random.choice
        self.size = pick([15, 33, 52])
        self.policy, self.max_sends = pick(["retry", "skip"]), pick([1, 2, 3])
        self.batch_size, self.is_list = pick([4, 25, 30]), pick([False, True])
        self.ahead = pick([1, 1, 3])
        self.least_left = pick([lane.LEAST_LEFT, lane.LEAST_LEFT, 10.0])
        self.times = pick([1, 2, 4])
        #: Whether every process and every commit comes to its end.
        self.is_mild = pick([False, True])

    def play(self):
        random.seed(self.seed)  # the engine's own waits
        with ExitStack() as stack:
            stack.enter_context(override_settings(PUSH_BACKENDS={"default": BACKEND}))
            stack.enter_context(mock.patch.object(lane, "FLUSH", 0.0))
            stack.enter_context(mock.patch.object(claims, "PROBE", 2))
            stack.enter_context(mock.patch.object(lane, "LEAST_LEFT", self.least_left))
            stack.enter_context(self.clock.installed())
            self._begin()
            stack.enter_context(self._transport())
            stack.enter_context(Database(self.chance, self.times, self.is_mild).installed())
            self._live()
        self._end()
        return self

    def _begin(self):
        self.rows = make_expo_tokens(self.size)
        self.made = started(
            self.rows if self.is_list else "everyone",
            on_unknown=self.policy,
            max_sends=self.max_sends,
            batch_size=self.batch_size,
        )
        self.meddler = Meddler(self.chance, self.clock, self.is_mild, self.made)
        self.provider = Provider(self.chance, self.is_mild, self.meddler)

    def _transport(self):
        channel = push_backends.channel("default")
        transport = Threads(self.provider, self.ahead)
        replaced = Channel(channel.backend, transport, channel.credentials)
        return mock.patch.dict(push_backends._channels, {"default": replaced})

    def _live(self):
        for turn in range(TURNS):
            self.chance.is_on = turn < BAD_TURNS
            limit, asked = self.chance.random.choice([5, 30, 10**9]), itertools.count()
            work(self.made, is_stopped=lambda n=asked, most=limit: self.chance.is_on and next(n) > most)
            with self.chance.off():
                if self._is_over():
                    return

    def _is_over(self):
        """Let time pass, and whoever looks after it do so; whether it has ended."""
        made = reloaded(self.made)
        if made.status == BroadcastStatus.PAUSED:
            control.resume(made, workers=0)
        let_time_pass(made)
        BroadcastLane.objects.update(is_trusted=True)
        return reloaded(made).status in (BroadcastStatus.DONE, BroadcastStatus.CANCELLED)

    def _end(self):
        let_time_pass(self.made)
        control.sweep()
        self.made = reloaded(self.made)
        self.batches = list(batches_of(self.made))
        self.left = collections.Counter(keys_of(self.batches))
        self.is_cancelled = self.meddler.is_cancelled

    def __str__(self):
        said = f"{self.size} tokens, {self.policy}, at most {self.max_sends}, batches of {self.batch_size}"
        return f"seed {self.seed}: {said}: {', '.join(self.chance.events)}"


def clean_up():
    """Leave nothing of a story for the next one."""
    for model in (Broadcast, RateBucket, ReceiptBatch):
        model.objects.all().delete()
    Tokens.all().delete()


# --- the promises ---------------------------------------------------------------------------------


def has_ended(story):
    expected = BroadcastStatus.CANCELLED if story.is_cancelled else BroadcastStatus.DONE
    assert story.made.status == expected
    ends = {BatchStatus.DONE, BatchStatus.UNKNOWN} | (
        {BatchStatus.CANCELLED} if story.is_cancelled else set()
    )
    assert {batch.status for batch in story.batches} <= ends


def nobody_is_missed(story):
    """Each token was in a request, or lies in a batch that says so; none is in two batches."""
    assert set(story.left.values()) <= {1}
    if story.is_cancelled:
        return
    assert sum(batch.size for batch in story.batches) == story.size
    missed = [row.pk for row in story.rows if not story.provider.asked[row.pk] and row.pk not in story.left]
    assert missed == []


def counts_add_up(story):
    for batch in story.batches:
        told = sum(getattr(batch, name) for name in COUNTED)
        assert batch.size == batch.pending + batch.skipped + told
        assert len(unpack(batch.pks)) == batch.pending
    progress = story.made.progress
    assert progress.counts.get("accepted", 0) <= len(+story.provider.accepted)
    if not story.is_cancelled:
        assert (progress.told, progress.total) == (story.size, story.size)


def none_above_the_cap(story):
    cap = story.max_sends if story.policy == "retry" else 1
    accepted, resent = story.provider.accepted, story.meddler.resent
    assert [(pk, n) for pk, n in accepted.items() if n > cap + resent[pk]] == []


def doubles_are_told(story):
    doubled = sum(times - 1 for times in story.provider.accepted.values())
    assert doubled <= story.made.progress.resent


def what_is_cancelled_was_not_accepted(story):
    cancelled = keys_of(batch for batch in story.batches if batch.status == BatchStatus.CANCELLED)
    assert [pk for pk in cancelled if story.provider.accepted[pk]] == []


def what_is_unknown_was_asked_about(story):
    """Where no process died, that is: an error alone makes nothing unknown, nor what was never sent."""
    unknown = keys_of(batch for batch in story.batches if batch.status == BatchStatus.UNKNOWN)
    if story.is_mild:
        assert sorted(set(unknown) - story.provider.lost) == []
    if story.policy == "skip" and not story.meddler.resent:
        assert story.made.progress.resent == 0


def tokens_are_right(story):
    """The dead that were counted are dead, unless they were registered again; nobody else is."""
    provider = story.provider
    inactive = set(Tokens.exclude(status=TokenStatus.ACTIVE).values_list("pk", flat=True))
    assert inactive <= provider.dead
    assert inactive & provider.saved == set()
    counted = sum(batch.unregistered for batch in story.batches)
    assert counted - len(provider.ever_saved) <= len(inactive) <= counted


PROMISES = [
    has_ended,
    nobody_is_missed,
    counts_add_up,
    none_above_the_cap,
    doubles_are_told,
    what_is_cancelled_was_not_accepted,
    what_is_unknown_was_asked_about,
    tokens_are_right,
]


def check(story):
    """Check every promise; a failure says how it came to that."""
    try:
        for promise in PROMISES:
            promise(story)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{story}") from None


FEW, MANY = range(20), range(20, 170)


@pytest.mark.parametrize("seed", [*FEW, *[pytest.param(seed, marks=pytest.mark.slow) for seed in MANY]])
def test_every_promise_is_kept(seed):
    """Whatever fails, and whoever comes between."""
    check(Story(seed).play())


@contextmanager
def _resent_not_counted():
    take = claims._take

    def careless(*args):
        found = take(*args)
        if found is not None:
            found.resent = 0
            rows.batches().filter(pk=found.batch).update(resent=0)
        return found

    with mock.patch.object(claims, "_take", careless):
        yield


def is_broken(seed, bug):
    """Whether a seed's story breaks a promise with a bug planted."""
    with bug():
        story = Story(seed).play()
    try:
        check(story)
    except AssertionError:
        return True
    finally:
        clean_up()
    return False


PLANTED = ["no cap", "no fence", "no time guard", "split counted wrongly"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug",
    [pytest.param(_resent_not_counted, id="resent not counted")]
    + [pytest.param(BUGS[name].engine, id=name) for name in PLANTED],
)
def test_a_planted_bug_is_found(bug):
    """Some story breaks a promise."""
    assert any(is_broken(seed, bug) for seed in MANY)


@pytest.mark.parametrize("seed", [9, 19])
def test_a_seed_is_replayed(seed):
    """The same seed is the same story, to the last failure and the last count."""
    told = []
    for _ in range(2):
        story = Story(seed).play()
        told.append((story.chance.events, [(b.status, b.size, b.sends, b.resent) for b in story.batches]))
        clean_up()
    assert told[0] == told[1]
    assert len(told[0][0]) > 10
