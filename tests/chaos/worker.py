"""The worker processes of the chaos suite.

The suite starts this file once for each database. It sets Django up and then forks, for each order that
it reads, a process of its own: starting an interpreter each time would take longer than most workers
live. An order is a line of JSON: the process's ``role``, the site's ``settings``, the ``timings`` to
change, where to ``exit_at`` or ``freeze_at``, and the ``log``. Each fork and each end is a line of its
output.
"""

import importlib
import itertools
import json
import os
import select
import signal
import sys
import threading
import traceback

#: What a process returns that has come to the point where it was to exit, and one that ends in an error.
EXITED, FAILED = 70, 1
#: Where a process can be made to exit: whose attribute is watched, and whether before or after the call.
POINTS = {
    "after-create": ("django_push.broadcasts.creating", "_create", "after"),
    "in-plan": ("django_push.broadcasts.creating", "owner_checksum", "after"),
    "in-start": ("django_push.broadcasts.control", "_announce", "before"),
    "after-start": ("django_push.broadcasts.control", "start", "after"),
    "in-change": ("django_push.broadcasts.control", "_change", "after"),
    "in-cancel": ("django_push.broadcasts.control", "_cancel_lanes", "after"),
    "after-reserve": ("django_push.broadcasts.rates", "take", "after"),
    "in-claim": ("django_push.broadcasts.claims", "_insert", "after"),
    "in-reclaim": ("django_push.broadcasts.claims", "_take", "after"),
    "after-claim": ("django_push.broadcasts.lane", "claim", "after"),
    "after-write": ("django_push.transport.connections:_Connection", "getresponse", "before"),
    "after-reply": ("django_push.broadcasts.lane:LaneDrainer", "_absorb", "before"),
    "after-renew": ("django_push.broadcasts.lane", "renew", "after"),
    "before-progress": ("django_push.broadcasts.lane", "record_progress", "before"),
    "after-progress": ("django_push.broadcasts.lane", "record_progress", "after"),
    "before-record": ("django_push.broadcasts.lane", "record", "before"),
    "in-record": ("django_push.broadcasts.results", "_note_problems", "after"),
    "after-record": ("django_push.broadcasts.lane", "record", "after"),
    "in-finish": ("django_push.broadcasts.control", "_announce", "before"),
    "after-finish": ("django_push.broadcasts.control", "settle", "after"),
}


def exit_now():
    os._exit(EXITED)


def freeze_now():
    os.kill(os.getpid(), signal.SIGSTOP)


def watch(point, act):
    """Let this process end without any goodbye, or freeze, at a point: ``NAME`` or ``NAME:TIMES``."""
    name, _, times = point.partition(":")
    place, attribute, when = POINTS[name]
    module, _, inner = place.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, inner) if inner else owner
    function = getattr(owner, attribute)
    calls = itertools.count(1)
    at = int(times or 1)

    def watched(*args, **kwargs):
        is_now = next(calls) == at
        if is_now and when == "before":
            act()
        returned = function(*args, **kwargs)
        if is_now and when == "after":
            act()
        return returned

    setattr(owner, attribute, watched)


def change(timings):
    """Set constants of ours: ``{"broadcasts.lane.POLL": 0.1}``."""
    for path, value in timings.items():
        module, _, name = path.rpartition(".")
        found = importlib.import_module(f"django_push.{module}")
        assert hasattr(found, name), path
        setattr(found, name, value)


# --- roles -------------------------------------------------------------------------------------------


def drain(order, is_stopped):
    """Drain until the broadcast is over, waiting while it is paused."""
    from django_push.broadcasts import drain
    from django_push.models import FINAL

    while not is_stopped.is_set():
        status = drain(order["broadcast"], is_stopped=is_stopped.is_set, linger=order.get("linger")).status
        if status in FINAL or not status:
            return status
        is_stopped.wait(0.1)
    return "stopped"


def once(order, is_stopped):
    """Be one task of a queue, whenever it is delivered."""
    from django_push.broadcasts import drain

    return drain(order["broadcast"], is_stopped=is_stopped.is_set).status


def tick(order, is_stopped):
    """Be a cron job that starts again and again, until the broadcast is over."""
    from django_push.broadcasts import tick
    from django_push.models import FINAL, Broadcast

    rows = Broadcast.objects.filter(pk=order["broadcast"])
    for _ in itertools.count():
        tick(is_stopped=is_stopped.is_set)
        status = rows.values_list("status", flat=True).first()
        if order.get("just_once") or is_stopped.wait(0.1) or status in FINAL:
            return status
    return None


def act(order, is_stopped):
    """Be an operator: pause, resume or cancel."""
    from django_push import broadcasts
    from django_push.exceptions import InvalidBroadcast
    from django_push.models import Broadcast

    row = Broadcast.objects.get(pk=order["broadcast"])
    try:
        return getattr(broadcasts, order["act"])(row)
    except InvalidBroadcast:
        return False


def create(order, is_stopped):
    """Be the web process that makes a broadcast."""
    from django_push.broadcasts import broadcast
    from django_push.models import get_token_model

    audience = get_token_model().objects.all() if order["audience"] == "list" else order["audience"]
    return broadcast(audience, **order["call"]).pk


ROLES = {role.__name__: role for role in (drain, once, tick, act, create)}


# --- processes ---------------------------------------------------------------------------------------


def be(order):
    """Do as ordered, and end. The last line of the log is what it came to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(order["log"], "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = FAILED
    try:
        from django.conf import settings

        for name, value in order["settings"].items():
            setattr(settings, name, value)
        change(order.get("timings", {}))
        for point, act in ((order.get("exit_at"), exit_now), (order.get("freeze_at"), freeze_now)):
            if point:
                watch(point, act)
        is_stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: is_stopped.set())
        print(json.dumps({"did": ROLES[order["role"]](order, is_stopped)}))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def say(**words):
    print(json.dumps(words), flush=True)


def bury():
    """Tell of the processes that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        say(ended=pid, code=os.waitstatus_to_exitcode(status))


def main():
    """Fork as ordered, until there are no more orders; then nobody is left behind."""
    import django

    if os.getpgrp() != os.getpid():  # by hand: end nobody else in the end
        os.setpgrp()
    django.setup()
    import django_push.broadcasts
    import django_push.transport.http  # noqa: F401 - once, before the forks

    say(ready=os.getpid())
    waiting = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    be(json.loads(line))
                say(forked=pid)
        bury()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
