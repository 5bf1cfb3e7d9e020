import pytest

from django_push.emulator import fcm
from django_push.emulator.state import Options, State
from tests.emulator.calls import call, header, json_call, read

PATH = "/v1/projects/shop/messages:send"
EMAIL = "push@shop.iam.gserviceaccount.com"


def send(state, payload, *, path=PATH, email=EMAIL):
    token = state.issue_access_token(email)
    return fcm.answer(json_call(path, payload, authorization=f"Bearer {token}"), state)


def send_message(state, **fields):
    return send(state, {"message": fields})


def details(answer, kind):
    found = [d for d in read(answer)["error"].get("details", []) if d["@type"].endswith(f".{kind}")]
    return found[0] if found else None


def code(answer):
    found = details(answer, "FcmError")
    return found["errorCode"] if found else None


def violation(answer):
    [only] = details(answer, "BadRequest")["fieldViolations"]
    return only.get("field")


class TestSend:
    @pytest.mark.parametrize("kind", ["token", "fid", "topic"])
    def test_accepted(self, state, kind):
        """A push is answered with its name."""
        answer = send_message(state, **{kind: "abc"}, notification={"title": "Hi"})
        assert answer.status == 200
        assert read(answer)["name"].startswith("projects/shop/messages/")
        assert state.accepted == {"abc": 1}
        assert state.inbox[0].kind == kind

    def test_condition(self, state):
        """A condition of up to five topics is taken."""
        assert send_message(state, condition="'a' in topics && !('b' in topics)").status == 200

    def test_validate_only(self, state):
        """A dry run has a fake id, finds dead tokens, and counts nothing."""
        answer = send(state, {"validate_only": True, "message": {"token": "a"}})
        assert read(answer)["name"] == "projects/shop/messages/fake_message_id"
        dead = send(state, {"validateOnly": True, "message": {"token": "unregistered"}})
        assert code(dead) == "UNREGISTERED"
        assert not state.seen

    @pytest.mark.parametrize(
        ("word", "status", "canonical", "expected"),
        [
            ("unregistered", 404, "NOT_FOUND", "UNREGISTERED"),
            ("invalid", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
            ("invalid-field", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
            ("payload", 400, "INVALID_ARGUMENT", None),
            ("too-big", 400, "INVALID_ARGUMENT", None),
            ("mismatch", 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
            ("setup", 401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
            ("rate", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
            ("unavailable", 503, "UNAVAILABLE", "UNAVAILABLE"),
            ("internal", 500, "INTERNAL", "INTERNAL"),
            ("code-BRAND_NEW", 400, "INVALID_ARGUMENT", "BRAND_NEW"),
            ("request-rate", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
            ("request-unavailable", 503, "UNAVAILABLE", None),
            ("request-internal", 500, "INTERNAL", None),
        ],
    )
    def test_errors(self, state, word, status, canonical, expected):
        """A marker is Google's own error, with its HTTP status, canonical status and FcmError."""
        answer = send_message(state, token=f"{word}-1")
        error = read(answer)["error"]
        assert (answer.status, error["code"], error["status"]) == (status, status, canonical)
        assert code(answer) == expected
        assert not state.accepted

    def test_bad_token_shapes(self, state):
        """A bad token is told in words alone, or by naming the field, or is a payload's fault."""
        words = send_message(state, token="invalid")
        assert details(words, "BadRequest") is None
        assert "not a valid FCM registration token" in read(words)["error"]["message"]
        assert violation(send_message(state, token="invalid-field")) == "message.token"
        assert violation(send_message(state, token="payload")) == "message.data[0].value"

    def test_malformed(self, state):
        """A token without the form of one is invalid, such a FID unregistered."""
        assert code(send_message(state, token="ExponentPushToken[a]")) == "INVALID_ARGUMENT"
        assert code(send_message(state, fid="a:b")) == "UNREGISTERED"
        assert code(send_message(state, fid="invalid-1")) == "UNREGISTERED"

    def test_waits(self, state):
        """The project's quota and an outage come with a Retry-After, a device's rate without."""
        waits = {
            word: header(send_message(state, token=word), "Retry-After")
            for word in ("rate", "request-rate", "unavailable", "request-unavailable", "internal")
        }
        assert waits == {
            "rate": None,
            "request-rate": "7",
            "unavailable": "7",
            "request-unavailable": "7",
            "internal": None,
        }

    def test_quota(self, state):
        """A QuotaFailure says whose quota it is."""
        for kind, word, subject in [
            ("token", "rate", "device"),
            ("token", "request-rate", "project"),
            ("topic", "rate", "topic"),
        ]:
            failure = details(send_message(state, **{kind: word}), "QuotaFailure")
            assert failure["violations"][0]["subject"].startswith(subject)

    @pytest.mark.parametrize("word", ["package", "developer", "receipt-unregistered", "replaced-by-b"])
    def test_words_without_meaning(self, state, word):
        """A marker for which FCM has no answer means that the push is accepted."""
        assert send_message(state, token=word).status == 200

    def test_topic_is_no_token(self, state):
        """A topic is never unregistered, but can be unavailable."""
        assert send_message(state, topic="unregistered").status == 200
        assert send_message(state, topic="unavailable-once").status == 503
        assert send_message(state, topic="unavailable-once").status == 200

    def test_no_words(self, state):
        """A proxy's 502 is HTML, an empty 500 is empty."""
        assert send_message(state, token="request-html").body.startswith(b"<html>")
        assert send_message(state, token="request-empty")[:2] == (500, b"")

    def test_too_big(self, state):
        """4096 bytes are the most for a token, 2048 for a topic, in Apple's payload too."""
        assert send_message(state, token="a", data={"k": "x" * 4095}).status == 200
        assert send_message(state, token="a", data={"k": "x" * 4096}).status == 400
        assert send_message(state, topic="a", data={"k": "x" * 2048}).status == 400
        assert send_message(state, token="a", apns={"payload": {"k": "x" * 4096}}).status == 400

    def test_android_data(self, state):
        """Android's own data replaces the common one."""
        send_message(state, token="a", data={"k": "x"}, android={"data": {"k": "y"}})
        assert state.inbox[0].content["data"] == {"k": "y"}


class TestFields:
    def test_everything(self, state):
        """Every field of Google's discovery document is taken, in snake_case and in camelCase."""
        answer = send_message(
            state,
            token="a",
            data={"k": "v"},
            notification={"title": "t", "body": "b", "image": "https://example.com/a.png"},
            android={
                "collapse_key": "c", "priority": "high", "ttl": "3.5s", "restricted_package_name": "p",
                "data": {"k": "v"}, "directBootOk": True, "fcm_options": {"analytics_label": "a"},
                "notification": {
                    "title": "t", "body": "b", "icon": "i", "color": "#00ff00", "sound": "s", "tag": "t",
                    "click_action": "c", "body_loc_key": "k", "body_loc_args": ["a"], "title_loc_key": "k",
                    "title_loc_args": ["a"], "channelId": "c", "ticker": "t", "sticky": True,
                    "event_time": "2026-01-01T00:00:00Z", "local_only": False,
                    "notification_priority": "PRIORITY_HIGH", "default_sound": True,
                    "vibrate_timings": ["1s", "0.5s"], "visibility": "PUBLIC", "notification_count": "3",
                    "light_settings": {"color": {"red": 1, "green": 0.5}, "light_on_duration": "1s"},
                    "image": "i", "proxy": "ALLOW",
                },
            },
            apns={
                "headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": "x"}},
                "fcmOptions": {"image": "i"}, "live_activity_token": "t",
            },
            webpush={
                "headers": {"TTL": "15"}, "data": {"k": "v"}, "notification": {"any": ["thing"]},
                "fcm_options": {"link": "https://example.com/"},
            },
            fcm_options={"analytics_label": "a"},
        )  # fmt: skip
        assert answer.status == 200

    def test_null(self, state):
        """A null is the same as no field."""
        assert send_message(state, token="a", topic=None, android=None).status == 200

    @pytest.mark.parametrize(
        ("fields", "path", "text"),
        [
            ({"data": {"a": "x", "b": 12}}, "message.data[1].value", "(TYPE_STRING), 12"),
            ({"data": {"a": {}}}, "message.data[0].value", "(TYPE_STRING), {}"),
            ({"data": []}, "message.data", "An object was expected at 'message.data'"),
            ({"notification": "x"}, "message.notification", "An object was expected"),
            ({"notification": {"title": 1}}, "message.notification.title", "(TYPE_STRING), 1"),
            ({"nope": 1}, "message", "Unknown name \"nope\" at 'message': Cannot find field."),
            ({"android": {"nope": 1}}, "message.android", "Unknown name \"nope\" at 'message.android'"),
            ({"android": {"ttl": "60"}}, "message.android.ttl", "duration must end with 's'"),
            ({"android": {"ttl": 60}}, "message.android.ttl", "google.protobuf.Duration"),
            ({"android": {"priority": "urgent"}}, "message.android.priority", '"urgent"'),
            ({"android": {"direct_boot_ok": "yes"}}, "message.android.direct_boot_ok", "TYPE_BOOL"),
            ({"apns": {"headers": {"apns-priority": 10}}}, "message.apns.headers[0].value", "TYPE_STRING"),
            ({"apns": {"payload": "x"}}, "message.apns.payload", "google.protobuf.Struct"),
            ({"topic": "news"}, "message", "oneof field 'target' is already set. Cannot set 'topic'"),
        ],
    )  # fmt: skip
    def test_types(self, state, fields, path, text):
        """A field of the wrong type or name is a BadRequest without an FcmError, naming its path."""
        answer = send_message(state, token="a", **fields)
        assert answer.status == 400
        assert violation(answer) == path
        assert text in read(answer)["error"]["message"]
        assert code(answer) is None

    @pytest.mark.parametrize(
        ("fields", "path", "text"),
        [
            ({"notification_count": "x"}, "notification_count", "TYPE_INT32"),
            ({"notification_count": "99999999999"}, "notification_count", "TYPE_INT32"),
            ({"notification_count": 2**31}, "notification_count", "TYPE_INT32"),
            ({"event_time": "now"}, "event_time", "google.protobuf.Timestamp"),
            ({"title_loc_args": ["a", 1]}, "title_loc_args[1]", "TYPE_STRING"),
            ({"light_settings": {"color": {"red": "1"}}}, "light_settings.color.red", "TYPE_FLOAT"),
            ({"visibility": "SHY"}, "visibility", '"SHY"'),
        ],
    )
    def test_android_notification_types(self, state, fields, path, text):
        """A fault deep inside is named by its whole path."""
        answer = send_message(state, token="a", android={"notification": fields})
        assert violation(answer) == f"message.android.notification.{path}"
        assert text in read(answer)["error"]["message"]

    def test_all_faults(self, state):
        """All that is wrong is told at once."""
        answer = send(state, {"message": {"token": 1, "nope": 2}, "other": 3})
        assert len(details(answer, "BadRequest")["fieldViolations"]) == 3

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"data": {"from": "x"}}, "message.data"),
            ({"data": {"google.x": "x"}}, "message.data"),
            ({"android": {"data": {"gcm.x": "x"}}}, "message.android.data"),
            ({"android": {"ttl": "2419201s"}}, "message.android.ttl"),
            ({"android": {"ttl": "-1s"}}, "message.android.ttl"),
            ({"android": {"notification": {"color": "red"}}}, "message.android.notification.color"),
            ({"fcm_options": {"analytics_label": "a b"}}, "message.fcm_options.analytics_label"),
            ({"webpush": {"fcm_options": {"link": "http://x"}}}, "message.webpush.fcm_options.link"),
        ],
    )
    def test_values(self, state, fields, path):
        """A value that is not allowed is an INVALID_ARGUMENT that names the field."""
        answer = send_message(state, token="a", **fields)
        assert (answer.status, code(answer), violation(answer)) == (400, "INVALID_ARGUMENT", path)

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({}, "message"),
            ({"topic": "a b"}, "message.topic"),
            ({"condition": "a && b"}, "message.condition"),
            ({"condition": " && ".join(f"'{i}' in topics" for i in range(6))}, "message.condition"),
        ],
    )
    def test_targets(self, state, fields, path):
        """A message has one target, in its own form."""
        answer = send_message(state, **fields)
        assert (answer.status, violation(answer)) == (400, path)

    @pytest.mark.parametrize("body", [b"{", b"[" * 100_000])
    def test_no_json(self, state, body):
        """A body that is no JSON is a BadRequest."""
        token = state.issue_access_token(EMAIL)
        answer = fcm.answer(call(PATH, body, authorization=f"Bearer {token}"), state)
        assert answer.status == 400
        assert read(answer)["error"]["message"].startswith("Invalid JSON payload received.")

    @pytest.mark.parametrize("payload", [[], "x", {}, {"message": []}])
    def test_no_message(self, state, payload):
        """A request without a message is refused."""
        assert send(state, payload).status == 400


