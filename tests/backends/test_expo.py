"""Expo: the wire, row by row."""

import gzip
import json
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_push.backends.expo import MAX_GENERATION, ExpoBackend
from django_push.exceptions import InvalidPushBackend
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind
from django_push.wire import Failure, Reply, Secret
from tests.backends.replies import expo_errors, expo_id, expo_oks, expo_refusal, expo_ticket, ok, reply
from tests.strategies import partitions

HELLO = PushMessage(title="Hello")


@pytest.fixture
def backend():
    return ExpoBackend(alias="expo")


def token(number):
    return f"ExponentPushToken[{number:022d}]"


def targets(count, start=0, project=""):
    return [Target(token(i), i, project=project) for i in range(start, start + count)]


def said(request):
    body = request.body
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return json.loads(body)


def one(backend, message=HELLO, count=1):
    [request] = backend.build([(message, targets(count))])
    return request


def outcomes(parsed):
    return [ticket.outcome for ticket in parsed.tickets]


# --- out ----------------------------------------------------------------------------------------------


def test_a_whole_message_becomes_expos_fields(backend):
    """Every field that Expo knows goes out under Expo's name."""
    message = PushMessage(
        title="Order 17", body="On its way", subtitle="Shop", data={"order": 17, "items": ["a"]},
        image="https://example.com/a.png", icon="truck", sound="ding.wav", badge=0,
        ttl=timedelta(hours=1), priority="high", collapse_key="order", tag="order-17",
        channel_id="orders", category="order", interruption_level="time-sensitive",
        content_available=True, mutable_content=False,
        provider_options={"expo": {"expiration": 1_800_000_000, "richContent": {"alt": "A"}}},
    )  # fmt: skip
    expected = {
        "to": [token(0)],
        "title": "Order 17",
        "body": "On its way",
        "subtitle": "Shop",
        "data": {"order": 17, "items": ["a"]},
        "icon": "truck",
        "sound": "ding.wav",
        "badge": 0,
        "ttl": 3600,
        "priority": "high",
        "collapseId": "order",
        "tag": "order-17",
        "channelId": "orders",
        "categoryId": "order",
        "interruptionLevel": "time-sensitive",
        "_contentAvailable": True,
        "mutableContent": False,
        "richContent": {"image": "https://example.com/a.png", "alt": "A"},
        "expiration": 1_800_000_000,
    }
    request = one(backend, message)
    assert [expected] == said(request)
    assert request.url == "https://exp.host/--/api/v2/push/send"
    assert request.headers == {"Content-Type": "application/json"}


def test_fields_that_expo_lacks_are_left_out(backend):
    """Color, thread, link and analytics label are not said, and not claimed."""
    lacking = {"color": "#ff0000", "thread_id": "t", "link": "https://x.example", "analytics_label": "a"}
    assert not backend.fields & lacking.keys()
    assert [{"to": [token(0)], "title": "Hello"}] == said(one(backend, PushMessage(title="Hello", **lacking)))


def test_a_critical_sound_is_an_object(backend):
    """A sound may be iOS's critical alert."""
    sound = {"critical": True, "name": "alarm.wav", "volume": 0.5}
    assert said(one(backend, PushMessage(title="!", sound=sound)))[0]["sound"] == sound


def test_only_options_make_a_message(backend):
    """A message of nothing but provider_options is said with them alone."""
    message = PushMessage(provider_options={"expo": {"_displayInForeground": True}})
    assert [{"to": [token(0)], "_displayInForeground": True}] == said(one(backend, message))


def test_options_win(backend):
    """provider_options are laid over the message; its data is merged key by key."""
    message = PushMessage(
        title="Hello", data={"a": 1, "b": 1}, provider_options={"expo": {"title": None, "data": {"b": 2}}}
    )
    assert {"to": [token(0)], "title": None, "data": {"a": 1, "b": 2}} == said(one(backend, message))[0]


def test_long_bodies_are_compressed(backend):
    """A body of more than 1024 bytes goes out gzipped, and is the same on every build."""
    first, second = (one(backend, count=30) for _ in range(2))
    assert first.headers["Content-Encoding"] == "gzip"
    assert first.body == second.body
    assert [{"to": [t.value for t in targets(30)], "title": "Hello"}] == said(first)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100], [100]),
        ([101], [100, 1]),
        ([250], [100, 100, 50]),
        ([60, 60], [100, 20]),
        ([1] * 150, [100, 50]),
    ],
)
def test_a_request_has_a_hundred_recipients(backend, counts, expected):
    """Recipients are counted, not messages; messages share requests and are cut where they must be."""
    start, groups = 0, []
    for count in counts:
        groups.append((PushMessage(title=f"{start}"), targets(count, start)))
        start += count
    requests = list(backend.build(groups))
    assert expected == [sum(len(m["to"]) for m in said(r)) for r in requests]
    assert [t for _, part in groups for t in part] == [t for r in requests for t in r.targets]


