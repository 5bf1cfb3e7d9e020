"""Receipts that are awaited and problems that they reported: to be read, not written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from django_push.admin.filters import AliasFilter, OutcomeFilter
from django_push.admin.lists import CappedPaginator, IndexedChangeList
from django_push.admin.words import OUTCOMES
from django_push.models import Broadcast, PushProblem, get_token_model

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class BroadcastFilter(admin.SimpleListFilter):
    """By the broadcast that a link has led here from; there may be thousands, and none is listed."""

    title = _("broadcast")
    parameter_name = "broadcast"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        key = self.value() or ""
        return [(key, key)] if key.isascii() and key.isdecimal() and len(key) <= 18 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(broadcast_id=int(key)) if (key := self.value()) else queryset


class ReadOnlyAdmin(ModelAdmin):
    """For rows that the app itself writes: nobody adds or changes one."""

    ordering = ("-pk",)
    sortable_by = ("id",)
    paginator = CappedPaginator
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[IndexedChangeList]:
        return IndexedChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _link(self, opts: Any, key: int | None) -> Any:
        """Link to a row's page by its key alone; the row may be gone, and the site have no admin for it."""
        if key is None:
            return None
        name = f"admin:{opts.app_label}_{opts.model_name}_change"
        try:
            url = reverse(name, args=[key], current_app=self.admin_site.name)
        except NoReverseMatch:
            return key
        return format_html('<a href="{}">{}</a>', url, key)

    @admin.display(description=_("broadcast"))
    def broadcast_link(self, row: Any) -> Any:
        return self._link(Broadcast._meta, row.broadcast_id)


class ReceiptBatchAdmin(ReadOnlyAdmin):
    """Which receipts are still to be asked for. The ids in a batch are packed and not shown."""

    list_display = ("id", "backend", "size", "sent_at", "due_at", "attempts", "deadline", "broadcast_link")
    list_filter = (AliasFilter, BroadcastFilter)
    fields = ("backend", "size", "sent_at", "due_at", "deadline", "attempts", "broadcast_link")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class PushProblemAdmin(ReadOnlyAdmin):
    """Failures that are no dead token. They may be deleted when they have been dealt with."""

    list_display = ("id", "created", "backend", "outcome", "code", "detail", "token_link", "broadcast_link")
    list_filter = (AliasFilter, OutcomeFilter, BroadcastFilter)
    fields = ("created", "backend", "outcome_words", "code", "detail", "token_link", "broadcast_link")

    @admin.display(description=_("outcome"))
    def outcome_words(self, problem: PushProblem) -> Any:
        return OUTCOMES.get(problem.outcome, problem.outcome)

    @admin.display(description=_("token"))
    def token_link(self, problem: PushProblem) -> Any:
        return self._link(get_token_model()._meta, problem.token_id)
