"""How many statements a send takes, those of transactions among them."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_push import get_token_model, send_push
from tests.sending.conftest import error, make_tokens, token_name

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_thousand_tokens_with_one_percent_dead(expo):
    """At most ten statements, the transaction's and the receipts' included."""
    make_tokens(1000)
    expo({token_name(n * 100): error("DeviceNotRegistered") for n in range(10)})
    with CaptureQueriesContext(
        connection,
    ) as queries:
        result = send_push(get_token_model().objects.all(), title="Hi")
    assert (result.accepted, result.changes.deactivated) == (990, 10)
    assert len(queries) <= 10, [query["sql"][:80] for query in queries]


def test_statements_grow_with_pages(expo):
    """Four thousand tokens take at most four times as many."""
    make_tokens(4_000)
    expo({token_name(n * 100): error("DeviceNotRegistered") for n in range(40)})
    with CaptureQueriesContext(connection) as queries:
        assert send_push(get_token_model().objects.all(), title="Hi").accepted == 3_960
    assert len(queries) <= 40


def test_one_user_who_is_taken(user):
    """Reading the clock and the tokens is all, where nothing changes and there are no receipts."""
    make_tokens(2, backend="other", user=user)
    with CaptureQueriesContext(connection) as queries:
        assert send_push(user, title="Hi").accepted == 2
    assert len(queries) <= 3, [query["sql"][:80] for query in queries]
