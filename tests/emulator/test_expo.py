import uuid

import pytest

from django_push.emulator import expo
from django_push.emulator.state import Options, State
from tests.emulator.calls import TOKEN, call, header, json_call, read

SEND = "/--/api/v2/push/send"
RECEIPTS = "/--/api/v2/push/getReceipts"


def send(state, payload, **headers):
    return expo.answer(json_call(SEND, payload, **headers), state)


def receipts(state, payload):
    return expo.answer(json_call(RECEIPTS, payload), state)


def error(answer):
    [only] = read(answer)["errors"]
    return answer.status, only["code"], only["message"]


class TestSend:
    def test_array(self, state):
        """An array is answered with a ticket for each recipient, arrays of recipients flattened in place."""
        to = [f"ExponentPushToken[{i}]" for i in range(3)]
        payload = read(send(state, [{"to": to[:2], "body": "x"}, {"to": to[2]}]))
        assert [ticket["status"] for ticket in payload["data"]] == ["ok"] * 3
        assert len({ticket["id"] for ticket in payload["data"]}) == 3
        assert state.accepted == dict.fromkeys(to, 1)

    def test_single(self, state):
        """A single object to a single recipient is answered with one ticket, not a list."""
        assert read(send(state, {"to": TOKEN}))["data"]["status"] == "ok"

    def test_single_to_many(self, state):
        """A single object to two recipients is answered with a list."""
        assert len(read(send(state, {"to": [TOKEN, "ExpoPushToken[b]"]}))["data"]) == 2

    def test_id(self, state):
        """A ticket's id is a UUID of version 7."""
        assert uuid.UUID(read(send(state, {"to": TOKEN}))["data"]["id"]).version == 7

    def test_uuid_token(self, state):
        """A token in the form of a UUID is taken."""
        assert send(state, {"to": str(uuid.uuid4())}).status == 200

    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("unregistered", "DeviceNotRegistered"),
            ("mismatch", "MismatchSenderId"),
            ("too-big", "MessageTooBig"),
            ("setup", "InvalidCredentials"),
            ("rate", "MessageRateExceeded"),
            ("unavailable", "ProviderError"),
            ("internal", "ExpoError"),
            ("developer", "DeveloperError"),
            ("code-BrandNew", "BrandNew"),
        ],
    )
    def test_ticket_errors(self, state, word, code):
        """A marker makes its token's ticket an error without an id, and leaves the others alone."""
        bad, good = read(send(state, [{"to": [f"ExponentPushToken[{word}-1]", TOKEN]}]))["data"]
        assert (bad["status"], bad["details"]["error"]) == ("error", code)
        assert "id" not in bad
        assert good["status"] == "ok"

    def test_dead_token_named(self, state):
        """The ticket of a dead token names it, in the text and in the details."""
        token = "ExponentPushToken[unregistered-1]"
        [ticket] = read(send(state, [{"to": token}]))["data"]
        assert ticket["message"] == f'"{token}" is not a registered push notification recipient'
        assert ticket["details"]["expoPushToken"] == token

    @pytest.mark.parametrize("word", ["package", "replaced-by-b"])
    def test_words_without_meaning(self, state, word):
        """A marker for which Expo has no answer means that the push is accepted."""
        assert read(send(state, {"to": f"ExponentPushToken[{word}]"}))["data"]["status"] == "ok"

    def test_too_big(self, state):
        """A message of more than 4096 bytes gets a MessageTooBig for each of its recipients."""
        messages = [
            {"to": [TOKEN, "ExponentPushToken[b]"], "body": "ü" * 2049},
            {"to": TOKEN, "body": "x" * 4096},
        ]
        tickets = read(send(state, messages))["data"]
        assert [t.get("details", {}).get("error") for t in tickets] == [
            "MessageTooBig",
            "MessageTooBig",
            None,
        ]


