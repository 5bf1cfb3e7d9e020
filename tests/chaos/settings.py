"""Settings of a worker process: its database comes in the environment, its provider with its orders."""

import json
import os

from tests.settings import *  # noqa: F403

DATABASES = {"default": json.loads(os.environ["CHAOS_DATABASE"])}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"timed": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "root": {"handlers": ["stderr"], "level": "DEBUG"},
}


class NoDispatcher:
    """A queue that loses everything."""

    can_defer = False

    def enqueue(self, job, payload, *, delay=0.0):
        pass
