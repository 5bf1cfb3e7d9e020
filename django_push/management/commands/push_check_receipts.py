"""Ask for the receipts that are due."""

from __future__ import annotations

import logging
import signal
import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, close_old_connections

from django_push.exceptions import InvalidPushBackend
from django_push.receipts import check_push_receipts

logger = logging.getLogger("django_push")

#: What ends the loop, after the claim at hand.
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Command(BaseCommand):
    help = (
        "Ask the providers for the receipts that are due, and deactivate tokens that turn out dead. "
        "Run it every few minutes (cron), or with --loop."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--once", action="store_true", help="one run, then end (the default)")
        how.add_argument("--loop", type=_seconds, metavar="SECONDS", help="a run every so many seconds")
        parser.add_argument("--backend", metavar="ALIAS", help="only this alias in PUSH_BACKENDS")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["loop"] is None:
            self._run(options["backend"])
            return
        stop = threading.Event()
        before = {name: signal.signal(name, lambda *_: stop.set()) for name in STOPPING}
        try:
            while not stop.is_set():
                self._run_on(options["backend"], stop)
                stop.wait(options["loop"])
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _run_on(self, backend: str | None, stop: threading.Event) -> None:
        """Run once for the loop, which outlives a database that is away for a while."""
        close_old_connections()
        try:
            self._run(backend, stop.is_set)
        except DatabaseError:
            logger.exception("receipts: the database failed; the next run tries again")

    def _run(self, backend: str | None, is_stopped: Callable[[], bool] = lambda: False) -> None:
        try:
            summary = check_push_receipts(backend=backend, is_stopped=is_stopped)
        except InvalidPushBackend as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"receipts: {summary}")
        self.stdout.flush()


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 86_400:
        raise ArgumentTypeError("must be a number of seconds, 1 to 86400")
    return int(text)
