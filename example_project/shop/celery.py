"""Celery's application; imported only where SHOP_DISPATCHER=celery. The workers: celery -A shop worker."""

import os

try:
    from celery import Celery
except ImportError:
    # Told as a command tells its errors: without a traceback.
    raise SystemExit("SHOP_DISPATCHER=celery needs Celery: pip install '.[fcm,celery]' redis") from None

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
