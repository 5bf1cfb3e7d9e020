"""Other projects than the suite's own, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(settings, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": settings, "PYTHONWARNINGS": "error::RuntimeWarning"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_swapped():
    """A project with a token model of its own migrates from zero, registers, sends and administers."""
    options = ("--ds=tests.swapped.settings", "-p", "no:cacheprovider", "-o", "addopts=", "-q")
    assert "passed" in run("tests.swapped.settings", "-m", "pytest", "tests/swapped/cases.py", *options)


def test_unset():
    """A project that leaves PUSH_TOKEN_MODEL out has our model, whatever its defaults are."""
    script = (
        "import django; django.setup()\n"
        "from django.core.management import call_command as call\n"
        "from django_push.models import PushToken, get_token_model\n"
        "assert get_token_model() is PushToken\n"
        "call('check', fail_level='WARNING')\n"
        "call('makemigrations', check=True, dry_run=True, verbosity=0)\n"
        "print(PushToken._meta.pk.__class__.__name__)\n"
    )
    assert "BigAutoField" in run("tests.swapped.unset", "-c", script)
