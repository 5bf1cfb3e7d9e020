"""Our own backends against the emulator, over HTTP, down to the rows: the whole table of outcomes."""

import pytest
from django.utils import timezone

from django_push import Condition, Topic, check_push_receipts, get_token_model, register_token, send_push
from django_push.emulator import service_account, start_emulator
from django_push.models import PushProblem, ReceiptBatch
from django_push.outcomes import Outcome
from django_push.retry import RetryPolicy

EXPO = "django_push.backends.expo.ExpoBackend"
GCM = "django_push.backends.gcm.GCMBackend"
FCM = "django_push.backends.fcm.FCMBackend"
BACKENDS = {
    "expo": {"BACKEND": EXPO},
    "gcm": {"BACKEND": GCM, "OPTIONS": {"api_key": "key"}},
    "plain": {"BACKEND": GCM, "OPTIONS": {"api_key": "key", "format": "plaintext"}},
    "fcm": {"BACKEND": FCM, "OPTIONS": {"service_account_key": service_account}},
}
ALIASES = list(BACKENDS)

pytestmark = [pytest.mark.django_db, pytest.mark.slow]  # as a whole: it takes seconds


@pytest.fixture(autouse=True)
def _providers(settings, emulator):
    settings.PUSH_BACKENDS = BACKENDS
    settings.PUSH_EMULATOR_HOST = emulator.host


def token_of(alias, text):
    return f"ExponentPushToken[{text}]" if alias == "expo" else text


def send(alias, *texts, **options):
    tokens = [token_of(alias, text) for text in texts]
    return send_push(tokens, using=alias, **{"title": "Hi", "retry_budget": 0, **options})


def options_of(alias, **options):
    """Return the fields of a message that plain text can say too."""
    return {"data": {"k": "v"}, **({} if alias == "plain" else {"title": "Hi"}), **options}


def register(alias, *texts, **fields):
    return [register_token(token_of(alias, text), backend=alias, **fields)[0] for text in texts]


# What each marker of one token comes to: outcome, the provider's word, the row's status.
A, KEPT, GONE, BAD = Outcome.ACCEPTED, "active", "unregistered", "invalid"
TABLE = {
    "expo": {
        "plain-1": (A, "", KEPT),
        "unregistered-1": (Outcome.UNREGISTERED, "DeviceNotRegistered", GONE),
        "invalid-1": (Outcome.MESSAGE_REJECTED, "VALIDATION_ERROR", KEPT),
        "mismatch-1": (Outcome.SENDER_MISMATCH, "MismatchSenderId", KEPT),
        "too-big-1": (Outcome.MESSAGE_REJECTED, "MessageTooBig", KEPT),
        "setup-1": (Outcome.PROVIDER_SETUP, "InvalidCredentials", KEPT),
        "rate-1": (Outcome.RATE_LIMITED, "MessageRateExceeded", KEPT),
        "unavailable-1": (Outcome.UNAVAILABLE, "ProviderError", KEPT),
        "internal-1": (Outcome.UNAVAILABLE, "ExpoError", KEPT),
        "developer-1": (Outcome.MESSAGE_REJECTED, "DeveloperError", KEPT),
        "code-BrandNew-1": (Outcome.REJECTED, "BrandNew", KEPT),
        "receipt-unregistered-1": (A, "", KEPT),
    },
    "gcm": {
        "plain-1": (A, "", KEPT),
        "unregistered-1": (Outcome.UNREGISTERED, "NotRegistered", GONE),
        "invalid-1": (Outcome.INVALID_TOKEN, "InvalidRegistration", BAD),
        "payload-1": (Outcome.MESSAGE_REJECTED, "InvalidDataKey", KEPT),
        "mismatch-1": (Outcome.SENDER_MISMATCH, "MismatchSenderId", KEPT),
        "too-big-1": (Outcome.MESSAGE_REJECTED, "MessageTooBig", KEPT),
        "setup-1": (Outcome.PROVIDER_SETUP, "InvalidApnsCredential", KEPT),
        "rate-1": (Outcome.RATE_LIMITED, "DeviceMessageRateExceeded", KEPT),
        "unavailable-1": (Outcome.UNAVAILABLE, "Unavailable", KEPT),
        "internal-1": (Outcome.UNAVAILABLE, "InternalServerError", KEPT),
        "code-BrandNew-1": (Outcome.REJECTED, "BrandNew", KEPT),
        "code-InvalidTtl": (Outcome.MESSAGE_REJECTED, "InvalidTtl", KEPT),
    },
    "fcm": {
        "plain-1": (A, "", KEPT),
        "unregistered-1": (Outcome.UNREGISTERED, "UNREGISTERED", GONE),
        "invalid-1": (Outcome.INVALID_TOKEN, "INVALID_ARGUMENT", BAD),
        "invalid-field-1": (Outcome.INVALID_TOKEN, "INVALID_ARGUMENT", BAD),
        "payload-1": (Outcome.MESSAGE_REJECTED, "INVALID_ARGUMENT", KEPT),
        "mismatch-1": (Outcome.SENDER_MISMATCH, "SENDER_ID_MISMATCH", KEPT),
        "too-big-1": (Outcome.MESSAGE_REJECTED, "INVALID_ARGUMENT", KEPT),
        "setup-1": (Outcome.PROVIDER_SETUP, "THIRD_PARTY_AUTH_ERROR", KEPT),
        "rate-1": (Outcome.RATE_LIMITED, "QUOTA_EXCEEDED", KEPT),
        "unavailable-1": (Outcome.UNAVAILABLE, "UNAVAILABLE", KEPT),
        "internal-1": (Outcome.UNAVAILABLE, "INTERNAL", KEPT),
        "code-BRAND_NEW-1": (Outcome.REJECTED, "BRAND_NEW", KEPT),
    },
}
TABLE["plain"] = TABLE["gcm"]


