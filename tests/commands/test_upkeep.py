"""push_check_receipts, push_move_tokens and push_prune."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone

from django_push import broadcast, get_token_model
from django_push.broadcasts import control
from django_push.management.commands import push_check_receipts
from django_push.receipts import ReceiptSummary
from tests.sending.conftest import make_tokens

Token = get_token_model()


@pytest.fixture(autouse=True)
def locmem(settings):
    locmem = {"BACKEND": "django_push.backends.locmem.LocMemBackend"}
    settings.PUSH_BACKENDS = {"old": locmem, "new": locmem}


# --- push_check_receipts --------------------------------------------------------------------------


@pytest.mark.django_db
def test_one_run_says_what_it_found(capsys):
    """With --once or without."""
    call_command("push_check_receipts")
    call_command("push_check_receipts", "--once", "--backend", "new")
    assert capsys.readouterr().out == "receipts: nothing due\n" * 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--backend", "nowhere"], "nowhere"),
        (["--loop", "0"], "1 to 86400"),
        (["--loop", "x"], "1 to 86400"),
        (["--loop", "5", "--once"], "not allowed with"),
    ],
)
def test_wrong_options_of_check_receipts(args, reason):
    """Are said in words."""
    with pytest.raises(CommandError, match=reason):
        call_command("push_check_receipts", *args)


def test_the_loop_outlives_a_database_that_is_away(monkeypatch, caplog, capsys):
    """It logs, waits and tries again; a signal ends it and the old handlers are back."""
    runs = []

    def check(**kwargs):
        runs.append(kwargs)
        if len(runs) == 1:
            raise DatabaseError("away")
        os.kill(os.getpid(), signal.SIGTERM)
        return ReceiptSummary(ok=1)

    monkeypatch.setattr(push_check_receipts, "check_push_receipts", check)
    monkeypatch.setattr(push_check_receipts, "close_old_connections", lambda: None)
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds: self.is_set())
    before = signal.getsignal(signal.SIGTERM)
    call_command("push_check_receipts", "--loop", "60")
    assert (len(runs), signal.getsignal(signal.SIGTERM)) == (2, before)
    assert "the database failed" in caplog.text
    assert "receipts: 1 ok" in capsys.readouterr().out


LOOP = """
import django
from django.core.management import call_command

django.setup()
call_command("migrate", verbosity=0)
call_command("push_check_receipts", "--loop", "600")
"""


@pytest.mark.slow
def test_the_loop_stops_promptly_on_sigterm():
    """As a supervisor ends it: within a second, with exit code 0."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PUSH_TEST_DATABASE": "sqlite",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"receipts: nothing due\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (0, b"")
    assert time.monotonic() - started < 5


# --- push_move_tokens -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_tokens_move_without_being_asked(capsys):
    """--no-input does not ask."""
    make_tokens(3, backend="old")
    call_command("push_move_tokens", "--from", "old", "--to", "new", "--no-input")
    assert Token.objects.filter(backend="new").count() == 3
    assert "3 moved, 0 merged." in capsys.readouterr().out


@pytest.mark.django_db
def test_tokens_stay_while_a_broadcast_is_sent_through_both(capsys):
    """A token that is moved in the middle could be sent to by both lanes."""
    make_tokens(1, backend="old")
    make_tokens(2, backend="new")
    going = broadcast("everyone", title="Hello", start=False)
    control.start(going)
    with pytest.raises(CommandError, match=f"Broadcast {going.pk} is sending through both"):
        call_command("push_move_tokens", "--from", "old", "--to", "new", "--no-input")
    control.pause(going)
    call_command("push_move_tokens", "--from", "old", "--to", "new", "--no-input")
    assert "moved" in capsys.readouterr().out


@pytest.mark.django_db
def test_a_dry_run_moves_nothing(capsys):
    """It counts, and does not ask."""
    make_tokens(3, backend="old")
    call_command("push_move_tokens", "--from", "old", "--to", "new", "--dry-run")
    assert Token.objects.filter(backend="old").count() == 3
    assert "3 would be moved" in capsys.readouterr().out


@pytest.mark.django_db
@pytest.mark.parametrize(("answer", "moved"), [("y", 3), ("YES ", 3), ("n", 0), ("", 0), (EOFError, 0)])
def test_a_person_is_asked(monkeypatch, answer, moved):
    """Only yes is yes; no terminal is no."""
    make_tokens(3, backend="old")
    asked = []

    def ask(question):
        asked.append(question)
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", ask)
    if moved:
        call_command("push_move_tokens", "--from", "old", "--to", "new")
    else:
        with pytest.raises(CommandError, match="Nothing was changed"):
            call_command("push_move_tokens", "--from", "old", "--to", "new")
    assert Token.objects.filter(backend="new").count() == moved
    assert asked == ["Move 3 tokens from 'old' to 'new'? [y/N] "]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--from", "old", "--to", "old"], "same alias"),
        (["--from", "old", "--to", "nowhere"], "nowhere"),
        (["--from", "old"], "required"),
    ],
)
def test_wrong_options_of_move(args, reason, monkeypatch):
    """Are said before anybody is asked."""
    make_tokens(1, backend="old")
    with pytest.raises(CommandError, match=reason):
        call_command("push_move_tokens", *args)


# --- push_prune -----------------------------------------------------------------------------------


@pytest.fixture
def old_tokens(db):
    rows = make_tokens(4, backend="old")
    long_ago = timezone.now() - timedelta(days=300)
    Token.objects.filter(pk=rows[0].pk).update(last_seen_at=long_ago)
    Token.objects.filter(pk=rows[1].pk).update(status="unregistered", status_changed=long_ago)
    Token.objects.filter(pk=rows[2].pk).update(status="unregistered", status_changed=timezone.now())
    return rows


@pytest.mark.parametrize("as_options", [True, False])
def test_stale_tokens_are_retired_and_dead_ones_deleted(old_tokens, capsys, as_options):
    """From the command line and by call_command's keywords."""
    if as_options:
        call_command("push_prune", "--unseen-days", "270", "--dead-days", "90")
    else:
        call_command("push_prune", unseen_days=270, dead_days=90)
    assert "1 retired, 1 deleted." in capsys.readouterr().out
    left = Token.objects.order_by("pk").values_list("status", flat=True)
    assert list(left) == ["retired", "unregistered", "active"]


def test_a_dry_run_prunes_nothing(old_tokens, capsys):
    """It counts."""
    call_command("push_prune", "--unseen-days", "270", "--dead-days", "90", "--dry-run")
    assert "1 would be retired, 1 would be deleted." in capsys.readouterr().out
    assert Token.objects.count() == 4


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "Give --unseen-days"),
        (["--dead-days", "0"], "1 to 36500"),
        (["--unseen-days", "x"], "1 to 36500"),
    ],
)
def test_wrong_options_of_prune(args, reason):
    """Are said in words."""
    with pytest.raises(CommandError, match=reason):
        call_command("push_prune", *args)
