"""A site for the tests of real queues: its processes are started with the variables of settings.py."""

import os

if os.environ.get("PUSH_SITE_BROKER"):
    from tests.services.site.celery import app as celery_app  # noqa: F401 - as Celery's guide says