def test_a_request_is_of_one_project(backend):
    """Tokens of different known projects, or of none known, never share a request."""
    mixed_up = [t for i in range(50) for t in (targets(1, 3 * i, "@a/x") + targets(2, 3 * i + 1, "@a/y"))]
    requests = list(backend.build([(HELLO, mixed_up), (PushMessage(body="Ho"), targets(3, 500))]))
    projects = [{target.project for target in request.targets} for request in requests]
    counts = [len(request.targets) for request in requests]
    assert [({""}, 3), ({"@a/x"}, 50), ({"@a/y"}, 100)] == sorted(
        zip(projects, counts, strict=True), key=lambda pair: pair[1]
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ExponentPushToken[AbC123]", True),
        ("ExpoPushToken[a_b-lD]", True),
        ("ExponentPushToken[]", False),
        ("ExponentPushToken[a]b", False),
        ("ExponentPushToken[a]]", False),
        ("ExponentPushToken[a b]", False),
        ("ExponentPushToken[a]\n", False),
        ("ExponentPushTokenGARBAGE", False),
        ("exponentpushtoken[abc]", False),
        ("F5741A13-BCDA-434B-A316-5DC0E6FFA94F", True),
        ("zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz", True),
        ("٣٣٣٣٣٣٣٣-bcda-434b-a316-5dc0e6ffa94f", False),
        ("c1d2e3f4:APA91b" + "x" * 130, False),
        ("740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad", False),
        ("ExponentPushToken[" + "x" * 5000 + "]", False),
    ],
)
def test_token_form(backend, value, expected):
    """Both prefixes and the UUID form are tokens; raw device tokens and broken ones are not."""
    assert backend.accepts(value) is expected


# --- tickets ------------------------------------------------------------------------------------------

CODES = [
    ("DeviceNotRegistered", Outcome.UNREGISTERED),
    ("MessageTooBig", Outcome.MESSAGE_REJECTED),
    ("DeveloperError", Outcome.MESSAGE_REJECTED),
    ("VALIDATION_ERROR", Outcome.MESSAGE_REJECTED),
    ("API_ERROR", Outcome.MESSAGE_REJECTED),
    ("MessageRateExceeded", Outcome.RATE_LIMITED),
    ("MismatchSenderId", Outcome.SENDER_MISMATCH),
    ("InvalidCredentials", Outcome.PROVIDER_SETUP),
    ("UNAUTHORIZED", Outcome.CREDENTIALS_REJECTED),
    ("ProviderError", Outcome.UNAVAILABLE),
    ("ExpoError", Outcome.UNAVAILABLE),
    ("SomethingNew", Outcome.REJECTED),
]


def test_ok_tickets_keep_their_ids(backend):
    """An ok ticket is accepted, with the id that its receipt will be asked for by."""
    request = one(backend, count=3)
    parsed = backend.parse(request, expo_oks(request))
    assert [(Outcome.ACCEPTED, expo_id(i), token(i)) for i in range(3)] == [
        (t.outcome, t.id, t.token) for t in parsed.tickets
    ]
    assert parsed.resend == ()


@pytest.mark.parametrize(("code", "outcome"), CODES)
def test_ticket_codes(backend, code, outcome):
    """Each of Expo's words in a ticket is its outcome, for that token alone."""
    request = one(backend, count=2)
    answer = ok({"data": [{"status": "ok", "id": "a"}, expo_ticket(token(1), code)]})
    first, second = backend.parse(request, answer).tickets
    assert (first.outcome, second.outcome, second.code, second.id) == (Outcome.ACCEPTED, outcome, code, "")


