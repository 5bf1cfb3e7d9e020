"""The buttons of a broadcast: who may press them, which of them ask first, and what is said afterwards.

What they do is in ``django_push.broadcasts``. A press that comes too late changes nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_push import broadcasts
from django_push.admin.broadcasts_pages import BroadcastPages
from django_push.admin.broadcasts_progress import dead
from django_push.admin.broadcasts_words import headline, number, tokens
from django_push.broadcasts.audiences import LIST, counts
from django_push.exceptions import BroadcastForbidden, InvalidBroadcast, PushError
from django_push.models import Broadcast, BroadcastStatus, LaneStatus, PauseReason, Progress

#: To go on after these is to overrule what protects the tokens.
BREAKERS = (PauseReason.DEAD_TOKENS, PauseReason.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A button.

    ``act`` takes the broadcast, an alias or "", and how many workers to wake (None: as many as it was made
    with); it returns what it has changed. ``said`` puts that into words, ``entry`` stands in the history,
    ``asks`` is put before it harms: a function of the broadcast and the alias, None if there is nothing to
    ask. ``unchanged`` is said of a press that comes second, if what it is about is in one of the states in
    ``goals``.
    """

    label: Any
    act: Callable[[Broadcast, str, int | None], int]
    said: Callable[[int], str]
    unchanged: Any
    goals: tuple[str, ...] = ()
    entry: Any
    asks: Callable[[Broadcast, str], str | None] = lambda row, lane: None
    is_harmful: bool = False
    has_lanes: bool = True


# --- what the buttons ask -------------------------------------------------------------------------


def _ask_start(row: Broadcast, lane: str) -> str:
    if row.audience.get("kind") == LIST:
        count = row.progress.total
    else:
        count = counts(row.audience, row.using).total
    return _("It will be sent to %(tokens)s.") % {"tokens": tokens(count)}


def _ask_resume(row: Broadcast, lane: str) -> str | None:
    lanes = [part for part in row.progress.lanes if lane in ("", part.backend)]
    if not any(part.status == LaneStatus.PAUSED and part.pause_reason in BREAKERS for part in lanes):
        return None
    return _(
        "It was paused because of what came back from the provider, so that somebody looks. If you go on, "
        "it is not paused for the same again."
    )


def _ask_cancel(row: Broadcast, lane: str) -> str:
    parts = [part for part in row.progress.lanes if lane in ("", part.backend)]
    left = sum(max(0, part.total - part.told) for part in parts)
    said = _("What was not sent by now never will be. This cannot be undone.")
    if not left:
        return said
    return f"{said} " + _("There is no verdict yet for %(tokens)s.") % {"tokens": tokens(left)}


def _ask_resend(row: Broadcast, lane: str) -> str:
    count = sum(part.unknown for part in row.progress.lanes if lane in ("", part.backend))
    said = _(
        "No readable answer came for %(tokens)s: they may have got the push. Each that has may get a "
        "second copy."
    )
    return said % {"tokens": tokens(count)}


def _ask_undo(row: Broadcast, lane: str) -> str:
    said = _(
        "The provider called %(tokens)s dead. Those that this broadcast has deactivated will be active "
        "again, unless they have changed since, and pushes will be sent to them."
    )
    return said % {"tokens": tokens(dead(row.progress))}


# --- the buttons ----------------------------------------------------------------------------------

