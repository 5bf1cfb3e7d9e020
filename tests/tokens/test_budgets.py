import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_push import unregister_token
from django_push.models import get_token_model
from django_push.tokens import apply, deactivate, move
from tests.tokens.helpers import canonical, dead, register, ticket

pytestmark = pytest.mark.django_db(transaction=True)
Model = get_token_model()
#: SQLite takes its lock by a statement of its own.
EXTRA = 1 if connection.vendor == "sqlite" else 0


@pytest.fixture
def thousand():
    Model.objects.bulk_create([Model(token=f"t{n}", backend="default") for n in range(1000)])
    return list(Model.objects.order_by("pk"))


class Budget:
    """Statements, BEGIN and COMMIT among them."""

    def __init__(self, most):
        self.most = most

    def __enter__(self):
        self.captured = CaptureQueriesContext(connection).__enter__()

    def __exit__(self, *error):
        self.captured.__exit__(*error)
        statements = [query["sql"][:80] for query in self.captured.captured_queries]
        assert error[0] or len(statements) <= self.most, statements


def test_apply_with_nothing_to_say(thousand, now):
    """A reply in which all is well costs no query."""
    sent_at = now()
    with Budget(0):
        apply([ticket(row) for row in thousand], sent_at)


def test_apply_with_dead_ones(thousand, now):
    """One dead token in a hundred costs one transaction with one update."""
    sent_at = now()
    reply = [dead(row) if n % 100 == 0 else ticket(row) for n, row in enumerate(thousand)]
    with Budget(4 + EXTRA):
        assert apply(reply, sent_at).deactivated == 10


def test_apply_with_all_dead(thousand, now):
    """A thousand dead tokens cost what ten do."""
    sent_at = now()
    with Budget(4 + EXTRA):
        assert apply([dead(row) for row in thousand], sent_at).deactivated == 1000


def test_apply_with_replacements(thousand, now):
    """Each replacement and each merge costs one update, and finding the rows one read."""
    sent_at = now()
    with Budget(5 + 10 + EXTRA):
        apply([canonical(row, f"new-{row.pk}") for row in thousand[:10]], sent_at)
    with Budget(5 + 10 + EXTRA):
        assert apply(
            [canonical(row, f"t{500 + n}") for n, row in enumerate(thousand[10:20])], sent_at
        ).replaced


def test_register(ann):
    """A registration costs a read, a locked read and a write: four statements and COMMIT, or fewer."""
    with Budget(6 + EXTRA):
        register("a", ann, device_id="d")
    for facts in ({}, {"device_id": "d"}, {"device_id": "d", "locale": "de"}):
        with Budget(5 + EXTRA):
            register("a", ann, **facts)
    with Budget(5 + EXTRA):
        register("b", ann, device_id="d")


def test_register_in_a_large_table(thousand, ann):
    """A registration reads only the rows that it concerns; a new device is looked at once more."""
    with Budget(6 + EXTRA):
        register("t7", ann, device_id="d")


def test_logout(ann):
    """A logout costs two reads of keys, a locked read and a write."""
    register("a", ann)
    with Budget(6 + EXTRA):
        unregister_token("a")


def test_pages(thousand):
    """A verb over a queryset costs a handful of statements a page."""
    with Budget(6 + EXTRA):
        deactivate(Model.objects.all(), code="x", source="admin")
    with Budget(9 + EXTRA):
        move("default", "other")
