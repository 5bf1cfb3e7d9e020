"""PushToken: the address of one app install at one provider. Columns and reading words only.

Whatever changes a token's state is a verb in ``django_push.tokens``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models, router
from django.utils.translation import gettext_lazy as _
from model_utils import Choices
from model_utils.fields import MonitorField, StatusField
from model_utils.models import TimeStampedModel

from django_push.conf import DEFAULT_TOKEN_MODEL, push_settings
from django_push.models.functions import database_now
from django_push.outcomes import TargetKind, mask

if TYPE_CHECKING:
    from typing_extensions import Self


if not hasattr(settings, "PUSH_TOKEN_MODEL"):
    # Django's migrations read a swappable model's setting by name and know no default for it.
    settings.PUSH_TOKEN_MODEL = DEFAULT_TOKEN_MODEL


class TokenStatus(models.TextChoices):
    """The provider's verdict on a token, or our own reason not to send to it."""

    ACTIVE = "active", _("active")
    #: The provider says that the install is gone.
    UNREGISTERED = "unregistered", _("unregistered")
    #: Malformed, or none of the provider's.
    INVALID = "invalid", _("invalid")
    #: A canonical id or a newer registration stands in its place.
    REPLACED = "replaced", _("replaced")
    #: Ours: logged out, pruned, or put aside by staff.
    RETIRED = "retired", _("retired")


class TokenSource(models.TextChoices):
    """Where the status came from."""

    TICKET = "ticket", _("ticket")
    RECEIPT = "receipt", _("receipt")
    REGISTRATION = "registration", _("registration")
    ADMIN = "admin", _("admin")
    PRUNE = "prune", _("prune")
    COMMAND = "command", _("command")


def digest(token: str) -> str:
    """Return the SHA-256 by which a token is found and kept unique on every database."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class PushTokenQuerySet(models.QuerySet["AbstractPushToken"]):
    """Adjectives for tokens."""

    def active(self) -> Self:
        """Those that the provider has not called dead and nobody has retired."""
        return self.filter(status=TokenStatus.ACTIVE)

    def inactive(self) -> Self:
        return self.exclude(status=TokenStatus.ACTIVE)

    def enabled(self) -> Self:
        """Those whose user wishes to be told."""
        return self.filter(enabled=True)

    def sendable(self) -> Self:
        """Those that a push goes to: active and enabled."""
        return self.active().enabled()

    def via(self, *aliases: str) -> Self:
        """Those of these aliases in PUSH_BACKENDS."""
        return self.filter(backend__in=aliases)

    def matching(self, token: str) -> Self:
        """The rows of exactly this token, in any alias."""
        return self.filter(token_digest=digest(token))

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Create rows as ``save`` would: with their digests and registration times."""
        rows = list(objs)
        self._for_write = True
        now = None
        for row in rows:
            row.token_digest = digest(row.token)
            if row.registered_at is None:
                now = now or database_now(self.db)
                row.registered_at = now
        return super().bulk_create(rows, *args, **kwargs)

    def bulk_update(self, objs: Iterable[Any], fields: Iterable[str], *args: Any, **kwargs: Any) -> int:
        """Write rows as ``save`` would: a token with its digest."""
        rows, names = list(objs), set(fields)
        if "token" in names:
            names.add("token_digest")
            for row in rows:
                row.token_digest = digest(row.token)
        return super().bulk_update(rows, sorted(names), *args, **kwargs)

    def update(self, **kwargs: Any) -> int:
        """Write columns; a token with its digest. What changes state is in ``django_push.tokens``."""
        if isinstance(kwargs.get("token"), str):
            kwargs["token_digest"] = digest(kwargs["token"])
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]  # not for templates


PushTokenManager = models.Manager.from_queryset(PushTokenQuerySet)


