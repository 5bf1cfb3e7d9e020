"""What each token gets: one message, in the token's language, with what differs for this token."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import InterfaceError, OperationalError, router
from django.utils import translation

from django_push.backends.base import BasePushBackend, Verdict, rejected
from django_push.exceptions import InvalidMessage, UnsupportedOption
from django_push.message import PushMessage, language_for
from django_push.models import AbstractPushToken, get_token_model
from django_push.outcomes import Outcome, Target, Ticket, cut
from django_push.wire import Group

logger = logging.getLogger("django_push")

#: Given a token's row, returns the fields of the message that differ for it.
Personalize = Callable[[Any], Mapping[str, Any] | None]


class _Part(NamedTuple):
    """A message, why the backend is sure to refuse it (or None), and who gets it."""

    message: PushMessage
    refusal: Verdict | None
    targets: list[Target]


#: From so many rows of a page on, and such a share of it, malformed tokens are not the tokens' fault.
DOUBT_FROM = 10
DOUBT_SHARE = 0.2


def tagged(message: PushMessage, tag: str, backend: BasePushBackend) -> PushMessage:
    """Give what is shown without a tag this one, where the backend can say it.

    A second copy, if there has to be one, then replaces the first on the phone.
    """
    is_shown = message.title is not None or message.body is not None
    if message.tag is not None or not is_shown or "tag" not in backend.fields:
        return message
    return dataclasses.replace(message, tag=tag)


class Texts:
    """The message of one call, and by language what stands in its place.

    Raises UnsupportedOption for what no backend in question can say, unless it ``is_checked``: then
    that is left out.
    """

    def __init__(
        self,
        message: PushMessage,
        backends: Sequence[BasePushBackend],
        personalize: Personalize | None = None,
        translations: Mapping[str, PushMessage] | None = None,
        *,
        is_checked: bool = False,
    ) -> None:
        self.message = message
        self.backends = backends
        self.personalize = personalize
        self.is_checked = is_checked
        self.is_lazy = message.is_lazy or bool(translations)
        self._languages: dict[str, str] = {}
        self._translated = {language.lower(): said for language, said in (translations or {}).items()}
        self._rendered: dict[str, PushMessage] = {"": message, **self._translated}
        for said in self._rendered.values():
            self._check(said)

    def compose(
        self, targets: Sequence[Target], backend: BasePushBackend
    ) -> tuple[list[Group], list[Ticket]]:
        """Return who gets which message, and the tickets of those who cannot get theirs."""
        parts: dict[Hashable, _Part] = {}
        refused: list[Ticket] = []
        rows = self._rows(targets) if self.personalize is not None else {}
        for target in targets:
            verdict = backend.refuse_target(target)
            if verdict is not None:
                refused.append(backend.ticket(target, verdict))
                continue
            language = self.language(target.locale) if self.is_lazy else ""
            key: Hashable = (language, target.kind)
            changes: Mapping[str, Any] = {}
            if self.personalize is not None and target.is_token:
                row = rows.get(target.pk or 0) or _unsaved(backend.alias, target)
                try:
                    changes, personal = self._changes(row, target.locale)
                except InvalidMessage as error:
                    refused.append(backend.ticket(target, _refusal(error)))
                    continue
                key = (language, target.kind, personal)
            part = parts.get(key)
            if part is None:
                part = parts[key] = self._part(target, language, changes, backend)
            part.targets.append(target)
        groups: list[Group] = []
        for message, refusal, members in parts.values():
            if refusal is None:
                groups.append((message, members))
            else:
                refused += [backend.ticket(target, refusal) for target in members]
        return groups, _doubted(refused, len(targets), backend)

    def language(self, locale: str) -> str:
        """Return the language in which a token is spoken to; "" if there is but one."""
        if not self.is_lazy:
            return ""
        return self._translation(locale) or (self._language_of(locale) if self.message.is_lazy else "")

    def _translation(self, locale: str) -> str:
        """Return the language of a translation for the locale, whatever LANGUAGES says: de-AT, then de."""
        code = locale.replace("_", "-").lower()
        while code and code not in self._translated:
            code = code.rpartition("-")[0]
        return code

    def rendered(self, language: str) -> PushMessage:
        """Return the message in a language."""
        found = self._rendered.get(language)
        if found is None:
            said = self.message
            found = self._rendered[language] = said.render(language) if said.is_lazy else said
        return found

    def _language_of(self, locale: str) -> str:
        found = self._languages.get(locale)
        if found is None:
            found = self._languages[locale] = language_for(locale)
        return found

    def _rows(self, targets: Sequence[Target]) -> dict[int, Any]:
        model = get_token_model()
        rows = model._base_manager.using(router.db_for_write(model)).select_related("user")
        return rows.in_bulk([target.pk for target in targets if target.pk is not None])

    def _changes(self, row: Any, locale: str) -> tuple[Mapping[str, Any], Hashable]:
        """Return what differs for a token, and a key that equal texts share. Raises InvalidMessage."""
        assert self.personalize is not None
        try:
            with translation.override(self._language_of(locale)):
                changes = dict(self.personalize(row) or {})
                # Read in the token's language, lazy texts are alike here only if they read alike.
                return changes, tuple(sorted(map(repr, changes.items())))
        except (OperationalError, InterfaceError):
            raise  # nobody's text is at fault
        except Exception:
            # One token's text is at fault; the others are not to lose theirs for it.
            logger.exception("personalize failed for token %s", row.pk)
            raise InvalidMessage("personalize raised an exception") from None

    def _part(
        self, target: Target, language: str, changes: Mapping[str, Any], backend: BasePushBackend
    ) -> _Part:
        try:
            message = self.rendered(language)
            if changes:
                message = self._changed(message, changes, target.locale)
        except (InvalidMessage, UnsupportedOption) as error:
            return _Part(self.message, _refusal(error), [])
        return _Part(message, backend.refuse_message(message, target.kind), [])

    def _changed(self, message: PushMessage, changes: Mapping[str, Any], locale: str) -> PushMessage:
        try:
            changed = dataclasses.replace(message, **changes)
        except TypeError as error:
            raise InvalidMessage(str(error)) from None
        self._check(changed)
        return changed.render(self._language_of(locale)) if changed.is_lazy else changed

    def _check(self, message: PushMessage) -> None:
        if self.is_checked:
            return
        unsaid = message.said.difference(*(backend.fields for backend in self.backends))
        if unsaid:
            raise UnsupportedOption(f"No backend in question can say {', '.join(sorted(unsaid))}.")
        strangers = message.provider_options.keys() - {backend.provider for backend in self.backends}
        # Locmem and its like stand in for a provider, and are given what is meant for that.
        if strangers and all(b.transport == BasePushBackend.transport for b in self.backends):
            raise UnsupportedOption(f"provider_options: nobody is {', '.join(sorted(strangers))}.")


def message_of(message: PushMessage | None, fields: Mapping[str, Any]) -> PushMessage:
    """Return the message of a call that was given one, or its fields. Raises InvalidMessage."""
    if message is not None:
        if fields or not isinstance(message, PushMessage):
            raise TypeError("Give a PushMessage, or the fields of one, not both.")
        return message
    try:
        return PushMessage(**fields)
    except TypeError as error:
        raise InvalidMessage(str(error).replace("PushMessage.__init__()", "The message")) from None


def _refusal(error: Exception) -> Verdict:
    return rejected(type(error).__name__, cut(error))


def _unsaved(alias: str, target: Target) -> AbstractPushToken:
    return get_token_model()(backend=alias, token=target.value, kind=target.kind)


def _doubted(refused: list[Ticket], count: int, backend: BasePushBackend) -> list[Ticket]:
    """Spare rows whose tokens are malformed in numbers: it is the alias's BACKEND that was changed.

    Each had been registered through a backend that accepted it.
    """
    malformed = [t for t in refused if t.outcome is Outcome.INVALID_TOKEN and t.pk is not None]
    if len(malformed) < max(DOUBT_FROM, DOUBT_SHARE * count):
        return refused
    logger.error(
        "%r: %d of %d tokens have not the form of its tokens: check PUSH_BACKENDS",
        backend,
        len(malformed),
        count,
    )
    return [
        dataclasses.replace(ticket, outcome=Outcome.REJECTED, detail="so are many: check PUSH_BACKENDS")
        if ticket.outcome is Outcome.INVALID_TOKEN
        else ticket
        for ticket in refused
    ]
