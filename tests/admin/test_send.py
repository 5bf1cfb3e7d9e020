import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as Cookies
from django.db import connection, connections
from django.test import Client
from django.utils.html import escape

from django_push import Outcome, get_token_model, testing, tokens
from django_push.admin import sending
from django_push.handler import push_backends
from django_push.models import TokenStatus
from tests.admin.conftest import LIST, SEND, said, text

PushToken = get_token_model()
pytestmark = pytest.mark.django_db
WORDS = {"title": "Shipped", "body": "On its way"}


def step(client, rows, button, follow=True, **fields):
    tokens_field = rows if isinstance(rows, str) else ",".join(str(row.pk) for row in rows)
    return client.post(SEND, {"tokens": tokens_field, f"_{button}": "1", **fields}, follow=follow)


def nonce_of(response):
    return re.search(r'name="nonce" value="(\w+)"', text(response)).group(1)


def send(client, rows, **fields):
    """Go through the preview, as a browser does."""
    words = {**WORDS, **fields}
    preview = step(client, rows, "preview", **words)
    return step(client, rows, "send", nonce=nonce_of(preview), **words)


class TestCompose:
    def test_action_opens_the_form(self, admin_client, make_token):
        """The action shows a form for one's own words and sends nothing."""
        rows = [make_token(), make_token(), make_token()]
        selected = [row.pk for row in rows[:2]]
        data = {"action": "send_push_to_selected", "_selected_action": selected, "index": "0"}
        response = admin_client.post(LIST, data)
        assert "Send a push to 2 tokens" in text(response)
        assert f'name="tokens" value="{selected[1]},{selected[0]}"' in text(response)
        for name in ("title", "body", "data", "image", "link", "priority", "ttl", "badge"):
            assert f'name="{name}"' in text(response)
        assert testing.outbox == []

    def test_form_masks_tokens(self, admin_client, make_token):
        """The form names its recipients by their masks."""
        row = make_token()
        page = text(admin_client.get(f"{SEND}?tokens={row.pk}"))
        assert row.masked in page
        assert row.token not in page

    def test_action_takes_all_across_pages(self, admin_client, make_token):
        """Select-all sends to what the filters leave."""
        for _ in range(3):
            make_token(platform="ios")
        first = make_token()
        data = {"action": "send_push_to_selected", "_selected_action": [first.pk], "index": "0"}
        response = admin_client.post(f"{LIST}?platform=ios", {**data, "select_across": "1"})
        assert "Send a push to 3 tokens" in text(response)

    def test_more_than_a_request_can_send_are_refused(self, admin_client, make_token, monkeypatch):
        """Above the limit the message points to what is made for it."""
        rows = [make_token() for _ in range(3)]
        monkeypatch.setattr(type(admin.site.get_model_admin(PushToken)), "max_push_tokens", 2)
        data = {"action": "send_push_to_selected", "_selected_action": [r.pk for r in rows], "index": "0"}
        [message] = said(admin_client.post(LIST, data, follow=True))
        assert "More than 2 tokens" in message
        assert "iter_push" in message
        [message] = said(step(admin_client, rows, "send", nonce="a" * 32, **WORDS))
        assert "More than 2 tokens" in message
        [message] = said(step(admin_client, "1," * 500, "send", nonce="a" * 32, **WORDS))
        assert "More than 2 tokens" in message
        assert testing.outbox == []

    @pytest.mark.parametrize("selected", ["", "x", "999999", "1 OR 1=1; --", "9" * 40, "\u0661"])
    def test_no_recipient(self, admin_client, selected):
        """Keys that are none lead back to the list."""
        assert said(step(admin_client, selected, "preview", **WORDS)) == ["No token is selected."]

    @pytest.mark.parametrize(
        ("fields", "where", "says"),
        [
            ({}, None, "nothing in the message"),
            ({"title": "x", "data": "[1]"}, "data", "dictionary"),
            ({"title": "x", "data": "{oops"}, "data", "JSON"),
            ({"title": "x", "data": "NaN"}, "data", "dictionary"),
            ({"title": "x", "ttl": "-1"}, "ttl", "greater"),
            ({"title": "x", "ttl": "9999999"}, "ttl", "less"),
            ({"title": "x", "image": "javascript:alert(1)"}, "image", "URL"),
            ({"title": "x", "priority": "urgent"}, "priority", "valid choice"),
        ],
    )
    def test_errors_are_shown_on_the_form(self, admin_client, make_token, fields, where, says):
        """What cannot be sent is an error at its field, and nothing is sent."""
        response = step(admin_client, [make_token()], "send", nonce="a" * 32, **fields)
        errors = response.context["form"].errors
        assert list(errors) == [where or "__all__"]
        assert says in str(errors)
        assert escape("Please correct the error below") in text(response)
        assert testing.outbox == []

    def test_unsupported_field_is_an_error_of_the_form(self, admin_client, make_token, settings):
        """A field that no provider carries is refused before anything is sent."""
        settings.PUSH_BACKENDS = {"default": {"BACKEND": "django_push.backends.locmem.LocMemBackend"}}
        backend = push_backends["default"]
        backend.fields = backend.fields - {"badge"}
        response = step(admin_client, [make_token()], "preview", **WORDS, badge="3")
        assert "badge" in str(response.context["form"].errors)

    def test_wrong_settings_are_an_error_of_the_form(self, admin_client, make_token, settings):
        """A misconfigured alias is shown, not raised."""
        row = make_token()
        settings.PUSH_BACKENDS = {"default": {"BACKEND": "nowhere.Backend"}}
        response = step(admin_client, [row], "preview", **WORDS)
        assert "PUSH_BACKENDS" in str(response.context["form"].errors)


