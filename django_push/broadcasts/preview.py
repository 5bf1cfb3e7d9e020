"""What a broadcast would do: how many, in which language, what cannot be said, and what would be sent.

Nothing is sent and nothing is written. No whole token is in a preview.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote_plus

from django.utils.module_loading import import_string

from django_push.backends.base import BasePushBackend
from django_push.broadcasts.audiences import LIST, chosen, counts, describe, specification, tokens_of
from django_push.handler import push_backends
from django_push.message import PushMessage
from django_push.outcomes import Target, TargetKind, cut, mask
from django_push.sending.texts import Personalize, Texts, tagged
from django_push.wire import Request

#: How many tokens of an alias are shown, and among how many of the first other languages are looked for.
SAMPLES = 3
SAMPLED_FROM = 100
#: How many locales of an alias are listed in text.
LISTED = 20
#: Stands for what a message without a tag is given when it is sent: the broadcast's number.
TAG = "broadcast-…"
#: A shorter token is no provider's, and may be a word of the text.
SHORT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one token would get.

    ``message`` has the fields in its language, ``payload`` the body of a request for it alone;
    ``refusal`` says why it would not be sent to. The token is masked wherever it comes up.
    """

    pk: int
    token: str
    locale: str
    language: str
    message: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    payload: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What would go through one alias.

    ``locales`` and ``languages`` count its tokens, by their own locale and by the text that they get: the
    language ``""`` is the default text, the message itself. ``left_out`` are fields that the provider
    cannot say, ``refusals`` by language why it is sure to refuse the message.
    """

    alias: str
    total: int
    locales: Mapping[str, int]
    languages: Mapping[str, int]
    left_out: Sequence[str]
    refusals: Mapping[str, str]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a broadcast would do now, through the alias ``using`` alone if there is one.

    ``skipped`` counts tokens that it would pass over, by reason.
    """

    audience: str
    using: str = ""
    total: int
    skipped: Mapping[str, int]
    parts: Sequence[Part]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        yield f"Audience: {through(self.audience, self.using)}"
        yield f"Tokens: {self.total:,}"
        for reason, n in self.skipped.items():
            yield f"Skipped ({reason}): {n:,}"
        for part in self.parts:
            yield from _lines(part)


def through(audience: str, using: str) -> str:
    """Return a described audience with the alias that it is narrowed to."""
    return f"{audience}; through {using} alone" if using else audience


def preview(
    message: PushMessage,
    audience: Any,
    *,
    using: str = "",
    translations: Mapping[str, PushMessage] | None = None,
    personalize: Personalize | str | None = None,
) -> Preview:
    """Return what a broadcast of the message to the audience would do now.

    ``audience`` is what ``specification`` takes; a list is read to its end. ``translations`` has the
    message of a language, ``personalize`` is a function or its dotted path. Raises InvalidAudience, and
    what sending would raise: UnsupportedOption, InvalidPushBackend.
    """
    aliases = [using] if using else list(push_backends)
    differing = import_string(personalize) if isinstance(personalize, str) else personalize
    said = _Said(message, translations or {}, differing)
    Texts(message, [push_backends[alias] for alias in aliases], differing, translations)  # may raise
    spec = specification(audience)
    found = _listed(audience, using) if spec["kind"] == LIST else _counted(spec, using)
    sizes = found.by_alias()
    return Preview(
        audience=describe(spec),
        using=using,
        total=sum(sizes.values()),
        skipped=dict(sorted(found.skipped.items())),
        parts=[_part(alias, found, said) for alias in sizes],
    )


# --- who ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """Tokens of configured aliases, counted by alias and locale, and some of each alias."""

    tokens: Counter[tuple[str, str]]
    skipped: Counter[str]
    pools: dict[str, list[Target]]

    def by_alias(self) -> dict[str, int]:
        sizes: Counter[str] = Counter()
        for (alias, _), n in self.tokens.items():
            sizes[alias] += n
        return dict(sorted(sizes.items()))


def _counted(spec: Mapping[str, Any], using: str) -> _Found:
    """Count in the database; one query, and one for each alias."""
    counted = counts(spec, using)
    unknown = counted.unconfigured
    tokens = Counter({key: n for key, n in counted.tokens.items() if key[0] not in unknown})
    skipped = Counter({"unknown_backend": sum(unknown.values())} if unknown else {})
    pools = {alias: _first(spec, alias) for alias in counted.by_alias if alias not in unknown}
    return _Found(tokens, skipped, pools)


def _first(spec: Mapping[str, Any], alias: str) -> list[Target]:
    rows = tokens_of(spec).filter(backend=alias).order_by("pk")
    columns = ("token", "pk", "kind", "project", "locale", "user_id")
    return [Target(*row) for row in rows.values_list(*columns)[:SAMPLED_FROM]]


