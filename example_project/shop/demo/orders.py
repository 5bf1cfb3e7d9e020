"""The main job, from a saved order to right token state."""

import json
from dataclasses import dataclass
from urllib.request import urlopen

from django.contrib.auth import get_user_model
from django.db import transaction

from django_push import get_token_model, register_token
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


def run(say, style, emulator, check_receipts):
    """Save orders, look at receipts, and compare every token's state; return how many are wrong."""
    get_user_model().objects.filter(username__startswith=PREFIX).delete()
    rows = [_register(number, case) for number, case in enumerate(CASES, start=1)]
    before = {row.pk: row.status for row in rows}
    say(f"{len(rows)} tokens are registered, one for each buyer. Every buyer's order is saved.")
    with transaction.atomic():
        for row in rows:
            Order.objects.create(buyer=row.user, item="A box of tea")
    say("The transaction has committed, and the signal has pushed. The providers were told:")
    for push in reversed(_inbox(emulator)):
        said = f"{push['title']} ({push['body']})"
        say(f"    {push['provider']:<5} {push['target']:<32} {said:<38} → {push['outcome']}")
    say(f"15 minutes later, Expo's receipts are asked for: {check_receipts()}.")
    return _report(say, style, rows, before)


def _register(number, case):
    buyer = get_user_model().objects.create(username=f"{PREFIX}{number}", first_name=case.buyer)
    row, _ = register_token(case.token, user=buyer, backend=case.alias, platform="android")
    if not case.enabled:
        set_enabled(get_token_model().objects.filter(pk=row.pk), False)
    return row


def _inbox(emulator):
    """Return what the emulator's providers were sent, newest first."""
    with urlopen(f"{emulator.url}/inbox.json") as answer:  # noqa: S310 - our own, on this machine
        return json.load(answer)["pushes"]


def _report(say, style, rows, before):
    """Print what each token was and is; return how many are not as they should be."""
    wrong = 0
    line = "{:<6} {:<32} {:<32} {:<7} {:<14} {:<20} {}"
    say("")
    say(line.format("Alias", "The token is", "Token afterwards", "Was", "Is", "Because", "That is"))
    say("-" * 132)
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
        verdict = style.SUCCESS("right") if as_expected else style.ERROR("WRONG")
        say(line.format(case.alias, case.buyer, shown, before[row.pk], state, because, verdict))
    say("")
    return wrong