VERBS: Mapping[str, Verb] = {
    "start": Verb(
        label=gettext_lazy("Start"),
        act=lambda row, lane, workers: broadcasts.begin(row, workers=workers),
        said=lambda n: _("The broadcast has started, or waits for its time."),
        unchanged=gettext_lazy("Somebody has started it already."),
        goals=("running", "scheduled"),
        entry=gettext_lazy("Started."),
        asks=_ask_start,
        has_lanes=False,
    ),
    "pause": Verb(
        label=gettext_lazy("Pause"),
        act=lambda row, lane, workers: broadcasts.pause(row, lane=lane),
        said=lambda n: _("It is paused. What is in flight is finished and counted."),
        unchanged=gettext_lazy("It was paused already."),
        goals=("paused",),
        entry=gettext_lazy("Paused."),
    ),
    "resume": Verb(
        label=gettext_lazy("Resume"),
        act=lambda row, lane, workers: broadcasts.resume(row, lane=lane, workers=workers),
        said=lambda n: _("It goes on."),
        unchanged=gettext_lazy("It goes on already."),
        goals=("running", "scheduled"),
        entry=gettext_lazy("Resumed."),
        asks=_ask_resume,
    ),
    "cancel": Verb(
        label=gettext_lazy("Cancel for good"),
        act=lambda row, lane, workers: broadcasts.cancel(row, lane=lane),
        said=lambda n: _("It is cancelled. What is in flight is finished and counted."),
        unchanged=gettext_lazy("It was cancelled already."),
        goals=("cancelled",),
        entry=gettext_lazy("Cancelled."),
        asks=_ask_cancel,
        is_harmful=True,
    ),
    "resend_unknown": Verb(
        label=gettext_lazy("Send again to the unknown"),
        act=lambda row, lane, workers: broadcasts.resend_unknown(row, lane=lane, workers=workers),
        said=lambda n: _("It is sent once more to %(tokens)s.") % {"tokens": tokens(n)},
        unchanged=gettext_lazy("Nothing is unknown; nothing is sent again."),
        entry=gettext_lazy("Sent again to the unknown."),
        asks=_ask_resend,
    ),
    "undo_deactivations": Verb(
        label=gettext_lazy("Undo deactivations"),
        act=lambda row, lane, workers: broadcasts.undo_deactivations(row),
        said=lambda n: (
            ngettext("%(n)s token is active again.", "%(n)s tokens are active again.", n) % {"n": number(n)}
        ),
        unchanged=gettext_lazy("No token is left that this broadcast has deactivated."),
        entry=gettext_lazy("Undid its deactivations."),
        asks=_ask_undo,
        has_lanes=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Button:
    """A button as a page has it: ``press`` is the verb, and after a colon the alias."""

    press: str
    label: Any
    is_harmful: bool


def buttons(row: Broadcast, progress: Progress) -> list[Button]:
    """Return what can be done with a broadcast as a whole."""
    return [_button(name) for name in _offered(row, progress)]


def lane_buttons(row: Broadcast, progress: Progress) -> dict[str, list[Button]]:
    """Return what can be done with each lane, by alias: nothing where there is but one."""
    if len(progress.lanes) < 2:
        return {}
    return {
        lane.backend: [_button(name, lane.backend) for name in _offered_of_lane(row, lane)]
        for lane in progress.lanes
    }


def _button(name: str, lane: str = "") -> Button:
    verb = VERBS[name]
    return Button(f"{name}:{lane}" if lane else name, verb.label, verb.is_harmful)


def _offered(row: Broadcast, progress: Progress) -> Iterator[str]:
    if row.status == BroadcastStatus.DRAFT:
        yield "start"
    if row.status in (BroadcastStatus.RUNNING, BroadcastStatus.SCHEDULED):
        yield "pause"
    if row.status == BroadcastStatus.PAUSED:
        yield "resume"
    resendable = (BroadcastStatus.RUNNING, BroadcastStatus.PAUSED, BroadcastStatus.DONE)
    live = (part.unknown for part in progress.lanes if part.status != LaneStatus.CANCELLED)
    if row.status in resendable and any(live):
        yield "resend_unknown"
    if dead(progress):
        yield "undo_deactivations"
    if not row.is_final:
        yield "cancel"


def _offered_of_lane(row: Broadcast, lane: Any) -> Iterator[str]:
    if row.is_final:
        return
    if lane.status == LaneStatus.RUNNING:
        yield "pause"
    if lane.status == LaneStatus.PAUSED:
        yield "resume"
    if lane.status in (LaneStatus.RUNNING, LaneStatus.PAUSED):
        yield "cancel"


# --- pressing them --------------------------------------------------------------------------------


class ControlAdmin(BroadcastPages):
    """Adds the view that the buttons lead to, for staff with the permission ``broadcast_push``."""

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_control"
        own = path("<int:key>/control/", self._unbound(self.control_view), name=name)
        return [own, *super().get_urls()]

    def control_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Do what a button says, after a question if it harms."""
        row = self._row(request, key)
        self._check_may_broadcast(request, row)
        name, _colon, lane = request.POST.get("press", "").partition(":")
        verb = VERBS.get(name)
        if verb is None or (lane and not _has_lane(row, verb, lane)):  # also a GET, say of a bookmark
            return self._to_page_of(row)
        try:
            question = None if "confirmed" in request.POST else verb.asks(row, lane)
            if question is not None:
                return self._ask(request, row, verb, lane, question)
            self._press(request, row, verb, lane)
        except InvalidBroadcast:  # it is over
            self.message_user(request, _nothing(row), messages.WARNING)
        except BroadcastForbidden:
            said = _("%(user)s, who has made it, may not broadcast any more.")
            self.message_user(request, said % {"user": row.created_by_name}, messages.ERROR)
        except PushError as error:
            self.message_user(request, str(error), messages.ERROR)
        return self._to_page_of(row)

    def _ask(
        self, request: HttpRequest, row: Broadcast, verb: Verb, lane: str, question: str
    ) -> HttpResponse:
        context = {
            "title": f"{verb.label}: {lane}" if lane else verb.label,
            "row": row,
            "headline": headline(row),
            "crumb": headline(row),
            "question": question,
            "verb": verb,
            "press": request.POST["press"],
            "control_url": self._url("control", row.pk),
            "page_url": self._url("change", row.pk),
        }
        return self._page(request, "confirm.html", context)

    def _press(self, request: HttpRequest, row: Broadcast, verb: Verb, lane: str) -> None:
        changed = verb.act(row, lane, self._workers())
        if changed:
            said, level = verb.said(int(changed)), messages.SUCCESS
            self.log_change(request, row, f"{verb.entry} ({lane})" if lane else str(verb.entry))
        else:
            said, level = _too_late(row, verb, lane), messages.WARNING
        self.message_user(request, f"{said} ({lane})" if lane else said, level)


def _has_lane(row: Broadcast, verb: Verb, lane: str) -> bool:
    return verb.has_lanes and row.lanes.filter(backend=lane).exists()


def _too_late(row: Broadcast, verb: Verb, lane: str) -> str:
    """Return why a press has changed nothing."""
    row.refresh_from_db()
    subject = row.lanes.get(backend=lane) if lane else row
    if not verb.goals or subject.status in verb.goals:
        return str(verb.unchanged)
    return _nothing(subject)


def _nothing(subject: Any) -> str:
    return _("Nothing was changed: it is %(status)s.") % {"status": subject.get_status_display()}
