"""FCM HTTP v1: the wire, row by row."""

import json
import re
import time
from pathlib import Path

import pytest

from django_push.backends.fcm import FCMBackend
from django_push.exceptions import InvalidPushBackend
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind
from django_push.wire import Failure, Reply, Secret
from tests.backends.replies import (
    BAD_REQUEST,
    FCM_ERROR,
    QUOTA_FAILURE,
    SERVICE_ACCOUNT,
    fcm_error,
    fcm_ok,
    ok,
    reply,
    violations,
)

HELLO = PushMessage(title="Hello")
TOKEN = "c1d2e3f4:APA91b-x_y"
KINDS = (TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION)


def make(**options):
    return FCMBackend(**{"alias": "fcm", "service_account_key": SERVICE_ACCOUNT, **options})


@pytest.fixture
def backend():
    return make()


def one(backend, message=HELLO, kind=TargetKind.TOKEN, value=TOKEN):
    [request] = backend.build([(message, [Target(value, 1, kind)])])
    return request


def said(request):
    return json.loads(request.body)["message"]


def read(backend, answer, kind=TargetKind.TOKEN, generation=1):
    """Return the ticket for an answer to a request that was sent with a fresh bearer token."""
    request = one(backend, kind=kind)
    if generation:
        [request] = backend.parse(request, reply(401, b"")).resend
    [ticket] = backend.parse(request, answer).tickets
    return ticket


# --- out ----------------------------------------------------------------------------------------------


