"""Ask for the receipts that are due."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections, connections

from django_push.exceptions import InvalidPushBackend
from django_push.receipts import check_push_receipts


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
        pause = options["loop"]
        if pause is None:
            self._run(options["backend"])
            return
        stop = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stop.set())
        while not stop.is_set():
            close_old_connections()
            self._run(options["backend"])
            stop.wait(pause)
        connections.close_all()

    def _run(self, backend: str | None) -> None:
        try:
            summary = check_push_receipts(backend=backend)
        except InvalidPushBackend as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"receipts: {summary}")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 86_400:
        raise ArgumentTypeError("must be a number of seconds, 1 to 86400")
    return int(text)