@pytest.mark.parametrize(
    ("entry", "outcome", "code"),
    [
        ({"status": "error", "message": "no"}, Outcome.REJECTED, ""),
        ({"status": "error", "details": []}, Outcome.REJECTED, ""),
        ({"status": "error", "details": {"error": ["DeviceNotRegistered"]}}, Outcome.REJECTED, ""),
        ({"status": "error", "message": {"a": 1}, "details": {"error": 5}}, Outcome.REJECTED, ""),
        ({"status": "ok"}, Outcome.ACCEPTED, ""),
        ({"status": "ok", "id": 17}, Outcome.ACCEPTED, ""),
        ({"status": "ok", "id": ["a"]}, Outcome.ACCEPTED, ""),
        ({"status": "ok", "id": "a\ud800"}, Outcome.ACCEPTED, ""),
        ({"status": "ok", "id": "x" * 5000}, Outcome.ACCEPTED, ""),
        ({"status": "OK", "id": "a"}, Outcome.UNKNOWN, "Unreadable"),
        ({"status": True}, Outcome.UNKNOWN, "Unreadable"),
        ({"details": {"error": "DeviceNotRegistered"}}, Outcome.UNKNOWN, "Unreadable"),
        ("DeviceNotRegistered", Outcome.UNKNOWN, "Unreadable"),
        (None, Outcome.UNKNOWN, "Unreadable"),
        ([], Outcome.UNKNOWN, "Unreadable"),
    ],
)
def test_odd_tickets(backend, entry, outcome, code):
    """A ticket that is not understood is unknown; one of a known status loses only what is odd in it."""
    [ticket] = backend.parse(one(backend), ok({"data": [entry]})).tickets
    assert (outcome, code, "") == (ticket.outcome, ticket.code, ticket.id)


@pytest.mark.parametrize("provider", ["fcm", "apns"])
@pytest.mark.parametrize(
    ("outer", "inner", "code", "outcome"),
    [
        ("ProviderError", "MismatchSenderId", "MismatchSenderId", Outcome.SENDER_MISMATCH),
        ("ProviderError", "InvalidCredentials", "InvalidCredentials", Outcome.PROVIDER_SETUP),
        ("ProviderError", "Whatever", "ProviderError", Outcome.UNAVAILABLE),
        ("ProviderError", "DeviceNotRegistered", "ProviderError", Outcome.UNAVAILABLE),
        ("DeviceNotRegistered", None, "DeviceNotRegistered", Outcome.UNREGISTERED),
    ],
)
def test_a_nested_code_decides(backend, provider, outer, inner, code, outcome):
    """A known code of Apple's or Google's own goes before Expo's, but none inside ever kills a token."""
    details = {"error": outer, "fault": provider, provider: {"error": inner}}
    [ticket] = backend.parse(one(backend), ok({"data": [{"status": "error", "details": details}]})).tickets
    assert (code, outcome) == (ticket.code, ticket.outcome)


def test_a_single_ticket_may_be_an_object(backend):
    """One recipient may be answered with an object in place of a list; two may not."""
    answer = ok({"data": {"status": "ok", "id": "a"}})
    assert outcomes(backend.parse(one(backend), answer)) == [Outcome.ACCEPTED]
    assert outcomes(backend.parse(one(backend, count=2), answer)) == [Outcome.UNKNOWN] * 2


@pytest.mark.parametrize("count", [0, 1, 3, 101])
def test_another_count_is_unknown(backend, count):
    """More or fewer tickets than recipients say nothing about any of them."""
    request = one(backend, count=2)
    answer = ok({"data": [expo_ticket(token(n), "DeviceNotRegistered") for n in range(count)]})
    assert outcomes(backend.parse(request, answer)) == [Outcome.UNKNOWN] * 2


def test_tickets_in_another_order_are_unknown(backend):
    """If an error names another token than the one in its place, nobody's verdict is believed."""
    answer = ok({"data": [expo_ticket(token(n), "DeviceNotRegistered") for n in (1, 0)]})
    parsed = backend.parse(one(backend, count=2), answer)
    assert [(t.outcome, t.code) for t in parsed.tickets] == [(Outcome.UNKNOWN, "Misaligned")] * 2


def test_the_other_prefix_names_the_same_token(backend):
    """Expo may name a token by its other prefix."""
    details = {"error": "DeviceNotRegistered", "expoPushToken": token(0).replace("Exponent", "Expo")}
    answer = ok({"data": [{"status": "error", "details": details}]})
    assert outcomes(backend.parse(one(backend), answer)) == [Outcome.UNREGISTERED]


def test_ids_that_came_twice_are_dropped(backend):
    """Two tickets of one id are accepted, but no receipt of that id can be told whose it is."""
    entries = [{"status": "ok", "id": i} for i in ("a", "b", "a")]
    parsed = backend.parse(one(backend, count=3), ok({"data": entries}))
    assert [tuple(t.id for t in parsed.tickets)] == [("", "b", "")]
    assert outcomes(parsed) == [Outcome.ACCEPTED] * 3


