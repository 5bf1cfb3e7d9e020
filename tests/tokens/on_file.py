"""Settings for several processes on one SQLite file."""

import os

from tests.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["PUSH_TEST_FILE"]}}
