"""GCM's protocol, JSON and plain text: the wire, row by row."""

import json
import re
from datetime import timedelta
from urllib.parse import parse_qsl

import pytest

from django_push.backends.gcm import GCMBackend
from django_push.exceptions import InvalidPushBackend
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind
from django_push.wire import Failure, Reply
from tests.backends.replies import gcm_errors, gcm_oks, gcm_results, ok, reply

HELLO = PushMessage(title="Hello", data={"n": 1})


def make(**options):
    return GCMBackend(
        **{"alias": "gcm", "endpoint": "https://relay.example/gcm/send", "api_key": "k", **options}
    )


@pytest.fixture
def backend():
    return make()


@pytest.fixture
def plaintext():
    return make(format="plaintext")


def token(number):
    return f"APA91b{number:06d}"


def targets(count, start=0):
    return [Target(token(i), i) for i in range(start, start + count)]


def one(backend, message=HELLO, count=1):
    [request] = backend.build([(message, targets(count))])
    return request


def to(backend, kind, value="news"):
    [request] = backend.build([(HELLO, [Target(value, kind=kind)])])
    return request


def told(parsed):
    return [(ticket.outcome, ticket.code) for ticket in parsed.tickets]


# --- out: JSON ----------------------------------------------------------------------------------------


def test_a_whole_message_becomes_gcms_fields(backend):
    """Every field that GCM knows goes out under GCM's name, the data as strings."""
    message = PushMessage(
        title="Goal!", body="2:1", subtitle="Cup", data={"match": 81, "live": True, "by": ["A"], "s": "x"},
        image="https://example.com/a.png", icon="ball", color="#00ff00", sound="whistle", badge=3,
        ttl=timedelta(minutes=10), priority="high", collapse_key="score", tag="match-81",
        channel_id="goals", category="MATCH", content_available=True, mutable_content=True,
        provider_options={
            "gcm": {
                "dry_run": True,
                "restricted_package_name": "com.example",
                "delay_while_idle": False,
                "notification": {"title_loc_key": "goal", "title_loc_args": ["A"]},
            }
        },
    )  # fmt: skip
    expected = {
        "registration_ids": [token(0)],
        "collapse_key": "score",
        "priority": "high",
        "time_to_live": 600,
        "content_available": True,
        "mutable_content": True,
        "data": {"match": "81", "live": "true", "by": '["A"]', "s": "x"},
        "notification": {
            "title": "Goal!",
            "body": "2:1",
            "subtitle": "Cup",
            "image": "https://example.com/a.png",
            "icon": "ball",
            "color": "#00ff00",
            "sound": "whistle",
            "tag": "match-81",
            "android_channel_id": "goals",
            "click_action": "MATCH",
            "badge": "3",
            "title_loc_key": "goal",
            "title_loc_args": ["A"],
        },
        "dry_run": True,
        "restricted_package_name": "com.example",
        "delay_while_idle": False,
    }
    request = one(backend, message)
    assert expected == json.loads(request.body)
    assert request.url == "https://relay.example/gcm/send"
    assert request.headers == {"Content-Type": "application/json"}


def test_data_alone_has_no_notification(backend):
    """A message of data alone stays one: no empty block is added."""
    assert json.loads(one(backend, PushMessage(data={"a": "b"})).body) == {
        "registration_ids": [token(0)],
        "data": {"a": "b"},
    }


def test_options_data_becomes_strings(backend):
    """Data in provider_options is laid over the message's and becomes strings as well."""
    message = PushMessage(data={"a": 1, "b": 1}, provider_options={"gcm": {"data": {"b": {"c": None}}}})
    assert json.loads(one(backend, message).body)["data"] == {"a": "1", "b": '{"c":null}'}


