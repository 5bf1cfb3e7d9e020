"""Broadcasts through real queues: workers, brokers and tasks are lost, and an emulated provider counts.

Each queue is a class with a site of its own, so ``-n 3 --dist loadscope`` runs them side by side.
"""

import signal
import time
from pathlib import Path

import pytest

from django_push.emulator import start_emulator
from tests.services.broadcast_queues_site import AMQP, QUICK, REDIS, SLOW, TASKS, TIMINGS, Fleet
from tests.services.test_brokers import needs

DEPLOYMENT = Path(__file__).parent.parent.parent / "docs" / "deployment.rst"

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture(scope="class")
def fleet(request, tmp_path_factory):
    """A site of its own for each queue; its workers stay from test to test, unless one kills them."""
    needs("psycopg", *request.cls.packages)
    with start_emulator() as emulator:
        fleet = Fleet(tmp_path_factory.mktemp("site"), request.cls.broker, emulator)
        try:
            fleet.do("migrate")
            yield fleet
        finally:
            fleet.close()


@pytest.fixture
def site(fleet):
    """The site with two workers that have nothing to do."""
    fleet.renew()
    fleet.start_workers(2)
    return fleet


class Queue:
    """What holds whatever the queue is."""

    def test_two_workers_share_a_broadcast(self, site):
        """Everybody gets it once, each worker sends a part, and no task is left when it is over."""
        pk = site.begin(3000, latency=SLOW)
        site.wait_until_done(pk)
        resent = site.check(pk)
        assert site.doubled <= resent
        assert set(site.accepted.values()) == {1} or resent
        assert len(site.claimants(pk)) == 2
        site.wait_until_idle()

    def test_each_task_has_one_successor(self, site):
        """A task that runs out of time asks for the next; when the broadcast is over, nobody does."""
        pk = site.begin(3000, latency=SLOW)
        began = time.monotonic()
        site.wait_until_done(pk)
        rounds = (time.monotonic() - began) / TIMINGS["broadcasts.draining.BUDGET"]
        site.wait_until_idle()
        site.check(pk)
        time.sleep(TIMINGS["broadcasts.draining.BUDGET"])
        tasks = len(site.drains())
        assert 4 <= tasks <= 2 * (rounds + 2), f"{tasks} tasks in {rounds:.1f} rounds of two workers"
        site.wait_until_idle()

    def test_a_killed_worker_is_made_up_for(self, site):
        """One worker is killed: the other sends what it had claimed as well, and nobody has to be told."""
        pk = site.begin(2000, latency=SLOW)
        site.wait_until_sent(0.3)
        site.kill(1)
        site.wait_until_done(pk)
        site.check(pk)

    def test_a_tick_goes_on_when_all_workers_were_killed(self, site):
        """Both workers are killed and others started: a tick wakes them once the leases are over."""
        pk = site.begin(2000, latency=SLOW)
        site.wait_until_sent(0.3)
        site.kill(2)
        sent = len(site.accepted)
        site.start_workers(2)
        site.emulator.state.latency = QUICK
        woken = site.wait_until_done(pk, cron=True)
        assert sent < len(site.tokens)
        assert woken or site.broker == AMQP, "Its tasks are delivered again there."
        assert site.check(pk) > 0

    def test_a_queue_holds_ids_and_can_be_purged(self, site):
        """What waits is a broadcast's id and nothing else; when it is lost, one tick is enough."""
        pk = site.begin(2500, latency=SLOW)
        site.wait_until_sent(0.2)
        site.stop()
        jobs, raw = site.waiting()
        drains = [payload for job, payload in jobs if job == "drain_broadcast"]
        assert pk in {payload["broadcast"] for payload in drains}  # a worker may put back an earlier one's
        assert all(payload.keys() == {"broadcast", "wake"} for payload in drains)
        assert not any(secret in raw for secret in ("canary", "Canary", "ExponentPushToken"))
        site.purge()
        site.start_workers(2)
        assert site.running() == 0
        site.emulator.state.latency = QUICK
        site.wait(lambda: site.do("tick")["woken"] == 1)
        site.wait_until_done(pk)
        site.check(pk)

    def test_tasks_that_come_twice_or_late(self, site):
        """Tasks that nobody needs do no harm: while it runs, after its end, and after it was deleted."""
        pk = site.begin(2000, latency=SLOW)
        site.do("wake", pk=pk, times=4)
        site.wait_until_done(pk)
        assert site.check(pk) >= site.doubled
        before = (site.do("state", pk=pk), dict(site.accepted), len(site.drains()))
        site.do("wake", pk=pk, times=3)
        site.wait(lambda: len(site.drains("ended")) >= before[2] + 3)
        site.wait_until_idle()
        assert before[:2] == (site.do("state", pk=pk), dict(site.accepted))
        site.do("delete", pk=pk)
        ended = len(site.drains("ended"))
        site.do("wake", pk=pk, times=2)
        site.wait(lambda: len(site.drains("ended")) >= ended + 2)
        site.wait_until_idle()
        assert site.drains("failed") == []
        assert before[1] == dict(site.accepted)

    def test_a_broker_that_goes_away(self, site):
        """The queue is out of reach for some time in the middle: workers go on, and it ends."""
        pk = site.begin(3000, latency=SLOW)
        site.wait_until_sent(0.1)
        site.proxy.close()
        sent = len(site.accepted)
        time.sleep(TIMINGS["broadcasts.draining.BUDGET"] + 0.5)
        assert len(site.accepted) > sent or not site.broker
        site.proxy.open()
        site.start_workers(
            2
        )  # db_worker ends when its database is gone; whatever supervises it starts it again
        site.wait_until_done(pk, 45, cron=True)
        site.check(pk)

    def test_pause_holds_across_processes(self, site):
        """After the web's pause has been committed no worker claims; its resume wakes both again."""
        pk = site.begin(3000, latency=SLOW)
        site.wait_until_sent(0.2)
        claims = site.do("pause", pk=pk)
        site.wait_until_idle()
        time.sleep(0.5)
        sent = len(site.accepted)
        assert claims == site.do("claims", pk=pk)
        assert site.do("status", pk=pk) == "paused"
        before = len(site.drains())
        site.do("resume", pk=pk, workers=2)
        site.wait_until_done(pk)
        assert len(site.drains()) >= before + 2
        assert sent < len(site.tokens)
        site.check(pk)

    def test_a_schedule_is_kept_by_a_tick(self, site):
        """A scheduled broadcast waits for its time, and is started by the next tick after it."""
        pk = site.begin(500, in_seconds=1.5)
        assert site.do("tick") == {"started": 0, "woken": 0}
        assert site.do("status", pk=pk) == "scheduled"
        assert site.wait_until_done(pk, cron=True) == 1
        site.check(pk)

    def test_receipts_are_asked_for_by_themselves(self, site):
        """The workers that have sent ask for the receipts some seconds later."""
        time.sleep(TIMINGS["wake._checks.seconds"])  # what they asked for in an earlier test was purged
        pk = site.begin(200, kind="receipt-unregistered-")
        site.wait_until_done(pk)
        site.check(pk)
        assert site.do("inactive") == 0
        site.wait(lambda: site.do("inactive") == 200)
        assert sum(lane["dead"] for lane in site.do("receipts", pk=pk)) == 200


class Celery(Queue):
    """What Celery does beside that."""

    def test_celery_beat_does_what_is_due(self, site):
        """With the documented entry, beat's tick starts a scheduled broadcast; no cron is needed."""
        entry = '"push-tick": {"task": "django_push.run_job", "schedule": 60.0, "args": ("tick", {})}'
        assert entry in DEPLOYMENT.read_text()
        beat = site.start_beat()
        try:
            pk = site.begin(500, in_seconds=2.0)
            site.wait_until_done(pk)
        finally:
            beat.send_signal(signal.SIGTERM)
            beat.wait(30)
        site.check(pk)
        assert site.events("ended", job="tick")


class TestRabbitMQ(Celery):
    broker = AMQP
    packages = ("celery",)


class TestRedis(Celery):
    broker = REDIS
    packages = ("celery", "redis")


class TestDjangoTasksDB(Queue):
    broker = TASKS
    packages = ("django_tasks_db",)
