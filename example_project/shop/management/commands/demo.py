"""What the library promises, shown on a local emulator of three providers."""

import os
import sys
from datetime import timedelta

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db.models import F
from django.test import override_settings

from django_push import check_push_receipts, get_token_model
from django_push.emulator import start_emulator
from django_push.models import ReceiptBatch
from shop.demo import orders
from shop.demo.newsletter import Newsletter

INLINE = "django_push.dispatch.inline.InlineDispatcher"


class Command(BaseCommand):
    help = (
        "Save orders, whose buyers are pushed to, and compare every token's state; then broadcast to "
        "thousands, kill a worker in the middle, and show that nobody was missed."
    )
    requires_migrations_checks = False

    def add_arguments(self, parser):
        text = "how many send the broadcast; one of them is killed"
        parser.add_argument("--workers", type=int, choices=range(1, 9), metavar="1..8", help=text)

    def handle(self, *args, **options):
        call_command("migrate", verbosity=0)
        self.clear()
        with start_emulator() as emulator, override_settings(PUSH_EMULATOR_HOST=emulator.host):
            self.title("1. One push to each buyer")
            self.say("An emulator of Expo, FCM and GCM starts on this machine; nothing leaves it.")
            with override_settings(PUSH_DISPATCHER=INLINE):
                wrong = orders.run(self.say, self.style, emulator, self.check_receipts)
            if wrong:
                raise CommandError(f"{wrong} of {len(orders.CASES)} tokens are not what they should be.")
            self.title("2. A broadcast that survives its worker")
            if trouble := Newsletter(self.stdout, self.style, emulator, options["workers"]).run():
                raise CommandError(f"The broadcast has not kept its promise: {trouble}.")
        self.invite()

    def say(self, text):
        self.stdout.write(text)

    def title(self, text):
        self.say(self.style.MIGRATE_HEADING(text))

    def clear(self):
        """Forget an earlier demo."""
        get_token_model().objects.filter(backend__in=settings.PUSH_BACKENDS, user=None).delete()
        ReceiptBatch.objects.all().delete()

    def check_receipts(self):
        """Look at the receipts as if the 15 minutes had passed that Expo asks for."""
        ReceiptBatch.objects.update(due_at=F("due_at") - timedelta(minutes=15))
        return check_push_receipts()

    def invite(self):
        """Say how to go on."""
        users = get_user_model()
        if not users.objects.filter(username="admin").exists():
            users.objects.create_superuser("admin", password="admin")
        manage = f"{os.path.relpath(sys.executable)} {sys.argv[0]}"
        self.say("Every token is what it should be. To look around (user admin, password admin):")
        self.say(f"    {manage} runserver        then open http://127.0.0.1:8000/admin/")
        self.say(f"    {manage} push_emulator    in another terminal, to push from the admin")
