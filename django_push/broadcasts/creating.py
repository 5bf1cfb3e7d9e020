"""From a call to a broadcast: everything that can be wrong with it is found here, before it exists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone as clock
from django.utils.module_loading import import_string

from django_push.broadcasts import audiences, control
from django_push.broadcasts.packing import owner_checksum, pack
from django_push.broadcasts.rows import batches, broadcasts, database, lanes, moment
from django_push.exceptions import BroadcastForbidden, InvalidBroadcast, InvalidMessage
from django_push.handler import push_backends
from django_push.message import PushMessage
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastLane,
    BroadcastStatus,
    LaneStatus,
    UnknownPolicy,
    database_time,
)
from django_push.sending.texts import Texts, message_of

#: How many tokens a planned batch holds.
PLANNED_SIZE = 500
#: How many rows are inserted at once.
INSERT = 200
#: The most languages of one message, and bytes of it as JSON. Providers take 4 kB.
MOST_TRANSLATIONS, MOST_BYTES = 200, 65_536
#: The most workers that are woken for one broadcast at its start.
MOST_WORKERS = 64


def broadcast(
    audience: Any = "everyone",
    message: PushMessage | None = None,
    *,
    name: str = "",
    using: str | None = None,
    translations: Mapping[str, PushMessage | Mapping[str, Any]] | None = None,
    personalize: str = "",
    schedule: datetime | None = None,
    expires: datetime | timedelta | None = None,
    rate: float | None = None,
    on_unknown: str = UnknownPolicy.RETRY,
    max_sends: int = 3,
    batch_size: int = 0,
    key: str | None = None,
    user: Any = None,
    workers: int = 1,
    start: bool = True,
    **fields: Any,
) -> Broadcast:
    """Send a message to an audience, durably, and return the broadcast at once.

    ``audience`` is ``"everyone"``, a name in PUSH_AUDIENCES, a mapping of filters, or a queryset or
    iterable of tokens or users, which is written down now. The message is given as a PushMessage or by
    its fields; ``translations`` maps a language to the message, or to the fields that differ, for
    tokens of that locale; ``personalize`` is the dotted path of a function as in ``enqueue_push``.
    ``schedule`` and ``expires`` are times (without a zone: of TIME_ZONE); ``expires`` may be a
    timedelta from the start. ``rate`` is the most tokens per second. ``on_unknown`` says what becomes
    of tokens that may have been sent to: ``retry`` sends up to ``max_sends`` times, ``skip`` never
    again. ``key`` makes a second call return the first call's broadcast. ``user`` is recorded and must
    have the permission ``broadcast_push``; None is trusted code. ``workers`` are woken after the
    commit, through PUSH_DISPATCHER. ``start=False`` leaves a draft.

    Raises InvalidMessage, InvalidAudience, InvalidBroadcast, UnsupportedOption for a field that no
    backend in question can say, InvalidPushBackend and BroadcastForbidden.
    """
    if user is not None and user.pk is None:
        raise BroadcastForbidden("An anonymous user may not broadcast push notifications.")
    _check_texts(name=(name, 200), key=(key, 255), personalize=(personalize, 255), using=(using, 64))
    if key == "":
        raise InvalidBroadcast("key must not be empty.")
    said = message_of(message, fields)
    spoken = _translated(said, translations or {})
    if said.is_lazy:
        said = said.render(settings.LANGUAGE_CODE)
    specification = audiences.specification(audience)
    _check(said, spoken, using, personalize, rate, on_unknown, max_sends, batch_size, workers)
    row = Broadcast(
        name=name or "",
        message=said.to_json(),
        translations={language: text.to_json() for language, text in spoken.items()},
        personalize=personalize or "",
        audience=specification,
        using=using or "",
        idempotency_key=key,
        on_unknown=on_unknown,
        max_sends=max_sends,
        batch_size=batch_size,
        rate=rate,
        workers=workers,
        created_by=user,
        created_by_name="" if user is None else (str(user.get_username()) or f"#{user.pk}")[:255],
    )
    row.content_hash = _content_hash(row)
    control.check_allowed(row)
    created = _first_with_key(row)  # whose time may have come meanwhile
    if created is None:
        _set_times(row, schedule, expires)
        created = _create(row, audience if specification["kind"] == "list" else None)
    if start and created.status == BroadcastStatus.DRAFT:
        begin(created)
    return created


def begin(created: Broadcast, *, workers: int | None = None) -> bool:
    """Start a draft, or let it wait for its time; wake workers after the commit."""
    if created.scheduled_at is not None:
        return control.schedule(created)
    started = control.start(created)
    if started:
        control.wake_workers(created, workers)
    return started


def recent_twin(created: Broadcast, within: timedelta = timedelta(minutes=10)) -> Broadcast | None:
    """Return another broadcast of the same content to the same audience, created so recently."""
    others = broadcasts().filter(content_hash=created.content_hash, created__gte=clock.now() - within)
    others = others.exclude(pk=created.pk).exclude(status=BroadcastStatus.CANCELLED)
    return others.order_by("-pk").first()


def _translated(
    said: PushMessage, translations: Mapping[str, PushMessage | Mapping[str, Any]]
) -> dict[str, PushMessage]:
    """Return the message by language: as given, or rendered for each of LANGUAGES if it is lazy."""
    found: dict[str, PushMessage] = {}
    if said.is_lazy:
        found = {language.lower(): said.render(language) for language, _ in settings.LANGUAGES}
    plain = said.to_json()
    if not isinstance(translations, Mapping):
        raise InvalidMessage("translations maps a language to a PushMessage, or to fields of one.")
    for language, text in translations.items():
        if isinstance(text, Mapping):
            text = message_of(None, {**plain, **text})
        if not isinstance(language, str) or not isinstance(text, PushMessage):
            raise InvalidMessage("translations maps a language to a PushMessage, or to fields of one.")
        found[language.replace("_", "-").lower()] = text
    if len(found) > MOST_TRANSLATIONS:
        raise InvalidMessage(f"There are more than {MOST_TRANSLATIONS} translations.")
    for text in (said, *found.values()):
        if len(json.dumps(text.to_keep())) > MOST_BYTES:
            raise InvalidMessage(f"The message is longer than {MOST_BYTES} bytes.")
    return found


def _check_texts(**given: tuple[Any, int]) -> None:
    for label, (text, most) in given.items():
        if text is not None and not (isinstance(text, str) and len(text) <= most and "\0" not in text):
            raise InvalidBroadcast(f"{label} must be a string of at most {most} characters.")


def _check(
    said: PushMessage,
    spoken: Mapping[str, PushMessage],
    using: str | None,
    personalize: str,
    rate: float | None,
    on_unknown: str,
    max_sends: int,
    batch_size: int,
    workers: int,
) -> None:
    backends = [push_backends[alias] for alias in ([using] if using else push_backends)]
    Texts(said, backends, None, spoken)
    if personalize:
        try:
            import_string(personalize)
        except ImportError as error:
            raise InvalidBroadcast(f"personalize: {error}") from None
    if on_unknown not in UnknownPolicy.values:
        raise InvalidBroadcast(f"on_unknown must be one of: {', '.join(UnknownPolicy.values)}.")
    if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < 1e9):
        raise InvalidBroadcast("rate must be a number of tokens per second above 0.")
    for name, value, least, most in (
        ("max_sends", max_sends, 1, 10),
        ("batch_size", batch_size, 0, 1000),
        ("workers", workers, 1, MOST_WORKERS),
    ):
        if type(value) is not int or not least <= value <= most:
            raise InvalidBroadcast(f"{name} must be a whole number from {least} to {most}.")


def _set_times(row: Broadcast, schedule: datetime | None, expires: datetime | timedelta | None) -> None:
    now = moment()
    if schedule is not None:
        row.scheduled_at = _time("schedule", schedule, now)
        if row.scheduled_at <= now:
            raise InvalidBroadcast("The schedule is in the past.")
    if expires is not None:
        row.expires_at = _time("expires", expires, row.scheduled_at or now)
    if row.expires_at is not None and row.expires_at <= (row.scheduled_at or now):
        raise InvalidBroadcast("It expires before it starts.")


def _time(label: str, value: Any, start: datetime) -> datetime:
    try:
        if label == "expires" and isinstance(value, timedelta):
            return start + value
        if isinstance(value, datetime):
            return database_time(value, database())
    except OverflowError:
        pass
    raise InvalidBroadcast(f"{label} must be a datetime of these centuries.")


def _create(draft: Broadcast, chosen: Any) -> Broadcast:
    """Insert the broadcast, or return the one that has got its key meanwhile."""
    try:
        with transaction.atomic(using=database()):
            draft.save(using=database(), force_insert=True)
            if chosen is not None:
                _plan(draft, chosen)
    except IntegrityError:
        found = _first_with_key(draft)
        if found is None:
            raise
        return found
    return draft


def _first_with_key(draft: Broadcast) -> Broadcast | None:
    """Return the broadcast that has the key already. Raises InvalidBroadcast if it says something else."""
    if draft.idempotency_key is None:
        return None
    found = broadcasts().filter(idempotency_key=draft.idempotency_key).first()
    if found is not None and found.content_hash != draft.content_hash:
        raise InvalidBroadcast(f"The key belongs to broadcast {found.pk}, which says something else.")
    return found


def _plan(row: Broadcast, chosen: Any) -> None:
    """Write down the tokens of a queryset or iterable, as batches to be claimed."""
    size = row.batch_size or PLANNED_SIZE
    waiting: dict[str, list[Any]] = {}
    parts: dict[str, BroadcastLane] = {}
    counts: dict[str, int] = {}
    rows: list[Any] = []
    due = moment()

    def add(alias: str, targets: list[Any]) -> None:
        lane = parts.get(alias)
        if lane is None:
            lane = parts[alias] = lanes().create(
                broadcast_id=row.pk, backend=alias, status=LaneStatus.WAITING
            )
        counts[alias] = counts.get(alias, 0) + len(targets)
        packed = pack((target.pk, owner_checksum(target.user_id)) for target in targets)
        rows.append(
            batches().model(
                lane_id=lane.pk,
                status=BatchStatus.PLANNED,
                pks=packed,
                size=len(targets),
                pending=len(targets),
                due_at=due,
            )
        )
        if len(rows) >= INSERT:
            batches().bulk_create(rows)
            rows.clear()

    for alias, targets in audiences.chosen(chosen, row.using):
        pool = waiting.setdefault(alias, [])
        pool += targets
        while len(pool) >= size:
            add(alias, pool[:size])
            del pool[:size]
    for alias, pool in waiting.items():
        if pool:
            add(alias, pool)
    batches().bulk_create(rows)
    for alias, lane in parts.items():
        lanes().filter(pk=lane.pk).update(size=counts[alias])


def _content_hash(row: Broadcast) -> str:
    """Return what two broadcasts share that say the same to the same audience."""
    said = [row.message, row.translations, row.personalize, row.audience, row.using]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
