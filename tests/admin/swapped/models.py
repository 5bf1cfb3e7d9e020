"""A site with its own users, who have no name but an address, and its own token model."""

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models

from django_push.models import AbstractPushToken


class Members(BaseUserManager):
    pass


class Member(AbstractBaseUser, PermissionsMixin):
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=True)
    is_active = models.BooleanField(default=True)

    USERNAME_FIELD = "email"
    objects = Members()

    class Meta:
        app_label = "swapped"


class Device(AbstractPushToken):
    shop = models.CharField(max_length=20, blank=True)

    class Meta(AbstractPushToken.Meta):
        app_label = "swapped"
        verbose_name = "device"
