"""One call of send_push, led from its recipients to its result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from django.db import connections, router

from django_push.handler import Channel, push_backends
from django_push.message import PushMessage
from django_push.models import get_token_model
from django_push.outcomes import PushResult, Target, Ticket
from django_push.recipients import Page, Recipients, pages
from django_push.retry import DEFAULT_POLICY, RetryPolicy
from django_push.sending.lane import Lane
from django_push.sending.texts import Personalize, Texts, message_of

logger = logging.getLogger("django_push")

#: A retry budget that was given is the only limit; this is no other. Attempts.
UNLIMITED = 10_000


class Run:
    """Everything that can be wrong with a call is found here, before anything is sent."""

    def __init__(
        self,
        message: PushMessage | None,
        fields: Mapping[str, Any],
        using: str | None,
        dry_run: bool,
        personalize: Personalize | None,
        retry_budget: float | None,
    ) -> None:
        said = message_of(message, fields)
        self.using = using
        self.policy = _policy(retry_budget)
        self.channels = _channels(using)
        self.texts = Texts(said, [channel.backend for channel in self.channels.values()], personalize)
        self.result = PushResult(dry_run=dry_run)
        self.lanes: dict[str, Lane] = {}

    def told(self, to: Recipients, *, only: Callable[[Target], bool] | None = None) -> Iterator[list[Ticket]]:
        """Look at ``to`` now; send, and yield the tickets, as many at once as were written at once.

        ``only`` is asked about each token as it is read; the others are skipped as ``transferred``.
        """
        if not self.result.dry_run:
            _warn_in_transaction()
        source = pages(to, self.using, self.result.skipped)
        return self._told(source if only is None else self._narrowed(source, only))

    def _narrowed(self, source: Iterator[Page], only: Callable[[Target], bool]) -> Iterator[Page]:
        for page in source:
            kept = [target for target in page.targets if only(target)]
            if len(kept) < len(page.targets):
                self.result.skipped["transferred"] += len(page.targets) - len(kept)
            page.targets = kept
            yield page

    def tickets(self, told: Iterator[list[Ticket]]) -> Iterator[Ticket]:
        """Yield the tickets one by one; closing this closes the source."""
        with contextlib.closing(told):  # type: ignore[type-var]  # _told is a generator
            for tickets in told:
                yield from tickets

    def _told(self, source: Iterator[Page]) -> Iterator[list[Ticket]]:
        try:
            for alias, stretch in itertools.groupby(source, key=attrgetter("alias")):
                if alias:
                    yield from self._lane(alias).send(stretch)
                else:
                    yield from map(self._no_recipients, stretch)
            yield from self._tried_again()
        except BaseException:  # the listener has left, Ctrl-C, a time limit, the database
            for lane in self.lanes.values():
                lane.stop()
            raise
        finally:
            logger.info("push: %s (%s)", self.result, self.result.changes)

    def _tried_again(self) -> Iterator[list[Ticket]]:
        """Send what is to be sent again, when it is due, until nothing is left."""
        while waiting := [lane for lane in self.lanes.values() if lane.due is not None]:
            lane = min(waiting, key=attrgetter("due"))
            time.sleep(max(0.0, (lane.due or 0.0) - time.monotonic()))
            yield from lane.send(iter(()))

    def _lane(self, alias: str) -> Lane:
        lane = self.lanes.get(alias)
        if lane is None:
            channel = self.channels[alias]
            lane = self.lanes[alias] = Lane(channel, self.texts, self.policy, self.result)
        return lane

    def _no_recipients(self, page: Page) -> list[Ticket]:
        for ticket in page.tickets:
            self.result.add(ticket)
        return page.tickets


def _policy(retry_budget: float | None) -> RetryPolicy:
    if retry_budget is None:
        return DEFAULT_POLICY
    if not isinstance(retry_budget, (int, float)) or not retry_budget >= 0:
        raise ValueError("retry_budget must be a number of seconds, 0 or more.")
    return RetryPolicy(budget=retry_budget, attempts=UNLIMITED)


def _channels(using: str | None) -> dict[str, Channel]:
    """Return the channels in question, so that what is wrong with their settings is raised now."""
    aliases = push_backends if using is None else [using]
    return {alias: push_backends.channel(alias) for alias in aliases}


def _warn_in_transaction() -> None:
    """Warn that a rollback would forget the verdicts of pushes that are out."""
    blocks = connections[router.db_for_write(get_token_model())].atomic_blocks
    if any(not getattr(block, "_from_testcase", False) for block in blocks):
        warnings.warn(
            "send_push inside transaction.atomic: a rollback would forget what became of the "
            "tokens. Use enqueue_push, which sends after the commit.",
            RuntimeWarning,
            stacklevel=4,  # _warn_in_transaction, told, send_push or iter_push, and who called that
        )