class TestWholeRequest:
    @pytest.mark.parametrize(
        ("word", "status", "code", "wait"),
        [
            ("request-rate", 429, "TOO_MANY_REQUESTS", "7"),
            ("request-unavailable", 503, "INTERNAL_SERVER_ERROR", "7"),
            ("request-internal", 500, "INTERNAL_SERVER_ERROR", None),
        ],
    )
    def test_fails(self, state, word, status, code, wait):
        """A marker of the whole request fails everybody in it."""
        answer = send(state, [{"to": [TOKEN, f"ExponentPushToken[{word}]"]}])
        assert error(answer)[:2] == (status, code)
        assert header(answer, "Retry-After") == wait
        assert not state.accepted

    def test_html(self, state):
        """A proxy's 502 is HTML."""
        answer = send(state, {"to": "ExponentPushToken[request-html]"})
        assert (answer.status, answer.body[:6]) == (502, b"<html>")

    def test_empty(self, state):
        """An empty 500 has no body."""
        answer = send(state, {"to": "ExponentPushToken[request-empty]"})
        assert (answer.status, answer.body) == (500, b"")

    def test_once(self, state):
        """A failure marked -once is over at the second request."""
        message = {"to": "ExponentPushToken[request-rate-once]"}
        assert [send(state, message).status for _ in range(3)] == [429, 200, 200]

    def test_too_many(self, state):
        """More than 100 recipients are refused, however they are grouped."""
        messages = [{"to": [TOKEN] * 51}, {"to": [TOKEN] * 50}]
        assert error(send(state, messages))[:2] == (400, "PUSH_TOO_MANY_NOTIFICATIONS")
        assert send(state, [{"to": [TOKEN] * 100}]).status == 200

    def test_mixed_projects(self, state):
        """Recipients of two projects are refused, and the answer says who belongs to which."""
        other = "ExponentPushToken[project-shop-1]"
        answer = send(state, [{"to": [TOKEN, other]}])
        assert error(answer)[:2] == (400, "PUSH_TOO_MANY_EXPERIENCE_IDS")
        details = read(answer)["errors"][0]["details"]
        assert details == {"@emulator/app": [TOKEN], "@emulator/shop": [other]}
        assert not state.accepted

    def test_malformed_json(self, state):
        """A body that is no JSON is answered with the plain text Not Found."""
        answer = expo.answer(call(SEND, b'[{"to": "x",}]'), state)
        assert (answer.status, answer.body) == (404, b"Not Found")

    def test_other_address(self, state):
        """There is nothing else below the address."""
        assert expo.answer(json_call("/--/api/v2/push/other", {}), state).status == 404


class TestValidation:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"data": []}, '"[0].data" must be of type object.'),
            ({"data": "x"}, '"[0].data" must be of type object.'),
            ({"title": 5}, '"[0].title" must be a string.'),
            ({"body": None}, '"[0].body" must be a string.'),
            ({"badge": "1"}, '"[0].badge" must be a number.'),
            ({"badge": True}, '"[0].badge" must be a number.'),
            ({"ttl": "60"}, '"[0].ttl" must be a number.'),
            ({"priority": "urgent"}, '"[0].priority" must be one of [default, normal, high].'),
            ({"mutableContent": 1}, '"[0].mutableContent" must be a boolean.'),
            ({"channelId": 4}, '"[0].channelId" must be a string.'),
            ({"sound": 4}, '"[0].sound" must be a string.'),
            ({"sound": {"critical": 1}}, '"[0].sound.critical" must be a boolean.'),
            ({"sound": {"name": 1}}, '"[0].sound.name" must be a string.'),
            ({"sound": {"volume": "1"}}, '"[0].sound.volume" must be a number.'),
            ({"richContent": {"image": 1}}, '"[0].richContent.image" must be a string.'),
            ({"to": None}, '"[0].to" must be a string.'),
            ({"to": []}, '"[0].to" must contain at least 1 items.'),
            ({"to": [TOKEN, 5]}, '"[0].to[1]" must be a string.'),
            ({"to": [TOKEN, "a1b2"]}, '"[0].to[1]" must be a valid Expo push token.'),
            ({"to": "ExponentPushToken[]"}, '"[0].to" must be a valid Expo push token.'),
            ({"to": "ExponentPushToken[invalid-1]"}, '"[0].to" must be a valid Expo push token.'),
            ({"to": [TOKEN, "ExponentPushToken[payload]"]}, '"[0].data" must be of type object.'),
        ],
    )
    def test_fields(self, state, fields, message):
        """A field of the wrong type refuses the whole request and is named by its path."""
        answer = send(state, [{"to": TOKEN, **fields}])
        assert error(answer) == (400, "VALIDATION_ERROR", message)
        assert not state.accepted

    @pytest.mark.parametrize("level", ["loud", 3])
    def test_interruption_level(self, state, level):
        """An interruption level that is none is refused with the list of those that are."""
        assert "[active, critical," in error(send(state, {"to": TOKEN, "interruptionLevel": level}))[2]

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            ({"body": "x"}, '"to" is required.'),
            ({"to": TOKEN, "data": []}, '"data" must be of type object.'),
            ([{"to": TOKEN}, {"to": TOKEN, "title": 1}], '"[1].title" must be a string.'),
            ([{"to": TOKEN}, "x"], '"[1]" must be of type object.'),
            ([], '"value" must contain at least 1 items.'),
            ("x", '"value" must be of type object.'),
        ],
    )
    def test_shapes(self, state, payload, message):
        """A path names the message in an array, and nothing for a single object."""
        assert error(send(state, payload)) == (400, "VALIDATION_ERROR", message)

    def test_everything(self, state):
        """Every field of the documentation is taken in its own type."""
        message = {
            "to": TOKEN, "data": {"a": [1]}, "title": "t", "body": "b", "subtitle": "s", "ttl": 60,
            "expiration": 1_800_000_000, "priority": "high", "badge": 0,
            "sound": {"critical": True, "name": None, "volume": 0.5},
            "interruptionLevel": "time-sensitive", "channelId": None, "icon": "i",
            "richContent": {"image": "https://example.com/a.png"}, "categoryId": "c", "collapseId": "c",
            "tag": "t", "mutableContent": True, "_contentAvailable": True, "_displayInForeground": True,
        }  # fmt: skip
        assert send(state, message).status == 200
        assert send(state, {"to": TOKEN, "sound": None}).status == 200