@pytest.mark.parametrize("alias", ALIASES)
def test_table(alias, emulator):
    """Every marker comes to its outcome, keeps the provider's word, and leaves the row as it should be."""
    rows = dict(zip(TABLE[alias], register(alias, *TABLE[alias]), strict=True))
    result = send_push(get_token_model().objects.all(), retry_budget=0, **options_of(alias))
    found = {ticket.token: (ticket.outcome, ticket.code) for ticket in result}
    for text, row in rows.items():
        row.refresh_from_db()
        outcome, code, status = TABLE[alias][text]
        assert (text, *found[row.token], row.status) == (text, outcome, code, status)
    assert sum(emulator.state.accepted.values()) == result.accepted
    assert max(emulator.state.accepted.values()) == 1


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("request-rate", Outcome.RATE_LIMITED),
        ("request-unavailable", Outcome.UNAVAILABLE),
        ("request-internal", Outcome.UNAVAILABLE),
        ("request-html", Outcome.UNKNOWN),
        ("request-empty", Outcome.UNKNOWN),
    ],
)
def test_whole_request(alias, word, outcome):
    """A request that fails as a whole says the same of each of its tokens and kills none."""
    [row] = register(alias, word)
    result = send_push(row, retry_budget=0, **options_of(alias))
    assert [ticket.outcome for ticket in result] == [outcome]
    row.refresh_from_db()
    assert row.status == KEPT


def test_project_rate_with_wait(settings):
    """The wait that a rate limit asks for is in the result."""
    with start_emulator(retry_after=77) as emulator:
        settings.PUSH_EMULATOR_HOST = emulator.host
        for alias in ("expo", "gcm", "fcm"):
            result = send(alias, "request-rate")
            assert (result.retry_after, result.tickets[0].about_project) == (77, True)


@pytest.mark.parametrize("alias", ALIASES)
def test_retries(alias, emulator, monkeypatch):
    """What was unavailable once is accepted at the next try, and the others are not sent twice."""
    monkeypatch.setattr("django_push.sending.run.DEFAULT_POLICY", RetryPolicy(base=0.01))
    words = ["unavailable-once", "internal-twice", "plain"]
    result = send(alias, *words, retry_budget=None, **options_of(alias, title=None))
    assert result.accepted == 3
    assert emulator.state.accepted == {token_of(alias, word): 1 for word in words}


@pytest.mark.parametrize("alias", ["gcm", "plain"])
def test_canonical_ids(alias):
    """Two old ids that lead to one new id leave one active row; both pushes were accepted."""
    old, older, other = register(alias, "a-replaced-by-c", "b-replaced-by-c", "d")
    result = send_push([old, older, other], retry_budget=0, **options_of(alias))
    assert (result.accepted, result.changes.replaced) == (3, 2)
    rows = get_token_model().objects.filter(backend=alias)
    assert sorted(rows.filter(status="active").values_list("token", flat=True)) == ["c", "d"]
    assert rows.get(status="replaced").replaced_by == rows.get(token="c")


def test_canonical_chain():
    """A chain of canonical ids is followed one push at a time."""
    [row] = register("gcm", "a-replaced-by-b-replaced-by-c")
    for expected in ("b-replaced-by-c", "c", "c"):
        send_push(get_token_model().objects.filter(status="active"), data={"k": "v"})
        row.refresh_from_db()
        assert row.token == expected


def test_package():
    """A demanded package that is not the token's is a mismatch, and keeps the row."""
    result = send(
        "gcm", "package-1", "a", provider_options={"gcm": {"restricted_package_name": "com.example"}}
    )
    assert {t.token: t.outcome for t in result} == {"package-1": Outcome.SENDER_MISMATCH, "a": A}


