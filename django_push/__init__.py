"""Mobile push notifications for Django that keep the push tokens' state right.

The public names are loaded when they are first used, so that importing this package needs no
configured Django.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_push.broadcasts import broadcast as broadcast
    from django_push.exceptions import AmbiguousBackend as AmbiguousBackend
    from django_push.exceptions import BroadcastForbidden as BroadcastForbidden
    from django_push.exceptions import InvalidAudience as InvalidAudience
    from django_push.exceptions import InvalidBroadcast as InvalidBroadcast
    from django_push.exceptions import InvalidMessage as InvalidMessage
    from django_push.exceptions import InvalidPushBackend as InvalidPushBackend
    from django_push.exceptions import InvalidToken as InvalidToken
    from django_push.exceptions import PushError as PushError
    from django_push.exceptions import UnsupportedOption as UnsupportedOption
    from django_push.handler import push_backends as push_backends
    from django_push.message import Condition as Condition
    from django_push.message import PushMessage as PushMessage
    from django_push.message import Topic as Topic
    from django_push.models import get_token_model as get_token_model
    from django_push.outcomes import Outcome as Outcome
    from django_push.outcomes import PushResult as PushResult
    from django_push.outcomes import Ticket as Ticket
    from django_push.receipts import check_push_receipts as check_push_receipts
    from django_push.sending import asend_push as asend_push
    from django_push.sending import enqueue_push as enqueue_push
    from django_push.sending import iter_push as iter_push
    from django_push.sending import send_push as send_push
    from django_push.tokens import register_token as register_token
    from django_push.tokens import unregister_token as unregister_token

__version__ = "0.1.0"

_HOMES = {
    "AmbiguousBackend": "exceptions",
    "BroadcastForbidden": "exceptions",
    "Condition": "message",
    "InvalidAudience": "exceptions",
    "InvalidBroadcast": "exceptions",
    "InvalidMessage": "exceptions",
    "InvalidPushBackend": "exceptions",
    "InvalidToken": "exceptions",
    "Outcome": "outcomes",
    "PushError": "exceptions",
    "PushMessage": "message",
    "PushResult": "outcomes",
    "Ticket": "outcomes",
    "Topic": "message",
    "UnsupportedOption": "exceptions",
    "asend_push": "sending",
    "broadcast": "broadcasts",
    "check_push_receipts": "receipts",
    "enqueue_push": "sending",
    "get_token_model": "models",
    "iter_push": "sending",
    "push_backends": "handler",
    "register_token": "tokens",
    "send_push": "sending",
    "unregister_token": "tokens",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list of the names above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'django_push' has no attribute {name!r}")
    return getattr(import_module(f"django_push.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