def test_a_whole_message_becomes_v1_blocks(backend, monkeypatch):
    """Every field goes to the blocks of the platforms that know it."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.9)
    message = PushMessage(
        title="Order 17", body="On its way", subtitle="Shop", data={"order": 17, "gift": None, "s": "x"},
        image="https://example.com/a.png", icon="truck", color="#112233", sound="ding.wav", badge=2,
        ttl=3600, priority="high", collapse_key="order", tag="order-17", channel_id="orders",
        category="ORDER", thread_id="orders", link="https://example.com/17",
        interruption_level="time-sensitive", content_available=True, mutable_content=True,
        analytics_label="autumn-17",
        provider_options={"fcm": {"android": {"direct_boot_ok": True, "notification": {"ticker": "!"}}}},
    )  # fmt: skip
    expected = {
        "message": {
            "token": TOKEN,
            "notification": {
                "title": "Order 17",
                "body": "On its way",
                "image": "https://example.com/a.png",
            },
            "data": {"order": "17", "gift": "null", "s": "x"},
            "android": {
                "collapse_key": "order",
                "priority": "HIGH",
                "ttl": "3600s",
                "direct_boot_ok": True,
                "notification": {
                    "icon": "truck",
                    "color": "#112233",
                    "sound": "ding.wav",
                    "tag": "order-17",
                    "channel_id": "orders",
                    "click_action": "ORDER",
                    "notification_count": 2,
                    "ticker": "!",
                },
            },
            "apns": {
                "headers": {
                    "apns-collapse-id": "order-17",
                    "apns-expiration": "1800003600",
                    "apns-priority": "10",
                },
                "payload": {
                    "aps": {
                        "alert": {"title": "Order 17", "subtitle": "Shop", "body": "On its way"},
                        "badge": 2,
                        "sound": "ding.wav",
                        "thread-id": "orders",
                        "category": "ORDER",
                        "content-available": 1,
                        "mutable-content": 1,
                        "interruption-level": "time-sensitive",
                    }
                },
            },
            "webpush": {"headers": {"TTL": "3600"}, "fcm_options": {"link": "https://example.com/17"}},
            "fcm_options": {"analytics_label": "autumn-17"},
        }
    }
    request = one(backend, message)
    assert expected == json.loads(request.body)
    assert request.url == "https://fcm.googleapis.com/v1/projects/shop-prod/messages:send"
    assert request.headers == {
        "Content-Type": "application/json; charset=UTF-8",
        "X-GOOG-API-FORMAT-VERSION": "2",
    }


def test_every_field_of_a_message_is_claimed(backend):
    """FCM can express every field."""
    assert backend.fields == set(PushMessage.__dataclass_fields__) - {"provider_options"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"title": "Hi"}, {"notification": {"title": "Hi"}}),
        ({"data": {"a": "b"}}, {"data": {"a": "b"}}),
        (
            {"data": {"a": "b"}, "tag": "t"},
            {"data": {"a": "b"}, "apns": {"headers": {"apns-collapse-id": "t"}}},
        ),
        (
            {"data": {"a": "b"}, "content_available": True},
            {
                "data": {"a": "b"},
                "apns": {
                    "headers": {"apns-priority": "5", "apns-push-type": "background"},
                    "payload": {"aps": {"content-available": 1}},
                },
            },
        ),
        (
            {"data": {"a": "b"}, "priority": "high"},
            {
                "data": {"a": "b"},
                "android": {"priority": "HIGH"},
                "apns": {"headers": {"apns-priority": "5"}},
            },
        ),
        (
            {"badge": 0, "content_available": True, "priority": "high"},
            {
                "android": {"priority": "HIGH"},
                "apns": {
                    "headers": {"apns-priority": "10"},
                    "payload": {"aps": {"badge": 0, "content-available": 1}},
                },
            },
        ),
        (
            {"title": "Hi", "priority": "normal", "mutable_content": False},
            {
                "notification": {"title": "Hi"},
                "android": {"priority": "NORMAL"},
                "apns": {"headers": {"apns-priority": "5"}},
            },
        ),
        (
            {"title": "!", "sound": {"critical": True, "name": "a.wav", "volume": 0.5}},
            {
                "notification": {"title": "!"},
                "android": {"notification": {"sound": "a.wav"}},
                "apns": {"payload": {"aps": {"sound": {"critical": 1, "name": "a.wav", "volume": 0.5}}}},
            },
        ),
        (
            {"title": "Hi", "ttl": 0},
            {
                "notification": {"title": "Hi"},
                "android": {"ttl": "0s"},
                "apns": {"headers": {"apns-expiration": "0"}},
                "webpush": {"headers": {"TTL": "0"}},
            },
        ),
        (
            {"channel_id": "c", "provider_options": {"fcm": {"notification": {"title": "Hi"}}}},
            {"notification": {"title": "Hi"}, "android": {"notification": {"channel_id": "c"}}},
        ),
    ],
)
def test_blocks(backend, fields, expected):
    """Empty blocks are left out; a message without a text or picture stays invisible on every platform."""
    assert {"token": TOKEN, **expected} == said(one(backend, PushMessage(**fields)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("token", TOKEN),
        ("fid", "cIL1fidfid"),
        ("topic", "news"),
        ("condition", "'a' in topics && 'b' in topics"),
    ],
)
def test_each_kind_of_target(backend, kind, value):
    """A token, an installation id, a topic and a condition each have their own key, and a request."""
    assert said(one(backend, kind=kind, value=value)) == {kind: value, "notification": {"title": "Hello"}}


def test_one_request_for_each(backend):
    """A multicast is many requests, each with its own target and the same rest."""
    requests = list(backend.build([(HELLO, [Target(f"t{n}", n) for n in range(5)])]))
    assert [said(request)["token"] for request in requests] == [f"t{n}" for n in range(5)]


def test_validate_only(backend):
    """validate_only is an option of the request, not of the message."""
    message = PushMessage(title="Hello", provider_options={"fcm": {"validate_only": True}})
    assert json.loads(one(backend, message).body) == {
        "validate_only": True,
        "message": {"token": TOKEN, "notification": {"title": "Hello"}},
    }


def test_options_become_strings_where_google_wants_them(backend):
    """Numbers in the options' data and headers become strings, as the message's own data does."""
    options = {
        "data": {"a": 1},
        "android": {"data": {"b": True}, "ttl": "5s"},
        "apns": {"headers": {"apns-priority": 5}, "payload": {"aps": {"badge": 1}}},
        "webpush": {"headers": {"TTL": 15}, "data": {"c": None}},
    }
    message = said(one(backend, PushMessage(data={"z": 0}, provider_options={"fcm": options})))
    assert message == {
        "token": TOKEN,
        "data": {"z": "0", "a": "1"},
        "android": {"data": {"b": "true"}, "ttl": "5s"},
        "apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {"badge": 1}}},
        "webpush": {"headers": {"TTL": "15"}, "data": {"c": "null"}},
    }


@pytest.mark.parametrize(("tag", "length"), [("x" * 64, 64), ("x" * 65, 64), ("ü", 64), ("a\nb", 64)])
def test_a_tag_that_apple_would_refuse_is_digested(backend, tag, length):
    """Android gets the tag as it is; Apple gets a digest of one that is too long or not ASCII."""
    first, second = (said(one(backend, PushMessage(title="Hi", tag=t))) for t in (tag, tag + "2"))
    assert first["android"]["notification"]["tag"] == tag
    ids = [message["apns"]["headers"]["apns-collapse-id"] for message in (first, second)]
    assert len(ids[0]) == length
    assert ids[0] != ids[1]
    assert ids[0].isascii()


# --- errors -------------------------------------------------------------------------------------------

INVALID = "The registration token is not a valid FCM registration token"
ANSWERS = [
    # FcmError first, whatever the status.
    (fcm_error(404, "UNREGISTERED", rpc="NOT_FOUND"), Outcome.UNREGISTERED, "UNREGISTERED"),
    (fcm_error(400, "UNREGISTERED", rpc="INVALID_ARGUMENT"), Outcome.UNREGISTERED, "UNREGISTERED"),
    (
        fcm_error(403, "SENDER_ID_MISMATCH", rpc="PERMISSION_DENIED"),
        Outcome.SENDER_MISMATCH,
        "SENDER_ID_MISMATCH",
    ),
    (fcm_error(429, "QUOTA_EXCEEDED", rpc="RESOURCE_EXHAUSTED"), Outcome.RATE_LIMITED, "QUOTA_EXCEEDED"),
    (fcm_error(503, "UNAVAILABLE", rpc="UNAVAILABLE"), Outcome.UNAVAILABLE, "UNAVAILABLE"),
    (fcm_error(500, "INTERNAL", rpc="INTERNAL"), Outcome.UNAVAILABLE, "INTERNAL"),
    (
        fcm_error(401, "THIRD_PARTY_AUTH_ERROR", rpc="UNAUTHENTICATED"),
        Outcome.PROVIDER_SETUP,
        "THIRD_PARTY_AUTH_ERROR",
    ),
    (fcm_error(401, "APNS_AUTH_ERROR"), Outcome.PROVIDER_SETUP, "APNS_AUTH_ERROR"),
    (fcm_error(400, "UNSPECIFIED_ERROR"), Outcome.REJECTED, "UNSPECIFIED_ERROR"),
    (fcm_error(500, "SOMETHING_NEW"), Outcome.REJECTED, "SOMETHING_NEW"),
    (
        fcm_error(
            404, "UNREGISTERED", {"@type": "type.googleapis.com/other", "errorCode": "INTERNAL"}, "odd", None
        ),
        Outcome.UNREGISTERED,
        "UNREGISTERED",
    ),
    (
        reply(
            404,
            {"error": {"details": [{"@type": FCM_ERROR}, {"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}]}},
        ),
        Outcome.UNREGISTERED,
        "UNREGISTERED",
    ),
    # INVALID_ARGUMENT: the token only if it says so.
    (fcm_error(400, "INVALID_ARGUMENT", message=INVALID), Outcome.INVALID_TOKEN, "INVALID_ARGUMENT"),
    (
        fcm_error(400, "INVALID_ARGUMENT", violations("message.token"), message="Invalid value"),
        Outcome.INVALID_TOKEN,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "", violations("message.token"), rpc="INVALID_ARGUMENT"),
        Outcome.INVALID_TOKEN,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(
            400, "INVALID_ARGUMENT", violations("message.token", "message.data[0].value"), message=INVALID
        ),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "INVALID_ARGUMENT", violations("message.token"), violations("message.android.ttl")),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "", violations("message.data[0].value"), rpc="INVALID_ARGUMENT", message=INVALID),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "INVALID_ARGUMENT", violations(), message=INVALID),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "INVALID_ARGUMENT", {"@type": BAD_REQUEST, "fieldViolations": 5}, message=INVALID),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "INVALID_ARGUMENT", message="Request is too big"),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (
        fcm_error(400, "", rpc="INVALID_ARGUMENT", message=INVALID),
        Outcome.MESSAGE_REJECTED,
        "INVALID_ARGUMENT",
    ),
    (reply(400, b"<html>"), Outcome.MESSAGE_REJECTED, "HTTP 400"),
    (reply(400, b""), Outcome.MESSAGE_REJECTED, "HTTP 400"),
    # No FcmError: by the status.
    (fcm_error(401, rpc="UNAUTHENTICATED"), Outcome.CREDENTIALS_REJECTED, "UNAUTHENTICATED"),
    (reply(401, b""), Outcome.CREDENTIALS_REJECTED, "HTTP 401"),
    (fcm_error(403, rpc="PERMISSION_DENIED"), Outcome.CREDENTIALS_REJECTED, "PERMISSION_DENIED"),
    (fcm_error(404, rpc="NOT_FOUND"), Outcome.CREDENTIALS_REJECTED, "NOT_FOUND"),
    (reply(404, b"<html>"), Outcome.CREDENTIALS_REJECTED, "HTTP 404"),
    (reply(404, {"error": "UNREGISTERED"}), Outcome.CREDENTIALS_REJECTED, "HTTP 404"),
    (
        reply(404, {"error": {"details": {"errorCode": "UNREGISTERED"}}}),
        Outcome.CREDENTIALS_REJECTED,
        "error",
    ),
    (
        reply(404, {"error": {"details": [{"errorCode": "UNREGISTERED"}]}}),
        Outcome.CREDENTIALS_REJECTED,
        "error",
    ),
    (
        reply(404, {"error": {"details": [{"@type": [FCM_ERROR], "errorCode": "UNREGISTERED"}]}}),
        Outcome.CREDENTIALS_REJECTED,
        "error",
    ),
    (fcm_error(429, rpc="RESOURCE_EXHAUSTED"), Outcome.RATE_LIMITED, "RESOURCE_EXHAUSTED"),
    (reply(429, b""), Outcome.RATE_LIMITED, "HTTP 429"),
    (fcm_error(500, rpc="INTERNAL"), Outcome.UNAVAILABLE, "INTERNAL"),
    (reply(500, {"error": {"code": 500}}), Outcome.UNAVAILABLE, "error"),
    (reply(500, b""), Outcome.UNKNOWN, "HTTP 500"),
    (fcm_error(503, rpc="UNAVAILABLE"), Outcome.UNAVAILABLE, "UNAVAILABLE"),
    (reply(503, b"<html>", retry_after="5"), Outcome.UNAVAILABLE, "HTTP 503"),
    (reply(503, b"<html>"), Outcome.UNKNOWN, "HTTP 503"),
    (reply(502, b"<html>"), Outcome.UNKNOWN, "HTTP 502"),
    (fcm_error(504, rpc="DEADLINE_EXCEEDED"), Outcome.UNKNOWN, "DEADLINE_EXCEEDED"),
    (reply(409, b""), Outcome.REJECTED, "HTTP 409"),
    (reply(301, b""), Outcome.UNKNOWN, "HTTP 301"),
    # 200
    (fcm_ok(), Outcome.ACCEPTED, ""),
    (ok({"name": ""}), Outcome.UNKNOWN, "Unreadable"),
    (ok({"name": ["x"]}), Outcome.UNKNOWN, "Unreadable"),
    (ok({}), Outcome.UNKNOWN, "Unreadable"),
    (ok([]), Outcome.UNKNOWN, "Unreadable"),
    (ok(b""), Outcome.UNKNOWN, "Unreadable"),
    (ok(b"\xff\xff"), Outcome.UNKNOWN, "Unreadable"),
    (Reply(failure=Failure.NEVER_SENT, reason="refused"), Outcome.NOT_SENT, "refused"),
    (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), Outcome.UNKNOWN, "timeout"),
    (
        Reply(failure=Failure.NO_CREDENTIALS, reason="OAuth HTTP 400"),
        Outcome.CREDENTIALS_REJECTED,
        "OAuth HTTP 400",
    ),
]


@pytest.mark.parametrize(("answer", "outcome", "code"), ANSWERS)
def test_answers(backend, answer, outcome, code):
    """Each answer is its outcome, and the provider's word is kept beside it."""
    ticket = read(backend, answer)
    assert (outcome, code) == (ticket.outcome, ticket.code)


