"""An example of a site that pushes."""

import os

if os.environ.get("SHOP_DISPATCHER") == "celery":
    from shop.celery import app as celery_app  # noqa: F401 - as Celery's guide says
