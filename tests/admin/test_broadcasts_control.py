import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection, connections
from django.test import Client

from django_push import testing, tokens
from django_push.admin import broadcasts_control
from django_push.broadcasts import control
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    LaneStatus,
    PauseReason,
    TokenStatus,
    get_token_model,
)
from tests.admin.conftest import said, text
from tests.admin.test_broadcasts import BROADCASTS, SCRIPT, add_batch, made, page_of
from tests.broadcasts.factories import drafted, finished, lane_of, make_tokens, reloaded, started

__all__ = ["made"]  # the fixture
pytestmark = pytest.mark.django_db


def press(client, row, button, **fields):
    return client.post(f"{BROADCASTS}{row.pk}/control/", {"press": button, **fields}, follow=True)


def confirm(client, row, button):
    return press(client, row, button, confirmed="yes")


def offered(client, row):
    """Return the presses of all buttons of a broadcast's page."""
    response = client.get(page_of(row))
    of_lanes = [button for lane in response.context["lanes"] for button in lane["buttons"]]
    return [button.press for button in (*response.context["buttons"], *of_lanes)]


def entries():
    return list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True))


@pytest.fixture
def woken(monkeypatch):
    """The keys of the broadcasts for which workers were asked, of a queue in other processes."""
    keys = []

    class Queue:
        can_defer = True

        def enqueue(self, job, payload, *, delay=0.0):
            keys.append((job, payload["broadcast"]))

    monkeypatch.setattr("django_push.wake.get_dispatcher", Queue)
    monkeypatch.setattr("django_push.admin.broadcasts_pages.get_dispatcher", Queue)
    return keys


class TestOffered:
    """What can be pressed when."""

    def test_while_it_runs(self, admin_client, made):
        """A running broadcast and its lanes are paused and cancelled."""
        of_lanes = [f"{verb}:{alias}" for alias in ("default", "other") for verb in ("pause", "cancel")]
        assert offered(admin_client, made) == ["pause", "cancel", *of_lanes]

    def test_while_it_is_paused(self, admin_client, made):
        """A paused lane is resumed while the others run, and a paused broadcast as a whole."""
        control.pause(made, lane="other")
        assert "resume:other" in offered(admin_client, made)
        control.pause(made)
        assert offered(admin_client, made)[0] == "resume"

    def test_before_it_runs(self, admin_client):
        """A draft is started; one that waits for its time is paused."""
        row = drafted()
        assert offered(admin_client, row) == ["start", "cancel"]
        Broadcast.objects.update(status="scheduled")
        assert offered(admin_client, row) == ["pause", "cancel"]

    def test_when_it_is_over(self, admin_client, made):
        """Of a cancelled broadcast nothing is left to press, whatever is unknown in it."""
        add_batch(made, pending=2, status=BatchStatus.UNKNOWN)
        control.cancel(made)
        assert offered(admin_client, made) == []

    def test_what_is_unknown(self, admin_client, made):
        """While something is unknown it can be sent again, but not of a lane that was cancelled."""
        add_batch(made, pending=2, status=BatchStatus.UNKNOWN)
        assert "resend_unknown" in offered(admin_client, made)
        control.cancel(made, lane="default")
        assert "resend_unknown" not in offered(admin_client, made)

    @pytest.mark.parametrize("where", ["ticket", "receipt"])
    def test_deactivations(self, admin_client, made, where):
        """Dead tokens can be brought back, also those that a receipt has told of."""
        if where == "ticket":
            add_batch(made, unregistered=1)
        else:
            made.lanes.update(receipts_dead=1)
        assert "undo_deactivations" in offered(admin_client, made)

    def test_one_lane_has_no_buttons_of_its_own(self, admin_client):
        """Where there is but one lane, it is the broadcast."""
        make_tokens(1)
        assert offered(admin_client, started()) == ["pause", "cancel"]


