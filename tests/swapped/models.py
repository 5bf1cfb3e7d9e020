from django.db import models

from django_push.models import AbstractPushToken


class DeviceToken(AbstractPushToken):
    """A token model with a column of the site's own."""

    theme = models.CharField(max_length=16, default="light")

    class Meta(AbstractPushToken.Meta):
        verbose_name = "device"
