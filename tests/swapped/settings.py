"""A project with a token model of its own."""

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.swapped"]
PUSH_TOKEN_MODEL = "swapped.DeviceToken"
if DATABASES["default"]["NAME"] != ":memory:":
    DATABASES["default"]["NAME"] += "_swapped"
