"""The admin of broadcasts: what they say, how far they are, and their buttons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_confirmed
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_push.admin.broadcasts_compose import ComposeAdmin
from django_push.admin.broadcasts_control import ControlAdmin, buttons, lane_buttons
from django_push.admin.broadcasts_pages import TEMPLATES, works_elsewhere
from django_push.admin.broadcasts_progress import Figures, figures_of, picture, share, tokens_of
from django_push.admin.broadcasts_words import (
    at,
    audience,
    facts,
    fields,
    headline,
    number,
    reason,
    short_time,
)
from django_push.admin.lists import CappedPaginator, IndexedChangeList
from django_push.broadcasts.rows import again_if_lost, batches, broadcasts, database, lanes, lock_lanes
from django_push.models import FINAL, BatchStatus, Broadcast, BroadcastStatus, PushProblem


class BroadcastChangeList(IndexedChangeList):
    """Reads the figures of all rows of the page at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        figures = figures_of(rows)
        for row in rows:
            row.push_figures = figures[row.pk]
        self.result_list = rows


class BroadcastAdmin(ControlAdmin, ComposeAdmin):
    """Broadcasts. Nobody writes a row: they are composed, and their buttons pressed."""

    list_display = (
        "id", "headline", "state", "figures", "audience_words", "who", "times",
    )  # fmt: skip
    list_display_links = ("id", "headline")
    list_filter = ("status",)
    list_per_page = 25
    ordering = ("-pk",)
    sortable_by = ("id",)
    paginator = CappedPaginator
    show_full_result_count = False
    search_fields = ("name", "idempotency_key")
    search_help_text = gettext_lazy("A part of a name or of an idempotency key.")
    actions = ("delete_selected",)

    class Media:
        css = {"all": ["django_push/admin.css", "django_push/broadcasts.css"]}

    # --- columns ----------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("broadcast"))
    def headline(self, row: Broadcast) -> str:
        return headline(row)

    @admin.display(description=gettext_lazy("status"))
    def state(self, row: Broadcast) -> str:
        """Show the status, and why it is paused."""
        shown = '<span class="push-state push-state-{}">{}</span>'
        status = format_html(shown, row.status, row.get_status_display())
        if row.status != BroadcastStatus.PAUSED:
            return status
        return format_html('{} <span class="push-reason">{}</span>', status, reason(row.pause_reason))

    @admin.display(description=gettext_lazy("progress"))
    def figures(self, row: Any) -> str:
        """Show how many tokens have been told of, and what came of it."""
        found: Figures = row.push_figures
        if row.started_at is None:
            return ""
        parts = [
            (found.accepted, _("%(n)s accepted")),
            (found.failed, _("%(n)s failed")),
            (found.unknown, _("%(n)s unknown")),
        ]
        return format_html(
            '<progress class="push-bar" max="{}" value="{}">{}</progress>'
            '<span class="push-told">{}</span> <span class="push-reason">{}</span>',
            max(found.total, 1),
            found.told if found.total else 1,
            share(found.told, found.total),
            tokens_of(found.told, found.total),
            ", ".join(words % {"n": number(n)} for n, words in parts if n),
        )

    @admin.display(description=gettext_lazy("audience"))
    def audience_words(self, row: Broadcast) -> str:
        return audience(row)

    @admin.display(description=gettext_lazy("created by"))
    def who(self, row: Broadcast) -> str | None:
        return row.created_by_name or None

    @admin.display(description=gettext_lazy("times"))
    def times(self, row: Broadcast) -> str:
        """Show for when it was scheduled, when it started and when it ended."""
        found = [
            (_("scheduled for %(time)s"), row.scheduled_at if row.started_at is None else None),
            (_("started %(time)s"), row.started_at),
            (_("finished %(time)s"), row.finished_at),
        ]
        lines = [(words % {"time": short_time(at(time))},) for words, time in found if time]
        return format_html_join("", '<span class="push-time">{}</span>', lines)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BroadcastChangeList]:
        return BroadcastChangeList

    # --- one broadcast ----------------------------------------------------------------------------

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_live"
        live = path("<int:key>/live/", self.admin_site.admin_view(self.live_view), name=name)
        return [live, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a broadcast. What changes while it goes on is fetched anew from the live view."""
        row = self._row(request, object_id)
        if request.method != "GET" or not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        context = self._live(request, row) | {
            "title": headline(row),
            "crumb": headline(row),
            "message": row.message,
            "spoken": row.translations,
            "fields": list(fields(row.message)),
            "facts": list(facts(row)),
            "control_url": self._url("control", row.pk),
            "history_url": self._url("history", row.pk),
            "delete_url": self._url("delete", row.pk) if self.has_delete_permission(request, row) else "",
            "problems_url": self._problems_url(request, row),
            **(extra_context or {}),
        }
        return self._page(request, "detail.html", context)

    def live_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Return the part of the page that changes, and nothing around it."""
        row = self._row(request, key)
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        return TemplateResponse(request, f"{TEMPLATES}/live.html", self._live(request, row))

    def _live(self, request: HttpRequest, row: Broadcast) -> dict[str, Any]:
        shown = picture(row)
        may = self.has_broadcast_push_permission(request, row)
        of_lanes = lane_buttons(row, shown["progress"]) if may else {}
        for lane in shown["lanes"]:
            lane["buttons"] = of_lanes.get(lane["alias"], [])
        return shown | {
            "live_url": self._url("live", row.pk),
            "buttons": buttons(row, shown["progress"]) if may else [],
            "has_lane_buttons": any(of_lanes.values()),
            "works_elsewhere": works_elsewhere(),
        }

    def _problems_url(self, request: HttpRequest, row: Broadcast) -> str:
        """Return where its problems are listed, if there are any and this user sees them."""
        opts = PushProblem._meta
        if not request.user.has_perm(f"{opts.app_label}.view_{opts.model_name}"):
            return ""
        if not PushProblem.objects.using(database()).filter(broadcast_id=row.pk).exists():
            return ""
        name = f"admin:{opts.app_label}_{opts.model_name}_changelist"
        try:
            return f"{reverse(name, current_app=self.admin_site.name)}?broadcast={row.pk}"
        except NoReverseMatch:  # this site has no admin for problems
            return ""

    # --- deleting ---------------------------------------------------------------------------------

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only what is over is deleted, and only when no worker has anything of it."""
        return (obj is None or _are_over([obj.pk])) and super().has_delete_permission(request, obj)

    @admin.action(permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s"))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Delete as Django's own action does, if all of the selected are over."""
        keys = list(queryset.order_by().values_list("pk", flat=True))
        if not _are_over(keys):
            said = _("A broadcast that is not over cannot be deleted; cancel it first. Nothing was deleted.")
            self.message_user(request, said, messages.ERROR)
            return None
        return delete_confirmed(self, request, queryset)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Name the broadcasts, and not each of their thousands of batches."""
        names = [f"{row.pk}: {headline(row)}" for row in objs]
        return names, {str(self.opts.verbose_name_plural): len(names)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Broadcast) -> None:
        _delete([obj.pk])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        _delete(list(queryset.order_by("pk").values_list("pk", flat=True)))


def _are_over(keys: Sequence[int]) -> bool:
    """Whether these have ended, and no worker is still to tell what came of a part."""
    over = broadcasts().filter(pk__in=keys, status__in=FINAL).count() == len(keys)
    return over and not batches().filter(lane__broadcast_id__in=keys, status=BatchStatus.LEASED).exists()


def _delete(keys: Sequence[int]) -> None:
    """Delete broadcasts, unless one has been woken to life again meanwhile."""

    def write() -> None:
        with transaction.atomic(using=database()):
            broadcasts().filter(pk__in=keys).update(protocol=F("protocol"))  # locks them, before their lanes
            lock_lanes(lanes().filter(broadcast_id__in=keys))
            if not _are_over(keys):
                raise PermissionDenied
            broadcasts().filter(pk__in=keys).delete()

    again_if_lost(write)
