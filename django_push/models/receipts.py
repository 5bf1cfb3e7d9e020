"""Receipts that are still to be asked for, and problems that are no token's fault."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class ReceiptBatch(models.Model):
    """Up to 1000 accepted tickets in one row, packed (see ``django_push.receipts``).

    The row goes when each ticket has its receipt, or at the deadline. ``due_at`` is when to ask, or
    while ``claim`` is set, when that claim has lapsed. All times are the database's.
    """

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    backend = models.CharField(_("backend"), max_length=64)
    tickets = models.BinaryField(_("tickets"))
    size = models.PositiveIntegerField(_("open tickets"))
    sent_at = models.DateTimeField(_("sent at"), help_text=_("The earliest of the batch."))
    due_at = models.DateTimeField(_("due at"))
    deadline = models.DateTimeField(_("deadline"))
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    #: The broadcast that sent them; no foreign key, it may be gone by then.
    broadcast_id = models.BigIntegerField(_("broadcast"), null=True, blank=True, editable=False)
    claim = models.CharField(_("claim"), max_length=32, blank=True, editable=False)

    class Meta:
        verbose_name = _("receipt batch")
        verbose_name_plural = _("receipt batches")
        indexes = [models.Index(fields=["due_at", "backend"])]

    def __str__(self) -> str:
        return f"{self.backend}: {self.size} tickets"


class PushProblem(models.Model):
    """A failure of a broadcast, or told by a receipt, that is no dead token: something to look at."""

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    backend = models.CharField(_("backend"), max_length=64)
    broadcast_id = models.BigIntegerField(_("broadcast"), null=True, blank=True)
    token_id = models.BigIntegerField(_("token ID"), null=True)
    outcome = models.CharField(_("outcome"), max_length=32)
    code = models.CharField(_("code"), max_length=200, blank=True)
    detail = models.CharField(_("detail"), max_length=200, blank=True)
    created = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("push problem")
        verbose_name_plural = _("push problems")
        indexes = [models.Index(fields=["created"]), models.Index(fields=["broadcast_id"])]

    def __str__(self) -> str:
        return f"{self.backend}: {self.code or self.outcome}"
