"""A push from the admin: composed, looked at, sent once, accounted for.

The pages pass the primary keys of the selected tokens along. Nothing is sent but by a POST of the
preview, and each preview is sent at most once, however often its button is pressed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import django
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.sessions.backends.base import CreateError, SessionBase
from django.core.exceptions import PermissionDenied
from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.crypto import get_random_string
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_push.admin import history
from django_push.admin.forms import SendPushForm
from django_push.admin.words import OUTCOMES, SKIPPED
from django_push.exceptions import PushError
from django_push.models import AbstractPushToken
from django_push.outcomes import Outcome, PushResult
from django_push.sending import send_push

if TYPE_CHECKING:
    TokenModelAdmin = admin.ModelAdmin[AbstractPushToken]
else:
    TokenModelAdmin = admin.ModelAdmin

#: Where a session keeps the results of its last pushes, and of how many.
RESULTS = "django_push.admin.results"
KEEP_RESULTS = 3
#: How many tokens a result names, and how many a compose page.
NAMED = 20
#: The alphabet of session keys: a nonce is one.
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
TEMPLATES = "admin/django_push/pushtoken"


class SendPushAdmin(TokenModelAdmin):
    """Adds the action and the pages that send a push, for staff with the permission ``send_push``."""

    #: The most tokens that one request sends to.
    max_push_tokens = 1000
    send_push_form = SendPushForm

    def has_send_push_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this user may send pushes; to change tokens is another permission."""
        return request.user.has_perm(f"{self.opts.app_label}.send_push")

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        own = [
            path("send-push/", self._unbound(self.send_push_view), name=f"{name}_send_push"),
            path("send-push/<str:nonce>/", self._unbound(self.push_sent_view), name=f"{name}_push_sent"),
        ]
        return [*own, *super().get_urls()]

    def _unbound(self, view: Any) -> Any:
        """Wrap a view for the site, outside of transactions: a rollback would forget verdicts."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return self.admin_site.admin_view(view)(*args, **kwargs)

        for alias in connections:
            wrapped = transaction.non_atomic_requests(alias)(wrapped)
        return wrapped

    # --- the pages --------------------------------------------------------------------------------

    @admin.action(permissions=["send_push"], description=gettext_lazy("Send a push…"))
    def send_push_to_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Open the page where a push to the selected tokens is composed."""
        newest = queryset.order_by("-pk").values_list("pk", flat=True)
        keys = list(newest[: self.max_push_tokens + 1])
        if len(keys) > self.max_push_tokens:
            self._refuse_so_many(request)
            return None
        return self._compose(request, keys, self.send_push_form())

    def send_push_view(self, request: HttpRequest) -> HttpResponse:
        """Compose, preview and send, one step after the other."""
        self._check_may_send(request)
        sent = request.POST if request.method == "POST" else request.GET
        keys = self._selected(request, sent.get("tokens", ""))
        if not keys:
            self.message_user(request, _("No token is selected."), messages.WARNING)
            return self._to_list()
        if len(keys) > self.max_push_tokens:
            self._refuse_so_many(request)
            return self._to_list()
        if request.method != "POST":
            return self._compose(request, keys, self.send_push_form())
        form = self.send_push_form(request.POST)
        plan = self._plan(form, self._rows(request, keys)) if form.is_valid() else None
        if plan is None or "_edit" in request.POST:
            return self._compose(request, keys, form)
        nonce = request.POST.get("nonce", "")
        if "_send" in request.POST and re.fullmatch(f"[{ALPHABET}]{{32}}", nonce):
            return self._send(request, keys, form, nonce)
        return self._preview(request, keys, form, plan)

    def push_sent_view(self, request: HttpRequest, nonce: str) -> HttpResponse:
        """Say what became of a push that this session has sent."""
        self._check_may_send(request)
        result = request.session.get(RESULTS, {}).get(nonce)
        if result is None:
            self.message_user(
                request,
                _("Nothing is known of this push: it is under way, or was sent from another session."),
                messages.WARNING,
            )
            return self._to_list()
        rows = self.get_queryset(request).in_bulk([key for key, *_rest in result["failed"]])
        context = {
            "title": _("What became of the push"),
            "subtitle": result["title"],
            "result": result,
            "outcomes": [(OUTCOMES.get(name, name), n) for name, n in result["counts"]],
            "skipped": [(SKIPPED.get(name, name), n) for name, n in result["skipped"]],
            "failed": [
                (key, rows.get(key), OUTCOMES.get(outcome, outcome), code, detail)
                for key, outcome, code, detail in result["failed"]
            ],
        }
        return self._page(request, "push_sent.html", context)

    # --- the steps --------------------------------------------------------------------------------

    def _compose(self, request: HttpRequest, keys: Sequence[int], form: SendPushForm) -> HttpResponse:
        rows = self.get_queryset(request).filter(pk__in=keys[:NAMED]).select_related("user")
        fieldsets: Any = form.fieldsets
        plain: Any = form  # nothing in AdminForm needs a model
        adminform = AdminForm(plain, fieldsets, {}, model_admin=self)
        context = {
            "title": self._title(len(keys)),
            "adminform": adminform,
            "errors": form.errors,
            "named": rows.order_by("-pk"),
            "unnamed": max(0, len(keys) - NAMED),
            "media": self.media + adminform.media,
        }
        return self._page(request, "send_push.html", self._step(keys, form) | context)

    def _preview(
        self, request: HttpRequest, keys: Sequence[int], form: SendPushForm, plan: PushResult
    ) -> HttpResponse:
        refused = Counter((t.outcome.value, t.code, t.detail) for t in plan if not _is_planned(t))
        aliases = Counter(ticket.backend for ticket in plan if _is_planned(ticket))
        planned = plan.counts[Outcome.PLANNED]
        context = {
            "title": self._title(planned),
            "message": form.message,
            "planned": planned,
            "aliases": sorted(aliases.items()),
            "refused": [(OUTCOMES[outcome], code, text, n) for (outcome, code, text), n in refused.items()],
            "skipped": [(SKIPPED.get(name, name), n) for name, n in sorted(plan.skipped.items())],
            "left_out": [(form.fields[name].label, n) for name, n in sorted(plan.left_out.items())],
            "nonce": get_random_string(32, ALPHABET),
            "media": self.media,
        }
        return self._page(request, "push_preview.html", self._step(keys, form) | context)

    def _plan(self, form: SendPushForm, rows: QuerySet[Any]) -> PushResult | None:
        """Return what would be sent, or None with the reason in the form's errors."""
        try:
            return send_push(rows, form.message, dry_run=True)
        except PushError as error:
            form.refuse(error)
            return None

    def _send(
        self, request: HttpRequest, keys: Sequence[int], form: SendPushForm, nonce: str
    ) -> HttpResponse:
        """Send, unless this preview has been sent before; show the result by a redirect."""
        if not claim(request.session, nonce):
            self.message_user(
                request, _("This push was sent already; it was not sent twice."), messages.WARNING
            )
            return HttpResponseRedirect(self._url("push_sent", nonce))
        try:
            result = send_push(self._rows(request, keys), form.message)
        except PushError as error:  # settings that have changed since the preview; nothing was sent
            form.refuse(error)
            return self._compose(request, keys, form)
        title = str(form.message.title or "")[:100]
        self._log(request, result, title)
        _remember(request.session, nonce, title, result)
        self._announce(request, result)
        return HttpResponseRedirect(self._url("push_sent", nonce))

    def _log(self, request: HttpRequest, result: PushResult, title: str) -> None:
        by_outcome: dict[Outcome, list[int]] = {}
        for ticket in result:
            by_outcome.setdefault(ticket.outcome, []).append(ticket.pk or 0)
        for outcome, keys in by_outcome.items():
            said = _("Sent a push “%(title)s”: %(outcome)s.") % {"title": title, "outcome": outcome}
            history.log(request.user, self._rows(request, keys), keys, said)

    def _announce(self, request: HttpRequest, result: PushResult) -> None:
        tried = len(result)
        said = ngettext(
            "A push was sent to %(tried)d token; the provider accepted %(accepted)d.",
            "A push was sent to %(tried)d tokens; the providers accepted %(accepted)d.",
            tried,
        ) % {"tried": tried, "accepted": result.accepted}
        self.message_user(request, said, messages.SUCCESS if result.ok and tried else messages.WARNING)

    # --- parts ------------------------------------------------------------------------------------

    def _check_may_send(self, request: HttpRequest) -> None:
        if not (self.has_send_push_permission(request) and self.has_view_or_change_permission(request)):
            raise PermissionDenied

    def _rows(self, request: HttpRequest, keys: Sequence[int]) -> QuerySet[Any]:
        """Return those of these tokens that this user sees, from where tokens are written."""
        return self.get_queryset(request).using(router.db_for_write(self.model)).filter(pk__in=keys)

    def _selected(self, request: HttpRequest, text: str) -> list[int]:
        """Read the keys that the pages pass along, and keep those that there are."""
        if len(text) > 20 * (self.max_push_tokens + 1):
            return list(range(self.max_push_tokens + 1))  # certainly too many
        keys = [int(key) for key in re.findall(r"\b[0-9]{1,18}\b", text, re.ASCII)]
        if len(keys) > self.max_push_tokens:
            return keys
        return list(self._rows(request, keys).order_by("-pk").values_list("pk", flat=True))

    def _refuse_so_many(self, request: HttpRequest) -> None:
        said = _(
            "More than %(most)d tokens are selected. A push from here is sent while you wait, so it goes "
            "to at most %(most)d; use a broadcast, or iter_push in code, for more."
        )
        self.message_user(request, said % {"most": self.max_push_tokens}, messages.ERROR)

    def _title(self, count: int) -> str:
        return ngettext("Send a push to %(count)d token", "Send a push to %(count)d tokens", count) % {
            "count": count
        }

    def _step(self, keys: Sequence[int], form: SendPushForm) -> dict[str, Any]:
        return {
            "form": form,
            "tokens": ",".join(map(str, keys)),
            "send_push_url": self._url("send_push"),
        }

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "list_crumbs": django.VERSION >= (6, 1),
            "change_url": f"admin:{self.opts.app_label}_{self.opts.model_name}_change",
        }
        return TemplateResponse(request, f"{TEMPLATES}/{template}", shared | context)

    def _url(self, name: str, *args: Any) -> str:
        full = f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}"
        return reverse(full, args=args, current_app=self.admin_site.name)

    def _to_list(self) -> HttpResponse:
        return HttpResponseRedirect(self._url("changelist"))


