"""Short words for the tests of token state."""

from datetime import timedelta

from django.db.models import Q

from django_push import Outcome, Ticket, register_token
from django_push.models import TokenStatus, get_token_model
from django_push.outcomes import Target
from django_push.tokens.writing import write

ACTIVE, REPLACED, RETIRED = TokenStatus.ACTIVE, TokenStatus.REPLACED, TokenStatus.RETIRED
UNREGISTERED, INVALID = TokenStatus.UNREGISTERED, TokenStatus.INVALID


def register(token, user=None, backend="default", **facts):
    """Return the row of a registration."""
    return register_token(token, user=user, backend=backend, **facts)[0]


def ticket(row, outcome=Outcome.ACCEPTED, **more):
    """Return what the provider says about a row as it is in memory."""
    target = Target(more.pop("token", row.token), row.pk)
    return Ticket(target=target, outcome=outcome, backend=row.backend, **more)


def dead(row, code="DeviceNotRegistered", **more):
    return ticket(row, Outcome.UNREGISTERED, code=code, **more)


def canonical(row, new):
    return ticket(row, replacement=new)


def fresh(row):
    """Return the row as it is in the database."""
    return get_token_model()._base_manager.get(pk=row.pk)


def state(*rows):
    """Return the statuses of rows as they are in the database."""
    return [fresh(row).status for row in rows]


def snapshot():
    """Return everything about all rows but when they were last written."""
    columns = [f.attname for f in get_token_model()._meta.concrete_fields if f.attname != "modified"]
    return list(get_token_model()._base_manager.order_by("pk").values(*columns))


def age(row, **ago):
    """Let a row have been last seen so long ago."""
    row = fresh(row)
    seen = row.last_seen_at - timedelta(**ago)
    write(Q(pk=row.pk), {"last_seen_at": seen, "created": seen, "status_changed": seen})