def test_a_thousand_to_a_request(backend):
    """A multicast has up to 1000 tokens, in order."""
    requests = list(backend.build([(HELLO, targets(2500))]))
    assert [len(request.targets) for request in requests] == [1000, 1000, 500]
    sent = [value for request in requests for value in json.loads(request.body)["registration_ids"]]
    assert sent == [target.value for target in targets(2500)]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (TargetKind.TOPIC, "news", {"to": "/topics/news"}),
        (TargetKind.CONDITION, "'a' in topics", {"condition": "'a' in topics"}),
    ],
)
def test_topics_and_conditions(backend, kind, value, expected):
    """A topic goes to its path, a condition under its own name, each in a request of its own."""
    groups = [(HELLO, [Target(value, kind=kind), *targets(2)])]
    tokens, other = sorted(backend.build(groups), key=lambda request: -len(request.targets))
    assert json.loads(tokens.body)["registration_ids"] == [token(0), token(1)]
    assert {"data": {"n": "1"}, "notification": {"title": "Hello"}, **expected} == json.loads(other.body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("c1d2e3f4:APA91b-_x", True),
        ("a", True),
        ("a=b", True),
        ("ExponentPushToken[abc]", False),
        ("a b", False),
        ("a\n", False),
        ("tökén", False),
        ("x" * 4096, True),
        ("x" * 4097, False),
    ],
)
def test_token_form(backend, value, expected):
    """A registration id is printable ASCII; Expo's tokens are none."""
    assert backend.accepts(value) is expected


# --- out: plain text ----------------------------------------------------------------------------------


def test_plain_text(plaintext):
    """Plain text is a form with one recipient; a value may hold anything."""
    message = PushMessage(
        data={"q": "a=b&c=ü", "n": 1}, collapse_key="k", ttl=108,
        provider_options={
            "gcm": {"delay_while_idle": True, "dry_run": False, "restricted_package_name": "com.x"}
        },
    )  # fmt: skip
    requests = list(plaintext.build([(message, targets(2))]))
    assert [len(request.targets) for request in requests] == [1, 1]
    assert dict(parse_qsl(requests[1].body.decode())) == {
        "registration_id": token(1),
        "collapse_key": "k",
        "time_to_live": "108",
        "data.q": "a=b&c=ü",
        "data.n": "1",
        "delay_while_idle": "1",
        "dry_run": "0",
        "restricted_package_name": "com.x",
    }
    kind = "application/x-www-form-urlencoded;charset=UTF-8"
    assert requests[0].headers == {"Content-Type": kind}


def test_plain_text_leaves_out_what_it_cannot_say(plaintext):
    """Of a message that other providers get whole, plain text carries its own fields alone."""
    message = PushMessage(title="Hello", priority="high", badge=1, content_available=True, data={"a": "b"})
    assert one(plaintext, message).body == f"registration_id={token(0)}&data.a=b".encode()
    assert plaintext.fields == {"collapse_key", "ttl", "data"}
    assert plaintext.kinds == {TargetKind.TOKEN}


# --- results ------------------------------------------------------------------------------------------

CODES = [
    ("NotRegistered", Outcome.UNREGISTERED),
    ("InvalidRegistration", Outcome.INVALID_TOKEN),
    ("MismatchSenderId", Outcome.SENDER_MISMATCH),
    ("InvalidPackageName", Outcome.SENDER_MISMATCH),
    ("MissingRegistration", Outcome.MESSAGE_REJECTED),
    ("InvalidParameters", Outcome.MESSAGE_REJECTED),
    ("MessageTooBig", Outcome.MESSAGE_REJECTED),
    ("InvalidDataKey", Outcome.MESSAGE_REJECTED),
    ("InvalidTtl", Outcome.MESSAGE_REJECTED),
    ("InvalidApnsCredential", Outcome.PROVIDER_SETUP),
    ("DeprecatedEndpoint", Outcome.CREDENTIALS_REJECTED),
    ("DeviceMessageRateExceeded", Outcome.RATE_LIMITED),
    ("TopicsMessageRateExceeded", Outcome.RATE_LIMITED),
    ("QuotaExceeded", Outcome.RATE_LIMITED),
    ("DeviceQuotaExceeded", Outcome.RATE_LIMITED),
    ("Unavailable", Outcome.UNAVAILABLE),
    ("InternalServerError", Outcome.UNAVAILABLE),
    ("SomethingNew", Outcome.REJECTED),
    ("notregistered", Outcome.REJECTED),
]


@pytest.mark.parametrize(("code", "outcome"), CODES)
def test_result_codes(backend, code, outcome):
    """Each of GCM's words is its outcome, for the token in its place."""
    answer = gcm_results({"message_id": "0:1%a"}, {"error": code}, {"message_id": "0:2%a"})
    parsed = backend.parse(one(backend, count=3), answer)
    assert told(parsed) == [(Outcome.ACCEPTED, ""), (outcome, code), (Outcome.ACCEPTED, "")]
    assert [ticket.token for ticket in parsed.tickets] == [token(0), token(1), token(2)]


