import pytest
from django.utils import timezone

from django_push.models import PushProblem, ReceiptBatch
from tests.admin.conftest import LIST, text

pytestmark = pytest.mark.django_db
BATCHES = "/admin/django_push/receiptbatch/"
PROBLEMS = "/admin/django_push/pushproblem/"


@pytest.fixture
def batch():
    now = timezone.now()
    return ReceiptBatch.objects.create(
        backend="default", tickets=b"secret", size=7, sent_at=now, due_at=now, deadline=now
    )


@pytest.fixture
def problem(make_token):
    return PushProblem.objects.create(
        backend="default",
        token_id=make_token().pk,
        outcome="provider_setup",
        code="InvalidCredentials",
        detail="<script>detail</script>",
    )


def test_batches_are_read_only(admin_client, batch):
    """Nobody adds, changes or deletes what the app will ask about."""
    assert "default" in text(admin_client.get(BATCHES))
    page = text(admin_client.get(f"{BATCHES}{batch.pk}/change/"))
    assert "secret" not in page
    assert 'name="size"' not in page
    assert admin_client.get(f"{BATCHES}add/").status_code == 403
    assert admin_client.post(f"{BATCHES}{batch.pk}/change/", {"size": 1}).status_code == 403
    assert admin_client.post(f"{BATCHES}{batch.pk}/delete/", {"post": "yes"}).status_code == 403


def test_problems_are_shown_with_their_token(admin_client, problem):
    """A problem has its outcome in words, the provider's text escaped, and a link to the token."""
    for url in (PROBLEMS, f"{PROBLEMS}{problem.pk}/change/"):
        page = text(admin_client.get(url))
        assert f'href="{LIST}{problem.token_id}/change/"' in page
        assert "&lt;script&gt;detail" in page
        assert "<script>detail" not in page
    assert "setup at the provider" in page


def test_problem_without_a_token(admin_client, problem):
    """A problem whose token is not known has no link."""
    PushProblem.objects.update(token_id=None)
    assert "/pushtoken/" not in text(admin_client.get(PROBLEMS)).partition("result_list")[2]


def test_problems_may_be_deleted_with_the_permission(staff_client, problem):
    """Who has the permission deletes what has been dealt with; nobody writes a problem."""
    client = staff_client("view_pushproblem", "change_pushproblem", "add_pushproblem", "delete_pushproblem")
    assert client.get(f"{PROBLEMS}add/").status_code == 403
    assert client.post(f"{PROBLEMS}{problem.pk}/change/", {"code": "x"}).status_code == 403
    client.post(f"{PROBLEMS}{problem.pk}/delete/", {"post": "yes"})
    assert not PushProblem.objects.exists()


@pytest.mark.parametrize(("query", "n"), [("outcome=provider_setup", 1), ("outcome=rejected", 0)])
def test_filter_by_outcome(admin_client, problem, query, n):
    """Problems are filtered by outcome."""
    assert len(admin_client.get(f"{PROBLEMS}?{query}").context["cl"].result_list) == n