def test_texts_show_no_whole_token(backend):
    """Expo repeats tokens in its texts; tickets do not."""
    message = f"{token(0)} and {token(7)} are not registered" + "x" * 500
    entry = {"status": "error", "message": message, "details": {"error": "DeviceNotRegistered"}}
    [ticket] = backend.parse(one(backend), ok({"data": [entry]})).tickets
    assert token(0) not in ticket.detail
    assert token(7) not in ticket.detail
    assert ticket.detail.startswith("ExponentPushToken[00000…")
    assert len(ticket.detail) == 200


def test_a_devices_rate_is_not_the_projects(backend):
    """MessageRateExceeded delays one token; a 429 is about the project."""
    answer = ok({"data": [expo_ticket(token(0), "MessageRateExceeded")]}, retry_after="7")
    [ticket] = backend.parse(one(backend), answer).tickets
    assert (ticket.about_project, ticket.retry_after) == (False, 7.0)
    [ticket] = backend.parse(one(backend), reply(429, b"", retry_after="9")).tickets
    assert (ticket.about_project, ticket.retry_after) == (True, 9.0)


# --- request errors -----------------------------------------------------------------------------------

WHOLE = [
    (expo_refusal(429, "TOO_MANY_REQUESTS"), Outcome.RATE_LIMITED, "TOO_MANY_REQUESTS"),
    (expo_refusal(429, "RATE_LIMIT_ERROR"), Outcome.RATE_LIMITED, "RATE_LIMIT_ERROR"),
    (expo_refusal(400, "TOO_MANY_REQUESTS"), Outcome.RATE_LIMITED, "TOO_MANY_REQUESTS"),
    (expo_refusal(200, "TOO_MANY_REQUESTS"), Outcome.RATE_LIMITED, "TOO_MANY_REQUESTS"),
    (expo_refusal(400, "PUSH_TOO_MANY_NOTIFICATIONS"), Outcome.REJECTED, "PUSH_TOO_MANY_NOTIFICATIONS"),
    (expo_refusal(400, "API_ERROR"), Outcome.MESSAGE_REJECTED, "API_ERROR"),
    (expo_refusal(400, "VALIDATION_ERROR"), Outcome.MESSAGE_REJECTED, "VALIDATION_ERROR"),
    (expo_refusal(400, "UNAUTHORIZED"), Outcome.CREDENTIALS_REJECTED, "UNAUTHORIZED"),
    (expo_refusal(401, "UNAUTHORIZED"), Outcome.CREDENTIALS_REJECTED, "UNAUTHORIZED"),
    (expo_refusal(403, "UNAUTHORIZED"), Outcome.CREDENTIALS_REJECTED, "UNAUTHORIZED"),
    (expo_refusal(403, "VALIDATION_ERROR"), Outcome.CREDENTIALS_REJECTED, "VALIDATION_ERROR"),
    (
        reply(401, {"error": "invalid_token", "error_description": "The bearer token is invalid"}),
        Outcome.CREDENTIALS_REJECTED,
        "invalid_token",
    ),
    (expo_refusal(400, "InvalidCredentials"), Outcome.PROVIDER_SETUP, "InvalidCredentials"),
    (expo_refusal(500, "INTERNAL_SERVER_ERROR"), Outcome.UNAVAILABLE, "INTERNAL_SERVER_ERROR"),
    (expo_refusal(503, "INTERNAL_SERVER_ERROR"), Outcome.UNAVAILABLE, "INTERNAL_SERVER_ERROR"),
    (expo_refusal(500, "VALIDATION_ERROR"), Outcome.UNAVAILABLE, "VALIDATION_ERROR"),
    (reply(503, b"", retry_after="20"), Outcome.UNAVAILABLE, "HTTP 503"),
    (reply(500, b""), Outcome.UNKNOWN, "HTTP 500"),
    (reply(500, b"<html>"), Outcome.UNKNOWN, "HTTP 500"),
    (reply(502, b"<html>", retry_after="20"), Outcome.UNKNOWN, "HTTP 502"),
    (expo_refusal(502, "INTERNAL_SERVER_ERROR"), Outcome.UNKNOWN, "INTERNAL_SERVER_ERROR"),
    (reply(503, b"upstream connect error"), Outcome.UNKNOWN, "HTTP 503"),
    (reply(504, b""), Outcome.UNKNOWN, "HTTP 504"),
    (reply(404, b"Not Found"), Outcome.REJECTED, "HTTP 404"),
    (reply(413, b""), Outcome.REJECTED, "HTTP 413"),
    (reply(301, b""), Outcome.UNKNOWN, "HTTP 301"),
    (reply(204, b""), Outcome.UNKNOWN, "HTTP 204"),
    (reply(200, b""), Outcome.UNKNOWN, "Unreadable"),
    (reply(200, b"<html>"), Outcome.UNKNOWN, "Unreadable"),
    (reply(200, b'{"data":[{"status":"ok"'), Outcome.UNKNOWN, "Unreadable"),
    (reply(200, {"data": None}), Outcome.UNKNOWN, "Unreadable"),
    (reply(200, {"data": "x"}), Outcome.UNKNOWN, "Unreadable"),
    (reply(200, {"errors": ["x"]}), Outcome.UNKNOWN, "Unreadable"),
    (expo_refusal(400, "DeviceNotRegistered"), Outcome.REJECTED, "DeviceNotRegistered"),
    (expo_refusal(200, "DeviceNotRegistered"), Outcome.REJECTED, "DeviceNotRegistered"),
    (expo_refusal(400, ["DeviceNotRegistered"]), Outcome.REJECTED, "errors"),
    (expo_refusal(418, "TEAPOT"), Outcome.REJECTED, "TEAPOT"),
    (Reply(failure=Failure.NEVER_SENT, reason="refused"), Outcome.NOT_SENT, "refused"),
    (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), Outcome.UNKNOWN, "timeout"),
    (Reply(failure=Failure.NO_CREDENTIALS, reason="OAuth"), Outcome.CREDENTIALS_REJECTED, "OAuth"),
]


