"""One SQLite file, several processes that write at the same moment."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = "import django; django.setup()\n"
WORK = """
import sys
from django_push import Outcome, Ticket, register_token, unregister_token
from django_push.models import database_now, get_token_model
from django_push.outcomes import Target
from django_push.tokens import apply, set_enabled
rows = get_token_model().objects
me = sys.argv[1]
for n in range(40):
    own, _ = register_token(f"own-{me}-{n}", backend="default")
    register_token(f"all-{n}", backend="default", device_id=f"d{n % 3}-{me}")
    apply([Ticket(target=Target(own.token, own.pk), outcome=Outcome.UNREGISTERED, backend="default")],
          database_now("default"))
    set_enabled(rows.filter(token=f"all-{n}"), n % 2 == 0)
"""


@pytest.mark.slow
def test_writers_wait_for_each_other(tmp_path):
    """No process is told that the database is locked, and none of what they write is lost."""
    file = tmp_path / "push.sqlite3"
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.tokens.on_file",
        "PUSH_TEST_FILE": str(file),
    }

    def start(*arguments):
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=env, stderr=subprocess.PIPE)

    _, errors = (made := start("-m", "django", "migrate", "-v0")).communicate(timeout=60)
    assert made.returncode == 0, errors.decode()
    working = [start("-c", SETUP + WORK, str(n)) for n in range(4)]
    for process in working:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    connection = sqlite3.connect(file)
    found = connection.execute("SELECT substr(token, 1, 3), status FROM django_push_pushtoken").fetchall()
    connection.close()
    assert found.count(("own", "unregistered")) == 4 * 40
    assert sum(kind == "all" for kind, _ in found) <= 40