class TestPause:
    def test_the_whole(self, admin_client, made):
        """One press pauses, is told and written into the history."""
        assert said(press(admin_client, made, "pause")) == [
            "It is paused. What is in flight is finished and counted."
        ]
        assert reloaded(made).status == "paused"
        assert reloaded(made).pause_reason == PauseReason.OPERATOR
        assert entries() == ["Paused."]

    def test_a_lane(self, admin_client, made):
        """A lane's own button pauses it and no other."""
        assert said(press(admin_client, made, "pause:other"))[0].endswith("(other)")
        assert lane_of(made, "other").status == LaneStatus.PAUSED
        assert lane_of(made).status == LaneStatus.RUNNING
        assert entries() == ["Paused. (other)"]

    @pytest.mark.parametrize("button", ["pause", "pause:other"])
    def test_a_second_press(self, admin_client, made, button):
        """Who comes second is told so, and leaves no entry."""
        press(admin_client, made, button)
        assert "It was paused already." in said(press(admin_client, made, button))[0]
        assert len(entries()) == 1

    def test_too_late(self, admin_client, made):
        """What is over is not paused, and says what it is."""
        control.cancel(made)
        for button in ("pause", "pause:other"):
            assert "Nothing was changed: it is cancelled." in said(press(admin_client, made, button))[0]


class TestResume:
    def test_wakes_workers(self, admin_client, made, woken, django_capture_on_commit_callbacks):
        """With a queue workers are asked for, as many as it was made with."""
        control.pause(made)
        Broadcast.objects.update(workers=3)
        with django_capture_on_commit_callbacks(execute=True):
            assert said(press(admin_client, made, "resume")) == ["It goes on."]
        assert woken == [("drain_broadcast", made.pk)] * 3
        assert entries() == ["Resumed."]

    def test_sends_nothing_in_the_request(self, admin_client, made, django_capture_on_commit_callbacks):
        """Without a queue nothing is sent here: push_tick goes on with it."""
        control.pause(made)
        with django_capture_on_commit_callbacks(execute=True):
            page = text(press(admin_client, made, "resume"))
        assert reloaded(made).status == "running"
        assert "the next run of push_tick goes on with it" in page
        assert testing.outbox == []

    def test_a_second_press(self, admin_client, made):
        """What goes on goes on already."""
        assert said(press(admin_client, made, "resume")) == ["It goes on already."]

    def test_too_late(self, admin_client, made):
        """What is over stays over."""
        control.cancel(made)
        assert said(press(admin_client, made, "resume")) == ["Nothing was changed: it is cancelled."]

    @pytest.mark.parametrize("button", ["resume", "resume:other"])
    def test_asks_after_the_breaker(self, admin_client, made, button):
        """To overrule what protects the tokens takes a second look."""
        control.pause_lane(made, "other", PauseReason.DEAD_TOKENS, "")
        page = text(press(admin_client, made, button))
        assert "so that somebody looks" in page
        assert lane_of(made, "other").status == LaneStatus.PAUSED
        confirm(admin_client, made, button)
        assert lane_of(made, "other").status == LaneStatus.RUNNING

    def test_user_who_may_not_any_more(self, admin_client, made):
        """A broadcast of somebody who has lost the permission does not go on, and says so."""
        control.pause(made)
        user = get_user_model().objects.create_user("gone")
        Broadcast.objects.update(created_by=user, created_by_name="gone")
        assert said(press(admin_client, made, "resume")) == [
            "gone, who has made it, may not broadcast any more."
        ]
        assert reloaded(made).status == "paused"


class TestCancel:
    def test_asks_first(self, admin_client, made):
        """The first press asks and changes nothing; the second ends it for good."""
        add_batch(made, accepted=4)
        page = text(press(admin_client, made, "cancel"))
        assert "This cannot be undone." in page
        assert "no verdict yet for 10 tokens" in page
        assert reloaded(made).status == "running"
        assert "It is cancelled." in said(confirm(admin_client, made, "cancel"))[0]
        assert reloaded(made).status == "cancelled"
        assert entries() == ["Cancelled."]

    def test_a_lane(self, admin_client, made):
        """A lane is cancelled alone."""
        assert "no verdict yet for 4 tokens" in text(press(admin_client, made, "cancel:other"))
        confirm(admin_client, made, "cancel:other")
        assert lane_of(made, "other").status == LaneStatus.CANCELLED
        assert reloaded(made).status == "running"
        assert entries() == ["Cancelled. (other)"]

    def test_a_second_press(self, admin_client, made):
        """Two people who press it do no harm."""
        confirm(admin_client, made, "cancel")
        assert said(confirm(admin_client, made, "cancel")) == ["It was cancelled already."]

    def test_too_late(self, admin_client, made):
        """What is done is not cancelled."""
        Broadcast.objects.update(status="done")
        assert said(confirm(admin_client, made, "cancel")) == ["Nothing was changed: it is done."]

    def test_a_draft(self, admin_client):
        """What has not begun has no tokens to tell of."""
        row = drafted()
        assert "no verdict" not in text(press(admin_client, row, "cancel"))
        confirm(admin_client, row, "cancel")
        assert reloaded(row).status == "cancelled"


