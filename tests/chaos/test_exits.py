"""A process that ends at a named point, one point after the other: what it leaves is taken up exactly."""

import pytest

from django_push.models import Broadcast, BroadcastStatus
from tests.chaos.harness import LEASE
from tests.chaos.invariants import check
from tests.chaos.test_chaos import on
from tests.chaos.worker import POINTS

pytestmark = [pytest.mark.chaos, pytest.mark.services, pytest.mark.slow]

SIZE, BATCH = 600, 200
#: For a worker's points: which call it ends at; how many may have been sent by then, at least and at most;
#: how many of them the tables know of, at least; and how many can be sent twice. Requests are of 100, two
#: of them at a time.
EXITS = {
    "after-reserve": [(1, 0, 0, 0, 0), (2, 0, 200, 0, 200)],
    "in-claim": [(1, 0, 0, 0, 0), (2, 0, 200, 0, 200)],
    "after-claim": [(1, 0, 0, 0, 0), (3, 100, 400, 0, 400)],
    "after-write": [(1, 0, 100, 0, 100), (2, 90, 200, 0, 200), (5, 300, 500, 150, 300)],
    "after-reply": [(1, 90, 200, 0, 200), (2, 150, 300, 0, 300)],
    "before-record": [(1, 150, 400, 0, 400), (3, 500, 600, 350, 250)],
    "in-record": [(1, 150, 400, 0, 400), (3, 500, 600, 350, 250)],
    "after-record": [(1, 150, 400, 150, 200), (3, 500, 600, 500, 50)],
    "in-finish": [(1, 570, 600, 560, 0)],
    "after-finish": [(1, 570, 600, 560, 0)],
}
#: FCM's slow batches have points of their own.
SLOW = ["before-progress:1", "in-record:2", "after-progress:2", "after-write:40"]


@on("postgresql")
@pytest.mark.parametrize(
    ("point", "expected"),
    [
        pytest.param(f"{name}:{times}", expected, id=f"{name}-{times}")
        for name, cases in EXITS.items()
        for times, *expected in cases
    ],
)
def test_a_worker_ends(new_run, point, expected):
    """What another worker sends twice is what this one had sent and not written, and no more."""
    least, most, recorded, doubled = expected
    run = new_run(1, size=SIZE, latency=0.05)
    with run.site(max_connections=1, broadcast_rate=100_000):
        run.start(batch_size=BATCH)
        run.exited(run.fork("drain", exit_at=point))
        run.wait_for_silence()
        assert least <= run.sent <= most
        assert recorded <= run.recorded <= run.sent
        run.work()
        run.until_over()
        check(run)
        assert run.doubled <= doubled


@on("postgresql")
@pytest.mark.parametrize("point", SLOW)
def test_a_worker_ends_in_a_slow_batch(new_run, point):
    """In the middle of a batch of FCM's, verdicts of a second at most are not written yet."""
    run = new_run(1, provider="fcm", size=150, latency=0.1)
    with run.site(max_connections=4):  # forty a second
        run.start(batch_size=150)
        run.exited(run.fork("drain", exit_at=point))
        run.wait_for_silence()
        unwritten = run.sent - run.recorded
        assert unwritten <= 40 * 1.5
        run.work()
        run.until_over()
        check(run)
        assert run.doubled <= unwritten


@on("postgresql")
def test_a_worker_ends_after_a_renewal(new_run):
    """A lease that was prolonged and left is waited for, no longer than it lasts."""
    run = new_run(1, provider="fcm", size=150, latency=0.2)
    run.timings["broadcasts.lane.FLUSH"] = 60
    with run.site(max_connections=4):
        run.start(batch_size=150)
        run.exited(run.fork("drain", exit_at="after-renew"))
        run.wait_for_silence()
        run.work()
        run.until_over(seconds=4 * LEASE + 15)
        check(run)


