"""One push, from whom and what to a verdict on each token that is already written when it is told.

All sends go through here. The only place that retries: per token, only where the outcome says so.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, router, transaction
from django.utils.module_loading import import_string

from django_push import receipts, tokens
from django_push.backends.base import Verdict
from django_push.exceptions import InvalidMessage, InvalidToken, UnsupportedOption
from django_push.handler import Channel, push_backends
from django_push.message import Condition, PushMessage, Topic, language_for
from django_push.models import AbstractPushToken, get_token_model
from django_push.outcomes import Outcome, PushResult, Target, TargetKind, Ticket, cut
from django_push.recipients import Page, Recipients, pages
from django_push.retry import DEFAULT_POLICY, RetryPolicy
from django_push.wake import get_dispatcher
from django_push.wire import Group, Reply, Request

logger = logging.getLogger("django_push")

#: Verdicts are written when so many have come together, and at the end.
FLUSH = 1000
#: After so many requests in a row that a provider did not answer, it is given time to recover; if
#: nothing is left of the retry budget either, the rest is not tried.
GIVE_UP_AFTER = 20
#: The most tokens of one enqueue_push; a larger audience is a broadcast, or a job of your own.
ENQUEUE_LIMIT = 10_000

#: Given a token's row, returns the fields of the message that differ for it.
Personalize = Callable[[Any], Mapping[str, Any] | None]


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
    it each token has its own. ``personalize`` is given each token's row and returns the fields that
    differ for it. ``retry_budget`` is how many seconds to go on trying what may be tried again
    (default 8; 0: not at all). ``dry_run`` goes the whole way but sends and changes nothing.

    A failure of a token never raises; it is in the result. Raised before anything is sent:
    InvalidPushBackend for wrong settings, InvalidMessage, UnsupportedOption for a field that no
    backend in question can express, TypeError for something that is no recipient.
    """
    run = _Run(message, fields, using, dry_run, personalize, retry_budget)
    for _ in run.tickets(to):
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
    return _Run(message, fields, using, dry_run, personalize, retry_budget).tickets(to)


async def asend_push(to: Recipients, message: PushMessage | None = None, **options: Any) -> PushResult:
    """Send as ``send_push`` does, from async code; the work is done in the thread of sync code."""
    return await sync_to_async(send_push)(to, message, **options)


def enqueue_push(
    to: Recipients,
    message: PushMessage | None = None,
    *,
    using: str | None = None,
    personalize: str | None = None,
    **fields: Any,
) -> int:
    """Send after the transaction has committed, through PUSH_DISPATCHER; return how many tokens.

    What model signals should call. Recipients and message are resolved and checked now, and whether
    a token may be sent to once more when it runs. What is queued holds ids and the message, so a raw
    token must be registered. ``personalize`` is the dotted path of a function. An audience without
    tokens queues nothing. Raises as ``send_push`` does, InvalidToken for a raw token without a row
    and ValueError for more than 10,000 tokens.
    """
    differing = import_string(personalize) if personalize else None
    run = _Run(message, fields, using, False, differing, None)
    keys: dict[str, list[int]] = {}
    topics: list[tuple[str, str, str]] = []
    count = 0
    for page in pages(to, using, run.result.skipped):
        for ticket in page.tickets:
            raise InvalidToken(ticket.detail)
        for target in page.targets:
            if target.pk is None and target.is_token:
                raise InvalidToken("Register a token before enqueueing a push to it.")
            if target.pk is None:
                topics.append((page.alias, target.kind, target.value))
            else:
                keys.setdefault(run.language(target.locale), []).append(target.pk)
            count += 1
        if count > ENQUEUE_LIMIT:
            raise ValueError(f"enqueue_push takes at most {ENQUEUE_LIMIT} tokens; use iter_push.")
    if topics:
        keys.setdefault(run.language(""), [])
    payload = {
        "messages": {language: run.rendered(language).to_json() for language in keys},
        "tokens": keys,
        "topics": topics,
        "personalize": personalize,
    }
    if count:
        job = partial(get_dispatcher().enqueue, "send_push", payload)
        transaction.on_commit(job, using=_database(), robust=True)
    return count


