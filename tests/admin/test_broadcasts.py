from datetime import datetime, timedelta, timezone

import pytest
from django.contrib import admin
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone as clock

from django_push.broadcasts import broadcast, control
from django_push.broadcasts.rows import moment
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    PauseReason,
    PushProblem,
    ReceiptBatch,
    database_time,
)
from tests.admin.conftest import said, text
from tests.broadcasts.factories import batch_of, claimed, drafted, lane_of, make_tokens, started

pytestmark = pytest.mark.django_db
BROADCASTS = "/admin/django_push/broadcast/"
PROBLEMS = "/admin/django_push/pushproblem/"
SCRIPT = "<script>alert(1)</script>"


def page_of(made):
    return f"{BROADCASTS}{made.pk}/change/"


def rows(response):
    return [row.pk for row in response.context["cl"].result_list]


def add_batch(made, alias="default", **columns):
    """Write down a batch as workers would, with these columns."""
    size = columns.setdefault("size", sum(n for n in columns.values() if isinstance(n, int)))
    due = moment() + timedelta(minutes=5)
    given = {"pending": 0, "pks": b"", "due_at": due, "status": BatchStatus.DONE, **columns}
    return BroadcastBatch.objects.create(lane=lane_of(made, alias), **{**given, "size": size})


@pytest.fixture
def made():
    """A broadcast that runs, to 10 tokens of one alias and 4 of another."""
    make_tokens(10)
    make_tokens(4, backend="other")
    return started(name="Sale", title="Half price", body="Today only")


class TestList:
    def test_shows_what_staff_ask_for(self, admin_client, made):
        """A row has the name, the status, the audience in words, who made it, and how far it is."""
        add_batch(made, accepted=5, unregistered=1, rejected=1, skipped=1)
        add_batch(made, pending=2, status=BatchStatus.UNKNOWN)
        page = text(admin_client.get(BROADCASTS))
        for shown in ("Sale", "running", "everyone", "10 of 14 tokens", "5 accepted, 2 failed, 2 unknown"):
            assert shown in page
        assert '<progress class="push-bar" max="14" value="10">' in page

    def test_says_the_same_as_the_progress(self, admin_client, made):
        """The figures that are read for all rows at once are those of each broadcast's own progress."""
        add_batch(made, accepted=5, unregistered=1, skipped=2)
        add_batch(made, pending=1, status=BatchStatus.LEASED, accepted=1)
        add_batch(made, "other", pending=1, status=BatchStatus.CANCELLED, not_sent=1)
        pruned = {"size": 7, "accepted": 3, "rejected": 1, "unknown": 1, "cancelled": 1, "skipped": 1}
        BroadcastLane.objects.filter(backend="other").update(totals=pruned, is_read=True)
        [row] = admin_client.get(BROADCASTS).context["cl"].result_list
        progress, found = made.progress, row.push_figures
        assert (found.told, found.total) == (progress.told, progress.total)
        assert (found.accepted, found.failed) == (progress.accepted, progress.failed)
        assert found.unknown == progress.unknown

    def test_has_no_progress_before_the_start(self, admin_client):
        """A draft is not told to be at nothing of nothing."""
        drafted(title="Soon")
        assert "<progress" not in text(admin_client.get(BROADCASTS))

    def test_says_why_one_is_paused(self, admin_client, made):
        """A paused broadcast has its reason beside its status."""
        control.pause(made, reason=PauseReason.CREDENTIALS)
        assert "the provider refused our key" in text(admin_client.get(BROADCASTS))

    def test_takes_a_constant_number_of_queries(self, admin_client, made):
        """The list costs as many queries for twenty broadcasts as for two."""

        def measure():
            with CaptureQueriesContext(connection) as queries:
                assert admin_client.get(BROADCASTS).status_code == 200
            return len(queries)

        started()
        few = measure()
        for _ in range(18):
            started()
        assert measure() == few == 5  # session, user, count, rows, figures

    def test_is_searched_and_filtered(self, admin_client):
        """The search takes parts of names and keys, the filter a status."""
        sale = drafted(name="Summer sale")
        news = drafted(key="news-2026")
        control.cancel(news)
        assert rows(admin_client.get(f"{BROADCASTS}?q=summer")) == [sale.pk]
        assert rows(admin_client.get(f"{BROADCASTS}?q=news-2026")) == [news.pk]
        assert rows(admin_client.get(f"{BROADCASTS}?status__exact=cancelled")) == [news.pk]

    def test_empty_list(self, admin_client):
        """Without a broadcast there is a page."""
        assert rows(admin_client.get(BROADCASTS)) == []

    def test_names_one_without_a_name_by_its_words(self, admin_client):
        """The title, cut, stands where there is no name; else the key of the row."""
        drafted(title="x" * 100)
        bare = broadcast("everyone", data={"a": 1}, start=False)
        page = text(admin_client.get(BROADCASTS))
        assert f"{'x' * 60}…" in page
        assert f"broadcast {bare.pk}" in page

    @pytest.mark.parametrize(
        ("columns", "label"),
        [
            ({"scheduled_at": 1}, "scheduled for 06/15/2026 8 a.m."),
            ({"scheduled_at": 1, "started_at": 1}, "started 06/15/2026 8 a.m."),
            ({"started_at": 1, "finished_at": 1}, "finished 06/15/2026 8 a.m."),
        ],
    )
    def test_times_are_of_this_place(self, admin_client, columns, label):
        """What the database's clock has written is shown in TIME_ZONE, with USE_TZ and without."""
        noon = database_time(datetime(2026, 6, 15, 12, tzinfo=timezone.utc), "default")
        row = drafted()
        Broadcast.objects.filter(pk=row.pk).update(**dict.fromkeys(columns, noon))
        assert label in text(admin_client.get(BROADCASTS))


