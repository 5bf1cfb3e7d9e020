"""Send a message to many, with a count to confirm and a progress bar; and control what is under way."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import Error as DatabaseTrouble

from django_push import broadcasts
from django_push.broadcasts import rows
from django_push.broadcasts.preview import Preview
from django_push.dispatch.inline import InlineDispatcher
from django_push.exceptions import PushError
from django_push.management import options as given
from django_push.management import words
from django_push.management.planning import Plan, about, about_twin, plan_of
from django_push.management.progress import Watcher, screen_for
from django_push.management.running import Run, was_stopped
from django_push.management.stopping import INTERRUPTED
from django_push.models import (
    PROTOCOL,
    Broadcast,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    ReceiptBatch,
    TokenStatus,
    get_token_model,
)
from django_push.wake import get_dispatcher, wake

logger = logging.getLogger("django_push")

#: The exit codes beside 0, 1 and those of ``options`` and ``stopping``.
PAUSED, UNCLEAR, ENDED = 3, 4, 5
#: How many broadcasts are listed.
LISTED = 20


class Command(BaseCommand):
    help = (
        "Send a message to many. Name what to say and who gets it: it says how many that are, and asks\n"
        "before it sends. Whatever happens to this process, --resume goes on where it was."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        kwargs |= {"usage": given.USAGE, "epilog": given.EXAMPLES, "formatter_class": given.Formatter}
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        given.show_last(parser, "options")
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        given.add(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        action = given.action_of(options)
        act: Callable[[], None] = getattr(self, f"_{action}" if action else "_send")
        try:
            act()
        except (PushError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("Stopped.", returncode=INTERRUPTED) from None
        except BrokenPipeError:  # as with "| head"
            raise CommandError("Nobody reads the output any more.") from None

    # --- a new one --------------------------------------------------------------------------------

    def _send(self) -> None:
        plan = plan_of(self.options)
        if (key := plan.more["key"]) and rows.broadcasts().filter(idempotency_key=key).exists():
            # Its times were checked when it was made.
            self._go_on_with(plan.create(schedule=None, expires=None))
            return
        twin, would = plan.twin(), plan.preview()
        if self.options["dry_run"]:
            self._show_preview(would, twin)
            return
        self._check(would, plan)
        if not would.total and plan.schedule is None:
            self._say(f"Nobody is in the audience ({would.audience}). Nothing is sent.")
            self._put({"broadcast": None, "tokens": 0})
            return
        self._confirm(plan, would, twin)
        created = plan.create()
        if created.status != BroadcastStatus.DRAFT:  # somebody was first with the same key
            self._go_on_with(created)
            return
        self._begin(created)

    def _show_preview(self, would: Preview, twin: Broadcast | None) -> None:
        self._tell(would.lines())
        if twin is not None:
            self._say(about_twin(twin))
        self._say("A dry run: nothing was sent or written.")
        self._put({"dry_run": True, "twin": twin and twin.pk, **would.as_json()})

    def _check(self, would: Preview, plan: Plan) -> None:
        """Refuse what would reach nobody. Raises CommandError."""
        unconfigured = would.skipped.get("unknown_backend", 0)
        if not would.total and unconfigured:
            count = words.tokens(unconfigured)
            raise CommandError(f"None of {count} can be sent to: their aliases are not in PUSH_BACKENDS.")
        whys = [why for part in would.parts for why in part.refusals.values()]
        is_hopeless = all(len(part.refusals) == len(part.languages) for part in would.parts)
        if whys and is_hopeless and not plan.more["personalize"]:
            raise CommandError(f"It would be refused for everybody: {whys[0]}.")

    def _confirm(self, plan: Plan, would: Preview, twin: Broadcast | None) -> None:
        """Say what will be sent to whom, and ask. Raises CommandError if it is not to be."""
        is_asked = self.options["interactive"]
        if twin is not None and not is_asked and not self.options["allow_repeat"]:
            raise CommandError(f"{about_twin(twin)} Nothing was sent. (--allow-repeat sends it.)")
        self._tell(about(plan, would))
        while is_asked:
            if twin is not None:
                self._say(about_twin(twin))
            self._ask(f"Send it to {words.tokens(would.total)}?", "Nothing was sent.")
            newer = plan.twin()  # while the question stood there, somebody else may have answered
            if newer is None or (twin is not None and newer.pk == twin.pk):
                return
            twin = newer

    def _begin(self, row: Broadcast) -> None:
        """Start a draft, or leave it to its time."""
        if not broadcasts.begin(row, workers=0):
            row.refresh_from_db()
        if row.status == BroadcastStatus.SCHEDULED:
            self._say(
                f"{words.name_of(row)} starts at {words.at(row.scheduled_at)}. push_tick starts it, so have "
                "that run by then: from cron, or with --loop."
            )
            self._put_row(row)
            return
        self._go(row)

    def _go_on_with(self, row: Broadcast) -> None:
        """A second run with a key: say what became of the first, and go on if that is to be."""
        self._say(f"{words.headline(row)}, and has this key.")
        if self.options["dry_run"]:
            self._say("A dry run: nothing was sent or written.")
            self._put_row(row)
        elif row.status == BroadcastStatus.DRAFT:
            self._ask_if_asked("Start it?")
            self._begin(row)
        elif row.status == BroadcastStatus.PAUSED and (self.options["interactive"] or was_stopped(row)):
            self._ask_if_asked("Go on?")
            broadcasts.resume(row, workers=0)
            self._go(row)
        elif row.status == BroadcastStatus.RUNNING:
            self._go(row)
        elif row.status == BroadcastStatus.SCHEDULED:
            self._say(f"It starts at {words.at(row.scheduled_at)}.")
            self._put_row(row)
        else:
            self._end(row)

    # --- sending ----------------------------------------------------------------------------------

    def _go(self, row: Broadcast) -> None:
        """Send what is left: here, or through workers."""
        if row.status == BroadcastStatus.SCHEDULED:
            self._say(f"{words.headline(row)}: it starts at {words.at(row.scheduled_at)}, by push_tick.")
            self._put_row(row)
        elif row.status != BroadcastStatus.RUNNING:
            self._end(row)
        elif self.options["enqueue"]:
            self._enqueue(row)
        else:
            self._drain(row)

    def _enqueue(self, row: Broadcast) -> None:
        self._say(self._wake(row, self.options["workers"] or 1))
        self._say(f"Look at it with: push_broadcast --status {row.pk}")
        self._put_row(row)

    def _wake(self, row: Broadcast, workers: int) -> str:
        """Ask for workers, and say what came of it. None is needed: push_tick finds the broadcast."""
        try:
            if isinstance(get_dispatcher(), InlineDispatcher):
                return (
                    f"{words.name_of(row)} is left to push_tick: PUSH_DISPATCHER is the inline one, and has "
                    "no workers. Each run of push_tick sends for a minute, --loop until it is done."
                )
            for _ in range(workers):
                wake("drain_broadcast", {"broadcast": row.pk})
        except Exception as error:
            logger.exception("broadcast %s: no worker was woken", row.pk)
            return (
                f"{words.name_of(row)} has started, but the queue did not take it ({type(error).__name__}). "
                "push_tick asks again when it next runs."
            )
        several = "a worker" if workers == 1 else f"{workers} workers"
        return f"{words.name_of(row)} is left to {several}."

    def _drain(self, row: Broadcast) -> None:
        if row.protocol > PROTOCOL:
            raise CommandError(f"{words.name_of(row)} was made by a newer version than this one.")
        screen = screen_for(self._out, is_silent=not self.options["verbosity"])
        run = Run(row, screen.stopping)
        try:
            watcher = Watcher(row, screen)
            with screen, run.stop:
                run.drain(watcher)
                watcher.look()
        except DatabaseTrouble as error:
            raise CommandError(
                f"The database is away ({type(error).__name__}). Go on with --resume {row.pk}; what was in "
                "flight is taken up when its lease ends."
            ) from None
        except Broadcast.DoesNotExist:
            raise CommandError(f"Broadcast {row.pk} was deleted.") from None
        self._end(row)

    def _end(self, row: Broadcast) -> None:
        """Say how a broadcast ended, in words and by the exit code."""
        progress = row.progress
        self._tell(words.summary(row, progress))
        self._put_row(row)
        if row.status == BroadcastStatus.PAUSED:
            _fail(f"{words.headline(row)}. Go on with --resume {row.pk}.", PAUSED)
        if row.status in (BroadcastStatus.CANCELLED, BroadcastStatus.EXPIRED):
            _fail(f"{words.headline(row)}.", ENDED)
        if unclear := words.unclear(progress):
            _fail(f"{words.name_of(row)} is done, but {unclear}. See --status {row.pk}.", UNCLEAR)
        if _has_receipts(row):
            self._say("Receipts come later: push_tick asks for them, --status shows them.")

    # --- those that there are ---------------------------------------------------------------------

    def _status(self) -> None:
        if not self.options["status"]:
            latest = list(rows.broadcasts().order_by("-pk")[:LISTED])
            found = [(row, row.progress) for row in latest]
            self._tell(words.table(found) if found else ["There are no broadcasts."])
            self._put({"broadcasts": [words.as_json(*pair) for pair in found]})
            return
        row = self._row()
        self._tell(words.detail(row, row.progress))
        self._put_row(row)

    def _pause(self) -> None:
        row, lane = self._row(), self._lane()
        self._refuse_final(row, "pause")
        changed = broadcasts.pause(row, lane=lane)
        row.refresh_from_db()
        what = "What is in flight is finished and counted." if changed else "Nothing of it was running."
        self._told(row, f"{what} Go on with --resume {row.pk}.")

    def _cancel(self) -> None:
        row, lane = self._row(), self._lane()
        self._refuse_final(row, "cancel")
        progress = row.progress
        part = f"the lane {lane} of " if lane else ""
        self._say(f"{words.headline(row)}: {progress.told:,} of {words.tokens(progress.total)}.")
        self._ask_if_asked(f"Cancel {part}it, for good?")
        changed = broadcasts.cancel(row, lane=lane)
        row.refresh_from_db()
        self._told(row, "Nothing more of it is sent." if changed else "It was over already.")

    def _resume(self) -> None:
        row, lane = self._row(), self._lane()
        self._refuse_final(row, "resume")
        if row.status == BroadcastStatus.DRAFT:
            self._ask_if_asked("It was never started. Start it?")
            self._begin(row)
            return
        for paused in row.progress.lanes:
            if paused.status == LaneStatus.PAUSED and lane in ("", paused.backend):
                self._say(f"{paused.backend} was paused: {words.reason(paused.pause_reason)}.")
                if paused.pause_reason != PauseReason.OPERATOR:
                    self._ask_if_asked(f"Go on with {paused.backend}?")
        if lane and not broadcasts.resume(row, lane=lane, workers=0):
            self._say(f"The lane {lane} was not paused.")
        elif not lane:
            broadcasts.resume(row, workers=0)
        row.refresh_from_db()
        self._go(row)

    def _resend_unknown(self) -> None:
        row, lane = self._row(), self._lane()
        unknown = sum(part.unknown for part in row.progress.lanes if lane in ("", part.backend))
        if not unknown:
            self._told(row, "No token of it is unknown: there is nothing to send again.")
            return
        question = (
            f"Send once more to {words.tokens(unknown)} that may have got it? Each may get a second copy."
        )
        self._ask_if_asked(question)
        count = broadcasts.resend_unknown(row, lane=lane, workers=0)
        row.refresh_from_db()
        self._say(f"{words.tokens(count)} will be sent to again.")
        self._go(row)

    def _undo(self) -> None:
        row = self._row()
        dead = (TokenStatus.UNREGISTERED, TokenStatus.INVALID)
        found = get_token_model()._base_manager.using(rows.database())
        count = found.filter(status__in=dead, status_source=row.source).count()
        if count:
            self._ask_if_asked(f"Make {words.tokens(count)} active again that it has deactivated?")
        undone = broadcasts.undo_deactivations(row) if count else 0
        self._say(f"{words.tokens(undone)} made active again.")
        self._put({"reactivated": undone, "broadcast": words.as_json(row, row.progress)})

    def _row(self) -> Broadcast:
        key = next(self.options[name] for name in given.ACTIONS if self.options[name] is not None)
        row = rows.broadcasts().filter(pk=key).first()
        if row is None:
            raise CommandError(f"There is no broadcast {key}. (--status lists the latest.)")
        lane, there = self._lane(), sorted(row.lanes.values_list("backend", flat=True))
        if lane and lane not in there:
            raise CommandError(f"It has no lane {lane!r}; there are: {', '.join(there) or 'none yet'}.")
        return row

    def _lane(self) -> str:
        return self.options["lane"] or ""

    def _refuse_final(self, row: Broadcast, verb: str) -> None:
        if row.is_final:
            more = f" (--resend-unknown {row.pk} sends to the unknown.)" if row.progress.unknown else ""
            raise CommandError(f"{words.headline(row)}; there is nothing to {verb}.{more}")

    # --- talking ----------------------------------------------------------------------------------

    @property
    def _out(self) -> OutputWrapper:
        """Where words go: not among the JSON."""
        return self.stderr if self.options["json"] else self.stdout

    def _say(self, line: str) -> None:
        self._out.write(line, style_func=str)
        self._out.flush()

    def _tell(self, lines: Iterable[str]) -> None:
        if not self.options["json"]:
            for line in lines:
                self._say(line)

    def _told(self, row: Broadcast, more: str) -> None:
        self._say(f"{words.headline(row)}. {more}")
        self._put_row(row)

    def _put_row(self, row: Broadcast) -> None:
        self._put({"broadcast": words.as_json(row, row.progress)})

    def _put(self, value: object) -> None:
        if self.options["json"]:
            self.stdout.write(json.dumps(value, default=str))

    def _ask_if_asked(self, question: str) -> None:
        if self.options["interactive"]:
            self._ask(question, "Nothing was changed.")

    def _ask(self, question: str, otherwise: str) -> None:
        """Return if the answer is yes. Raises CommandError."""
        if sys.stdin is None or not sys.stdin.isatty():
            raise CommandError(
                f"{otherwise} There is no terminal to ask at: give --no-input to go ahead unasked."
            )
        try:
            self._out.write(f"{question} [y/N] ", ending="", style_func=str)
            self._out.flush()
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            self._say("")
            raise CommandError(otherwise, returncode=INTERRUPTED) from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError(otherwise)


def _has_receipts(row: Broadcast) -> bool:
    return ReceiptBatch.objects.using(rows.database()).filter(broadcast_id=row.pk).exists()


def _fail(text: str, code: int) -> NoReturn:
    raise CommandError(text, returncode=code)
