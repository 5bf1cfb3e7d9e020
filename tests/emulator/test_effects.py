"""Every fault against every backend, over the real transport: the outcome, and what was accepted."""

import time

import pytest
from django.utils import timezone

from django_push import Topic, check_push_receipts, register_token, send_push
from django_push.emulator import Fault, Faults, service_account, start_emulator
from django_push.models import ReceiptBatch
from django_push.outcomes import Outcome
from django_push.retry import RetryPolicy

GCM = "django_push.backends.gcm.GCMBackend"
BACKENDS = {
    "expo": ("django_push.backends.expo.ExpoBackend", {}),
    "gcm": (GCM, {"api_key": "key"}),
    "plain": (GCM, {"api_key": "key", "format": "plaintext"}),
    "fcm": ("django_push.backends.fcm.FCMBackend", {"service_account_key": service_account}),
}
#: The aliases whose requests hold more than one token.
IN_BULK = ("expo", "gcm")

# What each fault comes to, and whether the pushes of its request were accepted.
TABLE = {
    Fault.RATE_LIMITED: (Outcome.RATE_LIMITED, False),
    Fault.RATE_LIMITED_DATE: (Outcome.RATE_LIMITED, False),
    Fault.RATE_LIMITED_GARBAGE: (Outcome.RATE_LIMITED, False),
    Fault.RATE_LIMITED_HUGE: (Outcome.RATE_LIMITED, False),
    Fault.RATE_LIMITED_BARE: (Outcome.RATE_LIMITED, False),
    Fault.REFUSED: (Outcome.UNAVAILABLE, False),
    Fault.REFUSED_500: (Outcome.UNAVAILABLE, False),
    Fault.RESET_BEFORE: (Outcome.UNKNOWN, False),
    Fault.UNAVAILABLE_HTML: (Outcome.UNKNOWN, False),
    Fault.EXPIRED_AUTH: (Outcome.ACCEPTED, True),
    Fault.RESET_AFTER: (Outcome.UNKNOWN, True),
    Fault.BAD_GATEWAY: (Outcome.UNKNOWN, True),
    Fault.HANG: (Outcome.UNKNOWN, True),
    Fault.TRUNCATED: (Outcome.UNKNOWN, True),
    Fault.TRUNCATED_HONEST: (Outcome.UNKNOWN, True),
    Fault.INVALID_JSON: (Outcome.UNKNOWN, True),
    Fault.SHORT: (Outcome.UNKNOWN, True),
    Fault.LONG: (Outcome.UNKNOWN, True),
    Fault.DRIP: (Outcome.UNKNOWN, True),
}
#: Half a line of plain text still says that the push was accepted.
EXCEPTIONS = {("plain", Fault.TRUNCATED_HONEST): Outcome.ACCEPTED}
SLOW = (Fault.HANG, Fault.DRIP)

pytestmark = [pytest.mark.django_db, pytest.mark.slow]  # as a whole: it takes seconds


@pytest.fixture(autouse=True)
def _providers(settings, emulator):
    use(settings)
    settings.PUSH_EMULATOR_HOST = emulator.host


def use(settings, **options):
    settings.PUSH_BACKENDS = {
        alias: {"BACKEND": backend, "OPTIONS": own | options} for alias, (backend, own) in BACKENDS.items()
    }


def tokens_of(alias, *texts):
    return [f"ExponentPushToken[{text}]" if alias == "expo" else text for text in texts]


def send(alias, tokens, **options):
    said = {"data": {"k": "v"}} if alias == "plain" else {"title": "Hi"}
    return send_push(tokens, using=alias, **{"retry_budget": 0, **said, **options})


def test_table_is_whole():
    """No fault is left out of the table."""
    assert set(TABLE) == set(Fault)


@pytest.mark.parametrize("alias", BACKENDS)
@pytest.mark.parametrize("kind", TABLE)
def test_table(kind, alias, settings, emulator, monkeypatch):
    """Each fault has its outcome for every token of the request; what was accepted is counted."""
    monkeypatch.setattr("django_push.credentials.FRESH", -1.0)
    if kind in SLOW:
        use(settings, timeout=0.4)
    tokens = tokens_of(alias, *(["a", "b", "c"] if alias in IN_BULK else ["a"]))
    outcome, is_accepted = TABLE[kind]
    emulator.state.faults = Faults(schedule=[kind])
    result = send(alias, tokens)
    expected = EXCEPTIONS.get((alias, kind), outcome)
    assert [ticket.outcome for ticket in result] == [expected] * len(tokens)
    assert emulator.state.accepted == (dict.fromkeys(tokens, 1) if is_accepted else {})
    has_effect = kind is not Fault.EXPIRED_AUTH or alias == "fcm"
    assert emulator.state.faults.applied == ({kind: 1} if has_effect else {})
    assert send(alias, tokens_of(alias, "later")).accepted == 1


