"""The databases of the chaos suite, each the suite's own, and how each fails."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

MARIADB = ("127.0.0.1", 3306)


class SQLite:
    """A file, with workers that do not wait long for it."""

    vendor = "sqlite"

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        #: For the suite itself, which is no part of the test.
        self.settings = self._settings(30)
        self.worker_settings = self._settings(0.2)

    def _settings(self, timeout):
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(self.directory / "chaos.sqlite3"),
            "OPTIONS": {"timeout": timeout},
        }

    def close(self):
        shutil.rmtree(self.directory)


class PostgreSQL:
    """A cluster in a temporary directory, on a port of its own, so that it can be crashed."""

    vendor = "postgresql"

    def __init__(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
        if initdb is None:
            pytest.skip("NOT RUN: PostgreSQL's initdb is not installed")
        self.programs = Path(initdb).parent
        self.is_root = os.geteuid() == 0
        self.directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.port = free_port()
        if self.is_root:  # which PostgreSQL refuses to run as
            shutil.chown(self.directory, "postgres")
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        with (self.directory / "data" / "postgresql.conf").open("a") as file:
            # Without fsync a crash of the server loses nothing, only one of the machine.
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nfsync = off\n"
                f"unix_socket_directories = '{self.directory}'\nlog_min_messages = fatal\n"
            )
        self._run("pg_ctl", "start", "-w", "-l", str(self.directory / "log"))
        self.settings = self.worker_settings = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": self.port,
        }

    def fail(self):
        """Crash the server and start it again: what was not committed is gone."""
        self._run("pg_ctl", "restart", "-w", "-m", "immediate", "-l", str(self.directory / "log"))

    def close(self):
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")
        shutil.rmtree(self.directory)

    def _run(self, program, *arguments):
        subprocess.run(
            [self.programs / program, "-D", self.directory / "data", *arguments],
            cwd=self.directory,
            user="postgres" if self.is_root else None,
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
        )


class MariaDB:
    """A database of the server that is there; its connections are killed, the server never."""

    vendor = "mysql"

    def __init__(self):
        self.driver = driver = pytest.importorskip("MySQLdb", reason="NOT RUN: mysqlclient is not installed")
        self.name = f"chaos_{os.getpid()}"
        try:
            self.control = driver.connect(host=MARIADB[0], port=MARIADB[1], user="root", autocommit=True)
        except driver.OperationalError:
            pytest.skip("NOT RUN: no MariaDB answers on {}:{}".format(*MARIADB))
        self.control.query(f"DROP DATABASE IF EXISTS {self.name}")
        self.control.query(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4")
        self.settings = self.worker_settings = {
            "ENGINE": "django.db.backends.mysql",
            "NAME": self.name,
            "USER": "root",
            "HOST": MARIADB[0],
            "PORT": MARIADB[1],
            "OPTIONS": {"charset": "utf8mb4"},
        }

    def fail(self):
        """Kill all connections to the database: what they had not committed is rolled back."""
        cursor = self.control.cursor()
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [self.name])
        for (connection,) in cursor.fetchall():
            with contextlib.suppress(self.driver.OperationalError):  # it is gone already
                self.control.query(f"KILL {connection}")

    def close(self):
        self.fail()
        self.control.query(f"DROP DATABASE {self.name}")
        self.control.close()


DATABASES = {database.vendor: database for database in (PostgreSQL, SQLite, MariaDB)}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def eventually(verb, *errors, seconds=30):
    """Return what the verb returns as soon as it raises none of the errors."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return verb()
        except errors:
            if time.monotonic() > ends:
                raise
        time.sleep(0.05)