@pytest.mark.parametrize(("answer", "outcome", "code"), WHOLE)
def test_request_errors(backend, answer, outcome, code):
    """What refuses a whole request is the same outcome for each of its tokens, and none's death."""
    parsed = backend.parse(one(backend, count=3), answer)
    assert [(outcome, code)] * 3 == [(ticket.outcome, ticket.code) for ticket in parsed.tickets]


def test_tickets_beside_errors_are_believed(backend):
    """A 200 that has a ticket for each recipient is read by its tickets."""
    request = one(backend)
    answer = ok({"data": [{"status": "ok", "id": "a"}], "errors": [{"code": "TOO_MANY_REQUESTS"}]})
    assert outcomes(backend.parse(request, answer)) == [Outcome.ACCEPTED]


# --- several projects ---------------------------------------------------------------------------------


def mixed(details=None):
    return expo_refusal(400, "PUSH_TOO_MANY_EXPERIENCE_IDS", details=details)


def test_projects_are_sent_apart_and_learned(backend):
    """A request that mixed projects is sent once more for each, and accepted tickets tell the project."""
    request = one(backend, count=4)
    details = {"@acme/shop": [token(0), token(2)], "@acme/staging": [token(1), token(3)]}
    parsed = backend.parse(request, mixed(details))
    assert parsed.tickets == ()
    assert [[token(0), token(2)], [token(1), token(3)]] == [
        [t.value for t in r.targets] for r in parsed.resend
    ]
    learned = [t for r in parsed.resend for t in backend.parse(r, expo_oks(r)).tickets]
    assert {(t.token, t.project) for t in learned} == {
        (token(0), "@acme/shop"),
        (token(2), "@acme/shop"),
        (token(1), "@acme/staging"),
        (token(3), "@acme/staging"),
    }


