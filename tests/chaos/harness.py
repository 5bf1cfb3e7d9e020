"""One run: a broadcast, its workers, what is done to them, and what is known afterwards."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from django.db import InterfaceError, OperationalError, connections, transaction
from django.test import override_settings

from django_push import register_token
from django_push.broadcasts import broadcast, control
from django_push.broadcasts.packing import unpack
from django_push.emulator import start_emulator
from django_push.emulator.faults import Fault, Faults
from django_push.models import (
    FINAL,
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    PauseReason,
    PushProblem,
    RateBucket,
    ReceiptBatch,
    get_token_model,
)
from tests.chaos.databases import eventually
from tests.chaos.worker import EXITED

ROOT = Path(__file__).resolve().parent.parent.parent
#: The name of the database in the suite's own process, where ``default`` belongs to other tests.
ALIAS = "chaos"
#: A lease lasts five deadlines of a request.
TIMEOUT = 0.5
LEASE = 5 * TIMEOUT
#: What takes minutes at a site takes moments here.
TIMINGS = {
    "broadcasts.lane.FIRST_HOLD": 0.2,
    "broadcasts.lane.LAST_HOLD": 0.5,
    "broadcasts.lane.POLL": 0.2,
    "broadcasts.lane.DEFAULT_BLOCK": 0.5,
    "broadcasts.lane.LONGEST_BLOCK": 1.0,
    "broadcasts.results.FIRST_WAIT": 0.2,
    "broadcasts.results.LAST_WAIT": 0.5,
    "broadcasts.draining.LOOK_AROUND": 0.5,
    "broadcasts.draining.AWAKE": 1.0,
    "broadcasts.draining.BUDGET": 2.0,
    "broadcasts.draining.LINGER": 0.5,
    "broadcasts.control.AWAKE_FOR": 1.0,
    "backends.fcm.QUOTA_PAUSE": 0.5,
    "credentials.FRESH": 0.2,
}
#: Workers that end in an error again and again will not get over it.
MOST_CRASHES = 50
#: No log may have a whole token, or any key.
CANARY = "canary"
SECRET = "canary-secret-key"
#: Shares of the audience.
DEAD, BUSY, RENAMED = 0.03, 0.01, 0.02


class ToChaos:
    """Routes everything to the chaos suite's database."""

    def db_for_read(self, model, **hints):
        return ALIAS

    db_for_write = db_for_read


class Nursery:
    """The process that forks the workers of one database."""

    def __init__(self, database):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker"],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
                "CHAOS_DATABASE": json.dumps(database.worker_settings),
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.ended = {}
        self._forked = []
        self._changed = threading.Condition()
        assert "ready" in self.process.stdout.readline(), "The nursery did not start."
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        for line in self.process.stdout:
            words = json.loads(line)
            with self._changed:
                if "forked" in words:
                    self._forked.append(words["forked"])
                else:
                    self.ended[words["ended"]] = words["code"]
                self._changed.notify_all()

    def fork(self, order):
        with self._changed:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            assert self._changed.wait_for(lambda: self._forked, 30), "The nursery does not answer."
            return self._forked.pop()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._listener.join(10)
            self.process.stdout.close()