class TestResendUnknown:
    def test_asks_first(self, admin_client, made, woken, django_capture_on_commit_callbacks):
        """It says how many, and that each may get a second copy."""
        batch = add_batch(made, pending=3, status=BatchStatus.UNKNOWN)
        page = text(press(admin_client, made, "resend_unknown"))
        assert "3 tokens" in page
        assert "may get a second copy" in page
        assert BroadcastBatch.objects.get(pk=batch.pk).status == BatchStatus.UNKNOWN
        with django_capture_on_commit_callbacks(execute=True):
            assert said(confirm(admin_client, made, "resend_unknown")) == [
                "It is sent once more to 3 tokens."
            ]
        assert BroadcastBatch.objects.get(pk=batch.pk).status == BatchStatus.RETRY
        assert woken == [("drain_broadcast", made.pk)]
        assert entries() == ["Sent again to the unknown."]

    def test_a_second_press(self, admin_client, made):
        """What is sent again already is not unknown any more."""
        add_batch(made, pending=3, status=BatchStatus.UNKNOWN)
        confirm(admin_client, made, "resend_unknown")
        assert "nothing is sent again" in said(confirm(admin_client, made, "resend_unknown"))[0]
        assert len(entries()) == 1

    def test_too_late(self, admin_client, made):
        """Of a cancelled broadcast nothing is sent again."""
        control.cancel(made)
        assert "it is cancelled" in said(confirm(admin_client, made, "resend_unknown"))[0]


class TestUndoDeactivations:
    def test_asks_first(self, admin_client, made):
        """What this broadcast has deactivated is active again; what another has is not."""
        rows = get_token_model().objects.order_by("pk")
        mine, other = rows[0].pk, rows[1].pk
        how = {"code": "x", "status": TokenStatus.UNREGISTERED}
        tokens.deactivate(rows.filter(pk=mine), source=made.source, **how)
        tokens.deactivate(rows.filter(pk=other), source="ticket", **how)
        add_batch(made, unregistered=1)
        assert "1 token dead" in text(press(admin_client, made, "undo_deactivations"))
        assert rows.active().count() == 12
        assert said(confirm(admin_client, made, "undo_deactivations")) == ["1 token is active again."]
        assert set(rows.exclude(status=TokenStatus.ACTIVE).values_list("pk", flat=True)) == {other}
        assert "No token is left" in said(confirm(admin_client, made, "undo_deactivations"))[0]
        assert entries() == ["Undid its deactivations."]

    def test_has_no_lane(self, admin_client, made):
        """It is about the broadcast; a forged lane does nothing."""
        assert said(confirm(admin_client, made, "undo_deactivations:other")) == []


class TestStart:
    def test_asks_first(self, admin_client, woken, django_capture_on_commit_callbacks):
        """A draft that code has made is started by hand, after the count."""
        make_tokens(3)
        row = drafted()
        assert "It will be sent to 3 tokens." in text(press(admin_client, row, "start"))
        assert reloaded(row).status == "draft"
        with django_capture_on_commit_callbacks(execute=True):
            confirm(admin_client, row, "start")
        assert reloaded(row).status == "running"
        assert woken == [("drain_broadcast", row.pk)]
        assert entries() == ["Started."]
        assert said(confirm(admin_client, row, "start")) == ["Somebody has started it already."]

    def test_a_list(self, admin_client):
        """A list has its number since it was made."""
        make_tokens(3)
        row = drafted(get_token_model().objects.all()[:2])
        assert "It will be sent to 2 tokens." in text(press(admin_client, row, "start"))
        confirm(admin_client, row, "start")
        assert finished(row).progress.accepted == 2

    def test_an_audience_that_is_gone(self, admin_client, settings):
        """What cannot be told is said, and nothing starts."""
        settings.PUSH_AUDIENCES = {"buyers": lambda rows: rows}
        row = drafted("buyers")
        settings.PUSH_AUDIENCES = {}
        assert "There is no audience" in said(press(admin_client, row, "start"))[0]
        assert reloaded(row).status == "draft"


