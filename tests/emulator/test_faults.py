"""Which requests are hit: by share and seed, by schedule, by path."""

import json
import threading
import time
from collections import Counter

import pytest

from django_push.emulator import Fault, Faults
from django_push.emulator.faults import PATHS


def decisions(faults, times=200, provider="fcm", path="push"):
    return [faults.next(provider, path) for _ in range(times)]


def test_off():
    """Without kinds nothing is hit."""
    faults = Faults(seed=1)
    assert decisions(faults) == [None] * 200
    assert (faults.is_on, str(faults), faults.applied) == (False, "", Counter())


def test_seed():
    """The same seed decides the same again, another one otherwise; a made-up one is told."""
    kinds = ["reset-after:0.3", "refused:0.3"]
    made_up = Faults(kinds=kinds)
    found = decisions(made_up)
    assert decisions(Faults(kinds=kinds, seed=made_up.seed)) == found
    assert decisions(Faults(kinds=kinds, seed=made_up.seed + 1)) != found
    assert decisions(made_up) != found
    assert decisions(made_up.again()) == found


def test_share():
    """The share is that of all requests, split among the kinds that have none of their own."""
    faults = Faults(kinds=["hang", "short", "long:0.5"], share=0.2, seed=3)
    assert faults.shares == {Fault.HANG: 0.1, Fault.SHORT: 0.1, Fault.LONG: 0.5}
    found = Counter(decisions(faults, times=10_000))
    assert found.pop(None) == pytest.approx(3000, abs=200)
    assert found == faults.applied
    assert found[Fault.HANG] == pytest.approx(1000, abs=150)
    assert found[Fault.LONG] == pytest.approx(5000, abs=250)


@pytest.mark.parametrize(("share", "expected"), [(0, None), (1, Fault.DRIP)])
def test_all_or_nothing(share, expected):
    """A share of 1 hits every request, one of 0 none."""
    faults = Faults(kinds=["drip"], share=share)
    assert set(decisions(faults)) == {expected}
    assert faults.is_on == bool(share)


def test_schedule():
    """A schedule decides request by request; after its end chance does."""
    schedule = ["refused", None, Fault.LONG]
    faults = Faults(schedule=schedule)
    assert str(faults).startswith("3 scheduled (seed ")
    assert decisions(faults, 4) == [Fault.REFUSED, None, Fault.LONG, None]
    assert not faults.is_on
    faults = Faults(schedule=schedule, kinds=["hang"], share=1)
    assert decisions(faults, 4)[1:] == [None, Fault.LONG, Fault.HANG]
    assert decisions(faults.again(), 4)[0] is Fault.REFUSED


def test_schedule_of_nothing():
    """A schedule of healthy answers alone is no fault."""
    assert not Faults(schedule=[None, None]).is_on


def test_limit():
    """No more than so many requests are hit, threads or not."""

    class Slow(Faults):
        def _is_used_up(self):
            is_used_up = super()._is_used_up()
            time.sleep(0)  # another thread's turn
            return is_used_up

    faults = Slow(kinds=["refused", "hang"], share=1, limit=50)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(decisions(faults, 100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(kind is not None for kind in found) == 50
    assert faults.applied.total() == 50
    assert not faults.is_on


def test_paths():
    """Only what is asked for is hit, and the rest does not use up the schedule."""
    faults = Faults(schedule=["refused"])
    assert [faults.next("expo", path) for path in ("receipts", "oauth", "", "push")] == [
        None,
        None,
        None,
        Fault.REFUSED,
    ]
    faults = Faults(kinds=["refused"], share=1, paths=["receipts", "oauth"])
    assert [faults.next("expo", path) for path in PATHS] == [None, Fault.REFUSED, Fault.REFUSED]


@pytest.mark.parametrize(("provider", "expected"), [("expo", None), ("gcm", None), ("fcm", "expired-auth")])
def test_expired_auth(provider, expected):
    """Only FCM has access tokens; for the others the turn passes."""
    faults = Faults(schedule=["expired-auth", "refused"])
    assert decisions(faults, 2, provider) == [expected, "refused"]
    assert faults.applied.total() == (2 if expected else 1)


def test_shown():
    """What is on can be told in JSON, and begins again from it."""
    faults = Faults(kinds=["hang:0.5"], seed=4, limit=9, schedule=["long", None, "short"])
    decisions(faults, 1)
    assert json.loads(json.dumps(faults.shown())) == {
        "on": True,
        "kinds": {"hang": 0.5},
        "seed": 4,
        "limit": 9,
        "scheduled": [None, "short"],
        "paths": ["push"],
        "applied": {"long": 1},
    }
    assert str(faults) == "hang 0.5, 2 scheduled (seed 4)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["nonsense"]}, "'nonsense' is no fault; there are rate-limited, .*drip"),
        ({"kinds": ["hang:x"]}, "'x' is no share"),
        ({"kinds": ["hang:1.5"]}, "a share is a number from 0 to 1"),
        ({"kinds": ["hang:nan"]}, "a share is a number from 0 to 1"),
        ({"kinds": ["hang:0.6", "long:0.6"]}, "the shares must not be more than 1 together"),
        ({"kinds": "hang"}, "kinds must be a list"),
        ({"kinds": {"hang": 0.1}}, "kinds must be a list"),
        ({"kinds": 3}, "kinds must be a list"),
        ({"kinds": [None]}, "kinds must be a list of names"),
        ({"share": True}, "a share is a number"),
        ({"share": "0.2"}, "a share is a number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"limit": True}, "limit must be a whole number"),
        ({"schedule": ["hang", 3]}, "schedule must be a list of names"),
        ({"schedule": ["hang:0.1"]}, "'hang:0.1' is no fault"),
        ({"paths": ["inbox"]}, "'inbox' is no path; there are push, receipts, oauth"),
    ],
)
def test_bad_options(options, message):
    """What makes no sense is refused in words."""
    with pytest.raises(ValueError, match=message):
        Faults(**options)