@on("postgresql")
@pytest.mark.parametrize("point", ["after-reserve", "in-claim", "after-claim", "in-record"])
def test_a_worker_freezes_for_good(new_run, point):
    """Whatever it holds, a lock of the database too, is somebody else's after a while."""
    run = new_run(1, size=SIZE, latency=0.05)
    run.timings["tokens.writing.STANDSTILL"] = 1.0
    with run.site(max_connections=1, broadcast_rate=100_000):
        run.start(batch_size=BATCH)
        frozen = run.fork("drain", freeze_at=f"{point}:2")
        run.wait(frozen.has_frozen)
        run.work()
        run.until_over(seconds=LEASE + 15)
        frozen.thaw()
        assert frozen.wait() == 0
        check(run)


@on("postgresql")
def test_an_operator_freezes_for_good(new_run):
    """A pause that did not commit did not take place, and keeps nobody waiting."""
    run = new_run(1, size=SIZE, latency=0.05)
    run.timings["tokens.writing.STANDSTILL"] = 1.0
    with run.site(max_connections=1):
        run.start(batch_size=BATCH)
        frozen = run.fork("act", act="pause", freeze_at="in-change")
        run.wait(frozen.has_frozen)
        run.work()
        run.until_over(seconds=LEASE + 15)
        frozen.kill()
        check(run)


@pytest.mark.parametrize(
    ("site_database", "audience"), [("sqlite", "list"), ("mysql", "everyone")], indirect=["site_database"]
)
def test_workers_end_one_after_the_other(new_run, seed, audience):
    """Every point in turn kills a worker of one and the same broadcast."""
    run = new_run(seed, size=4000, latency=0.02)
    with run.site(max_connections=2, broadcast_rate=100_000):
        run.start(audience, batch_size=100)
        points = [f"{point}:{run.random.randint(1, 3)}" for point in EXITS if "finish" not in point]
        if audience == "list":
            points = ["in-reclaim" if point.startswith("in-claim") else point for point in points]
        for point in run.random.sample(points, len(points)):
            worker = run.fork("drain", exit_at=point)
            run.exited(worker)
            run.look()
        run.work(2)
        run.until_over()
        check(run)


@on("postgresql")
@pytest.mark.parametrize(
    ("point", "audience"),
    [
        ("after-create", "everyone"),
        ("in-start", "everyone"),
        ("after-start", "everyone"),
        ("in-plan:350", "list"),
        ("after-create", "list"),
        ("in-start", "list"),
        ("after-start", "list"),
    ],
)
def test_the_web_process_ends(new_run, point, audience):
    """The button that is pressed again goes on with the first press's broadcast; it is sent once."""
    run = new_run(1, size=SIZE)
    call = {"title": "Chaos", "key": "one", "batch_size": 100}
    with run.site():
        run.settings["PUSH_DISPATCHER"] = "tests.chaos.settings.NoDispatcher"
        run.exited(run.fork("create", audience=audience, call=call, exit_at=point))
        assert run.sent == 0
        assert run.fork("create", audience=audience, call=call).wait() == 0
        (row,) = Broadcast.objects.all()
        assert row.status == BroadcastStatus.RUNNING
        run.follow(row.pk)
        run.settings["PUSH_DISPATCHER"] = "django_push.dispatch.inline.InlineDispatcher"
        run.work(role="tick")
        run.until_over()
        check(run)
        assert run.doubled == 0


@on("postgresql")
@pytest.mark.parametrize(("act", "point"), [("pause", "in-change"), ("cancel", "in-cancel")])
def test_an_operator_ends(new_run, act, point):
    """A pause or cancel that did not commit did not take place."""
    run = new_run(1, size=SIZE, latency=0.05)
    with run.site(max_connections=1):
        run.start(batch_size=BATCH)
        run.exited(run.fork("act", act=act, exit_at=point))
        run.work()
        run.until_over()
        check(run)
        assert run.doubled == 0


def test_every_point_is_visited():
    """No point is named that no test ends at."""
    visited = {*EXITS, "in-reclaim", "after-renew"} | {point.partition(":")[0] for point in SLOW}
    visited |= {"after-create", "in-plan", "in-start", "after-start", "in-change", "in-cancel"}
    assert visited == set(POINTS)
