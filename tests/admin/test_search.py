import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_push import get_token_model
from django_push.admin import search
from django_push.models import digest
from tests.admin.conftest import LIST, text

PushToken = get_token_model()
pytestmark = pytest.mark.django_db


def find(client, term, filters=""):
    response = client.post(f"{LIST}search/{filters}", {"q": term}, follow=True)
    return {row.pk for row in response.context["cl"].result_list}


def test_whole_token_in_any_alias(admin_client, make_token):
    """A whole token finds its rows, whatever their alias; a part of it finds nothing."""
    one = make_token()
    two = make_token(token=one.token, backend="other")
    make_token()
    assert find(admin_client, f"  {one.token} ") == {one.pk, two.pk}
    assert find(admin_client, one.token[:-1]) == set()


def test_token_never_stands_in_a_url_or_page(admin_client, make_token):
    """The search is posted, and what it leads to names the token's digest."""
    row = make_token()
    response = admin_client.post(f"{LIST}search/", {"q": row.token}, follow=True)
    assert response.redirect_chain == [(f"{LIST}?q=sha256%3A{digest(row.token)}", 302)]
    assert row.token not in text(response)
    assert 'method="post"' in text(response).partition('id="changelist-search"')[2][:100]


@pytest.mark.parametrize("term", ["x" * 65, "ExponentPushToken[unknown]"])
def test_unknown_token_stands_in_no_url_either(admin_client, term):
    """What can only be a token is hidden though there is no such row."""
    response = admin_client.post(f"{LIST}search/", {"q": term})
    assert response.url == f"{LIST}?q=sha256%3A{digest(term)}"


def test_token_in_a_typed_url_is_replaced(admin_client, make_token):
    """A link with a token in it leads to one with its digest, and keeps the filters."""
    row = make_token(token="short-token")
    response = admin_client.get(LIST, {"q": row.token, "platform": "ios", "p": "1"})
    assert response.status_code == 302
    assert response.url == f"{LIST}?platform=ios&q=sha256%3A{digest(row.token)}"


def test_existence_is_no_secret_to_tell(staff_client, make_token):
    """Who may not see tokens does not learn which ones there are."""
    row = make_token()
    client = staff_client()
    assert client.get(LIST, {"q": row.token}).status_code == 403
    assert client.post(f"{LIST}search/", {"q": row.token}).status_code == 403


@pytest.mark.parametrize("term", ["anna", "ann", "Anna.B@example.com", "Anna.B@EXAMPLE.com"])
def test_user_by_name_or_address(admin_client, make_token, anna, term):
    """A user's name, its beginning, or the address finds the user's tokens."""
    rows = {make_token(user=anna).pk, make_token(user=anna).pk}
    make_token(user=get_user_model().objects.create(username="bert", email="bert@example.com"))
    make_token()
    assert find(admin_client, term) == rows


def test_user_by_id(admin_client, make_token, anna):
    """A user's ID finds the user's tokens."""
    row = make_token(user=anna)
    assert find(admin_client, str(anna.pk)) == {row.pk}


def test_device_id(admin_client, make_token):
    """A device ID finds its row, and only whole."""
    row = make_token(device_id="5f3c-77")
    assert find(admin_client, "5f3c-77") == {row.pk}
    assert find(admin_client, "5f3c") == set()


@pytest.mark.parametrize("term", ["nobody", "9" * 30, "²", "%", "sha256:", "sha256:zz", "a@", "'\" OR 1=1"])
def test_odd_terms_find_nothing(admin_client, make_token, term):
    """Whatever is typed, the answer is a page."""
    make_token()
    assert find(admin_client, term) == set()


def test_a_null_character_is_no_search(admin_client):
    """What no database can hold is an error on the page, not of the server."""
    response = admin_client.post(f"{LIST}search/", {"q": "a\0"}, follow=True)
    assert response.context["cl"].query == ""


def test_an_empty_search_is_the_whole_list(admin_client, make_token):
    """Searching for nothing takes the search away."""
    row = make_token()
    assert find(admin_client, "  ") == {row.pk}


def test_filters_are_kept(admin_client, make_token, anna):
    """A search keeps the filters that were set."""
    row = make_token(user=anna, platform="ios")
    make_token(user=anna, platform="android")
    assert find(admin_client, "anna", "?platform=ios&p=3") == {row.pk}


def test_search_form_keeps_filters(admin_client, make_token):
    """The form posts to a URL that names the filters, not the page or the last search."""
    make_token()
    page = text(admin_client.get(f"{LIST}?platform=ios&q=zz"))
    assert f'action="{LIST}search/?platform=ios"' in page


def test_costs_few_queries_with_facets_too(admin_client, make_token, anna):
    """The search is resolved once per page, however often the filters ask for it."""
    make_token(user=anna)
    with CaptureQueriesContext(connection) as plain:
        admin_client.get(f"{LIST}?q=anna")
    with CaptureQueriesContext(connection) as counted:
        admin_client.get(f"{LIST}?q=anna&_facets=True")
    assert len(plain) == 10
    assert len(counted) == len(plain) + 6


def test_no_like_over_tokens(admin_client, make_token, anna):
    """No statement of a search compares a part of a token or joins the users."""
    make_token(user=anna)
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(f"{LIST}?q=anna")
    about_tokens = [q["sql"] for q in queries if 'FROM "django_push_pushtoken"' in q["sql"].replace("`", '"')]
    assert about_tokens
    assert not [sql for sql in about_tokens if "LIKE" in sql.upper()]


def test_finds_the_newest_of_very_many(make_token, anna, monkeypatch):
    """A search stops at a limit, with the newest rows."""
    rows = [make_token(user=anna).pk for _ in range(5)]
    monkeypatch.setattr(search, "MAX_FOUND", 3)
    assert search.find("anna", PushToken.objects.all()) == sorted(rows, reverse=True)[:3]
