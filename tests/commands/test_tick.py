"""push_tick: what is due is done, once or in a loop, whatever fails."""

import json
import os
import signal
import threading
import time
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from django_push import broadcasts, testing
from django_push.broadcasts import ticking
from django_push.broadcasts.rows import moment
from django_push.broadcasts.ticking import Tick
from django_push.exceptions import InvalidPushBackend
from django_push.management import stopping
from django_push.management.commands import push_tick
from django_push.management.stopping import Stop
from django_push.models import Broadcast, BroadcastStatus
from django_push.outcomes import Outcome
from django_push.receipts import ReceiptSummary
from tests.commands.conftest import latest, run, send


@pytest.fixture
def due(shop):
    """A planned broadcast whose time has come."""
    send("--everyone", "--schedule", "+1h")
    Broadcast.objects.update(scheduled_at=moment() - timedelta(seconds=1))
    return latest()


def test_nothing_is_due(db):
    """And that is said, with receipts or without."""
    assert run("push_tick").out == run("push_tick", "--no-receipts").out == "nothing due\n"


def test_a_planned_broadcast_is_started_and_sent(due):
    """Here, where there are no workers."""
    ran = run("push_tick")
    assert (ran.code, ran.out, len(testing.outbox)) == (0, "1 started, 1 woken\n", 8)
    assert latest().status == BroadcastStatus.DONE


def test_as_json(due):
    """One line for each run."""
    found = json.loads(run("push_tick", "--json").out)
    assert (found["started"], found["woken"], found["receipts"]["ok"]) == (1, 1, 0)
    assert json.loads(run("push_tick", "--json", "--no-receipts").out)["receipts"] is None


def test_workers_are_woken(due, queue):
    """Where there are some, as many as it was made with; not again at once."""
    Broadcast.objects.update(workers=2)
    assert run("push_tick").out == "1 started, 1 woken\n"
    job = ("drain_broadcast", {"broadcast": due.pk, "wake": 1})
    assert (queue.asked, testing.outbox) == ([job, job], [])
    assert run("push_tick").out == "nothing due\n"


def test_a_queue_that_is_away_keeps_nothing_else_waiting(due, queue, monkeypatch, caplog):
    """It is logged, receipts are asked for, and the next run tries again."""
    checked = []
    monkeypatch.setattr(queue, "error", ConnectionError("away"))
    monkeypatch.setattr(ticking, "check_push_receipts", lambda **kwargs: checked.append(1))
    assert run("push_tick").out == "1 started\n"
    assert (len(checked), "no worker was woken" in caplog.text) == (1, True)
    monkeypatch.setattr(queue, "error", None)
    assert run("push_tick").out == "1 woken\n"


def test_expiry(due):
    """Before it is started."""
    Broadcast.objects.update(expires_at=moment() - timedelta(seconds=1))
    assert run("push_tick").out == "1 expired\n"
    assert testing.outbox == []


@pytest.mark.parametrize(
    ("args", "reason"), [(["--loop", "0"], "from 1 to 86400"), (["--loop", "x"], "from 1 to 86400")]
)
def test_wrong_options(args, reason):
    """Are said in words."""
    with pytest.raises(CommandError, match=reason):
        call_command("push_tick", *args)


@pytest.mark.parametrize("dispatcher", ["no.such.Thing", "django_push.dispatch.inline.Nothing"])
def test_a_dispatcher_that_there_is_not(db, settings, dispatcher):
    """Is one line."""
    settings.PUSH_DISPATCHER = dispatcher
    ran = run("push_tick")
    assert (ran.code, "\n" in ran.error) == (1, False)


# --- the loop -------------------------------------------------------------------------------------


@pytest.fixture
def loop(monkeypatch):
    """Runs without pauses, which are written down; the last run ends it."""
    pauses = []
    monkeypatch.setattr(push_tick, "close_old_connections", lambda: None)
    monkeypatch.setattr(Stop, "wait", lambda self, seconds: pauses.append(seconds))

    def runs(*results):
        results = list(results)

        def tick(**kwargs):
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            done = result(**kwargs) if callable(result) else result
            if not results:
                os.kill(os.getpid(), signal.SIGTERM)
            return done

        monkeypatch.setattr(push_tick, "tick", tick)
        return pauses

    return runs


