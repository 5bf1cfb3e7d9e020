"""The tables: columns and reading words. What changes a token is in ``django_push.tokens``."""

from django_push.models.functions import DatabaseNow, database_now, instant
from django_push.models.receipts import PushProblem, ReceiptBatch
from django_push.models.tokens import (
    AbstractPushToken,
    PushToken,
    PushTokenQuerySet,
    TokenSource,
    TokenStatus,
    digest,
    get_token_model,
)

__all__ = [
    "AbstractPushToken",
    "DatabaseNow",
    "PushProblem",
    "PushToken",
    "PushTokenQuerySet",
    "ReceiptBatch",
    "TokenSource",
    "TokenStatus",
    "database_now",
    "digest",
    "get_token_model",
    "instant",
]
