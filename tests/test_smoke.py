import pytest
from django.contrib.auth import get_user_model

from django_push import Outcome, get_token_model, register_token, send_push, testing


@pytest.mark.django_db
def test_send():
    user = get_user_model().objects.create(username="a")
    tok, created = register_token("tok-1", user=user, backend="default")
    assert created
    tok2, created = register_token("tok-2", user=user, backend="other")
    testing.answer("tok-2", Outcome.UNREGISTERED, code="NotRegistered")
    result = send_push(user, title="Hi")
    assert str(result) == "1 accepted, 1 unregistered"
    tok2.refresh_from_db()
    assert tok2.status == "unregistered"
    assert result.changes.deactivated == 1
    testing.answer("tok-1", Outcome.ACCEPTED, id="x", replacement="tok-9")
    result = send_push(get_token_model().objects.all(), title="Hi")
    assert str(result) == "1 accepted; skipped: 1 inactive"
    tok.refresh_from_db()
    assert tok.token == "tok-9"
