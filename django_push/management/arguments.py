"""What is typed after an option, checked and turned into values. Each raises ArgumentTypeError."""

from __future__ import annotations

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.core.management.base import CommandError
from django.utils.dateparse import parse_datetime

from django_push.broadcasts.filters import seconds

#: The exit code for options that are wrong.
USAGE_ERROR = 2
#: No broadcast is planned for other years, and zones can be added to these.
_FIRST_YEAR, _LAST_YEAR = 2000, 9000
_NO_TIME = re.compile(r"\s*0+\s*[smhdw]?\s*", re.IGNORECASE)


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("not a JSON object")
    return value


def json_file(path: str) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"cannot read it: {error}") from None
    return json_object(text)


def pair(text: str) -> tuple[str, Any]:
    """Return KEY=VALUE. A value that reads as a number, true, false or a string in quotes is one."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ArgumentTypeError("give KEY=VALUE")
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        said = value
    is_plain = isinstance(said, (str, int)) or (isinstance(said, float) and abs(said) < 2**53)
    return key, said if is_plain else value


def duration(text: str) -> int:
    """Return seconds: 90, 15m, 12h, 30d, 2w."""
    if _NO_TIME.fullmatch(text):
        raise ArgumentTypeError("zero is no time: give a second at least")
    try:
        return seconds(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def moment(text: str) -> datetime | timedelta:
    """Return a date and time in ISO form, or of ``+2h`` the time from then on."""
    if text.startswith("+"):
        return timedelta(seconds=duration(text[1:]))
    try:
        value = parse_datetime(text)
    except ValueError:
        value = None
    if value is None or len(text) <= len("2030-01-31"):
        raise ArgumentTypeError("give a date and time, such as 2030-01-31T09:00, or +2h")
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ArgumentTypeError(f"give a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return value


def rate(text: str) -> float:
    """Return a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError("give a number of tokens per second, above 0")
    return value


def number(least: int, most: int) -> Callable[[str], int]:
    """Return the type of a whole number within bounds."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
            raise ArgumentTypeError(f"give a whole number from {least} to {most}")
        return int(text)

    return read


def user_named(name: str) -> Any:
    """Return the user of a name (USERNAME_FIELD), or of ``#ID``. Raises CommandError."""
    model = get_user_model()
    try:
        if name.startswith("#"):
            return model._default_manager.get(pk=name[1:])
        return model._default_manager.get_by_natural_key(name)
    except (model.DoesNotExist, ValueError, ValidationError, OverflowError):
        raise CommandError(f"There is no user {name!r}.", returncode=USAGE_ERROR) from None


def group_named(name: str) -> str:
    """Return the name of a group that there is. Raises CommandError.

    Of a user model without groups the audience says that it has none.
    """
    try:
        groups: Any = get_user_model()._meta.get_field("groups").related_model
    except FieldDoesNotExist:
        return name
    if groups is not None and not groups._base_manager.filter(name=name).exists():
        raise CommandError(f"There is no group {name!r}.", returncode=USAGE_ERROR)
    return name