@pytest.mark.parametrize(("answer", "outcome", "code"), ANSWERS)
@pytest.mark.parametrize("kind", [TargetKind.TOPIC, TargetKind.CONDITION])
def test_a_topic_is_never_dead(backend, answer, outcome, code, kind):
    """What would kill a token is a refusal for a topic or condition; all else is the same."""
    ticket = read(backend, answer, kind)
    expected = {Outcome.UNREGISTERED: Outcome.REJECTED, Outcome.INVALID_TOKEN: Outcome.MESSAGE_REJECTED}
    assert (expected.get(outcome, outcome), code) == (ticket.outcome, ticket.code)


def test_a_fid_is_dead_by_unregistered_alone(backend):
    """A bad installation id is answered UNREGISTERED; an INVALID_ARGUMENT is the message's fault."""
    assert read(backend, fcm_error(404, "UNREGISTERED"), TargetKind.FID).outcome is Outcome.UNREGISTERED
    answer = fcm_error(400, "INVALID_ARGUMENT", message=INVALID)
    assert read(backend, answer, TargetKind.FID).outcome is Outcome.MESSAGE_REJECTED


def test_the_message_id_is_kept(backend):
    """An accepted push has Google's name for it."""
    assert read(backend, fcm_ok()).id == "projects/shop-prod/messages/0:1700000000000000%aa11bb22aa11bb22"