@pytest.mark.parametrize(("code", "outcome"), CODES)
def test_plain_text_codes(plaintext, code, outcome):
    """The same words mean the same in plain text."""
    parsed = plaintext.parse(one(plaintext), reply(200, f"Error={code}\n".encode()))
    assert told(parsed) == [(outcome, code)]


@pytest.mark.parametrize(("code", "outcome"), CODES)
def test_topic_codes(backend, code, outcome):
    """The same words mean the same of a topic, which can't be dead."""
    expected = Outcome.REJECTED if outcome.is_dead else outcome
    for kind in (TargetKind.TOPIC, TargetKind.CONDITION):
        assert told(backend.parse(to(backend, kind), ok({"error": code}))) == [(expected, code)]


@pytest.mark.parametrize(
    ("result", "outcome", "id_", "replacement"),
    [
        ({"message_id": "0:1%a"}, Outcome.ACCEPTED, "0:1%a", ""),
        ({"message_id": 17}, Outcome.ACCEPTED, "17", ""),
        ({"message_id": 10**19}, Outcome.ACCEPTED, str(10**19), ""),
        ({"message_id": "1", "registration_id": "new"}, Outcome.ACCEPTED, "1", "new"),
        ({"message_id": "1", "registration_id": token(0)}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "registration_id": "a b"}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "registration_id": "x" * 5000}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "registration_id": ["new"]}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "registration_id": None}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "registration_id": ""}, Outcome.ACCEPTED, "1", ""),
        ({"message_id": "1", "error": None}, Outcome.ACCEPTED, "1", ""),
        (
            {"message_id": "1", "error": "NotRegistered", "registration_id": "new"},
            Outcome.UNREGISTERED,
            "",
            "",
        ),
        ({"message_id": "1", "error": ["NotRegistered"]}, Outcome.UNKNOWN, "", ""),
        ({"message_id": "1", "error": ""}, Outcome.UNKNOWN, "", ""),
        ({"message_id": True}, Outcome.UNKNOWN, "", ""),
        ({"message_id": ""}, Outcome.UNKNOWN, "", ""),
        ({"message_id": 1.5}, Outcome.UNKNOWN, "", ""),
        ({"message_id": {}}, Outcome.UNKNOWN, "", ""),
        ({"message_id": None}, Outcome.UNKNOWN, "", ""),
        ({"registration_id": "new"}, Outcome.UNKNOWN, "", ""),
        ({}, Outcome.UNKNOWN, "", ""),
        ("NotRegistered", Outcome.UNKNOWN, "", ""),
        (None, Outcome.UNKNOWN, "", ""),
    ],
)
def test_odd_results(backend, result, outcome, id_, replacement):
    """A canonical id counts only beside a message id and in a token's form; the rest is unknown."""
    [ticket] = backend.parse(one(backend), ok({"results": [result]})).tickets
    assert (outcome, id_, replacement) == (ticket.outcome, ticket.id, ticket.replacement)


@pytest.mark.parametrize("count", [0, 1, 3, 1001])
def test_another_count_is_unknown(backend, count):
    """More or fewer results than tokens say nothing about any of them."""
    answer = gcm_results(*[{"error": "NotRegistered"}] * count)
    assert told(backend.parse(one(backend, count=2), answer)) == [(Outcome.UNKNOWN, "WrongCount")] * 2


def test_retry_after_is_for_those_that_may_be_sent_again(backend):
    """A Retry-After beside results is the retryable ones' alone."""
    answer = gcm_results(
        {"error": "Unavailable"}, {"error": "NotRegistered"}, {"message_id": "1"}, retry_after="30"
    )
    parsed = backend.parse(one(backend, count=3), answer)
    assert [ticket.retry_after for ticket in parsed.tickets] == [30.0, None, None]
    assert [ticket.outcome.is_retryable for ticket in parsed.tickets] == [True, False, False]
    assert parsed.resend == ()


def test_dry_runs_have_one_id_for_all(backend):
    """The same message id for several tokens is nobody's id, and no failure."""
    answer = gcm_results(*[{"message_id": "fake_message_id"}] * 2)
    parsed = backend.parse(one(backend, count=2), answer)
    assert [(ticket.outcome, ticket.id) for ticket in parsed.tickets] == [(Outcome.ACCEPTED, "")] * 2