@pytest.mark.parametrize("alias", ["gcm", "fcm"])
@pytest.mark.parametrize("kind", [Fault.SHORT, Fault.LONG, Fault.INVALID_JSON])
def test_topic(kind, alias, emulator):
    """An answer about one topic has one ticket too: spoiled, it says nothing."""
    emulator.state.faults = Faults(schedule=[kind])
    assert send(alias, Topic("news")).counts == {Outcome.UNKNOWN: 1}
    assert sum(emulator.state.accepted.values()) == 1


@pytest.mark.parametrize("alias", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (Fault.RATE_LIMITED, 120, 120),
        (Fault.RATE_LIMITED_DATE, 100, 120),
        (Fault.RATE_LIMITED_HUGE, 86_400, 86_400),
    ],
)
def test_retry_after(kind, least, most, alias, settings):
    """The wait that is asked for arrives, whatever its form."""
    with start_emulator(retry_after=120, faults=Faults(schedule=[kind])) as emulator:
        settings.PUSH_EMULATOR_HOST = emulator.host
        assert least <= send(alias, tokens_of(alias, "a")).retry_after <= most


@pytest.mark.parametrize("kind", [Fault.RATE_LIMITED_GARBAGE, Fault.RATE_LIMITED_BARE])
def test_no_retry_after(kind, emulator):
    """A wait that cannot be read is no wait."""
    emulator.state.faults = Faults(schedule=[kind])
    [ticket] = send("expo", tokens_of("expo", "a"))
    assert (ticket.code, ticket.retry_after) == ("TOO_MANY_REQUESTS", None)


@pytest.mark.parametrize(("kind", "code"), [(Fault.REFUSED, "UNAVAILABLE"), (Fault.REFUSED_500, "INTERNAL")])
def test_refused_words(kind, code, emulator):
    """A refusal has the provider's own words."""
    emulator.state.faults = Faults(schedule=[kind])
    assert [ticket.code for ticket in send("fcm", ["a"])] == [code]


@pytest.mark.parametrize("alias", BACKENDS)
def test_retried(alias, emulator, monkeypatch):
    """Refused at first and accepted then, each push is counted once."""
    monkeypatch.setattr("django_push.sending.run.DEFAULT_POLICY", RetryPolicy(base=0.01))
    emulator.state.faults = Faults(schedule=["refused", "rate-limited"])
    tokens = tokens_of(alias, "a", "b")
    assert send(alias, tokens, retry_budget=None).accepted == 2
    assert emulator.state.accepted == dict.fromkeys(tokens, 1)


def test_drip_to_the_end(emulator, monkeypatch):
    """Who waits for all the bytes of a drip has the whole answer."""
    monkeypatch.setattr("django_push.emulator.server.DRIP", 0.0005)
    emulator.state.faults = Faults(schedule=["drip"])
    assert send("expo", tokens_of("expo", "a")).accepted == 1


def test_stays_expired(emulator):
    """An expired access token is refused until a new one is bought."""
    assert send("fcm", ["a"]).accepted == 1
    emulator.state.faults = Faults(schedule=["expired-auth"])
    for _ in range(2):  # bought a moment ago, it is not renewed
        assert send("fcm", ["b"]).counts == {Outcome.CREDENTIALS_REJECTED: 1}
    assert emulator.state.accepted == {"a": 1}


def test_refusal_of_the_provider_stays(emulator):
    """One ticket too few of none is none: what the provider refuses itself stays refused."""
    emulator.state.faults = Faults(schedule=["short", "long"])
    for _ in range(2):
        assert send("fcm", ["unregistered-1"]).counts == {Outcome.UNREGISTERED: 1}


@pytest.mark.parametrize("kind", ["reset-before", "refused", "refused-500", "rate-limited", "long", "drip"])
def test_oauth(kind, settings, emulator):
    """Without an access token no push is sent; the next call buys one."""
    use(settings, timeout=0.4)
    emulator.state.faults = Faults(schedule=[kind], paths=["oauth"])
    assert send("fcm", ["a"]).counts == {Outcome.NOT_SENT: 1}
    assert not emulator.state.accepted
    use(settings)
    assert send("fcm", ["a"]).accepted == 1


@pytest.mark.parametrize("kind", ["short", "refused", "bad-gateway", "reset-after", "truncated", "long"])
def test_receipts(kind, emulator):
    """A lost answer about receipts is asked for again, and nothing is missed at last."""
    rows = [register_token(token)[0] for token in tokens_of("expo", "a", "receipt-unregistered-1")]
    assert send("expo", rows).accepted == 2
    emulator.state.faults = Faults(schedule=[kind], paths=["receipts"])
    told = 0
    for _ in range(2):
        ReceiptBatch.objects.update(due_at=timezone.now())
        summary = check_push_receipts()
        told += summary.ok + summary.deactivated
    assert emulator.state.faults.applied == {kind: 1}
    assert told == 2
    assert not ReceiptBatch.objects.exists()


def test_latency(emulator):
    """Every answer comes so much later."""
    send("gcm", ["a"])
    emulator.state.latency = 0.15
    began = time.monotonic()
    assert send("gcm", ["a"]).accepted == 1
    assert time.monotonic() - began >= 0.15