@pytest.mark.parametrize("answer", [reply(401, b""), fcm_error(401, rpc="UNAUTHENTICATED")])
def test_a_refused_bearer_is_renewed_once(backend, answer):
    """The first 401 asks for a new bearer token and the same request again; the second is the end."""
    request = one(backend)
    parsed = backend.parse(request, answer)
    assert (parsed.refresh_auth, parsed.tickets) == (True, ())
    [again] = parsed.resend
    assert (again.body, again.url, again.targets, again.generation) == (
        request.body,
        request.url,
        request.targets,
        1,
    )
    parsed = backend.parse(again, answer)
    assert (parsed.refresh_auth, parsed.resend) == (False, ())
    assert parsed.tickets[0].outcome is Outcome.CREDENTIALS_REJECTED


@pytest.mark.parametrize("status", [403, 404, 400])
def test_other_refusals_renew_nothing(backend, status):
    """Only a 401 without an FcmError is about the bearer token."""
    assert backend.parse(one(backend), reply(status, b"")).resend == ()
    assert backend.parse(one(backend), fcm_error(401, "THIRD_PARTY_AUTH_ERROR")).resend == ()


@pytest.mark.parametrize(
    ("answer", "wait", "about_project"),
    [
        (fcm_error(429, "QUOTA_EXCEEDED"), 60.0, True),
        (fcm_error(429, "QUOTA_EXCEEDED", retry_after="5"), 5.0, True),
        (fcm_error(429, "QUOTA_EXCEEDED", message="Device message rate exceeded."), 60.0, False),
        (
            fcm_error(
                429, "QUOTA_EXCEEDED", {"@type": QUOTA_FAILURE, "violations": [{"subject": "device:1"}]}
            ),
            60.0,
            False,
        ),
        (fcm_error(429, "QUOTA_EXCEEDED", {"@type": QUOTA_FAILURE, "violations": 5}), 60.0, True),
        (reply(429, b""), 60.0, True),
        (reply(429, b"", retry_after="garbage"), 60.0, True),
        (fcm_error(503, "UNAVAILABLE", retry_after="7"), 7.0, False),
        (fcm_error(503, "UNAVAILABLE"), None, False),
        (fcm_error(404, "UNREGISTERED", retry_after="7"), None, False),
        (fcm_error(429, "UNREGISTERED"), None, False),
    ],
)
def test_waits(backend, answer, wait, about_project):
    """A quota without a Retry-After is a minute's pause, of the project unless a device is named."""
    ticket = read(backend, answer)
    assert (wait, about_project) == (ticket.retry_after, ticket.about_project)


