from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_push import get_token_model, tokens
from django_push.admin.lists import CappedCount, CappedPaginator
from django_push.models import TokenStatus
from tests.admin.conftest import LIST, text

PushToken = get_token_model()
pytestmark = pytest.mark.django_db


def ids(response):
    return [row.pk for row in response.context["cl"].result_list]


class TestPage:
    def test_shows_what_staff_ask_for(self, admin_client, make_token, anna):
        """A row has user, masked token, alias, platform, status with its reason, and last seen."""
        row = make_token(user=anna, platform="ios")
        tokens.deactivate(
            PushToken.objects.all(), code="NotRegistered", source="receipt", status=TokenStatus.UNREGISTERED
        )
        page = text(admin_client.get(LIST))
        for shown in ("anna", row.masked, "default", "ios", "unregistered", "NotRegistered (receipt)"):
            assert shown in page
        assert row.token not in page

    def test_escapes_what_came_from_outside(self, admin_client, make_token):
        """A provider's words and a device's facts are text, never markup."""
        row = make_token(platform="<b>os</b>", device_name="<script>name</script>")
        tokens.deactivate(PushToken.objects.all(), code="<script>code</script>", source="ticket")
        for url in (LIST, f"{LIST}{row.pk}/change/"):
            page = text(admin_client.get(url))
            assert "&lt;script&gt;code" in page
            assert "<script>name" not in page
            assert "<script>code" not in page
            assert "<b>os" not in page

    def test_needs_a_permission(self, staff_client):
        """Staff without a permission on tokens see no list."""
        assert staff_client("view_user").get(LIST).status_code == 403

    @pytest.mark.parametrize("url", [LIST, f"{LIST}?status__exact=active&backend=default&p=1"])
    def test_takes_a_constant_number_of_queries(self, admin_client, make_token, url):
        """The list costs as many queries for thirty tokens as for three."""

        def measure():
            with CaptureQueriesContext(connection) as queries:
                assert admin_client.get(url).status_code == 200
            return len(queries)

        users = get_user_model().objects
        for n in range(3):
            make_token(user=users.create(username=f"u{n}"))
        few = measure()
        for n in range(3, 30):
            make_token(user=users.create(username=f"u{n}"))
        assert measure() == few == 4  # session, user, count, rows


class TestOrder:
    def test_newest_first(self, admin_client, make_token):
        """The list is in the order of the primary key, backwards."""
        rows = [make_token() for _ in range(3)]
        assert ids(admin_client.get(LIST)) == [row.pk for row in reversed(rows)]

    def test_by_id_forwards(self, admin_client, make_token):
        """The ID's header turns the order round."""
        rows = [make_token() for _ in range(3)]
        assert ids(admin_client.get(f"{LIST}?o=1")) == [row.pk for row in rows]

    @pytest.mark.parametrize("column", range(2, 9))
    def test_no_other_order_even_by_url(self, admin_client, make_token, column):
        """A URL that names a column without an index changes nothing."""
        rows = [make_token(platform=name) for name in ("b", "a", "c")]
        response = admin_client.get(f"{LIST}?o={column}")
        assert ids(response) == [row.pk for row in reversed(rows)]
        assert set(response.context["cl"].queryset.query.order_by) == {"-pk"}

    def test_uses_the_primary_key(self, admin_client, make_token):
        """The page's rows come from the index of the primary key, without a sort."""
        make_token()
        plan = explain(admin_client.get(LIST).context["cl"].queryset[:100])
        assert not sorts(plan)

    @pytest.mark.parametrize("filters", ["backend=default&status__exact=active", "backend=other"])
    def test_filters_have_their_index(self, admin_client, make_token, filters):
        """Alias and status are read from their index."""
        for n in range(200):
            make_token(backend="other" if n % 100 == 0 else "default")
        plan = explain(admin_client.get(f"{LIST}?{filters}").context["cl"].queryset.order_by().values("pk"))
        assert "backend" in plan.lower()
        assert "seq scan" not in plan.lower()


def explain(rows):
    if connection.vendor == "mysql":
        pytest.skip("MySQL's plans of small tables say nothing")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
            cursor.execute("SET LOCAL enable_seqscan = off")
    return rows.explain()


def sorts(plan):
    return "Sort" in plan or "TEMP B-TREE" in plan


