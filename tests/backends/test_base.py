"""What all backends share."""

import logging

import pytest
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from django_push.backends.base import BasePushBackend, Verdict, chunks
from django_push.backends.expo import ExpoBackend
from django_push.backends.fcm import FCMBackend
from django_push.backends.gcm import GCMBackend
from django_push.backends.values import (
    dumps,
    loads,
    merge,
    option,
    payload_size,
    reserved_key,
    stringify,
    text_size,
)
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind
from django_push.wire import Request
from tests import strategies
from tests.backends.replies import SERVICE_ACCOUNT, ok, reply

EXPO = ExpoBackend(alias="expo", access_token="s3cret")
GCM = GCMBackend(alias="gcm", endpoint="https://relay.example/gcm", api_key="s3cret")
PLAINTEXT = GCMBackend(
    alias="gcm", endpoint="https://relay.example/gcm", api_key="s3cret", format="plaintext"
)
FCM = FCMBackend(alias="fcm", service_account_key=SERVICE_ACCOUNT)
PROVIDERS = [EXPO, GCM, PLAINTEXT, FCM]


def targets(backend, count):
    form = "ExponentPushToken[{:06d}]" if backend is EXPO else "APA91b{:06d}"
    return [Target(form.format(n), n) for n in range(count)]


# --- laws over everything that may come back ----------------------------------------------------------


@pytest.mark.parametrize("backend", PROVIDERS, ids=repr)
@given(data=st.data())
def test_every_reply_sorts_out_every_target(backend, data):
    """Whatever comes back, tickets and resends part the targets, and nothing is raised or logged."""
    count = data.draw(st.integers(1, min(4, backend.recipients_per_request)))
    messages = [PushMessage(title=f"{n}", data={"n": n}) for n in range(2)]
    groups = [(messages[n % 2], [target]) for n, target in enumerate(targets(backend, count))]
    for request in backend.build(groups if backend is EXPO else [(messages[0], targets(backend, count))]):
        answer = data.draw(strategies.replies)
        found = backend.read(request, answer) if answer.failure is None else None
        parsed = backend.parse(request, answer)
        told = [t.target[:3] for t in parsed.tickets] + [t[:3] for r in parsed.resend for t in r.targets]
        assert sorted(told) == sorted(t[:3] for t in request.targets)
        assert found is None or not isinstance(found, list) or all(isinstance(v, Verdict) for v in found)
        for ticket in parsed.tickets:
            assert ticket.retry_after is None or 0 <= ticket.retry_after <= 86_400
            assert ticket.retry_after is None or ticket.outcome.is_retryable
            assert not ticket.replacement or ticket.outcome is Outcome.ACCEPTED
            assert (ticket.id + ticket.code + ticket.detail + ticket.project).isprintable()


@given(strategies.replies, st.lists(st.sampled_from(["ok", "id", "data", "code"]), unique=True))
def test_every_reply_is_read_for_receipts(answer, ids):
    """Whatever comes back, only receipts that were asked for are told, and none without a verdict."""
    for request in EXPO.build_receipts(ids):
        parsed = EXPO.parse_receipts(request, answer)
        assert {receipt.id for receipt in parsed.receipts} <= set(ids)
        assert Outcome.UNKNOWN not in {receipt.outcome for receipt in parsed.receipts}
        assert parsed.failure is None or not parsed.receipts


@given(st.data())
def test_results_answer_tokens_by_their_place(data):
    """Verdict n is of token n, at every provider that answers several."""
    words = data.draw(
        st.lists(st.sampled_from(["ok", "NotRegistered", "Unavailable", "?"]), min_size=1, max_size=30)
    )
    [request] = GCM.build([(PushMessage(title="x"), targets(GCM, len(words)))])
    results = [{"message_id": str(n)} if word == "ok" else {"error": word} for n, word in enumerate(words)]
    tickets = GCM.parse(request, ok({"results": results})).tickets
    assert [ticket.target for ticket in tickets] == request.targets
    assert [ticket.code or "ok" for ticket in tickets] == words
    assert [ticket.id for ticket in tickets] == [str(n) if w == "ok" else "" for n, w in enumerate(words)]


# --- laws over everything that may be sent ------------------------------------------------------------


@pytest.mark.parametrize("backend", PROVIDERS, ids=repr)
@given(message=strategies.messages, kind=st.sampled_from(list(vars(TargetKind).values())[1:5]))
def test_every_message_is_refused_or_built(backend, message, kind):
    """A message that passed the checks becomes bytes, or a verdict says why not."""
    if kind not in backend.kinds:
        return
    verdict = backend.refuse_message(message, kind)
    if verdict is not None:
        assert verdict.outcome is Outcome.MESSAGE_REJECTED
        assert verdict.code
        return
    [request] = backend.build([(message, [Target("news", 1, kind)])])
    assert isinstance(request.body, bytes)


@given(st.lists(st.integers(0, 260), max_size=5), st.data())
def test_requests_share_out_all_targets(counts, data):
    """No target is lost or doubled, no request has too many or two projects, and few are part-full."""
    groups, start, projects = [], 0, ["", "@a/x", "@a/y"]
    for n, count in enumerate(counts):
        some = data.draw(st.integers(1, 3))
        made = [
            Target(f"ExponentPushToken[{i}]", i, project=projects[i % some])
            for i in range(start, start + count)
        ]
        groups.append((PushMessage(title=f"{n}"), made))
        start += count
    requests = list(EXPO.build(groups))
    assert sorted(t.pk for r in requests for t in r.targets) == list(range(start))
    assert all(0 < len(r.targets) <= 100 for r in requests)
    assert all(len({t.project for t in r.targets}) == 1 for r in requests)
    assert sum(len(r.targets) < 100 for r in requests) <= 3


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_chunks(items, size):
    """Chunks joined are the whole; all are full but the last."""
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)