class Worker:
    """A process of this run."""

    def __init__(self, nursery, order):
        self.nursery = nursery
        self.order = order
        self.is_frozen = False
        self.pid = nursery.fork(order)

    @property
    def code(self):
        """What it ended with: negative for a signal, None while it runs."""
        return self.nursery.ended.get(self.pid)

    def signal(self, number):
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self):
        self.is_frozen = True
        self.signal(signal.SIGSTOP)

    def has_frozen(self):
        """Whether it has stopped, by itself or by us."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def thaw(self):
        self.is_frozen = False
        self.signal(signal.SIGCONT)

    def wait(self, seconds=30):
        ends = time.monotonic() + seconds
        while self.code is None:
            assert time.monotonic() < ends, f"Process {self.pid} ({self.order['role']}) does not end."
            time.sleep(0.01)
        return self.code

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()


class Run:
    """A broadcast under fire. Everything random in it follows from the seed."""

    def __init__(self, database, nursery, path, seed, *, provider="expo", size=1500, **emulator):
        self.database = database
        self.nursery = nursery
        self.path = path
        self.seed = seed
        self.provider = provider
        self.random = random.Random(f"{seed}")
        self.size = size
        self.log = path / "workers.log"
        self.workers = []
        self.timings = dict(TIMINGS)
        self.happened = Counter()
        self.broadcast = None
        #: By token: how often the emulator had seen it before it was registered again.
        self.registered_again = {}
        self.newcomers = []
        #: What is to happen at a time.
        self._due = []
        self.started = time.monotonic()
        self._emulator_options = emulator
        self.options = {}

    # --- the site ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def site(self, **options):
        """Be a site with tokens, an emulated provider, and no broadcast yet."""
        with contextlib.ExitStack() as stack:
            self.emulator = stack.enter_context(start_emulator(retry_after=0, **self._emulator_options))
            self.settings = {
                "PUSH_BACKENDS": {self.provider: self._backend(options)},
                "PUSH_EMULATOR_HOST": self.emulator.host,
                "PUSH_DISPATCHER": "django_push.dispatch.inline.InlineDispatcher",
            }
            stack.enter_context(override_settings(**self.settings))
            stack.callback(self.stop)
            self._empty_tables()
            self._register()
            yield self

    def _backend(self, options):
        common = {"timeout": TIMEOUT, "broadcast_rate": None, **options}
        if self.provider == "expo":
            return {
                "BACKEND": "django_push.backends.expo.ExpoBackend",
                "OPTIONS": {"access_token": SECRET, **common},
            }
        if self.provider == "gcm":
            return {
                "BACKEND": "django_push.backends.gcm.GCMBackend",
                "OPTIONS": {"api_key": SECRET, "endpoint": "https://gcm.invalid/gcm/send", **common},
            }
        from django_push.emulator.keys import service_account

        key = self.path / "key.json"
        service_account(path=key, client_email=f"{SECRET}@chaos.invalid")
        options = {"service_account_key": str(key), "broadcast_ramp": 0.0, **common}
        return {"BACKEND": "django_push.backends.fcm.FCMBackend", "OPTIONS": options}

    def _empty_tables(self):
        for model in (Broadcast, PushProblem, RateBucket, ReceiptBatch, get_token_model()):
            model._base_manager.using(ALIAS).all().delete()

    def _register(self):
        kinds = self.random.choices(
            ["unregistered", "rate-once", "renamed", ""],
            [DEAD, BUSY, RENAMED if self.provider == "gcm" else 0, 1 - DEAD - BUSY],
            k=self.size,
        )
        model = get_token_model()
        model.objects.bulk_create(
            [model(token=self.name(kind, n), backend=self.provider) for n, kind in enumerate(kinds)],
            batch_size=500,
        )
        self.tokens = dict(model.objects.order_by("pk").values_list("pk", "token"))
        self.dead = {pk for pk, token in self.tokens.items() if "unregistered" in token}
        self.busy = {pk for pk, token in self.tokens.items() if "rate-once" in token}
        self.renamed = {pk for pk, token in self.tokens.items() if "replaced-by" in token}

    def name(self, kind, number):
        words = f"{CANARY}-{number:06}"
        if kind == "renamed":
            return f"{words}-replaced-by-new-{words}"
        words = f"{kind}-{words}" if kind else words
        return f"ExponentPushToken[{words}]" if self.provider == "expo" else words

    def start(self, audience="everyone", **options):
        """Make the broadcast, and start it; workers are yours to start."""
        audience = get_token_model().objects.all() if audience == "list" else audience
        created = broadcast(audience, start=False, **{"title": "Chaos", "batch_size": 200, **options})
        control.start(created)
        return self.follow(created.pk)

    def follow(self, pk):
        """Take it that this is the broadcast."""
        self.broadcast = Broadcast.objects.get(pk=pk)
        return self.broadcast

    # --- processes --------------------------------------------------------------------------------

    def fork(self, role, **order):
        """Start a process that is not among the workers."""
        order = {
            "role": role,
            "broadcast": self.broadcast and self.broadcast.pk,
            "settings": self.settings,
            "timings": self.timings,
            "log": str(self.log),
            **order,
        }
        return Worker(self.nursery, order)

    def work(self, count=1, role="drain", **order):
        """Start workers."""
        started = [self.fork(role, **order) for _ in range(count)]
        self.workers += started
        return started[0]

    def one(self):
        return self.random.choice(self.workers)

    def replace(self, worker):
        """Start another in the place of one that has ended."""
        self.workers[self.workers.index(worker)] = Worker(self.nursery, worker.order)

    def supervise(self):
        """Replace workers that ended by an error, as systemd would."""
        for worker in list(self.workers):
            if worker.code not in (None, 0):
                self.happened["crashes"] += worker.code > 0
                assert self.happened["crashes"] < MOST_CRASHES, self.log.read_text()[-3000:]
                self.replace(worker)

    def stop(self):
        for worker in self.workers:
            worker.kill()

    # --- what happens to it -----------------------------------------------------------------------

    def kill(self):
        worker = self.one()
        if worker.code is None:
            worker.kill()
            self.happened["kills"] += 1
            self.replace(worker)

    def freeze(self):
        """Freeze a worker for longer than its lease."""
        worker = self.one()
        if worker.code is None and not any(other.is_frozen for other in self.workers):
            worker.freeze()
            self.happened["freezes"] += 1
            self.later(LEASE + 0.5, worker.thaw)

    def terminate(self):
        worker = self.one()
        if worker.code is None:
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0, "A worker that was told to stop failed."
            self.happened["terms"] += 1
            self.replace(worker)

    def fail_database(self):
        self.database.fail()
        self.happened["database failures"] += 1

    def act(self, name):
        """Let an operator do something, in another process; whether it was done."""
        process = self.fork("act", act=name, log=str(self.path / f"act-{time.monotonic()}.log"))
        # It may wait for a lock that a frozen worker holds.
        self.wait(lambda: process.code is not None)
        assert process.code == 0, Path(process.order["log"]).read_text()
        done = json.loads(Path(process.order["log"]).read_text().splitlines()[-1])["did"]
        self.happened[name] += bool(done)
        return done

    def pause_and_resume(self):
        """Pause, look whether anything is claimed, and resume."""
        if self.act("pause"):
            before = self.last_claim()
            self._absorb_events(self.random.uniform(0.2, 1))
            assert before == self.last_claim(), "Something was claimed after a committed pause."
            self.act("resume")

    def cancel_after(self, seconds):
        self.later(seconds, lambda: self.act("cancel"))

    def hold_database(self):
        """Hold the lock of the file, or of all tokens, as a slow transaction of the site does."""
        with transaction.atomic(using=ALIAS):
            get_token_model().objects.filter(pk=-1).update(project="")
            time.sleep(self.random.uniform(0.3, 1.5))
        self.happened["held"] += 1

    def register_again(self):
        """Let an app come back whose token was told dead, and one be installed."""
        seen = self.emulator.state.seen
        told = [pk for pk in sorted(self.dead) if seen[self.tokens[pk]]]
        if told:
            token = self.tokens[self.random.choice(told)]
            before = seen[token]
            register_token(token, backend=self.provider)
            self.registered_again[token] = before
        new = self.name("", 900_000 + len(self.newcomers))
        register_token(new, backend=self.provider)
        self.newcomers.append(new)
        self.happened["registrations"] += 1 + bool(told)

    def expire_auth(self):
        self.emulator.state.expire_access_tokens()
        self.happened["expired auth"] += 1

    def resume_after_refusal(self):
        """Resume by hand what was paused because our key was refused.

        An access token that expires twice within moments looks like that, and a 404 that is cut short.
        """
        if any(lane.pause_reason == PauseReason.CREDENTIALS for lane in self.lanes()) and self.act("resume"):
            self.happened["keys refused"] += 1

    def switch_faults(self, kinds=None, share=0.3, **options):
        """Let the provider fail from now on, in every way if nothing else is said."""
        kinds = kinds or [kind.value for kind in Fault]
        self.emulator.state.faults = Faults(
            kinds=kinds, share=share, seed=self.random.getrandbits(32), **options
        )

    # --- the course of it -------------------------------------------------------------------------

    def later(self, seconds, verb):
        self._due.append((time.monotonic() + seconds, verb))

    def until_over(self, events=(), *, every=(0.3, 1.0), seconds=60, for_events=12):
        """Let things happen at random until the broadcast is over.

        ``events`` are methods of this class; after ``for_events`` seconds there are no more of them.
        """
        ends = time.monotonic() + seconds
        quiet = time.monotonic() + for_events
        next_at = time.monotonic() + self.random.uniform(*every)
        while not self.is_over():
            assert time.monotonic() < ends, f"It does not end:\n{self.summary()}"
            if events and next_at < time.monotonic() < quiet:
                with contextlib.suppress(OperationalError, InterfaceError):
                    self.random.choice(events)()
                next_at = time.monotonic() + self.random.uniform(*every)
            self._absorb_events(0.05)
            self.look()
            if self.provider == "fcm":
                self.resume_after_refusal()

    def wait(self, condition, seconds=30):
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, f"It does not come to that:\n{self.summary()}"
            self._absorb_events(0.02)

    def _absorb_events(self, seconds):
        """Wait, doing meanwhile what is due."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            while (due := next((due for due in self._due if due[0] <= time.monotonic()), None)) is not None:
                self._due.remove(due)
                due[1]()
            self.supervise()
            time.sleep(0.02)

    def is_over(self):
        def read():
            return Broadcast.objects.values_list("status", flat=True).get(pk=self.broadcast.pk)

        return self.ask(read) in FINAL

    def ask(self, verb):
        """Ask the database, which may have been restarted meanwhile."""

        def asked():
            try:
                return verb()
            except (OperationalError, InterfaceError):
                connections[ALIAS].close()
                raise

        return eventually(asked, OperationalError, InterfaceError)

    def look(self):
        """Check what must be so at any moment: no token lies in two batches."""
        held = Counter(pk for batch in self.batches() for pk, _ in unpack(batch.pks))
        twice = [pk for pk, times in held.items() if times > 1]
        assert not twice, f"{len(twice)} tokens lie in two batches: {twice[:5]}\n{self.summary()}"

    def batches(self):
        return self.ask(
            lambda: list(BroadcastBatch.objects.filter(lane__broadcast_id=self.broadcast.pk).order_by("pk"))
        )

    def lanes(self):
        return self.ask(lambda: list(BroadcastLane.objects.filter(broadcast_id=self.broadcast.pk)))

    def last_claim(self):
        """Return when anything was claimed last, by the database's clock."""
        return max((batch.claimed_at for batch in self.batches() if batch.claimed_at), default=None)

    def wait_for_silence(self):
        """Wait until the emulator has done with what was on its way to it."""
        before = -1
        while before != (before := self.emulator.state.requests):
            time.sleep(0.3)

    def settle(self):
        """Wait until all workers have gone home, whatever they still had to do."""
        self._due = []
        for worker in self.workers:
            worker.thaw()  # all of them: one may hold a lock that another waits for
        for worker in self.workers:
            worker.wait()
        # What lies in a cancelled lane, and was recorded or left while that was cancelled, is swept up.
        if any(batch.status in (BatchStatus.LEASED, BatchStatus.RETRY) for batch in self.batches()):
            time.sleep(LEASE)
            assert self.fork("tick", just_once=True).wait() == 0

    # --- what is known ----------------------------------------------------------------------------

    @property
    def accepted(self):
        """How often the provider accepted a push, by token: the truth."""
        return self.emulator.state.accepted

    @property
    def sent(self):
        return sum(self.accepted.values())

    @property
    def recorded(self):
        """How many accepted pushes the tables know of."""
        return sum(batch.accepted for batch in self.batches())

    @property
    def doubled(self):
        return sum(times - 1 for times in self.accepted.values())

    @property
    def unresolved(self):
        """The keys of tokens that lie in batches without a verdict."""
        return {pk for batch in self.batches() for pk, _ in unpack(batch.pks)}

    def exited(self, worker):
        assert worker.wait() == EXITED, f"It did not come to that point:\n{self.log.read_text()[-3000:]}"

    def summary(self):
        """Say all that matters for a person who reads a failure, and how to see it again."""
        batches = self.batches()
        by_status = Counter(batch.status for batch in batches)
        lanes = [(lane.backend, lane.status, lane.pause_reason, lane.pause_detail) for lane in self.lanes()]
        faults = {kind.value: n for kind, n in self.emulator.state.faults.applied.items()}
        told = max(self.accepted.values(), default=0)
        return "\n".join(
            [
                f"seed {self.seed}: run again with CHAOS_SEED={self.seed}",
                f"{self.database.vendor}, {self.provider}, {time.monotonic() - self.started:.1f} s",
                f"happened: {dict(self.happened)}; faults: {faults}",
                f"accepted {self.sent} of {self.size}, doubled {self.doubled}, at most {told} times",
                f"resent {sum(b.resent for b in batches)}, unresolved {len(self.unresolved)}",
                f"lanes {lanes}; batches {dict(by_status)}",
                f"log: {self.log}",
            ]
        )
