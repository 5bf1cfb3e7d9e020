"""The forms: a token added by hand, and a push composed by staff."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin import widgets
from django.forms.fields import InvalidJSONInput
from django.utils.translation import gettext_lazy as _

from django_push.conf import push_settings
from django_push.exceptions import AmbiguousBackend, InvalidMessage, InvalidPushBackend, InvalidToken
from django_push.message import INTERRUPTION_LEVELS, MAX_TTL, PRIORITIES, PushMessage
from django_push.models import AbstractPushToken
from django_push.tokens import register_token

if TYPE_CHECKING:
    TokenModelForm = forms.ModelForm[AbstractPushToken]
else:
    TokenModelForm = forms.ModelForm


class UnseenTextarea(widgets.AdminTextareaWidget):
    """Takes text and never shows it again: after an error it is pasted once more."""

    def format_value(self, value: Any) -> str | None:
        return None


class TokenAddForm(TokenModelForm):
    """Registers a token as the app would. What can be wrong with one, ``register_token`` knows."""

    token = forms.CharField(
        label=_("Token"),
        widget=UnseenTextarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
        help_text=_("The whole token, as the app shows it. It will be masked from then on."),
    )
    backend = forms.ChoiceField(
        label=_("Alias"),
        required=False,
        help_text=_("Empty: found out from the token's form."),
    )
    #: Whether the registration made a new row.
    created = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["backend"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "---------"), *((alias, alias) for alias in push_settings.backends)]

    def _post_clean(self) -> None:
        # Not the model's own checks: that the row exists already is no error of a registration.
        if self.errors:
            return
        given = {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
        try:
            self.instance, self.created = register_token(given.pop("token"), **given)
        except InvalidToken as error:
            self.add_error("token", str(error))
        except (AmbiguousBackend, InvalidPushBackend) as error:
            self.add_error("backend", str(error))


class DataField(forms.JSONField):
    """JSON, where nothing is shown as nothing and not as ``null``.

    What Python cannot read, as it is too deep or its numbers are too long, or cannot write as UTF-8 is
    invalid like any other mistake, and is shown as it was typed.
    """

    def to_python(self, value: Any) -> Any:
        try:
            return _writable(super().to_python(value))
        except (ValueError, RecursionError):
            raise forms.ValidationError(
                self.error_messages["invalid"], code="invalid", params={"value": value}
            ) from None

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            return _writable(super().bound_data(data, initial))
        except (ValueError, RecursionError):
            return InvalidJSONInput(data)

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


def _writable(value: Any) -> Any:
    """Return the value. Raises ValueError or RecursionError if it cannot be written."""
    json.dumps(value, ensure_ascii=False).encode()
    return value


class SendPushForm(forms.Form):
    """A push in the sender's own words. Valid if it makes a PushMessage, which ``message`` then is."""

    title = forms.CharField(
        label=_("Title"), required=False, widget=widgets.AdminTextInputWidget(attrs={"class": "vURLField"})
    )
    body = forms.CharField(
        label=_("Text"), required=False, widget=widgets.AdminTextareaWidget(attrs={"rows": 3})
    )
    link = forms.CharField(
        label=_("Link"),
        required=False,
        widget=widgets.AdminTextInputWidget(attrs={"class": "vURLField"}),
        help_text=_("Where a tap leads: a web address, or one that your app opens."),
    )
    image = forms.URLField(
        label=_("Image"),
        required=False,
        assume_scheme="https",
        widget=widgets.AdminURLFieldWidget,
        help_text=_("The address of a picture, for phones that show one."),
    )
    data = DataField(  # type: ignore[assignment]  # a form's fields are no attributes of it
        label=_("Data"),
        required=False,
        widget=widgets.AdminTextareaWidget(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=_('For the app itself, as a JSON object: {"order": 17}'),
    )
    priority = forms.ChoiceField(
        label=_("Priority"),
        required=False,
        choices=[("", _("The provider's default")), *((name, name) for name in PRIORITIES)],
    )
    ttl = forms.IntegerField(
        label=_("Time to live"),
        required=False,
        min_value=0,
        max_value=MAX_TTL,
        widget=widgets.AdminIntegerFieldWidget,
        help_text=_("How many seconds to keep trying a phone that is off; 0 is now or never."),
    )
    subtitle = forms.CharField(
        label=_("Subtitle"), required=False, widget=widgets.AdminTextInputWidget, help_text=_("iOS only.")
    )
    sound = forms.CharField(
        label=_("Sound"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=_("“default”, or the name of one in your app."),
    )
    badge = forms.IntegerField(
        label=_("Badge"),
        required=False,
        min_value=0,
        max_value=2**31 - 1,
        widget=widgets.AdminIntegerFieldWidget,
        help_text=_("The number on the app's icon; 0 removes it."),
    )
    channel_id = forms.CharField(
        label=_("Channel"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=_("Android's notification channel."),
    )
    category = forms.CharField(label=_("Category"), required=False, widget=widgets.AdminTextInputWidget)
    thread_id = forms.CharField(
        label=_("Thread"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=_("iOS groups what has the same."),
    )
    tag = forms.CharField(
        label=_("Tag"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=_("Android: replaces an earlier push with the same tag."),
    )
    collapse_key = forms.CharField(
        label=_("Collapse key"),
        required=False,
        widget=widgets.AdminTextInputWidget,
        help_text=_("Of those that wait for a phone, only the last is delivered."),
    )
    interruption_level = forms.ChoiceField(
        label=_("Interruption level"),
        required=False,
        choices=[("", _("The provider's default")), *((name, name) for name in INTERRUPTION_LEVELS)],
    )

    fieldsets = (
        (None, {"fields": ("title", "body", "link", "image", "data", "priority", "ttl")}),
        (
            _("More"),
            {
                "classes": ("collapse",),
                "fields": (
                    "subtitle",
                    "sound",
                    "badge",
                    "channel_id",
                    "category",
                    "thread_id",
                    "tag",
                    "collapse_key",
                    "interruption_level",
                ),
            },
        ),
    )

    #: What was composed, once the form is valid.
    message: PushMessage

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            fields = {name: value for name, value in cleaned.items() if value not in ("", None)}
            try:
                self.message = PushMessage(**fields)
            except InvalidMessage as error:
                self.refuse(error)
        return cleaned

    def refuse(self, error: Exception) -> None:
        """Show an error of the message at the field that it is about, if it names one."""
        name = str(error).partition(" ")[0]
        self.add_error(name if name in self.fields else None, str(error))