@given(strategies.json_objects)
def test_stringify_is_idempotent_and_loses_nothing(data):
    """All values are strings, strings stay, the rest can be read back; doing it twice changes nothing."""
    once = stringify(data)
    assert stringify(once) == once
    assert once.keys() == data.keys()
    for key, value in data.items():
        assert once[key] == value if isinstance(value, str) else loads(once[key].encode()) == value


@given(strategies.messages)
def test_the_size_is_never_overstated(message):
    """What we count is at most what the JSON of it takes."""
    said = {"t": [message.title, message.body, message.subtitle], "data": dict(message.data or {})}
    assert payload_size(message) <= len(dumps(said).encode())


@given(strategies.json_objects, strategies.json_objects)
def test_merging(base, over):
    """What is laid over wins, nothing else is lost, and neither is changed."""
    before = dumps([base, over])
    merged = merge(base, over)
    assert merged.keys() == base.keys() | over.keys()
    assert all(merged[key] == over[key] for key in over if not isinstance(over[key], dict))
    assert all(merged[key] == base[key] for key in base.keys() - over.keys())
    assert dumps([base, over]) == before
    assert merge(base, {}) == base


# --- by example ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        ("", ""),
        (17, "17"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ({"a": [1, "ü"]}, '{"a":[1,"ü"]}'),
        ([], "[]"),
        (lazystr("later"), "later"),
        ({"a": lazystr("later")}, '{"a":"later"}'),
    ],
)
def test_stringify(value, expected):
    """A string stays; anything else becomes its JSON."""
    said = stringify({"k": value})["k"]
    assert loads(said.encode()) == expected if said == '"later"' else said == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, ""),
        ({}, ""),
        ({"a": 1}, ""),
        ({"From": 1, "collapse_key": 1}, ""),
        ({"a": 1, "from": 1}, "from"),
        ({"message_type": 1}, "message_type"),
        ({"google": 1}, "google"),
        ({"gcm.x": 1}, "gcm.x"),
    ],
)
def test_reserved_keys(data, expected):
    """Keys that Google keeps to itself are found."""
    assert reserved_key(data) == expected


def test_options_by_path():
    """A dotted path leads into objects and nowhere else."""
    options = {"a": {"b": {"c": 1}}, "x": [1]}
    assert [option(options, path) for path in ("a.b.c", "a.b", "a.x", "x.0", "y.z")] == [
        1,
        {"c": 1},
        None,
        None,
        None,
    ]


def test_text_size_counts_bytes_of_keys_and_values():
    """Bytes are counted, not characters; what is not there counts nothing."""
    assert text_size(["ä", None, "b"], {"k": "ü", "n": 10}) == 2 + 1 + (1 + 2) + (1 + 2)
    assert text_size([], None) == 0


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"7" * 9999, b"\xef\xbb\xbf", b"nul"])
def test_what_is_no_json_is_none(body):
    """Reading never raises."""
    assert loads(body) is None


class Slip(BasePushBackend):
    """A third party's backend with a mistake in its reading."""

    provider = "slip"

    def encode(self, message):
        return b"{}"

    def request(self, groups, encoded):
        return Request(url=self.endpoint, body=encoded, groups=groups)

    def read(self, request, reply):
        return reply.headers["not there"]


def test_a_slip_in_reading_costs_only_its_own_request(caplog):
    """If a backend's read raises, its tokens are unknown, nobody is dead, and the log has it."""
    backend = Slip(alias="slip", endpoint="https://slip.example")
    [request] = backend.build([(PushMessage(title="x"), [Target("abc", 1)])])
    with caplog.at_level(logging.ERROR, "django_push"):
        [ticket] = backend.parse(request, ok({})).tickets
    assert (ticket.outcome, ticket.code) == (Outcome.UNKNOWN, "Unreadable")
    assert "<Slip 'slip'> cannot read a reply" in caplog.text


def test_the_base_has_no_receipts():
    """A backend without receipts asks for none."""
    assert list(Slip(alias="slip", endpoint="https://slip.example").build_receipts(["a"])) == []


def test_an_overlong_id_is_none():
    """An id that no provider gives is not kept; the push is accepted all the same."""
    [request] = GCM.build([(PushMessage(title="x"), targets(GCM, 2))])
    answer = ok({"results": [{"message_id": "x" * 501}, {"message_id": "x" * 500}]})
    assert [len(ticket.id) for ticket in GCM.parse(request, answer).tickets] == [0, 500]


@pytest.mark.parametrize("backend", PROVIDERS, ids=repr)
def test_a_topics_name_is_not_masked(backend):
    """A provider's text about a topic keeps the name; it is no secret."""
    if TargetKind.TOPIC not in backend.kinds:
        return
    [request] = backend.build([(PushMessage(title="x"), [Target("news", kind=TargetKind.TOPIC)])])
    [ticket] = backend.parse(request, reply(400, {"error": {"message": "no news"}})).tickets
    assert "…" not in ticket.detail
