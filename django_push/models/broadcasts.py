"""Broadcasts: one message to an audience, cut into lanes by alias and batches by claim.

Columns and reading words only. What changes them is in ``django_push.broadcasts``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.db.models import Count, Q, Sum
from django.utils.translation import gettext_lazy as _
from model_utils.models import TimeStampedModel

from django_push.models.progress import LaneProgress, Progress
from django_push.outcomes import Outcome

if TYPE_CHECKING:
    from typing_extensions import Self

#: The protocol of claims that this code speaks. Older code leaves newer broadcasts alone.
PROTOCOL = 1


class BroadcastStatus(models.TextChoices):
    """Where a broadcast stands."""

    DRAFT = "draft", _("draft")
    SCHEDULED = "scheduled", _("scheduled")
    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    #: Every token was attempted, or lies in an unknown batch.
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")
    #: Its time ran out; what had not been sent by then never is.
    EXPIRED = "expired", _("expired")


#: Nothing happens to such a broadcast any more, but for "resend unknown".
FINAL = (BroadcastStatus.DONE, BroadcastStatus.CANCELLED, BroadcastStatus.EXPIRED)


class LaneStatus(models.TextChoices):
    """Where the part of one alias stands. Only a running lane is claimed from."""

    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")


class BatchStatus(models.TextChoices):
    """Where some claimed tokens stand."""

    #: Chosen beforehand, not claimed yet.
    PLANNED = "planned", _("planned")
    #: Claimed: may have been sent from now on. ``due_at`` is when the lease ends.
    LEASED = "leased", _("leased")
    #: To be claimed again at ``due_at``.
    RETRY = "retry", _("to be sent again")
    #: May have been sent; not sent again by itself.
    UNKNOWN = "unknown", _("unknown")
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")


class PauseReason(models.TextChoices):
    """Why nothing is claimed."""

    OPERATOR = "operator", _("paused by hand")
    CREDENTIALS = "credentials", _("the provider refused our key")
    DEAD_TOKENS = "dead_tokens", _("too many tokens came back dead")
    REFUSED = "refused", _("too many pushes were refused")
    PROVIDER_DOWN = "provider_down", _("the provider does not answer")
    BACKEND = "backend", _("the alias is not configured")
    AUDIENCE = "audience", _("the audience cannot be read")
    MESSAGE = "message", _("the message cannot be said")
    PERMISSION = "permission", _("its user may not broadcast any more")


class UnknownPolicy(models.TextChoices):
    """What becomes of tokens that may have been sent to."""

    RETRY = "retry", _("send again, up to the cap")
    SKIP = "skip", _("never send again")


class BroadcastQuerySet(models.QuerySet["Broadcast"]):
    """Adjectives for broadcasts."""

    def running(self) -> Self:
        return self.filter(status=BroadcastStatus.RUNNING)

    def unfinished(self) -> Self:
        """Those to which something may still happen by itself or by hand."""
        return self.exclude(status__in=FINAL)


class Broadcast(TimeStampedModel):
    """One message to an audience, durable and resumable. Times are the database's clock.

    ``message`` is ``PushMessage.to_json()``; ``translations`` maps a language to such a message.
    ``audience`` is a specification that ``django_push.broadcasts.audiences`` reads.
    """

    Status = BroadcastStatus

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    name = models.CharField(_("name"), max_length=200, blank=True)
    message = models.JSONField(_("message"))
    translations = models.JSONField(_("translations"), default=dict, blank=True)
    personalize = models.CharField(
        _("personalize"), max_length=255, blank=True, help_text=_("The dotted path of a function.")
    )
    audience = models.JSONField(_("audience"), default=dict, blank=True)
    using = models.CharField(
        _("backend"), max_length=64, blank=True, help_text=_("One alias in PUSH_BACKENDS; empty: all.")
    )
    status = models.CharField(
        _("status"), max_length=16, choices=BroadcastStatus.choices, default=BroadcastStatus.DRAFT
    )
    pause_reason = models.CharField(_("pause reason"), max_length=16, blank=True, choices=PauseReason.choices)
    idempotency_key = models.CharField(
        _("idempotency key"),
        max_length=255,
        unique=True,
        null=True,
        blank=True,
        help_text=_("A second broadcast with the same key is the first."),
    )
    content_hash = models.CharField(_("content hash"), max_length=64, blank=True, editable=False)
    on_unknown = models.CharField(
        _("on unknown"),
        max_length=8,
        choices=UnknownPolicy.choices,
        default=UnknownPolicy.RETRY,
        help_text=_("What becomes of tokens that may have been sent to."),
    )
    max_sends = models.PositiveSmallIntegerField(_("most sends"), default=3)
    batch_size = models.PositiveIntegerField(
        _("batch size"), default=0, help_text=_("Tokens per claim; 0: what suits the backend.")
    )
    rate = models.FloatField(
        _("rate"), null=True, blank=True, help_text=_("The most tokens per second, over all backends.")
    )
    scheduled_at = models.DateTimeField(_("scheduled at"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    #: Tokens registered later are not in the audience.
    highest_pk = models.BigIntegerField(_("highest token ID"), default=0)
    #: Tokens of the audience whose alias was not in PUSH_BACKENDS at the start.
    unconfigured = models.PositiveBigIntegerField(_("tokens of unknown backends"), default=0)
    workers = models.PositiveSmallIntegerField(
        _("workers"), default=1, help_text=_("How many are asked for where there is a queue.")
    )
    #: Counts how often workers were asked for: those of an earlier time come to an end.
    wake_no = models.PositiveIntegerField(default=0, editable=False)
    #: Until when a worker has said to look after it. Nobody relies on it but to wake no more of them.
    awake_until = models.DateTimeField(null=True, blank=True, editable=False)
    protocol = models.PositiveSmallIntegerField(default=PROTOCOL, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("created by"),
    )
    #: Kept when the user is gone: a broadcast of somebody who no longer is there may not go on.
    created_by_name = models.CharField(_("created by (name)"), max_length=255, blank=True, editable=False)

    objects = models.Manager.from_queryset(BroadcastQuerySet)()

    class Meta:
        verbose_name = _("broadcast")
        verbose_name_plural = _("broadcasts")
        permissions = [("broadcast_push", _("Can broadcast push notifications"))]
        indexes = [models.Index(fields=["status", "scheduled_at"])]

    def __str__(self) -> str:
        return self.name or f"{self._meta.verbose_name} {self.pk}"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def source(self) -> str:
        """What ``PushToken.status_source`` says of tokens that it deactivated."""
        return f"broadcast:{self.pk}"

    @property
    def progress(self) -> Progress:
        """How far it is, by alias and outcome; one query."""
        using = self._state.db
        lanes = BroadcastLane.objects.using(using).filter(broadcast_id=self.pk)
        open_ = (BatchStatus.PLANNED, BatchStatus.LEASED, BatchStatus.RETRY)
        found = lanes.order_by("backend").annotate(
            told_size=Sum("batches__size", default=0),
            open_pending=Sum("batches__pending", filter=Q(batches__status__in=open_), default=0),
            planned=Sum("batches__pending", filter=Q(batches__status=BatchStatus.PLANNED), default=0),
            leased=Count("batches", filter=Q(batches__status=BatchStatus.LEASED)),
            unknown=Sum("batches__pending", filter=Q(batches__status=BatchStatus.UNKNOWN), default=0),
            cancelled=Sum("batches__pending", filter=Q(batches__status=BatchStatus.CANCELLED), default=0),
            skipped=Sum("batches__skipped", default=0),
            resent=Sum("batches__resent", default=0),
            **{f"sum_{name}": Sum(f"batches__{name}", default=0) for name in COUNTED},
        )
        return Progress(lanes=tuple(map(_lane_progress, found)), unconfigured=self.unconfigured)


class BroadcastLane(models.Model):
    """One alias's part of a broadcast, so that one provider's trouble does not stop the others.

    Every claim locks this row. ``cursor`` is the key of the last token claimed; ``is_read`` says that
    the audience holds no more. ``totals`` has the counts of batches that were pruned.
    """

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    broadcast = models.ForeignKey(
        Broadcast, on_delete=models.CASCADE, related_name="lanes", verbose_name=_("broadcast")
    )
    backend = models.CharField(_("backend"), max_length=64)
    status = models.CharField(
        _("status"), max_length=16, choices=LaneStatus.choices, default=LaneStatus.WAITING
    )
    pause_reason = models.CharField(_("pause reason"), max_length=16, blank=True, choices=PauseReason.choices)
    pause_detail = models.CharField(_("pause detail"), max_length=200, blank=True)
    size = models.PositiveBigIntegerField(_("tokens"), default=0, help_text=_("As counted at the start."))
    cursor = models.BigIntegerField(default=0)
    is_read = models.BooleanField(default=False)
    #: Batches in a row that the provider did not answer, and until when it is left alone for it.
    misses = models.PositiveSmallIntegerField(default=0)
    hold_until = models.DateTimeField(null=True, blank=True)
    #: Somebody has resumed it after the breaker had paused it.
    is_trusted = models.BooleanField(default=False)
    receipts_ok = models.PositiveBigIntegerField(_("receipts: handed over"), default=0)
    receipts_dead = models.PositiveBigIntegerField(_("receipts: dead tokens"), default=0)
    receipts_failed = models.PositiveBigIntegerField(_("receipts: failed"), default=0)
    receipts_expired = models.PositiveBigIntegerField(_("receipts: never came"), default=0)
    totals = models.JSONField(default=dict, blank=True, editable=False)

    class Meta:
        verbose_name = _("broadcast lane")
        verbose_name_plural = _("broadcast lanes")
        constraints = [
            models.UniqueConstraint(fields=["broadcast", "backend"], name="django_push_one_lane_per_alias")
        ]

    def __str__(self) -> str:
        return f"{self.broadcast_id}: {self.backend}"


class BroadcastBatch(models.Model):
    """Some tokens of a lane: the record of intent before they are sent to, and of what came of it.

    ``pks`` are those that have no final verdict, packed (``django_push.broadcasts.packing``); they go
    as verdicts come. ``size`` is ``pending``, ``skipped`` and the outcomes added up.
    """

    id = models.BigAutoField(primary_key=True, verbose_name="ID")
    lane = models.ForeignKey(
        BroadcastLane, on_delete=models.CASCADE, related_name="batches", verbose_name=_("lane")
    )
    status = models.CharField(_("status"), max_length=16, choices=BatchStatus.choices)
    pks = models.BinaryField()
    size = models.PositiveIntegerField(_("tokens"))
    pending = models.PositiveIntegerField(_("without a verdict"))
    #: How often it was claimed: only the last claimant may write its result.
    claim_no = models.PositiveIntegerField(_("claims"), default=0)
    #: How many of the claims may have reached the provider.
    sends = models.PositiveSmallIntegerField(_("sends"), default=0)
    #: Tokens that were sent to again although an earlier send may have reached them.
    resent = models.PositiveIntegerField(_("sent again"), default=0)
    due_at = models.DateTimeField(_("due at"))
    claimed_at = models.DateTimeField(_("claimed at"), null=True, blank=True)
    code = models.CharField(_("code"), max_length=200, blank=True)
    skipped = models.PositiveIntegerField(_("skipped"), default=0)
    accepted = models.PositiveIntegerField(default=0)
    unregistered = models.PositiveIntegerField(default=0)
    invalid_token = models.PositiveIntegerField(default=0)
    sender_mismatch = models.PositiveIntegerField(default=0)
    message_rejected = models.PositiveIntegerField(default=0)
    provider_setup = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    rate_limited = models.PositiveIntegerField(default=0)
    unavailable = models.PositiveIntegerField(default=0)
    not_sent = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = _("broadcast batch")
        verbose_name_plural = _("broadcast batches")
        indexes = [models.Index(fields=["lane", "status", "id"])]

    def __str__(self) -> str:
        return f"{self.lane_id}/{self.pk}: {self.size}, {self.status}"


class RateBucket(models.Model):
    """How far an alias's quota is spoken for: one row shared by all processes (GCRA).

    Times are Unix seconds by the database's clock: they are only ever compared with each other.
    """

    key = models.CharField(_("key"), max_length=100, primary_key=True)
    #: When the quota that was reserved so far is used up.
    spoken_for = models.FloatField(default=0.0)
    #: Nothing is sent before: the provider has asked for it.
    blocked_until = models.FloatField(default=0.0)
    #: Since when it has been in use without a long break, for the ramp.
    busy_since = models.FloatField(default=0.0)

    class Meta:
        verbose_name = _("rate bucket")
        verbose_name_plural = _("rate buckets")

    def __str__(self) -> str:
        return self.key


#: The outcomes that are final in a broadcast: each has a column of BroadcastBatch.
COUNTED = (
    "accepted",
    "unregistered",
    "invalid_token",
    "sender_mismatch",
    "message_rejected",
    "provider_setup",
    "rejected",
    "rate_limited",
    "unavailable",
    "not_sent",
)


def _lane_progress(lane: Any) -> LaneProgress:
    totals: dict[str, int] = lane.totals or {}

    def counted(name: str, key: str) -> int:
        return int(getattr(lane, name)) + totals.get(key, 0)

    return LaneProgress(
        backend=lane.backend,
        status=lane.status,
        pause_reason=lane.pause_reason,
        pause_detail=lane.pause_detail,
        expected=lane.size,
        claimed=counted("told_size", "size") - lane.planned,
        pending=lane.open_pending,
        planned=lane.planned,
        in_flight=lane.leased,
        unknown=counted("unknown", "unknown"),
        cancelled=counted("cancelled", "cancelled"),
        skipped=counted("skipped", "skipped"),
        resent=counted("resent", "resent"),
        counts={Outcome(name): n for name in COUNTED if (n := counted(f"sum_{name}", name))},
        is_read=lane.is_read,
        hold_until=_as_datetime(lane.hold_until),
        receipts={
            name: n
            for name in ("ok", "dead", "failed", "expired")
            if (n := int(getattr(lane, f"receipts_{name}")))
        },
    )


def _as_datetime(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
