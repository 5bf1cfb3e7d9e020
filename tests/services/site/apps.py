"""Receipts that are due in seconds."""

from datetime import timedelta

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "tests.services.site"
    label = "site"

    def ready(self):
        from django_push import receipts, wake

        receipts.SCHEDULE = (timedelta(seconds=1), *receipts.SCHEDULE)
        wake.CHECK_AFTER = 4.0
