"""Commands whose output has a narrow encoding, is full, or has lost its reader."""

import errno
import io
import json

import pytest
from django.core.management import CommandError, call_command

from django_push import testing
from django_push.management import output
from django_push.management.output import Quiet, SteadyCommand, why_lost
from django_push.models import Broadcast, BroadcastStatus
from django_push.outcomes import Outcome
from tests.commands.conftest import latest, send

FULL = OSError(errno.ENOSPC, "No space left on device")
GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")


class Broken(io.StringIO):
    """A stream that can be written to until a text comes."""

    def __init__(self, error, until):
        super().__init__()
        self.error, self.until, self.is_broken = error, until, False

    def write(self, text):
        self.is_broken = self.is_broken or self.until in text
        if self.is_broken:
            raise self.error
        return super().write(text)


def run(*args, out, err=None, name="push_broadcast"):
    """Return the exit code and the error of a command that writes to these streams."""
    try:
        call_command(name, *args, stdout=out, stderr=err or io.StringIO())
    except CommandError as error:
        return error.returncode, str(error)
    return 0, ""


SEND = ["--everyone", "--title", "Grüße…", "--no-input"]


# --- encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_narrow_encoding(shop, encoding, more):
    """What it lacks is spelt out, and the exit code is the broadcast's."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert run(*SEND, *more, out=out) == (0, "")
    out.flush()
    assert b"\\u2026" in out.buffer.getvalue()
    assert len(testing.outbox) == (0 if more else 8)


@pytest.mark.parametrize("ask", ["run_from_argv", "print_help"])
def test_help_in_a_narrow_encoding(monkeypatch, ask):
    """It is written by the parser to the process's own stream."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", io.StringIO())  # a stream of another kind is left as it is
    command = output.SteadyCommand()
    command.help = "…"
    if ask == "print_help":
        command.print_help("manage.py", "push")
    else:
        with pytest.raises(SystemExit):
            command.run_from_argv(["manage.py", "push", "--help"])
    out.flush()
    assert b"\\u2026" in out.buffer.getvalue()


# --- readers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [GONE, FULL])
def test_nobody_reads_on_before_it_exists(shop, error):
    """Nothing is sent, and that is said."""
    code, said = run(*SEND, out=Broken(error, "Audience"))
    assert (code, said) == (1, f"{why_lost(error)} Nothing was sent.")
    assert (Broadcast.objects.count(), testing.outbox) == (0, [])


def test_a_question_that_nobody_sees(shop, person):
    """Is not waited for."""
    code, said = run("--everyone", "--title", "Hi", out=Broken(GONE, "[y/N]"))
    assert (code, said) == (1, "Nobody reads the output any more. Nothing was sent.")


@pytest.mark.parametrize("until", ["broadcast ", "is done"])
def test_nobody_reads_on_once_it_exists(shop, until):
    """All is sent all the same, with its own exit code."""
    assert run(*SEND, out=Broken(GONE, until)) == (0, "")
    assert (latest().status, len(testing.outbox)) == (BroadcastStatus.DONE, 8)


def test_its_own_exit_code_without_a_reader(shop):
    """As with a reader."""
    testing.answer("a-0", Outcome.UNKNOWN)
    code, said = run(*SEND, "--on-unknown", "skip", out=Broken(GONE, "is done"))
    assert (code, "may or may not have got it" in said) == (4, True)


def test_a_document_that_cannot_be_written(shop):
    """Costs no broadcast its exit code, and is said on the other stream."""
    err = io.StringIO()
    assert run(*SEND, "--json", out=Broken(FULL, "{"), err=err) == (0, "")
    assert err.getvalue().endswith("The output cannot be written (No space left on device).\n")
    assert latest().status == BroadcastStatus.DONE


def test_words_that_cannot_be_written_beside_a_document(shop):
    """The document is there all the same."""
    out = io.StringIO()
    assert run(*SEND, "--json", out=out, err=Broken(GONE, ""))[0] == 0
    assert json.loads(out.getvalue())["broadcast"]["status"] == "done"


@pytest.mark.parametrize("args", [["--status"], [*SEND, "--dry-run"]])
@pytest.mark.parametrize(("error", "code"), [(GONE, 0), (FULL, 1)])
def test_what_only_shows(shop, args, error, code):
    """Ends quietly where nobody reads it, and with an error where it cannot be written."""
    send("--everyone")
    found, said = run(*args, out=Broken(error, ""))
    assert (found, said) == (code, why_lost(error) if code else "")


@pytest.mark.parametrize(("error", "code"), [(GONE, 0), (FULL, 1)])
def test_push_tick_without_a_reader(db, error, code):
    """Does what is due; it is an error only where the output cannot be written."""
    assert run("--no-receipts", out=Broken(error, ""), name="push_tick") == (
        code,
        why_lost(error) if code else "",
    )


# --- streams --------------------------------------------------------------------------------------


class Numbered(Broken):
    """A broken stream with a number."""

    def fileno(self):
        return 2


def test_what_is_lost_is_led_nowhere(monkeypatch):
    """So that the interpreter does not fail over it at its end."""
    led = []
    monkeypatch.setattr(output.os, "dup2", lambda *numbers: led.append(numbers[1]))
    stream = Quiet(Numbered(GONE, ""))
    stream.write("x")
    assert (stream.lost, led) == (GONE, [2])


def test_a_stream_that_was_closed_at_the_start():
    """Takes what is written, and is not lost: nobody has asked for it."""
    stream = Quiet(None)
    assert (stream.write("x"), stream.flush(), stream.lost, stream.isatty()) == (1, None, None, False)


def test_a_stream_that_is_closed_meanwhile():
    """Is lost, in words."""
    closed = io.StringIO()
    closed.close()
    stream = Quiet(closed)
    stream.write("x")
    assert why_lost(stream.lost) == "The output cannot be written (ValueError)."


def test_a_command_made_without_streams_of_its_own(monkeypatch):
    """Writes to those of the process, even if there are none."""
    monkeypatch.setattr("sys.stdout", None)
    command = SteadyCommand()
    command.stdout.write("x")
    assert command.lost is None
