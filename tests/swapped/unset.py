"""A project that says nothing of token models, and has other defaults than ours."""

from tests.settings import *  # noqa: F403

del PUSH_TOKEN_MODEL  # noqa: F821
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
