import pytest
from django.contrib.auth import get_user_model

from django_push import signals
from django_push.models import database_now

EVENTS = {
    name: getattr(signals, name)
    for name in (
        "token_registered",
        "token_transferred",
        "token_deactivated",
        "token_replaced",
        "token_reactivated",
    )
}


@pytest.fixture
def ann(db):
    return get_user_model().objects.create(username="ann")


@pytest.fixture
def bob(db):
    return get_user_model().objects.create(username="bob")


@pytest.fixture
def now(db):
    """The database's clock, read when it is called."""
    return lambda: database_now("default")


class Heard(list):
    """The events that were sent: (name, arguments), the row among them as it was shown."""

    @property
    def names(self):
        return [name for name, _ in self]

    def of(self, name):
        return [about for heard, about in self if heard == name]


@pytest.fixture
def heard():
    """Every event of a token, as a receiver hears it."""
    found = Heard()
    receivers = []
    for name, signal in EVENTS.items():

        def receive(name=name, **about):
            about.pop("signal")
            found.append((name, about))

        signal.connect(receive, weak=False)
        receivers.append((signal, receive))
    yield found
    for signal, receive in receivers:
        signal.disconnect(receive)


@pytest.fixture
def committed(django_capture_on_commit_callbacks, heard):
    """Run a verb and let it commit; return what was heard."""

    def run(verb, *args, **kwargs):
        heard.clear()
        with django_capture_on_commit_callbacks(execute=True):
            verb(*args, **kwargs)
        return heard

    return run