class TestAccessToken:
    def test_not_demanded(self, state):
        """Without enhanced security any access token will do, and none."""
        assert send(state, {"to": TOKEN}).status == 200
        assert send(state, {"to": TOKEN}, authorization="Bearer x").status == 200

    def test_wrong(self, state):
        """A wrong access token is refused in OAuth's shape."""
        answer = send(state, {"to": TOKEN}, authorization="Bearer wrong-one")
        assert answer.status == 401
        assert read(answer)["error"] == "invalid_token"

    def test_demanded(self):
        """With enhanced security one must be given, and it must be the right one, for receipts too."""
        state = State(Options(expo_access_token="right"))
        assert error(send(state, {"to": TOKEN}))[:2] == (403, "UNAUTHORIZED")
        assert send(state, {"to": TOKEN}, authorization="Bearer other").status == 401
        assert send(state, {"to": TOKEN}, authorization="bearer right").status == 200
        assert receipts(state, {"ids": []}).status == 403


class TestReceipts:
    def ticket(self, state, token):
        return read(send(state, {"to": token}))["data"]["id"]

    def test_ok(self, state):
        """The receipt of an accepted push is ok; ids that are unknown are absent."""
        ticket = self.ticket(state, TOKEN)
        assert read(receipts(state, {"ids": [ticket, "other"]}))["data"] == {ticket: {"status": "ok"}}

    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("unregistered", "DeviceNotRegistered"),
            ("mismatch", "MismatchSenderId"),
            ("too-big", "MessageTooBig"),
            ("setup", "InvalidCredentials"),
            ("rate", "MessageRateExceeded"),
            ("unavailable", "ProviderError"),
            ("internal", "ExpoError"),
            ("developer", "DeveloperError"),
            ("code-BrandNew", "BrandNew"),
        ],
    )
    def test_errors(self, state, word, code):
        """A marker with receipt- is accepted at once and fails in the receipt."""
        ticket = self.ticket(state, f"ExponentPushToken[receipt-{word}-1]")
        receipt = read(receipts(state, {"ids": [ticket]}))["data"][ticket]
        assert (receipt["status"], receipt["details"]["error"]) == ("error", code)

    def test_nested(self, state):
        """A mismatch can be told inside a ProviderError, in FCM's name."""
        ticket = self.ticket(state, "ExponentPushToken[receipt-mismatch-nested]")
        details = read(receipts(state, {"ids": [ticket]}))["data"][ticket]["details"]
        assert details["error"] == "ProviderError"
        assert details["fcm"] == {"error": "MismatchSenderId"}

    def test_never(self, state):
        """Some tickets never have a receipt."""
        ticket = self.ticket(state, "ExponentPushToken[receipt-never-1]")
        assert read(receipts(state, {"ids": [ticket]}))["data"] == {}

    def test_delay_and_end(self):
        """A receipt is absent until it is ready, and gone after a day."""
        state = State(Options(receipt_delay=900))
        ticket = self.ticket(state, TOKEN)
        assert read(receipts(state, {"ids": [ticket]}))["data"] == {}
        state.advance(901)
        assert ticket in read(receipts(state, {"ids": [ticket]}))["data"]
        state.advance(24 * 3600)
        assert read(receipts(state, {"ids": [ticket]}))["data"] == {}
        self.ticket(state, TOKEN)
        assert ticket not in state._receipts

    def test_too_many(self, state):
        """More than 1000 ids are refused."""
        assert error(receipts(state, {"ids": ["x"] * 1001}))[:2] == (400, "PUSH_TOO_MANY_RECEIPTS")
        assert receipts(state, {"ids": ["x"] * 1000}).status == 200

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            ([], '"value" must be of type object.'),
            ({}, '"ids" is required.'),
            ({"ids": "x"}, '"ids" must be an array.'),
            ({"ids": ["x", 1]}, '"ids[1]" must be a string.'),
        ],
    )
    def test_validation(self, state, payload, message):
        """Anything but a list of strings is refused."""
        assert error(receipts(state, payload)) == (400, "VALIDATION_ERROR", message)
