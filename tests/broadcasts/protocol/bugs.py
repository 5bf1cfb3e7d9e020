"""Planted bugs, each in the model and in the real engine, and the promises that it breaks."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

from django.db import transaction

from django_push.broadcasts import claims, results, rows
from django_push.models import BatchStatus, LaneStatus
from tests.broadcasts.protocol.model import Model
from tests.broadcasts.protocol.words import UNKNOWN


@dataclass(frozen=True)
class Bug:
    model: type[Model]
    engine: Callable[[], AbstractContextManager]
    #: The promises one of which is seen to be broken first.
    breaks: str


# --- in the model ---------------------------------------------------------------------------------


class NoCap(Model):
    def most_sends(self):
        return 10**6


class UnknownIsUnsent(Model):
    def is_refused(self, word):
        return word == UNKNOWN or super().is_refused(word)


class NeverReclaimed(Model):
    def again(self):
        return ("retry",)


class NoTimeGuard(Model):
    def is_dead_for(self, token, held):
        return True


class NoFence(Model):
    def is_ours(self, held):
        return True


class FenceOnStatusAlone(Model):
    def is_ours(self, held):
        return self.batches[held.batch].status == "leased"


class CursorFirst(Model):
    def claim(self, alias, dies=False):
        lane = self.lanes[alias]
        if not dies or self.setup.is_list or lane.is_read or not self.is_open(lane) or self._due(alias):
            return super().claim(alias, dies)
        self._move(lane, self._page(alias, lane))
        with self.transaction(dies):
            return None


class CursorStays(Model):
    def _move(self, lane, page):
        cursor = lane.cursor
        super()._move(lane, page)
        lane.cursor = cursor


class SplitNotShrunk(Model):
    def _shrink(self, batch, by):
        pass


class PauseUnheeded(Model):
    def is_open(self, lane):
        return lane.status in ("running", "paused")


# --- in the engine --------------------------------------------------------------------------------


@contextmanager
def _no_cap():
    endless = mock.Mock(return_value=10**6)
    with mock.patch.object(claims, "most_sends", endless), mock.patch.object(results, "most_sends", endless):
        yield


def _unknown_is_unsent():
    record = results.record

    def careless(broadcast, held, result):
        result.refused += result.unknown
        result.unknown = []
        return record(broadcast, held, result)

    return mock.patch.object(results, "record", careless)


def _no_time_guard():
    apply = results.tokens.apply

    def timeless(told, sent_at, **about):
        return apply(told, rows.moment(), **about)

    return mock.patch.object(results, "tokens", mock.Mock(apply=timeless))


def _no_fence(**guard):
    def any_of(held):
        return rows.batches().filter(pk=held.batch, **guard)

    class Unfenced:
        """The rows of a batch, whatever is asked of them besides."""

        def __init__(self, held):
            self.found = any_of(held)

        def filter(self, **about):
            return self

        def update(self, **changes):
            return self.found.update(**changes)

        def exists(self):
            return self.found.exists()

        def first(self):
            return self.found.first()

    return mock.patch.object(results, "_ours", Unfenced)


def _cursor_first():
    claim_next = claims._claim_next

    def hasty(broadcast, lane, count, now, until):
        """Move the cursor in a transaction of its own: what comes after may fail alone."""
        if lane.is_read or broadcast.audience.get("kind") == "list":
            return claim_next(broadcast, lane, count, now, until)
        page = claims._page(broadcast, lane, count)
        last = page[-1][0] if page else lane.cursor
        lane.is_read = len(page) < count
        rows.lanes().filter(pk=lane.pk).update(cursor=last, is_read=lane.is_read)
        _commit_what_there_is()
        targets = [claims._target(row) for row in page]
        return claims._insert(lane, targets, now, until) if targets else None

    return mock.patch.object(claims, "_claim_next", hasty)


def _commit_what_there_is():
    """Commit the savepoint that a claim is in here, so that dying undoes nothing before it."""
    connection = transaction.get_connection()
    name = connection.savepoint_ids[-1]
    connection._savepoint_commit(name)
    connection._savepoint(name)


def _cursor_stays():
    claim_next = claims._claim_next

    def forgetful(broadcast, lane, *args):
        found = claim_next(broadcast, lane, *args)
        rows.lanes().filter(pk=lane.pk).update(cursor=lane.cursor)
        return found

    return mock.patch.object(claims, "_claim_next", forgetful)


def _pause_unheeded():
    claim = claims.claim

    def careless(broadcast, lane, *args):
        """Claim as if nobody had paused the lane."""
        here = rows.lanes().filter(pk=lane)
        was_paused = here.filter(status=LaneStatus.PAUSED).update(status=LaneStatus.RUNNING)
        found = claim(broadcast, lane, *args)
        if was_paused:
            here.filter(status=LaneStatus.RUNNING).update(status=LaneStatus.PAUSED)
        return found

    return mock.patch.object(claims, "claim", careless)


BUGS = {
    "no cap": Bug(NoCap, _no_cap, "cap"),
    "unknown taken for unsent": Bug(UnknownIsUnsent, _unknown_is_unsent, "cap|doubled|cancelled"),
    "leases never reclaimed": Bug(
        NeverReclaimed, partial(mock.patch.object, claims, "_AGAIN", (BatchStatus.RETRY,)), "ends"
    ),
    "no time guard": Bug(NoTimeGuard, _no_time_guard, "guard"),
    "no fence": Bug(NoFence, _no_fence, "fence|once"),
    "fence on the status alone": Bug(
        FenceOnStatusAlone, partial(_no_fence, status=BatchStatus.LEASED), "fence"
    ),
    "cursor moved before the claim": Bug(CursorFirst, _cursor_first, "coverage"),
    "cursor not moved": Bug(CursorStays, _cursor_stays, "disjoint|conservation|ends"),
    "split counted wrongly": Bug(
        SplitNotShrunk,
        partial(mock.patch.object, results._Split, "shrunk", lambda self, held: {}),
        "conservation",
    ),
    "pause not heeded": Bug(PauseUnheeded, _pause_unheeded, "stopped"),
}