def claim(session: SessionBase, nonce: str) -> bool:
    """Take a preview's nonce; False if it was taken before, even by a request at the same moment.

    The session store is what all processes of a site share, and it makes a key only once. (Sessions
    that live in cookies share nothing; with those only the session's own memory of results helps.)
    """
    if nonce in session.get(RESULTS, {}):
        return False
    try:
        type(session)(nonce).save(must_create=True)
    except CreateError:
        return False
    return True


def _remember(session: SessionBase, nonce: str, title: str, result: PushResult) -> None:
    """Keep what the result page shows, and no more: a session may have to fit into a cookie."""
    failed = [ticket for ticket in result if ticket.outcome is not Outcome.ACCEPTED]
    failed.sort(key=lambda ticket: not ticket.outcome.is_dead)
    kept = dict(list(session.get(RESULTS, {}).items())[1 - KEEP_RESULTS :])
    kept[nonce] = {
        "title": title,
        "tried": len(result),
        "counts": [[outcome.value, n] for outcome, n in result.counts.most_common()],
        "skipped": sorted(result.skipped.items()),
        "deactivated": result.changes.deactivated,
        "replaced": result.changes.replaced,
        "failed": [[t.pk, t.outcome.value, t.code[:60], t.detail[:100]] for t in failed[:NAMED]],
        "unnamed": max(0, len(failed) - NAMED),
    }
    session[RESULTS] = kept


def _is_planned(ticket: Any) -> bool:
    return bool(ticket.outcome is Outcome.PLANNED)
