import pytest

from django_push import testing


@pytest.fixture(autouse=True)
def _empty_outbox():
    testing.reset()
    yield
    testing.reset()
