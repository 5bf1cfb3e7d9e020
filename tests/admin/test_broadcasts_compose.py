import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from threading import Barrier
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings as configured
from django.contrib.admin import site
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import connection, connections
from django.test import Client

from django_push import testing
from django_push.admin import broadcasts_compose
from django_push.broadcasts import broadcast
from django_push.broadcasts.audiences import specification
from django_push.handler import push_backends
from django_push.models import Broadcast, database_time, instant
from tests.admin.conftest import said, text
from tests.admin.test_broadcasts import BROADCASTS, SCRIPT
from tests.admin.test_broadcasts_control import woken
from tests.broadcasts.factories import finished, make_tokens

__all__ = ["woken"]  # the fixture
pytestmark = [pytest.mark.django_db, pytest.mark.slow]  # as a whole: it takes seconds
ADD = f"{BROADCASTS}add/"
WORDS = {"title": "Shipped", "body": "On its way", "audience": "everyone", "on_unknown": "retry"}
NONCE = "a" * 32


@pytest.fixture
def without_badge(settings):
    """Return a function that takes the badge from what the providers of some aliases can say."""
    settings.PUSH_BACKENDS = dict(settings.PUSH_BACKENDS)  # new instances, of this test alone

    def take(*aliases):
        for alias in aliases:
            backend = push_backends[alias]
            backend.fields = backend.fields - {"badge"}

    return take


def step(client, button, **fields):
    return client.post(ADD, {"nonce": NONCE, f"_{button}": "1", **WORDS, **fields}, follow=True)


def errors(response):
    return {name: str(problem) for name, problem in response.context["form"].errors.items()}


def nonce_of(response):
    return re.search(r'name="nonce" value="(\w+)"', text(response)).group(1)


def send(client, **fields):
    """Compose, look and send, as a browser does; return the broadcast."""
    nonce = nonce_of(client.get(ADD))
    preview = step(client, "preview", **{**fields, "nonce": nonce})
    assert nonce_of(preview) == nonce
    step(client, "send", **{**fields, "nonce": nonce})
    return Broadcast.objects.latest("pk")


def next_june():
    """Return a time that there is once in every zone, as a browser sends it."""
    return f"{datetime.now().year + 1}-06-15T10:30"