class AbstractPushToken(TimeStampedModel):
    """What every token model has. Subclass it and name the subclass in PUSH_TOKEN_MODEL."""

    STATUS = Choices(*TokenStatus.choices)

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="push_tokens",
        verbose_name=_("user"),
        help_text=_("Empty until the install's user has logged in."),
    )
    backend = models.CharField(_("backend"), max_length=64, help_text=_("The alias in PUSH_BACKENDS."))
    token = models.TextField(_("token"))
    token_digest = models.CharField(_("digest"), max_length=64, editable=False)
    kind = models.CharField(
        _("kind"),
        max_length=8,
        choices=[(TargetKind.TOKEN, _("token")), (TargetKind.FID, _("installation ID"))],
        default=TargetKind.TOKEN,
    )
    platform = models.CharField(_("platform"), max_length=16, blank=True)
    device_id = models.CharField(
        _("device ID"),
        max_length=255,
        blank=True,
        help_text=_("The app's own stable ID of this install."),
    )
    device_name = models.CharField(_("device name"), max_length=255, blank=True)
    app_version = models.CharField(_("app version"), max_length=64, blank=True)
    locale = models.CharField(_("locale"), max_length=35, blank=True)
    timezone = models.CharField(_("time zone"), max_length=64, blank=True)
    project = models.CharField(
        _("project"),
        max_length=255,
        blank=True,
        help_text=_("The Expo project, as learned from Expo's answers."),
    )
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True, help_text=_("The user's wish: off is muted."))
    status = StatusField(_("status"), max_length=16)
    status_changed = MonitorField(_("status changed"), monitor="status")
    status_code = models.CharField(
        _("status code"), max_length=200, blank=True, help_text=_("The provider's own word.")
    )
    status_source = models.CharField(_("status source"), max_length=64, blank=True)
    replaced_by = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="replaced_tokens",
        verbose_name=_("replaced by"),
    )
    registered_at = models.DateTimeField(
        _("registered at"),
        editable=False,
        help_text=_("By the database's clock; verdicts on earlier sends do not count."),
    )
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)

    objects = PushTokenManager()

    class Meta:
        abstract = True
        verbose_name = _("push token")
        verbose_name_plural = _("push tokens")
        constraints: ClassVar[Any] = [
            models.UniqueConstraint(
                fields=["token_digest", "backend"], name="%(app_label)s_%(class)s_unique_token"
            )
        ]
        indexes: ClassVar[Any] = [
            models.Index(fields=["backend", "status", "id"]),
            models.Index(fields=["device_id", "backend"]),
        ]
        permissions = [("send_push", _("Can send push notifications"))]

    def __str__(self) -> str:
        return f"{self.backend}: {mask(self.token)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pk} {self.backend} {mask(self.token)}>"

    @property
    def is_sendable(self) -> bool:
        """Whether a push goes to it: active and enabled."""
        return self.enabled and self.status == TokenStatus.ACTIVE

    @property
    def masked(self) -> str:
        """The token as it may be shown."""
        return mask(self.token)

    def save(self, *args: Any, **kwargs: Any) -> None:
        deferred = self.get_deferred_fields()
        if "token" in deferred:
            self.__dict__.pop("token_digest", None)  # deferred with it, so not written without it
        else:
            self.token_digest = digest(self.token)
        if "registered_at" not in deferred and self.registered_at is None:
            using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
            self.registered_at = database_now(using)
        fields = kwargs.get("update_fields")
        if fields is not None and "token" in fields:
            kwargs["update_fields"] = {*fields, "token_digest"}
        super().save(*args, **kwargs)


class PushToken(AbstractPushToken):
    """The token model, unless PUSH_TOKEN_MODEL names another."""

    class Meta(AbstractPushToken.Meta):
        swappable = "PUSH_TOKEN_MODEL"


def get_token_model() -> type[PushToken]:
    """Return the token model in use. Raises ImproperlyConfigured if PUSH_TOKEN_MODEL names none."""
    label = push_settings.token_model
    try:
        model = apps.get_model(label, require_ready=False)
    except (ValueError, LookupError) as error:
        raise ImproperlyConfigured(f"PUSH_TOKEN_MODEL: {error}") from None
    if not issubclass(model, AbstractPushToken):
        raise ImproperlyConfigured(f"PUSH_TOKEN_MODEL: {label} is no subclass of AbstractPushToken.")
    return model  # type: ignore[return-value]  # a swapped model has the same columns and words
