"""Log entries of what staff do to many tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.utils.text import format_lazy

#: Up to so many tokens each gets an entry, in one INSERT; more share one entry that says how many.
ENTRY_EACH = 1000


def log(user: Any, rows: QuerySet[Any], keys: Sequence[int], message: str) -> None:
    """Write into the admin's history that the rows of these keys were changed."""
    if not keys:
        return
    if len(keys) <= ENTRY_EACH:
        named = rows.filter(pk__in=keys).order_by("pk")
        LogEntry.objects.log_actions(user.pk, named, CHANGE, message)
        return
    opts = rows.model._meta
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(rows.model, for_concrete_model=False),
        object_repr=str(format_lazy("{} {}", len(keys), opts.verbose_name_plural))[:200],
        action_flag=CHANGE,
        change_message=message,
    )
