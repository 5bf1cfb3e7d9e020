"""Sending now: the calls that wait for the provider's answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asgiref.sync import sync_to_async

from django_push.message import PushMessage
from django_push.outcomes import PushResult, Ticket
from django_push.recipients import Recipients
from django_push.sending.run import Run
from django_push.sending.texts import Personalize


def send_push(
    to: Recipients,
    message: PushMessage | None = None,
    *,
    using: str | None = None,
    dry_run: bool = False,
    personalize: Personalize | None = None,
    retry_budget: float | None = None,
    **fields: Any,
) -> PushResult:
    """Send a message now, write what became of each token, and return it.

    ``to`` is a user, a token's row, a raw token, a Topic or Condition, or an iterable or queryset of
    these. The message is given as a PushMessage or by its fields. ``using`` names the alias; without
    it each token has its own. ``personalize`` is given each token's row, in the token's language,
    and returns the fields that differ for it. ``retry_budget`` is how many seconds to go on trying
    what may be tried again (default 8; 0: not at all). ``dry_run`` goes the whole way but sends and
    changes nothing.

    A failure of a token never raises; it is in the result. Raised before anything is sent:
    InvalidPushBackend for wrong settings, InvalidMessage, UnsupportedOption for a field that no
    backend in question can express, AmbiguousBackend for a single string that several aliases
    accept, TypeError for something that is no recipient.
    """
    run = Run(message, fields, using, dry_run, personalize, retry_budget)
    for _ in run.told(to):
        pass
    return run.result


def iter_push(
    to: Recipients,
    message: PushMessage | None = None,
    *,
    using: str | None = None,
    dry_run: bool = False,
    personalize: Personalize | None = None,
    retry_budget: float | None = None,
    **fields: Any,
) -> Iterator[Ticket]:
    """Send as ``send_push`` does, yielding each token's ticket when its verdict has been written.

    For audiences of any size. Mistakes raise at the call, before the first ticket is asked for.
    A caller who stops listening loses no verdict: what is in flight is awaited and written.
    """
    run = Run(message, fields, using, dry_run, personalize, retry_budget)
    return run.tickets(run.told(to))


async def asend_push(to: Recipients, message: PushMessage | None = None, **options: Any) -> PushResult:
    """Send as ``send_push`` does, from async code; the work is done in the thread of sync code."""
    return await sync_to_async(send_push)(to, message, **options)