def send_enqueued(payload: Mapping[str, Any]) -> PushResult:
    """Send what ``enqueue_push`` has queued: the job of the dispatchers."""
    run_result = PushResult()
    path = payload.get("personalize")
    personalize = import_string(path) if path else None
    rows = get_token_model()._base_manager.using(_database())
    for language, keys in payload["tokens"].items():
        message = PushMessage(**payload["messages"][language])
        for start in range(0, len(keys), FLUSH):
            found = rows.filter(pk__in=keys[start : start + FLUSH])
            _add(run_result, send_push(found, message, personalize=personalize))
    for alias, kind, value in payload["topics"]:
        message = next(PushMessage(**fields) for fields in payload["messages"].values())
        topic = Topic(value) if kind == TargetKind.TOPIC else Condition(value)
        _add(run_result, send_push(topic, message, using=alias))
    return run_result


def _add(total: PushResult, part: PushResult) -> None:
    for ticket in part:
        total.add(ticket)
    total.skipped += part.skipped
    total.left_out += part.left_out
    total.changes += part.changes


class _Run:
    """One call of send_push: everything that can be wrong with it is found in the constructor."""

    def __init__(
        self,
        message: PushMessage | None,
        fields: Mapping[str, Any],
        using: str | None,
        dry_run: bool,
        personalize: Personalize | None,
        retry_budget: float | None,
    ) -> None:
        if message is not None and (fields or not isinstance(message, PushMessage)):
            raise TypeError("Give a PushMessage, or the fields of one, not both.")
        self.message = message or _message(fields)
        self.using = using
        self.personalize = personalize
        self.policy = _policy(retry_budget)
        self.result = PushResult(dry_run=dry_run)
        self.channels = _channels(using)
        self._check_said(self.message)
        self.is_lazy = self.message.is_lazy
        self._rendered: dict[str, PushMessage] = {}

    def tickets(self, to: Recipients) -> Iterator[Ticket]:
        """Yield the tickets; ``to`` is looked at now, its tokens are read as the tickets are asked for."""
        if not self.result.dry_run:
            _warn_in_transaction()
        return self._tickets(pages(to, self.using, self.result.skipped))

    def _tickets(self, source: Iterator[Page]) -> Iterator[Ticket]:
        try:
            for alias, run in itertools.groupby(source, key=lambda page: page.alias):
                if not alias:  # items that were no recipients
                    for page in run:
                        yield from map(self.counted, page.tickets)
                    continue
                yield from _AliasRun(self, self.channels[alias], run).tickets()
        finally:
            logger.info("push: %s (%s)", self.result, self.result.changes)

    def counted(self, ticket: Ticket) -> Ticket:
        self.result.add(ticket)
        return ticket

    def language(self, locale: str) -> str:
        """Return the language in which a token is spoken to; "" if the message needs none."""
        return language_for(locale) if self.is_lazy else ""

    def rendered(self, language: str) -> PushMessage:
        """Return the message in a language."""
        if not language:
            return self.message
        found = self._rendered.get(language)
        if found is None:
            found = self._rendered[language] = self.message.render(language)
        return found

    def _check_said(self, message: PushMessage) -> None:
        backends = [channel.backend for channel in self.channels.values()]
        unsaid = message.said.difference(*(backend.fields for backend in backends))
        if unsaid:
            raise UnsupportedOption(f"No backend in question can say {', '.join(sorted(unsaid))}.")
        strangers = message.provider_options.keys() - {backend.provider for backend in backends}
        if strangers:
            raise UnsupportedOption(f"provider_options: nobody is {', '.join(sorted(strangers))}.")


@dataclass(frozen=True, slots=True)
class _Try:
    """How often the tokens of a request have been sent to, since when, and read when."""

    sent_at: datetime
    attempt: int = 1
    started: float = field(default_factory=time.monotonic)


#: What is to be tried again: when, a tie-breaker, the tickets so far, and how.
_Later = tuple[float, int, list[Ticket], list[Group], _Try]