def _listed(audience: Any, using: str) -> _Found:
    """Count by reading all of it."""
    found = _Found(Counter(), Counter(), {})
    for alias, targets in chosen(audience, using, skipped=found.skipped):
        found.tokens.update((alias, target.locale) for target in targets)
        pool = found.pools.setdefault(alias, [])
        pool += targets[: SAMPLED_FROM - len(pool)]
    return found


# --- and what -------------------------------------------------------------------------------------


class _Said(NamedTuple):
    """What is said, whoever carries it."""

    message: PushMessage
    translations: Mapping[str, PushMessage]
    personalize: Personalize | None


def _part(alias: str, found: _Found, said: _Said) -> Part:
    backend = push_backends[alias]
    texts = _texts(said, backend)
    locales = Counter({locale: n for (other, locale), n in found.tokens.items() if other == alias})
    languages: Counter[str] = Counter()
    for locale, n in locales.items():
        languages[texts.language(locale)] += n
    messages = {language: texts.rendered(language) for language in sorted(languages)}
    return Part(
        alias=alias,
        total=languages.total(),
        locales=dict(locales.most_common()),
        languages=dict(languages.most_common()),
        left_out=sorted({name for message in messages.values() for name in message.said - backend.fields}),
        refusals={
            language: f"{verdict.code}: {verdict.detail}"
            for language, message in messages.items()
            if (verdict := backend.refuse_message(message, TargetKind.TOKEN)) is not None
        },
        samples=_samples(_various(found.pools[alias], texts), texts, backend),
    )


def _texts(said: _Said, backend: BasePushBackend) -> Texts:
    """Return what is said through one backend, as it is when it is sent."""
    spoken = {language: tagged(message, TAG, backend) for language, message in said.translations.items()}
    return Texts(tagged(said.message, TAG, backend), [backend], said.personalize, spoken, is_checked=True)


def _various(pool: Sequence[Target], texts: Texts) -> list[Target]:
    """Return a few tokens, of different languages as far as there are."""
    firsts: dict[str, Target] = {}
    for target in pool:
        firsts.setdefault(texts.language(target.locale), target)
    return list(dict.fromkeys([*firsts.values(), *pool]))[:SAMPLES]


def _samples(targets: Sequence[Target], texts: Texts, backend: BasePushBackend) -> list[Sample]:
    groups, refused = texts.compose(targets, backend)
    messages = {target.pk: message for message, members in groups for target in members}
    refusals = {ticket.pk: f"{ticket.code}: {ticket.detail}" for ticket in refused}
    samples = []
    for target in targets:
        said: dict[str, Any] = {}
        if (message := messages.get(target.pk)) is not None:
            said["message"] = json.loads(_masked(json.dumps(message.to_json()), target))
            said["payload"] = _masked(_payload(message, target, backend), target)
        samples.append(
            Sample(
                pk=target.pk or 0,
                token=mask(target.value),
                locale=target.locale,
                language=texts.language(target.locale),
                refusal=refusals.get(target.pk, ""),
                **said,
            )
        )
    return samples


def _payload(message: PushMessage, target: Target, backend: BasePushBackend) -> str:
    """Return the body of the request that would be made, as pretty JSON if it is JSON."""
    shown = target._replace(value=mask(target.value))
    request = next(backend.build([(message, [shown])]))
    body = _body(request)
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, indent=2)
    except ValueError:
        return body


def _body(request: Request) -> str:
    headers = {name.lower(): value for name, value in request.headers.items()}
    is_packed = headers.get("content-encoding") == "gzip"
    return (gzip.decompress(request.body) if is_packed else request.body).decode(errors="replace")


def _masked(text: str, target: Target) -> str:
    """Return a text without the whole token, which a personal text may hold."""
    if len(target.value) < SHORT:
        return text
    for spelling in (target.value, json.dumps(target.value)[1:-1], quote_plus(target.value)):
        text = text.replace(spelling, mask(target.value))
    return text


def _lines(part: Part) -> Iterator[str]:
    yield f"{part.alias}: {part.total:,}"
    yield f"  by locale: {', '.join(_shares(part.locales, 'none'))}"
    yield f"  by text: {', '.join(_shares(part.languages, 'the default text'))}"
    if part.left_out:
        yield f"  left out, for the provider cannot say it: {', '.join(part.left_out)}"
    for language, why in part.refusals.items():
        yield f"  will be refused{f' ({language})' if language else ''}: {why}"
    for sample in part.samples:
        yield f"  {sample.token} {cut(sample.locale)}".rstrip()
        if sample.refusal:
            yield f"    will not be sent: {sample.refusal}"
        for line in sample.payload.splitlines():
            yield f"    {line}"


def _shares(counts: Mapping[str, int], unnamed: str) -> Iterator[str]:
    """Yield ``de 1,200`` for each, the largest first, and the rest in one."""
    for name, n in list(counts.items())[:LISTED]:
        yield f"{cut(name) or unnamed} {n:,}"
    if rest := list(counts.values())[LISTED:]:
        yield f"{len(rest)} others {sum(rest):,}"
