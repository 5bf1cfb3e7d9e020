"""A provider's text that repeats a token shows no more of it than its mask, wherever the text was cut."""

import json

import pytest

from django_push.backends.base import LEAST_SHOWN, Verdict
from django_push.backends.gcm import GCMBackend
from django_push.backends.locmem import LocMemBackend
from django_push.message import PushMessage
from django_push.outcomes import DETAIL_LENGTH, Outcome, Target, cut
from django_push.wire import Reply, Request

TOKEN = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bD1fG3hJ5kL7n"
LONG = "".join(f"{n:03d}x" for n in range(100))


def shown(token, text):
    """Return what a ticket keeps of a text, as its code and as its detail."""
    backend = LocMemBackend(alias="default")
    request = Request(url="", body=b"", groups=[(None, [Target(token)])])
    [ticket] = backend.tickets(request, [Verdict(Outcome.REJECTED, cut(text), cut(text))])
    assert ticket.code == ticket.detail
    return ticket.detail


@pytest.mark.parametrize("token", [TOKEN, LONG], ids=["short", "long"])
def test_a_token_that_is_cut_at_the_end(token):
    """At most a few characters of its beginning are left, and the text still fits."""
    for before in range(DETAIL_LENGTH + 1):
        kept = shown(token, "." * before + token)
        assert token[: LEAST_SHOWN + 1] not in kept
        assert len(kept) <= DETAIL_LENGTH


@pytest.mark.parametrize("times", range(1, 5))
def test_a_token_that_comes_whole_and_then_cut(times):
    """However much shorter the text is for those that were masked."""
    for before in range(40):
        kept = shown(TOKEN, "." * before + f"{TOKEN} " * times + "." * (150 - 41 * times) + TOKEN)
        assert TOKEN[: LEAST_SHOWN + 1] not in kept


def refused_whole(tokens, said):
    """Return what tickets keep of GCM's refusal of a request, as codes and details."""
    backend = GCMBackend(alias="gcm", endpoint="https://relay.example/gcm/send", api_key="k")
    targets = [Target(token) for token in tokens]
    [request] = backend.build([(PushMessage(title="Hello"), targets)])
    reply = Reply(status=400, body=said(request.body.decode()).encode())
    tickets = backend.parse(request, reply).tickets
    assert [ticket.target for ticket in tickets] == targets
    return [text for ticket in tickets for text in (ticket.code, ticket.detail)]


@pytest.mark.parametrize(
    "said",
    [
        lambda body: f"bad request: {body}",
        lambda body: f"cannot be used: {' '.join(json.loads(body)['registration_ids'])}",
        lambda body: json.dumps({"error": " ".join(json.loads(body)["registration_ids"])}),
    ],
    ids=["whole", "tokens", "code"],
)
@pytest.mark.parametrize("length", [24, 60, 120])
def test_a_refusal_of_the_whole_request(said, length):
    """It is kept with each token of the request, so shows no token of the others either."""
    tokens = [f"{letter}{TOKEN * 3}"[:length] for letter in "XYZ"]
    kept = refused_whole(tokens, said)
    assert any(kept)
    for text in kept:
        assert [token for token in tokens if token[: LEAST_SHOWN + 1] in text] == []


def test_a_text_that_only_begins_alike():
    """A few characters are no token."""
    assert shown(TOKEN, f"no {TOKEN[:LEAST_SHOWN]}") == f"no {TOKEN[:LEAST_SHOWN]}"
