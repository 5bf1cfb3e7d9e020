"""What sending relies on, as tests that any backend can be held to: a third party's as well as ours.

Subclass ``BackendContract`` together with a ``TestCase`` and say how your provider talks::

    class AcmeContractTests(BackendContract, SimpleTestCase):
        secrets = ("s3cret",)
        codes = {"gone": Outcome.UNREGISTERED, "too_big": Outcome.MESSAGE_REJECTED}

        def make_backend(self):
            return AcmeBackend(alias="acme", api_key="s3cret")

        def make_token(self, number):
            return f"acme-{number:06d}"

        def accepted(self, request):
            return Reply(status=200, body=json.dumps(["ok" for _ in request.targets]).encode())

        def refused(self, request, code):
            return Reply(status=200, body=json.dumps([code for _ in request.targets]).encode())

It needs nothing but Django and runs under unittest and pytest alike.
"""
# ruff: noqa: PT009 - unittest's assertions explain themselves under both

from __future__ import annotations

import itertools
import json
import unittest
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django_push.backends.base import BasePushBackend
from django_push.message import PushMessage
from django_push.outcomes import Outcome, Target, TargetKind, Ticket
from django_push.wire import Failure, Group, Reply, Request

if TYPE_CHECKING:
    _Base = unittest.TestCase
else:
    _Base = object

#: A provider's word that no table has.
UNHEARD_OF = "SomethingNobodyHasHeardOf"
#: No token of any provider.
MALFORMED: tuple[object, ...] = (
    "", " ", "a b", "a\nb", "a\0b", "tökén", "٣٣٣", "\ud800", "x" * 5000, b"token", None, 17, ["x"], {},
)  # fmt: skip
STATUSES = (
    0, 100, 200, 201, 204, 301, 302, 400, 401, 403, 404, 408, 413, 418, 429, 500, 501, 502, 503, 504, 599,
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"retry-after": "3", "content-type": "text/html"},
    {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"},
    {"retry-after": "soon"},
    {"retry-after": "٣٣"},
    {"retry-after": "9" * 400},
)
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, float("nan"), "", "x", "\ud800\0", [], [None], [[]], [{}], ["x"], {},
    {"": {}}, {"error": {}}, {"error": None}, [0] * 3, [{"error": ["x"]}],
)  # fmt: skip
_KEYS = (
    "data", "errors", "error", "results", "name", "status", "details", "message", "message_id", "id",
    "registration_id", "code", "outcome",
)  # fmt: skip


def hostile_bodies() -> Iterator[bytes]:
    """Yield answers that no provider gives, and some that it does on a bad day."""
    yield from (b"", b"\0", b"\xff\xfe\xfd", b"null", b"NaN", b"7" * 5000, b"[" * 100_000, b'"\\ud800"')
    yield from (b"<html><h1>502 Bad Gateway</h1></html>", b"Not Found", b'\xef\xbb\xbf{"data":[]}')
    yield from (b"Error=", b"id=", b"=", b"id", b"Error=a=b\nid=1", b"id=1\nid=2\nid=3")
    yield from (b'{"data":' * 500, b'{"error":{"details":[{"@type":', b'{"data":[{"status":"ok"')
    for value in _ODD:
        yield json.dumps(value).encode()
    for key, value in itertools.product(_KEYS, _ODD):
        yield json.dumps({key: value}).encode()
        yield json.dumps([{key: value}]).encode()
        for outer in ("data", "error", "errors", "results"):
            yield json.dumps({outer: {key: value}}).encode()
            yield json.dumps({outer: [{key: value}]}).encode()


#: What ``provider_options`` may be given as in error; said of this provider, by each of its options.
ODD_OPTIONS: tuple[Any, ...] = (None, True, 5, 1.5, "x", [], ["x"], {}, {"x": 5}, {"x": {"y": ["z", None]}})