def test_errors_show_no_whole_token(backend):
    """A token that Google repeats is masked."""
    ticket = read(backend, fcm_error(400, "INVALID_ARGUMENT", message=f"Invalid value: {TOKEN}"))
    assert TOKEN not in ticket.detail
    assert ticket.detail.startswith("Invalid value: c1d2")


# --- what is refused before it is sent ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"data": {"from": "me"}}, "INVALID_ARGUMENT"),
        ({"data": {"message_type": "x"}}, "INVALID_ARGUMENT"),
        ({"data": {"googleSomething": "x"}}, "INVALID_ARGUMENT"),
        ({"data": {"gcm.notification.x": "x"}}, "INVALID_ARGUMENT"),
        ({"title": "x", "provider_options": {"fcm": {"data": {"from": 1}}}}, "INVALID_ARGUMENT"),
        ({"title": "x", "provider_options": {"fcm": {"android": {"data": {"gcm": 1}}}}}, "INVALID_ARGUMENT"),
        (
            {"title": "x", "provider_options": {"fcm": {"webpush": {"data": {"google": 1}}}}},
            "INVALID_ARGUMENT",
        ),
        ({"title": "x", "link": "http://example.com"}, "INVALID_ARGUMENT"),
        ({"title": "x", "link": "https://example.com"}, None),
        ({"title": "x", "analytics_label": "a b"}, "INVALID_ARGUMENT"),
        ({"title": "x", "analytics_label": "a" * 51}, "INVALID_ARGUMENT"),
        ({"title": "x", "analytics_label": "a-_.~%1"}, None),
        ({"title": "x", "tag": "t" * 100}, None),
        ({"title": "x" * 10_240}, "MessageTooBig"),
        ({"title": "x" * 5000, "provider_options": {"fcm": {"notification": {"title": "short"}}}}, None),
        ({"data": {"a": "x" * 5000}, "provider_options": {"fcm": {"data": None}}}, None),
        ({"data": {"a": "x" * 5000}, "provider_options": {"fcm": {"android": {"data": {"a": ""}}}}}, None),
        ({"title": "x", "provider_options": {"fcm": {"data": {"a": "x" * 5000}}}}, "MessageTooBig"),
        ({"title": "x", "provider_options": {"fcm": {"android": "x"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"android": {"notification": []}}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"apns": {"payload": {"aps": 1}}}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"apns": {"headers": ["a"]}}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"android": None}}}, None),
        ({"title": "x", "provider_options": {"fcm": {"token": "other"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"topic": "all"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"fid": "other"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"condition": "'a' in topics"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"message": {"token": "other"}}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"validate_only": "no"}}}, "INVALID_ARGUMENT"),
        ({"title": "x", "provider_options": {"fcm": {"validate_only": False}}}, None),
    ],
)
def test_refused_messages(backend, fields, code):
    """What FCM is sure to refuse, and what would change the recipients, is refused here."""
    for kind in KINDS:
        verdict = backend.refuse_message(PushMessage(**fields), kind)
        assert (verdict and (verdict.outcome, verdict.code)) == (code and (Outcome.MESSAGE_REJECTED, code))