class TestCompose:
    def test_the_button_leads_here(self, admin_client):
        """“Add broadcast” is the page to compose on, with a field for everything that can be asked."""
        Group.objects.create(name="beta")
        page = text(admin_client.get(ADD))
        fields = ("name", "title", "body", "link", "image", "data", "translations", "audience", "backend")
        for name in (*fields, "locale", "group", "seen_within", "schedule", "expires", "rate", "on_unknown"):
            assert f'name="{name}"' in page

    def test_nobody_is_chosen_beforehand(self, admin_client):
        """Without an audience there is an error, and not everyone."""
        assert list(errors(step(admin_client, "preview", audience=""))) == ["audience"]
        assert not Broadcast.objects.exists()

    def test_filters_and_everyone_contradict(self, admin_client):
        """Who has narrowed it down does not mean everyone."""
        found = errors(step(admin_client, "preview", platform="ios"))
        assert "leave them aside" in found["audience"]

    @pytest.mark.parametrize(
        ("fields", "where", "says"),
        [
            ({"title": "", "body": ""}, "__all__", "nothing in the message"),
            ({"data": "[1]"}, "data", "dictionary"),
            ({"data": "[" * 100_000}, "data", "valid JSON"),
            ({"data": '{"a": %s}' % ("1" * 5000)}, "data", "valid JSON"),
            ({"data": '{"a": "\\ud800"}'}, "data", "valid JSON"),
            ({"translations": '{"de": {"title": "\\ud800"}}'}, "translations", "valid JSON"),
            ({"data": '{"a": "\\u0000"}'}, "__all__", "NUL"),
            ({"translations": "[1]"}, "translations", "object of languages"),
            ({"translations": '{"de": "x"}'}, "translations", "object of languages"),
            ({"translations": '{"de": {"titel": "x"}}'}, "translations", "titel"),
            ({"translations": '{"de": {"badge": -1}}'}, "translations", "badge"),
            ({"audience": "named:nobody"}, "audience", "valid choice"),
            ({"audience": "filters"}, "audience", "Name a filter"),
            ({"audience": "filters", "locale": "d!"}, "locale", "give a locale"),
            ({"audience": "filters", "app_version_from": "dev"}, "app_version_from", "begins with numbers"),
            ({"audience": "filters", "seen_within": "soon"}, "seen_within", "30d"),
            ({"audience": "filters", "backend": "gone"}, "backend", "valid choice"),
            ({"audience": "filters", "platform": "ios", "rate": "0"}, "rate", "greater"),
            ({"schedule": "2020-01-01T10:00"}, "schedule", "past"),
            ({"expires": "2020-01-01T10:00"}, "expires", "before it starts"),
            ({"schedule": "soon"}, "schedule", "valid date"),
            ({"on_unknown": "guess"}, "on_unknown", "valid choice"),
        ],
    )
    @pytest.mark.parametrize("button", ["preview", "send"])
    def test_errors_are_shown_on_the_form(self, admin_client, fields, where, says, button):
        """What cannot be is an error at its field, and nothing is made."""
        response = step(admin_client, button, **fields)
        found = errors(response)
        assert list(found) == [where]
        assert says in found[where]
        assert "Please correct the error below" in text(response)
        assert not Broadcast.objects.exists()

    def test_unsupported_field(self, admin_client, without_badge):
        """A field that no provider carries is an error of the form."""
        without_badge("default", "other")
        assert "badge" in errors(step(admin_client, "preview", badge="3"))["__all__"]

    @pytest.mark.parametrize(
        ("fields", "kept"),
        [
            ({"audience": "everyone"}, "everyone"),
            ({"audience": "named:buyers"}, "buyers"),
            (
                {"backend": ["default", "other"], "platform": ["ios"]},
                {"backend": ["default", "other"], "platform": ["ios"]},
            ),
            ({"locale": "de, fr_CA,"}, {"locale": ["de", "fr-CA"]}),
            ({"app_version": "2.1, 2.2"}, {"app_version": ["2.1", "2.2"]}),
            (
                {"app_version_from": "2", "app_version_below": "3"},
                {"app_version_from": "2", "app_version_below": "3"},
            ),
            ({"group": ["beta"]}, {"group": ["beta"]}),
            ({"seen_within": "30d"}, {"seen_within": 30 * 86400}),
        ],
    )
    def test_audiences(self, admin_client, settings, fields, kept):
        """Each choice becomes the audience that code would ask for."""
        settings.PUSH_AUDIENCES = {"buyers": lambda rows: rows}
        Group.objects.create(name="beta")
        row = send(admin_client, **{"audience": "filters", **fields})
        row.audience.pop("fixed", None)
        assert row.audience == specification(kept)

    def test_audiences_that_are_misconfigured(self, admin_client, settings):
        """What the checks complain about does not break the page."""
        settings.PUSH_AUDIENCES = ["buyers"]
        assert admin_client.get(ADD).status_code == 200

    def test_back_to_the_text(self, admin_client):
        """One can go back and finds all that was filled in."""
        make_tokens(1)
        fields = {"audience": "filters", "platform": ["ios"], "schedule": next_june(), "rate": "5"}
        page = text(step(admin_client, "edit", **fields))
        assert 'value="Shipped"' in page
        assert f'value="{fields["schedule"]}"' in page
        assert re.search(r'value="ios"[^>]* checked', page)
        assert nonce_of(step(admin_client, "edit", **fields)) == NONCE


class TestPreview:
    def test_says_who_gets_what(self, admin_client):
        """It counts by alias and language, shows payloads with masked tokens, and writes nothing."""
        row = make_tokens(3, locale="de-AT", backend="default")[0]
        make_tokens(2, backend="other")
        value = "ExponentPushToken[averysecretsecret]"
        type(row).objects.filter(pk=row.pk).update(token=value)
        page = step(admin_client, "preview", translations='{"de": {"title": "Versandt"}}')
        assert 'value="Send to 5 tokens"' in text(page)
        assert [(part["alias"], part["total"]) for part in page.context["parts"]] == [
            ("default", "3"),
            ("other", "2"),
        ]
        assert page.context["parts"][0]["languages"] == [("de", "3")]
        for shown in ("Versandt", "Shipped", "On its way", "everyone"):
            assert shown in text(page)
        assert value not in text(page)
        assert not Broadcast.objects.exists()
        assert testing.outbox == []

    def test_warns(self, admin_client, without_badge):
        """Fields that a provider cannot carry, and messages that it is sure to refuse, are named."""
        make_tokens(1)
        make_tokens(1, backend="gone")
        without_badge("default")
        response = step(admin_client, "preview", badge="3", body="x" * 5000)
        page = text(response)
        assert response.context["parts"][0]["left_out"] == ["Badge"]
        assert "MessageTooBig" in page
        assert "not in PUSH_BACKENDS" in page

    def test_nobody(self, admin_client):
        """Without a token there is no button to send."""
        page = text(step(admin_client, "preview"))
        assert "no token in this audience" in page
        assert 'name="_send"' not in page

    def test_escapes(self, admin_client):
        """What staff write is shown as text."""
        make_tokens(1)
        said = f'{{"de": {{"title": "{SCRIPT}"}}}}'
        page = text(
            step(
                admin_client, "preview", title=SCRIPT, body=SCRIPT, name=SCRIPT, translations=said, tag=SCRIPT
            )
        )
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_warns_of_a_twin(self, admin_client):
        """The same to the same audience, some minutes ago, is named; something else is not."""
        make_tokens(1)
        broadcast("everyone", title="Else", start=False)
        assert "last ten minutes" not in text(step(admin_client, "preview"))
        first = send(admin_client, audience="filters", platform=["ios"], name="The first")
        again = {"audience": "filters", "platform": ["ios"]}
        page = text(step(admin_client, "preview", **again, nonce="b" * 32))
        assert "The first" in page
        assert f"{BROADCASTS}{first.pk}/change/" in page
        old = first.created - broadcasts_compose.TWIN_WITHIN
        Broadcast.objects.filter(pk=first.pk).update(created=old)
        assert "The first" not in text(step(admin_client, "preview", **again))

    def test_says_who_sends(self, admin_client, woken):
        """Without a queue it is said that push_tick sends."""
        make_tokens(1)
        assert "push_tick" not in text(step(admin_client, "preview"))

    def test_says_that_there_is_no_queue(self, admin_client):
        """Without a queue it is said that push_tick sends."""
        make_tokens(1)
        assert "push_tick" in text(step(admin_client, "preview"))

    def test_a_send_without_a_page_is_a_preview(self, admin_client):
        """Without the nonce of a page nothing is made."""
        make_tokens(1)
        assert nonce_of(step(admin_client, "send", nonce="../../etc")) != NONCE
        assert not Broadcast.objects.exists()