def test_expo_projects(emulator):
    """A mixed request is regrouped by project, each push is sent once, and the projects are learned."""
    rows = register("expo", "project-shop-1", "project-news-1", "project-shop-2", "plain")
    result = send_push(rows, title="Hi")
    assert result.accepted == 4
    assert set(emulator.state.accepted.values()) == {1}
    for row in rows:
        row.refresh_from_db()
    assert [row.project for row in rows] == [
        "@emulator/shop",
        "@emulator/news",
        "@emulator/shop",
        "@emulator/app",
    ]
    sent = emulator.state.requests
    send_push(rows, title="Hi")
    assert emulator.state.requests == sent + 3


def test_expo_bad_message_blocks_nobody(emulator):
    """A message that Expo's validation refuses does not block the 99 others of its request."""
    rows = register("expo", "payload-1", *(f"good-{i}" for i in range(99)))
    result = send_push(rows, title="Hi", personalize=lambda row: {"body": row.token})
    assert (result.accepted, result.counts[Outcome.MESSAGE_REJECTED]) == (99, 1)
    assert set(emulator.state.accepted.values()) == {1}


def test_expo_bad_recipient_blocks_nobody(emulator):
    """A recipient that Expo's validation refuses does not block the 99 others of its message."""
    result = send("expo", *(f"good-{i}" for i in range(99)), "invalid-1")
    assert (result.accepted, result.counts[Outcome.MESSAGE_REJECTED]) == (99, 1)
    assert set(emulator.state.accepted.values()) == {1}


def test_expo_whole_message_refused():
    """A field of a wrong type is the message's fault for each of its tokens."""
    assert send("expo", "a", "payload-1").counts == {Outcome.MESSAGE_REJECTED: 2}
    result = send("expo", "a", "b", provider_options={"expo": {"priority": "urgent"}})
    assert result.counts == {Outcome.MESSAGE_REJECTED: 2}
    assert all('"[0].priority" must be one of' in ticket.detail for ticket in result)


RECEIPTS = {
    "plain": ("active", None),
    "receipt-unregistered-1": ("unregistered", None),
    "receipt-mismatch-1": ("active", (Outcome.SENDER_MISMATCH, "MismatchSenderId")),
    "receipt-mismatch-nested-1": ("active", (Outcome.SENDER_MISMATCH, "MismatchSenderId")),
    "receipt-too-big-1": ("active", (Outcome.MESSAGE_REJECTED, "MessageTooBig")),
    "receipt-setup-1": ("active", (Outcome.PROVIDER_SETUP, "InvalidCredentials")),
    "receipt-rate-1": ("active", (Outcome.RATE_LIMITED, "MessageRateExceeded")),
    "receipt-unavailable-1": ("active", (Outcome.UNAVAILABLE, "ProviderError")),
    "receipt-internal-1": ("active", (Outcome.UNAVAILABLE, "ExpoError")),
    "receipt-developer-1": ("active", (Outcome.MESSAGE_REJECTED, "DeveloperError")),
    "receipt-code-BrandNew-1": ("active", (Outcome.REJECTED, "BrandNew")),
    "receipt-never-1": ("active", None),
}


def test_expo_receipts():
    """Receipts kill the dead token, note the other failures, and wait for what is missing."""
    rows = dict(zip(RECEIPTS, register("expo", *RECEIPTS), strict=True))
    assert send_push(list(rows.values()), title="Hi").accepted == len(rows)
    ReceiptBatch.objects.update(due_at=timezone.now())
    summary = check_push_receipts()
    assert (summary.ok, summary.deactivated, summary.problems, summary.missing) == (1, 1, 9, 1)
    problems = {p.token_id: (p.outcome, p.code) for p in PushProblem.objects.all()}
    for text, row in rows.items():
        row.refresh_from_db()
        status, problem = RECEIPTS[text]
        assert (text, row.status, problems.get(row.pk)) == (text, status, problem)


def test_expo_receipts_not_ready(settings):
    """A receipt that is not ready yet is asked for again."""
    with start_emulator(receipt_delay=3600) as emulator:
        settings.PUSH_EMULATOR_HOST = emulator.host
        [row] = register("expo", "receipt-unregistered-1")
        send_push(row, title="Hi")
        for missing, deactivated in [(1, 0), (0, 1)]:
            ReceiptBatch.objects.update(due_at=timezone.now())
            summary = check_push_receipts()
            assert (summary.missing, summary.deactivated) == (missing, deactivated)
            emulator.state.advance(3601)


# --- credentials ----------------------------------------------------------------------------------

