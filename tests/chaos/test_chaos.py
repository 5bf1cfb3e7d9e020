"""Every invariant, in every mode: what is killed, frozen, restarted, refused or said twice."""

import time

import pytest

from django_push.models import BatchStatus, BroadcastStatus
from tests.chaos.harness import LEASE
from tests.chaos.invariants import check

pytestmark = [pytest.mark.chaos, pytest.mark.services, pytest.mark.slow]

#: Tokens a second, so that a run lasts some seconds.
RATE = 600


def on(*databases):
    return pytest.mark.parametrize("site_database", databases, indirect=True)


@on("postgresql", "sqlite", "mysql")
def test_kills(new_run, seed):
    """Workers are killed all the time: nobody is missed, and what is doubled was announced."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.work(3)
        run.until_over([run.kill, run.kill, run.register_again])
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "sqlite")
def test_freezes(new_run, seed):
    """Workers are frozen past their leases and wake up late: what they have to say does not count."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.work(3)
        run.until_over([run.freeze, run.freeze, run.register_again])
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "sqlite")
def test_terms(new_run, seed):
    """Workers that are told to stop finish what is in flight: nothing is sent twice."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE, timeout=10):  # what is slow is not to be unknown
        run.start()
        run.work(3)
        run.until_over([run.terminate])
        check(run)
        assert (run.doubled, sum(batch.resent for batch in run.batches())) == (0, 0)


@on("postgresql", "sqlite", "mysql")
def test_faults(new_run, seed):
    """The provider fails in every way while workers are killed."""
    run = new_run(seed, latency=0.05)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.switch_faults(share=0.3)
        run.work(3)
        run.until_over([run.kill, run.register_again])
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql")
@pytest.mark.parametrize("provider", ["gcm", "fcm"])
def test_other_providers(new_run, seed, provider):
    """GCM with canonical ids and FCM with a request for each token: the same promises."""
    run = new_run(seed, provider=provider, size=3000 if provider == "gcm" else 500, latency=0.05)
    with run.site(broadcast_rate=RATE if provider == "gcm" else RATE / 3):
        run.start(batch_size=400 if provider == "gcm" else 100)
        run.switch_faults(share=0.3 if provider == "gcm" else 0.03)
        run.work(3)
        events = [run.kill, run.freeze, run.register_again]
        run.until_over([*events, run.expire_auth] if provider == "fcm" else events)
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "mysql")
def test_skip(new_run, seed):
    """With on_unknown=skip no token gets two pushes, whatever happens."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start(on_unknown="skip")
        run.switch_faults(share=0.2)
        run.work(3)
        run.until_over([run.kill, run.freeze, run.register_again])
        assert run.happened["crashes"] == 0
        check(run)
        assert run.doubled == 0


@on("postgresql", "mysql")
def test_database_failures(new_run, seed):
    """The database crashes, or ends all connections; workers live on, and others are killed."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.switch_faults(kinds=["rate-limited", "reset-after"], share=0.2)
        run.work(3)
        run.until_over([run.fail_database, run.kill], every=(0.5, 1.5))
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "mysql")
def test_pauses(new_run, seed):
    """An operator pauses and resumes while workers are killed: nothing is claimed meanwhile."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.work(3)
        run.until_over([run.pause_and_resume, run.pause_and_resume, run.kill])
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "sqlite")
def test_cancel(new_run, seed):
    """After a cancel no more goes out than was in flight, and it is all accounted for."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.switch_faults(share=0.2)
        run.work(3)
        run.cancel_after(run.random.uniform(1, 2.5))
        run.until_over([run.kill, run.freeze])
        leased = {batch.pk: batch.pending for batch in run.batches() if batch.status == BatchStatus.LEASED}
        sent, claim = run.sent, run.last_claim()
        time.sleep(LEASE)
        late = run.sent
        assert late - sent <= sum(leased.values())
        check(run, BroadcastStatus.CANCELLED)
        assert run.sent == late
        assert run.last_claim() == claim


@on("postgresql", "sqlite")
def test_frozen_past_a_cancel(new_run):
    """A worker that is frozen with a claim, and wakes long after a cancel, sends no more of it."""
    run = new_run(1, provider="fcm", size=400, latency=0.1)
    with run.site(max_connections=4):
        run.start()
        worker = run.work()
        run.wait(lambda: run.sent > 20)
        worker.freeze()
        run.act("cancel")
        time.sleep(LEASE + 0.5)
        sent = run.sent
        worker.thaw()
        check(run, BroadcastStatus.CANCELLED)
        in_flight = 2 * 4 + 1
        assert run.sent - sent <= in_flight


@on("postgresql")
def test_ticks(new_run, seed):
    """No queue, no command: cron jobs alone, killed at random, bring it to its end."""
    run = new_run(seed, latency=0.1)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.work(2, role="tick")
        run.until_over([run.kill])
        assert run.happened["crashes"] == 0
        check(run)


@on("postgresql", "sqlite", "mysql")
def test_everything(new_run, seed):
    """All of it at once."""
    run = new_run(seed, latency=0.05)
    with run.site(broadcast_rate=RATE):
        run.start(max_sends=4)
        run.switch_faults(share=0.25)
        run.work(3)
        run.work(1, role="tick")
        events = [run.kill, run.kill, run.freeze, run.pause_and_resume, run.register_again]
        if hasattr(run.database, "fail"):
            events.append(run.fail_database)
        run.until_over(events, for_events=8)
        check(run)


@on("postgresql", "sqlite", "mysql")
def test_duplicate_and_late_tasks(new_run):
    """Eight drainers at one moment, one after the end, one for nothing: each push goes out once."""
    run = new_run(1, latency=0.02)
    with run.site(timeout=10):  # what is slow is not to be unknown
        run.start()
        run.work(8, role="once")
        run.until_over()
        check(run)
        late = run.work(role="once")
        gone = run.work(role="once", broadcast=10**6)
        assert (late.wait(), gone.wait()) == (0, 0)
        assert (run.doubled, run.happened["crashes"]) == (0, 0)
        run.broadcast.delete()
        assert run.work(role="once").wait() == 0
        assert run.doubled == 0


@on("postgresql", "sqlite")
def test_slow_batch(new_run):
    """Of a slow batch only what is in flight or not yet written can be doubled, far less than all of it."""
    run = new_run(1, provider="fcm", size=400, latency=0.2)
    with run.site(max_connections=16):  # 80 a second: five seconds
        run.start(batch_size=400)
        worker = run.work()
        run.wait(lambda: run.sent > 200)
        worker.kill()
        sent = run.sent
        (batch,) = run.batches()
        run.work()
        run.until_over()
        check(run)
        assert batch.accepted > sent - 1.5 * 80
        assert run.doubled <= sent + 2 * 16 - batch.accepted < 200


@on("sqlite")
def test_locked_database(new_run, seed):
    """Other programs hold the file for longer than workers wait."""
    run = new_run(seed, latency=0.05)
    with run.site(broadcast_rate=RATE):
        run.start()
        run.work(4)
        run.until_over([run.hold_database, run.kill, run.register_again], every=(0.2, 0.6))
        check(run)
