import http.client
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from django_push.management.commands import push_emulator

SEND = "/--/api/v2/push/send"


def run(monkeypatch, *args):
    """Run the command, send one push where it would wait, then press Control-C."""
    out = StringIO()

    def wait():
        host, port = out.getvalue().split('"')[1].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        connection.request("POST", SEND, '{"to": "ExponentPushToken[a]"}')
        connection.getresponse().read()
        connection.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(push_emulator, "wait", wait)
    call_command("push_emulator", "--port", "0", *args, stdout=out)
    return out.getvalue()


def test_prints_the_setting(monkeypatch):
    """It prints its address and the line for the settings, and ends with Control-C."""
    out = run(monkeypatch)
    assert "an inbox at http://127.0.0.1:" in out
    assert 'PUSH_EMULATOR_HOST = "127.0.0.1:' in out
    assert out.endswith("Stopped.\n")


def test_log(monkeypatch):
    """Each request is logged in a line, unless it is to be quiet."""
    line = "POST /--/api/v2/push/send 200 expo: 1 ok"
    assert line in run(monkeypatch)
    assert line not in run(monkeypatch, "--quiet")


@pytest.mark.parametrize(
    "args",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--receipt-delay", "-1"],
        ["--receipt-delay", "soon"],
        ["--fault", "nonsense"],
        ["--fault", "hang:2"],
        ["--fault-seed", "x"],
        ["--latency", "-1"],
    ],
)
def test_bad_arguments(args):
    """Arguments that make no sense are refused before anything runs."""
    with pytest.raises(CommandError, match="Error: argument"):
        call_command("push_emulator", *args)


def test_faults(monkeypatch):
    """Faults are told at the start, with the seed that repeats them, and befall the pushes."""
    out = run(monkeypatch, "--fault", "unavailable-html:1", "--fault-seed", "7", "--latency", "0.01")
    assert "Faults: unavailable-html 1 (seed 7)\n" in out
    assert f"POST {SEND} 503 proxy's HTML (fault: unavailable-html)" in out
    assert "Faults" not in run(monkeypatch)


def test_too_many_faults():
    """Shares of more than 1 together are refused."""
    with pytest.raises(CommandError, match=r"^--fault: the shares must not be more than 1 together\.$"):
        call_command("push_emulator", "--fault", "hang:0.6", "--fault", "long:0.6")


def test_foreign_host():
    """A host that is not this machine is refused."""
    with pytest.raises(CommandError, match=r"--host must be 127\.0\.0\.1"):
        call_command("push_emulator", "--host", "0.0.0.0")


def test_port_taken(emulator):
    """A port that is taken is told in words."""
    port = emulator.host.split(":")[1]
    with pytest.raises(CommandError, match=f"Cannot listen on 127.0.0.1:{port}: .*in use"):
        call_command("push_emulator", "--port", port)


def test_receipt_delay(monkeypatch):
    """The delay of receipts is the server's."""
    seen = {}

    def start(**options):
        seen.update(options)
        raise OSError(98, "in use")

    monkeypatch.setattr(push_emulator, "start_emulator", start)
    with pytest.raises(CommandError):
        call_command("push_emulator", "--receipt-delay", "2.5", "--host", "localhost")
    assert (seen["receipt_delay"], seen["host"], seen["port"]) == (2.5, "localhost", 8900)


@pytest.mark.slow
def test_control_c():
    """A real process ends cleanly with Control-C."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "django", "push_emulator", "--port", "0"],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert lines[2] == "Quit with Control-C.\n"
    assert (process.returncode, out, err) == (0, "\nStopped.\n", "")