class TestPage:
    def test_shows_all_there_is_to_know(self, admin_client, made):
        """Message, audience, settings, outcomes, lanes and receipts are on one page."""
        add_batch(made, accepted=5, unregistered=1, rejected=1, skipped=1)
        add_batch(made, pending=2, status=BatchStatus.UNKNOWN, resent=1, size=2)
        add_batch(made, "other", pending=3, status=BatchStatus.LEASED)
        BroadcastLane.objects.filter(backend="default").update(receipts_ok=4, receipts_dead=1)
        page = text(admin_client.get(page_of(made)))
        for shown in (
            "Half price", "Today only", "everyone", "10 of 14 tokens", "71 %", "the most that can have been",
            "Accepted by the provider", "The app is no longer installed", "4 handed over", "1 dead tokens",
            "what may have been sent is sent again, at most 3 times in all",
        ):  # fmt: skip
            assert shown in page

    def test_shows_translations_and_fields(self, admin_client):
        """Each language is shown as a phone would, and what no phone shows is listed."""
        row = drafted(
            translations={"de": {"title": "Hallo"}}, link="shop://1", data={"order": 17}, rate=5.5, key="k"
        )
        page = text(admin_client.get(page_of(row)))
        for shown in ("Hallo", "shop://1", "{&quot;order&quot;: 17}", "at most 5.5 tokens a second"):
            assert shown in page

    def test_says_why_a_lane_is_paused(self, admin_client, made):
        """A paused lane has its reason and the provider's own words."""
        control.pause_lane(made, "other", PauseReason.CREDENTIALS, "401 Unauthorized")
        page = text(admin_client.get(page_of(made)))
        assert "the provider refused our key" in page
        assert "401 Unauthorized" in page

    def test_says_when_it_goes_on(self, admin_client, made):
        """A lane that is left alone, and what is to be tried again, have their times."""
        until = database_time(datetime.now(timezone.utc) + timedelta(minutes=5), "default")
        BroadcastLane.objects.filter(backend="other").update(hold_until=until)
        add_batch(made, pending=3, status=BatchStatus.RETRY)
        page = text(admin_client.get(page_of(made)))
        assert "it is asked again at" in page
        assert "3 tokens will be tried again, from" in page
        BroadcastLane.objects.update(hold_until=until - timedelta(hours=1))
        BroadcastBatch.objects.update(due_at=until - timedelta(hours=1))
        page = text(admin_client.get(page_of(made)))
        assert "it is asked again at" not in page
        assert "will be tried again" not in page

    def test_says_if_nobody_looks_after_it(self, admin_client, made):
        """A running broadcast without a worker says who will go on with it."""
        assert "the next run of push_tick" in text(admin_client.get(page_of(made)))
        control.stay_awake(made, 60)
        assert "No worker" not in text(admin_client.get(page_of(made)))
        control.stay_awake(made, 0)
        claimed(made)
        assert "No worker" not in text(admin_client.get(page_of(made)))

    def test_escapes_what_came_from_outside(self, admin_client, made):
        """Names, words, a provider's texts and a user's name are text, never markup."""
        row = started({"platform": SCRIPT[:16]}, name=SCRIPT, title=SCRIPT, body=SCRIPT, tag=SCRIPT)
        columns = {"created_by_name": SCRIPT, "translations": {SCRIPT: {"title": SCRIPT}}}
        Broadcast.objects.filter(pk=row.pk).update(**columns)
        control.pause_lane(made, "other", PauseReason.BACKEND, SCRIPT)
        Broadcast.objects.filter(pk=made.pk).update(name=SCRIPT)
        for url in (page_of(row), page_of(made), BROADCASTS, f"{BROADCASTS}{made.pk}/live/"):
            page = text(admin_client.get(url))
            assert "<script>alert" not in page
            assert "&lt;script&gt;alert(1)" in page or url.endswith("/live/")

    def test_shows_no_whole_token(self, admin_client, make_token):
        """No page has a token, whatever became of it."""
        token = make_token().token
        row = started()
        assert claimed(row)
        batch_of(row)
        for url in (page_of(row), BROADCASTS, f"{BROADCASTS}{row.pk}/live/"):
            assert token not in text(admin_client.get(url))

    def test_the_live_part_is_the_page_s(self, admin_client, made):
        """What is fetched anew is what the page has, and says whether to go on."""
        live = text(admin_client.get(f"{BROADCASTS}{made.pk}/live/")).strip()
        assert live in text(admin_client.get(page_of(made)))
        assert 'data-live="true"' in live
        assert "csrf" not in live
        control.cancel(made)
        assert 'data-live="false"' in text(admin_client.get(f"{BROADCASTS}{made.pk}/live/"))
        assert "broadcasts.js" not in text(admin_client.get(page_of(made)))

    def test_goes_on_as_long_as_something_is_in_flight(self, admin_client, made):
        """A cancelled broadcast is looked at until its workers have told."""
        claimed(made)
        control.cancel(made)
        assert 'data-live="true"' in text(admin_client.get(f"{BROADCASTS}{made.pk}/live/"))

    def test_runs_no_script_of_its_own(self, admin_client, made):
        """The page has no inline script, style or handler, so that a strict policy lets it be."""
        content = text(admin_client.get(page_of(made))).partition('id="content-main"')[2]
        for inline in ("<script", "style=", "onclick="):
            assert inline not in content

    @pytest.mark.parametrize("path", ["999999/change/", "x/change/", f"{'9' * 30}/change/", "999999/live/"])
    def test_unknown_key(self, admin_client, path):
        """A key of nothing is not found."""
        assert admin_client.get(f"{BROADCASTS}{path}").status_code == 404

    def test_is_read_only(self, admin_client, made):
        """A row is not written by a form."""
        assert admin_client.post(page_of(made), {"name": "x"}).status_code == 403

    def test_an_unknown_status_of_newer_code(self, admin_client, made):
        """Words that this code does not know are shown as they are."""
        columns = {"status": "odd", "pause_reason": "odder"}
        BroadcastLane.objects.filter(backend="other").update(**columns)
        Broadcast.objects.filter(pk=made.pk).update(status="paused", pause_reason="oddest")
        page = text(admin_client.get(page_of(made)))
        assert "odd" in page
        assert "oddest" in page

    def test_queries_do_not_grow(self, admin_client, made):
        """A page costs as many queries for many batches as for few."""

        def measure():
            with CaptureQueriesContext(connection) as queries:
                assert admin_client.get(page_of(made)).status_code == 200
            return len(queries)

        add_batch(made, pending=1, status=BatchStatus.RETRY)
        few = measure()
        for _ in range(20):
            add_batch(made, accepted=1, pending=1, status=BatchStatus.RETRY)
        assert measure() == few


