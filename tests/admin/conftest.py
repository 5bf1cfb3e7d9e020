import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from django_push import register_token

LIST = "/admin/django_push/pushtoken/"
SEND = f"{LIST}send-push/"


@pytest.fixture
def staff_client(db):
    """Return a function that logs a staff user in who has just these permissions."""

    def make(*codenames):
        user = get_user_model().objects.create_user("staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture
def anna(db):
    return get_user_model().objects.create_user("anna", email="Anna.B@example.com")


@pytest.fixture
def make_token(db):
    """Return a function that registers tokens with long, distinct values."""
    count = iter(range(1000))

    def make(**facts):
        value = facts.pop("token", None) or f"ExponentPushToken[secret{next(count):03d}{'x' * 12}end]"
        return register_token(value, **{"backend": "default", **facts})[0]

    return make


def text(response):
    return response.content.decode()


def said(response):
    """The messages that a response shows."""
    return [str(message) for message in response.context["messages"]]
