"""The web process of a site whose broadcasts go through a queue: it does what the tests tell it to.

An order is a line of JSON, ``[name, arguments]``; so is the answer, ``{"returned": …}`` or ``{"error": …}``.
"""

import json
import sys
import traceback
from datetime import timedelta


def register(count, kind=""):
    """Be visited by so many devices; return their tokens."""
    from django_push.models import get_token_model

    model = get_token_model()
    tokens = [f"ExponentPushToken[{kind}canary-{n}]" for n in range(count)]
    model.objects.bulk_create(model(token=token, backend="expo") for token in tokens)
    return tokens


def empty():
    """Forget what earlier tests did."""
    from django_push import broadcasts
    from django_push.models import FINAL, Broadcast, RateBucket, ReceiptBatch, get_token_model

    for row in Broadcast.objects.exclude(status__in=FINAL):
        broadcasts.cancel(row)
    for model in (Broadcast, RateBucket, ReceiptBatch, get_token_model()):
        model._base_manager.all().delete()


def migrate():
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def broadcast(in_seconds=None, **options):
    from django.utils import timezone

    from django_push.broadcasts import broadcast

    if in_seconds is not None:
        options["schedule"] = timezone.now() + timedelta(seconds=in_seconds)
    return broadcast(title="Canary", batch_size=100, **options).pk


def pause(pk):
    """Pause, and return how much was claimed by the time it was committed."""
    from django_push import broadcasts

    assert broadcasts.pause(_row(pk))
    return claims(pk)


def resume(pk, workers):
    from django_push import broadcasts

    return broadcasts.resume(_row(pk), workers=workers)


def delete(pk):
    _row(pk).delete()


def claims(pk):
    from django_push.models import BroadcastBatch

    return sum(BroadcastBatch.objects.filter(lane__broadcast=pk).values_list("claim_no", flat=True))


def state(pk):
    """Return all that the tables say of a broadcast."""
    from django_push.models import BroadcastBatch

    row = _row(pk)
    batches = BroadcastBatch.objects.filter(lane__broadcast=pk).order_by("pk")
    columns = ("status", "size", "pending", "skipped", "sends", "claim_no", "resent", "accepted")
    progress = row.progress
    return {
        "status": row.status,
        "lanes": [lane.status for lane in row.lanes.all()],
        "batches": list(batches.values(*columns)),
        "told": progress.told,
        "total": progress.total,
    }


def receipts(pk):
    return [dict(lane.receipts) for lane in _row(pk).progress.lanes]


def status(pk):
    return _row(pk).status


def tick():
    """Be cron."""
    from django_push import broadcasts

    found = broadcasts.tick()
    return {"started": found.started, "woken": found.woken}


def wake(pk, times=1):
    """Let tasks come that nobody needs."""
    from django_push import wake

    for _ in range(times):
        wake.wake("drain_broadcast", {"broadcast": pk})


def inactive():
    from django_push.models import get_token_model

    return get_token_model().objects.inactive().count()


def waiting():
    """Return the jobs that wait in django-tasks-db's table, and the table itself."""
    from django_tasks_db.models import DBTaskResult

    rows = list(DBTaskResult.objects.filter(status="READY"))
    return [row.args_kwargs["args"] for row in rows], str([vars(row) for row in rows])


def purge():
    from django_tasks_db.models import DBTaskResult

    return DBTaskResult.objects.filter(status="READY").delete()[0]


def _row(pk):
    from django_push.models import Broadcast

    return Broadcast.objects.get(pk=pk)


ORDERS = (
    register, empty, migrate, broadcast, pause, resume, delete, claims, state, receipts, status, tick, wake,
    inactive, waiting, purge,
)  # fmt: skip


def main():
    import django
    from django.db import close_old_connections

    django.setup()
    orders = {order.__name__: order for order in ORDERS}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        close_old_connections()
        try:
            answer = {"returned": orders[name](**arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        close_old_connections()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
