"""The events of a token's life, and of a broadcast's.

Each is sent after the transaction has committed, once per token, robustly: a receiver that fails
is logged and stops nobody. Arguments besides ``sender`` (the token model): ``token``, the row as it
is now, and those named below.
"""

from django.dispatch import Signal

#: A token was registered for the first time, or again. ``created``: whether the row is new.
token_registered = Signal()
#: A token moved to another user: the last login owns the phone. ``previous_user_id``.
token_transferred = Signal()
#: A token stopped being sendable. ``status``, ``code``, ``source``.
token_deactivated = Signal()
#: A token's text changed, or its row was merged into another. ``previous_token``; ``token`` is the
#: row that lives on and ``replaced_id`` the pk of the row that was merged away (None: kept its row).
token_replaced = Signal()
#: A token that was not active is active again. ``source``.
token_reactivated = Signal()
#: A run over due receipts has ended. Sent with ``sender=None`` and ``summary``, a ReceiptSummary.
receipts_checked = Signal()
#: A broadcast has begun: its first token may be claimed. ``broadcast``; the sender is its class.
broadcast_started = Signal()
#: A broadcast was paused, by hand or by itself. ``broadcast``, ``reason``.
broadcast_paused = Signal()
#: A broadcast is over: done, cancelled or expired. ``broadcast``.
broadcast_finished = Signal()