class TestPreview:
    def test_says_who_gets_what(self, admin_client, make_token):
        """The preview counts tokens by alias, says who is left out and why, and sends nothing."""
        rows = [make_token(), make_token(), make_token(backend="other"), make_token(), make_token()]
        tokens.deactivate(PushToken.objects.filter(pk=rows[3].pk), code="x", source="ticket")
        tokens.set_enabled(PushToken.objects.filter(pk=rows[4].pk), False)
        response = step(admin_client, rows, "preview", **WORDS, data='{"a": 1}')
        assert response.context["aliases"] == [("default", 2), ("other", 1)]
        assert [(str(why), n) for why, n in response.context["skipped"]] == [
            ("disabled by the user or by staff", 1),
            ("not active", 1),
        ]
        assert 'value="Send to 3 tokens"' in text(response)
        assert "On its way" in text(response)
        assert testing.outbox == []

    def test_escapes_the_words(self, admin_client, make_token):
        """What staff write is shown as text."""
        response = step(
            admin_client,
            [make_token()],
            "preview",
            title="<script>alert(1)</script>",
            body="<img src=x onerror=1>",
            link="javascript:alert(1)",
        )
        assert "<script>alert" not in text(response)
        assert "<img src=x" not in text(response)
        assert 'href="javascript' not in text(response)
        assert "&lt;script&gt;alert(1)" in text(response)

    def test_nobody_to_send_to(self, admin_client, make_token):
        """Without a token that can be sent to there is no button to send."""
        row = make_token()
        tokens.deactivate(PushToken.objects.all(), code="x", source="ticket")
        response = step(admin_client, [row], "preview", **WORDS)
        assert "None of the selected tokens" in text(response)
        assert 'name="_send"' not in text(response)

    def test_a_message_that_is_too_big(self, admin_client, make_token):
        """What every provider would refuse is counted with the reason."""
        response = step(admin_client, [make_token()], "preview", title="x" * 5000)
        assert response.context["planned"] == 0
        assert "MessageTooBig" in text(response)

    def test_back_to_the_text(self, admin_client, make_token):
        """One can go back and finds one's words."""
        response = step(admin_client, [make_token()], "edit", **WORDS, data='{"a": 1}')
        assert 'value="Shipped"' in text(response)
        assert escape('{"a": 1}') in text(response)
        assert 'name="_preview"' in text(response)

    def test_a_send_without_a_preview_is_a_preview(self, admin_client, make_token):
        """Without a nonce of a preview nothing is sent."""
        response = step(admin_client, [make_token()], "send", **WORDS, nonce="../../etc")
        assert nonce_of(response)
        assert testing.outbox == []


