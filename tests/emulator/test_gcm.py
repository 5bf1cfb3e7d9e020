from urllib.parse import urlencode

import pytest

from django_push.emulator import gcm
from django_push.emulator.state import Options, State
from tests.emulator.calls import call, header, json_call, read


def send(state, payload, **headers):
    return gcm.answer(json_call("/gcm/send", payload, **{"authorization": "key=k", **headers}), state)


def send_form(state, *pairs, **headers):
    headers = {
        "authorization": "key=k",
        "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    } | headers
    return gcm.answer(call("/gcm/send", urlencode(pairs).encode(), **headers), state)


def results(answer):
    return read(answer)["results"]


class TestJSON:
    def test_accepted(self, state):
        """Each id has its result, in order, and the counts add up."""
        answer = send(state, {"registration_ids": ["a", "unregistered", "b"], "data": {"k": "v"}})
        payload = read(answer)
        assert (payload["success"], payload["failure"], payload["canonical_ids"]) == (2, 1, 0)
        assert isinstance(payload["multicast_id"], int)
        assert [list(result) for result in payload["results"]] == [["message_id"], ["error"], ["message_id"]]
        assert state.accepted == {"a": 1, "b": 1}

    def test_to(self, state):
        """A single token may be given as to."""
        assert len(results(send(state, {"to": "a"}))) == 1

    def test_canonical(self, state):
        """Two old ids can lead to one new id, in one answer."""
        answer = send(state, {"registration_ids": ["a-replaced-by-c", "b-replaced-by-c", "d"]})
        assert [result.get("registration_id") for result in results(answer)] == ["c", "c", None]
        assert read(answer)["canonical_ids"] == 2

    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("unregistered", "NotRegistered"),
            ("invalid", "InvalidRegistration"),
            ("invalid-field", "InvalidRegistration"),
            ("payload", "InvalidDataKey"),
            ("mismatch", "MismatchSenderId"),
            ("too-big", "MessageTooBig"),
            ("setup", "InvalidApnsCredential"),
            ("rate", "DeviceMessageRateExceeded"),
            ("unavailable", "Unavailable"),
            ("internal", "InternalServerError"),
            ("code-QuotaExceeded", "QuotaExceeded"),
        ],
    )
    def test_errors(self, state, word, code):
        """A marker is the error of its own result alone."""
        answer = send(state, {"registration_ids": [f"{word}-1", "a"]})
        assert results(answer)[0] == {"error": code}
        assert "message_id" in results(answer)[1]
        assert header(answer, "Retry-After") == ("7" if code == "Unavailable" else None)

    @pytest.mark.parametrize("word", ["developer", "receipt-unregistered"])
    def test_words_without_meaning(self, state, word):
        """A marker for which GCM has no answer means that the push is accepted."""
        assert "message_id" in results(send(state, {"to": word}))[0]

    def test_malformed_id(self, state):
        """An id that has not the form of one is an InvalidRegistration."""
        ids = ["a b", "ExponentPushToken[a]", ""]
        assert results(send(state, {"registration_ids": ids})) == [{"error": "InvalidRegistration"}] * 3

    def test_package(self, state):
        """A package that is demanded must be the token's own."""
        ids = ["package-1", "a"]
        assert "error" not in results(send(state, {"registration_ids": ids}))[0]
        demanded = send(state, {"registration_ids": ids, "restricted_package_name": "com.example"})
        assert results(demanded)[0] == {"error": "InvalidPackageName"}
        assert "message_id" in results(demanded)[1]

    def test_dry_run(self, state):
        """A dry run says what would be, and counts nothing."""
        answer = send(state, {"registration_ids": ["a", "unregistered"], "dry_run": True})
        assert results(answer) == [{"message_id": "fake_message_id"}, {"error": "NotRegistered"}]
        assert not state.accepted
        assert not state.inbox

    @pytest.mark.parametrize(
        ("ttl", "fits"), [(0, True), (2_419_200, True), (-1, False), (2_419_201, False), (1.5, False)]
    )
    def test_ttl(self, state, ttl, fits):
        """A time to live is a whole number of seconds of up to four weeks."""
        [result] = results(send(state, {"to": "a", "time_to_live": ttl}))
        assert result.get("error") == (None if fits else "InvalidTtl")

    @pytest.mark.parametrize("key", ["from", "message_type", "google.x", "gcm_y"])
    def test_reserved_keys(self, state, key):
        """Google's own keys of data are refused."""
        assert results(send(state, {"to": "a", "data": {key: "x"}})) == [{"error": "InvalidDataKey"}]

    def test_too_big(self, state):
        """More than 4096 bytes are too big for a token, more than 2048 for a topic."""
        assert results(send(state, {"to": "a", "data": {"k": "x" * 4096}})) == [{"error": "MessageTooBig"}]
        assert "message_id" in results(send(state, {"to": "a", "data": {"k": "x" * 4095}}))[0]
        assert read(send(state, {"to": "/topics/a", "data": {"k": "x" * 2048}})) == {"error": "MessageTooBig"}

    @pytest.mark.parametrize("payload", [{}, {"to": ""}])
    def test_nobody(self, state, payload):
        """A request to nobody is a MissingRegistration."""
        assert results(send(state, payload)) == [{"error": "MissingRegistration"}]

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            ([], "JSON_TYPE_ERROR: The request must be a JSON object"),
            ({"registration_ids": []}, '"registration_ids" field cannot be empty'),
            ({"registration_ids": ["a"] * 1001}, "(1001) exceeds maximum allowed (1000)"),
            ({"registration_ids": "a"}, 'Field "registration_ids" must be a JSON array'),
            ({"registration_ids": [1]}, 'Field "registration_ids[0]" must be a JSON string'),
            (
                {"to": "a", "registration_ids": ["a"]},
                'Must use either "to" field or "registration_ids", not both',
            ),
            ({"to": "a", "time_to_live": "60"}, 'Field "time_to_live" must be a JSON number'),
            ({"to": "a", "time_to_live": True}, 'Field "time_to_live" must be a JSON number'),
            ({"to": "a", "dry_run": "1"}, 'Field "dry_run" must be a JSON boolean'),
            ({"to": "a", "data": "x"}, 'Field "data" must be a JSON object'),
            ({"to": "a", "data": {"a": {}}}, 'Field "data.a" must be a JSON string'),
            ({"to": "a", "notification": {"title": 1}}, 'Field "notification.title" must be a JSON string'),
            ({"to": "a", "notification": {"nope": 1}}, 'Unknown field "notification.nope"'),
            ({"to": "a", "notification": {"color": "red"}}, "must be in the form #rrggbb"),
            ({"to": "a", "priority": "urgent"}, "must be normal or high"),
            ({"to": "a", "timeToLive": 1}, 'Unknown field "timeToLive"'),
            ({"to": "/topics/a b"}, "/topics/ and a name"),
            ({"condition": "a && b"}, "no boolean expression"),
            ({"condition": "('a' in topics"}, "no boolean expression"),
            ({"condition": " || ".join(f"'{i}' in topics" for i in range(6))}, "1 to 5 topics"),
        ],
    )
    def test_bad_requests(self, state, payload, text):
        """What cannot be read is a 400 whose text explains it."""
        answer = send(state, payload)
        assert answer.status == 400
        assert text in answer.body.decode()

    def test_no_json(self, state):
        """A body that is no JSON is a 400."""
        bad = call("/gcm/send", b"{", authorization="key=k", **{"content-type": "application/json"})
        assert gcm.answer(bad, state).status == 400

    def test_everything(self, state):
        """Every field of the reference is taken in its own type."""
        payload = {
            "registration_ids": ["a"], "collapse_key": "c", "priority": "high", "content_available": True,
            "mutable_content": True, "delay_while_idle": False, "time_to_live": 60,
            "restricted_package_name": "com.example", "dry_run": False, "data": {"a": "b", "n": 1},
            "notification": {
                "title": "t", "body": "b", "click_action": "c", "icon": "i", "sound": "s", "tag": "t",
                "color": "#00ff00", "android_channel_id": "c", "image": "i", "badge": "1", "subtitle": "s",
                "title_loc_key": "k", "title_loc_args": ["a"], "body_loc_key": "k", "body_loc_args": ["a"],
            },
        }  # fmt: skip
        assert "message_id" in results(send(state, payload))[0]