class TestAccess:
    def answer(self, state, authorization):
        return fcm.answer(json_call(PATH, {"message": {"token": "a"}}, authorization=authorization), state)

    def reason(self, answer):
        assert (answer.status, read(answer)["error"]["status"]) == (401, "UNAUTHENTICATED")
        return details(answer, "ErrorInfo")["reason"]

    def test_missing(self, state):
        """Without an access token, and with one that was never issued, it is a 401."""
        assert self.reason(self.answer(state, "")) == "CREDENTIALS_MISSING"
        assert self.reason(self.answer(state, "Bearer x")) == "ACCESS_TOKEN_INVALID"

    def test_expired(self, state):
        """An access token expires after an hour, or when a test says so."""
        first = state.issue_access_token(EMAIL)
        assert self.answer(state, f"Bearer {first}").status == 200
        state.advance(3601)
        assert self.reason(self.answer(state, f"Bearer {first}")) == "ACCESS_TOKEN_EXPIRED"
        second = state.issue_access_token(EMAIL)
        assert self.answer(state, f"Bearer {second}").status == 200
        state.expire_access_tokens()
        assert self.reason(self.answer(state, f"Bearer {second}")) == "ACCESS_TOKEN_EXPIRED"

    @pytest.mark.parametrize(
        "email", ["denied@shop.iam.gserviceaccount.com", "push@other.iam.gserviceaccount.com"]
    )
    def test_denied(self, state, email):
        """An account without the permission, and one of another project, is denied."""
        answer = send(state, {"message": {"token": "a"}}, email=email)
        assert (answer.status, read(answer)["error"]["status"], code(answer)) == (
            403,
            "PERMISSION_DENIED",
            None,
        )

    def test_number_and_foreign_account(self, state):
        """A project's number will do, and an account whose address does not tell its project."""
        assert send(state, {"message": {"token": "a"}}, path="/v1/projects/123/messages:send").status == 200
        assert send(state, {"message": {"token": "a"}}, email="someone@example.com").status == 200

    def test_wrong_project(self, state):
        """A project that is not there is a 404 without an FcmError."""
        answer = send(state, {"message": {"token": "a"}}, path="/v1/projects/wrong-one/messages:send")
        assert (answer.status, code(answer)) == (404, None)
        other = State(Options(fcm_project="other"))
        assert send(other, {"message": {"token": "a"}}).status == 404

    def test_other_method(self, state):
        """There is no other method."""
        assert send(state, {}, path="/v1/projects/shop/messages:other").status == 404
