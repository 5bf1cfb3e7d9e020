"""push_broadcast and push_tick as processes: signals, terminals, the emulator, exit codes."""

import contextlib
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from django_push.emulator import Faults, start_emulator
from tests.commands.conftest import without_colors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = """
from tests.settings import *

DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r},
                         "OPTIONS": {{"timeout": 20, "init_command": "PRAGMA synchronous=OFF"}}}}}}
PUSH_BACKENDS = {{"expo": {{"BACKEND": "django_push.backends.expo.ExpoBackend",
                          "OPTIONS": {{"broadcast_rate": 1e6, "max_connections": 2, "timeout": {timeout}}}}}}}
PUSH_EMULATOR_HOST = {host!r}
"""
FILL = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from tests.sending.conftest import make_tokens
make_tokens(200)
"""
TOKENS = 200
#: Two connections are busy, a request waits for one of them, and one more batch is claimed.
MOST_DOUBLED = 4 * 10
SEND = ["push_broadcast", "--everyone", "--title", "Hi", "--batch-size", "10"]


def environment(directory):
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "site_settings",
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        "TERM": "xterm",
        "COLUMNS": "120",
    }


def write_settings(directory, host, timeout=20):
    text = SETTINGS.format(database=str(directory / "db.sqlite3"), host=host, timeout=timeout)
    (directory / "site_settings.py").write_text(text)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A database with tokens."""
    directory = tmp_path_factory.mktemp("filled")
    write_settings(directory, "127.0.0.1:1")
    subprocess.run([sys.executable, "-c", FILL], env=environment(directory), check=True, cwd=ROOT)
    return directory / "db.sqlite3"


