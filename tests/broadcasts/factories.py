"""Broadcasts, tokens and answers for the tests of the engine, and time that passes when it is told to."""

import contextlib
import json
from collections import Counter
from datetime import timedelta

from django.db import OperationalError, connection
from django.db.models import F

from django_push import Outcome, testing
from django_push.broadcasts import broadcast, control, drain
from django_push.broadcasts.claims import claim
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    RateBucket,
    get_token_model,
)
from django_push.transport.base import Transport
from django_push.wire import Reply

LOCMEM = {"BACKEND": "django_push.backends.locmem.LocMemBackend"}
#: Without its own rate, so that no test waits for it.
EXPO = {"BACKEND": "django_push.backends.expo.ExpoBackend", "OPTIONS": {"broadcast_rate": 1e6}}
#: Long enough that no lease of a test ends by itself.
LEASE = 75.0
Tokens = get_token_model()._base_manager


def make_tokens(count, *, backend="default", **fields):
    """Create rows whose tokens are named by alias and number, and return them in that order."""
    model = get_token_model()
    names = [f"{backend}-{n:04d}" for n in range(count)]
    model.objects.bulk_create([model(backend=backend, token=name, **fields) for name in names])
    return list(model.objects.filter(token__in=names, backend=backend).order_by("pk"))


def make_expo_tokens(count, *, backend="default"):
    """Create rows of an alias that is Expo's, and return them in that order."""
    model = get_token_model()
    names = [f"ExponentPushToken[{n:022d}]" for n in range(count)]
    model.objects.bulk_create([model(backend=backend, token=name) for name in names])
    return list(model.objects.filter(backend=backend).order_by("pk"))


def all_ok(request):
    """Answer as Expo does when it takes every push."""
    said = [{"status": "ok", "id": f"id-{target.pk}"} for target in request.targets]
    return Reply(status=200, body=json.dumps({"data": said}).encode())


def two_projects(request):
    """Answer that the tokens are of two projects, which have to be sent apart."""
    if request.generation == 0:
        half = len(request.targets) // 2
        values = [target.value for target in request.targets]
        details = {"@me/a": values[:half], "@me/b": values[half:]}
        error = {"code": "PUSH_TOO_MANY_EXPERIENCE_IDS", "message": "two", "details": details}
        return Reply(status=400, body=json.dumps({"errors": [error]}).encode())
    return all_ok(request)


class Threads(Transport):
    """Takes a few requests before the first reply, as a transport with several connections does."""

    def __init__(self, answer, ahead=3):
        super().__init__(alias="default", timeout=1.0, max_connections=ahead)
        self.answer = answer
        self.seen = []
        self.on_sent = lambda: None

    def exchange(self, requests, authorize=None):
        waiting, error = [], None
        source = iter(requests)
        while True:
            try:
                while len(waiting) < self.max_connections and error is None:
                    request = next(source, None)
                    if request is None:
                        break
                    self.seen.append(request)
                    waiting.append(request)
                    self.on_sent()
            except Exception as raised:
                error = raised
            if not waiting:
                break
            request = waiting.pop(0)
            yield request, self.answer(request)
        if error is not None:
            raise error


def drafted(audience="everyone", **fields):
    """Return a broadcast that waits to be started."""
    return broadcast(audience, start=False, **{"title": "Hi", **fields})


def started(audience="everyone", **fields):
    """Return a broadcast that is running, of which no worker has been told."""
    made = drafted(audience, **fields)
    assert control.start(made)
    return reloaded(made)


def reloaded(made):
    return Broadcast.objects.get(pk=made.pk)


def lane_of(made, alias="default"):
    return BroadcastLane.objects.get(broadcast_id=made.pk, backend=alias)


def claimed(made, count=1000, *, alias="default", lease=LEASE):
    """Claim from a broadcast's lane."""
    return claim(made, lane_of(made, alias).pk, count, lease)


def batches_of(made, **conditions):
    return BroadcastBatch.objects.filter(lane__broadcast_id=made.pk, **conditions).order_by("pk")


def states(made):
    """Return the states of the batches, in the order in which they were claimed."""
    return list(batches_of(made).values_list("status", flat=True))


def batch_of(made, **conditions):
    return batches_of(made, **conditions).get()


def counted(made):
    """Return the verdicts by outcome, as plain numbers."""
    return dict(made.progress.counts)


def drained(made, **options):
    """Drain until there is nothing to do at this moment."""
    return drain(made.pk, **{"linger": 0.0, **options})


def let_time_pass(made):
    """Let everything that waits be due: leases, retries, holds, and what a provider has asked for."""
    day = timedelta(days=1)
    waiting = (BatchStatus.LEASED, BatchStatus.RETRY)
    # By key: MariaDB 10.11 writes one row's value to all rows of an UPDATE with a subquery of its own table.
    keys = list(batches_of(made, status__in=waiting).values_list("pk", flat=True))
    BroadcastBatch.objects.filter(pk__in=keys).update(due_at=F("due_at") - day)
    lanes = BroadcastLane.objects.filter(broadcast_id=made.pk)
    lanes.update(hold_until=None)
    RateBucket.objects.update(blocked_until=0.0, spoken_for=0.0)


def finished(made, most=40):
    """Drain again and again, with much time in between, until the broadcast runs no more."""
    for _ in range(most):
        if not drained(made).is_running:
            return reloaded(made)
        let_time_pass(made)
    raise AssertionError(f"still running: {made.progress}")


def copies():
    """Return how many pushes each token was sent."""
    return Counter(push.token for push in testing.outbox)


def answer_all(rows, outcome, **verdict):
    for row in rows:
        testing.answer(row.token, outcome, **verdict)


def unknown(*rows):
    """Let the provider's answer about these be lost."""
    answer_all(rows, Outcome.UNKNOWN, code="Timeout")


def status_of(row):
    return Tokens.values_list("status", flat=True).get(pk=row.pk)


@contextlib.contextmanager
def database_lost(times=1, when=lambda sql: True):
    """Let so many statements fail as if the server were gone; yield the list of those."""
    failed = []

    def execute(run, sql, params, many, context):
        if len(failed) < times and when(sql):
            failed.append(sql)
            raise OperationalError("server closed the connection unexpectedly")
        return run(sql, params, many, context)

    with connection.execute_wrapper(execute):
        yield failed
