import pytest

from django_push.emulator import start_emulator


@pytest.fixture(scope="module")
def _server():
    with start_emulator(retry_after=0) as server:
        yield server


@pytest.fixture
def emulator(_server):
    """A running emulator that has seen nothing."""
    _server.state.reset()
    return _server
