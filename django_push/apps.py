"""The app's configuration."""

import logging

from django.apps import AppConfig
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from django_push.conf import push_settings

logger = logging.getLogger("django_push")


class DjangoPushConfig(AppConfig):
    """Registers the checks; the admin registers itself."""

    name = "django_push"
    verbose_name = _("Push notifications")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_push import checks  # noqa: F401 - they register themselves, once apps are ready

        _import_dispatcher()


def _import_dispatcher() -> None:
    """Import what PUSH_DISPATCHER names, so that a worker knows the tasks that its module defines."""
    try:
        import_string(push_settings.dispatcher)
    except Exception as error:  # noqa: BLE001 - manage.py check tells, and has to run for that
        name = type(error).__name__
        logger.error("PUSH_DISPATCHER cannot be imported (%s); run manage.py check.", name)
