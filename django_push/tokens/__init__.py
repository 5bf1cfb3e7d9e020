"""The one owner of token state: every change of a PushToken is a verb in this package.

Each write is a guarded bulk UPDATE that names its columns and its precondition, so repeating it
changes nothing and signals nothing. Rows are found without locks, then locked in the order of their
primary keys, then checked again and written: two processes that meet wait for each other, in order.
"""

from django_push.tokens.moving import Moved, move
from django_push.tokens.registration import register_token, unregister_token
from django_push.tokens.replacement import replace
from django_push.tokens.upkeep import Pruned, deactivate, prune, reactivate, set_enabled
from django_push.tokens.verdicts import apply

__all__ = [
    "Moved",
    "Pruned",
    "apply",
    "deactivate",
    "move",
    "prune",
    "reactivate",
    "register_token",
    "replace",
    "set_enabled",
    "unregister_token",
]
