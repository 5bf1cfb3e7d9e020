"""Receipts that are awaited and problems that they reported: to be read, not written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from django_push.admin.filters import AliasFilter, OutcomeFilter
from django_push.admin.lists import CappedPaginator, IndexedChangeList
from django_push.admin.words import OUTCOMES
from django_push.models import PushProblem, get_token_model

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


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


class ReceiptBatchAdmin(ReadOnlyAdmin):
    """Which receipts are still to be asked for. The ids in a batch are packed and not shown."""

    list_display = ("id", "backend", "size", "sent_at", "due_at", "attempts", "deadline")
    list_filter = (AliasFilter,)
    fields = ("backend", "size", "sent_at", "due_at", "deadline", "attempts")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class PushProblemAdmin(ReadOnlyAdmin):
    """Failures that are no dead token. They may be deleted when they have been dealt with."""

    list_display = ("id", "created", "backend", "outcome", "code", "detail", "token_link")
    list_filter = (AliasFilter, OutcomeFilter)
    fields = ("created", "backend", "outcome_words", "code", "detail", "token_link")

    @admin.display(description=_("outcome"))
    def outcome_words(self, problem: PushProblem) -> Any:
        return OUTCOMES.get(problem.outcome, problem.outcome)

    @admin.display(description=_("token"))
    def token_link(self, problem: PushProblem) -> Any:
        """Link to the token's page; the row may be gone."""
        if problem.token_id is None:
            return None
        opts = get_token_model()._meta
        name = f"admin:{opts.app_label}_{opts.model_name}_change"
        try:
            url = reverse(name, args=[problem.token_id], current_app=self.admin_site.name)
        except NoReverseMatch:  # this site has no admin for tokens
            return problem.token_id
        return format_html('<a href="{}">{}</a>', url, problem.token_id)
