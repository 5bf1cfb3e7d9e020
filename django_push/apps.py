"""The app's configuration."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DjangoPushConfig(AppConfig):
    """Registers the checks; the admin registers itself."""

    name = "django_push"
    verbose_name = _("Push notifications")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_push import checks  # noqa: F401 - they register themselves, once apps are ready
