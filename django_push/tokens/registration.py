"""What the app reports: this install has this token, or has logged out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone as clock

from django_push import signals
from django_push.backends.base import MAX_TOKEN_LENGTH
from django_push.exceptions import InvalidToken
from django_push.handler import push_backends
from django_push.models import DatabaseNow, PushToken, TokenSource, TokenStatus, digest, get_token_model
from django_push.outcomes import TargetKind
from django_push.tokens.replacement import put_aside, seen
from django_push.tokens.upkeep import deactivate
from django_push.tokens.writing import (
    announce,
    can_be_stored,
    database,
    in_transaction,
    lock,
    rows,
    status_columns,
    write,
)

#: The most characters of a row's metadata as JSON.
MAX_METADATA_LENGTH = 16_384
#: The device facts that a registration may bring, with the most characters of each.
_FACTS = {
    "platform": 16,
    "device_id": 255,
    "device_name": 255,
    "app_version": 64,
    "locale": 35,
    "timezone": 64,
}


def register_token(
    token: str,
    *,
    user: Any = None,
    backend: str | None = None,
    kind: str = TargetKind.TOKEN,
    device_id: str | None = None,
    platform: str | None = None,
    device_name: str | None = None,
    app_version: str | None = None,
    locale: str | None = None,
    timezone: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[PushToken, bool]:
    """Register what the app reports, and return its row and whether the row is new.

    Repeat it as often as the app likes. The row is active afterwards, whatever it was, and belongs
    to ``user``: the last login owns the phone, and a mute of the previous owner's ends. Without a
    user, an active row keeps its owner and a logged-out one has none. The same ``device_id`` with
    another token, from the same user or on an unclaimed row, is a rotation and keeps the row. Facts
    that are None stay as they are.

    Raises InvalidToken for a token or fact of a wrong form, AmbiguousBackend if no alias is given and
    not exactly one accepts the token's form, InvalidPushBackend for an unknown alias.
    """
    _check_form(token)
    alias = backend if backend is not None else push_backends.infer(token)
    if not push_backends[alias].accepts(token):
        raise InvalidToken(f"Not a token of the backend {alias!r}.")
    if kind not in (TargetKind.TOKEN, TargetKind.FID) or kind not in push_backends[alias].kinds:
        raise InvalidToken(f"The backend {alias!r} has no tokens of the kind {kind!r}.")
    if user is not None and getattr(user, "pk", None) is None:
        raise InvalidToken("user must be a saved user, or None.")
    given = {
        "device_id": device_id,
        "platform": platform,
        "device_name": device_name,
        "app_version": app_version,
        "locale": locale,
        "timezone": timezone,
    }
    facts: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in facts.items():
        _check_fact(name, value)
    if metadata is not None:
        facts["metadata"] = _checked_metadata(metadata)
    registration = _Registration(
        token=token, alias=alias, kind=kind, user_id=getattr(user, "pk", None), facts=facts
    )
    try:
        return in_transaction(registration.prepare, registration.write)
    except IntegrityError:
        if user is None or get_user_model()._base_manager.using(database()).filter(pk=user.pk).exists():
            raise
        raise InvalidToken("user must be a saved user, or None.") from None


def unregister_token(token: str, *, user: Any = None, backend: str | None = None) -> int:
    """Retire a token at logout, in any alias unless one is given; return how many rows it changed.

    With ``user``, only a row of that user. Never an error for an unknown token.
    """
    if not isinstance(token, str):
        return 0
    found = rows().filter(token_digest=digest(token))
    if backend is not None:
        found = found.filter(backend=backend)
    if user is not None:
        found = found.filter(user_id=user.pk)
    return deactivate(found, code="logout", source=TokenSource.REGISTRATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    """One registration, tried until no other process has come between its reading and its writing."""

    token: str
    alias: str
    kind: str
    user_id: Any
    facts: Mapping[str, Any]

    # --- which rows -------------------------------------------------------------------------------

    def prepare(self) -> list[int]:
        """Find the token's row and the other rows of its device, without locks."""
        mine = Q(token_digest=digest(self.token))
        device = self.facts.get("device_id", "")
        found = self._find(mine | _of_device(device, self.user_id))
        own = next((row for row in found if self._is_own(row)), None)
        pks = [row.pk for row in found]
        if own is not None and self._adds_to_another_device(own):
            pks += [row.pk for row in self._find(_of_device(self._device(own), self._owner(own)))]
        return pks

    def _find(self, which: Q) -> list[PushToken]:
        columns = ("pk", "backend", "token", "user_id", "device_id", "status")
        return list(rows().filter(which, backend=self.alias).only(*columns))

    def _adds_to_another_device(self, own: PushToken) -> bool:
        """Whether the row will be a device's that it is not yet, and that was not asked for."""
        asked = (self.facts.get("device_id", ""), self.user_id)
        will_be = (self._device(own), self._owner(own))
        is_already = own.status == TokenStatus.ACTIVE and (own.device_id, own.user_id) == will_be
        return bool(will_be[0]) and will_be != asked and not is_already

    def _is_own(self, row: PushToken) -> bool:
        # Compared here: a database may find "App" and "A" when asked for "app" and "a".
        return row.token == self.token and row.backend == self.alias

    def _device(self, row: PushToken | None) -> str:
        """Return the device that the row will be of."""
        device: str = self.facts.get("device_id", row.device_id if row is not None else "")
        return device

    def _owner(self, row: PushToken | None) -> Any:
        """Return the user that the row will be of."""
        if self.user_id is None and row is not None and row.status == TokenStatus.ACTIVE:
            return row.user_id
        return self.user_id

    def _of_same_device(self, row: PushToken, device: str, owner: Any) -> bool:
        is_free = row.user_id is None or row.user_id == owner
        is_here = row.backend == self.alias and row.status != TokenStatus.REPLACED
        return bool(device) and row.device_id == device and is_free and is_here

    # --- what is written --------------------------------------------------------------------------

    def write(self, pks: Sequence[int]) -> tuple[PushToken, bool]:
        """Lock those rows, look again, and write."""
        locked = lock(sorted(set(pks)))
        own = next((row for row in locked if self._is_own(row)), None)
        device, owner = self._device(own), self._owner(own)
        same = [row for row in locked if row is not own and self._of_same_device(row, device, owner)]
        row = own or max(same, key=seen, default=None)
        if row is None:
            row = self._insert()
            self._settle_after(device, owner)
            return row, True
        if (row.device_id, row.user_id) != (device, owner):
            self._settle_after(device, owner)
        others = [other for other in same if other is not row]
        self._supersede(others, row)
        self._update(row, owner, others)
        return row, False

    def _insert(self) -> PushToken:
        row = get_token_model()(
            token=self.token,
            backend=self.alias,
            kind=self.kind,
            user_id=self.user_id,
            status_source=TokenSource.REGISTRATION,
            last_seen_at=clock.now(),
            **self.facts,
        )
        row.save(force_insert=True, using=database())
        announce(signals.token_registered, [row.pk], created=True)
        return row

    def _update(self, row: PushToken, owner: Any, others: Sequence[PushToken]) -> None:
        now = clock.now()
        changes: dict[str, Any] = {
            **self.facts,
            "kind": self.kind,
            "user_id": owner,
            "last_seen_at": now,
            "modified": now,
            "replaced_by_id": None,
        }
        if row.status != TokenStatus.ACTIVE:
            changes |= status_columns(TokenStatus.ACTIVE, "", TokenSource.REGISTRATION)
        if row.token != self.token:
            changes |= {"token": self.token, "token_digest": digest(self.token), "project": ""}
        changes["enabled"] = _wish(row, owner, others)
        write(Q(pk=row.pk), {**changes, "registered_at": DatabaseNow()})
        self._announce(row, owner)
        for name, value in changes.items():
            setattr(row, name, value)
        del row.registered_at  # read again when somebody asks for it

    def _announce(self, row: PushToken, owner: Any) -> None:
        announce(signals.token_registered, [row.pk], created=False)
        if row.user_id is not None and row.user_id != owner:
            announce(signals.token_transferred, [row.pk], previous_user_id=row.user_id)
        if row.token != self.token:
            announce(signals.token_replaced, [row.pk], previous_token=row.token, replaced_id=None)
        if row.status != TokenStatus.ACTIVE:
            announce(signals.token_reactivated, [row.pk], source=str(TokenSource.REGISTRATION))

    def _supersede(self, others: Sequence[PushToken], row: PushToken) -> None:
        """Put aside the device's other rows: the install has one token."""
        for other in others:
            if other.status == TokenStatus.ACTIVE:
                put_aside(other, row, "rotated", TokenSource.REGISTRATION)

    # --- two new tokens of one device at the same moment -------------------------------------------

    def _settle_after(self, device: str, owner: Any) -> None:
        """Look again after the commit: neither of two processes has seen the other's new row."""
        if not device:
            return

        def settle() -> None:  # no partial: Django 5.2 asks a robust callback that fails for its name
            self._settle(device, owner)

        transaction.on_commit(settle, using=database(), robust=True)

    def _settle(self, device: str, owner: Any) -> None:
        def prepare() -> list[int]:
            found = self._find(_of_device(device, owner) & Q(status=TokenStatus.ACTIVE))
            return [row.pk for row in found]

        if len(prepare()) > 1:
            in_transaction(prepare, partial(self._keep_newest, device, owner))

    def _keep_newest(self, device: str, owner: Any, pks: Sequence[int]) -> None:
        locked = [row for row in lock(sorted(pks)) if row.status == TokenStatus.ACTIVE]
        same = [row for row in locked if self._of_same_device(row, device, owner)]
        newest = max(same, key=lambda row: (seen(row), row.pk), default=None)
        if newest is not None:
            self._supersede([row for row in same if row is not newest], newest)