class TestSend:
    def test_makes_what_was_composed(self, admin_client, admin_user):
        """The broadcast has the words, the settings and the user, and runs."""
        make_tokens(2)
        row = send(
            admin_client,
            name="Shipping",
            body="One\r\nTwo",
            data='{"order": 17}',
            link="shop://1",
            translations='{"DE": {"title": "Versandt"}}',
            rate="50",
            on_unknown="skip",
        )
        assert row.message == {
            "title": "Shipped", "body": "One\nTwo", "data": {"order": 17}, "link": "shop://1",
        }  # fmt: skip
        assert row.translations["de"]["title"] == "Versandt"
        assert row.translations["de"]["body"] == "One\nTwo"
        assert (row.name, row.rate, row.on_unknown) == ("Shipping", 50.0, "skip")
        assert (row.created_by, row.created_by_name) == (admin_user, admin_user.username)
        assert row.status == "running"
        [entry] = LogEntry.objects.all()
        assert (entry.action_flag, entry.object_id) == (ADDITION, str(row.pk))
        assert finished(row).progress.accepted == 2

    def test_sends_nothing_in_the_request(self, admin_client, django_capture_on_commit_callbacks):
        """Without a queue nothing is sent here, and it is said who will."""
        make_tokens(1)
        with django_capture_on_commit_callbacks(execute=True):
            response = step(admin_client, "send")
        assert said(response) == ["The broadcast has started: the next run of push_tick sends it."]
        assert testing.outbox == []

    def test_wakes_workers(self, admin_client, woken, monkeypatch, django_capture_on_commit_callbacks):
        """With a queue workers are asked for, as many as the admin's class says."""
        make_tokens(1)
        monkeypatch.setattr(site.get_model_admin(Broadcast), "push_workers", 2)
        with django_capture_on_commit_callbacks(execute=True):
            response = step(admin_client, "send")
        assert said(response) == ["The broadcast has started."]
        assert woken == [("drain_broadcast", Broadcast.objects.get().pk)] * 2
        assert Broadcast.objects.get().workers == 2

    def test_wakes_nobody(self, admin_client, woken, monkeypatch, django_capture_on_commit_callbacks):
        """Where the admin's class wants it so, all is left to push_tick."""
        make_tokens(1)
        monkeypatch.setattr(site.get_model_admin(Broadcast), "push_workers", 0)
        with django_capture_on_commit_callbacks(execute=True):
            step(admin_client, "send")
        assert (woken, Broadcast.objects.get().status) == ([], "running")

    def test_schedules(self, admin_client):
        """With a time it waits for that, as it is in TIME_ZONE."""
        make_tokens(1)
        when = next_june()
        assert 'value="Schedule for 1 token"' in text(step(admin_client, "preview", schedule=when))
        response = step(admin_client, "send", schedule=when)
        row = Broadcast.objects.get()
        zone = ZoneInfo(configured.TIME_ZONE)
        meant = datetime.strptime(when, "%Y-%m-%dT%H:%M").replace(tzinfo=zone).astimezone(timezone.utc)
        assert instant(row.scheduled_at, "default") == database_time(meant, "default")
        assert row.status == "scheduled"
        assert "The broadcast waits for June 15" in said(response)[0]
        assert "10:30 a.m." in said(response)[0]

    def test_expires(self, admin_client):
        """The expiry is kept, and one before the schedule is refused."""
        make_tokens(1)
        when = next_june()
        assert list(errors(step(admin_client, "send", schedule=when, expires=when))) == ["expires"]
        step(admin_client, "send", expires=when)
        assert Broadcast.objects.get().expires_at is not None

    def test_a_second_press(self, admin_client, woken, django_capture_on_commit_callbacks):
        """The same page sent twice is one broadcast, whose page is shown."""
        make_tokens(1)
        with django_capture_on_commit_callbacks(execute=True):
            for _ in range(2):
                response = step(admin_client, "send")
        row = Broadcast.objects.get()
        assert said(response) == ["This broadcast was made already; it is not sent twice."]
        assert response.redirect_chain[-1][0] == f"{BROADCASTS}{row.pk}/change/"
        assert len(woken) == 1
        assert LogEntry.objects.count() == 1

    def test_other_words_are_another_broadcast(self, admin_client):
        """Who goes back and says something else makes another one."""
        make_tokens(1)
        step(admin_client, "send")
        step(admin_client, "send", title="Else")
        assert Broadcast.objects.count() == 2

    def test_a_press_that_broke_off_is_taken_up(self, admin_client, monkeypatch):
        """A broadcast that was written down and not started is started by the next press."""
        make_tokens(1)
        with monkeypatch.context() as patch:
            patch.setattr(broadcasts_compose, "begin", lambda made, workers: False)
            step(admin_client, "send")
        assert Broadcast.objects.get().status == "draft"
        step(admin_client, "send")
        assert Broadcast.objects.get().status == "running"

    def test_an_audience_that_fails(self, admin_client, settings):
        """What cannot be counted is shown on the form."""

        def fail(rows):
            raise ValueError("private")

        settings.PUSH_AUDIENCES = {"buyers": fail}
        response = step(admin_client, "preview", audience="named:buyers")
        assert "ValueError" in errors(response)["__all__"]
        assert "private" not in text(response)


