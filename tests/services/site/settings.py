"""A web process or a worker, as the environment says: its database, its queue and its provider."""

import json
import os

import django

from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["tests.services.site.apps.SiteConfig", *INSTALLED_APPS]  # noqa: F405
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["PUSH_SITE_DATABASE"],
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
    }
}
if os.environ["PUSH_SITE_DATABASE"].startswith("{"):
    DATABASES = {"default": json.loads(os.environ["PUSH_SITE_DATABASE"])}
PUSH_BACKENDS = {
    "expo": {
        "BACKEND": "django_push.backends.expo.ExpoBackend",
        "OPTIONS": {
            "access_token": "canary-access-token",
            **json.loads(os.environ.get("PUSH_SITE_OPTIONS", "{}")),
        },
    }
}
PUSH_EMULATOR_HOST = os.environ.get("PUSH_SITE_EMULATOR", "")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

QUEUE = os.environ["PUSH_SITE_QUEUE"]
if os.environ.get("PUSH_SITE_BROKER"):
    PUSH_DISPATCHER = "django_push.dispatch.celery.CeleryDispatcher"
    CELERY_BROKER_URL = os.environ["PUSH_SITE_BROKER"]
    CELERY_TASK_DEFAULT_QUEUE = QUEUE
    CELERY_WORKER_PREFETCH_MULTIPLIER = 1
    CELERY_TASK_TIME_LIMIT = CELERY_TASK_SOFT_TIME_LIMIT = 1  # the site's own tasks are short
    CELERY_TASK_ACKS_LATE = os.environ.get("PUSH_SITE_ACKS_LATE") == "1"
    # As docs/deployment.rst has it, but more often.
    CELERY_BEAT_SCHEDULE = {
        "push-tick": {"task": "django_push.run_job", "schedule": 1.0, "args": ("tick", {})},
    }
    if CELERY_BROKER_URL.startswith("redis"):
        CELERY_BROKER_TRANSPORT_OPTIONS = {
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "global_keyprefix": QUEUE,
        }
else:
    PUSH_DISPATCHER = "tests.services.site.push.Dispatcher"
    INSTALLED_APPS += ["django_tasks_db", *(["django_tasks"] if django.VERSION < (6, 0) else [])]
    TASKS = {"push": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": [QUEUE]}}
