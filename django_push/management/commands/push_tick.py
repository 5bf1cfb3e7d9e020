"""Do what is due: what cron or a service runs, so that nothing depends on a queue's memory."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import Error as DatabaseTrouble
from django.db import close_old_connections

from django_push.broadcasts import drain, tick
from django_push.broadcasts.draining import BUDGET, LINGER
from django_push.broadcasts.ticking import wake_all
from django_push.dispatch.inline import InlineDispatcher
from django_push.exceptions import PushError
from django_push.management import words
from django_push.management.arguments import number
from django_push.management.output import SteadyCommand, why_lost
from django_push.management.stopping import Stop, write_error
from django_push.wake import get_dispatcher

logger = logging.getLogger("django_push")

#: The least pause between two runs, when there is more to send at once. Seconds.
LEAST_PAUSE = 0.1


class Command(SteadyCommand):
    help = (
        "Do what is due: start planned broadcasts, go on with those that nobody sends, end those whose time "
        "has run out, ask for receipts, and delete old batches and problems. Run it every minute (cron), or "
        "with --loop. Any number of them may run at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--loop",
            type=number(1, 86_400),
            metavar="SECONDS",
            help="a run every so many seconds, until SIGTERM or Ctrl-C, which finish what is in flight",
        )
        parser.add_argument(
            "--no-receipts",
            action="store_false",
            dest="receipts",
            help="leave receipts to push_check_receipts",
        )
        parser.add_argument("--json", action="store_true", help="a line of JSON for each run")

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        say = "Stopping: what is in flight is finished. Once more: stop at once."
        self.stop = Stop(on_first=lambda: write_error(say))
        with self.stop:
            if options["loop"] is None:
                self._run_once()
            else:
                self._run_on(float(options["loop"]))

    def _run_once(self) -> None:
        try:
            self._run()
        except DatabaseTrouble as error:
            raise CommandError(words.database_failed(error)) from None
        if self.lost is not None and not isinstance(self.lost, BrokenPipeError):
            raise CommandError(why_lost(self.lost))

    def _run_on(self, seconds: float) -> None:
        while not self.stop.asked:
            close_old_connections()
            pause = seconds
            try:
                pause = min(seconds, self._run())
            except DatabaseTrouble:
                logger.exception("push_tick: the database failed; the next run tries again")
            except CommandError as error:
                logger.error("push_tick: %s", error)
            self.stop.wait(pause)

    def _run(self) -> float:
        """Do what is due once; return in how many seconds there may be more to send here."""
        self._more = float("inf")
        try:
            is_inline = isinstance(get_dispatcher(), InlineDispatcher)
            done = tick(
                is_stopped=self.stop.is_asked,
                with_receipts=self.options["receipts"],
                look_after=self._send if is_inline else wake_all,
            )
        except (PushError, ImproperlyConfigured, ImportError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps(done.as_json()) if self.options["json"] else str(done))
        self.stdout.flush()
        return self._more

    def _send(self, broadcast: int) -> None:
        """Send for a while, here: there are no workers."""
        drained = drain(broadcast, budget=BUDGET, linger=LINGER, is_stopped=self.stop.is_asked)
        if drained.is_running:
            self._more = min(self._more, max(LEAST_PAUSE, drained.wait or 0.0))
