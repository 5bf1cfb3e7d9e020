"""The admin: tokens and sending to them, broadcasts, receipts and problems.

The token model in use is registered here, unless the site has registered it before.
"""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured

from django_push.admin.broadcasts import BroadcastAdmin
from django_push.admin.receipts import PushProblemAdmin, ReceiptBatchAdmin
from django_push.admin.tokens import PushTokenAdmin
from django_push.models import Broadcast, PushProblem, ReceiptBatch, get_token_model

__all__ = ["BroadcastAdmin", "PushProblemAdmin", "PushTokenAdmin", "ReceiptBatchAdmin"]


def _register() -> None:
    admin.site.register(Broadcast, BroadcastAdmin)
    admin.site.register(ReceiptBatch, ReceiptBatchAdmin)
    admin.site.register(PushProblem, PushProblemAdmin)
    try:
        model = get_token_model()
    except ImproperlyConfigured:
        return  # the system checks say what is wrong with PUSH_TOKEN_MODEL
    if not admin.site.is_registered(model):
        admin.site.register(model, PushTokenAdmin)


_register()
