"""A site with PostgreSQL, a queue behind a proxy, a web process, and workers that can be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.services.broadcast_queues_proxy import Proxy
from tests.services.test_brokers import AMQP, REDIS, TASKS, Site

__all__ = ["AMQP", "REDIS", "TASKS", "Fleet"]

POSTGRESQL = ("127.0.0.1", 5432)
PORTS = {AMQP: 5672, REDIS: 6379, TASKS: POSTGRESQL[1]}
#: What takes minutes at a site takes moments here. A lease lasts four seconds, and so does a request.
OPTIONS = {"timeout": 4.0, "max_connections": 2, "broadcast_rate": None}
TIMINGS = {
    "broadcasts.lane.LEASE": 1.0,
    "broadcasts.lane.LEAST_LEFT": 0.25,
    "broadcasts.lane.POLL": 0.2,
    "broadcasts.results.FIRST_WAIT": 0.2,
    "broadcasts.results.LAST_WAIT": 0.5,
    "broadcasts.draining.LOOK_AROUND": 0.5,
    "broadcasts.draining.AWAKE": 2.0,
    "broadcasts.draining.BUDGET": 1.5,
    "broadcasts.draining.LINGER": 0.5,
    "broadcasts.control.AWAKE_FOR": 2.0,
    "wake._checks.seconds": 3.0,
}
#: How long a request takes where nothing is to happen meanwhile, and where something is.
QUICK, SLOW = 0.05, 0.3


class Fleet(Site):
    """The processes of one site. The emulator's counts are the truth, the tables what it is held against."""

    def __init__(self, path, broker, emulator):
        super().__init__(path, broker, emulator)
        if broker:
            self.needs_broker()
        self.name = self.queue.replace("-", "_")
        self._administer(f"CREATE DATABASE {self.name}")
        self.proxy = Proxy("127.0.0.1", PORTS[broker])
        self.record = path / "events"
        self.record.touch()
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": self.name,
            "USER": "postgres",
            "HOST": POSTGRESQL[0],
            "PORT": POSTGRESQL[1] if broker else self.proxy.port,
        }
        self.environment |= {
            "PUSH_SITE_DATABASE": json.dumps(database),
            "PUSH_SITE_BROKER": broker.replace(f":{PORTS[broker]}", f":{self.proxy.port}"),
            "PUSH_SITE_OPTIONS": json.dumps(OPTIONS),
            "PUSH_SITE_TIMINGS": json.dumps(TIMINGS),
            "PUSH_SITE_EVENTS": str(self.record),
            # Late acknowledgement is RabbitMQ's part: it gives a dead worker's tasks to the next one.
            "PUSH_SITE_ACKS_LATE": "1" if broker == AMQP else "0",
        }
        self.started = 0
        self.seen = 0
        self.killed = set()
        self.process = None

    # --- the web process ----------------------------------------------------------------------------

    def do(self, order, **arguments):
        """Have the web process do something, and return what it did."""
        if self.process is None:
            self.process = self._popen("tests.services.broadcast_queues_web", log="web", talks=True)
        print(json.dumps([order, arguments]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"error": "The web process is gone."}')
        assert "error" not in answer, f"{order}: {answer['error']}\n{self.logs()}"
        return answer["returned"]

    def begin(self, size, *, workers=2, latency=QUICK, kind="", **options):
        """Empty the tables, and send a broadcast to so many devices; return its id."""
        self.emulator.state.reset()
        self.emulator.state.latency = latency
        self.tokens = self.do("register", count=size, kind=kind)
        return self.do("broadcast", workers=workers, **options)

    def renew(self):
        """Be as new, but for the workers that run."""
        self.proxy.open()
        self.do("empty")
        self.wait(lambda: not self.running(), 20)
        self.purge()
        self.seen = self.record.stat().st_size

    # --- workers --------------------------------------------------------------------------------------

    def start_workers(self, count=2):
        """Have so many workers, new ones only where some are missing, and wait until they listen."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        new = [self._start_worker() for _ in range(count - len(self.workers))]
        said = "ready." if self.broker else "Starting worker"
        self.workers += new
        self.wait(lambda: all(said in (self.path / f"worker-{w.number}.log").read_text() for w in new))

    def _start_worker(self):
        if self.broker:
            command = ["celery", "-A", "tests.services.site", "worker", "-c1", "-lINFO"]
            command += ["-n", f"{self.queue}-{self.started}@%h"]
            command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        else:
            command = ["django", "db_worker", "--backend=push", f"--queue-name={self.queue}"]
            command += ["--interval=0.2", "--no-startup-delay", "-v2"]
        process = self._popen(*command, log=f"worker-{self.started}")
        process.number = self.started
        self.started += 1
        return process

    def start_beat(self):
        command = ["celery", "-A", "tests.services.site", "beat", "-lINFO"]
        return self._popen(*command, f"--schedule={self.path / 'beat'}", "--pidfile=", log="beat")

    def _popen(self, *command, log, talks=False):
        with (self.path / f"{log}.log").open("w") as file:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment,
                cwd=self.path,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                text=True,
                start_new_session=True,
            )

    def kill(self, count):
        """Kill so many workers and all that they have forked, without a word."""
        for _ in range(count):
            worker = self.workers.pop()
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(30)
            self.killed.add(worker.pid)

    def stop(self):
        """Let the workers finish what they have in hand, as a deployment does."""
        super().stop()
        self.workers = []

    def events(self, event, **about):
        """Return what the site's processes have noted since the test began."""
        with self.record.open() as record:
            record.seek(self.seen)
            found = [json.loads(line) for line in record]
        return [e for e in found if e["event"] == event and about.items() <= e.items()]

    def drains(self, event="begun"):
        return self.events(event, job="drain_broadcast")

    def running(self):
        """Return how many tasks are at work."""
        begun = [e for e in self.drains() if e["group"] not in self.killed]
        over = [e for e in self.drains("ended") + self.drains("failed") if e["group"] not in self.killed]
        return len(begun) - len(over)

    def claimants(self, pk):
        """Return who has claimed anything of a broadcast."""
        return {event["pid"] for event in self.events("claimed", broadcast=pk)}

    # --- the queue ------------------------------------------------------------------------------------

    def waiting(self):
        """Return the jobs in the queue with their payloads, and all that the queue holds as a text."""
        if not self.broker:
            return self.do("waiting")
        raw = super().waiting()
        return self._parsed(), raw

    def _parsed(self):
        if self.broker == REDIS:
            found = [json.loads(one) for one in self.redis().lrange(f"{self.queue}{self.queue}", 0, -1)]
            import base64

            return [json.loads(base64.b64decode(message["body"]))[0] for message in found]
        with self.connection() as connection, connection.channel() as channel:
            found = []
            while (message := channel.basic_get(self.queue)) is not None:
                found.append(message)
            for message in found:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return [json.loads(message.body)[0] for message in found]

    def waiting_drains(self):
        return [payload for job, payload in self.waiting()[0] if job == "drain_broadcast"]

    def purge(self):
        """Lose all that is in the queue."""
        if not self.broker:
            self.do("purge")
        elif self.broker == REDIS:
            self.redis().delete(f"{self.queue}{self.queue}")
        else:
            with self.connection() as connection, contextlib.suppress(*connection.channel_errors):
                connection.channel().queue_purge(self.queue)

    # --- what comes of it ------------------------------------------------------------------------------

    @property
    def accepted(self):
        """How often the provider has accepted a push, by token."""
        return self.emulator.state.accepted

    @property
    def doubled(self):
        return sum(times - 1 for times in self.accepted.values())

    def wait_until_sent(self, share):
        self.wait(lambda: len(self.accepted) >= share * len(self.tokens))
        assert len(self.accepted) < len(self.tokens), "It is over already."

    def wait_until_done(self, pk, seconds=30, *, cron=False):
        """Wait for the end, with ``push_tick`` every moment if there is a cron; return how often it woke."""
        woken = 0

        def is_done():
            nonlocal woken
            if cron:
                woken += self.do("tick")["woken"]
            return self.do("status", pk=pk) == "done"

        self.wait(is_done, seconds)
        return woken

    def wait_until_idle(self, seconds=15):
        """Wait until nobody works on a broadcast, and no task for one is in the queue."""
        self.wait(lambda: not self.running() and not self.waiting_drains(), seconds)

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def check(self, pk):
        """Hold the tables against what the provider has seen; return how many were sent to again."""
        found = self.do("state", pk=pk)
        batches = found["batches"]
        resent = sum(batch["resent"] for batch in batches)
        assert (found["status"], set(found["lanes"])) == ("done", {"done"})
        assert {batch["status"] for batch in batches} == {"done"}
        assert set(self.accepted) == set(self.tokens), "Somebody was missed."
        assert self.doubled <= resent, f"{self.doubled} were doubled, and only {resent} sent again."
        assert sum(batch["size"] for batch in batches) == len(self.tokens)
        assert sum(batch["accepted"] for batch in batches) == len(self.tokens)
        assert (found["told"], found["total"]) == (len(self.tokens), len(self.tokens))
        assert max(self.accepted.values()) <= 3
        return resent

    # --- and in the end ---------------------------------------------------------------------------------

    def logs(self):
        return "\n".join(
            f"=== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.path.glob("*.log"))
        )

    def close(self):
        """Leave nothing behind: no process, no queue, no database."""
        for worker in self.workers:
            worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            for worker in self.workers:
                worker.wait(10)
        with contextlib.suppress(ProcessLookupError):
            self.kill(len(self.workers))
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(10)
            self.process.stdout.close()
        self.proxy.close()
        self.forget()
        self._administer(f"DROP DATABASE {self.name} WITH (FORCE)")

    def _administer(self, statement):
        psycopg = pytest.importorskip("psycopg", reason="NOT RUN: psycopg is not installed")
        host, port = POSTGRESQL
        where = {"host": host, "port": port, "user": "postgres", "dbname": "postgres", "connect_timeout": 5}
        try:
            connection = psycopg.connect(**where, autocommit=True)
        except psycopg.OperationalError as error:
            pytest.skip(f"NOT RUN: PostgreSQL does not answer: {error}")
        with connection:
            connection.execute(statement)
        connection.close()