class _AliasRun:
    """The sends to consecutive pages of one alias."""

    def __init__(self, run: _Run, channel: Channel, source: Iterable[Page]) -> None:
        self.run = run
        self.backend = channel.backend
        self.channel = channel
        self.fresh = self._fresh(source)
        self.tries: dict[Request, _Try] = {}
        self.ready: deque[Request] = deque()
        self.later: list[_Later] = []
        self.order = itertools.count()
        #: Verdicts that wait to be written, by the time they count from.
        self.verdicts: dict[datetime, list[Ticket]] = {}
        self.waiting = 0
        #: Why nothing more is sent, by Expo project; "*" is all of the alias.
        self.ended: dict[str, Verdict] = {}
        self.is_stopped = False
        #: What reading the recipients raised; it must not cost the verdicts of what is in flight.
        self.error: Exception | None = None
        self.misses = 0
        #: Until when nothing is sent, because the project is over its rate or the provider is down.
        self.hold_until = 0.0
        self.logged: set[str] = set()
        self.refusals: dict[tuple[int, str], tuple[PushMessage, Verdict | None]] = {}

    # --- the loop ---------------------------------------------------------------------------------

    def tickets(self) -> Iterator[Ticket]:
        exchange = self._exchange()
        try:
            while True:
                for request, reply in exchange:
                    self._absorb(request, reply)
                    if self.waiting >= FLUSH:
                        yield from self._written()
                if self.ready:
                    exchange = self._exchange()
                    continue
                yield from self._written()
                if self.error is not None:
                    raise self.error
                if not self.later:
                    return
                time.sleep(max(0.0, self.later[0][0] - time.monotonic(), self._hold()))
                exchange = self._exchange()
        except (GeneratorExit, KeyboardInterrupt):
            self.is_stopped = True
            for request, reply in exchange:  # what is in flight is still to be written
                self._absorb(request, reply)
            self._settle()
            for _ in self._written():
                pass
            raise

    def _exchange(self) -> Iterator[tuple[Request, Reply]]:
        if self.run.result.dry_run:
            return self._plan(self._requests())
        return self.channel.exchange(self._requests())

    def _plan(self, requests: Iterator[Request]) -> Iterator[tuple[Request, Reply]]:
        """Stand in for the exchange of a dry run: nothing is sent, so no reply is ever yielded."""
        for request in requests:
            sent_at = self.tries.pop(request).sent_at
            for target in request.targets:
                self._note(self.backend.ticket(target, Verdict(Outcome.PLANNED)), sent_at)
        yield from ()

    def _settle(self) -> None:
        """Leave what was to be tried again at the verdicts that it has."""
        for _, _, tickets, _, last in self.later:
            for ticket in tickets:
                self._note(ticket, last.sent_at)
        self.later.clear()

    # --- out --------------------------------------------------------------------------------------

    def _requests(self) -> Iterator[Request]:
        """Yield what to send next: what a backend has regrouped, what is due again, the next page."""
        while not self.is_stopped:
            if self.ready:
                yield from self._allowed(self.ready.popleft())
            elif self.later and self._hold() > 0:
                return  # the waiting is done outside, where what has come in is written first
            elif self.later and self.later[0][0] <= time.monotonic():
                _, _, _, groups, last = heapq.heappop(self.later)
                self._build(groups, dataclasses.replace(last, attempt=last.attempt + 1))
            else:
                try:
                    request = next(self.fresh, None)
                except Exception as error:  # noqa: BLE001 - raised again once what is out is written
                    self.error = error
                    self._settle()
                    return
                if request is None:
                    return
                yield from self._allowed(request)

    def _fresh(self, source: Iterable[Page]) -> Iterator[Request]:
        """Yield the requests of one page after the other."""
        for page in source:
            assert page.sent_at is not None
            for request in self.backend.build(self._groups(page, page.sent_at)):
                self.tries[request] = _Try(page.sent_at)
                yield request

    def _build(self, groups: Sequence[Group], attempt: _Try) -> None:
        for request in self.backend.build(groups):
            self.tries[request] = attempt
            self.ready.append(request)

    def _hold(self) -> float:
        """Return the seconds for which nothing is to be sent."""
        return self.hold_until - time.monotonic()

    def _allowed(self, request: Request) -> Iterator[Request]:
        """Yield the request, unless its project's sends have ended: then its tokens are told so."""
        targets = request.targets
        verdict = self.ended.get("*") or self.ended.get(targets[0].project)
        if verdict is None:
            yield request
            return
        sent_at = self.tries.pop(request).sent_at
        for target in targets:
            ticket = self.backend.ticket(target, verdict)
            self._note(dataclasses.replace(ticket, retry_after=verdict.retry_after), sent_at)

    def _groups(self, page: Page, sent_at: datetime) -> list[Group]:
        """Return who gets which message; those who cannot get theirs are told at once."""
        grouped: dict[Any, Group] = {}
        rows = self._rows(page)
        for target in page.targets:
            refused = self.backend.refuse_target(target)
            if refused is None:
                language = self.run.language(target.locale)
                try:
                    key, message = self._message_for(target, language, rows)
                except (InvalidMessage, UnsupportedOption) as error:
                    refused = Verdict(Outcome.MESSAGE_REJECTED, "InvalidMessage", cut(error))
                else:
                    refused = self._refuse(message, target.kind)
            if refused is not None:
                self._note(self.backend.ticket(target, refused), sent_at)
                continue
            group = grouped.get(key)
            if group is None:
                group = grouped[key] = (message, [])
            group[1].append(target)  # type: ignore[attr-defined]  # the list made one line above
        for message, targets in grouped.values():
            for name in message.said - self.backend.fields:
                self.run.result.left_out[name] += len(targets)
        return list(grouped.values())

    def _rows(self, page: Page) -> dict[int, Any]:
        if self.run.personalize is None:
            return {}
        rows = get_token_model()._base_manager.using(_database()).select_related("user")
        return rows.in_bulk([target.pk for target in page.targets if target.pk is not None])

    def _message_for(self, target: Target, language: str, rows: Mapping[int, Any]) -> tuple[Any, PushMessage]:
        """Return the message for a target, and a key that equal messages share."""
        if self.run.personalize is None or not target.is_token:
            return language, self.run.rendered(language)
        row = rows.get(target.pk or 0) or _unsaved(self.backend.alias, target)
        try:
            changes = dict(self.run.personalize(row) or {})
        except Exception:
            # One token's text is at fault; the others are not to lose theirs for it.
            logger.exception("personalize failed for token %s", target.pk)
            raise InvalidMessage("personalize raised an exception") from None
        if not changes:
            return language, self.run.rendered(language)
        message = _changed(self.run.message, changes)
        self.run._check_said(message)
        message = message.render(language_for(target.locale)) if message.is_lazy else message
        return (language, *sorted(map(repr, changes.items()))), message

    def _refuse(self, message: PushMessage, kind: str) -> Verdict | None:
        """Ask the backend about a message once per kind of target."""
        if self.run.personalize is not None:
            return self.backend.refuse_message(message, kind)
        key = (id(message), kind)
        if key not in self.refusals:
            self.refusals[key] = (message, self.backend.refuse_message(message, kind))
        return self.refusals[key][1]

    # --- and back ---------------------------------------------------------------------------------

    def _absorb(self, request: Request, reply: Reply) -> None:
        """Read a reply: keep its verdicts, and put aside what is to be sent again."""
        last = self.tries.pop(request)
        parsed = self.backend.parse(request, reply)
        if parsed.refresh_auth:
            self.channel.renew_credentials()
        for again in parsed.resend:
            self.tries[again] = last
            self.ready.append(again)
        elapsed = time.monotonic() - last.started
        again_after: dict[float, list[Ticket]] = {}
        waits: dict[tuple[Outcome, float | None], float | None] = {}
        taken = bool(parsed.resend)
        for ticket in parsed.tickets:
            outcome = ticket.outcome
            if outcome is Outcome.ACCEPTED:
                taken = True
            elif outcome.is_retryable:
                key = (outcome, ticket.retry_after)
                if key not in waits:
                    waits[key] = self.run.policy.delay(ticket, attempt=last.attempt, elapsed=elapsed)
                    taken = taken or outcome is Outcome.RATE_LIMITED
                self._slow_down(ticket, waits[key])
                if (wait := waits[key]) is not None:
                    again_after.setdefault(wait, []).append(ticket)
                    continue
            elif outcome is Outcome.CREDENTIALS_REJECTED:
                self._end(request.targets[0].project or "*", _verdict(ticket))
            else:
                taken = taken or outcome is not Outcome.UNKNOWN
                if outcome is Outcome.PROVIDER_SETUP:
                    self._log_setup(ticket)
            self._note(ticket, last.sent_at)
        for wait, tickets in again_after.items():
            self._try_again(request, tickets, wait, last)
        self.misses = 0 if taken or not parsed.tickets else self.misses + 1
        if self.misses >= GIVE_UP_AFTER:
            self._let_recover()

    def _try_again(self, request: Request, tickets: list[Ticket], wait: float, last: _Try) -> None:
        wanted = {ticket.target for ticket in tickets}
        parts: list[Group] = [(m, [t for t in targets if t in wanted]) for m, targets in request.groups]
        groups = [group for group in parts if group[1]]
        due = time.monotonic() + wait
        heapq.heappush(self.later, (due, next(self.order), tickets, groups, last))

    def _slow_down(self, ticket: Ticket, wait: float | None) -> None:
        """Heed a rate limit of the whole project: wait, or end the sends if it takes too long."""
        if not (ticket.about_project and ticket.outcome is Outcome.RATE_LIMITED):
            return
        if wait is None:
            self._end(ticket.target.project or "*", _verdict(ticket))
        else:
            self.hold_until = max(self.hold_until, time.monotonic() + wait)

    def _end(self, project: str, verdict: Verdict) -> None:
        if project not in self.ended:
            self.ended[project] = verdict
            if verdict.outcome is Outcome.CREDENTIALS_REJECTED:
                logger.error("%r: the provider refused our key: %s", self.backend, verdict.code)

    def _log_setup(self, ticket: Ticket) -> None:
        if ticket.code not in self.logged:
            self.logged.add(ticket.code)
            logger.error("%r: %s: check the project's setup at the provider", self.backend, ticket.code)

    def _let_recover(self) -> None:
        """Wait for what is to be tried again anyway; without any, do not try the rest."""
        if self.later:
            self.hold_until = max(self.hold_until, self.later[0][0])
        else:
            self._end("*", Verdict(Outcome.NOT_SENT, "ProviderDown"))

    def _note(self, ticket: Ticket, sent_at: datetime) -> None:
        self.verdicts.setdefault(sent_at, []).append(ticket)
        self.waiting += 1

    def _written(self) -> Iterator[Ticket]:
        """Write the verdicts that wait, then yield them."""
        verdicts, self.verdicts, self.waiting = self.verdicts, {}, 0
        result = self.run.result
        if not result.dry_run:
            for sent_at, told in verdicts.items():
                result.changes += tokens.apply(told, sent_at)
                if self.backend.has_receipts:
                    receipts.remember(told, sent_at)
        for told in verdicts.values():
            for ticket in told:
                result.add(ticket)
        return itertools.chain.from_iterable(verdicts.values())