class TestPermissions:
    def test_who_may_see(self, staff_client, made):
        """With the permission to view one sees all, and no button."""
        client = staff_client("view_broadcast")
        assert rows(client.get(BROADCASTS)) == [made.pk]
        page = text(client.get(page_of(made)))
        assert "Half price" in page
        assert 'name="press"' not in page
        assert 'name="press"' not in text(client.get(f"{BROADCASTS}{made.pk}/live/"))
        assert "Add broadcast" not in text(client.get(BROADCASTS))

    def test_to_change_is_not_to_broadcast(self, staff_client, made):
        """The permissions that Django makes for the rows give no button."""
        client = staff_client("view_broadcast", "change_broadcast", "add_broadcast", "delete_broadcast")
        assert 'name="press"' not in text(client.get(page_of(made)))
        assert client.get(f"{BROADCASTS}add/").status_code == 403

    def test_to_broadcast_is_not_to_see(self, staff_client, made):
        """Without the permission to view there is no page."""
        client = staff_client("broadcast_push")
        for path in ("", f"{made.pk}/change/", f"{made.pk}/live/", "add/"):
            assert client.get(f"{BROADCASTS}{path}").status_code == 403

    def test_who_may_broadcast(self, staff_client, made):
        """With both there are buttons, and the way to compose."""
        client = staff_client("view_broadcast", "broadcast_push")
        assert 'value="pause"' in text(client.get(page_of(made)))
        assert f'href="{BROADCASTS}add/' in text(client.get(BROADCASTS))
        assert client.get(f"{BROADCASTS}add/").status_code == 200


