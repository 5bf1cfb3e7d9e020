"""A provider's text that repeats a token shows no more of it than its mask, wherever the text was cut."""

import pytest

from django_push.backends.base import LEAST_SHOWN, Verdict
from django_push.backends.locmem import LocMemBackend
from django_push.outcomes import DETAIL_LENGTH, Outcome, Target, cut
from django_push.wire import Request

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


def test_a_text_that_only_begins_alike():
    """A few characters are no token."""
    assert shown(TOKEN, f"no {TOKEN[:LEAST_SHOWN]}") == f"no {TOKEN[:LEAST_SHOWN]}"