def _verdict(ticket: Ticket) -> Verdict:
    """Return what a ticket says, to say it of others."""
    return Verdict(
        ticket.outcome,
        ticket.code,
        ticket.detail,
        retry_after=ticket.retry_after,
        about_project=ticket.about_project,
    )


def _policy(retry_budget: float | None) -> RetryPolicy:
    if retry_budget is None:
        return DEFAULT_POLICY
    if not isinstance(retry_budget, (int, float)) or not retry_budget >= 0:
        raise ValueError("retry_budget must be a number of seconds, 0 or more.")
    return RetryPolicy(budget=retry_budget, attempts=max(DEFAULT_POLICY.attempts, 10))


def _message(fields: Mapping[str, Any]) -> PushMessage:
    try:
        return PushMessage(**fields)
    except TypeError as error:
        raise InvalidMessage(str(error).replace("PushMessage.__init__()", "The message")) from None


def _changed(message: PushMessage, changes: Mapping[str, Any]) -> PushMessage:
    try:
        return dataclasses.replace(message, **changes)
    except TypeError as error:
        raise InvalidMessage(str(error)) from None


def _channels(using: str | None) -> dict[str, Channel]:
    """Return the channels in question, so that what is wrong with their settings is raised now."""
    aliases = push_backends if using is None else [using]
    return {alias: push_backends.channel(alias) for alias in aliases}


def _unsaved(alias: str, target: Target) -> AbstractPushToken:
    return get_token_model()(backend=alias, token=target.value, kind=target.kind)


def _warn_in_transaction() -> None:
    """Warn that a rollback would forget the verdicts of pushes that are out."""
    blocks = connections[_database()].atomic_blocks
    if any(not getattr(block, "_from_testcase", False) for block in blocks):
        warnings.warn(
            "send_push inside transaction.atomic: a rollback would forget what became of the "
            "tokens. Use enqueue_push, which sends after the commit.",
            RuntimeWarning,
            stacklevel=4,
        )


def _database() -> str:
    return router.db_for_write(get_token_model())