class BackendContract(_Base):
    """The tests. Fill in the hooks; override a limit where your provider has another."""

    #: Strings that must be seen nowhere: the options that are secret.
    secrets: ClassVar[Sequence[str]] = ()
    #: Each word of the provider about one token, and the outcome it means. Never ACCEPTED.
    codes: ClassVar[Mapping[str, Outcome]] = {}
    #: The outcome of a word that is in no table.
    unheard_of: ClassVar[Outcome] = Outcome.REJECTED
    #: Does an answer say something about each token, so that its count can be wrong?
    answers_each: ClassVar[bool] = True
    #: Names of options whose wrong values ``provider_options`` is tried with.
    option_names: ClassVar[Sequence[str]] = ("data", "notification", "to", "title", "ttl", "whatever")

    def make_backend(self) -> BasePushBackend:
        """Return a backend with all its options."""
        raise NotImplementedError

    def make_token(self, number: int) -> str:
        """Return a well-formed token, another for each number."""
        return f"token-{number:08d}"

    def accepted(self, request: Request) -> Reply:
        """Return what the provider answers when it takes every push of the request."""
        raise NotImplementedError

    def refused(self, request: Request, code: str) -> Reply:
        """Return what the provider answers when it refuses every token of the request with this word."""
        raise NotImplementedError

    # --- what the tests are made of ---------------------------------------------------------------

    def setUp(self) -> None:
        super().setUp()
        self.backend = self.make_backend()
        self.message = PushMessage(title="Hello", body="Grüße", data={"n": 1, "deep": {"a": [True, None]}})

    def targets(self, count: int, start: int = 0) -> list[Target]:
        return [Target(self.make_token(i), i + 1) for i in range(start, start + count)]

    def request(self, count: int) -> Request:
        """Return one request for as many targets as fit, at most ``count``."""
        fitting = min(count, self.backend.recipients_per_request)
        [request] = self.backend.build([(self.message, self.targets(fitting))])
        return request

    def assert_sorted_out(self, request: Request, reply: Reply) -> Sequence[Ticket]:
        """Check that each target got its ticket or is sent to again; return the tickets."""
        parsed = self.backend.parse(request, reply)
        told = [ticket.target for ticket in parsed.tickets]
        again = [target for resent in parsed.resend for target in resent.targets]
        # A resend may know the project of a token that the request did not.
        asked, answered = (Counter(t[:3] for t in part) for part in (request.targets, told + again))
        self.assertEqual(asked, answered)
        self.assertTrue(all(resent.generation > request.generation for resent in parsed.resend))
        self.assertTrue(all(ticket.backend == self.backend.alias for ticket in parsed.tickets))
        for ticket in parsed.tickets:
            self.assertLessEqual(max(len(ticket.code), len(ticket.detail)), 200)
            self.assertTrue((ticket.id + ticket.code + ticket.detail + ticket.project).isprintable())
            self.assertTrue(not ticket.replacement or self.backend.accepts(ticket.replacement))
            if ticket.retry_after is not None:
                self.assertTrue(0 <= ticket.retry_after <= 86_400)
        return parsed.tickets

    def sent_until_the_end(self, answer: Callable[[Request], Reply], count: int) -> int:
        """Send, and send again whatever is asked for; return how many requests that took."""
        groups: list[Group] = [(self.message, [target]) for target in self.targets(count)]
        open_requests = deque(self.backend.build(groups))
        sent = 0
        while open_requests:
            request = open_requests.popleft()
            open_requests.extend(self.backend.parse(request, answer(request)).resend)
            sent += 1
            self.assertLessEqual(sent, 10 * count + 10, "it sends again and again")
        return sent

    # --- who and what -----------------------------------------------------------------------------

    def test_its_own_tokens_are_accepted(self) -> None:
        """A token of the provider's form is accepted, and sent to."""
        for target in self.targets(3):
            self.assertTrue(self.backend.accepts(target.value))
            self.assertIsNone(self.backend.refuse_target(target))

    def test_malformed_tokens_are_refused(self) -> None:
        """What is no token is refused before it is sent, without an exception."""
        for value in MALFORMED:
            self.assertFalse(self.backend.accepts(value), repr(value)[:40])
            if isinstance(value, str):
                verdict = self.backend.refuse_target(Target(value))
                assert verdict is not None
                self.assertEqual(Outcome.INVALID_TOKEN, verdict.outcome, repr(value)[:40])

    def test_targets_it_has_no_word_for_are_refused(self) -> None:
        """A kind of target that the provider does not have is refused, and called neither dead nor sent."""
        kinds = {TargetKind.TOKEN, TargetKind.FID, TargetKind.TOPIC, TargetKind.CONDITION, "pigeon"}
        for kind in kinds - self.backend.kinds:
            verdict = self.backend.refuse_target(Target(self.make_token(1), kind=kind))
            assert verdict is not None
            self.assertEqual(Outcome.REJECTED, verdict.outcome, kind)

    def test_fields_are_fields_of_a_message(self) -> None:
        """The backend claims to express only what a PushMessage can say."""
        self.assertLessEqual(self.backend.fields, set(PushMessage.__dataclass_fields__))

    def test_an_ordinary_message_is_not_refused(self) -> None:
        """A short message with data is fit to send."""
        for kind in self.backend.kinds:
            self.assertIsNone(self.backend.refuse_message(self.message, kind))

    def test_a_message_of_ten_kilobytes_is_refused(self) -> None:
        """What Apple and Google would refuse for its size is refused here, and is no token's fault."""
        said: dict[str, Any] = {"data": {"text": "x" * 10_000}, "title": "x" * 10_000}
        message = PushMessage(**{name: value for name, value in said.items() if name in self.backend.fields})
        verdict = self.backend.refuse_message(message, TargetKind.TOKEN)
        assert verdict is not None
        self.assertEqual(Outcome.MESSAGE_REJECTED, verdict.outcome)

    def test_odd_options_never_raise(self) -> None:
        """Whatever provider_options hold, the message is refused or built."""
        for name, value in itertools.product(self.option_names, ODD_OPTIONS):
            options = {self.backend.provider: {name: value}}
            message = PushMessage(title="Hello", data={"n": 1}, provider_options=options)
            if self.backend.refuse_message(message, TargetKind.TOKEN) is None:
                requests = list(self.backend.build([(message, self.targets(1))]))
                self.assertEqual(1, len(requests), options)

    # --- out --------------------------------------------------------------------------------------

    def test_each_target_is_in_one_request(self) -> None:
        """Requests share out the targets: none is lost, none is sent to twice, limits are kept."""
        most = self.backend.recipients_per_request
        other = PushMessage(title="Other", data={"n": 2})
        targets = self.targets(3 * most + 1)
        groups: list[Group] = [(self.message, targets[most:]), (other, targets[:most]), (other, [])]
        kinds = sorted(self.backend.kinds - {TargetKind.TOKEN, TargetKind.FID})
        groups += [(other, [Target("news", kind=kind)]) for kind in kinds]
        requests = list(self.backend.build(groups))
        sent = [group for request in requests for group in request.groups]
        wanted, built = (Counter((m.title, t) for m, part in some for t in part) for some in (groups, sent))
        self.assertEqual(wanted, built)
        self.assertLessEqual(max(len(request.targets) for request in requests), most)
        for request in requests:
            self.assertTrue(request.targets)
            self.assertTrue(len(request.targets) == 1 or all(target.is_token for target in request.targets))

    def test_building_changes_nothing(self) -> None:
        """Building twice says the same twice, and leaves message and targets as they were."""
        before, targets = self.message.to_json(), self.targets(3)
        first, second = (list(self.backend.build([(self.message, targets)])) for _ in range(2))
        self.assertEqual([request.body for request in first], [request.body for request in second])
        self.assertEqual((before, self.targets(3)), (self.message.to_json(), targets))

    def test_nobody_to_send_to_is_no_request(self) -> None:
        """Without targets nothing is built."""
        self.assertEqual([], list(self.backend.build([])))
        self.assertEqual([], list(self.backend.build([(self.message, [])])))

    # --- and back ---------------------------------------------------------------------------------

    def test_accepted(self) -> None:
        """An answer that takes all pushes makes an accepted ticket for each target, in its place."""
        request = self.request(3)
        tickets = self.assert_sorted_out(request, self.accepted(request))
        self.assertEqual(request.targets, [ticket.target for ticket in tickets])
        self.assertEqual({Outcome.ACCEPTED}, {ticket.outcome for ticket in tickets})

    def test_each_code_means_its_outcome(self) -> None:
        """Each word of the provider is the outcome that its table says, and is kept beside it."""
        for code, outcome in self.codes.items():
            request = self.request(3)
            tickets = self.assert_sorted_out(request, self.refused(request, code))
            said = [(ticket.outcome, ticket.code) for ticket in tickets]
            self.assertEqual([(outcome, code)] * len(request.targets), said)

    def test_an_unheard_of_code_is_nobodys_death(self) -> None:
        """A word that is in no table is a refusal that keeps the token, and no reason to send again."""
        request = self.request(3)
        tickets = self.assert_sorted_out(request, self.refused(request, UNHEARD_OF))
        self.assertEqual({self.unheard_of}, {ticket.outcome for ticket in tickets})

    def test_network_failures_are_mapped(self) -> None:
        """What was never sent may be sent again; what may have been sent is unknown."""
        expected = {
            Failure.NEVER_SENT: Outcome.NOT_SENT,
            Failure.MAYBE_SENT: Outcome.UNKNOWN,
            Failure.NO_CREDENTIALS: Outcome.CREDENTIALS_REJECTED,
        }
        for failure, outcome in expected.items():
            request = self.request(3)
            tickets = self.assert_sorted_out(request, Reply(failure=failure, reason="timeout\n" * 99))
            self.assertEqual({outcome}, {ticket.outcome for ticket in tickets})

    def test_hostile_replies_kill_nobody(self) -> None:
        """Whatever comes back, parse does not raise, forgets no target and calls no token dead."""
        request = self.request(3)
        with self.assertNoLogs("django_push", "ERROR"):
            for number, body in enumerate(hostile_bodies()):
                for status in STATUSES if number % 11 == 0 else (200, 400, 503):
                    reply = Reply(status=status, body=body, headers=HEADERS[(number + status) % len(HEADERS)])
                    tickets = self.assert_sorted_out(request, reply)
                    self.assertFalse([t for t in tickets if t.outcome.is_dead], (status, body[:80]))
                    self.assertFalse([t for t in tickets if t.replacement], (status, body[:80]))

    def test_a_truncated_reply_kills_nobody(self) -> None:
        """An answer that was cut short at any place says nothing that is not wholly there."""
        request = self.request(3)
        dead = [code for code, outcome in self.codes.items() if outcome.is_dead]
        for reply in [self.accepted(request), *(self.refused(request, code) for code in dead)]:
            for end in range(0, len(reply.body.strip()) - 1, 1 + len(reply.body) // 50):
                cut = Reply(status=reply.status, body=reply.body[:end], headers=reply.headers)
                tickets = self.assert_sorted_out(request, cut)
                self.assertFalse([ticket for ticket in tickets if ticket.outcome.is_dead], cut.body)

    def test_a_wrong_count_is_unknown(self) -> None:
        """An answer about more or fewer tokens than were asked about is unknown for all of them."""
        if not self.answers_each or self.backend.recipients_per_request < 3:
            return
        request = self.request(2)
        replies = [self.accepted(self.request(count)) for count in (1, 3)]
        replies += [self.refused(self.request(3), code) for code in self.codes]
        for reply in replies:
            tickets = self.assert_sorted_out(request, reply)
            self.assertEqual({Outcome.UNKNOWN}, {ticket.outcome for ticket in tickets})

    def test_a_request_wide_refusal_kills_nobody(self) -> None:
        """A status that refuses the whole request deactivates no token, even with a word that would."""
        if self.backend.recipients_per_request == 1:
            return  # the one refusal is about the one token
        request = self.request(3)
        for code, status in itertools.product(self.codes, (400, 401, 403, 404, 429, 500, 503)):
            for said in ({"error": code}, {"errors": [{"code": code}]}, [code], code, {"code": code}):
                reply = Reply(status=status, body=json.dumps(said).encode())
                tickets = self.assert_sorted_out(request, reply)
                self.assertFalse([ticket for ticket in tickets if ticket.outcome.is_dead])

    def test_sending_again_comes_to_an_end(self) -> None:
        """However often a provider refuses, a backend asks only so often for a request to be sent again."""
        count = min(20, 2 * self.backend.recipients_per_request)
        for status in STATUSES:
            self.sent_until_the_end(partial(_empty, status), count)
        for code in self.codes:
            self.sent_until_the_end(partial(self.refused, code=code), count)

    # --- receipts ---------------------------------------------------------------------------------

    def test_hostile_receipts_kill_nobody(self) -> None:
        """Whatever comes back, parse_receipts does not raise, kills nobody and adds nothing unasked."""
        if not self.backend.has_receipts:
            self.assertEqual([], list(self.backend.build_receipts(["a"])))
            return
        [request] = self.backend.build_receipts(["a", "b"])
        replies = [Reply(failure=failure, reason="reset") for failure in Failure]
        replies += [Reply(status=status, body=b"<html>", headers=HEADERS[1]) for status in STATUSES]
        replies += [Reply(status=200, body=body) for body in hostile_bodies()]
        for reply in replies:
            parsed = self.backend.parse_receipts(request, reply)
            self.assertLessEqual({receipt.id for receipt in parsed.receipts}, {"a", "b"})
            self.assertFalse([receipt for receipt in parsed.receipts if receipt.outcome.is_dead])
            self.assertTrue(parsed.failure is None or not parsed.failure.is_dead)

    # --- secrets ----------------------------------------------------------------------------------

    def test_secrets_are_not_seen(self) -> None:
        """No option that is secret is in the backend's repr, in its attributes' or in a request."""
        request = self.request(1)
        seen = [repr(self.backend), str(self.backend), repr(vars(self.backend)), repr(self.backend.auth)]
        seen += [repr(request), request.url, repr(request.headers), repr(request.body)]
        seen += [repr(self.backend.parse(request, self.accepted(request)))]
        for secret, text in itertools.product(self.secrets, seen):
            self.assertNotIn(secret, text)
        for ticket in self.backend.parse(request, self.accepted(request)).tickets:
            self.assertNotIn(ticket.token, repr(ticket))


def _empty(status: int, request: Request) -> Reply:
    return Reply(status=status)
