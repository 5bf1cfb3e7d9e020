"""What a broadcast costs beside the sending itself, and how it scales with workers.

``python benchmarks/broadcast.py [--tokens N] [--rounds N] [--database sqlite|postgresql] [--workers 1,2,4]
[--batch-size N] [--only engine|emulator] [--profile]``

*engine*: tokens of the dummy backend, which accepts all and sends nothing: what is left are claims, leases
and results. *emulator*: a tenth as many tokens of Expo (without its rate) and of GCM, sent over HTTP to the
local emulator, a Python server that runs on the same cores and is the slower part. Workers are processes; the
clock starts when all are ready and stops when the broadcast is done. PostgreSQL is that of 127.0.0.1; a
database is made and dropped. Compare rows of one run only.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

MESSAGE = {
    "title": "Order 17 is on its way",
    "body": "Your parcel has left the warehouse and will be with you tomorrow before noon.",
    "data": {"order": "17", "screen": "orders"},
}
#: What each alias's tokens begin and end with.
TOKENS = {"dummy": ("", ""), "expo": ("ExponentPushToken[", "]"), "gcm": ("APA91b", "")}
#: The emulator's part of the tokens.
SHARE = 10
SAMPLE_EVERY = 0.1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--workers", type=numbers, default=[1, 2], metavar="1,2,4")
    parser.add_argument("--batch-size", type=int, default=0, help="tokens per claim; 0: the engine's own")
    parser.add_argument("--only", choices=["engine", "emulator"])
    parser.add_argument("--profile", action="store_true", help="where one worker's time goes")
    parser.add_argument("--be-worker", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def numbers(text):
    return [int(part) for part in text.split(",")]


def configure(database, emulator=""):
    """Configure Django for a site with a dummy alias, Expo and GCM."""
    import django
    from django.conf import settings

    gcm = {"endpoint": "https://push.example.com/gcm/send", "api_key": "bench"}
    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_push"],
        DATABASES={"default": database},
        PUSH_EMULATOR_HOST=emulator,
        PUSH_BACKENDS={
            "dummy": {"BACKEND": "django_push.backends.dummy.DummyBackend"},
            "expo": {
                "BACKEND": "django_push.backends.expo.ExpoBackend",
                "OPTIONS": {"broadcast_rate": None},
            },
            "gcm": {"BACKEND": "django_push.backends.gcm.GCMBackend", "OPTIONS": gcm},
        },
    )
    django.setup()


@contextlib.contextmanager
def database(kind):
    """Make a database and drop it again; yields its settings."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            options = {"timeout": 60, "transaction_mode": "IMMEDIATE"}
            name = str(Path(folder) / "bench.sqlite3")
            yield {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}
        return
    import psycopg

    server = {"host": "127.0.0.1", "user": os.environ.get("PGUSER", "postgres")}
    name = f"push_bench_{os.getpid()}"
    with psycopg.connect(**server, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": name,
                "HOST": server["host"],
                "USER": server["user"],
            }
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(alias, count):
    """Make the alias's tokens out of one, in the database itself."""
    from django.db import connection

    from django_push.models import PushToken

    before, after = TOKENS[alias]
    first = PushToken.objects.create(backend=alias, token="template")
    padded = f"'{'0' * 64}' || n"
    number = f"substr({padded}, length({padded}) - {{}})"
    columns = {f.column: f'"{f.column}"' for f in PushToken._meta.local_fields if not f.primary_key}
    columns["token"] = f"'{before}' || {number.format(21)} || '{after}'"
    columns["token_digest"] = f"'{alias}' || {number.format(63 - len(alias))}"
    names = ", ".join(f'"{name}"' for name in columns)
    table = PushToken._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) "
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s) "
            f"SELECT {', '.join(columns.values())} FROM {table}, numbers WHERE id = %s",
            [count, first.pk],
        )
        first.delete()
        cursor.execute("ANALYZE")


# --- a worker -------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """Samples the resident set, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples = [self.now()]
        self.stopped = threading.Event()

    @staticmethod
    def now():
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * resource.getpagesize() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def run(self):
        while not self.stopped.wait(SAMPLE_EVERY):
            self.samples.append(self.now())


