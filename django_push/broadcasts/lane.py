"""One drainer's work on one lane: requests out, replies in, results recorded batch by batch."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import InterfaceError, OperationalError, connections
from django.db.models import F, Sum
from django.utils.module_loading import import_string

from django_push.backends.base import Verdict
from django_push.broadcasts import breaker, control
from django_push.broadcasts.claims import GRACE, Claim, Idle, claim
from django_push.broadcasts.quota import LOOK, Every, Quota
from django_push.broadcasts.results import Result, record, record_progress, renew
from django_push.broadcasts.rows import batches, database, lanes, moment
from django_push.exceptions import InvalidAudience, InvalidPushBackend
from django_push.handler import Channel, push_backends
from django_push.message import PushMessage
from django_push.models import COUNTED, Broadcast, LaneStatus, PauseReason, instant
from django_push.outcomes import Outcome, Target, Ticket
from django_push.sending.texts import DOUBT_FROM, DOUBT_SHARE, Texts, tagged
from django_push.wake import schedule_receipt_check
from django_push.wire import Parsed, Reply, Request

logger = logging.getLogger("django_push")

#: How often the verdicts of a batch that is still out are written. Seconds.
FLUSH = 1.0
#: A shorter wait for quota is not worth letting connections stand idle. Seconds.
SHORT = 0.05
#: How often a lane is looked at in which others work. Seconds.
POLL = 2.0
#: A 429 without a Retry-After, and the least and the longest that is believed: then the provider is
#: asked again. A date that is past by our clock, or 0, would be none at all.
DEFAULT_BLOCK, LEAST_BLOCK, LONGEST_BLOCK = 60.0, 1.0, 3600.0
#: A lane is left alone for so long after GRACE batches without an answer, doubled with each up to the
#: last. Seconds.
FIRST_HOLD, LAST_HOLD = 5.0, 300.0
#: After so many, which takes eight hours or more, it is paused, until somebody has looked.
MOST_MISSES = 100
#: How many request deadlines a lease lasts, and how many must be left of it for a request to go out:
#: it may wait for a connection and for its Authorization before its own time begins.
LEASE, LEAST_LEFT = 5.0, 3.0

_REFUSED = (
    Outcome.RATE_LIMITED,
    Outcome.UNAVAILABLE,
    Outcome.NOT_SENT,
    Outcome.CREDENTIALS_REJECTED,
)
#: These do not show that the provider is there.
_SILENT = (Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.UNAVAILABLE)
_UNSAID = Verdict(Outcome.UNKNOWN, "NoVerdict")


@dataclass(slots=True, eq=False)
class _Open:
    """A claim that is being sent to."""

    claim: Claim
    requests: Iterator[Request]
    result: Result
    out: int = 0
    is_handed_out: bool = False
    is_lost: bool = False
    written_at: float = field(default_factory=time.monotonic)
    answered: bool = False


class LaneDrainer:
    """Serves one lane. ``ready_at`` is when there is something to do, by the monotonic clock."""

    def __init__(
        self,
        broadcast: Broadcast,
        pk: int,
        channel: Channel,
        texts: Texts,
        is_stopped: Callable[[], bool],
        watch: Callable[[], None],
    ) -> None:
        self.broadcast = broadcast
        self.pk = pk
        self.channel = channel
        self.backend = channel.backend
        self.alias = self.backend.alias
        self.texts = texts
        self.is_told_to_stop = is_stopped
        self.watch = watch
        self.lease = LEASE * self.backend.timeout
        self.quota = Quota(broadcast, channel)
        #: Fresh tokens first, but for once a second.
        self.is_turn_of_again = Every(LOOK)
        self.ready_at = 0.0
        #: When there is something to do for sure; before that we look whether others have done it.
        self.due_at = 0.0
        self.ends = 0.0
        #: When the broadcast's time runs out, by the monotonic clock.
        self.expires = _expires(broadcast)
        #: How many tokens were composed for, and how many of these were malformed.
        self.composed = self.malformed = 0
        self.is_over = False
        self.is_stopped = False
        self.current: _Open | None = None
        self.again: deque[tuple[_Open, Request]] = deque()
        self.out: dict[Request, _Open] = {}
        #: What could not be written because the database was lost.
        self.unwritten: deque[_Open] = deque()
        self.logged: set[str] = set()

    @classmethod
    def of(
        cls,
        broadcast: Broadcast,
        pk: int,
        alias: str,
        message: PushMessage,
        translations: Mapping[str, PushMessage],
        is_stopped: Callable[[], bool],
        watch: Callable[[], None],
    ) -> LaneDrainer | None:
        """Return a lane's drainer; None, and the lane is paused, if it cannot be served."""
        try:
            channel = push_backends.channel(alias)
        except InvalidPushBackend as error:
            control.pause_lane(broadcast, alias, PauseReason.BACKEND, str(error))
            return None
        try:
            personalize = import_string(broadcast.personalize) if broadcast.personalize else None
            backend, tag = channel.backend, f"broadcast-{broadcast.pk}"
            spoken = {language: tagged(said, tag, backend) for language, said in translations.items()}
            said = tagged(message, tag, backend)
            texts = Texts(said, [backend], personalize, spoken, is_checked=True)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:  # the site's module may raise anything when it is imported
            logger.exception("broadcast %s, %r: it cannot be said", broadcast.pk, alias)
            control.pause_lane(broadcast, alias, PauseReason.MESSAGE, f"{type(error).__name__}: {error}")
            return None
        return cls(broadcast, pk, channel, texts, is_stopped, watch)

    # --- the loop ---------------------------------------------------------------------------------

    def drain(self, ends: float) -> None:
        """Claim, send and record until ``ends``, or until there is nothing to do now."""
        self.ends = ends
        self._write_rest()
        self._exchange()
        while self.again:  # the last replies have asked for another form
            self._exchange()
        self._write_rest()

    def _exchange(self) -> None:
        for request, reply in self.channel.exchange(self._requests()):
            try:
                self._absorb(request, reply)
            except (OperationalError, InterfaceError):
                self.is_stopped = True  # but listen to what is out; the conclusion will be drawn again
            self.watch()

    @property
    def has_rest(self) -> bool:
        """Whether something is claimed that is neither sent nor written: an error came between."""
        return bool(self.current or self.again or self.unwritten)

    @property
    def next_at(self) -> float:
        """When it wants to be served: at once if there is something left to write."""
        return 0.0 if self.has_rest else self.ready_at

    def close(self) -> None:
        """Give quota back that was reserved and is not used."""
        self.quota.give_back(self.quota.size)

    @property
    def _is_stopping(self) -> bool:
        return self.is_stopped or self.is_told_to_stop()

    # --- out --------------------------------------------------------------------------------------

    def _requests(self) -> Iterator[Request]:
        while (request := self._next()) is not None:
            yield request

    def _next(self) -> Request | None:
        """Return what to send next; None if there is nothing to send now."""
        while True:
            if time.monotonic() >= self.expires:
                self.is_stopped = self.is_over = True  # whoever looks around next says why
            if self.again:
                again, request = self.again.popleft()
                if self._may_go(again, request):
                    return self._sent(again, request)
                continue
            if self.current is None and not self._open_next():
                return None
            opened = self.current
            assert opened is not None
            request_ = None if self._is_stopping else self._built(opened)
            if request_ is None:
                self._hand_out(opened)
            elif self._may_go(opened, request_):
                return self._sent(opened, request_)

    def _built(self, opened: _Open) -> Request | None:
        """Return the batch's next request; None if there is none, or if the backend cannot build it."""
        try:
            return next(opened.requests, None)
        except Exception as error:  # noqa: BLE001 - logged there; a backend may raise anything
            opened.requests = iter(())
            opened.result.unsent += self._unbuilt(opened)
            self._break_off(error)
            return None

    def _unbuilt(self, opened: _Open) -> list[Target]:
        """Return the targets of a batch for which there has been no request yet."""
        result = opened.result
        known = {ticket.pk for ticket in (*result.final, *result.refused, *result.unknown)}
        known |= {target.pk for target in result.unsent}
        waiting = [*((o, request) for request, o in self.out.items()), *self.again]
        known |= {target.pk for o, request in waiting if o is opened for target in request.targets}
        left = opened.claim.pending.keys() - known
        return [target for target in opened.claim.targets if target.pk in left]

    def _break_off(self, error: Exception) -> None:
        """Something of the site's or of a backend fails: pause the lane, and hand back what was claimed."""
        logger.exception("broadcast %s, %r: it cannot be said", self.broadcast.pk, self.alias)
        self._pause(PauseReason.MESSAGE, type(error).__name__)

    def _sent(self, opened: _Open, request: Request) -> Request:
        opened.out += 1
        self.out[request] = opened
        return request

    def _may_go(self, opened: _Open, request: Request) -> bool:
        """Whether a request may go out. If not it is unsent, or its batch is no longer ours."""
        try:
            is_held = self._is_held(opened)
        except (OperationalError, InterfaceError):
            self.again.appendleft((opened, request))  # it goes out when the database is back
            raise
        if is_held and self._is_stopping:  # perhaps because a cancel was just found
            opened.result.unsent += request.targets
            self._close_if_done(opened)
            return False
        return is_held

    def _is_held(self, opened: _Open) -> bool:
        """Whether the batch is still ours for as long as a request may take; else drop the rest of it."""
        left = opened.claim.lease_ends - time.monotonic()
        if not opened.is_lost and left < LEAST_LEFT * self.backend.timeout:
            self._stop_if_cancelled()
            opened.is_lost = not renew(opened.claim, self.lease)
        if opened.is_lost and opened is self.current:
            logger.warning("broadcast %s: batch %s was taken over", self.broadcast.pk, opened.claim.batch)
            self.current = None
        return not opened.is_lost

    def _stop_if_cancelled(self) -> None:
        """Let no more of a batch go out that is slow, or was frozen, if its lane was cancelled since."""
        if lanes().filter(pk=self.pk, status=LaneStatus.CANCELLED).exists():
            self.is_stopped = self.is_over = True

    def _open_next(self) -> bool:
        """Claim the next batch, if there is one and it may be sent now."""
        if self._is_stopping or self.is_over or self.unwritten:
            return False
        if time.monotonic() >= self.ends or not self._has_quota():
            return False
        try:
            again_first = self.is_turn_of_again()
            found = claim(self.broadcast, self.pk, self.quota.size, self.lease, again_first=again_first)
        except InvalidAudience as error:
            self._pause(PauseReason.AUDIENCE, str(error))
            return False
        if isinstance(found, Idle):
            self._rest(found)
            return False
        self.current = self._opened(found)
        self.quota.give_back(self.quota.size - len(found.targets))
        return self.current is not None

    def _has_quota(self) -> bool:
        """Whether there is quota for a batch; False if it must be waited for first."""
        wait = self.quota.wait()
        if wait <= SHORT:
            time.sleep(max(0.0, wait))
            return True
        self.ready_at = self.due_at = time.monotonic() + wait
        return False

    def _rest(self, idle: Idle) -> None:
        """There is nothing to claim: for a while, or for good."""
        self.close()
        if idle.wait is None:
            self.is_over = True
        elif not self.out:  # else what is out is ours, and will be done at once
            self.due_at = time.monotonic() + idle.wait
            self.ready_at = time.monotonic() + min(idle.wait, POLL)

    def _opened(self, found: Claim) -> _Open | None:
        """Return what a claim is to say; None, and it goes back as it is, if that cannot be told."""
        try:
            groups, refused = self.texts.compose(found.targets, self.backend)
            requests = self.backend.build(groups)
        except Exception as error:
            unsent = Result(unsent=list(found.targets))
            self.unwritten.append(_Open(found, iter(()), unsent, is_handed_out=True))
            if isinstance(error, (OperationalError, InterfaceError)):
                raise
            self._break_off(error)
            return None
        result = Result(final=self._doubted(found, refused), has_receipts=self.backend.has_receipts)
        return _Open(found, requests, result)

    def _doubted(self, found: Claim, refused: list[Ticket]) -> list[Ticket]:
        """Spare rows whose tokens are malformed in numbers, over batches too small to show it."""
        self.composed += len(found.targets)
        self.malformed += sum(ticket.outcome is Outcome.INVALID_TOKEN for ticket in refused)
        if self.malformed < max(DOUBT_FROM, DOUBT_SHARE * self.composed):
            return refused
        return [
            dataclasses.replace(ticket, outcome=Outcome.REJECTED)
            if ticket.outcome is Outcome.INVALID_TOKEN
            else ticket
            for ticket in refused
        ]

    def _hand_out(self, opened: _Open) -> None:
        """All of a batch is out, or nothing more of it is to go out."""
        if self._is_stopping:
            opened.result.unsent += self._unbuilt(opened)
        opened.is_handed_out = True
        self.current = None
        self._close_if_done(opened)

    # --- and back ---------------------------------------------------------------------------------

    def _absorb(self, request: Request, reply: Reply) -> None:
        opened = self.out.pop(request)
        opened.out -= 1
        parsed = self.backend.parse(request, reply)
        if parsed.refresh_auth:
            self.channel.renew_credentials()
        for again in parsed.resend:
            if self._is_stopping:
                opened.result.unsent += again.targets
            else:
                self.again.append((opened, again))
        said = self._sort(opened, request, parsed)
        if not self._close_if_done(opened):
            self._flush(opened)
        self._listen(said)

    def _sort(self, opened: _Open, request: Request, parsed: Parsed) -> dict[Outcome, Ticket]:
        """Put tickets where they belong; return one of each outcome."""
        result = opened.result
        said: dict[Outcome, Ticket] = {}
        for ticket in self._each_once(request, parsed):
            outcome = ticket.outcome
            said.setdefault(outcome, ticket)
            if outcome in _REFUSED:
                result.refused.append(ticket)
                result.wait = max(result.wait, min(ticket.retry_after or 0.0, LONGEST_BLOCK))
            elif outcome is Outcome.UNKNOWN:
                result.unknown.append(ticket)
            else:
                result.final.append(ticket)
        if parsed.resend or any(outcome not in _SILENT for outcome in said):
            opened.answered = True
        return said

    def _each_once(self, request: Request, parsed: Parsed) -> Iterator[Ticket]:
        """Yield a ticket for each target that is not sent again; unknown, if a backend says nothing of it.

        By their contract backends say one thing of each target, and nothing of others.
        """
        if not parsed.resend and [t.target for t in parsed.tickets] == request.targets:
            yield from parsed.tickets
            return
        # By key: a target that is sent again may know its project by now.
        told = {ticket.pk: ticket for ticket in parsed.tickets}
        again = {target.pk for resent in parsed.resend for target in resent.targets}
        for target in request.targets:
            if target.pk not in again:
                yield told.get(target.pk) or self.backend.ticket(target, _UNSAID)

    def _listen(self, said: Mapping[Outcome, Ticket]) -> None:
        """Heed what the provider says of us, not of a token."""
        if (ticket := said.get(Outcome.CREDENTIALS_REJECTED)) is not None:
            self._pause(PauseReason.CREDENTIALS, f"{ticket.code} {ticket.detail}")
        if (ticket := said.get(Outcome.PROVIDER_SETUP)) is not None and ticket.code not in self.logged:
            self.logged.add(ticket.code)
            logger.error("%r: %s: check the project's setup at the provider", self.backend, ticket.code)
        if (ticket := said.get(Outcome.RATE_LIMITED)) is not None and ticket.about_project:
            self.is_stopped = True  # what is claimed goes back, rather than wait with a lease
            asked = DEFAULT_BLOCK if ticket.retry_after is None else ticket.retry_after
            self.quota.block(min(max(asked, LEAST_BLOCK), LONGEST_BLOCK))

    def _close_if_done(self, opened: _Open) -> bool:
        """Record a batch of which nothing is out any more; whether there is none."""
        if opened.out or not opened.is_handed_out or any(o is opened for o, _ in self.again):
            return False
        if not opened.is_lost:
            self._write(opened)
        return True

    def _flush(self, opened: _Open) -> None:
        """Write what is known of a batch that is still out, once a second."""
        now = time.monotonic()
        if opened.is_lost or not opened.result.final or now - opened.written_at < FLUSH:
            return
        opened.written_at = now
        try:
            opened.is_lost = not record_progress(self.broadcast, opened.claim, opened.result, self.lease)
            self._stop_if_cancelled()
        except (OperationalError, InterfaceError):
            self.is_stopped = True  # it is written with the rest, when the database is back

    def _write(self, opened: _Open) -> None:
        try:
            is_ours = record(self.broadcast, opened.claim, opened.result)
        except (OperationalError, InterfaceError):
            if connections[database()].in_atomic_block:
                raise
            self.unwritten.append(opened)
            return
        if is_ours:
            self._heed(opened)
        else:
            logger.warning(
                "broadcast %s: batch %s was taken over; its result is not counted",
                self.broadcast.pk,
                opened.claim.batch,
            )

    def _write_rest(self) -> None:
        """Write what could not be written. Raises OperationalError while the database is lost."""
        while self.unwritten:
            if not connections[database()].in_atomic_block:  # else it would be closed, being in somebody's
                connections[database()].close_if_unusable_or_obsolete()
            opened = self.unwritten[0]
            is_ours = record(self.broadcast, opened.claim, opened.result)
            self.unwritten.popleft()
            if is_ours:
                self._heed(opened)
        self.is_stopped = False

    # --- conclusions ------------------------------------------------------------------------------

    def _heed(self, opened: _Open) -> None:
        """Conclude from a recorded batch whether the lane can go on as it does."""
        if opened.result.has_receipts and opened.claim.counts[Outcome.ACCEPTED.value]:
            schedule_receipt_check()
        if opened.answered:
            if opened.claim.misses:
                lanes().filter(pk=self.pk).update(misses=0, hold_until=None)
        elif opened.result.unknown or opened.result.refused:
            self._miss(opened)
        elif opened.claim.misses >= GRACE:  # nobody was asked, so nobody needs to wait for the answer
            lanes().filter(pk=self.pk, misses=opened.claim.misses).update(hold_until=None)
        bad = breaker.verdict(opened.claim.counts)
        if bad is not None:
            self._break(bad)

    def _miss(self, opened: _Open) -> None:
        """The provider did not answer: leave the lane alone for a while, and pause it in the end."""
        before = opened.claim.misses
        code = next(iter((*opened.result.unknown, *opened.result.refused))).code
        if before >= MOST_MISSES:
            self._pause(PauseReason.PROVIDER_DOWN, code)
            return
        lane = lanes().filter(pk=self.pk)
        # Batches that are out together are one outage: they lead to the first hold, and no further.
        if before < GRACE and lane.filter(misses__lt=GRACE - 1).update(misses=F("misses") + 1):
            return
        misses = max(before + 1, GRACE)
        hold = min(FIRST_HOLD * 2.0 ** min(misses - GRACE, 30), LAST_HOLD)
        until = moment() + timedelta(seconds=hold)
        if lane.filter(misses=misses - 1).update(misses=misses, hold_until=until):
            said = "broadcast %s, %r: %d times no answer (%s); the provider is asked again in %d s"
            logger.warning(said, self.broadcast.pk, self.alias, misses, code, hold)

    def _break(self, reason: PauseReason) -> None:
        """A batch looks bad: pause the lane if all of it does, unless somebody has resumed it since."""
        lane = lanes().filter(pk=self.pk, is_trusted=False, status=LaneStatus.RUNNING)
        if not lane.exists():
            return
        sums = batches().filter(lane_id=self.pk).aggregate(**{name: Sum(name) for name in COUNTED})
        if (bad := breaker.verdict(sums, least=breaker.LEAST)) is not None:
            share = breaker.describe(sums, bad)
            self._pause(bad, share)

    def _pause(self, reason: PauseReason, detail: str) -> None:
        self.is_stopped = self.is_over = True
        control.pause_lane(self.broadcast, self.alias, reason, detail)


def _expires(broadcast: Broadcast) -> float:
    if broadcast.expires_at is None:
        return float("inf")
    left = instant(broadcast.expires_at, database()) - moment()
    return time.monotonic() + left.total_seconds()