@pytest.mark.parametrize(
    ("payload", "outcome", "id_"),
    [
        ({"message_id": 5012345678901234567}, Outcome.ACCEPTED, "5012345678901234567"),
        ({"message_id": "x", "registration_id": "new"}, Outcome.ACCEPTED, "x"),
        ({"message_id": False}, Outcome.UNKNOWN, ""),
        ({"results": [{"message_id": "1"}]}, Outcome.UNKNOWN, ""),
        ([], Outcome.UNKNOWN, ""),
        ({}, Outcome.UNKNOWN, ""),
    ],
)
def test_topic_answers(backend, payload, outcome, id_):
    """A topic is answered by one message id, and never replaced."""
    [ticket] = backend.parse(to(backend, TargetKind.TOPIC), ok(payload)).tickets
    assert (outcome, id_, "") == (ticket.outcome, ticket.id, ticket.replacement)


@pytest.mark.parametrize(
    ("body", "outcome", "id_", "replacement"),
    [
        (b"id=0:1%a", Outcome.ACCEPTED, "0:1%a", ""),
        (b"id=1:a=b\n", Outcome.ACCEPTED, "1:a=b", ""),
        (b"\xef\xbb\xbfid=1", Outcome.ACCEPTED, "1", ""),
        (b"id=1\r\nregistration_id=new=er\r\n", Outcome.ACCEPTED, "1", "new=er"),
        (b"id=1\nregistration_id=", Outcome.ACCEPTED, "1", ""),
        (b"id=1\nregistration_id=a b", Outcome.ACCEPTED, "1", ""),
        (b"Error=", Outcome.UNKNOWN, "", ""),
        (b"Error=NotRegistered\nregistration_id=new", Outcome.UNKNOWN, "", ""),
        (b"error=NotRegistered", Outcome.UNKNOWN, "", ""),
        (b"id=", Outcome.UNKNOWN, "", ""),
        (b"id", Outcome.UNKNOWN, "", ""),
        (b"id=1\nid=2", Outcome.UNKNOWN, "", ""),
        (b"id=1\nregistration_id=new\nmore=x", Outcome.UNKNOWN, "", ""),
        (b"registration_id=new\nid=1", Outcome.UNKNOWN, "", ""),
        (b"", Outcome.UNKNOWN, "", ""),
        (b"<html>", Outcome.UNKNOWN, "", ""),
        (b"id=\xff", Outcome.UNKNOWN, "", ""),
        (b'{"results":[{"message_id":"1"}]}', Outcome.UNKNOWN, "", ""),
    ],
)
def test_plain_text_answers(plaintext, body, outcome, id_, replacement):
    """Plain text is read strictly: what is not understood is no success."""
    [ticket] = plaintext.parse(one(plaintext), reply(200, body)).tickets
    assert (outcome, id_, replacement) == (ticket.outcome, ticket.id, ticket.replacement)


# --- request errors -----------------------------------------------------------------------------------