class TestFilters:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("backend=default", {"a", "gone"}),
            ("backend=other", {"b"}),
            ("backend=+", {"left"}),
            ("status__exact=active", {"a", "b", "left"}),
            ("status__exact=retired", {"gone"}),
            ("enabled__exact=0", {"b"}),
            ("platform=ios", {"a"}),
            ("platform=other", {"b"}),
            ("platform=none", {"gone", "left"}),
            ("kind__exact=fid", {"b"}),
            ("seen=1d", {"a", "b"}),
            ("seen=30d", {"a", "b", "gone"}),
            ("seen=over270d", {"left"}),
            ("seen=never", set()),
            ("seen=nonsense", {"a", "b", "gone", "left"}),
        ],
    )
    def test_find(self, admin_client, make_token, query, expected):
        """Each filter finds its rows."""
        make_token(device_name="a", platform="ios")
        make_token(device_name="b", backend="other", platform="symbian", kind="fid")
        make_token(device_name="gone")
        make_token(device_name="left")
        rows = PushToken.objects
        tokens.set_enabled(rows.filter(device_name="b"), False)
        tokens.deactivate(rows.filter(device_name="gone"), code="logout", source="registration")
        now = timezone.now()
        rows.filter(device_name="gone").update(last_seen_at=now - timedelta(days=20))
        rows.filter(device_name="left").update(backend="former", last_seen_at=now - timedelta(days=300))
        found = {row.device_name for row in admin_client.get(f"{LIST}?{query}").context["cl"].result_list}
        assert found == expected

    def test_facets_count(self, admin_client, make_token):
        """Facets say how many rows each choice would leave."""
        make_token(platform="ios")
        make_token(platform="ios", backend="other")
        page = text(admin_client.get(f"{LIST}?_facets=True"))
        for shown in ("iOS (2)", "other (1)", "default (1)", "active (2)", "Past 24 hours (2)"):
            assert shown in page

    def test_facets_cost_one_query_per_filter_and_only_when_asked(self, admin_client, make_token):
        """Without facets nothing is counted for them."""
        make_token()
        with CaptureQueriesContext(connection) as plain:
            admin_client.get(LIST)
        with CaptureQueriesContext(connection) as counted:
            admin_client.get(f"{LIST}?_facets=True")
        assert len(counted) - len(plain) == 6

    @pytest.mark.parametrize(
        "lookup", ["token__startswith=Expo", "token_digest__startswith=a", "replaced_by__token__startswith=E"]
    )
    def test_no_lookup_spells_a_token_out(self, admin_client, make_token, lookup):
        """A URL cannot ask how a token begins."""
        make_token()
        assert admin_client.get(f"{LIST}?{lookup}").status_code == 400


class TestCount:
    def test_is_exact_below_the_cap(self, admin_client, make_token):
        """A count below the cap is the count."""
        make_token()
        assert admin_client.get(LIST).context["cl"].result_count == 1

    def test_stops_at_the_cap(self, admin_client, make_token, monkeypatch):
        """Above the cap the page says how many at least, and reads no more than one row more."""
        monkeypatch.setattr(CappedPaginator, "max_count", 3)
        for _ in range(6):
            make_token()
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.get(LIST)
        assert "3+ push tokens" in text(response)
        assert response.context["cl"].result_count == 3
        assert "LIMIT 4" in next(q["sql"] for q in queries if "COUNT" in q["sql"])

    def test_pages_end_at_the_cap(self, make_token):
        """There are as many pages as the count has, each of them full."""
        for _ in range(6):
            make_token()
        paginator = CappedPaginator(PushToken.objects.order_by("-pk"), 2)
        paginator.max_count = 4
        assert paginator.num_pages == 2
        assert len(paginator.page(2).object_list) == 2

    def test_takes_lists(self):
        """It pages what is no queryset, too."""
        assert CappedPaginator([1, 2, 3], 2).count == 3

    def test_grouped_digits_stay_right(self, settings):
        """With a thousand separator the sign stands where it disturbs no group."""
        assert str(CappedCount(10_000)) == "10000+"
        settings.USE_THOUSAND_SEPARATOR = True
        assert str(CappedCount(10_000)) == "≥10000"


def test_the_admin_passes_its_checks():
    """Django finds nothing to complain of in the registered admins."""
    for model, model_admin in admin.site._registry.items():
        if model._meta.app_label == "django_push":
            assert model_admin.check() == []


def test_alias_filter_reads_the_settings_when_used(admin_client, settings):
    """A changed PUSH_BACKENDS changes the choices."""
    settings.PUSH_BACKENDS = {**settings.PUSH_BACKENDS, "third": settings.PUSH_BACKENDS["default"]}
    assert "third" in text(admin_client.get(LIST))


def test_list_uses_no_full_count():
    """The list never counts the whole table for its total."""
    model_admin = admin.site.get_model_admin(PushToken)
    assert model_admin.show_full_result_count is False
    assert model_admin.get_sortable_by(RequestFactory().get("/")) == ("id",)
