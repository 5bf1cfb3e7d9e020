"""Send a message to many, with a count to confirm and a progress bar; and control what is under way."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import Error as DatabaseTrouble

from django_push import broadcasts
from django_push.broadcasts import control, rows
from django_push.broadcasts.preview import Preview, through
from django_push.dispatch.inline import InlineDispatcher
from django_push.exceptions import PushError
from django_push.management import options as given
from django_push.management import words
from django_push.management.output import TalkingCommand, why_lost
from django_push.management.planning import Plan, about, about_twin, how, plan_of
from django_push.management.progress import Watcher, screen_for
from django_push.management.running import Run, was_stopped
from django_push.management.stopping import INTERRUPTED
from django_push.management.waiting import standing
from django_push.models import (
    PROTOCOL,
    Broadcast,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    Progress,
    ReceiptBatch,
    TokenStatus,
    get_token_model,
)
from django_push.wake import get_dispatcher

logger = logging.getLogger("django_push")

#: The exit codes beside 0, 1 and those of ``options`` and ``stopping``.
PAUSED, UNCLEAR, ENDED = 3, 4, 5
#: How many broadcasts are listed.
LISTED = 20


class Command(TalkingCommand):
    help = (
        "Send a message to many. Name what to say and who gets it: it says how many that are, and asks\n"
        "before it sends. Whatever happens to this process, --resume goes on where it was."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        kwargs |= {"usage": given.USAGE, "epilog": given.EXAMPLES, "formatter_class": given.Formatter}
        kwargs["allow_abbrev"] = False  # --resume is not to be --resend-unknown by a slip
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        given.show_last(parser, "options")
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        given.add(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        self.options, self.run = options, Run()
        action = given.action_of(options)
        act: Callable[[], None] = getattr(self, f"_{action}" if action else "_send")
        try:
            act()
        except (PushError, ImproperlyConfigured) as error:
            raise CommandError(f"{error}{self._draft_left()}") from None
        except DatabaseTrouble as error:
            raise CommandError(words.database_failed(error, self.run.row)) from None
        except Broadcast.DoesNotExist:
            name = words.name_of(self.run.row) if self.run.row else "The broadcast"
            raise CommandError(f"{name} was deleted.") from None
        except KeyboardInterrupt:
            raise CommandError(f"Stopped.{self._stopped_at(action)}", returncode=INTERRUPTED) from None
        self._check_written()

    # --- a new one --------------------------------------------------------------------------------

    def _send(self) -> None:
        plan = plan_of(self.options)
        if (key := plan.more["key"]) and rows.broadcasts().filter(idempotency_key=key).exists():
            # Its times were checked when it was made.
            self._go_on_with(plan.create(schedule=None, expires=None))
            return
        twin, would = plan.twin(), plan.preview()
        if self.options["dry_run"]:
            self._show_preview(plan, would, twin)
            self._check(would, plan)
            return
        self._check(would, plan)
        if not would.total and plan.schedule is None:
            audience = through(would.audience, would.using)
            self._say(f"Nobody is in the audience ({audience}). Nothing is sent.")
            self._put({"broadcast": None, "tokens": 0})
            return
        self._confirm(plan, would, twin)
        with self.run:
            self.run.row = created = plan.create()
            if created.status == BroadcastStatus.DRAFT:
                self._begin(created)
                return
        self._go_on_with(created)  # somebody was first with the same key

    def _show_preview(self, plan: Plan, would: Preview, twin: Broadcast | None) -> None:
        self._tell(how(plan))
        self._tell(would.lines())
        if twin is not None:
            self._say(about_twin(twin))
        self._say("A dry run: nothing was sent or written.")
        self._put({"dry_run": True, "twin": twin and twin.pk, "plan": plan.as_json(), **would.as_json()})

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
        self._check_heard("Nothing was sent.")
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
        self._go(row)

    def _go_on_with(self, row: Broadcast) -> None:
        """A second run with a key: say what became of the first, and go on if that is to be."""
        self._say(f"{words.headline(row)}, and has this key.")
        if self.options["dry_run"]:
            self._say("A dry run: nothing was sent or written.")
            self._put_row(row)
        elif row.status == BroadcastStatus.DRAFT:
            self._ask_if_asked("Start it?")
            with self.run.of(row):
                self._begin(row)
        elif row.status == BroadcastStatus.PAUSED and (self.options["interactive"] or was_stopped(row)):
            self._ask_if_asked("Go on?")
            with self.run.of(row):
                broadcasts.resume(row, workers=0)
                self._go(row)
        else:
            with self.run.of(row):
                self._go(row)

    # --- sending ----------------------------------------------------------------------------------

    def _go(self, row: Broadcast) -> None:
        """Send what is left: here, or through workers; then say how it stands. For use within a run."""
        self.run.heed()
        if row.status == BroadcastStatus.SCHEDULED:
            self._say(
                f"{words.headline(row)}. It starts at {words.at(row.scheduled_at)}, by push_tick: have that "
                "run by then, from cron or with --loop."
            )
        elif row.status == BroadcastStatus.RUNNING and self.options["enqueue"]:
            self._enqueue(row)
        elif row.status == BroadcastStatus.RUNNING:
            self._drain(row)
        self.run.heed()
        if row.status in (BroadcastStatus.SCHEDULED, BroadcastStatus.RUNNING):
            self._put_row(row)
        else:
            self._end(row)

    def _enqueue(self, row: Broadcast) -> None:
        workers = self.options["workers"] or row.workers
        if workers != row.workers:  # push_tick asks for as many, too
            rows.broadcasts().filter(pk=row.pk).update(workers=workers)
        self._say(self._wake(row, workers))
        self._say(f"Look at it with: push_broadcast --status {row.pk}")

    def _wake(self, row: Broadcast, workers: int) -> str:
        """Ask for workers, and say what came of it. None is needed: push_tick finds the broadcast."""
        try:
            if isinstance(get_dispatcher(), InlineDispatcher):
                return (
                    f"{words.name_of(row)} is left to push_tick: PUSH_DISPATCHER is the inline one, and has "
                    "no workers. Each run of push_tick sends for a minute, --loop until it is done."
                )
            control.ask_for_workers(row.pk, workers)
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
        self.run.drain(Watcher(row, screen))

    def _end(self, row: Broadcast) -> None:
        """Say how a broadcast ended, in words and by the exit code."""
        progress = row.progress
        self._tell(words.summary(row, progress))
        self._put_row(row)
        if row.status == BroadcastStatus.PAUSED:
            _fail(f"{words.headline(row)}. {words.remedy(row, progress)}", PAUSED)
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
        progress = row.progress
        why = list(standing(row, progress))
        if not self.options["json"]:  # which a monitor asks for often: spare it the count
            self._tell(words.detail(row, progress, _deactivated(row, progress)))
            self._tell(f"  {line}" for line in why)
        self._put({"broadcast": words.as_json(row, progress), "waiting": why})

    def _pause(self) -> None:
        row, lane = self._row(), self._lane()
        self._refuse_final(row, "pause")
        changed = broadcasts.pause(row, lane=lane)
        row.refresh_from_db()
        what = "What is in flight is finished and counted."
        if not changed:
            what = "Nothing of it was running."
        elif row.started_at is None:
            what = "It will not start at its time."
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
            with self.run.of(row):
                self._begin(row)
            return
        for paused in row.progress.lanes:
            if paused.status == LaneStatus.PAUSED and lane in ("", paused.backend):
                self._say(f"{paused.backend} was paused: {words.reason(paused.pause_reason)}.")
                if paused.pause_reason != PauseReason.OPERATOR:
                    self._ask_if_asked(f"Go on with {paused.backend}?")
        with self.run.of(row):
            resumed = broadcasts.resume(row, lane=lane, workers=0)
            if lane and not resumed:
                self._say(f"The lane {lane} was not paused.")
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
        with self.run.of(row):
            count = broadcasts.resend_unknown(row, lane=lane, workers=0)
            row.refresh_from_db()
            self._say(f"{words.tokens(count)} will be sent to again.")
            self._go(row)

    def _undo(self) -> None:
        row = self._row()
        count = _deactivated_by(row)
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

    def _check_written(self) -> None:
        """Say that what was asked for could not be shown; a broadcast that was sent keeps its exit code."""
        if self.lost is None or isinstance(self.lost, BrokenPipeError):  # as with "| head"
            return
        if self.run.row is None:
            raise CommandError(why_lost(self.lost))
        self.stderr.write(why_lost(self.lost))

    def _stopped_at(self, action: str) -> str:
        """Return what is left by Ctrl-C outside of the run: before there is a broadcast, or after its end."""
        if self.run.row is not None:
            return f" See --status {self.run.row.pk}."
        return "" if action else " Nothing was sent."

    def _draft_left(self) -> str:
        row = self.run.row
        if row is None or row.status != BroadcastStatus.DRAFT:
            return ""
        return f" Broadcast {row.pk} is left as a draft: nothing was sent."

    def _told(self, row: Broadcast, more: str) -> None:
        self._say(f"{words.headline(row)}. {more}")
        self._put_row(row)

    def _put_row(self, row: Broadcast) -> None:
        self._put({"broadcast": words.as_json(row, row.progress)})


def _has_receipts(row: Broadcast) -> bool:
    return ReceiptBatch.objects.using(rows.database()).filter(broadcast_id=row.pk).exists()


def _deactivated(row: Broadcast, progress: Progress) -> int | None:
    """Return how many tokens it has deactivated that are so still; None if it has found none dead."""
    return _deactivated_by(row) if any(progress.counts[outcome] for outcome in words.DEAD) else None


def _deactivated_by(row: Broadcast) -> int:
    dead = (TokenStatus.UNREGISTERED, TokenStatus.INVALID)
    tokens = get_token_model()._base_manager.using(rows.database())
    return tokens.filter(status__in=dead, status_source=row.source).count()


def _fail(text: str, code: int) -> NoReturn:
    raise CommandError(text, returncode=code)
