"""Settings of the example shop: SQLite, the local emulator, no account, key or server."""

import os
from pathlib import Path

from django_push.emulator import service_account

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "an example has nothing to hide"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_push",
    "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "example_site.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", BASE_DIR / "db.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

# Seconds; a lease of a broadcast's worker lasts five of them. The demo's workers have less: they are killed,
# and nobody wants to wait for long.
TIMEOUT = float(os.environ.get("SHOP_PUSH_TIMEOUT", "15"))

# Three providers side by side; each token knows its own. The fourth is a relay whose key has been
# withdrawn: the demo shows that its tokens are none the worse for it.
PUSH_BACKENDS = {
    "expo": {
        "BACKEND": "django_push.backends.expo.ExpoBackend",
        "OPTIONS": {"timeout": TIMEOUT},
    },
    "fcm": {
        "BACKEND": "django_push.backends.fcm.FCMBackend",
        "OPTIONS": {"service_account_key": service_account, "timeout": TIMEOUT},
    },
    "gcm": {
        "BACKEND": "django_push.backends.gcm.GCMBackend",
        "OPTIONS": {
            "endpoint": "https://push.example.com/gcm/send",
            "api_key": "demo",
            "timeout": TIMEOUT,
        },
    },
    "relay": {
        "BACKEND": "django_push.backends.gcm.GCMBackend",
        "OPTIONS": {"endpoint": "https://relay.example.com/gcm/send", "api_key": "wrong-key"},
    },
}
PUSH_AUDIENCES = {"newsletter": "shop.audiences.newsletter"}

# What runs work later: this process, or Celery's workers (see shop/celery.py).
if os.environ.get("SHOP_DISPATCHER") == "celery":
    PUSH_DISPATCHER = "django_push.dispatch.celery.CeleryDispatcher"
    CELERY_BROKER_URL = os.environ.get("SHOP_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
    CELERY_TASK_DEFAULT_QUEUE = os.environ.get("SHOP_QUEUE", "shop")
    CELERY_WORKER_PREFETCH_MULTIPLIER = 1
else:
    PUSH_DISPATCHER = "django_push.dispatch.inline.InlineDispatcher"
# Sends every backend to ``manage.py push_emulator``; the demo starts one of its own.
PUSH_EMULATOR_HOST = os.environ.get("PUSH_EMULATOR_HOST", "127.0.0.1:8900")