def eventually(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


class Site:
    """A site's commands, and the emulator that it sends to."""

    def __init__(self, directory, emulator):
        self.directory, self.emulator = directory, emulator
        self.environment = environment(directory)

    def hurry(self):
        """Let a lease end after fifteen seconds: five deadlines of a request."""
        write_settings(self.directory, self.emulator.host, timeout=3)

    def start(self, *args, **streams):
        arguments = [sys.executable, "-m", "django", *args]
        return subprocess.Popen(arguments, env=self.environment, cwd=self.directory, **streams)

    def shell(self, *args, redirect):
        """Run a command by a shell that redirects a stream."""
        line = f"{shlex.join([sys.executable, '-m', 'django', *args])} {redirect}"
        found = subprocess.run(
            ["sh", "-c", line],
            check=False,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return found.returncode, found.stdout, found.stderr

    def run(self, *args, stdin=subprocess.DEVNULL):
        process = self.start(*args, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def broadcast(self, *args):
        pipe = subprocess.PIPE
        return self.start(*SEND, "--no-input", *args, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    def status(self):
        code, out, _ = self.run("push_broadcast", "--status", "1", "--json")
        assert code == 0
        return json.loads(out)["broadcast"]

    @property
    def accepted(self):
        """How often each token was accepted."""
        return self.emulator.state.accepted

    def until_sent(self, count):
        """Wait until so many pushes have arrived."""
        eventually(lambda: self.accepted.total() >= count)


@pytest.fixture
def site(tmp_path, filled):
    shutil.copy(filled, tmp_path / "db.sqlite3")
    with start_emulator() as emulator:
        write_settings(tmp_path, emulator.host)
        yield Site(tmp_path, emulator)


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_of_its_own(site):
    """Each token once, lines for a log, nothing on the other output, exit code 0."""
    process = site.broadcast()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert (len(site.accepted), site.accepted.total()) == (TOKENS, TOKENS)
    assert b"broadcast 1: " in out
    assert b"Broadcast 1 is done: 200 of 200 tokens." in out
    assert b"Receipts come later" in out
    assert b"\x1b" not in out


@pytest.mark.parametrize(
    "args",
    [
        ["--everyone", "--rate", "x"],
        ["--everyone", "--workers", "2"],
        ["--pause", "1", "--body", "x"],
    ],
)
def test_wrong_options_exit_with_2(site, args):
    """Those that the parser refuses, and those that do not go together."""
    code, out, err = site.run("push_broadcast", *args)
    assert (code, out, "Traceback" in err) == (2, "", False)


def test_a_provider_that_asks_for_time(site):
    """The lines say so while it waits."""
    site.emulator.state.options = type(site.emulator.state.options)(retry_after=8)
    site.emulator.state.faults = Faults(schedule=[None, None, "rate-limited"])
    process = site.broadcast()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"expo waits " in out
    assert b": the provider asked for it" in out
    assert set(site.accepted.values()) == {1}


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_what_is_in_flight_and_pauses(site, name):
    """Everything that went out is counted; --resume sends the rest, and nobody gets two."""
    site.emulator.state.latency = 0.3
    process = site.broadcast()
    site.until_sent(40)
    process.send_signal(name)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert b"Stopping: what is in flight is finished" in err
    assert b"Go on with --resume 1." in err
    status = site.status()
    assert (status["status"], status["pause_reason"]) == ("paused", "operator")
    sent = status["progress"]["counts"]["accepted"]
    assert sent == site.accepted.total() < TOKENS
    site.emulator.state.latency = 0
    code, _, err = site.run("push_broadcast", "--resume", "1")
    assert (code, err) == (0, "")
    assert (len(site.accepted), site.accepted.total()) == (TOKENS, TOKENS)


def test_the_same_command_again_goes_on(site):
    """With its key, as a supervisor runs it."""
    site.emulator.state.latency = 0.3
    process = site.broadcast("--key", "k")
    site.until_sent(40)
    process.terminate()
    process.communicate(timeout=60)
    site.emulator.state.latency = 0
    again = site.broadcast("--key", "k")
    _, err = again.communicate(timeout=60)
    assert (process.returncode, again.returncode, err) == (3, 0, b"")
    assert (len(site.accepted), site.accepted.total()) == (TOKENS, TOKENS)


def test_two_signals_stop_at_once(site):
    """Exit code 130, nothing more is sent, and no more is doubled than was in flight."""
    site.hurry()
    site.emulator.state.latency = 1.2
    process = site.broadcast()
    site.until_sent(40)
    process.send_signal(signal.SIGINT)
    eventually(lambda: select.select([process.stderr], [], [], 0)[0])  # it has heard the first
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in err) == (130, False)
    assert time.monotonic() - asked < 4  # it waits for no reply, but may be starved
    assert b"Stopped at once." in err
    assert b"It is paused. Go on with --resume 1." in err
    status = site.status()
    assert (status["status"], status["progress"]["told"] < site.accepted.total()) == ("paused", True)
    site.emulator.state.latency = 0
    code, _, err = site.run("push_broadcast", "--resume", "1")
    assert (code, err) == (0, "")
    assert len(site.accepted) == TOKENS
    doubled = site.accepted.total() - TOKENS
    assert doubled <= site.status()["progress"]["resent"] <= MOST_DOUBLED


def test_a_process_that_is_killed(site):
    """Is still running for all we know; --resume goes on."""
    site.hurry()
    site.emulator.state.latency = 0.3
    process = site.broadcast()
    site.until_sent(40)
    process.kill()
    process.communicate(timeout=60)
    assert site.status()["status"] == "running"
    site.emulator.state.latency = 0
    code, _, err = site.run("push_broadcast", "--resume", "1")
    assert (code, err, len(site.accepted)) == (0, "", TOKENS)
    assert site.accepted.total() - TOKENS <= site.status()["progress"]["resent"] <= MOST_DOUBLED


def test_whoever_reads_the_output_leaves(site):
    """As with ``| head -1``: all is sent nonetheless."""
    site.emulator.state.latency = 0.2
    process = site.broadcast()
    while not process.stdout.readline().startswith(b"broadcast 1:"):  # it has begun
        continue
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=60)
    assert (process.returncode, site.accepted.total()) == (0, TOKENS)
    assert site.status()["status"] == "done"


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_narrow_encoding(site, encoding):
    """Neither the help nor a broadcast fails for a character that it lacks."""
    site.environment["PYTHONIOENCODING"] = encoding
    for args in (["push_broadcast", "--help"], ["help", "push_broadcast"]):
        code, out, err = site.run(*args)
        assert (code, "\\u2026" in out, err) == (0, True, "")
    code, out, err = site.run(*SEND, "--no-input", "--body", "…")
    assert (code, "Hi / \\u2026" in out, err) == (0, True, "")
    assert site.accepted.total() == TOKENS


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_stream_that_is_closed(site, closed, more):
    """Is not missed; the other has what belongs to it."""
    code, out, err = site.shell(
        *SEND, "--no-input", *more, redirect={"stdout": ">&-", "stderr": "2>&-"}[closed]
    )
    assert (code, "Traceback" in err) == (0, False)
    assert site.accepted.total() == TOKENS
    if more and closed == "stderr":
        assert json.loads(out)["broadcast"]["status"] == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(("more", "code", "sent"), [([], 1, 0), (["--json"], 0, TOKENS)])
def test_a_disk_that_is_full(site, more, code, sent):
    """Nothing is begun that is not finished."""
    found, _, err = site.shell(*SEND, "--no-input", *more, redirect=">/dev/full")
    assert (found, "cannot be written (No space left on device)" in err) == (code, True)
    assert ("Traceback" in err, "Exception ignored" in err) == (False, False)
    assert site.accepted.total() == sent


def test_a_reader_of_the_status_who_leaves(site):
    """Costs it neither a line nor its exit code."""
    reader, writer = os.pipe()
    os.close(reader)
    process = site.start("push_broadcast", "--status", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)


def test_a_database_without_tables(site):
    """Is one line."""
    (site.directory / "db.sqlite3").write_bytes(b"")
    for args in ([*SEND, "--no-input"], ["push_broadcast", "--status"], ["push_tick"]):
        code, out, err = site.run(*args)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "'migrate' has not run" in err


# --- terminals ------------------------------------------------------------------------------------


class Terminal:
    """A process that has a terminal, and a person who reads it."""

    def __init__(self, site, *args):
        self.shown = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(site.directory)
            os.execve(sys.executable, [sys.executable, "-m", "django", *args], environment(site.directory))

    def until(self, text):
        """Read until a text is shown; at the end of all if it is None."""
        ends = time.monotonic() + 60
        while text is None or text not in without_colors(self.shown):
            assert time.monotonic() < ends, self.shown
            if not select.select([self.fd], [], [], 1)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # how Linux says that nobody is there any more
                data = b""
            if not data:
                assert text is None, self.shown
                break
            self.shown += data.decode(errors="replace")

    def type(self, text):
        os.write(self.fd, text.encode())

    def exit_code(self):
        self.until(None)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self):
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(site):
    opened = []

    def open_(*args):
        opened.append(Terminal(site, *args))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def test_a_person_confirms_and_sees_a_bar(site, terminal):
    """The count, the question, then figures that move."""
    pytest.importorskip("rich")
    site.emulator.state.latency = 0.5
    person = terminal(*SEND)
    person.until("Send it to 200 tokens? [y/N] ")
    assert site.accepted.total() == 0
    person.type("y\n")
    person.until("━━━")
    person.until("left")
    assert person.exit_code() == 0
    shown = without_colors(person.shown)
    assert "200 expo" in shown
    assert "broadcast 1: 200 of 200 (100 %)" in shown
    assert "Broadcast 1 is done: 200 of 200 tokens." in shown
    assert site.accepted.total() == TOKENS


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\x03", 130), ("\x04", 1)])
def test_a_person_does_not_confirm(site, terminal, typed, code):
    """With no, Ctrl-C or Ctrl-D: nothing is sent or written."""
    person = terminal(*SEND)
    person.until("[y/N] ")
    person.type(typed)
    assert (person.exit_code(), "Traceback" in person.shown) == (code, False)
    assert "Nothing was sent." in person.shown
    assert site.accepted.total() == 0
    assert site.run("push_broadcast", "--status")[1] == "There are no broadcasts.\n"


def test_ctrl_c_below_the_bar(site, terminal):
    """It says that it stops, and how to go on."""
    pytest.importorskip("rich")
    site.emulator.state.latency = 0.6
    person = terminal(*SEND, "--no-input")
    person.until("━━━")
    site.until_sent(20)
    person.type("\x03")
    person.until("Stopping: what is in flight is finished")
    assert person.exit_code() == 3
    assert "Go on with --resume 1." in without_colors(person.shown)
    assert site.status()["status"] == "paused"


# --- push_tick ------------------------------------------------------------------------------------


def test_push_tick_in_a_loop(site):
    """Sends what was enqueued; SIGTERM ends it after what is in flight, with 0, and another goes on."""
    code, out, _ = site.run(*SEND, "--no-input", "--enqueue")
    assert (code, "has no workers" in out) == (0, True)
    site.emulator.state.latency = 0.3
    pipe = subprocess.PIPE
    process = site.start("push_tick", "--loop", "600", stdout=pipe, stderr=pipe, text=True)
    site.until_sent(40)
    process.terminate()
    asked = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "1 woken\n")
    assert time.monotonic() - asked < 15
    assert "Stopping" in err
    assert site.status()["status"] == "running"
    assert site.status()["progress"]["counts"]["accepted"] == site.accepted.total() < TOKENS
    site.emulator.state.latency = 0
    assert site.run("push_tick", "--no-receipts") == (0, "1 woken\n", "")
    assert (len(site.accepted), site.accepted.total()) == (TOKENS, TOKENS)