WHOLE = [
    (reply(400, b'Field "ttl" must be a number'), Outcome.MESSAGE_REJECTED, "HTTP 400"),
    (reply(400, b"<html>Bad Request</html>"), Outcome.MESSAGE_REJECTED, "HTTP 400"),
    (reply(400, b"Error=InvalidParameters"), Outcome.MESSAGE_REJECTED, "InvalidParameters"),
    (reply(400, b"Error=NotRegistered"), Outcome.MESSAGE_REJECTED, "NotRegistered"),
    (reply(400, {"error": "InvalidRegistration"}), Outcome.MESSAGE_REJECTED, "InvalidRegistration"),
    (reply(400, {"error": "SomethingNew"}), Outcome.MESSAGE_REJECTED, "SomethingNew"),
    (reply(400, b"Error=DeprecatedEndpoint"), Outcome.CREDENTIALS_REJECTED, "DeprecatedEndpoint"),
    (reply(400, b"Error=Unavailable"), Outcome.UNAVAILABLE, "Unavailable"),
    (reply(401, b"<html>Unauthorized</html>"), Outcome.CREDENTIALS_REJECTED, "HTTP 401"),
    (reply(401, {"error": "INVALID_KEY"}), Outcome.CREDENTIALS_REJECTED, "INVALID_KEY"),
    (reply(401, b"Error=NotRegistered"), Outcome.CREDENTIALS_REJECTED, "NotRegistered"),
    (reply(403, b""), Outcome.CREDENTIALS_REJECTED, "HTTP 403"),
    (reply(404, b""), Outcome.CREDENTIALS_REJECTED, "HTTP 404"),
    (reply(404, {"error": "NotRegistered"}), Outcome.CREDENTIALS_REJECTED, "NotRegistered"),
    (reply(413, b""), Outcome.REJECTED, "HTTP 413"),
    (reply(429, b""), Outcome.RATE_LIMITED, "HTTP 429"),
    (reply(500, b"Error=InternalServerError"), Outcome.UNAVAILABLE, "InternalServerError"),
    (reply(500, {"error": "NotRegistered"}), Outcome.UNAVAILABLE, "NotRegistered"),
    (reply(500, b""), Outcome.UNKNOWN, "HTTP 500"),
    (reply(500, b"", retry_after="5"), Outcome.UNAVAILABLE, "HTTP 500"),
    (reply(503, b"Error=Unavailable"), Outcome.UNAVAILABLE, "Unavailable"),
    (reply(503, b"<html>", retry_after="5"), Outcome.UNAVAILABLE, "HTTP 503"),
    (reply(503, b"<html>"), Outcome.UNKNOWN, "HTTP 503"),
    (reply(503, b"<html>", retry_after="soon"), Outcome.UNKNOWN, "HTTP 503"),
    (reply(502, b"", retry_after="5"), Outcome.UNKNOWN, "HTTP 502"),
    (reply(504, b""), Outcome.UNKNOWN, "HTTP 504"),
    (reply(302, b""), Outcome.UNKNOWN, "HTTP 302"),
    (reply(201, b'{"results":[]}'), Outcome.UNKNOWN, "HTTP 201"),
    (Reply(failure=Failure.NEVER_SENT, reason="refused"), Outcome.NOT_SENT, "refused"),
    (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), Outcome.UNKNOWN, "timeout"),
    (Reply(failure=Failure.NO_CREDENTIALS, reason="x"), Outcome.CREDENTIALS_REJECTED, "x"),
]


@pytest.mark.parametrize(("answer", "outcome", "code"), WHOLE)
@pytest.mark.parametrize("name", ["json", "plaintext"])
def test_request_errors(answer, outcome, code, name):
    """What refuses a whole request is the same outcome for each of its tokens, and none's death."""
    backend = make(format=name)
    if name == "plaintext" and answer.body.startswith(b"{"):
        return  # not its language
    count = min(3, backend.recipients_per_request)
    assert told(backend.parse(one(backend, count=count), answer)) == [(outcome, code)] * count


@pytest.mark.parametrize(
    ("payload", "outcome", "code"),
    [
        ({"error": "InternalServerError"}, Outcome.UNAVAILABLE, "InternalServerError"),
        ({"error": "NotRegistered"}, Outcome.REJECTED, "NotRegistered"),
        ({"error": {"code": 400}}, Outcome.UNKNOWN, "Unreadable"),
        ({"results": {}}, Outcome.UNKNOWN, "Unreadable"),
        ({"success": 2, "failure": 0}, Outcome.UNKNOWN, "Unreadable"),
        ({"message_id": 1}, Outcome.UNKNOWN, "Unreadable"),
        ([], Outcome.UNKNOWN, "Unreadable"),
        (b"", Outcome.UNKNOWN, "Unreadable"),
        (b"Error=NotRegistered", Outcome.UNKNOWN, "Unreadable"),
        (b"<html>", Outcome.UNKNOWN, "Unreadable"),
    ],
)
def test_answers_without_results(backend, payload, outcome, code):
    """A 200 without results is unknown, unless it says in a word why; that kills nobody either."""
    assert told(backend.parse(one(backend, count=2), ok(payload))) == [(outcome, code)] * 2


def test_the_reason_of_a_400_is_kept(backend):
    """The text that explains a 400 is in the tickets, without a token that it repeats."""
    answer = reply(400, f"Bad value for {token(0)}: \0 no".encode())
    [ticket] = backend.parse(one(backend), answer).tickets
    assert ticket.detail == "Bad value for APA…000:   no"


def test_whose_rate_it_is(backend):
    """A 429 and QuotaExceeded are about the project; a device's rate is about that device."""
    parsed = backend.parse(one(backend), gcm_errors(one(backend), "DeviceMessageRateExceeded"))
    assert not parsed.tickets[0].about_project
    for answer in (gcm_errors(one(backend), "QuotaExceeded"), reply(429, b"")):
        assert backend.parse(one(backend), answer).tickets[0].about_project


