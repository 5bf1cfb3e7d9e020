"""Move tokens from one alias to another, as from GCM to FCM."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_push import tokens
from django_push.exceptions import PushError
from django_push.handler import push_backends
from django_push.models import Broadcast, get_token_model


class Command(BaseCommand):
    help = (
        "Move the tokens of one alias to another that takes the same tokens: GCM's are valid under FCM. "
        "A token that the target has already is merged. Safe to stop and to run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="source", required=True, metavar="ALIAS")
        parser.add_argument("--to", dest="target", required=True, metavar="ALIAS", help="in PUSH_BACKENDS")
        parser.add_argument("--dry-run", action="store_true", help="count, and change nothing")
        parser.add_argument("--no-input", action="store_false", dest="interactive", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        source, target = options["source"], options["target"]
        if source == target:
            raise CommandError("--from and --to are the same alias.")
        going = Broadcast.objects.running().filter(lanes__backend=source).filter(lanes__backend=target)
        if not options["dry_run"] and (broadcast := going.distinct().first()) is not None:
            raise CommandError(
                f"Broadcast {broadcast.pk} is sending through both: what is moved now could get it twice. "
                f"Wait for it, or pause it: push_broadcast --pause {broadcast.pk}."
            )
        try:
            push_backends.channel(target)
            rows = get_token_model()._base_manager.filter(backend=source).count()
            if not options["dry_run"] and rows and options["interactive"]:
                self._ask(f"Move {rows} tokens from {source!r} to {target!r}?")
            done = tokens.move(source, target, dry_run=options["dry_run"], on_page=self._progress(rows))
        except PushError as error:
            raise CommandError(str(error)) from None
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(f"{done.moved} {would}moved, {done.merged} {would}merged.")
        if done.refused:
            stay = "would stay" if options["dry_run"] else "stayed"
            self.stdout.write(f"{done.refused} {stay} in {source!r}: {target!r} does not accept such tokens.")

    def _ask(self, question: str) -> None:
        try:
            answer = input(f"{question} [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was changed. (--no-input does not ask.)")

    def _progress(self, rows: int) -> Any:
        def tell(done: int) -> None:
            if self.stderr.isatty():
                self.stderr.write(f"\r{done} of {rows}", ending="" if done < rows else "\n")

        return tell
