"""What one push costs, from the token's row to its state: tokens per second, CPU, memory and queries.

``python benchmarks/send.py [--tokens N] [--rounds N] [--latency MS] [--only expo|gcm|fcm] [--database URL]``

The client reads tokens from a database, sends over TLS to a gateway process on this machine, of whose
tokens one in a hundred is dead, and writes the state. Compare rows of one run only.
"""

import argparse
import datetime
import ipaddress
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

MESSAGE = {
    "title": "Order 17 is on its way",
    "body": "Your parcel has left the warehouse and will be with you tomorrow before noon.",
    "data": {"order": "17", "screen": "orders"},
}
#: FCM takes one request for each token, so it is measured with fewer.
SHARE = {"expo": 1, "gcm": 1, "fcm": 20}
TOKENS = {
    "expo": "ExponentPushToken[{:022d}]",
    "gcm": "APA91b{:0157d}",
    "fcm": "c1d2e3f4:APA91b{:0148d}",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.0, help="of the gateway, in milliseconds")
    parser.add_argument("--only", choices=sorted(TOKENS))
    parser.add_argument("--postgresql", metavar="DBNAME", help="an empty database on 127.0.0.1")
    return parser.parse_args()


def certificate(folder):
    """Write a certificate for 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def configure(folder, port, certificate_path, postgresql):
    """Configure Django for one site with three aliases at the gateway."""
    import django
    from django.conf import settings

    from django_push.emulator import service_account

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "bench.sqlite3")}
    if postgresql:
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": postgresql,
            "HOST": "127.0.0.1",
            "USER": os.environ.get("PGUSER", "postgres"),
        }
    base = f"https://127.0.0.1:{port}"
    common = {"ca_bundle": str(certificate_path), "timeout": 60}
    account = {**service_account(), "token_uri": f"{base}/token"}
    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_push"],
        DATABASES={"default": database},
        PUSH_BACKENDS={
            "expo": {
                "BACKEND": "django_push.backends.expo.ExpoBackend",
                "OPTIONS": {"endpoint": f"{base}/--/api/v2/push", **common},
            },
            "gcm": {
                "BACKEND": "django_push.backends.gcm.GCMBackend",
                "OPTIONS": {"endpoint": f"{base}/gcm/send", "api_key": "bench", **common},
            },
            "fcm": {
                "BACKEND": "django_push.backends.fcm.FCMBackend",
                "OPTIONS": {"endpoint": base, "service_account_key": account, **common},
            },
        },
    )
    django.setup()


def fill(alias, count):
    """Make the alias's tokens anew, all active."""
    from django_push.models import PushToken

    PushToken.objects.filter(backend=alias).delete()
    form = TOKENS[alias]
    for start in range(0, count, 5000):
        numbers = range(start, min(start + 5000, count))
        PushToken.objects.bulk_create([PushToken(backend=alias, token=form.format(n)) for n in numbers])


def measure(alias):
    """Send to every token of the alias; return figures of the whole process."""
    from django.db import connection

    from django_push import iter_push
    from django_push.models import PushToken

    queries = 0

    def count(execute, sql, params, many, context):
        nonlocal queries
        queries += 1
        return execute(sql, params, many, context)

    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    tried = 0
    with connection.execute_wrapper(count):
        for _ in iter_push(PushToken.objects.filter(backend=alias), **MESSAGE):
            tried += 1
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    dead = PushToken.objects.filter(backend=alias).exclude(status="active").count()
    return {
        "tokens/s": tried / seconds,
        "CPU us/token": cpu / tried * 1e6,
        "queries/1000": queries / tried * 1000,
        "dead": dead,
        "RSS +MB": (after.ru_maxrss - before.ru_maxrss) / 1024,
    }


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cert, key = certificate(folder)
        command = [sys.executable, str(HERE / "gateway.py"), str(cert), str(key), str(options.latency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
            try:
                configure(folder, int(gateway.stdout.readline()), cert, options.postgresql)
                run(options)
            finally:
                gateway.kill()


def run(options):
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the gateway has the others
    for alias in [options.only] if options.only else list(TOKENS):
        count = max(1, options.tokens // SHARE[alias])
        rows = []
        for _ in range(options.rounds):
            fill(alias, count)
            rows.append(measure(alias))
        for figure in rows[0]:
            values = sorted(row[figure] for row in rows)
            low, middle, high = values[0], values[len(values) // 2], values[-1]
            print(f"{alias:5} {count:8} {figure:13} {low:12.1f} {middle:12.1f} {high:12.1f}")


if __name__ == "__main__":
    main()