def test_messages_stay_with_their_tokens_when_regrouped(backend):
    """Regrouping mixes up no texts."""
    groups = [(PushMessage(title=f"{n}"), targets(2, 2 * n)) for n in range(3)]
    [request] = backend.build(groups)
    parsed = backend.parse(
        request, mixed({"@a/x": [token(n) for n in (0, 2, 4)], "@a/y": [token(n) for n in (1, 3, 5)]})
    )
    told = {(to, m["title"]) for r in parsed.resend for m in said(r) for to in m["to"]}
    assert {(token(n), str(n // 2)) for n in range(6)} == told


@pytest.mark.parametrize(
    "details",
    [None, [], {}, "x", {"@a/x": "x"}, {"@a/x": [None, 5, ["y"]]}, {"@a/x": [token(n) for n in range(3)]}],
)
def test_without_usable_details_each_token_is_sent_alone(backend, details):
    """If the details don't part the request, each token has its own, once."""
    parsed = backend.parse(one(backend, count=3), mixed(details))
    assert [[token(0)], [token(1)], [token(2)]] == [[t.value for t in r.targets] for r in parsed.resend]
    [again] = backend.parse(parsed.resend[0], mixed(details)).tickets
    assert (again.outcome, again.code) == (Outcome.REJECTED, "PUSH_TOO_MANY_EXPERIENCE_IDS")


def test_a_token_that_the_details_forget_keeps_its_project(backend):
    """A token that no project in the details names stays with the project that it had."""
    [request] = backend.build([(HELLO, targets(3, project="@a/old"))])
    parsed = backend.parse(request, mixed({"@a/new": [token(1)]}))
    assert [(r.targets[0].project, len(r.targets)) for r in parsed.resend] == [("@a/old", 2), ("@a/new", 1)]


def test_a_learned_project_is_printable(backend):
    """A project's name is the provider's text: it is cut and cleaned before it is kept."""
    parsed = backend.parse(one(backend, count=2), mixed({"@a/\0\ud800" + "x" * 999: [token(0)]}))
    project = parsed.resend[0].targets[0].project
    assert project.isprintable()
    assert len(project) <= 200


@given(st.data())
def test_regrouping_is_a_partition(data):
    """However the details part the tokens, each is sent to again once, with its own message."""
    backend = ExpoBackend(alias="expo")
    groups = [
        (PushMessage(title=f"{n}"), part) for n, part in enumerate(data.draw(partitions(targets(20)))) if part
    ]
    [request] = backend.build(groups)
    named = data.draw(partitions([t.value for t in targets(25)]))
    parsed = backend.parse(request, mixed({f"@a/{n}": part for n, part in enumerate(named)}))
    before = {(m.title, t.value, t.pk) for m, part in request.groups for t in part}
    after = [(m.title, t.value, t.pk) for r in parsed.resend for m, part in r.groups for t in part]
    assert (before, len(before)) == (set(after), len(after))
    assert all(len({t.project for t in r.targets}) == 1 for r in parsed.resend)


# --- one bad message ----------------------------------------------------------------------------------


class Server:
    """An Expo that refuses requests for bad tokens, with or without saying where."""

    def __init__(self, bad, where):
        self.bad = {token(n) for n in bad}
        self.where = where
        self.count = 0
        self.taken = []

    def answer(self, request):
        self.count += 1
        for index, message in enumerate(said(request)):
            for place, to in enumerate(message["to"]):
                if to in self.bad:
                    at = {"message": f'"[{index}].data" is bad', "to": f'"[{index}].to[{place}]" is bad'}
                    return expo_refusal(400, "VALIDATION_ERROR", at.get(self.where, "it is bad"))
        self.taken += [to for message in said(request) for to in message["to"]]
        return expo_oks(request)


def sent_to_the_end(backend, server, groups):
    tickets, open_requests = [], list(backend.build(groups))
    while open_requests:
        parsed = backend.parse(request := open_requests.pop(), server.answer(request))
        tickets += parsed.tickets
        open_requests += parsed.resend
    return tickets


@pytest.mark.parametrize("where", ["message", "to", "nowhere"])
@pytest.mark.parametrize("bad", [[0], [99], [57], [3, 50], list(range(0, 100, 9)), list(range(100))])
def test_bad_messages_dont_block_the_others(backend, where, bad):
    """Of 100 messages in a request, those that fail validation are refused and the others are sent, once."""
    groups = [(PushMessage(title=f"{n}"), targets(1, n)) for n in range(100)]
    server = Server(bad, where)
    tickets = sent_to_the_end(backend, server, groups)
    refused = {t.token for t in tickets if t.outcome is Outcome.MESSAGE_REJECTED}
    assert server.bad == refused
    assert sorted(set(map(token, range(100))) - refused) == sorted(server.taken)
    assert len(tickets) == 100
    assert server.count <= 200


@pytest.mark.parametrize("bad", [[0], [99], list(range(0, 100, 7))])
def test_a_bad_recipient_doesnt_block_the_others(backend, bad):
    """Of 100 recipients of one message, those that Expo points at are refused and the others are sent."""
    server = Server(bad, "to")
    tickets = sent_to_the_end(backend, server, [(HELLO, targets(100))])
    assert server.bad == {t.token for t in tickets if t.outcome is Outcome.MESSAGE_REJECTED}
    assert len(server.taken) == 100 - len(bad)


def test_a_bad_message_to_many_is_refused_at_once(backend):
    """If there is only one message, and it is at fault, it is not tried on smaller groups."""
    for where in ("message", "nowhere"):
        server = Server([5], where)
        tickets = sent_to_the_end(backend, server, [(HELLO, targets(100))])
        assert {Outcome.MESSAGE_REJECTED} == {t.outcome for t in tickets}
        assert (server.count, len(tickets)) == (1, 100)


def test_a_place_in_quoted_text_is_no_place(backend):
    """Only a path at the start of the message names a place; a text in it that looks so does not."""
    [request] = backend.build([(PushMessage(title=f"{n}"), targets(1, n)) for n in range(4)])
    parsed = backend.parse(request, expo_refusal(400, "VALIDATION_ERROR", 'title "see [3].to[0]" is bad'))
    assert parsed.tickets == ()
    assert [len(r.targets) for r in parsed.resend] == [2, 2]


def test_the_end_of_isolating(backend):
    """A request that has come back often enough is refused as it is."""
    [request] = backend.build([(PushMessage(title=f"{n}"), targets(1, n)) for n in range(2)])
    old = backend._request(request.groups, MAX_GENERATION)
    parsed = backend.parse(old, expo_refusal(400, "VALIDATION_ERROR"))
    assert outcomes(parsed) == [Outcome.MESSAGE_REJECTED] * 2


# --- what is refused before it is sent ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"title": "x" * 10_240}, "MessageTooBig"),
        ({"title": "ä" * 2049}, "MessageTooBig"),
        ({"title": "x" * 4096}, None),
        ({"data": {"x": ["y" * 4096]}}, "MessageTooBig"),
        ({"title": "x" * 5000, "provider_options": {"expo": {"title": "short"}}}, None),
        ({"title": "x", "provider_options": {"expo": {"data": {"a": "x" * 5000}}}}, "MessageTooBig"),
        ({"title": "x", "provider_options": {"expo": {"to": "ExponentPushToken[other]"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"expo": {"data": []}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"expo": {"data": None}}}, None),
        ({"title": "x", "provider_options": {"expo": {"richContent": "https://a"}}}, "InvalidOption"),
        ({"title": "x", "provider_options": {"fcm": {"android": 5}}}, None),
        ({"title": "x", "data": {"from": "me", "google.x": 1}}, None),
    ],
)
def test_refused_messages(backend, fields, code):
    """What Expo is sure to refuse, and what would change the recipients, is refused here."""
    verdict = backend.refuse_message(PushMessage(**fields), TargetKind.TOKEN)
    assert (verdict and (verdict.outcome, verdict.code)) == (code and (Outcome.MESSAGE_REJECTED, code))


# --- receipts -----------------------------------------------------------------------------------------


def test_receipts_are_asked_for_by_the_thousand(backend):
    """At most 1000 ids go into one request."""
    ids = [expo_id(n) for n in range(2500)]
    requests = list(backend.build_receipts(ids))
    assert [len(r.receipt_ids) for r in requests] == [1000, 1000, 500]
    assert ids == [i for r in requests for i in said(r)["ids"]]
    assert {r.url for r in requests} == {"https://exp.host/--/api/v2/push/getReceipts"}


def receipts(backend, answer, ids=("a", "b")):
    [request] = backend.build_receipts(list(ids))
    return backend.parse_receipts(request, answer)


@pytest.mark.parametrize(("code", "outcome"), CODES)
def test_receipt_codes(backend, code, outcome):
    """Each of Expo's words means in a receipt what it means in a ticket."""
    entry = {"status": "error", "message": "no", "details": {"error": code, "sentAt": 1, "errorCodeEnum": 1}}
    [receipt] = receipts(backend, ok({"data": {"a": entry}})).receipts
    assert ("a", outcome, code, "no") == (receipt.id, receipt.outcome, receipt.code, receipt.detail)


def test_ok_receipts(backend):
    """An ok receipt is accepted, whatever details it has; an absent one is not there yet."""
    parsed = receipts(backend, ok({"data": {"a": {"status": "ok", "details": {"error": "x"}}}}))
    assert [(r.id, r.outcome) for r in parsed.receipts] == [("a", Outcome.ACCEPTED)]
    assert parsed.failure is None


def test_no_receipts_yet(backend):
    """An empty answer is no failure."""
    parsed = receipts(backend, ok({"data": {}}))
    assert (tuple(parsed.receipts), parsed.failure) == ((), None)


def test_receipts_nobody_asked_for_are_left_out(backend):
    """A receipt of another id, one that is not understood, and one that came twice are not reported."""
    dead = '{"status":"error","details":{"error":"DeviceNotRegistered"}}'
    body = f'{{"data":{{"x":{dead},"a":{dead},"a":{{"status":"ok"}},"b":{{"status":"what"}}}}}}'
    assert receipts(backend, reply(200, body.encode())).receipts == []


@pytest.mark.parametrize(
    ("answer", "outcome", "code"),
    [
        (Reply(failure=Failure.NEVER_SENT, reason="refused"), Outcome.UNAVAILABLE, "refused"),
        (Reply(failure=Failure.MAYBE_SENT, reason="timeout"), Outcome.UNAVAILABLE, "timeout"),
        (expo_refusal(400, "PUSH_TOO_MANY_RECEIPTS"), Outcome.REJECTED, "PUSH_TOO_MANY_RECEIPTS"),
        (expo_refusal(401, "UNAUTHORIZED"), Outcome.CREDENTIALS_REJECTED, "UNAUTHORIZED"),
        (reply(401, {"error": "invalid_token"}), Outcome.CREDENTIALS_REJECTED, "invalid_token"),
        (expo_refusal(429, "TOO_MANY_REQUESTS"), Outcome.RATE_LIMITED, "TOO_MANY_REQUESTS"),
        (expo_refusal(400, "DeviceNotRegistered"), Outcome.REJECTED, "DeviceNotRegistered"),
        (reply(504, b"<html>"), Outcome.UNKNOWN, "HTTP 504"),
        (reply(200, {"data": []}), Outcome.UNKNOWN, "HTTP 200"),
        (reply(200, b"{"), Outcome.UNKNOWN, "HTTP 200"),
    ],
)
def test_receipts_that_cannot_be_had(backend, answer, outcome, code):
    """A request for receipts that fails as a whole says why, and answers for no ticket."""
    parsed = receipts(backend, answer)
    assert ((), outcome, code) == (tuple(parsed.receipts), parsed.failure, parsed.code)


def test_a_failure_says_when_to_ask_again(backend):
    """Retry-After is passed on."""
    assert receipts(backend, reply(503, b"", retry_after="120")).retry_after == 120.0


# --- settings -----------------------------------------------------------------------------------------


def test_access_token():
    """The access token is sent as a bearer, and seen nowhere."""
    backend = ExpoBackend(alias="expo", access_token="s3cret")
    assert backend.auth.header.reveal() == "Bearer s3cret"
    assert isinstance(backend.auth.header, Secret)
    assert ExpoBackend(alias="expo").auth is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"access_token": ""}, "access_token"),
        ({"access_token": "s3cret\n"}, "access_token"),
        ({"access_token": "s3crét"}, "access_token"),
        ({"access_token": b"s3cret"}, "access_token"),
        ({"endpoint": "http://exp.host/--/api/v2/push"}, "endpoint"),
        ({"endpoint": "ftp://exp.host"}, "endpoint"),
        ({"endpoint": "https://"}, "endpoint"),
        ({"endpoint": "https://[exp.host"}, "endpoint"),
        ({"endpoint": "https://exp.host:port"}, "endpoint"),
        ({"endpoint": "https://exp.host/#x"}, "endpoint"),
        ({"endpoint": "https://user:s3cret@exp.host/"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "10"}, "timeout"),
        ({"timeout": 601}, "timeout"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections": 1.5}, "max_connections"),
        ({"max_connections": True}, "max_connections"),
        ({"proxy": "socks5://localhost"}, "proxy"),
        ({"proxy": "s3cret"}, "proxy"),
        ({"proxy": "http://"}, "proxy"),
        ({"proxy": "http://[s3cret"}, "proxy"),
        ({"proxy": 8080}, "proxy"),
        ({"ca_bundle": "/nowhere/ca.pem"}, "ca_bundle"),
        ({"ca_bundle": True}, "ca_bundle"),
        ({"ca_bundle": "\0"}, "ca_bundle"),
    ],
)
def test_wrong_options(options, said):
    """A wrong option is an error that names alias and option, and shows no secret."""
    with pytest.raises(InvalidPushBackend, match=re.escape(f"PUSH_BACKENDS['app']: {said}")) as caught:
        ExpoBackend(alias="app", **options)
    assert "s3cret" not in str(caught.value)
    assert caught.value.alias == "app"


def test_endpoint_of_ones_own():
    """A loopback endpoint may be plain http; a final slash doesn't matter."""
    backend = ExpoBackend(alias="expo", endpoint="http://127.0.0.1:8009/--/api/v2/push/")
    assert one(backend).url == "http://127.0.0.1:8009/--/api/v2/push/send"


def test_dead_tokens_by_the_hundred(backend):
    """Each of a hundred dead tokens is dead by its own ticket."""
    request = one(backend, count=100)
    parsed = backend.parse(request, expo_errors(request, "DeviceNotRegistered"))
    assert outcomes(parsed) == [Outcome.UNREGISTERED] * 100
