"""The filters of the token list. Their choices are fixed, so that showing them reads no row.

Django's facets of such filters are a subquery per choice; these are one pass over the rows per filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_push.conf import push_settings
from django_push.outcomes import Outcome


class ConditionFilter(admin.SimpleListFilter):
    """A filter whose choices are conditions: ``conditions`` maps a value to its label and its Q."""

    def conditions(self) -> Mapping[str, tuple[Any, Q]]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return [(value, label) for value, (label, _condition) in self.conditions().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = self.conditions().get(self.value() or "")
        return queryset.filter(found[1]) if found else queryset

    def get_facet_counts(self, pk_attname: str, filtered_qs: QuerySet[Any]) -> dict[str, Any]:
        conditions = self.conditions()
        return {
            f"{i}__c": Count(pk_attname, filter=conditions[value][1])
            for i, (value, _label) in enumerate(self.lookup_choices)
        }


class AliasFilter(ConditionFilter):
    """By alias; one more choice for rows whose alias is no longer configured."""

    title = _("alias")
    parameter_name = "backend"

    def conditions(self) -> Mapping[str, tuple[Any, Q]]:
        aliases = list(push_settings.backends)
        found: dict[str, tuple[Any, Q]] = {alias: (alias, Q(backend=alias)) for alias in aliases}
        found[" "] = (_("not in PUSH_BACKENDS"), ~Q(backend__in=aliases))
        return found


class PlatformFilter(ConditionFilter):
    """By platform. Subclass it to name more than the usual ones."""

    title = _("platform")
    parameter_name = "platform"
    platforms: ClassVar[Mapping[str, str]] = {"ios": "iOS", "android": "Android", "web": "Web"}

    def conditions(self) -> Mapping[str, tuple[Any, Q]]:
        found: dict[str, tuple[Any, Q]] = {
            name: (label, Q(platform=name)) for name, label in self.platforms.items()
        }
        found["other"] = (_("other"), ~Q(platform__in=["", *self.platforms]))
        found["none"] = (_("not known"), Q(platform=""))
        return found


class LastSeenFilter(ConditionFilter):
    """By the last time that the app was heard of."""

    title = _("last seen")
    parameter_name = "seen"

    def conditions(self) -> Mapping[str, tuple[Any, Q]]:
        now = timezone.now()

        def since(days: int) -> Q:
            return Q(last_seen_at__gte=now - timedelta(days=days))

        def before(days: int) -> Q:
            return Q(last_seen_at__lt=now - timedelta(days=days))

        return {
            "1d": (_("Past 24 hours"), since(1)),
            "7d": (_("Past 7 days"), since(7)),
            "30d": (_("Past 30 days"), since(30)),
            "over30d": (_("More than 30 days ago"), before(30)),
            # FCM expires Android tokens after 270 idle days.
            "over270d": (_("More than 270 days ago"), before(270)),
            "never": (_("Never"), Q(last_seen_at=None)),
        }


class OutcomeFilter(ConditionFilter):
    """By outcome, of problems."""

    title = _("outcome")
    parameter_name = "outcome"

    def conditions(self) -> Mapping[str, tuple[Any, Q]]:
        return {str(outcome): (str(outcome), Q(outcome=str(outcome))) for outcome in Outcome}
