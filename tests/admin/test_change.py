import pytest
from django.contrib import admin
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry

from django_push import get_token_model, tokens
from django_push.models import TokenStatus
from tests.admin.conftest import LIST, SEND, said, text

PushToken = get_token_model()
pytestmark = pytest.mark.django_db
TOKEN = "ExponentPushToken[verysecretandlongvalue]"


class TestAdd:
    def add(self, client, **fields):
        return client.post(f"{LIST}add/", {"token": TOKEN, "kind": "token", **fields}, follow=True)

    def test_registers(self, admin_client, anna):
        """A pasted token is registered, with its facts, and logged."""
        response = self.add(admin_client, backend="other", user=anna.pk, platform="ios", device_id="d1")
        row = PushToken.objects.get()
        assert (row.token, row.backend, row.user) == (TOKEN, "other", anna)
        assert (row.platform, row.device_id, row.status_source) == ("ios", "d1", "registration")
        assert LogEntry.objects.get().action_flag == ADDITION
        assert TOKEN not in text(response)

    def test_known_token_is_active_again(self, admin_client, anna):
        """A token that is known is registered anew, not refused."""
        row, _ = tokens.register_token(TOKEN, backend="default", platform="ios")
        tokens.deactivate(PushToken.objects.all(), code="x", source="ticket")
        response = self.add(admin_client, backend="default", user=anna.pk)
        row.refresh_from_db()
        assert (row.status, row.user, row.platform) == (TokenStatus.ACTIVE, anna, "ios")
        assert any("registered already" in line for line in said(response))

    def test_ambiguous_alias_is_an_error_of_the_form(self, admin_client):
        """Where the alias cannot be inferred the form asks for it, and does not repeat the token."""
        response = self.add(admin_client)
        assert response.context["adminform"].form.errors.keys() == {"backend"}
        assert "Name the backend" in text(response)
        assert TOKEN not in text(response)
        assert not PushToken.objects.exists()

    @pytest.mark.parametrize("token", ["ExponentPushToken[short", "with space", "x" * 5000])
    def test_malformed_token_is_an_error_of_the_form(self, admin_client, settings, token):
        """A token that no provider can have issued is refused at its field."""
        settings.PUSH_BACKENDS = {"expo": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}
        response = self.add(admin_client, token=token, backend="expo")
        assert response.context["adminform"].form.errors.keys() == {"token"}
        assert not PushToken.objects.exists()

    def test_wrong_settings_are_an_error_of_the_form(self, admin_client, settings):
        """A misconfigured alias is shown, not raised."""
        settings.PUSH_BACKENDS = {"bad": {"BACKEND": "django_push.backends.gcm.GCMBackend"}}
        response = self.add(admin_client, backend="bad")
        assert response.context["adminform"].form.errors.keys() == {"backend"}

    def test_missing_token(self, admin_client):
        """An empty form is an error, not a registration."""
        response = self.add(admin_client, token=" ")
        assert response.context["adminform"].form.errors.keys() == {"token"}

    def test_needs_the_permission(self, staff_client):
        """Who may change tokens may not add one."""
        assert self.add(staff_client("change_pushtoken")).status_code == 403


class TestChange:
    def fields(self, **changes):
        return {
            "enabled": "on", "device_name": "", "platform": "", "app_version": "", "locale": "",
            "timezone": "", "metadata": "{}", **changes,
        }  # fmt: skip

    def test_writes_facts_and_nothing_else(self, admin_client, make_token, anna):
        """Device facts are written; what the verbs own stays, whatever is posted."""
        row = make_token(user=anna)
        stolen = {"status": "retired", "token": "other", "user": "", "backend": "other", "device_id": "x"}
        admin_client.post(f"{LIST}{row.pk}/change/", self.fields(device_name="Anna's", **stolen))
        after = PushToken.objects.get()
        assert after.device_name == "Anna's"
        for name in ("status", "token", "user_id", "backend", "device_id", "registered_at", "status_changed"):
            assert getattr(after, name) == getattr(row, name)
        assert "device name" in LogEntry.objects.get().get_change_message().lower()

    def test_does_not_undo_a_verdict(self, admin_client, make_token, monkeypatch):
        """A token that dies while the form is saved stays dead."""
        row = make_token()
        model_admin = type(admin.site.get_model_admin(PushToken))
        save = model_admin.save_model

        def save_late(self, *args):
            tokens.deactivate(PushToken.objects.all(), code="NotRegistered", source="ticket")
            save(self, *args)

        monkeypatch.setattr(model_admin, "save_model", save_late)
        admin_client.post(f"{LIST}{row.pk}/change/", self.fields(device_name="new", enabled=""))
        row.refresh_from_db()
        assert (row.status, row.device_name, row.enabled) == (TokenStatus.RETIRED, "new", False)

    def test_enabled_goes_through_the_verb(self, admin_client, make_token, monkeypatch):
        """The wish is written by set_enabled."""
        row = make_token()
        calls = []
        monkeypatch.setattr(tokens, "set_enabled", lambda rows, to: calls.append((list(rows), to)))
        admin_client.post(f"{LIST}{row.pk}/change/", self.fields(enabled=""))
        assert calls == [([row], False)]
        row.refresh_from_db()
        assert row.enabled  # nobody else wrote it

    @pytest.mark.parametrize("page", ["change", "delete", "history"])
    def test_pages_mask_the_token(self, admin_client, make_token, page):
        """No page about a token has the whole of it."""
        row = make_token()
        admin_client.post(f"{LIST}{row.pk}/change/", self.fields(device_name="new"))
        content = text(admin_client.get(f"{LIST}{row.pk}/{page}/"))
        assert row.token not in content
        assert row.token_digest not in content
        assert row.masked in content

    def test_links_to_user_and_successor(self, admin_client, make_token, anna):
        """User and successor are links to their pages."""
        new, old = make_token(), make_token(user=anna)
        tokens.replace(old, new.token, source="ticket")
        content = text(admin_client.get(f"{LIST}{old.pk}/change/"))
        assert f'href="/admin/auth/user/{anna.pk}/change/"' in content
        assert f'href="{LIST}{new.pk}/change/"' in content

    def test_viewer_sees_and_cannot_write(self, staff_client, make_token):
        """With the view permission the page has no field and no button to send."""
        row = make_token()
        client = staff_client("view_pushtoken")
        content = text(client.get(f"{LIST}{row.pk}/change/"))
        assert row.masked in content
        assert row.token not in content
        assert 'name="device_name"' not in content
        assert SEND not in content
        assert client.post(f"{LIST}{row.pk}/change/", self.fields()).status_code == 403

    def test_button_to_send(self, staff_client, make_token):
        """Who may send finds the button on the token's page."""
        row = make_token()
        content = text(staff_client("view_pushtoken", "send_push").get(f"{LIST}{row.pk}/change/"))
        assert f'href="{SEND}?tokens={row.pk}"' in content

    def test_delete_logs_a_masked_name(self, admin_client, make_token):
        """What is deleted is logged by its masked name."""
        row = make_token()
        admin_client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
        entry = LogEntry.objects.get()
        assert (entry.action_flag, entry.object_repr) == (DELETION, f"default: {row.masked}")
        assert not PushToken.objects.exists()

    def test_change_is_logged_without_the_token(self, admin_client, make_token):
        """The history names the fields that were changed, and the token by its mask."""
        row = make_token()
        admin_client.post(f"{LIST}{row.pk}/change/", self.fields(locale="de"))
        entry = LogEntry.objects.get()
        assert entry.action_flag == CHANGE
        assert row.token not in entry.object_repr + entry.change_message
