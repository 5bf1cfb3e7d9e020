"""The admin of push tokens: found by exact questions, shown masked, changed by the verbs of ``tokens``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_confirmed
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.debug import sensitive_post_parameters

from django_push import tokens
from django_push.admin import history
from django_push.admin.filters import AliasFilter, LastSeenFilter, PlatformFilter
from django_push.admin.forms import TokenAddForm
from django_push.admin.lists import CappedPaginator, IndexedChangeList
from django_push.admin.search import find, without_token
from django_push.admin.sending import TEMPLATES, SendPushAdmin
from django_push.admin.words import reason
from django_push.models import AbstractPushToken, TokenSource, TokenStatus

#: What only the verbs of ``django_push.tokens`` write, whatever a subclass puts on its form.
OWNED = frozenset(
    {
        "user", "backend", "token", "token_digest", "kind", "device_id", "project", "status",
        "status_changed", "status_code", "status_source", "replaced_by", "registered_at",
    }
)  # fmt: skip
#: How many rows one statement of an action changes.
PAGE = 1000


class PushTokenAdmin(SendPushAdmin):
    """Tokens. Subclass it for a token model of your own.

    Users are never listed whole, and rows are never counted further than a list needs.
    """

    list_display = (
        "id", "masked_token", "user", "backend", "platform", "state", "enabled", "last_seen_at",
    )  # fmt: skip
    list_display_links = ("id", "masked_token")
    list_filter = (
        AliasFilter, "status", "enabled", PlatformFilter, "kind", LastSeenFilter,
    )  # fmt: skip
    list_select_related = ("user",)
    ordering = ("-pk",)
    #: Only what an index orders.
    sortable_by = ("id",)
    paginator = CappedPaginator
    show_full_result_count = False
    #: Shows the search field; how it is searched is ``get_search_results``.
    search_fields = ("token_digest",)
    search_help_text = gettext_lazy(
        "A user's name (or how it begins), email address or ID; a device ID; or a whole token."
    )
    raw_id_fields = ("user",)
    readonly_fields = ("masked_token", "reason", "created", "last_seen_at")
    add_form = TokenAddForm
    add_fieldsets = (
        (None, {"fields": ("token", "backend", "kind", "user")}),
        (
            gettext_lazy("Device"),
            {"fields": ("platform", "device_id", "device_name", "app_version", "locale", "timezone")},
        ),
    )
    fieldsets = (
        (None, {"fields": ("masked_token", "user", "backend", "kind", "enabled")}),
        (
            gettext_lazy("Status"),
            {
                "fields": (
                    "status", "reason", "status_changed", "replaced_by", "registered_at",
                    "last_seen_at", "created",
                )
            },
        ),
        (
            gettext_lazy("Device"),
            {
                "fields": (
                    "device_name", "platform", "app_version", "locale", "timezone", "device_id", "project",
                )
            },
        ),
        (gettext_lazy("Metadata"), {"classes": ("collapse",), "fields": ("metadata",)}),
    )  # fmt: skip
    actions = (
        "send_push_to_selected", "enable_selected", "disable_selected", "deactivate_selected",
        "reactivate_selected", "delete_selected",
    )  # fmt: skip
    #: The most tokens that one press of an action changes, and deletes.
    max_changes = 10_000
    max_deletions = 500
    change_form_template = f"{TEMPLATES}/change_form.html"
    change_list_template = f"{TEMPLATES}/change_list.html"

    class Media:
        css = {"all": ["django_push/admin.css"]}

    # --- columns ----------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("token"))
    def masked_token(self, token: AbstractPushToken) -> str:
        return token.masked

    @admin.display(description=gettext_lazy("status"))
    def state(self, token: AbstractPushToken) -> str:
        """Show the status, and the reason for one that stops pushes."""
        status = token.get_status_display()
        if token.status == TokenStatus.ACTIVE:
            return format_html('<span class="push-state push-state-active">{}</span>', status)
        shown = '<span class="push-state">{}</span> <span class="push-reason">{}</span>'
        return format_html(shown, status, self.reason(token))

    @admin.display(description=gettext_lazy("reason"))
    def reason(self, token: AbstractPushToken) -> str:
        return reason(token.status_code, token.status_source)

    # --- the list ---------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_search"
        search = self.admin_site.admin_view(self.search_view)
        return [path("search/", search, name=name), *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[IndexedChangeList]:
        return IndexedChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        # ?token__startswith=… would spell a token out, letter by letter.
        hidden = lookup.split("__", maxsplit=1)[0] in ("token", "token_digest")
        return not hidden and super().lookup_allowed(lookup, value, request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        # Each filter's facets ask again.
        known: dict[str, list[int]] = request.__dict__.setdefault("_push_found", {})
        if term not in known:
            known[term] = find(term, self.get_queryset(request))
        return queryset.filter(pk__in=known[term]), False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list. A token in the URL is replaced by its digest before a page repeats it."""
        term = request.GET.get(SEARCH_VAR, "").strip()
        if term and request.method == "GET" and self.has_view_or_change_permission(request):
            safe = without_token(term, self.get_queryset(request))
            if safe != term:
                return self._to_search(request, safe)
        context = {"search_url": self._search_url(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    @method_decorator(sensitive_post_parameters(SEARCH_VAR))
    def search_view(self, request: HttpRequest) -> HttpResponse:
        """Take a search by POST, so that a token never stands in a URL, and show its list."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        term = request.POST.get(SEARCH_VAR, "")
        return self._to_search(request, without_token(term, self.get_queryset(request)))

    def _to_search(self, request: HttpRequest, term: str) -> HttpResponse:
        """Redirect to the list with this search and the filters there are."""
        query = self._filters(request)
        if term:
            query[SEARCH_VAR] = [term]
        return HttpResponseRedirect(f"{self._url('changelist')}?{urlencode(query, doseq=True)}")

    def _search_url(self, request: HttpRequest) -> str:
        return f"{self._url('search')}?{urlencode(self._filters(request), doseq=True)}"

    def _filters(self, request: HttpRequest) -> dict[str, list[str]]:
        return {k: list(v) for k, v in request.GET.lists() if k not in (SEARCH_VAR, PAGE_VAR)}

    # --- one token --------------------------------------------------------------------------------

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        return (*super().get_readonly_fields(request, obj), *sorted(OWNED))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs.setdefault("form", self.add_form)
        return super().get_form(request, obj, change, **kwargs)

    @method_decorator(sensitive_post_parameters("token"))
    def add_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().add_view(request, *args, **kwargs)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {
            "send_push_url": self._url("send_push") if self.has_send_push_permission(request) else "",
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:  # it is registered: that was the form's validation
            if not form.created:
                said = _("The token was registered already. It is active and has what you have given.")
                self.message_user(request, said, messages.WARNING)
            return
        facts = [name for name in form.changed_data if name not in OWNED | {"enabled"}]
        if facts:
            obj.save(update_fields=facts)
        if "enabled" in form.changed_data:
            tokens.set_enabled(self._rows(request, [obj.pk]), form.cleaned_data["enabled"])

    # --- actions ----------------------------------------------------------------------------------

    @admin.action(permissions=["change"], description=gettext_lazy("Enable selected tokens"))
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change(
            request,
            queryset.filter(enabled=False),
            lambda rows: tokens.set_enabled(rows, True),
            _("Enabled."),
            lambda n: ngettext("%(count)d token was enabled.", "%(count)d tokens were enabled.", n),
        )

    @admin.action(permissions=["change"], description=gettext_lazy("Disable selected tokens (mute)"))
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change(
            request,
            queryset.filter(enabled=True),
            lambda rows: tokens.set_enabled(rows, False),
            _("Disabled."),
            lambda n: ngettext("%(count)d token was disabled.", "%(count)d tokens were disabled.", n),
        )

    @admin.action(
        permissions=["change"],
        description=gettext_lazy("Deactivate selected tokens (until they register again)"),
    )
    def deactivate_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change(
            request,
            queryset.filter(status=TokenStatus.ACTIVE),
            lambda rows: tokens.deactivate(rows, code="staff", source=TokenSource.ADMIN),
            _("Deactivated."),
            lambda n: ngettext("%(count)d token was deactivated.", "%(count)d tokens were deactivated.", n),
        )

    @admin.action(permissions=["change"], description=gettext_lazy("Reactivate selected tokens"))
    def reactivate_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change(
            request,
            queryset.filter(~Q(status=TokenStatus.ACTIVE)),
            lambda rows: tokens.reactivate(rows, source=TokenSource.ADMIN),
            _("Reactivated."),
            lambda n: ngettext("%(count)d token was reactivated.", "%(count)d tokens were reactivated.", n),
        )

    @admin.action(permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s"))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Delete as Django's own action does, which lists each row, but not a million of them."""
        if len(queryset.order_by().values_list("pk")[: self.max_deletions + 1]) > self.max_deletions:
            self._refuse_changes(request, self.max_deletions)
            return None
        return delete_confirmed(self, request, queryset)

    def _change(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        verb: Callable[[QuerySet[Any]], int],
        entry: str,
        done: Callable[[int], str],
    ) -> None:
        """Apply a verb to those of the selected rows that need it; log and report how many it changed."""
        keys = list(queryset.order_by().values_list("pk", flat=True)[: self.max_changes + 1])
        if len(keys) > self.max_changes:
            self._refuse_changes(request, self.max_changes)
            return
        keys.sort()
        count = sum(verb(self._rows(request, page)) for page in _pages(keys))
        history.log(request.user, self._rows(request, keys), keys, entry)
        level = messages.SUCCESS if count else messages.INFO
        self.message_user(request, done(count) % {"count": count}, level)

    def _refuse_changes(self, request: HttpRequest, most: int) -> None:
        said = _(
            "This would change more than %(most)d tokens, and nothing was changed. Select fewer, or use "
            "the verbs of django_push.tokens in code."
        )
        self.message_user(request, said % {"most": most}, messages.ERROR)


def _pages(keys: Sequence[int]) -> list[Sequence[int]]:
    return [keys[start : start + PAGE] for start in range(0, len(keys), PAGE)]