class TestGuards:
    """Who may press, and how."""

    @pytest.mark.parametrize(
        "permissions",
        [
            ("view_broadcast",),
            ("view_broadcast", "change_broadcast", "add_broadcast", "delete_broadcast", "send_push"),
            ("broadcast_push",),
        ],
    )
    @pytest.mark.parametrize("button", broadcasts_control.VERBS)
    def test_needs_both_permissions(self, staff_client, made, permissions, button):
        """Each button needs the permission to broadcast, beside that to see."""
        response = staff_client(*permissions).post(
            f"{BROADCASTS}{made.pk}/control/", {"press": button, "confirmed": "yes"}
        )
        assert response.status_code == 403
        assert reloaded(made).status == "running"

    def test_both_are_enough(self, staff_client, made):
        """To change rows is not needed."""
        press(staff_client("view_broadcast", "broadcast_push"), made, "pause")
        assert reloaded(made).status == "paused"

    def test_is_taken_away_before_the_confirmation(self, staff_client, made):
        """The permission is asked again when the question is answered."""
        client = staff_client("view_broadcast", "broadcast_push")
        press(client, made, "cancel")
        permission = Permission.objects.get(codename="broadcast_push")
        get_user_model().objects.get(username="staff").user_permissions.remove(permission)
        assert confirm(client, made, "cancel").status_code == 403

    def test_needs_csrf(self, django_user_model, made):
        """A POST without the CSRF token is refused; the page and the question have one."""
        client = Client(enforce_csrf_checks=True)
        client.force_login(django_user_model.objects.create_superuser("root"))
        assert confirm(client, made, "cancel").status_code == 403
        page = client.get(page_of(made))
        token = page.context["csrf_token"]
        question = press(client, made, "cancel", csrfmiddlewaretoken=str(token))
        assert "csrfmiddlewaretoken" in text(question)

    def test_a_get_does_nothing(self, admin_client, made):
        """A link is no press."""
        url = f"{BROADCASTS}{made.pk}/control/"
        assert admin_client.get(url, {"press": "cancel", "confirmed": "yes"}).url == page_of(made)
        assert reloaded(made).status == "running"

    @pytest.mark.parametrize("button", ["", "explode", "pause:nowhere", f"pause:{SCRIPT}", "start:other"])
    def test_no_such_button(self, admin_client, made, button):
        """What there is no button for does nothing."""
        response = confirm(admin_client, made, button)
        assert "<script>alert" not in text(response)
        assert reloaded(made).status == "running"
        assert entries() == []

    def test_anonymous(self, client, made):
        """Who is not logged in is asked to."""
        assert "/admin/login/" in client.post(f"{BROADCASTS}{made.pk}/control/", {"press": "pause"}).url

    def test_a_question_escapes(self, admin_client, made):
        """The name in a question is text."""
        Broadcast.objects.update(name=SCRIPT)
        page = text(press(admin_client, made, "cancel"))
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_not_in_a_transaction(self, admin_client, made, monkeypatch):
        """With ATOMIC_REQUESTS a verb still has its own transaction, which it may try again."""
        monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
        depth, seen = len(connection.savepoint_ids), []
        real = control.lock_lanes
        monkeypatch.setattr(
            control, "lock_lanes", lambda rows: seen.append(len(connection.savepoint_ids)) or real(rows)
        )
        press(admin_client, made, "pause")
        assert set(seen) == {depth + 1}

    def test_a_dispatcher_that_is_gone(self, admin_client, made, settings):
        """A wrong PUSH_DISPATCHER is for the checks; the page is there, and resuming works."""
        settings.PUSH_DISPATCHER = "nowhere.Dispatcher"
        control.pause(made)
        press(admin_client, made, "resume")
        assert reloaded(made).status == "running"