# --- what is refused before it is sent ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"data": {"from": "me"}}, "InvalidDataKey"),
        ({"data": {"message_type": "x"}}, "InvalidDataKey"),
        ({"data": {"google.sent": "x"}}, "InvalidDataKey"),
        ({"data": {"gcmx": "x"}}, "InvalidDataKey"),
        ({"data": {"collapse_key": "x", "From": "x"}}, None),
        ({"title": "x", "provider_options": {"gcm": {"data": {"from": 1}}}}, "InvalidDataKey"),
        ({"title": "x", "provider_options": {"gcm": {"data": 5}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"gcm": {"notification": "x"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"gcm": {"registration_ids": ["other"]}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"gcm": {"to": "/topics/all"}}}, "InvalidOption"),
        ({"title": "x" * 10_240}, "MessageTooBig"),
        ({"data": {"x": "y" * 4096}}, "MessageTooBig"),
        ({"data": {"x": "y" * 4095}}, None),
        ({"data": {"x": "y" * 5000}, "provider_options": {"gcm": {"data": None}}}, None),
        ({"title": "x" * 5000, "provider_options": {"gcm": {"notification": {"title": "short"}}}}, None),
    ],
)
def test_refused_messages(backend, fields, code):
    """What GCM is sure to refuse, and what would change the recipients, is refused here."""
    verdict = backend.refuse_message(PushMessage(**fields), TargetKind.TOKEN)
    assert (verdict and (verdict.outcome, verdict.code)) == (code and (Outcome.MESSAGE_REJECTED, code))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"title": "Hello"}, "InvalidParameters"),
        ({"title": "x" * 5000, "data": {"a": "b"}}, None),
        ({"content_available": True, "collapse_key": "sync"}, None),
        ({"data": {"a": "b"}, "provider_options": {"gcm": {"priority": "high"}}}, "InvalidParameters"),
        ({"data": {"a": "b"}, "provider_options": {"gcm": {"registration_id": "x"}}}, "InvalidParameters"),
        ({"data": {"a": "b"}, "provider_options": {"gcm": {"notification": {}}}}, "InvalidParameters"),
        ({"data": {"a": "b"}, "provider_options": {"gcm": {"collapse_key": ["x"]}}}, "InvalidParameters"),
        ({"data": {"a": "b"}, "provider_options": {"gcm": {"dry_run": None}}}, None),
    ],
)
def test_messages_refused_in_plain_text(plaintext, fields, code):
    """Plain text has few words; what it would have to drop wholly is refused."""
    verdict = plaintext.refuse_message(PushMessage(**fields), TargetKind.TOKEN)
    assert (verdict and (verdict.outcome, verdict.code)) == (code and (Outcome.MESSAGE_REJECTED, code))


def test_a_topics_payload_is_half_as_big(backend):
    """2048 bytes go to a topic or condition."""
    message = PushMessage(data={"x": "y" * 2048})
    assert backend.refuse_message(message, TargetKind.TOKEN) is None
    for kind in (TargetKind.TOPIC, TargetKind.CONDITION):
        assert backend.refuse_message(message, kind).code == "MessageTooBig"


# --- settings -----------------------------------------------------------------------------------------


def test_api_key():
    """The key is sent as GCM wants it."""
    assert make(api_key="s3cret").auth.header.reveal() == "key=s3cret"


def test_the_endpoint_is_taken_as_it_is():
    """A relay's URL may end in a slash or have a query; neither is changed."""
    for endpoint in ("https://relay.example/gcm/", "https://relay.example/send?app=1"):
        assert one(make(endpoint=endpoint)).url == endpoint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": ""}, "api_key"),
        ({"api_key": "s3cret\n"}, "api_key"),
        ({"api_key": None}, "api_key"),
        ({"api_key": "s3crét"}, "api_key"),
        ({"format": "xml"}, "format"),
        ({"format": None}, "format"),
        ({"format": ["json"]}, "format"),
        ({"endpoint": "http://relay.example/"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
    ],
)
def test_wrong_options(options, said):
    """A wrong option is an error that names alias and option, and shows no secret."""
    with pytest.raises(InvalidPushBackend, match=re.escape(f"PUSH_BACKENDS['gcm']: {said}")) as caught:
        make(**options)
    assert "s3cr" not in str(caught.value)


def test_a_thousand_results(backend):
    """A full multicast is read in order."""
    request = one(backend, count=1000)
    parsed = backend.parse(request, gcm_oks(request))
    assert [ticket.id for ticket in parsed.tickets] == [f"0:{n}%aa11" for n in range(1000)]
