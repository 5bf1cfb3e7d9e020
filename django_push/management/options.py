"""The options of ``push_broadcast``, in groups, and which of them go together."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, DjangoHelpFormatter

from django_push.broadcasts.creating import MOST_WORKERS
from django_push.management.arguments import (
    USAGE_ERROR,
    duration,
    json_file,
    json_object,
    moment,
    number,
    pair,
    rate,
)
from django_push.models import UnknownPolicy

USAGE = """%(prog)s MESSAGE AUDIENCE [options]
       %(prog)s --status [ID]
       %(prog)s --pause ID | --resume ID | --cancel ID [--lane ALIAS]
       %(prog)s --resend-unknown ID | --undo ID"""

EXAMPLES = """
examples:
  See who would get what; nothing is sent:
    manage.py push_broadcast --everyone --title "We are back" --body "Thank you." --dry-run

  Send it. It says how many, asks, and shows a progress bar:
    manage.py push_broadcast --everyone --title "We are back" --body "Thank you."

  German iPhones that were seen this month, no later than six hours from now:
    manage.py push_broadcast --platform ios --locale de --seen-within 30d --expires +6h --title "Neu"

  From cron: without a question, and once only however often it runs:
    manage.py push_broadcast --audience customers --message news.json --key news-2030-01 --no-input

  Ctrl-C finishes what is in flight and pauses. Look at it, and go on:
    manage.py push_broadcast --status 7
    manage.py push_broadcast --resume 7

the file of --message:
  {"title": "Hello", "body": "…", "data": {"screen": "news"}, "ttl": 3600,
   "translations": {"de": {"title": "Hallo"}},
   "provider_options": {"fcm": {"android": {"priority": "HIGH"}}}}

exit codes:
    0  done, planned, or left to workers; nobody is in the audience; or the act has taken place
    1  an error, in one line; or the question was answered with no
    2  options that are wrong or do not go together
    3  paused: by Ctrl-C, by somebody, or because of the provider
    4  done, but some tokens are unknown, failed, or were left out (dead tokens are no failure)
    5  cancelled, or its time has run out
  130  stopped at once: Ctrl-C twice, or at the question
"""

#: What to do, with the option's destination; without one of these a broadcast is made.
ACTIONS = ("status", "pause", "resume", "cancel", "resend_unknown", "undo")
FILTERS = (
    "platform", "locale", "app_version", "app_version_from", "app_version_below", "group", "seen_within",
    "unseen_for", "metadata", "user", "anonymous",
)  # fmt: skip
MESSAGE = ("title", "body", "data", "message", "provider_options", "personalize")
PLAN = ("name", "key", "schedule", "expires", "rate", "on_unknown", "max_sends", "batch_size", "operator")
WORKERS = ("enqueue", "workers")
_NEW = (*MESSAGE, "everyone", "audience", "using", *FILTERS, *PLAN, "dry_run", "allow_repeat")
#: The options that an action has beside --no-input and --json.
_GOES_WITH = {
    "status": (),
    "pause": ("lane",),
    "cancel": ("lane",),
    "resume": ("lane", *WORKERS),
    "resend_unknown": ("lane", *WORKERS),
    "undo": (),
    "": (*_NEW, *WORKERS),
}
_SPELT = {"operator": "--as"}


class Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the examples as they are."""


def add(parser: ArgumentParser) -> None:
    """Add all options."""
    _add_message(parser)
    _add_audience(parser)
    _add_plan(parser)
    _add_ways(parser)
    _add_actions(parser)