def test_a_topics_payload_is_half_as_big(backend):
    """2048 bytes go to a topic or condition, 4096 to a token."""
    message = PushMessage(data={"x": "y" * 4095})
    verdicts = [backend.refuse_message(message, kind) for kind in KINDS]
    assert [verdict and verdict.code for verdict in verdicts] == [
        None,
        None,
        "MessageTooBig",
        "MessageTooBig",
    ]


# --- settings -----------------------------------------------------------------------------------------


def key_file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "key.json"
    path.write_text(text, encoding=encoding)
    return path


def test_the_key_may_be_given_in_many_ways(tmp_path):
    """A path, a dictionary, JSON text and a callable that returns one of these are the same key."""
    text = json.dumps(SERVICE_ACCOUNT)
    path = key_file(tmp_path, text)
    ways = [path, str(path), SERVICE_ACCOUNT, text, "\ufeff\n" + text, lambda: path, lambda: SERVICE_ACCOUNT]
    ways.append(key_file(tmp_path, text, "utf-8-sig"))
    for way in ways:
        backend = make(service_account_key=way)
        assert backend.auth.key.reveal() == SERVICE_ACCOUNT
        assert isinstance(backend.auth.key, Secret)
        assert backend.auth.scope == "https://www.googleapis.com/auth/firebase.messaging"
        assert backend.project_id == "shop-prod"


