"""Run by test_swapped in a process of its own, since a swap is settled when models are loaded."""

import sys

import django
from django.conf import settings

from tests import settings as base

OWN = {name: getattr(base, name) for name in dir(base) if name.isupper()}
OWN |= {
    "INSTALLED_APPS": [*base.INSTALLED_APPS, "tests.admin.swapped"],
    "AUTH_USER_MODEL": "swapped.Member",
    "PUSH_TOKEN_MODEL": "swapped.Device",
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    "SILENCED_SYSTEM_CHECKS": [],
}


def main() -> None:
    settings.configure(**OWN)
    django.setup()
    from django.contrib import admin
    from django.contrib.admin.models import LogEntry
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from django_push import register_token, testing
    from django_push.admin import PushTokenAdmin
    from tests.admin.swapped.models import Device, Member

    assert type(admin.site.get_model_admin(Device)) is PushTokenAdmin

    class DeviceAdmin(PushTokenAdmin):
        list_display = (*PushTokenAdmin.list_display, "shop")
        fieldsets = (*PushTokenAdmin.fieldsets, ("Shop", {"fields": ("shop", "status_code")}))

    if "subclass" in sys.argv:
        admin.site.unregister(Device)
        admin.site.register(Device, DeviceAdmin)
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("check")
    setup_test_environment()

    member = Member.objects.create(email="anna@example.com", is_superuser=True)
    device, _ = register_token("secret-token-of-anna-0001", user=member, backend="default")
    client = Client()
    client.force_login(member)
    url = "/admin/swapped/device/"
    page = client.get(url).content.decode()
    assert "anna@example.com" in page
    assert device.token not in page
    for term in ("anna@example.com", "anna", device.token):
        response = client.post(f"{url}search/", {"q": term}, follow=True)
        assert list(response.context["cl"].result_list) == [device], term
    fields = {"device_name": "new", "metadata": "{}", "shop": "Graz", "status_code": "forged"}
    client.post(f"{url}{device.pk}/change/", fields)
    device.refresh_from_db()
    assert (device.device_name, device.enabled, device.status_code) == ("new", False, "")
    assert device.shop == ("Graz" if "subclass" in sys.argv else "")
    data = {"action": "enable_selected", "_selected_action": [device.pk], "index": "0"}
    client.post(url, data)
    assert "send-push" in client.get(f"{url}{device.pk}/change/").content.decode()
    words = {"tokens": device.pk, "title": "Hi"}
    preview = client.post(f"{url}send-push/", {**words, "_preview": "1"})
    sent = {**words, "_send": "1", "nonce": preview.context["nonce"]}
    response = client.post(f"{url}send-push/", sent, follow=True)
    assert "1 token was tried" in response.content.decode()
    assert [push.pk for push in testing.outbox] == [device.pk]
    added = {"token": "another-secret-token", "backend": "default", "kind": "token", "user": member.pk}
    client.post(f"{url}add/", added)
    assert Device.objects.count() == 2
    assert LogEntry.objects.count() == 4
    member.is_superuser = False
    member.save()
    assert client.get(f"{url}send-push/?tokens={device.pk}").status_code == 403


main()
