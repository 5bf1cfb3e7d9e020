"""Retire tokens that were not seen for long, and delete those that have been dead for long."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_push import tokens


class Command(BaseCommand):
    help = (
        "Retire active tokens that the app has not registered for so many days, and delete tokens that "
        "have not been active for so many days. FCM expires Android tokens after 270 idle days."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--unseen-days", type=_days, metavar="DAYS", help="retire after so many days")
        parser.add_argument("--dead-days", type=_days, metavar="DAYS", help="delete after so many days")
        parser.add_argument("--dry-run", action="store_true", help="count, and change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["unseen_days"] is None and options["dead_days"] is None:
            raise CommandError("Give --unseen-days, --dead-days or both.")
        done = tokens.prune(
            unseen_for=_timedelta(options["unseen_days"]),
            dead_for=_timedelta(options["dead_days"]),
            dry_run=options["dry_run"],
        )
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(f"{done.retired} {would}retired, {done.deleted} {would}deleted.")


def _timedelta(days: int | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise ArgumentTypeError("must be a number of days, 1 to 36500")
    return int(text)