class TestGuards:
    @pytest.mark.parametrize("button", ["preview", "edit", "send"])
    @pytest.mark.parametrize(
        "permissions", [("view_broadcast", "add_broadcast", "change_broadcast"), ("broadcast_push",)]
    )
    def test_needs_both_permissions(self, staff_client, button, permissions):
        """Without the permission to broadcast, and to see, there is no step to take."""
        assert step(staff_client(*permissions), button).status_code == 403
        assert not Broadcast.objects.exists()

    def test_is_taken_away_before_the_last_press(self, staff_client):
        """The permission is asked again when the button is pressed."""
        make_tokens(1)
        client = staff_client("view_broadcast", "broadcast_push")
        assert step(client, "preview").status_code == 200
        permission = Permission.objects.get(codename="broadcast_push")
        get_user_model().objects.get(username="staff").user_permissions.remove(permission)
        assert step(client, "send").status_code == 403

    def test_both_are_enough(self, staff_client):
        """Who may see and broadcast needs no other permission."""
        make_tokens(1)
        assert send(staff_client("view_broadcast", "broadcast_push")).created_by_name == "staff"

    def test_needs_csrf(self, django_user_model):
        """A POST without the CSRF token is refused, and a GET makes nothing."""
        client = Client(enforce_csrf_checks=True)
        client.force_login(django_user_model.objects.create_superuser("root"))
        assert step(client, "send").status_code == 403
        assert client.get(ADD, {"nonce": NONCE, "_send": "1", **WORDS}).status_code == 200
        assert not Broadcast.objects.exists()

    def test_another_user_s_page(self, admin_client, staff_client):
        """The nonce of one user is not that of another."""
        make_tokens(1)
        step(admin_client, "send")
        step(staff_client("view_broadcast", "broadcast_push"), "send")
        assert Broadcast.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_presses_in_the_same_moment_make_one_broadcast():
    """Of many presses at once exactly one makes and starts the broadcast."""
    if connection.vendor == "sqlite":
        pytest.skip("one connection")
    user = get_user_model().objects.create_superuser("root")
    make_tokens(1)
    barrier = Barrier(4)
    clients = [Client() for _ in range(4)]
    for client in clients:
        client.force_login(user)

    def press(client):
        try:
            barrier.wait()
            return text(step(client, "send"))  # the test client mixes up the contexts of threads
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(press, clients))
    assert Broadcast.objects.count() == 1
    assert sum("The broadcast has started" in page for page in pages) == 1
    assert sum("it is not sent twice" in page for page in pages) == 3