def _of_device(device: str, owner: Any) -> Q:
    """The rows of a device that are this user's, or nobody's."""
    if not device:
        return Q(pk__in=[])
    owners = Q(user=None) if owner is None else Q(user=None) | Q(user_id=owner)
    return Q(device_id=device) & owners & ~Q(status=TokenStatus.REPLACED)


def _wish(row: PushToken, owner: Any, others: Sequence[PushToken]) -> bool:
    """Return whether the owner wishes to be told: what they said last, not what somebody else said."""
    theirs = [known for known in (row, *others) if known.user_id in (None, owner)]
    return max(theirs, key=seen).enabled if theirs else True


def _checked_metadata(metadata: object) -> dict[str, Any]:
    """Return metadata as a dictionary that every database stores. Raises InvalidToken."""
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError("it is no dictionary")
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidToken(f"metadata must be a JSON object: {error}") from None
    if not can_be_stored(text, MAX_METADATA_LENGTH) or "\\u0000" in text:
        raise InvalidToken(
            f"metadata has at most {MAX_METADATA_LENGTH} characters, all of which can be stored."
        )
    return dict(metadata)


def _check_form(token: object) -> None:
    if not isinstance(token, str) or not token:
        raise InvalidToken("A token is a string with something in it.")
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidToken(f"A token has at most {MAX_TOKEN_LENGTH} characters.")
    if not can_be_stored(token, MAX_TOKEN_LENGTH):
        raise InvalidToken("The token has characters that cannot be stored.")


def _check_fact(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > _FACTS[name]:
        raise InvalidToken(f"{name} must be a string of at most {_FACTS[name]} characters.")
    if not can_be_stored(value, _FACTS[name]):
        raise InvalidToken(f"{name} has characters that cannot be stored.")
