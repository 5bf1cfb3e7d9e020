"""The tables: columns and reading words. What changes a token is in ``django_push.tokens``."""

from django_push.models.broadcasts import (
    COUNTED,
    FINAL,
    PROTOCOL,
    BatchStatus,
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    BroadcastQuerySet,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    RateBucket,
    UnknownPolicy,
)
from django_push.models.functions import (
    DatabaseNow,
    database_now,
    database_seconds,
    database_time,
    instant,
)
from django_push.models.progress import LaneProgress, Progress
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
    "COUNTED",
    "FINAL",
    "PROTOCOL",
    "AbstractPushToken",
    "BatchStatus",
    "Broadcast",
    "BroadcastBatch",
    "BroadcastLane",
    "BroadcastQuerySet",
    "BroadcastStatus",
    "DatabaseNow",
    "LaneProgress",
    "LaneStatus",
    "PauseReason",
    "Progress",
    "PushProblem",
    "PushToken",
    "PushTokenQuerySet",
    "RateBucket",
    "ReceiptBatch",
    "TokenSource",
    "TokenStatus",
    "UnknownPolicy",
    "database_now",
    "database_seconds",
    "database_time",
    "digest",
    "get_token_model",
    "instant",
]
