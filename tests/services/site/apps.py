"""Receipts that are due in seconds, other moments as the environment says, and a record of what is done."""

import contextlib
import functools
import json
import os
import time
from datetime import timedelta
from importlib import import_module

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "tests.services.site"
    label = "site"

    def ready(self):
        from django_push import receipts, wake

        receipts.SCHEDULE = (timedelta(seconds=1), *receipts.SCHEDULE)
        wake.CHECK_AFTER = 4.0
        for path, value in json.loads(os.environ.get("PUSH_SITE_TIMINGS", "{}")).items():
            _change(path, value)
        if "PUSH_SITE_EVENTS" in os.environ:
            _record()


def _change(path, value):
    """Set an attribute of a module of django_push, or of something in it: ``broadcasts.lane.POLL``."""
    *where, name = path.split(".")
    owner = import_module("django_push")
    for part in where:
        with contextlib.suppress(ImportError):
            import_module(f"{owner.__name__}.{part}")
        owner = getattr(owner, part)
    assert hasattr(owner, name), path
    setattr(owner, name, value)


def _record():
    """Note each job as it begins and ends, and each claim."""
    from django_push.broadcasts import lane
    from django_push.dispatch import jobs

    run, claim = jobs.run, lane.claim

    @functools.wraps(run)
    def noted_run(job, payload):
        note("begun", job=job, payload=dict(payload))
        try:
            returned = run(job, payload)
        except BaseException as error:
            note("failed", job=job, payload=dict(payload), error=type(error).__name__)
            raise
        note("ended", job=job, payload=dict(payload))
        return returned

    @functools.wraps(claim)
    def noted_claim(broadcast, *args, **kwargs):
        found = claim(broadcast, *args, **kwargs)
        if hasattr(found, "targets"):
            note("claimed", broadcast=broadcast.pk, size=len(found.targets))
        return found

    jobs.run, lane.claim = noted_run, noted_claim


def note(event, **about):
    """Append a line to the site's record: one write, which no other process's comes into."""
    who = {"at": time.time(), "pid": os.getpid(), "group": os.getpgrp()}
    line = json.dumps({"event": event, **who, **about}) + "\n"
    with open(os.environ["PUSH_SITE_EVENTS"], "ab", buffering=0) as record:
        record.write(line.encode())