def _add_message(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("message", "What to say. Options win over the file.")
    group.add_argument("--title")
    group.add_argument("--body")
    group.add_argument("--data", type=json_object, metavar="JSON", help="the app's own JSON object")
    group.add_argument(
        "--message",
        type=json_file,
        metavar="FILE.json",
        help="any fields of the message, translations too; see below",
    )
    group.add_argument(
        "--provider-options",
        type=json_object,
        metavar="JSON",
        help='what one provider alone is told: {"expo": {…}}',
    )
    group.add_argument(
        "--personalize",
        metavar="dotted.path",
        help="a function that is given each token's row and returns the fields that differ",
    )


def _add_audience(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "audience",
        "Who gets it: one of --everyone, --audience, or filters. A filter that is repeated has several\n"
        "values, any of which will do. Different filters must all hold.",
    )
    group.add_argument("--everyone", action="store_true", help="all active tokens")
    group.add_argument("--audience", metavar="NAME", help="a name in PUSH_AUDIENCES")
    group.add_argument("--using", metavar="ALIAS", help="only this alias in PUSH_BACKENDS")
    several: dict[str, Any] = {"action": "append"}
    group.add_argument("--platform", metavar="ios|android|…", **several)
    group.add_argument("--locale", metavar="de", help="a language with its regions, or de-AT", **several)
    group.add_argument("--app-version", metavar="VERSION", **several)
    group.add_argument("--app-version-from", metavar="VERSION", help="this one and later ones")
    group.add_argument("--app-version-below", metavar="VERSION", help="earlier ones")
    group.add_argument("--group", metavar="NAME", help="users in this group", **several)
    group.add_argument("--user", metavar="NAME", help="a user's name, or #ID", **several)
    group.add_argument("--seen-within", type=duration, metavar="30d", help="registered so recently")
    group.add_argument("--unseen-for", type=duration, metavar="30d", help="not registered for so long")
    group.add_argument(
        "--metadata",
        type=pair,
        metavar="KEY=VALUE",
        help="a key of the token's metadata; vip=true and level=3 are no strings",
        **several,
    )
    anonymous = group.add_mutually_exclusive_group()
    anonymous.add_argument(
        "--anonymous", action="store_true", default=None, help="only tokens without a user"
    )
    anonymous.add_argument(
        "--not-anonymous", action="store_false", dest="anonymous", default=None, help="only those with one"
    )


def _add_plan(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("plan", "When and how.")
    group.add_argument(
        "--schedule", type=moment, metavar="WHEN", help="2030-01-31T09:00 (of TIME_ZONE), …+01:00, or +2h"
    )
    group.add_argument(
        "--expires",
        type=moment,
        metavar="WHEN",
        help="when what is not sent yet no longer is; +2h counts from the start",
    )
    group.add_argument("--rate", type=rate, metavar="N", help="at most N tokens a second")
    group.add_argument(
        "--on-unknown",
        choices=UnknownPolicy.values,
        help="what may have been sent: send it again (the default), or never",
    )
    group.add_argument(
        "--max-sends", type=number(1, 10), metavar="N", help="at most so often to one token (3)"
    )
    group.add_argument("--batch-size", type=number(1, 1000), metavar="N", help="tokens per claim")
    group.add_argument("--key", help="a second run with the same key goes on with the first one's broadcast")
    group.add_argument("--name", help="what it is called in lists")
    group.add_argument(
        "--as",
        dest="operator",
        metavar="USER",
        help="record this user (a name, or #ID), who needs the permission broadcast_push",
    )


def _add_ways(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("how to send")
    group.add_argument("--dry-run", action="store_true", help="say who would get what; send nothing")
    group.add_argument(
        "--enqueue", action="store_true", help="leave the sending to PUSH_DISPATCHER's workers, or push_tick"
    )
    group.add_argument(
        "--workers", type=number(1, MOST_WORKERS), metavar="N", help="ask for so many, with --enqueue (1)"
    )
    group.add_argument("--no-input", "--noinput", action="store_false", dest="interactive", help="do not ask")
    group.add_argument(
        "--allow-repeat",
        action="store_true",
        help="send, with --no-input, what was sent to the same audience within ten minutes",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="one JSON document on the standard output; progress and questions go to the other",
    )


def _add_actions(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("broadcasts that there are")
    one = group.add_mutually_exclusive_group()
    key = number(1, 2**63 - 1)
    one.add_argument(
        "--status", nargs="?", type=key, const=0, metavar="ID", help="the latest ones, or one in detail"
    )
    one.add_argument("--pause", type=key, metavar="ID", help="what is in flight is finished and counted")
    one.add_argument("--resume", type=key, metavar="ID", help="go on, here, whatever it was paused for")
    one.add_argument("--cancel", type=key, metavar="ID", help="send nothing more of it, for good")
    one.add_argument(
        "--resend-unknown",
        type=key,
        metavar="ID",
        help="send once more to tokens that may have got it: each may get a second copy",
    )
    one.add_argument(
        "--undo", type=key, metavar="ID", help="make the tokens active again that it has deactivated"
    )
    group.add_argument("--lane", metavar="ALIAS", help="only this alias's part of it")


def show_last(parser: ArgumentParser, title: str) -> None:
    """Show a group below the others: here that of the options that every command has."""
    parser._action_groups.sort(key=lambda group: group.title == title)


def action_of(options: Mapping[str, Any]) -> str:
    """Return what to do, "" for a new broadcast. Raises CommandError for what does not go with it."""
    action = next((name for name in ACTIONS if options[name] is not None), "")
    for name in (*_NEW, *WORKERS, "lane"):
        if options[name] not in (None, False) and name not in _GOES_WITH[action]:
            with_what = spelt(action) if action else "a new broadcast"
            raise CommandError(f"{spelt(name)} does not go with {with_what}.", returncode=USAGE_ERROR)
    if options["anonymous"] is False and action:
        raise CommandError(f"--not-anonymous does not go with {spelt(action)}.", returncode=USAGE_ERROR)
    if options["workers"] is not None and not options["enqueue"]:
        raise CommandError("--workers goes with --enqueue.", returncode=USAGE_ERROR)
    if options["enqueue"] and options["schedule"] is not None:
        raise CommandError(
            "--enqueue does not go with --schedule: push_tick starts it.", returncode=USAGE_ERROR
        )
    return action


def spelt(name: str) -> str:
    """Return an option as it is typed."""
    return _SPELT.get(name, f"--{name.replace('_', '-')}")


def audience_of(options: Mapping[str, Any]) -> Any:
    """Return the audience that was asked for: a name, or a mapping of filters.

    Raises CommandError for none or two.
    """
    filters = {name: options[name] for name in FILTERS if options[name] is not None}
    chosen = [spelt(name) for name in ("everyone", "audience") if options[name] not in (None, False)]
    if len(chosen) + bool(filters) > 1:
        also = f" and {', '.join(map(spelt, filters))}" if filters else ""
        raise CommandError(
            f"Name one audience, not {' and '.join(chosen)}{also}: filters do not narrow another audience.",
            returncode=USAGE_ERROR,
        )
    if options["everyone"]:
        return "everyone"
    if options["audience"] == "everyone":
        raise CommandError("There is no audience 'everyone': use --everyone.", returncode=USAGE_ERROR)
    if options["audience"] is not None:
        return {"kind": "named", "name": options["audience"]}
    if not filters and options["using"] is not None:
        return {"backend": options["using"]}
    if not filters:
        raise CommandError(
            "Who is it for? Give --everyone, --audience NAME or filters (see --help).", returncode=USAGE_ERROR
        )
    if "metadata" in filters:
        pairs: dict[str, list[Any]] = {}
        for name, value in filters["metadata"]:
            pairs.setdefault(name, []).append(value)
        filters["metadata"] = pairs
    return filters