def be_worker(options):
    """Get ready, wait for a line with a broadcast's key, drain it and tell what it took."""
    configure(options["database"], options["emulator"])
    from django.db import connection

    from django_push.broadcasts import drain

    statements = 0

    def count(execute, sql, params, many, context):
        nonlocal statements
        statements += 1
        return execute(sql, params, many, context)

    connection.ensure_connection()
    memory = Memory()
    memory.start()
    print("ready", flush=True)
    key = int(sys.stdin.readline())
    before = resource.getrusage(resource.RUSAGE_SELF)
    with connection.execute_wrapper(count), profiled(options["profile"]):
        drain(key)
    after = resource.getrusage(resource.RUSAGE_SELF)
    memory.stopped.set()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "statements": statements, "memory": memory.samples}))


@contextlib.contextmanager
def profiled(wanted):
    if not wanted:
        yield
        return
    import cProfile
    import pstats

    profile = cProfile.Profile()
    with profile:
        yield
    for order in ("tottime", "cumulative"):
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats(order).print_stats(45)


# --- the runs -------------------------------------------------------------------------------------------


def measure(options, alias, tokens, workers, where, emulator=""):
    """Broadcast to the alias's tokens with so many workers; return figures."""
    from django_push.broadcasts import broadcast, control

    asked = {"database": where, "emulator": emulator, "profile": options.profile}
    command = [sys.executable, __file__, "--be-worker", json.dumps(asked)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(workers)]
    try:
        for process in processes:
            process.stdout.readline()
        row = broadcast(
            {"backend": alias}, using=alias, start=False, batch_size=options.batch_size, **MESSAGE
        )
        began = time.perf_counter()
        control.start(row)
        counting = time.perf_counter() - began
        started = datetime.datetime.now(datetime.timezone.utc)
        tell(processes, row.pk)
        told = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    row.refresh_from_db()
    progress = row.progress
    assert (row.status, progress.accepted) == ("done", tokens), (row.status, progress)
    seconds = (row.finished_at - started).total_seconds()  # idle workers notice a little later
    return figures(row, tokens, [json.loads(line) for line in told], counting, seconds)


def tell(processes, key):
    """Let all begin at once."""
    for process in processes:
        process.stdin.write(f"{key}\n")
        process.stdin.flush()


def figures(row, tokens, told, counting, seconds):
    from django_push.models import BroadcastBatch

    batches = BroadcastBatch.objects.filter(lane__broadcast=row).count()
    statements = sum(one["statements"] for one in told)
    memory = [one["memory"] for one in told]
    return {
        "tokens/s": tokens / seconds,
        "claims/s": batches / seconds,
        "CPU us/token": sum(one["cpu"] for one in told) / tokens * 1e6,
        "statements/batch": statements / batches,
        "statements/1000": statements / tokens * 1000,
        "start ms": counting * 1000,
        "RSS +MB at 1/4": max(one[len(one) // 4] - one[0] for one in memory),
        "RSS +MB at 1/2": max(one[len(one) // 2] - one[0] for one in memory),
        "RSS +MB at end": max(one[-1] - one[0] for one in memory),
    }


def show(name, workers, tokens, rows):
    for figure in rows[0]:
        values = sorted(row[figure] for row in rows)
        low, middle, high = values[0], values[len(values) // 2], values[-1]
        print(
            f"{name:10} {workers:2} {tokens:9,} {figure:17} {low:12,.1f} {middle:12,.1f} {high:12,.1f}",
            flush=True,
        )


def main():
    options = arguments()
    if options.be_worker:
        be_worker(options.be_worker)
        return
    with database(options.database) as where:
        configure(where)
        try:
            run(options, where)
        finally:
            from django.db import connection

            connection.close()


def run(options, where):
    from django.core.management import call_command

    from django_push.emulator import start_emulator

    call_command("migrate", verbosity=0)
    print(f"{options.database}: workers, tokens, figure, low, median, high of {options.rounds}")
    if options.only != "emulator":
        fill("dummy", options.tokens)
        for workers in options.workers:
            rounds = [
                measure(options, "dummy", options.tokens, workers, where) for _ in range(options.rounds)
            ]
            show("engine", workers, options.tokens, rounds)
    if options.only != "engine":
        count = max(1, options.tokens // SHARE)
        for alias in ("expo", "gcm"):
            fill(alias, count)
            for workers in [n for n in options.workers if n <= 2]:
                rounds = []
                for _ in range(options.rounds):
                    with start_emulator() as emulator:
                        rounds.append(measure(options, alias, count, workers, where, emulator.host))
                        assert emulator.state.counts()["doubled"] == 0
                show(alias, workers, count, rounds)


if __name__ == "__main__":
    main()