class TestSend:
    def test_sends_the_words(self, admin_client, make_token):
        """The message arrives as it was composed."""
        row = make_token()
        send(
            admin_client,
            [row],
            data='{"order": 17}',
            link="shop://orders/17",
            image="https://example.com/a.png",
            priority="high",
            ttl="60",
            badge="0",
            subtitle="Sub",
        )
        [sent] = testing.outbox
        assert sent.pk == row.pk
        assert sent.message.to_json() == {
            "title": "Shipped",
            "body": "On its way",
            "data": {"order": 17},
            "link": "shop://orders/17",
            "image": "https://example.com/a.png",
            "priority": "high",
            "ttl": 60,
            "badge": 0,
            "subtitle": "Sub",
        }

    def test_accounts_for_each_outcome(self, admin_client, make_token):
        """The result says how many had which outcome and which tokens were deactivated."""
        rows = [make_token() for _ in range(4)]
        testing.answer(
            rows[1].token, Outcome.UNREGISTERED, code="NotRegistered", detail="<script>gone</script>"
        )
        testing.answer(rows[2].token, Outcome.PROVIDER_SETUP, code="InvalidCredentials")
        response = send(admin_client, rows)
        page = text(response)
        assert said(response) == ["A push was sent to 4 tokens; the providers accepted 2."]
        assert [(str(words), n) for words, n in response.context["outcomes"]] == [
            ("Accepted by the provider", 2),
            ("The app is no longer installed", 1),
            ("The project's setup at the provider is at fault", 1),
        ]
        assert "1 token was deactivated." in page
        assert "NotRegistered" in page
        assert "<script>gone" not in page
        assert f'href="{LIST}{rows[1].pk}/change/"' in page
        assert not [row for row in rows if row.token in page]
        assert PushToken.objects.get(pk=rows[1].pk).status == TokenStatus.UNREGISTERED
        assert PushToken.objects.active().count() == 3

    def test_names_dead_tokens_first(self, admin_client, make_token, monkeypatch):
        """Of many that were not accepted the page names some, those that were deactivated first."""
        monkeypatch.setattr(sending, "NAMED", 1)
        rows = [make_token(), make_token()]
        testing.answer(rows[0].token, Outcome.PROVIDER_SETUP, code="InvalidCredentials")
        testing.answer(rows[1].token, Outcome.UNREGISTERED, code="NotRegistered")
        page = text(send(admin_client, rows))
        assert "NotRegistered" in page
        assert "InvalidCredentials" not in page
        assert "and 1 more" in page

    def test_is_logged_per_token(self, admin_client, make_token):
        """Each token's history has the title and the outcome, not the text or the token."""
        rows = [make_token(), make_token()]
        testing.answer(rows[1].token, Outcome.UNREGISTERED)
        send(admin_client, rows, body="private words")
        entries = {entry.object_id: entry for entry in LogEntry.objects.all()}
        assert entries.keys() == {str(row.pk) for row in rows}
        assert entries[str(rows[0].pk)].change_message == "Sent a push “Shipped”: accepted."
        assert entries[str(rows[1].pk)].change_message == "Sent a push “Shipped”: unregistered."
        for entry in entries.values():
            assert "private" not in entry.change_message
            assert rows[0].token not in entry.object_repr + entry.change_message

    def test_pressing_twice_sends_once(self, admin_client, make_token):
        """The same preview is sent once; the second press shows the first one's result."""
        row = make_token()
        nonce = nonce_of(step(admin_client, [row], "preview", **WORDS))
        for _ in range(2):
            response = step(admin_client, [row], "send", nonce=nonce, **WORDS)
        assert len(testing.outbox) == 1
        assert "not sent twice" in said(response)[0]
        assert response.context["result"]["tried"] == 1

    def test_two_presses_before_the_first_has_ended(self, admin_client, make_token):
        """A nonce that another request has taken is not sent, though its result is not known yet."""
        row = make_token()
        nonce = nonce_of(step(admin_client, [row], "preview", **WORDS))
        SessionStore(nonce).save(must_create=True)
        response = step(admin_client, [row], "send", nonce=nonce, **WORDS)
        assert testing.outbox == []
        assert "not sent twice" in said(response)[0]
        assert "under way" in said(response)[1]

    def test_sending_again_from_a_new_preview(self, admin_client, make_token):
        """Whoever means it sends again from a new preview."""
        row = make_token()
        send(admin_client, [row])
        send(admin_client, [row])
        assert len(testing.outbox) == 2

    def test_session_keeps_few_results(self, admin_client, make_token):
        """A session remembers its last results, not all."""
        row = make_token()
        for _ in range(5):
            send(admin_client, [row])
        assert len(admin_client.session[sending.RESULTS]) == sending.KEEP_RESULTS

    def test_result_of_another_session(self, admin_client, staff_client, make_token):
        """A result is shown to the session that sent it, and to no other."""
        response = send(admin_client, [make_token()])
        url = response.redirect_chain[-1][0]
        other = staff_client("view_pushtoken", "send_push")
        assert "Nothing is known" in said(other.get(url, follow=True))[0]

    def test_settings_that_break_after_the_preview(self, admin_client, make_token, monkeypatch):
        """An error at the last moment is shown on the form; nothing was sent."""
        row = make_token()
        nonce = nonce_of(step(admin_client, [row], "preview", **WORDS))
        real = sending.send_push

        def fail(rows, message, **options):
            if options.get("dry_run"):
                return real(rows, message, **options)
            raise sending.PushError("gone")

        monkeypatch.setattr(sending, "send_push", fail)
        response = step(admin_client, [row], "send", nonce=nonce, **WORDS)
        assert "gone" in str(response.context["form"].errors)

    def test_only_rows_that_the_admin_shows(self, admin_client, make_token, monkeypatch):
        """Keys of rows that this user does not see are not sent to."""
        mine, hidden = make_token(), make_token()
        model_admin = type(admin.site.get_model_admin(PushToken))
        monkeypatch.setattr(
            model_admin, "get_queryset", lambda self, request: PushToken.objects.exclude(pk=hidden.pk)
        )
        send(admin_client, [mine, hidden])
        assert [sent.pk for sent in testing.outbox] == [mine.pk]

    def test_not_in_a_transaction(self, admin_client, make_token, monkeypatch):
        """With ATOMIC_REQUESTS the send stays outside, or a rollback would forget its verdicts."""
        monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
        depth = len(connection.savepoint_ids)
        seen = []
        real = sending.send_push

        def spy(*args, **options):
            seen.append(len(connection.savepoint_ids) - depth)
            return real(*args, **options)

        monkeypatch.setattr(sending, "send_push", spy)
        send(admin_client, [make_token()])
        assert set(seen) == {0}


