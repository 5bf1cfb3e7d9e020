"""What the pages of broadcasts share: who may see and do what, where a row comes from, how a page is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from django_push.broadcasts.rows import database
from django_push.models import Broadcast
from django_push.wake import get_dispatcher

if TYPE_CHECKING:
    BroadcastModelAdmin = admin.ModelAdmin[Broadcast]
else:
    BroadcastModelAdmin = admin.ModelAdmin

TEMPLATES = "admin/django_push/broadcast"


class BroadcastPages(BroadcastModelAdmin):
    """Adds the permission ``broadcast_push``; to see broadcasts is another."""

    #: How many workers a broadcast is made with here; 0 leaves all of them to push_tick.
    push_workers = 1

    def has_broadcast_push_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this user may make broadcasts and press their buttons."""
        return request.user.has_perm(f"{self.opts.app_label}.broadcast_push")

    def _check_may_broadcast(self, request: HttpRequest, row: Broadcast | None = None) -> None:
        may_see = self.has_view_or_change_permission(request, row)
        if not (may_see and self.has_broadcast_push_permission(request, row)):
            raise PermissionDenied

    def _unbound(self, view: Any) -> Any:
        """Wrap a view for the site, outside of transactions: each verb has its own, and tries it again."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return self.admin_site.admin_view(view)(*args, **kwargs)

        for alias in connections:
            wrapped = transaction.non_atomic_requests(alias)(wrapped)
        return wrapped

    def _row(self, request: HttpRequest, key: int | str) -> Broadcast:
        """Return a broadcast that this user sees, from where broadcasts are written."""
        text = str(key)
        found = None
        if text.isascii() and text.isdecimal() and len(text) <= 18:
            found = self.get_queryset(request).using(database()).filter(pk=int(text)).first()
        if found is None:
            raise Http404
        return found

    def _workers(self) -> int | None:
        """Return how many workers to wake: as many as the broadcast was made with (None).

        But none where they would do their work within this request.
        """
        return None if works_elsewhere() and self.push_workers else 0

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "list_crumbs": django.VERSION >= (6, 1),
            "works_elsewhere": works_elsewhere(),
            "time_zone": timezone.get_current_timezone_name(),
        }
        return TemplateResponse(request, f"{TEMPLATES}/{template}", shared | context)

    def _url(self, name: str, *args: Any) -> str:
        full = f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}"
        return reverse(full, args=args, current_app=self.admin_site.name)

    def _to_page_of(self, row: Broadcast) -> HttpResponse:
        return HttpResponseRedirect(self._url("change", row.pk))


def works_elsewhere() -> bool:
    """Whether PUSH_DISPATCHER hands jobs over to other processes.

    A dispatcher that can make a job wait has somewhere to keep it. One that cannot may run it at
    once, and a request is no place to send for a minute: ``push_tick`` finds the broadcast.
    """
    try:
        return bool(getattr(get_dispatcher(), "can_defer", False))
    except (ImportError, ImproperlyConfigured):  # the system checks say what is wrong with it
        return False