def test_the_loop_outlives_what_fails(loop, caplog, capfd):
    """A database that is away, or settings that are wrong; a signal ends it and the old handlers are back."""
    before = signal.getsignal(signal.SIGTERM)
    pauses = loop(DatabaseError("x"), InterfaceError("x"), InvalidPushBackend("wrong"), Tick(started=1))
    ran = run("push_tick", "--loop", "60")
    assert (ran.code, ran.out, pauses) == (0, "1 started\n", [60, 60, 60, 60])
    assert caplog.text.count("the database failed") == 2
    assert "push_tick: wrong" in caplog.text
    assert "Once more: stop at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_ends_the_sending_too(due, monkeypatch):
    """After what is in flight: the broadcast goes on with the next run."""
    Broadcast.objects.update(batch_size=1)
    asked = []

    def is_asked(self):
        asked.append(1)
        return len(asked) > 8

    monkeypatch.setattr(Stop, "is_asked", is_asked)
    ran = run("push_tick")
    assert (ran.code, latest().status, len(testing.outbox) < 8) == (0, BroadcastStatus.RUNNING, True)
    monkeypatch.undo()
    assert run("push_tick").out == "1 woken\n"
    assert len(testing.outbox) == 8


def test_more_to_send_is_not_slept_over(due, loop, monkeypatch):
    """What waits for its next try is due before the interval is over."""
    testing.answer("a-0", Outcome.NOT_SENT)
    monkeypatch.setattr(push_tick, "LINGER", 0.0)
    pauses = loop(broadcasts.tick)
    run("push_tick", "--loop", "600")
    (pause,) = pauses
    assert 0.1 <= pause < 20


def test_the_summary_of_receipts(loop):
    """Is part of the line."""
    loop(Tick(receipts=ReceiptSummary(ok=2)))
    assert run("push_tick", "--loop", "1").out == "receipts: 2 ok\n"


def test_no_signals_outside_the_main_thread(monkeypatch):
    """There nobody may listen to them, and it works all the same."""
    monkeypatch.setattr("threading.current_thread", lambda: None)
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert signal.getsignal(signal.SIGINT) == before
    stop.wait(0.01)
    assert stop.is_asked() is False


def test_the_second_signal_ends_the_process(monkeypatch, capfd):
    """With 130, after a last act and a last word; a third does not wait for these."""
    ended, said, done = [], [], threading.Event()

    def last_act():
        done.wait(5)
        said.append(2)

    monkeypatch.setattr("os._exit", ended.append)
    with Stop(on_first=lambda: said.append(1), last_act=last_act, last_word=lambda: "bye"):
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), name)
        assert (said, ended) == ([1], [130])
        done.set()
        while len(ended) < 2:
            time.sleep(0.01)
    assert (said, ended, capfd.readouterr().err) == ([1, 2], [130, 130], "\nbye\n")


def test_a_last_act_that_takes_too_long_is_not_waited_for(monkeypatch):
    """As one that waits for a database."""
    ended, done = [], threading.Event()
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(stopping, "LAST_WORD", 0.01)
    with Stop(last_act=lambda: done.wait(5)):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while not ended:
            time.sleep(0.01)
    done.set()


def test_a_standard_error_that_was_closed_at_the_start(monkeypatch, capfd):
    """Is not written to: its number belongs to something else by now, perhaps to the database."""
    monkeypatch.setattr("sys.__stderr__", None)
    stopping.write_error("x")
    assert capfd.readouterr().err == ""


def test_the_clock_of_a_schedule(due):
    """A broadcast whose time has not come is left alone."""
    Broadcast.objects.update(scheduled_at=timezone.now() + timedelta(days=1))
    assert run("push_tick").out == "nothing due\n"