class TestPermission:
    @pytest.mark.parametrize("permissions", [("view_pushtoken", "change_pushtoken"), ("send_push",)])
    def test_is_asked_at_each_step(self, staff_client, make_token, permissions):
        """Without the permission to send, and to see, there is no step to take."""
        row = make_token()
        client = staff_client(*permissions)
        assert client.get(f"{SEND}?tokens={row.pk}").status_code == 403
        for button in ("preview", "edit", "send"):
            response = step(client, [row], button, nonce="a" * 32, **WORDS)
            assert response.status_code == 403
        assert client.get(f"{SEND}{'a' * 32}/").status_code == 403
        assert testing.outbox == []

    def test_action_is_not_offered(self, staff_client, make_token):
        """Who may change tokens is not offered to send, and a forged action is not obeyed."""
        row = make_token()
        client = staff_client("change_pushtoken")
        assert "send_push_to_selected" not in text(client.get(LIST))
        data = {"action": "send_push_to_selected", "_selected_action": [row.pk], "index": "0"}
        assert "No action selected." in said(client.post(LIST, data, follow=True))

    def test_view_and_send_are_enough(self, staff_client, make_token):
        """Who may see tokens and send needs no permission to change them."""
        row = make_token()
        client = staff_client("view_pushtoken", "send_push")
        assert "send_push_to_selected" in text(client.get(LIST))
        send(client, [row])
        assert len(testing.outbox) == 1

    def test_is_taken_away_before_the_last_press(self, staff_client, make_token):
        """The permission is asked again when the button is pressed."""
        row = make_token()
        client = staff_client("view_pushtoken", "send_push")
        nonce = nonce_of(step(client, [row], "preview", **WORDS))
        get_user_model().objects.get(username="staff").user_permissions.clear()
        assert step(client, [row], "send", nonce=nonce, **WORDS).status_code == 403
        assert testing.outbox == []

    def test_needs_csrf(self, django_user_model, make_token):
        """A POST without the CSRF token is refused, and a GET sends nothing."""
        row = make_token()
        client = Client(enforce_csrf_checks=True)
        client.force_login(django_user_model.objects.create_superuser("root"))
        assert step(client, [row], "send", nonce="a" * 32, **WORDS).status_code == 403
        query = {"tokens": row.pk, "_send": "1", "nonce": "a" * 32, **WORDS}
        assert "Preview" in text(client.get(SEND, query))
        assert testing.outbox == []

    def test_anonymous(self, client, make_token):
        """Who is not logged in is asked to."""
        assert "/admin/login/" in client.get(f"{SEND}?tokens={make_token().pk}").url


@pytest.mark.django_db(transaction=True)
def test_a_nonce_is_taken_once_by_requests_at_the_same_moment():
    """Of many claims at once exactly one wins."""
    if connection.vendor == "sqlite":
        pytest.skip("one connection")
    start = Barrier(4)

    def claim(_):
        try:
            start.wait()
            return sending.claim(SessionStore(), "n" * 32)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, range(4))) == [False, False, False, True]


def test_cookie_sessions_remember_results():
    """Where the session store is a cookie, the result in it stops the second press."""
    session = Cookies()
    assert sending.claim(session, "n" * 32)
    session[sending.RESULTS] = {"n" * 32: {}}
    assert not sending.claim(session, "n" * 32)