class TestTopics:
    @pytest.mark.parametrize(
        "payload",
        [{"to": "/topics/news"}, {"condition": "'a' in topics && ('b' in topics || !('c' in topics))"}],
    )
    def test_accepted(self, state, payload):
        """A topic or condition is answered with one number."""
        assert isinstance(read(send(state, payload))["message_id"], int)

    @pytest.mark.parametrize(
        ("topic", "code"),
        [
            ("rate", "TopicsMessageRateExceeded"),
            ("unavailable", "Unavailable"),
            ("internal", "InternalServerError"),
            ("code-Odd", "Odd"),
        ],
    )
    def test_errors(self, state, topic, code):
        """A topic's marker is the error of the answer."""
        assert read(send(state, {"to": f"/topics/{topic}-1"})) == {"error": code}

    def test_not_about_tokens(self, state):
        """A topic is never unregistered or replaced."""
        assert "message_id" in read(send(state, {"to": "/topics/unregistered"}))
        assert "registration_id" not in read(send(state, {"to": "/topics/a-replaced-by-b"}))


class TestPlaintext:
    def test_accepted(self, state):
        """A form is answered with one line."""
        answer = send_form(state, ("registration_id", "a"), ("data.k", "a=b"), ("time_to_live", "60"))
        assert answer.body.startswith(b"id=0:")
        assert b"\n" not in answer.body
        assert state.inbox[0].content["data"] == {"k": "a=b"}

    def test_absent_content_type(self, state):
        """Without a content type the body is plain text."""
        answer = gcm.answer(call("/fcm/send", b"registration_id=a", authorization="key=k"), state)
        assert answer.body.startswith(b"id=")

    def test_canonical(self, state):
        """A canonical id is on the second line."""
        lines = send_form(state, ("registration_id", "a-replaced-by-b")).body.decode().split("\n")
        assert lines[0].startswith("id=")
        assert lines[1:] == ["registration_id=b"]

    @pytest.mark.parametrize(
        ("pairs", "line"),
        [
            ([("registration_id", "unregistered-1")], b"Error=NotRegistered"),
            ([("registration_id", "invalid-1")], b"Error=InvalidRegistration"),
            ([("registration_id", "mismatch")], b"Error=MismatchSenderId"),
            ([("registration_id", "internal")], b"Error=InternalServerError"),
            ([("registration_id", "package"), ("restricted_package_name", "x")], b"Error=InvalidPackageName"),
            ([("registration_id", "a"), ("time_to_live", "x")], b"Error=InvalidTtl"),
            ([("registration_id", "a"), ("time_to_live", "2419201")], b"Error=InvalidTtl"),
            ([("registration_id", "a"), ("data.from", "x")], b"Error=InvalidDataKey"),
            ([("registration_id", "a"), ("data.k", "x" * 4096)], b"Error=MessageTooBig"),
            ([("registration_id", "")], b"Error=MissingRegistration"),
            ([], b"Error=MissingRegistration"),
        ],
    )
    def test_errors(self, state, pairs, line):
        """An error is one line, with status 200."""
        answer = send_form(state, *pairs)
        assert (answer.status, answer.body) == (200, line)

    @pytest.mark.parametrize(
        "pairs",
        [
            [("registration_id", "a"), ("notification", "x")],
            [("registration_id", "a"), ("registration_id", "b")],
            [("registration_id", "a"), ("dry_run", "yes")],
        ],
    )
    def test_bad_requests(self, state, pairs):
        """A name that plain text has not, or has once, is a 400."""
        answer = send_form(state, *pairs)
        assert (answer.status, answer.body) == (400, b"Error=InvalidParameters")

    @pytest.mark.parametrize("body", [b"registration_id", b"registration_id=\xff"])
    def test_no_form(self, state, body):
        """A body that is no form in UTF-8 is a 400."""
        assert gcm.answer(call("/gcm/send", body, authorization="key=k"), state).status == 400

    def test_unavailable(self, state):
        """Plain text has no word for it: the status says it, with a Retry-After."""
        answer = send_form(state, ("registration_id", "unavailable-once"))
        assert (answer.status, header(answer, "Retry-After")) == (500, "7")
        assert send_form(state, ("registration_id", "unavailable-once")).status == 200

    def test_dry_run(self, state):
        """A dry run counts nothing."""
        answer = send_form(state, ("registration_id", "a"), ("dry_run", "1"))
        assert answer.body == b"id=fake_message_id"
        assert not state.accepted


