"""The shop's configuration."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Connects the signal that tells buyers about their orders."""

    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        from shop import signals  # noqa: F401 - connects the receiver
