"""Settings of the test suite. PUSH_TEST_DATABASE chooses sqlite (default), postgresql or mysql."""

import os

SECRET_KEY = "tests"
USE_TZ = os.environ.get("PUSH_TEST_USE_TZ", "1") == "1"
TIME_ZONE = "America/New_York"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "German"), ("fr", "French")]
ROOT_URLCONF = "tests.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_push",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
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
    "sqlite": {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
        }
    },
    "postgresql": {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ.get("PUSH_TEST_DB_NAME", "push"),
            "USER": os.environ.get("PUSH_TEST_DB_USER", "postgres"),
            "HOST": os.environ.get("PUSH_TEST_DB_HOST", "127.0.0.1"),
        }
    },
    "mysql": {
        "default": {
            "ENGINE": "django.db.backends.mysql",
            "NAME": os.environ.get("PUSH_TEST_DB_NAME", "push"),
            "USER": os.environ.get("PUSH_TEST_DB_USER", "root"),
            "HOST": os.environ.get("PUSH_TEST_DB_HOST", "127.0.0.1"),
            "OPTIONS": {"charset": "utf8mb4"},
        }
    },
}[os.environ.get("PUSH_TEST_DATABASE", "sqlite")]

PUSH_BACKENDS = {
    "default": {"BACKEND": "django_push.backends.locmem.LocMemBackend"},
    "other": {"BACKEND": "django_push.backends.locmem.LocMemBackend"},
}
PUSH_TOKEN_MODEL = "django_push.PushToken"
