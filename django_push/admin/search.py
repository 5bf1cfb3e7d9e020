"""How the token list is searched: by exact token, by device ID, by user. Each question has an index.

Nothing is ever compared with a part of a token, and a token never stands in a URL: its digest does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.db.models import QuerySet

from django_push.models import digest

#: What stands before a digest in the search field and the URL.
PREFIX = "sha256:"
#: The most tokens that a search finds, the newest first; and the most users it looks at.
MAX_FOUND = 1000
MAX_USERS = 100
#: Longer than user names, addresses and device IDs are: a token, though none of ours.
TOKEN_LENGTH = 64


def without_token(term: str, rows: QuerySet[Any]) -> str:
    """Return what may stand in a URL in place of a search term: for a token, its digest."""
    term = term.strip()
    if not term or term.startswith(PREFIX):
        return term
    is_token = len(term) > TOKEN_LENGTH or "[" in term or rows.filter(token_digest=digest(term)).exists()
    return PREFIX + digest(term) if is_token else term


def find(term: str, rows: QuerySet[Any]) -> list[int]:
    """Return the keys of the rows that a search term names; a fixed number of small queries."""
    if term.startswith(PREFIX):
        return _newest(rows.filter(token_digest=term.removeprefix(PREFIX)))
    found = _newest(rows.filter(token_digest=digest(term)))
    if found:
        return found
    found = _newest(rows.filter(device_id=term))
    if users := _find_users(term):
        found += _newest(rows.filter(user_id__in=users))
    return sorted(set(found), reverse=True)[:MAX_FOUND]


def _newest(rows: QuerySet[Any]) -> list[int]:
    return list(rows.order_by("-pk").values_list("pk", flat=True)[:MAX_FOUND])


def _find_users(term: str) -> list[Any]:
    """Return the keys of users: by key, by the beginning of the name, by the whole email address."""
    model = get_user_model()
    users = model._default_manager.order_by()
    name = model._meta.get_field(model.USERNAME_FIELD)
    found: list[Any] = list(_as_key(term, model))
    if isinstance(name, (models.CharField, models.TextField)):
        found += _keys(users.filter(**{f"{name.name}__in": {term, term.lower()}}))
        found += _keys(users.filter(**{f"{name.name}__startswith": term}))
    email = getattr(model, "EMAIL_FIELD", "")
    # Often without an index, so it is asked only for what can be an address.
    if "@" in term and email != name.name and _has_field(model, email):
        local, _at, domain = term.rpartition("@")
        found += _keys(users.filter(**{f"{email}__in": {term, term.lower(), f"{local}@{domain.lower()}"}}))
    return list(dict.fromkeys(found))[:MAX_USERS]


def _keys(users: QuerySet[Any]) -> list[Any]:
    return list(users.values_list("pk", flat=True)[:MAX_USERS])


def _as_key(term: str, model: type[models.Model]) -> Iterable[Any]:
    key = model._meta.pk
    if term.isdecimal() and len(term) > 18:  # more than a database's integer holds
        return
    try:
        yield key.to_python(term)
    except (ValidationError, ValueError):
        return


def _has_field(model: type[models.Model], name: str) -> bool:
    try:
        model._meta.get_field(name)
    except FieldDoesNotExist:
        return False
    return True
