"""Real queues between real processes: a site enqueues, two workers send, an emulated provider counts."""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from django_push.emulator import start_emulator

ROOT = Path(__file__).resolve().parent.parent.parent
AMQP = "amqp://guest:guest@127.0.0.1:5672//"
REDIS = "redis://127.0.0.1:6379/13"
TASKS = ""
MANY = 40

pytestmark = [pytest.mark.services, pytest.mark.slow]


def needs(*names):
    for name in names:
        pytest.importorskip(name, reason=f"NOT RUN: {name} is not installed")


@pytest.fixture(params=[AMQP, REDIS, TASKS], ids=["celery-rabbitmq", "celery-redis", "django-tasks-db"])
def site(request, tmp_path):
    """A site with its own database, queue and provider."""
    broker = request.param
    needs("celery", *(["redis"] if broker == REDIS else [])) if broker else needs("django_tasks_db")
    with start_emulator() as emulator:
        site = Site(tmp_path, broker, emulator)
        if broker:
            site.needs_broker()
        site.run("-m", "django", "migrate", "-v0")
        yield site
        site.stop()
        site.forget()


class Site:
    """The processes of one site, and what they share."""

    def __init__(self, path, broker, emulator=None):
        self.broker = broker
        self.emulator = emulator
        self.queue = f"push-tests-{uuid.uuid4().hex[:8]}"
        self.workers = []
        self.path = path
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.services.site.settings",
            "PYTHONPATH": str(ROOT),
            "PUSH_SITE_DATABASE": str(path / "site.sqlite3"),
            "PUSH_SITE_BROKER": broker,
            "PUSH_SITE_QUEUE": self.queue,
            "PUSH_SITE_EMULATOR": emulator.host if emulator else "",
        }

    def run(self, *arguments):
        """Run a process to its end."""
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def web(self, code):
        """Run code as a process of the web does, and return what it said."""
        start = "import django; django.setup()\nfrom django_push import *\n"
        return self.run("-c", start + code)

    def start_workers(self, count=2):
        for number in range(len(self.workers), len(self.workers) + count):
            if self.broker:
                command = ["celery", "-A", "tests.services.site", "worker", "-c1", "-lINFO"]
                command += ["-n", f"{self.queue}-{number}@%h", "--without-mingle", "--without-gossip"]
            else:
                command = ["django", "db_worker", "--backend=push", f"--queue-name={self.queue}"]
                command += ["--interval=0.2", "-v2"]
            with (self.path / f"worker-{number}.log").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=self.environment,
                    cwd=self.path,
                    stdout=log,
                    stderr=log,
                )
            self.workers.append(process)

    def logs(self):
        return [log.read_text() for log in sorted(self.path.glob("worker-*.log"))]

    def wait(self, condition, seconds=60):
        """Wait until it is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "\n".join(self.logs())
            assert all(worker.poll() is None for worker in self.workers), "\n".join(self.logs())
            time.sleep(0.1)

    def stop(self):
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(30)

    def waiting(self):
        """Return what waits in the queue, as the broker or the database keeps it."""
        if not self.broker:
            return self.web(
                "from django_tasks_db.models import DBTaskResult\n"
                "print([vars(task) for task in DBTaskResult.objects.all()])"
            ).stdout
        if self.broker == REDIS:
            messages = map(json.loads, self.redis().lrange(f"{self.queue}{self.queue}", 0, -1))
            return str([(base64.b64decode(message["body"]), message) for message in messages])
        with self.connection() as connection, connection.channel() as channel:
            messages = []
            while (message := channel.basic_get(self.queue)) is not None:
                messages.append(message)
            for message in messages:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return str([(message.body, message.headers, message.properties) for message in messages])

    def needs_broker(self):
        try:
            with self.connection() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
        except Exception as error:
            pytest.skip(f"NOT RUN: {self.broker} does not answer: {error}")

    def connection(self):
        from kombu import Connection

        return Connection(self.broker)

    def redis(self):
        import redis

        return redis.Redis.from_url(self.broker)

    def forget(self):
        """Leave nothing at the broker."""
        if self.broker == REDIS:
            found = self.redis()
            if keys := found.keys(f"{self.queue}*"):
                found.delete(*keys)
        elif self.broker:
            with self.connection() as connection, connection.channel() as channel:
                channel.queue_delete(self.queue)
                channel.exchange_delete(self.queue)


REGISTER = """
from django.db import transaction
for n in range({0}):
    register_token(f"ExponentPushToken[canary-{{n}}]", backend="expo")
tokens = list(get_token_model().objects.order_by("pk"))
"""


def test_each_push_is_sent_once(site):
    """What the web commits is sent by two workers, each push once, and no secret is in the queue."""
    site.web(
        REGISTER.format(MANY)
        + "for row in tokens:\n"
        + "    with transaction.atomic():\n"
        + "        enqueue_push([row], title='Shipped')\n"
        + "with transaction.atomic():\n"
        + "    enqueue_push(tokens, title='never')\n"
        + "    transaction.set_rollback(True)"
    )
    waiting = site.waiting()
    assert ("Shipped" in waiting, "canary" in waiting, "never" in waiting) == (True, False, False)
    assert site.emulator.state.accepted == {}
    site.emulator.state.latency = 0.1  # or the first worker is done before the second is there
    site.start_workers()
    site.wait(lambda: sum(site.emulator.state.accepted.values()) >= MANY)
    time.sleep(1)
    expected = {f"ExponentPushToken[canary-{n}]": 1 for n in range(MANY)}
    assert expected == site.emulator.state.accepted
    assert all("push: 1 accepted" in log for log in site.logs())
    assert not any(word in log for word in ("canary-access", "[canary-1]") for log in site.logs())


def test_receipts_are_asked_for_by_themselves(site):
    """Nobody starts push_check_receipts: the send asked for it, some seconds later."""
    site.start_workers()
    site.web(
        "row, _ = register_token('ExponentPushToken[receipt-unregistered-1]', backend='expo')\n"
        "enqueue_push([row], title='Hi')"
    )
    site.wait(lambda: site.emulator.state.accepted)
    accepted = time.monotonic()
    site.wait(lambda: any("receipts: 1 deactivated" in log for log in site.logs()))
    assert time.monotonic() - accepted > 2
    status = "print(get_token_model().objects.get().status)"
    assert "unregistered" in site.web(status).stdout


@pytest.mark.parametrize(
    "broker", ["amqp://guest:canary-password@127.0.0.1:1//", "redis://:canary-password@127.0.0.1:1/0"]
)
def test_a_broker_that_is_away(tmp_path, broker):
    """The request commits, waits for no more than seconds, and logs no password."""
    needs("celery", *(["redis"] if broker.startswith("redis") else []))
    site = Site(tmp_path, broker)
    site.run("-m", "django", "migrate", "-v0")
    done = site.web(
        REGISTER.format(1)
        + "import time; started = time.monotonic()\n"
        + "with transaction.atomic():\n"
        + "    enqueue_push(tokens, title='Hi')\n"
        + "print(time.monotonic() - started)"
    )
    assert float(done.stdout) < 5
    assert "Celery's broker did not take the job 'send_push': OperationalError" in done.stderr
    assert "canary-password" not in done.stderr
