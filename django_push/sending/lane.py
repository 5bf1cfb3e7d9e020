"""One alias's part of a call: requests out, replies in, what may be tried again, verdicts written.

The only place that retries: per token, only where the outcome says so.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django_push import receipts, tokens
from django_push.backends.base import Verdict
from django_push.handler import Channel
from django_push.outcomes import Outcome, PushResult, Ticket
from django_push.recipients import Page
from django_push.retry import RetryPolicy
from django_push.sending.texts import Texts
from django_push.wire import Group, Parsed, Reply, Request

logger = logging.getLogger("django_push")

#: Verdicts are written when so many have come together, and at the end.
FLUSH = 1000
#: With so many verdicts that wait, nothing more is read before they are written.
MOST_WAITING = 2 * FLUSH
#: After so many requests in a row without a provider's answer, it is given time to recover, and then
#: asked with one request at a time; if it does not within the retry budget, the rest is not tried.
GIVE_UP_AFTER = 20
#: How many keys a log line names.
MOST_LOGGED = 100

#: In ``ended``: nothing of the alias is sent any more, whatever the Expo project.
ALL = ""
#: Outcomes that do not show that the provider is there.
_SILENT = (Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.UNAVAILABLE)
_DOWN = Verdict(Outcome.NOT_SENT, "ProviderDown", "too many requests before it were not answered")


@dataclass(frozen=True, slots=True)
class _Try:
    """When the tokens of a request were read, since when they are sent to, and how often they were."""

    sent_at: datetime
    started: float
    attempt: int = 1


class _Later(NamedTuple):
    """What is to be tried again: when, a tie-breaker, the verdicts so far, and how."""

    due: float
    order: int
    tickets: list[Ticket]
    groups: list[Group]
    last: _Try


class Lane:
    """What one call sends through one alias. ``send`` may be called again and again."""

    def __init__(self, channel: Channel, texts: Texts, policy: RetryPolicy, result: PushResult) -> None:
        self.channel = channel
        self.backend = channel.backend
        self.texts = texts
        self.policy = policy
        self.result = result
        self.pages: Iterator[Page] = iter(())
        self.is_read = True
        self.building: Iterator[Request] = iter(())
        self.exchange: Iterator[tuple[Request, Reply | None]] = iter(())
        self.tries: dict[Request, _Try] = {}
        #: Regrouped or due again; these go before what is fresh.
        self.ready: deque[Request] = deque()
        self.later: list[_Later] = []
        self.order = itertools.count()
        #: Verdicts that wait to be written, by the time they count from.
        self.verdicts: dict[datetime, list[Ticket]] = {}
        self.waiting = 0
        #: Why nothing more is sent, by Expo project.
        self.ended: dict[str, Verdict] = {}
        self.is_stopped = False
        #: What reading the recipients raised; it must not cost the verdicts of what is in flight.
        self.error: BaseException | None = None
        #: Requests in a row that were not answered, pauses made for it, and since when.
        self.misses = 0
        self.pauses = 0
        self.silent_since = 0.0
        #: Until when nothing is sent, because the project is over its rate or the provider is down.
        self.hold_until = 0.0
        self.logged: set[str] = set()

    # --- the loop ---------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When something is to be tried again, by the monotonic clock; None: there is nothing."""
        return max(self.later[0].due, self.hold_until) if self.later else None

    def send(self, pages: Iterator[Page]) -> Iterator[list[Ticket]]:
        """Send to these pages, and again to what is due; what is due later waits for another call."""
        self.pages, self.is_read = pages, False
        while True:
            self.exchange = self._exchange()
            for request, reply in self.exchange:
                self._absorb(request, reply)
                if self.waiting >= FLUSH:
                    yield from self._written()
            if self.error is not None:
                self._settle()
            yield from self._written()
            if self.error is not None:
                raise self.error
            if self.is_read and not self.ready:
                return
            time.sleep(max(0.0, self._hold()))

    def stop(self) -> None:
        """Send nothing more; await what is in flight, and write every verdict there is."""
        self.is_stopped = True
        try:
            for request, reply in self.exchange:
                self._absorb(request, reply)
            self._settle()
            for _ in self._written():
                pass
        except Exception:
            told = [ticket for tickets in self.verdicts.values() for ticket in tickets]
            dead = [ticket.pk for ticket in told if ticket.outcome.is_dead][:MOST_LOGGED]
            logger.exception("push: %d verdicts could not be written; dead: %s", len(told), dead)

    def _exchange(self) -> Iterator[tuple[Request, Reply | None]]:
        if self.result.dry_run:
            return ((request, None) for request in self._requests())
        return self.channel.exchange(self._requests())

    # --- out --------------------------------------------------------------------------------------

    def _requests(self) -> Iterator[Request]:
        while (request := self._next()) is not None:
            yield request
            if self.misses >= GIVE_UP_AFTER:
                return  # one at a time until the provider answers again

    def _next(self) -> Request | None:
        """Return what to send next; None if there is nothing to send now."""
        try:
            while not self.is_stopped and self._hold() <= 0 and self.waiting < MOST_WAITING:
                request = self._again() or next(self.building, None)
                if request is None:
                    if not self._turn_page():
                        return None
                elif (verdict := self._why_not(request)) is None:
                    return request
                else:
                    self._refuse(request, verdict)
        except BaseException as error:  # noqa: BLE001 - raised again once what is out is written
            self.error = error
            self.is_stopped = True
        return None

    def _again(self) -> Request | None:
        """Return a request that is to be sent before what is fresh."""
        if not self.ready and self.later and self.later[0].due <= time.monotonic():
            again = heapq.heappop(self.later)
            attempt = dataclasses.replace(again.last, attempt=again.last.attempt + 1)
            for request in self.backend.build(again.groups):
                self._make_ready(request, attempt)
        return self.ready.popleft() if self.ready else None

    def _make_ready(self, request: Request, attempt: _Try) -> None:
        self.tries[request] = attempt
        self.ready.append(request)

    def _turn_page(self) -> bool:
        """Begin the next page; whether there was one."""
        page = next(self.pages, None)
        if page is None:
            self.is_read = True
            return False
        assert page.sent_at is not None
        groups, refused = self.texts.compose(page.targets, self.backend)
        self._note(refused, page.sent_at)
        for message, targets in groups:
            for name in message.said - self.backend.fields:
                self.result.left_out[name] += len(targets)
        self.building = self._built(groups, page.sent_at)
        return True

    def _built(self, groups: Sequence[Group], sent_at: datetime) -> Iterator[Request]:
        for request in self.backend.build(groups):
            self.tries[request] = _Try(sent_at, time.monotonic())
            yield request

    def _hold(self) -> float:
        """Return the seconds for which nothing is to be sent."""
        return self.hold_until - time.monotonic()

    def _why_not(self, request: Request) -> Verdict | None:
        """Return why the sends to the request's project have ended, or None."""
        if not self.ended:
            return None
        return self.ended.get(ALL) or self.ended.get(request.targets[0].project)

    def _refuse(self, request: Request, verdict: Verdict) -> None:
        told = [self.backend.ticket(target, verdict) for target in request.targets]
        if verdict.retry_after is not None:
            told = [dataclasses.replace(ticket, retry_after=verdict.retry_after) for ticket in told]
        self._note(told, self.tries.pop(request).sent_at)

    # --- and back ---------------------------------------------------------------------------------

    def _absorb(self, request: Request, reply: Reply | None) -> None:
        """Read a reply: keep its verdicts, and put aside what is to be sent again."""
        if reply is None:  # a dry run
            self._refuse(request, Verdict(Outcome.PLANNED))
            return
        last = self.tries.pop(request)
        parsed = self.backend.parse(request, reply)
        if parsed.refresh_auth:
            self.channel.renew_credentials()
        for again in parsed.resend:
            self._make_ready(again, last)
        accepted = [ticket for ticket in parsed.tickets if ticket.outcome is Outcome.ACCEPTED]
        self._note(accepted, last.sent_at)
        if len(accepted) < len(parsed.tickets):
            failed = [ticket for ticket in parsed.tickets if ticket.outcome is not Outcome.ACCEPTED]
            self._note(self._not_again(request, failed, last), last.sent_at)
        self._listen(parsed)
        if ALL in self.ended:
            self._settle()

    def _not_again(self, request: Request, failed: Sequence[Ticket], last: _Try) -> list[Ticket]:
        """Put aside what is to be tried again, and return the verdicts that are final."""
        final: list[Ticket] = []
        aside: dict[float, list[Ticket]] = {}
        waits: dict[tuple[Outcome, float | None], float | None] = {}
        elapsed = time.monotonic() - last.started
        for ticket in failed:
            key = (ticket.outcome, ticket.retry_after)
            if key not in waits:
                waits[key] = self.policy.delay(ticket, attempt=last.attempt, elapsed=elapsed)
            wait = waits[key]
            self._heed(ticket, wait)
            if wait is None:
                final.append(ticket)
            else:
                aside.setdefault(wait, []).append(ticket)
        for wait, tickets in aside.items():
            self._try_again(request, tickets, wait, last)
        return final

    def _try_again(self, request: Request, tickets: list[Ticket], wait: float, last: _Try) -> None:
        wanted = {ticket.target for ticket in tickets}
        parts: list[Group] = [(m, [t for t in targets if t in wanted]) for m, targets in request.groups]
        groups = [group for group in parts if group[1]]
        due = time.monotonic() + wait
        heapq.heappush(self.later, _Later(due, next(self.order), tickets, groups, last))

    def _heed(self, ticket: Ticket, wait: float | None) -> None:
        """Draw the conclusions for the rest: ``wait`` is None if this ticket is final."""
        if ticket.outcome is Outcome.CREDENTIALS_REJECTED:
            self._log_once(ticket, "the provider refused our key")
            self._end(ticket)
        elif ticket.outcome is Outcome.PROVIDER_SETUP:
            self._log_once(ticket, "check the project's setup at the provider")
        elif ticket.outcome is Outcome.RATE_LIMITED and ticket.about_project:
            if wait is None:
                self._end(ticket)
            else:
                self.hold_until = max(self.hold_until, time.monotonic() + wait)

    def _end(self, ticket: Ticket) -> None:
        """Send nothing more to this project; the rest is told what this ticket says."""
        verdict = Verdict(ticket.outcome, ticket.code, ticket.detail, retry_after=ticket.retry_after)
        self.ended.setdefault(ticket.target.project or ALL, verdict)

    def _log_once(self, ticket: Ticket, advice: str) -> None:
        if ticket.code not in self.logged:
            self.logged.add(ticket.code)
            logger.error("%r: %s: %s", self.backend, ticket.code, advice)

    def _listen(self, parsed: Parsed) -> None:
        """Notice when the provider does not answer any more, and when it does again."""
        if parsed.resend or any(ticket.outcome not in _SILENT for ticket in parsed.tickets):
            self.misses = self.pauses = 0
            return
        if not self.misses:
            self.silent_since = time.monotonic()
        self.misses += 1
        if self.misses >= GIVE_UP_AFTER and self._hold() <= 0:
            self._let_recover(parsed.tickets[0])

    def _let_recover(self, ticket: Ticket) -> None:
        """Pause, or end the sends if the provider has been silent for the whole retry budget."""
        self.pauses += 1
        down = dataclasses.replace(ticket, outcome=_DOWN.outcome, retry_after=None)
        silent_for = time.monotonic() - self.silent_since
        wait = self.policy.delay(down, attempt=self.pauses, elapsed=silent_for)
        if wait is None:
            self.ended.setdefault(ALL, _DOWN)
        else:
            self.hold_until = time.monotonic() + wait

    def _settle(self) -> None:
        """Leave what was to be tried again at the verdicts that it has."""
        for later in self.later:
            self._note(later.tickets, later.last.sent_at)
        self.later.clear()

    # --- the verdicts -----------------------------------------------------------------------------

    def _note(self, told: Sequence[Ticket], sent_at: datetime) -> None:
        if told:
            self.verdicts.setdefault(sent_at, []).extend(told)
            self.waiting += len(told)

    def _written(self) -> Iterator[list[Ticket]]:
        """Write the verdicts that wait; yield those of one time when they are written."""
        while self.verdicts:
            sent_at, told = next(iter(self.verdicts.items()))
            if not self.result.dry_run:
                self.result.changes += tokens.apply(told, sent_at)
                if self.backend.has_receipts:
                    receipts.remember(told, sent_at)
            del self.verdicts[sent_at]
            self.waiting -= len(told)
            self.result.extend(told)
            yield told
