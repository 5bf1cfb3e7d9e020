"""A drainer's dealings with the limits: what it has reserved is waited for, whatever comes between."""

import time
from types import SimpleNamespace

import pytest
from django.db.models import F

from django_push import Outcome, get_token_model, testing
from django_push.broadcasts import drain, quota, rates
from django_push.broadcasts.quota import Quota
from django_push.emulator import start_emulator
from django_push.handler import push_backends
from django_push.models import RateBucket
from django_push.wire import Reply
from tests.broadcasts.factories import (
    EXPO,
    LOCMEM,
    all_ok,
    batches_of,
    counted,
    drained,
    finished,
    make_expo_tokens,
    make_tokens,
    started,
)

pytestmark = pytest.mark.django_db
#: What a second's quota is here, and the size of the batches with it.
RATE = 50


@pytest.fixture(scope="module")
def _server():
    with start_emulator() as server:
        yield server


@pytest.fixture
def emulator(_server, settings):
    """A running emulator of Expo that has seen nothing, for an alias with a rate."""
    _server.state.reset()
    settings.PUSH_EMULATOR_HOST = _server.host
    settings.PUSH_BACKENDS = {"default": {**EXPO, "OPTIONS": {"broadcast_rate": float(RATE)}}}
    return _server.state


def make_project_tokens(count, projects):
    """Create rows of projects in turn, which Expo does not take in one request."""
    model = get_token_model()
    names = [f"ExponentPushToken[project-{projects[n % len(projects)]}-{n:06d}]" for n in range(count)]
    model.objects.bulk_create([model(backend="default", token=name) for name in names])


@pytest.mark.parametrize("projects", ["a", "ab"], ids=["one-project", "two-projects"])
def test_a_rate_while_replies_ask_for_another_form(emulator, projects):
    """What Expo refuses and gets again, project by project, does not let the next batch go early."""
    make_project_tokens(4 * RATE, projects)
    made = started()
    ended = drained(made, budget=0.5)
    assert emulator.accepted.total() == RATE
    assert counted(made) == {Outcome.ACCEPTED: RATE}
    assert [batch.size for batch in batches_of(made)] == [RATE]
    assert ended.is_running


# --- blocks ---------------------------------------------------------------------------------------


class Clock:
    """A clock that can be put forward, for this process and for the rows of the limits."""

    def __init__(self, monkeypatch):
        self.shift = 0.0
        shifted = SimpleNamespace(monotonic=lambda: time.monotonic() + self.shift)
        monkeypatch.setattr(quota, "time", shifted)

    def advance(self, seconds):
        self.shift += seconds
        columns = ("spoken_for", "blocked_until", "busy_since")
        RateBucket.objects.update(**{name: F(name) - seconds for name in columns})


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def drainers(settings):
    """The quotas of some drainers of one broadcast."""
    settings.PUSH_BACKENDS = {"default": {**LOCMEM, "OPTIONS": {"broadcast_rate": 100.0}}}
    make_tokens(1)
    made = started()
    return [Quota(made, push_backends.channel("default")) for _ in range(5)]


def waits(drainers):
    return [drainer.wait() for drainer in drainers]


def near(*seconds):
    return pytest.approx(seconds, abs=0.45)


def test_those_who_waited_through_a_block(drainers, clock):
    """When it ends they go one by one, not with everything that was reserved before it."""
    assert waits(drainers) == near(0, 1, 2, 3, 4)
    rates.block("default", 12.0)
    assert waits(drainers) == near(12, 13, 14, 15, 16)
    clock.advance(12.0)
    assert waits(drainers) == near(0, 1, 2, 3, 4)


def test_those_whose_turn_comes_after_a_block(drainers):
    """They keep their place; the others get in line behind them."""
    assert waits(drainers) == near(0, 1, 2, 3, 4)
    rates.block("default", 1.5)
    assert waits(drainers) == near(5, 6, 2, 3, 4)


@pytest.mark.parametrize("asked", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"], ids=["zero", "past"])
def test_a_429_that_asks_for_no_wait(settings, asked):
    """Nobody sends for a second all the same: the provider is not asked in a loop."""
    settings.PUSH_BACKENDS = {"default": EXPO}
    make_expo_tokens(300)
    made = started()
    body = b'{"errors": [{"code": "TOO_MANY_REQUESTS", "message": "Slow down."}]}'
    busy = Reply(status=429, headers={"retry-after": asked}, body=body)
    with testing.fake_transport("default", lambda request: busy) as transport:
        drain(made.pk, budget=0.4, linger=0.0)
    assert len(transport.requests) == 1
    assert rates.held_for(rates.Limit("default")) == pytest.approx(1, abs=0.5)
    with testing.fake_transport("default", all_ok):
        assert finished(made).status == "done"