WRONG = {
    "expo": {"BACKEND": EXPO, "OPTIONS": {"access_token": "wrong-one"}},
    "gcm": {"BACKEND": GCM, "OPTIONS": {"api_key": "wrong-one"}},
    "plain": {"BACKEND": GCM, "OPTIONS": {"api_key": "wrong-one", "format": "plaintext"}},
    "fcm": {
        "BACKEND": FCM,
        "OPTIONS": {
            "service_account_key": lambda: service_account(
                client_email="wrong@emulator.iam.gserviceaccount.com"
            )
        },
    },
    "fcm denied": {
        "BACKEND": FCM,
        "OPTIONS": {
            "service_account_key": lambda: service_account(
                client_email="denied@emulator.iam.gserviceaccount.com"
            )
        },
    },
    "fcm project": {
        "BACKEND": FCM,
        "OPTIONS": {"service_account_key": service_account, "project_id": "wrong-one"},
    },
}


@pytest.mark.parametrize("alias", WRONG)
def test_wrong_credentials(alias, settings, emulator):
    """Wrong credentials are told as such, whatever the token's marker, and never kill a token."""
    settings.PUSH_BACKENDS = WRONG
    row, other = register(alias, "unregistered-1", "plain")
    if alias == "expo":
        for kept in (row, other):
            get_token_model().objects.filter(pk=kept.pk).update(token=f"ExponentPushToken[{kept.pk}]")
    result = send_push([row, other], **options_of(alias))
    assert result.counts == {Outcome.CREDENTIALS_REJECTED: 2}
    row.refresh_from_db()
    assert row.status == KEPT
    assert not emulator.state.accepted


def test_demanded_credentials(settings):
    """With the demanded credentials all is well, over each provider's own header."""
    with start_emulator(expo_access_token="right", gcm_key="right") as emulator:
        settings.PUSH_EMULATOR_HOST = emulator.host
        assert send("expo", "a").counts == {Outcome.CREDENTIALS_REJECTED: 1}
        assert send("gcm", "a").counts == {Outcome.CREDENTIALS_REJECTED: 1}
        settings.PUSH_BACKENDS = {
            "expo": {"BACKEND": EXPO, "OPTIONS": {"access_token": "right"}},
            "gcm": {"BACKEND": GCM, "OPTIONS": {"api_key": "right"}},
        }
        assert send("expo", "a").ok
        assert send("gcm", "a").ok


def test_expired_access_token(emulator, monkeypatch):
    """An access token that Google no longer takes is replaced once, and nothing is lost."""
    monkeypatch.setattr("django_push.credentials.FRESH", -1.0)
    assert send("fcm", "a", "b").ok
    emulator.state.expire_access_tokens()
    assert send("fcm", "a", "b").ok
    assert emulator.state.accepted == {"a": 2, "b": 2}


# --- other targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["gcm", "fcm"])
def test_topics(alias, emulator):
    """Topics and conditions are sent to, and their failures are theirs."""
    targets = [Topic("news"), Condition("'a' in topics"), Topic("unregistered-1"), Topic("rate-1")]
    result = send_push(targets, using=alias, title="Hi", retry_budget=0)
    assert result.accepted == 3
    [failed] = [ticket for ticket in result if ticket.outcome is not A]
    assert (failed.outcome, failed.token) == (Outcome.RATE_LIMITED, "rate-1")
    assert {push.kind for push in emulator.state.inbox} == {"topic", "condition"}


def test_fids():
    """An installation id is sent as such; one that is not valid is unregistered."""
    good, bad = register("fcm", "cGoodFid", "invalid-1", kind="fid")
    result = send_push([good, bad], title="Hi")
    assert result.counts == {A: 1, Outcome.UNREGISTERED: 1}
    bad.refresh_from_db()
    assert bad.status == GONE


def test_fcm_validate_only(emulator):
    """Google's own dry run finds dead tokens and counts nothing."""
    result = send("fcm", "a", "unregistered", provider_options={"fcm": {"validate_only": True}})
    assert {ticket.token: ticket.outcome for ticket in result} == {
        "a": A,
        "unregistered": Outcome.UNREGISTERED,
    }
    assert not emulator.state.accepted


@pytest.mark.parametrize("alias", ALIASES)
def test_everything_that_can_be_said(alias, emulator):
    """A message with every field that the backend can express passes the provider's validation."""
    from django_push.handler import push_backends
    from tests.emulator.messages import EVERYTHING

    fields = {name: value for name, value in EVERYTHING.items() if name in push_backends[alias].fields}
    result = send_push(token_of(alias, "a"), using=alias, retry_budget=0, **fields)
    assert [(ticket.outcome, ticket.detail) for ticket in result] == [(A, "")]
