"""The form of a broadcast that staff compose: a push, who gets it, and when and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib.admin import widgets
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_push.admin.filters import PlatformFilter
from django_push.admin.forms import DataField, SendPushForm
from django_push.broadcasts.audiences import specification
from django_push.conf import push_settings
from django_push.exceptions import InvalidAudience, InvalidMessage
from django_push.message import PushMessage
from django_push.models import UnknownPolicy

#: What the field "audience" holds beside named audiences, which have a prefix.
EVERYONE, FILTERS, NAMED = "everyone", "filters", "named:"
#: The fields that are filters of an audience, and those whose text may name several.
FILTER_FIELDS = (
    "backend", "platform", "locale", "app_version_from", "app_version_below", "app_version", "group",
    "seen_within",
)  # fmt: skip
LISTS = ("locale", "app_version")


class TimeInput(forms.DateTimeInput):
    """The browser's own picker of a date and a time."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(format="%Y-%m-%dT%H:%M")


class BroadcastForm(SendPushForm):
    """A broadcast. Valid if ``message``, ``translations`` and ``audience`` can be what was asked for."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        required=False,
        max_length=200,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("For your list; nobody else sees it."),
    )
    translations = DataField(
        label=gettext_lazy("Translations"),
        required=False,
        widget=widgets.AdminTextareaWidget(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=gettext_lazy(
            'What is said otherwise to phones in another language: {"de": {"title": "…", "body": "…"}}'
        ),
    )
    audience = forms.ChoiceField(label=gettext_lazy("Audience"))
    backend = forms.MultipleChoiceField(
        label=gettext_lazy("Alias"), required=False, widget=forms.CheckboxSelectMultiple
    )
    platform = forms.MultipleChoiceField(
        label=gettext_lazy("Platform"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=list(PlatformFilter.platforms.items()),
    )
    locale = forms.CharField(
        label=gettext_lazy("Locale"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("One or several, with commas: de, fr-CA. A language has all its regions."),
    )
    app_version_from = forms.CharField(
        label=gettext_lazy("App version from"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("This version and later ones: 2.10"),
    )
    app_version_below = forms.CharField(
        label=gettext_lazy("App version below"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("Versions before this one."),
    )
    app_version = forms.CharField(
        label=gettext_lazy("App version"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("Exactly these, with commas."),
    )
    group = forms.ModelMultipleChoiceField(
        label=gettext_lazy("Group"),
        required=False,
        queryset=Group.objects.order_by("name"),
        to_field_name="name",
        help_text=gettext_lazy("Tokens of users in one of these."),
    )
    seen_within = forms.CharField(
        label=gettext_lazy("Seen within"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=gettext_lazy("A number with m, h, d or w: 30d"),
    )
    schedule = forms.DateTimeField(
        label=gettext_lazy("Schedule"),
        required=False,
        widget=TimeInput,
        help_text=gettext_lazy("Empty: now."),
    )
    expires = forms.DateTimeField(
        label=gettext_lazy("Expires"),
        required=False,
        widget=TimeInput,
        help_text=gettext_lazy("What was not sent by then never is."),
    )
    rate = forms.FloatField(
        label=gettext_lazy("Rate"),
        required=False,
        min_value=0.01,
        max_value=1_000_000,
        widget=forms.NumberInput(attrs={"class": "vIntegerField", "step": "any"}),
        help_text=gettext_lazy("The most tokens a second; empty: as fast as the providers allow."),
    )
    on_unknown = forms.ChoiceField(
        label=gettext_lazy("On unknown"),
        choices=UnknownPolicy.choices,
        initial=UnknownPolicy.RETRY,
        help_text=gettext_lazy(
            "If no readable answer comes, the push may have arrived. To send again can make a second copy, "
            "not to can miss somebody."
        ),
    )

    #: Once the form is valid: the message by language, and the audience as it is kept.
    spoken: Mapping[str, PushMessage]
    audience_kept: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._choose("backend", [(alias, alias) for alias in push_settings.backends])
        self._choose(
            "audience",
            [
                ("", "---------"),
                (EVERYONE, _("everyone")),
                (FILTERS, _("those that pass the filters below")),
                *((f"{NAMED}{name}", _("named: %(name)s") % {"name": name}) for name in _named()),
            ],
        )
        if not (_has_groups() and Group.objects.exists()):
            del self.fields["group"]

    def _choose(self, name: str, choices: list[tuple[str, Any]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices

    @property
    def sections(self) -> list[tuple[Any, dict[str, Any]]]:
        """The fieldsets, without the fields that this site has no use for."""
        plain, more = SendPushForm.fieldsets
        when = ("schedule", "expires", "rate", "on_unknown")
        filters = tuple(name for name in FILTER_FIELDS if name in self.fields)
        return [
            (None, {"fields": ("name",)}),
            (_("What it says"), plain[1]),
            (more[0], {**more[1], "fields": ("translations", *more[1]["fields"])}),
            (_("Who gets it"), {"fields": ("audience", *filters)}),
            (_("When and how"), {"fields": when}),
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = dict(self.cleaned_data)
        own = {*BroadcastForm.base_fields} - {*SendPushForm.base_fields}
        if not self.errors:
            self._set_message({k: v for k, v in cleaned.items() if k not in own and v not in ("", None)})
            self._set_audience(cleaned)
            self._check_times(cleaned.get("schedule"), cleaned.get("expires"))
        return cleaned

    def clean_body(self) -> str:
        """Take the line breaks as phones have them; a browser sends each as two characters."""
        return str(self.cleaned_data["body"]).replace("\r\n", "\n")

    def _set_message(self, fields: dict[str, Any]) -> None:
        said = self.cleaned_data.get("translations") or {}
        try:
            self.message = PushMessage(**fields)
            kept = self.message.to_keep()
        except InvalidMessage as error:
            self.refuse(error)
            return
        if not isinstance(said, dict) or not all(isinstance(texts, dict) for texts in said.values()):
            self.add_error("translations", _("Give an object of languages, each with an object of fields."))
            return
        try:
            self.spoken = {
                language.replace("_", "-").lower(): PushMessage(**{**kept, **texts})
                for language, texts in said.items()
            }
            for text in self.spoken.values():
                text.to_keep()
        except (InvalidMessage, TypeError) as error:
            # An unknown name's own words are "__init__() got an unexpected keyword argument 'x'".
            self.add_error("translations", str(error).rpartition("__init__() ")[2])

    def _set_audience(self, cleaned: Mapping[str, Any]) -> None:
        choice, filters = cleaned["audience"], dict(_filters(cleaned))
        if filters and choice != FILTERS:
            # Whoever has narrowed it down does not mean everyone.
            self.add_error("audience", _("Filters are filled in below, and this would leave them aside."))
            return
        try:
            named = choice.removeprefix(NAMED) if choice.startswith(NAMED) else choice
            self.audience_kept = specification(filters if choice == FILTERS else named)
        except InvalidAudience as error:
            name, colon, _rest = str(error).partition(":")
            self.add_error(name if colon and name in self.fields else "audience", str(error))

    def _check_times(self, schedule: datetime | None, expires: datetime | None) -> None:
        now = timezone.now()
        if schedule is not None and schedule <= now:
            self.add_error("schedule", _("This time is past."))
        if expires is not None and expires <= (schedule or now):
            self.add_error("expires", _("It expires before it starts."))


def _filters(cleaned: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in FILTER_FIELDS:
        value = cleaned.get(name)
        if name in LISTS:
            value = [part.strip() for part in (value or "").split(",") if part.strip()]
        elif name == "group":
            value = [group.name for group in value or ()]
        if value:
            yield name, value


def _named() -> list[str]:
    try:
        return [name for name in push_settings.audiences if isinstance(name, str)]
    except ImproperlyConfigured:  # the system checks say what is wrong with it
        return []


def _has_groups() -> bool:
    return any(field.name == "groups" for field in get_user_model()._meta.many_to_many)
