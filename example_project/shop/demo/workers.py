"""The processes that send the demo's broadcast: plain ones of manage.py, or Celery's workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from django_push.broadcasts import tick, wake_workers

MANAGE = Path(__file__).resolve().parent.parent.parent / "manage.py"
#: Seconds. A lease lasts five of them: after a crash, others wait for so long.
TIMEOUT = 1.0
#: Celery's. Other workers of the shop, if there are any, do not see the demo's emulator.
QUEUE = "shop-demo"
#: How often it is looked for what is due. Seconds.
TICK = 5.0


class Workers:
    """Some processes, of which one will be killed. Leaving the ``with`` block stops them all."""

    go_on_by_themselves = False
    singular = "A worker"

    @staticmethod
    def of(count, emulator):
        """Return what the settings' dispatcher asks for."""
        is_celery = settings.PUSH_DISPATCHER.startswith("django_push.dispatch.celery.")
        return (CeleryWorkers if is_celery else Workers)(count, emulator)

    def __init__(self, count, emulator):
        self.count = count or 1
        self.environment = {
            **os.environ,
            "PUSH_EMULATOR_HOST": emulator.host,
            "SHOP_PUSH_TIMEOUT": str(TIMEOUT),
        }
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            self.stop(process)

    def __str__(self):
        return "a process of its own" if self.count == 1 else f"{self.count} processes of their own"

    def check(self):
        """Raise CommandError if there cannot be workers."""

    def start(self, row):
        """Let workers have the broadcast."""
        for _ in range(self.count):
            self.spawn(str(MANAGE), "push_broadcast", "--resume", str(row.pk), "--no-input", "--json")

    def spawn(self, *arguments):
        """Start a process in a group of its own, that is killed as a whole."""
        process = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, *arguments],
            env=self.environment,
            cwd=MANAGE.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)

    def kill(self):
        """Kill one as the machine would that runs out of memory; return what it was."""
        victim = self.processes.pop(0)
        self.stop(victim)
        return f"{self.singular} (process {victim.pid})"

    def stop(self, process):
        """Kill a process, and the processes that it has started, wherever there are groups of them."""
        if process.poll() is not None:
            pass
        elif hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()

    def look_after(self):
        """Raise CommandError, with what it said, if a worker has failed."""
        for process in self.processes:
            if process.poll():
                raise CommandError(f"A worker has failed:\n{process.communicate()[1]}")

    def explain(self, row):
        """Say who goes on with the broadcast."""
        return f"This process goes on with it: manage.py push_broadcast --resume {row.pk}"


class CeleryWorkers(Workers):
    """Celery's workers at SHOP_BROKER_URL, with a queue of their own that goes with them."""

    go_on_by_themselves = True
    singular = "One of Celery's workers"

    def __init__(self, count, emulator):
        super().__init__(count or 2, emulator)
        if self.count < 2:
            raise CommandError("One of Celery's workers is killed: start at least two (--workers 2).")
        from shop.celery import app

        self.app = app
        self.looked_at = time.monotonic()
        self.broker = app.connection_for_write().as_uri()  # without the password
        app.conf.task_default_queue = self.environment["SHOP_QUEUE"] = QUEUE

    def __exit__(self, *exc):
        super().__exit__(*exc)
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(QUEUE)
            connection.default_channel.exchange_delete(QUEUE)

    def __str__(self):
        return f"{self.count} Celery workers at {self.broker}"

    def check(self):
        """Raise CommandError if no broker answers."""
        with self.app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=3)
            except Exception as error:  # noqa: BLE001 - any transport's
                raise CommandError(
                    f"Nothing answers at {self.broker} ({type(error).__name__}). Start RabbitMQ or "
                    "Redis, name it in SHOP_BROKER_URL, or run the demo without SHOP_DISPATCHER."
                ) from None

    def start(self, row):
        """Start Celery's workers, and ask the dispatcher for tasks.

        For two each, as a worker reserves the next task while it is at one: what the victim has
        reserved is lost with Redis. One too many does no harm.
        """
        for number in range(self.count):
            name = f"{QUEUE}-{number}@%h"
            options = ["-c1", "-lWARNING", "-n", name, "--without-gossip", "--without-mingle"]
            self.spawn("-m", "celery", "-A", "shop", "worker", *options)
        wake_workers(row, 2 * self.count)

    def look_after(self):
        """Do what Celery beat does every minute: wake workers for a broadcast that nobody looks after."""
        super().look_after()
        if time.monotonic() - self.looked_at > TICK:
            self.looked_at = time.monotonic()
            tick(with_receipts=False)

    def explain(self, row):
        return "The other workers go on: they send what is left, and wait for the leases to end."
