import pytest

from django_push import wake


@pytest.fixture(autouse=True)
def _unthrottled():
    """Each test may schedule a check of receipts."""
    wake._checks.reset()
    yield
    wake._checks.reset()