def test_the_key_is_a_copy():
    """Who changes the dictionary later does not change the backend's key."""
    key = dict(SERVICE_ACCOUNT)
    backend = make(service_account_key=key)
    key["client_email"] = "other"
    assert backend.auth.key.reveal() == SERVICE_ACCOUNT


@pytest.mark.parametrize("project_id", ["other-project", "example.com:old", "123456789012"])
def test_the_project_may_be_another(project_id):
    """project_id goes before the key's own."""
    assert one(make(project_id=project_id)).url.endswith(f"/v1/projects/{project_id}/messages:send")


def test_a_local_endpoint_buys_its_token_locally():
    """With a loopback endpoint nothing of the key is ever sent to Google."""
    backend = make(endpoint="http://localhost:8009/")
    assert backend.auth.key.reveal()["token_uri"] == "http://localhost:8009/token"
    assert one(backend).url == "http://localhost:8009/v1/projects/shop-prod/messages:send"


def failing():
    raise KeyError("s3cret")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"service_account_key": "/nowhere/key.json"}, "service_account_key: No such file or directory"),
        ({"service_account_key": Path("/")}, "service_account_key: Is a directory"),
        ({"service_account_key": "\0"}, "service_account_key: "),
        ({"service_account_key": ""}, "service_account_key: give a path"),
        ({"service_account_key": None}, "service_account_key: give a path"),
        ({"service_account_key": 5}, "service_account_key: give a path"),
        ({"service_account_key": b"{}"}, "service_account_key: give a path"),
        ({"service_account_key": lambda: None}, "service_account_key: give a path"),
        ({"service_account_key": failing}, "service_account_key: the callable raised KeyError"),
        ({"service_account_key": json.dumps(SERVICE_ACCOUNT)[:80]}, "service_account_key: it is not JSON"),
        ({"service_account_key": "{" + "[" * 100_000}, "service_account_key: it is not JSON"),
        ({"service_account_key": {}}, "service_account_key: its type is not"),
        (
            {"service_account_key": {**SERVICE_ACCOUNT, "type": "authorized_user"}},
            "service_account_key: its type",
        ),
        (
            {"service_account_key": {**SERVICE_ACCOUNT, "private_key": ""}},
            "service_account_key: private_key missing",
        ),
        (
            {"service_account_key": {"type": "service_account"}},
            "service_account_key: client_email, private_key, ",
        ),
        (
            {"service_account_key": {**SERVICE_ACCOUNT, "token_uri": "https://evil.example/token"}},
            "service_account_key: token_uri must be https://oauth2.googleapis.com/token",
        ),
        (
            {"service_account_key": {**SERVICE_ACCOUNT, "token_uri": "http://evil.example"}},
            "token_uri must be https",
        ),
        ({"service_account_key": {**SERVICE_ACCOUNT, "token_uri": 5}}, "token_uri must be"),
        ({"service_account_key": {**SERVICE_ACCOUNT, "project_id": ""}}, "project_id is missing"),
        ({"service_account_key": {**SERVICE_ACCOUNT, "project_id": ["x"]}}, "project_id is missing"),
        ({"project_id": "a/../b"}, "project_id"),
        ({"project_id": 123}, "project_id"),
        ({"endpoint": "http://fcm.googleapis.com"}, "endpoint must be https"),
    ],
)
def test_wrong_options(options, said):
    """A wrong option is an error that names alias and option, and shows nothing of the key."""
    with pytest.raises(InvalidPushBackend, match=re.escape(f"PUSH_BACKENDS['fcm']: {said}")) as caught:
        make(**options)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe\x00", b'{"type": "service_account"']
)
def test_wrong_key_files(tmp_path, content):
    """A file that is empty, cut short, binary or no object is an error that names the option."""
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(InvalidPushBackend, match=r"PUSH_BACKENDS\['fcm'\]: service_account_key: "):
        make(service_account_key=path)
