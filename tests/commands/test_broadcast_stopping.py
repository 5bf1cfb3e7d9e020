"""push_broadcast that is stopped, or loses its database, at a moment when it is not sending."""

import os
import signal

import pytest
from django.db import DatabaseError, OperationalError, ProgrammingError

from django_push import broadcasts, testing
from django_push.broadcasts import control
from django_push.exceptions import InvalidAudience
from django_push.management import planning, running
from django_push.management.commands import push_broadcast
from django_push.models import Broadcast, BroadcastStatus
from django_push.outcomes import Outcome
from tests.commands.conftest import latest, push, run, send


def interrupted(monkeypatch, owner, name, *, after=True):
    """Let Ctrl-C come once, while a function is called."""
    act, done = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        found = act(*args, **kwargs) if after else None
        if not done:
            done.append(os.kill(os.getpid(), signal.SIGINT))
        return found if after else act(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (planning.Plan, "create"),
        (control, "start"),
        (push_broadcast, "screen_for"),
        (push_broadcast, "Watcher"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_before_it_is_sent(shop, monkeypatch, capfd, owner, name, after):
    """It is paused, and named: nobody goes on with it unasked."""
    if owner is planning.Plan:
        monkeypatch.setattr(planning.Plan, "twin", lambda self: None)  # which makes one, too
    interrupted(monkeypatch, owner, name, after=after)
    ran = send("--everyone")
    row = latest()
    assert (ran.code, row.status, testing.outbox) == (3, BroadcastStatus.PAUSED, [])
    assert f"Go on with --resume {row.pk}." in ran.error
    assert "Stopping" in capfd.readouterr().err
    assert run("push_tick", "--no-receipts").out == "nothing due\n"
    assert (push("--resume", row.pk).code, len(testing.outbox)) == (0, 8)


def test_ctrl_c_while_a_planned_one_is_made(shop, monkeypatch):
    """It does not start at its time."""
    interrupted(monkeypatch, broadcasts, "begin")
    ran = send("--everyone", "--schedule", "+1h")
    assert (ran.code, latest().status) == (3, BroadcastStatus.PAUSED)
    assert f"--resume {latest().pk}" in ran.error


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_while_workers_are_asked_for(shop, queue, monkeypatch, after):
    """They find it paused; one document is written."""
    interrupted(monkeypatch, control, "ask_for_workers", after=after)
    ran = send("--everyone", "--enqueue", "--json")
    assert (ran.code, ran.json["broadcast"]["status"]) == (3, "paused")


@pytest.mark.parametrize("verb", ["resume", "resend_unknown"])
def test_ctrl_c_while_it_is_taken_up_again(shop, monkeypatch, verb):
    """It is paused again, before anything is sent."""
    testing.answer("a-0", Outcome.UNKNOWN)
    row = broadcasts.broadcast("everyone", title="Hi", on_unknown="skip", start=False)
    broadcasts.begin(row, workers=0)
    if verb == "resend_unknown":
        push("--resume", row.pk)
    else:
        broadcasts.pause(row)
    testing.reset()
    interrupted(monkeypatch, broadcasts, verb)
    ran = push(f"--{verb.replace('_', '-')}", row.pk, "--no-input")
    assert (ran.code, latest().status, testing.outbox) == (3, BroadcastStatus.PAUSED, [])


def test_ctrl_c_while_the_end_is_told(shop, monkeypatch, capfd):
    """Changes nothing: it is over."""
    interrupted(monkeypatch, push_broadcast.words, "summary")
    ran = send("--everyone")
    assert (ran.code, latest().status, capfd.readouterr().err) == (0, BroadcastStatus.DONE, "")


def test_ctrl_c_before_anything_is_written(shop, monkeypatch):
    """Nothing is left of it, and that is said."""

    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(planning.Plan, "preview", stopped)
    ran = send("--everyone")
    assert (ran.code, ran.error, Broadcast.objects.count()) == (130, "Stopped. Nothing was sent.", 0)
    monkeypatch.setattr(push_broadcast.Command, "_status", stopped)
    assert push("--status").error == "Stopped."


def test_ctrl_c_after_its_end_is_told(shop, monkeypatch):
    """Does not claim that nothing was sent."""

    def stopped(self, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(push_broadcast.Command, "_go", stopped)
    ran = send("--everyone")
    assert (ran.code, ran.error) == (130, f"Stopped. See --status {latest().pk}.")


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (None, "If --status lists it, it is a draft"),
        ("draft", "or has just started"),
        ("scheduled", "push_tick starts it"),
        ("running", "push_tick goes on with it"),
        ("paused", "It is paused."),
        ("done", "It is done."),
    ],
)
def test_the_last_word(status, word):
    """Tells how it stands when the process is stopped at once."""
    run_ = running.Run()
    if status:
        run_.of(Broadcast(pk=7, status=status))
    assert word in run_._last_word()
    assert ("--resume 7" in run_._last_word()) == (status not in (None, "done"))


def test_nothing_to_pause_at_the_second_signal(monkeypatch):
    """As long as there is no row."""
    monkeypatch.setattr(running.connections, "close_all", lambda: None)
    assert running.Run()._pause_elsewhere() is None


# --- the database ---------------------------------------------------------------------------------


def failing(error):
    def fail(*args, **kwargs):
        raise error("host=db.internal password=secret")

    return fail


@pytest.mark.parametrize("error", [OperationalError, ProgrammingError])
@pytest.mark.parametrize(
    ("owner", "name", "args"),
    [
        (planning.Plan, "twin", ["--everyone", "--title", "Hi"]),
        (planning.Plan, "preview", ["--everyone", "--title", "Hi", "--dry-run"]),
        (push_broadcast.rows, "broadcasts", ["--status"]),
        (push_broadcast.rows, "broadcasts", ["--cancel", "7"]),
    ],
)
def test_a_database_that_fails(shop, monkeypatch, error, owner, name, args):
    """Is one line without its words: no table yet, a lock, an outage."""
    monkeypatch.setattr(owner, name, failing(error))
    ran = push(*args, "--no-input")
    assert (ran.code, "\n" in ran.error, "secret" in ran.all) == (1, False, False)
    assert f"The database failed ({error.__name__}): it is away or locked, or 'migrate'" in ran.error


@pytest.mark.parametrize(("owner", "name"), [(broadcasts, "begin"), (push_broadcast.words, "summary")])
def test_a_database_that_fails_once_there_is_a_broadcast(shop, monkeypatch, owner, name):
    """The line says how to go on."""
    monkeypatch.setattr(owner, name, failing(OperationalError))
    ran = send("--everyone")
    assert (ran.code, f"Go on with --resume {latest().pk}" in ran.error) == (1, True)


def test_push_tick_and_a_database_that_fails(db, monkeypatch):
    """One line, too."""
    monkeypatch.setattr("django_push.management.commands.push_tick.tick", failing(DatabaseError))
    ran = run("push_tick")
    assert (ran.code, "The database failed (DatabaseError)" in ran.error) == (1, True)
    assert "secret" not in ran.all


def test_a_draft_that_cannot_be_started(shop, monkeypatch):
    """Is named with the reason."""

    def refused(*args, **kwargs):
        raise InvalidAudience("It cannot be read.")

    monkeypatch.setattr(control, "start", refused)
    ran = send("--everyone")
    said = f"It cannot be read. Broadcast {latest().pk} is left as a draft: nothing was sent."
    assert (ran.code, ran.error, latest().status) == (1, said, BroadcastStatus.DRAFT)
