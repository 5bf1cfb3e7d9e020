"""The main job, from a saved order to right token state, on a local emulator of three providers."""

import json
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from urllib.request import urlopen

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import F
from django.test import override_settings

from django_push import check_push_receipts, get_token_model, register_token
from django_push.emulator import start_emulator
from django_push.models import ReceiptBatch
from django_push.tokens import set_enabled
from shop.models import Order

PREFIX = "demo-"


@dataclass(frozen=True)
class Case:
    """A buyer with one token, and what must have become of it."""

    buyer: str
    alias: str
    token: str
    status: str
    reason: str = ""
    new_token: str = ""
    enabled: bool = True


# The emulator answers by the words in a token, as providers' test cards do.
CASES = [
    Case("healthy", "expo", "ExponentPushToken[healthy-00000000000001]", "active"),
    Case(
        "gone, says the ticket",
        "expo",
        "ExponentPushToken[unregistered-000000002]",
        "unregistered",
        "DeviceNotRegistered",
    ),
    Case(
        "gone, says the receipt",
        "expo",
        "ExponentPushToken[receipt-unregistered-3]",
        "unregistered",
        "DeviceNotRegistered",
    ),
    Case("healthy", "fcm", "healthy-000000000000000000000004", "active"),
    Case("gone", "fcm", "unregistered-0000000000000000005", "unregistered", "UNREGISTERED"),
    Case("no token of theirs", "fcm", "invalid-000000000000000000000006", "invalid", "INVALID_ARGUMENT"),
    Case("another project's", "fcm", "mismatch-00000000000000000000007", "active"),
    Case("healthy", "gcm", "healthy-000000000000000000000008", "active"),
    Case("gone", "gcm", "unregistered-0000000000000000009", "unregistered", "NotRegistered"),
    Case(
        "renewed",
        "gcm",
        "old-replaced-by-fresh-0000000000010",
        "active",
        new_token="fresh-0000000000010",
    ),
    Case("muted by its user", "gcm", "healthy-000000000000000000000011", "active", enabled=False),
    Case("at a relay that refuses our key", "relay", "healthy-000000000000000000000012", "active"),
]


class Command(BaseCommand):
    help = "Run the main job: register tokens, save orders, check receipts, and compare every token's state."
    requires_migrations_checks = False

    def handle(self, *args, **options):
        call_command("migrate", verbosity=0)
        self.say("An emulator of Expo, FCM and GCM starts on this machine; nothing leaves it.")
        with start_emulator() as emulator, override_settings(PUSH_EMULATOR_HOST=emulator.host):
            self.clear()
            rows = [self.register(case) for case in CASES]
            before = {row.pk: row.status for row in rows}
            self.say(f"{len(rows)} tokens are registered, one for each buyer. Every buyer's order is saved.")
            with transaction.atomic():
                for row in rows:
                    Order.objects.create(buyer=row.user, item="A box of tea")
            self.say("The transaction has committed, and the signal has pushed. The providers were told:")
            for push in reversed(self.inbox(emulator)):
                said = f"{push['title']} ({push['body']})"
                self.say(f"    {push['provider']:<5} {push['target']:<32} {said:<38} → {push['outcome']}")
            self.check_receipts()
        wrong = self.report(rows, before)
        if wrong:
            raise CommandError(f"{wrong} of {len(rows)} tokens are not what they should be.")
        self.invite()

    def say(self, text, style=None):
        self.stdout.write(style(text) if style else text)

    def clear(self):
        """Forget an earlier demo."""
        get_user_model().objects.filter(username__startswith=PREFIX).delete()
        get_token_model().objects.filter(backend__in=settings.PUSH_BACKENDS, user=None).delete()
        ReceiptBatch.objects.all().delete()

    def register(self, case):
        number = CASES.index(case) + 1
        buyer = get_user_model().objects.create(username=f"{PREFIX}{number}", first_name=case.buyer)
        row, _ = register_token(case.token, user=buyer, backend=case.alias, platform="android")
        if not case.enabled:
            set_enabled(get_token_model().objects.filter(pk=row.pk), False)
        return row

    def inbox(self, emulator):
        """Return what the emulator's providers were sent, newest first."""
        with urlopen(f"{emulator.url}/inbox.json") as answer:  # noqa: S310 - our own, on this machine
            return json.load(answer)["pushes"]

    def check_receipts(self):
        """Look at the receipts as if the 15 minutes had passed that Expo asks for."""
        ReceiptBatch.objects.update(due_at=F("due_at") - timedelta(minutes=15))
        self.say(f"15 minutes later, Expo's receipts are asked for: {check_push_receipts()}.")

    def report(self, rows, before):
        """Print what each token was and is; return how many are not as they should be."""
        wrong = 0
        line = "{:<6} {:<32} {:<32} {:<7} {:<14} {:<20} {}"
        self.say("")
        self.say(line.format("Alias", "The token is", "Token afterwards", "Was", "Is", "Because", "That is"))
        self.say("-" * 132)
        for case, row in zip(CASES, rows, strict=True):
            row.refresh_from_db()
            as_expected = (row.status, row.status_code, row.token, row.enabled) == (
                case.status,
                case.reason,
                case.new_token or case.token,
                case.enabled,
            )
            wrong += not as_expected
            shown = row.masked if not case.new_token else f"→ {row.masked}"
            state = row.status if row.enabled else f"{row.status}, muted"
            because = row.status_code or ("canonical id" if case.new_token else "")
            verdict = self.style.SUCCESS("right") if as_expected else self.style.ERROR("WRONG")
            self.say(line.format(case.alias, case.buyer, shown, before[row.pk], state, because, verdict))
        self.say("")
        return wrong

    def invite(self):
        """Say how to go on."""
        users = get_user_model()
        if not users.objects.filter(username="admin").exists():
            users.objects.create_superuser("admin", password="admin")
        manage = f"{os.path.relpath(sys.executable)} {sys.argv[0]}"
        self.say("Every token is what it should be. To look around (user admin, password admin):")
        self.say(f"    {manage} runserver        then open http://127.0.0.1:8000/admin/")
        self.say(f"    {manage} push_emulator    in another terminal, to push from the admin")
