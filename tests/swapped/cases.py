"""What a project with a token model of its own relies on: run by test_swapped, in that project."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from django_push import get_token_model, register_token, send_push, testing, unregister_token
from django_push.models import PushToken
from django_push.outcomes import Outcome
from django_push.tokens import deactivate, move, reactivate, replace
from tests.swapped.models import DeviceToken

pytestmark = pytest.mark.django_db


@pytest.fixture
def user():
    return get_user_model().objects.create(username="ann")


def test_model():
    """The site's model is the token model, and only its table exists."""
    assert get_token_model() is DeviceToken
    assert PushToken._meta.swapped == "swapped.DeviceToken"
    tables = connection.introspection.table_names()
    assert "swapped_devicetoken" in tables
    assert "django_push_pushtoken" not in tables


def test_no_migration_is_missing():
    """Neither app asks for a migration."""
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_checks():
    """The project passes its checks."""
    call_command("check", fail_level="WARNING")


def test_admin():
    """The admin is the site's model's."""
    registered = {model for model in admin.site._registry if issubclass(model, (DeviceToken, PushToken))}
    assert registered <= {DeviceToken}


def test_unique():
    """The schema's guarantees come with the abstract model."""
    DeviceToken.objects.create(token="a", backend="default")
    with pytest.raises(IntegrityError), transaction.atomic():
        DeviceToken.objects.create(token="a", backend="default")
    names = {index.name for index in DeviceToken._meta.indexes}
    assert len(names) == 2


def test_path_of_a_push(user, django_capture_on_commit_callbacks):
    """Tokens are registered, sent to, and brought in line with what the provider said."""
    row, created = register_token("tok-1", user=user, backend="default", device_id="d")
    assert created
    assert isinstance(row, DeviceToken)
    register_token("tok-2", user=user, backend="default")
    register_token("tok-3", user=user, backend="default")
    testing.answer("tok-2", Outcome.UNREGISTERED, code="NotRegistered")
    testing.answer("tok-3", Outcome.ACCEPTED, id="x", replacement="tok-4")
    result = send_push(user, title="Hi")
    assert (result.changes.deactivated, result.changes.replaced) == (1, 1)
    assert set(user.push_tokens.active().values_list("token", flat=True)) == {"tok-1", "tok-4"}
    assert len(send_push(DeviceToken.objects.filter(theme="light"), title="Hi")) == 2


def test_verbs(user):
    """Every verb writes the site's model, and leaves its own column alone."""
    row, _ = register_token("a", user=user, backend="default")
    DeviceToken.objects.update(theme="dark")
    other, _ = register_token("b", user=user, backend="default")
    assert replace(row, "b", source="admin")
    assert unregister_token("b") == 1
    assert reactivate(DeviceToken.objects.filter(pk=other.pk), source="admin") == 1
    assert move("default", "other").moved == 2
    assert deactivate(DeviceToken.objects.all(), code="x", source="admin") == 1
    row.refresh_from_db()
    assert (row.theme, row.status, row.backend) == ("dark", "replaced", "other")
    assert row.replaced_by == other


def test_registry():
    """The swapped model is known to the registry under its own name."""
    assert apps.get_model("swapped.DeviceToken") is DeviceToken
