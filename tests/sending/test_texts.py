"""What each token gets: languages, lazy texts and what differs for one token."""

import pytest
from django.utils import translation
from django.utils.functional import lazystr
from django.utils.translation import gettext, gettext_lazy

from django_push import Outcome, PushMessage, Topic, get_token_model, send_push, testing
from tests.sending.conftest import make_tokens

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("locmem")]

Token = get_token_model()


@pytest.fixture
def locmem(settings):
    settings.PUSH_BACKENDS = {"other": {"BACKEND": "django_push.backends.locmem.LocMemBackend"}}


def titles():
    return [push.message.title for push in testing.outbox]


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        ("de", "Samstag"),
        ("de-AT", "Samstag"),
        ("de_DE", "Samstag"),
        ("fr", "samedi"),
        ("", "Saturday"),
        ("xx", "Saturday"),
        ("../x", "Saturday"),
    ],
)
def test_a_lazy_text_is_in_the_tokens_language(locale, title):
    """de-AT is served by de, an unknown locale by LANGUAGE_CODE; the caller's language is nobody's."""
    Token.objects.create(backend="other", token="t", locale=locale)
    with translation.override("fr"):
        send_push(Token.objects.all(), title=gettext_lazy("Saturday"))
        assert translation.get_language() == "fr"
    assert [title] == [t.lower() if t == "samedi" else t for t in titles()] or titles() == ["Samedi"]


def test_lazy_texts_inside_data_are_rendered():
    """In lists and objects, too."""
    Token.objects.create(backend="other", token="t", locale="de")
    send_push(Token.objects.all(), data={"days": [gettext_lazy("Saturday")], "n": {"x": gettext_lazy("May")}})
    assert testing.outbox[0].message.data == {"days": ["Samstag"], "n": {"x": "Mai"}}


def test_a_message_without_lazy_texts_is_one_group():
    """Locales do not split the requests of a message that is the same in all of them."""
    for n, locale in enumerate(["de", "fr", "en", ""]):
        Token.objects.create(backend="other", token=f"t{n}", locale=locale)
    asked = []

    def reply(request):
        asked.append(request)
        from tests.sending.conftest import reply_of

        return reply_of([{"outcome": "accepted"}] * len(request.targets))

    with testing.fake_transport("other", reply):
        send_push(Token.objects.all(), title="Hi")
        assert len(asked) == 1
        send_push(Token.objects.all(), title=gettext_lazy("Saturday"))
    assert len(asked) == 1 + 3


def test_personalize_differs_by_token(user):
    """It is given the row with its user; what it leaves out is as in the message."""
    make_tokens(2, backend="other", user=user)
    send_push(
        Token.objects.all(),
        title="Hi",
        body="there",
        personalize=lambda row: {"title": f"Hi {row.user.username} {row.token}"},
    )
    assert titles() == ["Hi ada other-0", "Hi ada other-1"]
    assert {"there"} == {push.message.body for push in testing.outbox}


def test_personalize_speaks_the_tokens_language():
    """Inside it gettext is in the language of the token, and lazy texts are, too."""
    Token.objects.create(backend="other", token="a", locale="de")
    Token.objects.create(backend="other", token="b", locale="en")
    send_push(Token.objects.all(), title="x", personalize=lambda row: {"title": gettext("Saturday")})
    send_push(Token.objects.all(), title="x", personalize=lambda row: {"title": gettext_lazy("Saturday")})
    send_push(Token.objects.all(), title=gettext_lazy("Saturday"), personalize=lambda row: {"badge": 1})
    assert titles() == ["Samstag", "Saturday"] * 3


def test_personalize_may_say_nothing():
    """None and an empty dictionary leave the message as it is."""
    make_tokens(2, backend="other")
    send_push(Token.objects.all(), title="Hi", personalize=lambda row: None)
    send_push(Token.objects.all(), title="Hi", personalize=lambda row: {})
    assert titles() == ["Hi"] * 4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (ZeroDivisionError, "InvalidMessage"),
        ({"title": 5}, "InvalidMessage"),
        ({"title": None}, "InvalidMessage"),
        ({"nope": 1}, "InvalidMessage"),
        ("text", "InvalidMessage"),
        ({"title": "x" * 5000}, "MessageTooBig"),
    ],
)
def test_a_text_that_fails_costs_only_its_own_token(changes, code):
    """The others get theirs."""
    make_tokens(3, backend="other")

    def personalize(row):
        if row.token != "other-1":
            return {}
        if isinstance(changes, type):
            raise changes
        return changes

    result = send_push(Token.objects.all(), title="Hi", personalize=personalize)
    assert [("other-1", Outcome.MESSAGE_REJECTED, code)] == [
        (t.token, t.outcome, t.code) for t in result if t.outcome is not Outcome.ACCEPTED
    ]
    assert result.accepted == 2


def test_an_unsupported_field_of_one_token_is_its_outcome(providers):
    """A field that only personalize brings is checked as the message's own."""
    [row] = make_tokens(1)
    result = send_push(row, title="Hi", using="expo", personalize=lambda row: {"analytics_label": "x"})
    assert [(t.outcome, t.code) for t in result] == [(Outcome.MESSAGE_REJECTED, "UnsupportedOption")]


def test_a_raw_token_is_given_as_an_unsaved_row():
    """So that personalize needs no other case."""
    send_push(
        ["a", "b"], title="Hi", using="other", personalize=lambda row: {"title": f"{row.token} {row.pk}"}
    )
    assert titles() == ["a None", "b None"]


def test_a_topic_is_not_personalized():
    """There is no token to ask for."""
    send_push(Topic("news"), title="Hi", personalize=lambda row: 1 / 0)
    assert titles() == ["Hi"]


def test_personalize_costs_a_query_per_page(user, django_assert_num_queries):
    """Rows and users are read together, not token by token."""
    make_tokens(300, backend="other", user=user)
    with django_assert_num_queries(3) as few:
        pass_through = send_push(
            Token.objects.all(), title="Hi", personalize=lambda row: {"body": row.user.username}
        )
        # Two statements on SQLite, where the clock is this machine's; pad to what a server takes.
        for _ in range(3 - len(few.captured_queries)):
            Token.objects.exists()
    assert pass_through.accepted == 300


def test_equal_texts_share_a_request(user):
    """Ten thousand names in three variants are three messages."""
    make_tokens(9, backend="other", user=user)
    asked = []

    def reply(request):
        from tests.sending.conftest import reply_of

        asked.append(request)
        return reply_of([{"outcome": "accepted"}] * len(request.targets))

    with testing.fake_transport("other", reply):
        send_push(Token.objects.all(), title="x", personalize=lambda row: {"title": str(row.pk % 3)})
    assert len(asked) == 3


def test_a_long_lazy_title_is_refused_in_words():
    """A title of 10 kB is too big, lazy or not, and no token is touched."""
    make_tokens(1, backend="other")
    for title in ("x" * 10_000, lazystr("x" * 10_000)):
        [ticket] = send_push(Token.objects.all(), PushMessage(title=title))
        assert (ticket.outcome, ticket.code) == (Outcome.MESSAGE_REJECTED, "MessageTooBig")
    assert testing.outbox == []
