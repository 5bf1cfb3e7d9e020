import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_push import get_token_model, signals, tokens
from django_push.admin import history
from django_push.models import TokenSource, TokenStatus
from tests.admin.conftest import LIST, said, text

PushToken = get_token_model()
pytestmark = pytest.mark.django_db


def act(client, action, rows=(), *, across=False, query=""):
    data = {"action": action, "_selected_action": [row.pk for row in rows], "index": "0"}
    return client.post(LIST + query, {**data, "select_across": "1" if across else "0"}, follow=True)


def test_disable_and_enable(admin_client, make_token):
    """Only rows that had the other wish are changed, counted and logged."""
    rows = [make_token() for _ in range(3)]
    tokens.set_enabled(PushToken.objects.filter(pk=rows[0].pk), False)
    assert said(act(admin_client, "disable_selected", rows)) == ["2 tokens were disabled."]
    assert not PushToken.objects.enabled().exists()
    assert said(act(admin_client, "enable_selected", rows[:1])) == ["1 token was enabled."]
    assert list(PushToken.objects.enabled()) == rows[:1]
    assert LogEntry.objects.filter(change_message="Disabled.").count() == 2
    assert LogEntry.objects.get(change_message="Enabled.").object_id == str(rows[0].pk)


def test_deactivate_and_reactivate(admin_client, make_token, django_capture_on_commit_callbacks):
    """The status is changed by the verbs, with staff as the source and a signal for each row."""
    rows = [make_token(), make_token()]
    heard = []

    def receive(token, **about):
        heard.append((token.pk, about["source"]))

    signals.token_deactivated.connect(receive)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            response = act(admin_client, "deactivate_selected", rows)
    finally:
        signals.token_deactivated.disconnect(receive)
    assert said(response) == ["2 tokens were deactivated."]
    assert sorted(heard) == [(row.pk, "admin") for row in rows]
    row = PushToken.objects.first()
    assert (row.status, row.status_source, row.status_code) == ("retired", TokenSource.ADMIN, "staff")
    assert said(act(admin_client, "reactivate_selected", rows[:1])) == ["1 token was reactivated."]
    assert list(PushToken.objects.active()) == rows[:1]


def test_nothing_to_change(admin_client, make_token):
    """An action that changes nothing says so and logs nothing."""
    assert said(act(admin_client, "reactivate_selected", [make_token()])) == ["0 tokens were reactivated."]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("action", ["enable", "disable", "deactivate", "reactivate"])
def test_need_the_change_permission(staff_client, make_token, action):
    """Who may view and send may not change: the action is neither offered nor obeyed."""
    row = make_token()
    tokens.deactivate(PushToken.objects.all(), code="x", source="ticket")
    client = staff_client("view_pushtoken", "send_push")
    assert f"{action}_selected" not in text(client.get(LIST))
    act(client, f"{action}_selected", [row])
    row.refresh_from_db()
    assert (row.enabled, row.status) == (True, TokenStatus.RETIRED)


def test_all_across_pages(admin_client, make_token):
    """Select-all acts on what the filters leave, not on the page alone."""
    rows = [make_token(platform="ios") for _ in range(3)] + [make_token()]
    act(admin_client, "disable_selected", rows[:1], across=True, query="?platform=ios")
    assert list(PushToken.objects.enabled()) == rows[3:]


def test_too_many_at_once_are_refused(admin_client, make_token, monkeypatch):
    """Above the limit nothing is changed, and the message says what to do."""
    rows = [make_token() for _ in range(3)]
    monkeypatch.setattr(type(admin.site.get_model_admin(PushToken)), "max_changes", 2)
    [message] = said(act(admin_client, "disable_selected", rows, across=True))
    assert "more than 2 tokens" in message
    assert PushToken.objects.enabled().count() == 3


def test_many_share_one_log_entry(admin_client, make_token, monkeypatch):
    """Above a limit one entry says how many, without naming them."""
    rows = [make_token() for _ in range(3)]
    monkeypatch.setattr(history, "ENTRY_EACH", 2)
    act(admin_client, "disable_selected", rows)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.object_repr) == (None, "3 push tokens")
    assert admin_client.get("/admin/").status_code == 200


def test_queries_do_not_grow_with_the_selection(admin_client, make_token):
    """An action on twenty tokens costs the queries of one on two."""

    def measure(action, rows):
        with CaptureQueriesContext(connection) as queries:
            act(admin_client, action, rows)
        return len(queries)

    rows = [make_token() for _ in range(20)]
    ContentType.objects.get_for_model(PushToken)  # once per process
    assert measure("disable_selected", rows[:2]) == measure("disable_selected", rows[2:])


class TestDelete:
    def test_asks_first_and_masks(self, admin_client, make_token):
        """Django's confirmation page lists the rows by their masks."""
        rows = [make_token(), make_token()]
        page = text(act(admin_client, "delete_selected", rows))
        assert rows[0].masked in page
        assert rows[0].token not in page
        assert PushToken.objects.count() == 2
        confirmed = {
            "action": "delete_selected",
            "post": "yes",
            "_selected_action": [row.pk for row in rows],
        }
        admin_client.post(LIST, confirmed)
        assert not PushToken.objects.exists()

    def test_refuses_very_many(self, admin_client, make_token, monkeypatch):
        """A list of a million rows to confirm is not built."""
        rows = [make_token() for _ in range(3)]
        monkeypatch.setattr(type(admin.site.get_model_admin(PushToken)), "max_deletions", 2)
        [message] = said(act(admin_client, "delete_selected", rows, across=True))
        assert "more than 2 tokens" in message

    def test_needs_the_permission(self, staff_client, make_token):
        """Who may change tokens may not delete them."""
        make_token()
        page = text(staff_client("view_pushtoken", "change_pushtoken").get(LIST))
        assert "delete_selected" not in page
        assert "disable_selected" in page
