"""A broadcast from the admin: composed, looked at, made once.

Each page to compose on has a nonce. With what is said and to whom it makes the broadcast's idempotency
key, so that a second press, or the same page in another tab, is the same broadcast.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext as _

from django_push.admin.broadcasts_forms import BroadcastForm
from django_push.admin.broadcasts_pages import BroadcastPages, works_elsewhere
from django_push.admin.broadcasts_words import (
    at,
    fields,
    headline,
    number,
    on_unknown,
    rate,
    time_in_words,
    tokens,
)
from django_push.admin.words import SKIPPED
from django_push.broadcasts import begin, broadcast
from django_push.broadcasts.preview import Part, Preview, preview
from django_push.broadcasts.rows import broadcasts
from django_push.exceptions import PushError
from django_push.models import Broadcast, BroadcastStatus

#: How far back an identical broadcast is looked for, and among how many.
TWIN_WITHIN = timedelta(minutes=10)
MOST_TWINS = 100
_NONCE = re.compile("[A-Za-z0-9]{32}")


class ComposeAdmin(BroadcastPages):
    """Adds the pages that make a broadcast, in place of the form of the model."""

    broadcast_form = BroadcastForm

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_view_or_change_permission(request) and self.has_broadcast_push_permission(request)

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_add"
        return [path("add/", self._unbound(self.add_view), name=name), *super().get_urls()]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Compose, preview and make, one step after the other."""
        self._check_may_broadcast(request)
        if request.method != "POST":
            return self._compose(request, self.broadcast_form(), get_random_string(32))
        nonce = request.POST.get("nonce", "")
        is_ours = _NONCE.fullmatch(nonce) is not None
        nonce = nonce if is_ours else get_random_string(32)
        form = self.broadcast_form(request.POST)
        if not form.is_valid() or "_edit" in request.POST:
            return self._compose(request, form, nonce)
        try:
            if "_send" in request.POST and is_ours:
                return self._make(request, form, nonce)
            plan = preview(form.message, form.audience_kept, translations=form.spoken)
        except PushError as error:
            form.refuse(error)
            return self._compose(request, form, nonce)
        return self._preview(request, form, nonce, plan)

    # --- the steps --------------------------------------------------------------------------------

    def _compose(self, request: HttpRequest, form: BroadcastForm, nonce: str) -> HttpResponse:
        plain: Any = form  # nothing in AdminForm needs a model
        adminform = AdminForm(plain, form.sections, {}, model_admin=self)
        context = {
            "title": _("Compose a broadcast"),
            "crumb": _("Compose a broadcast"),
            "form": form,
            "nonce": nonce,
            "adminform": adminform,
            "errors": form.errors,
            "media": self.media + adminform.media,
        }
        return self._page(request, "compose.html", context)

    def _preview(self, request: HttpRequest, form: BroadcastForm, nonce: str, plan: Preview) -> HttpResponse:
        twin = _twin(form)
        context = {
            "title": _("A broadcast to %(tokens)s") % {"tokens": tokens(plan.total)},
            "crumb": _("Compose a broadcast"),
            "form": form,
            "nonce": nonce,
            "plan": plan,
            "total": tokens(plan.total),
            "message": form.message,
            "spoken": form.spoken,
            "parts": [_part(part) for part in plan.parts],
            "skipped": [(SKIPPED.get(name, name), number(n)) for name, n in plan.skipped.items()],
            "facts": list(_facts(form, plan)),
            "twin": twin,
            "twin_headline": headline(twin) if twin else "",
            "twin_url": self._url("change", twin.pk) if twin else "",
        }
        return self._page(request, "preview.html", context)

    def _make(self, request: HttpRequest, form: BroadcastForm, nonce: str) -> HttpResponse:
        """Write the broadcast down and start it, unless this page has made it before."""
        given = form.cleaned_data
        made = broadcast(
            form.audience_kept,
            form.message,
            name=given["name"],
            translations=form.spoken,
            schedule=given["schedule"],
            expires=given["expires"],
            rate=given["rate"],
            on_unknown=given["on_unknown"],
            key=_key(request.user, nonce, form),
            user=request.user,
            workers=max(1, self.push_workers),
            start=False,
        )
        if made.status == BroadcastStatus.DRAFT and begin(made, workers=self._workers()):
            self.log_addition(request, made, _("Composed by hand."))
            self.message_user(request, _said(made), messages.SUCCESS)
        else:
            said = _("This broadcast was made already; it is not sent twice.")
            self.message_user(request, said, messages.WARNING)
        return self._to_page_of(made)


def _said(made: Broadcast) -> str:
    if made.status == BroadcastStatus.SCHEDULED:
        return _("The broadcast waits for %(time)s.") % {"time": time_in_words(at(made.scheduled_at))}
    if works_elsewhere():
        return _("The broadcast has started.")
    return _("The broadcast has started: the next run of push_tick sends it.")


def _content(form: BroadcastForm) -> list[Any]:
    """Return what two broadcasts share that say the same to the same audience."""
    spoken = {language: message.to_json() for language, message in form.spoken.items()}
    return [form.message.to_json(), spoken, form.audience_kept]


def _key(user: Any, nonce: str, form: BroadcastForm) -> str:
    said = json.dumps(_content(form), sort_keys=True).encode()
    return f"admin:{user.pk}:{nonce}:{hashlib.sha256(said).hexdigest()[:16]}"


def _twin(form: BroadcastForm) -> Broadcast | None:
    """Return a broadcast of the same content to the same audience, made within the last minutes."""
    since = timezone.now() - TWIN_WITHIN
    found = broadcasts().filter(created__gte=since, personalize="", using="")
    found = found.exclude(status__in=(BroadcastStatus.CANCELLED, BroadcastStatus.DRAFT))
    content = _content(form)
    for row in found.order_by("-pk")[:MOST_TWINS]:
        audience = {name: value for name, value in row.audience.items() if name != "fixed"}
        if [row.message, row.translations, audience] == content:
            return row
    return None


# --- what the preview shows -----------------------------------------------------------------------


def _part(part: Part) -> dict[str, Any]:
    labels = BroadcastForm.base_fields
    return {
        "alias": part.alias,
        "total": number(part.total),
        "languages": [(name or _("the default text"), number(n)) for name, n in part.languages.items()],
        "left_out": [labels[name].label if name in labels else name for name in part.left_out],
        "refusals": [(name or _("the default text"), why) for name, why in part.refusals.items()],
        "samples": part.samples,
    }


def _facts(form: BroadcastForm, plan: Preview) -> Iterator[tuple[Any, Any]]:
    given = form.cleaned_data
    everyone = form.audience_kept["kind"] == "everyone"
    found = [
        (_("Name"), given["name"]),
        (_("Audience"), _("everyone") if everyone else plan.audience),
        (_("Schedule"), time_in_words(_local(given["schedule"])) or _("now")),
        (_("Expires"), time_in_words(_local(given["expires"]))),
        (_("Rate"), rate(given["rate"])),
        (_("If no answer comes"), on_unknown(given["on_unknown"], 3)),
        *fields(form.message.to_json()),
    ]
    yield from ((label, value) for label, value in found if value)


def _local(value: Any) -> Any:
    return timezone.localtime(value) if value is not None and timezone.is_aware(value) else value