class TestWholeRequest:
    @pytest.mark.parametrize(
        ("word", "status", "code", "wait"),
        [
            ("request-rate", 429, "QuotaExceeded", "7"),
            ("request-unavailable", 503, "Unavailable", "7"),
            ("request-internal", 500, "InternalServerError", None),
        ],
    )
    def test_fails(self, state, word, status, code, wait):
        """A marker of the whole request fails everybody in it, in the format that was spoken."""
        answer = send(state, {"registration_ids": ["a", word]})
        assert (answer.status, read(answer), header(answer, "Retry-After")) == (status, {"error": code}, wait)
        plain = send_form(state, ("registration_id", word))
        assert (plain.status, plain.body) == (status, f"Error={code}".encode())
        assert not state.accepted

    def test_no_words(self, state):
        """A proxy's 502 is HTML, an empty 500 is empty."""
        assert send(state, {"to": "request-html"}).body.startswith(b"<html>")
        assert send(state, {"to": "request-empty"})[:2] == (500, b"")


class TestKey:
    @pytest.mark.parametrize("authorization", ["", "key=", "Bearer x", "wrong", "key=wrong-one"])
    def test_refused(self, state, authorization):
        """Without a key, and with one that begins with wrong, it is a 401."""
        assert send(state, {"to": "a"}, authorization=authorization).status == 401

    def test_demanded(self):
        """A key that is demanded must be given exactly."""
        state = State(Options(gcm_key="right=="))
        assert send(state, {"to": "a"}).status == 401
        assert send(state, {"to": "a"}, authorization="key=right==").status == 200

    def test_content_type(self, state):
        """Another content type is a 400."""
        assert send(state, {"to": "a"}, **{"content-type": "text/xml"}).status == 400
