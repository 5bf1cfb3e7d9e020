"""Send one push and say in words what became of it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from django_push.exceptions import PushError
from django_push.management.explain import SKIPPED, explain
from django_push.message import Condition, Topic
from django_push.models import get_token_model
from django_push.outcomes import PushResult
from django_push.sending import send_push
from django_push.sending.texts import message_of


class Command(BaseCommand):
    help = (
        "Send one push to a user, a token or a topic, and explain the provider's answer. "
        "Exits with 1 if anything failed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        to = parser.add_mutually_exclusive_group(required=True)
        to.add_argument("--user", help="a user's name (USERNAME_FIELD), or #ID for the primary key")
        to.add_argument("--token", help="a raw token; a registered one is the row that it has")
        to.add_argument("--id", type=int, help="the primary key of a registered token")
        to.add_argument("--topic", help="a topic's name, without /topics/")
        to.add_argument("--condition", help="an expression of topics")
        parser.add_argument("--using", metavar="ALIAS", help="the alias in PUSH_BACKENDS")
        parser.add_argument("--title")
        parser.add_argument("--body")
        parser.add_argument("--data", type=_json_object, metavar="JSON", help="the app's own JSON object")
        parser.add_argument(
            "--message",
            type=_json_file,
            default={},
            metavar="FILE.json",
            help="more fields of the message, as a JSON object",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would go where")

    def handle(self, *args: Any, **options: Any) -> None:
        given = {name: options[name] for name in ("title", "body", "data")}
        fields = options["message"] | {name: value for name, value in given.items() if value is not None}
        try:
            message = message_of(None, fields)
            result = send_push(_to(options), message, using=options["using"], dry_run=options["dry_run"])
        except (PushError, TypeError, ValueError) as error:
            raise CommandError(str(error)) from None
        self._report(result)
        if not result.ok or not len(result):
            raise CommandError(str(result))

    def _report(self, result: PushResult) -> None:
        for ticket in result:
            self.stdout.write(explain(ticket))
        for reason, count in sorted(result.skipped.items()):
            self.stdout.write(f"skipped {count}: {SKIPPED.get(reason, reason)}")
        for field, count in sorted(result.left_out.items()):
            self.stdout.write(f"{field} was left out for {count}: their provider cannot say it")
        if not len(result) and not result.skipped:
            self.stdout.write("There is no token to send to.")


def _to(options: Mapping[str, Any]) -> Any:
    if options["user"] is not None:
        return _user(options["user"])
    if options["id"] is not None:
        row = get_token_model()._default_manager.filter(pk=options["id"]).first()
        if row is None:
            raise CommandError(f"There is no token with the id {options['id']}.")
        return row
    if options["topic"] is not None:
        return Topic(options["topic"])
    return options["token"] if options["token"] is not None else Condition(options["condition"])


def _user(name: str) -> Any:
    model = get_user_model()
    try:
        if name.startswith("#"):
            return model._default_manager.get(pk=name[1:])
        return model._default_manager.get_by_natural_key(name)
    except (model.DoesNotExist, ValueError, ValidationError):
        raise CommandError(f"There is no user {name!r}.") from None


def _json_file(path: str) -> dict[str, Any]:
    try:
        return _json_object(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentTypeError(f"cannot read it: {error}") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("not a JSON object")
    return value
