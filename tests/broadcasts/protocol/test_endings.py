"""What the machine met so seldom that it is written down: single orders of events, on the engine."""

import pytest

from tests.broadcasts.protocol.orm import Orm
from tests.broadcasts.protocol.words import ACCEPTED, LEASE, REFUSED, UNKNOWN, Setup

pytestmark = pytest.mark.django_db


@pytest.fixture
def engine():
    engine = Orm()
    yield engine
    engine.close()


def begin(engine, tokens=2, on_unknown="retry"):
    engine.begin(Setup((("default", None),) * tokens, False, 2, 3, on_unknown))


def of(engine, *columns):
    return [tuple(getattr(row, name) for name in columns) for row in engine.rows()]


def test_cancelled_while_it_waits_to_be_sent_again(engine):
    """What may have been sent is unknown, not cancelled, when the broadcast is cancelled."""
    begin(engine)
    held = engine.claim("default")
    engine.record(held, dict.fromkeys(held.targets, UNKNOWN))
    assert engine.cancel()
    assert of(engine, "status", "sends") == [("unknown", 1)]


def test_cancelled_before_a_result(engine):
    """What is refused at last, and may have been sent before, is unknown in a lane that was cancelled."""
    begin(engine)
    engine.claim("default")
    engine.elapse(LEASE + 1)
    held = engine.claim("default")
    assert engine.cancel()
    engine.record(held, dict.fromkeys(held.targets, REFUSED))
    assert of(engine, "status", "sends") == [("unknown", 1)]


def test_split_in_a_cancelled_lane(engine):
    """So are refused tokens that are split off."""
    begin(engine)
    engine.claim("default")
    engine.elapse(LEASE + 1)
    held = engine.claim("default")
    assert engine.cancel()
    engine.record(held, dict(zip(held.targets, (REFUSED, UNKNOWN), strict=True)))
    assert of(engine, "status", "sends") == [("unknown", 2), ("unknown", 1)]


def test_cancelled_and_never_sent(engine):
    """What was refused whenever it was sent is cancelled."""
    begin(engine)
    held = engine.claim("default")
    engine.record(held, dict.fromkeys(held.targets, REFUSED))
    assert engine.cancel()
    assert of(engine, "status", "sends") == [("cancelled", 0)]


def test_resend_while_paused(engine):
    """What is unknown in a lane that has ended is sent again once the broadcast is resumed, not before."""
    begin(engine, on_unknown="skip")
    held = engine.claim("default")
    engine.record(held, dict.fromkeys(held.targets, UNKNOWN))
    while engine.claim("default") is not None:
        pass
    assert engine.pause()
    assert engine.resend() == 2
    assert engine.claim("default") is None
    assert engine.resume()
    held = engine.claim("default")
    assert len(held.targets) == 2
    engine.record(held, dict.fromkeys(held.targets, ACCEPTED))
    assert of(engine, "status", "resent") == [("done", 2)]