class TestDeleting:
    def delete(self, client, made):
        return client.post(f"{BROADCASTS}{made.pk}/delete/", {"post": "yes"})

    def test_only_what_is_over(self, admin_client, made):
        """A broadcast that goes on is not deleted; one that has ended is, with its batches."""
        add_batch(made, accepted=1)
        assert self.delete(admin_client, made).status_code == 403
        assert f"{made.pk}/delete/" not in text(admin_client.get(page_of(made)))
        control.cancel(made)
        assert f"{made.pk}/delete/" in text(admin_client.get(page_of(made)))
        assert f"{made.pk}: Sale" in text(admin_client.get(f"{BROADCASTS}{made.pk}/delete/"))
        self.delete(admin_client, made)
        assert not Broadcast.objects.exists()
        assert not BroadcastBatch.objects.exists()

    def test_not_while_a_worker_is_to_tell(self, admin_client, made):
        """What is in flight has verdicts to come, which would be lost."""
        claimed(made)
        control.cancel(made)
        assert self.delete(admin_client, made).status_code == 403

    def test_needs_the_permission(self, staff_client, made):
        """To broadcast is not to delete."""
        control.cancel(made)
        client = staff_client("view_broadcast", "broadcast_push")
        assert self.delete(client, made).status_code == 403

    def test_selected(self, admin_client, made):
        """The action deletes what is over, and nothing if one of them is not."""
        other = started()
        control.cancel(other)
        data = {"action": "delete_selected", "_selected_action": [made.pk, other.pk], "post": "yes"}
        assert "Nothing was deleted" in said(admin_client.post(BROADCASTS, data, follow=True))[0]
        assert Broadcast.objects.count() == 2
        control.cancel(made)
        admin_client.post(BROADCASTS, data)
        assert not Broadcast.objects.exists()

    def test_one_that_has_come_to_life_again(self, admin_client, made, monkeypatch):
        """What was resumed between the question and the answer stays."""
        control.cancel(made)
        model_admin = admin.site.get_model_admin(Broadcast)
        real = type(model_admin).delete_model

        def late(self, request, obj):
            Broadcast.objects.filter(pk=obj.pk).update(status="running")
            return real(self, request, obj)

        monkeypatch.setattr(type(model_admin), "delete_model", late)
        assert self.delete(admin_client, made).status_code == 403
        assert Broadcast.objects.count() == 1


class TestProblems:
    @pytest.fixture
    def problem(self, made):
        return PushProblem.objects.create(backend="default", broadcast_id=made.pk, outcome="rejected")

    def test_lead_to_their_broadcast_and_back(self, admin_client, made, problem):
        """A problem links to its broadcast, which links to the list of its problems."""
        assert f'href="{page_of(made)}"' in text(admin_client.get(PROBLEMS))
        url = f"{PROBLEMS}?broadcast={made.pk}"
        assert f'href="{url}"' in text(admin_client.get(page_of(made)))
        PushProblem.objects.create(backend="default", broadcast_id=made.pk + 1, outcome="rejected")
        assert rows(admin_client.get(url)) == [problem.pk]
        assert len(rows(admin_client.get(PROBLEMS))) == 2

    @pytest.mark.parametrize("value", ["x", "9" * 30, "\u0661", "-1"])
    def test_no_key_is_no_filter(self, admin_client, problem, value):
        """What is no key of a broadcast filters nothing."""
        assert rows(admin_client.get(f"{PROBLEMS}?broadcast={value}", follow=True)) == [problem.pk]

    def test_without_the_permission_no_link(self, staff_client, made, problem):
        """Who may not see problems is not led to them."""
        assert PROBLEMS not in text(staff_client("view_broadcast").get(page_of(made)))

    def test_of_no_broadcast(self, admin_client, make_token):
        """A problem or a receipt of a single push has no link."""
        PushProblem.objects.create(backend="default", outcome="rejected")
        now = clock.now()
        ReceiptBatch.objects.create(
            backend="default", tickets=b"", size=1, sent_at=now, due_at=now, deadline=now
        )
        for url in (PROBLEMS, "/admin/django_push/receiptbatch/"):
            assert BROADCASTS not in text(admin_client.get(url)).partition("result_list")[2]


@override_settings(USE_THOUSAND_SEPARATOR=True)
def test_numbers_are_grouped_for_people_alone(admin_client, made):
    """Figures have their digits grouped; the bar and the links have plain numbers."""
    BroadcastLane.objects.filter(backend="default").update(size=12_000)
    for url in (page_of(made), BROADCASTS):
        page = text(admin_client.get(url))
        assert "12,004 tokens" in page
        assert 'max="12004"' in page
