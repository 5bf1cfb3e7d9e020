"""Sending later: what is queued holds ids and the message, and is checked once more when it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from django.db import router, transaction
from django.utils.module_loading import import_string

from django_push.exceptions import InvalidToken
from django_push.message import Condition, PushMessage, Topic
from django_push.models import get_token_model
from django_push.outcomes import Outcome, PushResult, Target, TargetKind, Ticket
from django_push.recipients import Page, Recipients, pages
from django_push.sending.direct import send_push
from django_push.sending.lane import FLUSH
from django_push.sending.run import Run
from django_push.wake import get_dispatcher, schedule_receipt_check

#: The most tokens of one enqueue_push; a larger audience is a broadcast, or a job of your own.
ENQUEUE_LIMIT = 10_000

#: A token's primary key, and that of its user as text.
Addressee = tuple[int, str | None]


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
    a token may be sent to once more when it runs: one that belongs to another user by then gets
    nothing. What is queued holds ids and the message, so a raw token must be registered.
    ``personalize`` is the dotted path of a function. An audience without tokens queues nothing.
    Raises as ``send_push`` does, InvalidToken for a raw token without a row and ValueError for more
    than 10,000 tokens.
    """
    if personalize is not None and not isinstance(personalize, str):
        raise TypeError("personalize must be the dotted path of a function, to be found when it runs.")
    differing = import_string(personalize) if personalize else None
    run = Run(message, fields, using, False, differing, None)
    languages: dict[str, list[Addressee]] = {}
    topics: list[tuple[str, str, str]] = []
    count = 0
    for page in pages(to, using, run.result.skipped):
        _check_queueable(page)
        for target in page.targets:
            if target.pk is None:
                topics.append((page.alias, target.kind, target.value))
            else:
                addressees = languages.setdefault(run.texts.language(target.locale), [])
                addressees.append((target.pk, _as_text(target.user_id)))
        count += len(page.targets)
        if count > ENQUEUE_LIMIT:
            raise ValueError(f"enqueue_push takes at most {ENQUEUE_LIMIT} tokens; use iter_push.")
    if not count:
        return 0
    spoken = {*languages, *([run.texts.language("")] if topics else ())}
    payload = {
        "messages": {language: run.texts.rendered(language).to_keep() for language in spoken},
        "tokens": languages,
        "topics": topics,
        "topics_language": run.texts.language(""),
        "personalize": personalize,
    }
    dispatcher = get_dispatcher()

    def dispatch() -> None:  # no partial: Django's robust hooks want a __qualname__ to log
        dispatcher.enqueue("send_push", payload)

    transaction.on_commit(dispatch, using=_database(), robust=True)
    return count


def send_enqueued(payload: Mapping[str, Any]) -> list[PushResult]:
    """Send what ``enqueue_push`` has queued: the job of the dispatchers."""
    path = payload["personalize"]
    personalize = import_string(path) if path else None
    messages = {language: PushMessage(**fields) for language, fields in payload["messages"].items()}
    results = []
    is_awaited = False
    for language, addressees in payload["tokens"].items():
        for start in range(0, len(addressees), FLUSH):
            part = dict(addressees[start : start + FLUSH])
            rows = get_token_model()._base_manager.using(_database()).filter(pk__in=part)
            run = Run(messages[language], {}, None, False, personalize, None)
            for tickets in run.told(rows, only=partial(_is_theirs, part)):
                is_awaited = is_awaited or _have_receipts(run, tickets)
            results.append(run.result)
    for alias, kind, value in payload["topics"]:
        topic = Topic(value) if kind == TargetKind.TOPIC else Condition(value)
        results.append(send_push(topic, messages[payload["topics_language"]], using=alias))
    if is_awaited:
        schedule_receipt_check()
    return results


def _have_receipts(run: Run, tickets: Iterable[Ticket]) -> bool:
    """Whether the provider will say more about one of these."""
    accepted = {ticket.backend for ticket in tickets if ticket.outcome is Outcome.ACCEPTED}
    return any(run.channels[alias].backend.has_receipts for alias in accepted)


def _check_queueable(page: Page) -> None:
    for ticket in page.tickets:
        raise InvalidToken(ticket.detail)
    if any(target.pk is None and target.is_token for target in page.targets):
        raise InvalidToken("Register a token before enqueueing a push to it.")


def _as_text(user_id: object) -> str | None:
    return None if user_id is None else str(user_id)


def _is_theirs(users: Mapping[int | None, str | None], target: Target) -> bool:
    """Whether a token still belongs to the user for whom the push was meant, if it was for one."""
    meant = users.get(target.pk)
    return meant is None or meant == _as_text(target.user_id)


def _database() -> str:
    return router.db_for_write(get_token_model())
