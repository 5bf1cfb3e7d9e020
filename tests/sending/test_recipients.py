"""Who gets it: each kind of recipient, each token once, and why the others do not."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.db.models import Count
from django.utils.functional import SimpleLazyObject

from django_push import Outcome, Topic, get_token_model, send_push, testing
from django_push.exceptions import AmbiguousBackend, InvalidMessage, InvalidPushBackend, UnsupportedOption
from django_push.message import Condition
from django_push.recipients import _Seen
from tests.sending.conftest import make_tokens, token_name

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("two_locmem")]


@pytest.fixture
def two_locmem(settings):
    locmem = {"BACKEND": "django_push.backends.locmem.LocMemBackend"}
    settings.PUSH_BACKENDS = {"other": locmem, "second": locmem}


@pytest.fixture
def rows(user):
    return make_tokens(4, backend="other", user=user)


def sent():
    return [push.token for push in testing.outbox]


Token = get_token_model()
NAMES = ["other-0", "other-1", "other-2", "other-3"]


@pytest.mark.parametrize(
    "to",
    [
        lambda user, rows: user,
        lambda user, rows: SimpleLazyObject(lambda: user),
        lambda user, rows: user.push_tokens,
        lambda user, rows: user.push_tokens.all(),
        lambda user, rows: Token.objects,
        lambda user, rows: Token.objects.all().order_by("-token"),
        lambda user, rows: Token.objects.order_by("-pk")[:10],
        lambda user, rows: Token.objects.filter(pk__lte=rows[1].pk).union(Token.objects.all()),
        lambda user, rows: Token.objects.values("token"),
        lambda user, rows: Token.objects.values_list("token", flat=True),
        lambda user, rows: Token.objects.only("pk"),
        lambda user, rows: Token.objects.distinct(),
        lambda user, rows: Token.objects.select_related("user").prefetch_related("replaced_tokens"),
        lambda user, rows: Token.objects.annotate(n=Count("user__groups")).filter(n=0),
        lambda user, rows: Token.objects.filter(user__groups__isnull=True),
        lambda user, rows: type(user).objects.all(),
        lambda user, rows: type(user).objects.order_by("username")[:3],
        lambda user, rows: type(user).objects.filter(pk=user.pk).union(type(user).objects.all()),
        lambda user, rows: type(user).objects.values("username"),
        lambda user, rows: rows,
        lambda user, rows: tuple(rows),
        lambda user, rows: iter(rows),
        lambda user, rows: (row for row in rows),
        lambda user, rows: Token.objects.raw("SELECT * FROM django_push_pushtoken"),
        lambda user, rows: [user, *rows, *NAMES],
        lambda user, rows: dict.fromkeys(rows),
    ],
)
def test_every_way_to_name_them_sends_to_each_once(user, rows, to):
    """Users, rows, querysets and generators of all kinds come down to the same four tokens."""
    recipients = to(user, rows)
    if isinstance(recipients, dict):
        recipients = recipients.keys()
    using = "other" if isinstance(recipients, list) else None
    result = send_push(recipients, title="Hi", using=using)
    assert (sorted(sent()), result.accepted) == (NAMES, 4)


def test_a_join_that_repeats_rows_sends_once(user, rows):
    """Rows that a join multiplies are one recipient each, also across the pages."""
    user.groups.add(*[Group.objects.create(name=str(n)) for n in range(3)])
    rows[0].enabled = False
    rows[0].save()
    result = send_push(Token.objects.filter(user__groups__isnull=False), title="Hi")
    assert (NAMES[1:], {"disabled": 1}) == (sorted(sent()), dict(result.skipped))


def test_pages_overlap_nowhere(rows, monkeypatch):
    """Reading page by page finds each row once."""
    monkeypatch.setattr("django_push.recipients.PAGE", 2)
    monkeypatch.setattr("django_push.recipients.CHUNK", 3)
    assert send_push(Token.objects.all(), title="Hi").accepted == 4
    assert send_push(Token.objects.order_by("-pk")[:4], title="Hi").accepted == 4
    result = send_push([*rows, *rows], title="Hi")
    assert (result.accepted, dict(result.skipped)) == (4, {"duplicate": 4})


def test_none_is_nobody(user, rows, django_assert_num_queries):
    """An empty queryset sends nothing and asks nothing of the token table."""
    assert len(send_push(Token.objects.none(), title="Hi")) == 0
    assert len(send_push(type(user).objects.none(), title="Hi")) == 0
    assert len(send_push([], title="Hi")) == 0
    assert sent() == []


def test_a_sliced_queryset_is_that_slice(rows):
    """Neither more nor other rows than the slice has."""
    send_push(Token.objects.order_by("-pk")[1:3], title="Hi")
    assert sorted(sent()) == ["other-1", "other-2"]


def test_the_same_token_named_in_many_ways_is_sent_once(user, rows):
    """A user, its row twice, its string, and an unsaved twin are one token; the rest is counted."""
    twin = Token(backend="other", token="other-0")
    result = send_push([rows[0], rows[0], user, "other-0", twin], title="Hi", using="other")
    assert (result.accepted, dict(result.skipped)) == (4, {"duplicate": 4})


def test_one_string_in_two_aliases_is_two_tokens(rows):
    """Unsaved rows of two aliases with the same text are both sent to."""
    result = send_push([Token(backend="other", token="t"), Token(backend="second", token="t")], title="Hi")
    assert (dict(result.backends), result.accepted) == ({"other": 1, "second": 1}, 2)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"enabled": False}, "disabled"),
        ({"status": "unregistered"}, "inactive"),
        ({"status": "retired"}, "inactive"),
        ({"backend": "gone"}, "unknown_backend"),
    ],
)
@pytest.mark.parametrize("how", ["row", "queryset", "user", "string"])
def test_what_is_not_sent_to_is_counted(user, fields, reason, how):
    """Muted, inactive and unknown rows are skipped however they are named."""
    row = Token.objects.create(**{"backend": "other", "token": "t", "user": user, **fields})
    to = {
        "row": row,
        "queryset": Token.objects.all(),
        "user": user,
        "string": Token(backend=row.backend, token="t"),
    }
    result = send_push(to[how], title="Hi")
    assert ([], {reason: 1}) == (sent(), dict(result.skipped))


def test_a_raw_string_that_has_a_row_is_that_row(rows):
    """Its state counts, and the verdict is written to it."""
    rows[0].enabled = False
    rows[0].save()
    testing.answer("other-1", Outcome.UNREGISTERED)
    result = send_push(["other-0", "other-1"], title="Hi", using="other")
    rows[1].refresh_from_db()
    assert (dict(result.skipped), rows[1].status) == ({"disabled": 1}, "unregistered")


def test_a_stale_row_is_sent_to_as_it_is_now(rows):
    """The instance's text may be old; the row's counts."""
    Token.objects.filter(pk=rows[0].pk).update(token="new")
    send_push(rows[0], title="Hi")
    assert sent() == ["new"]


def test_a_deleted_row_is_counted(rows):
    """A row that is gone gets nothing, whether this instance deleted it or another."""
    gone = Token.objects.get(pk=rows[0].pk)
    rows[0].delete()
    result = send_push([rows[0], gone], title="Hi")
    assert (sent(), dict(result.skipped)) == ([], {"deleted": 2})


def test_using_narrows_to_one_alias(user, rows):
    """Tokens of other aliases are left out, and counted where they were named."""
    make_tokens(1, backend="second", user=user)
    result = send_push([user, Token(backend="second", token="u")], title="Hi", using="other")
    assert (result.accepted, dict(result.skipped)) == (4, {"other_backend": 2})
    assert send_push(Token.objects.all(), title="Hi", using="other").accepted == 4


@pytest.mark.parametrize(
    "to",
    [
        None,
        5,
        b"token",
        bytearray(b"t"),
        memoryview(b"t"),
        {"a": 1},
        object(),
        AnonymousUser(),
        1.5,
        get_user_model(),
    ],
)
def test_what_is_no_recipient_is_a_type_error(to):
    """It is raised at once and says what to give."""
    with pytest.raises(TypeError, match="give a user, a token"):
        send_push(to, title="Hi")


def test_an_anonymous_request_user_is_named(rows):
    """The error names what is behind a lazy object."""
    with pytest.raises(TypeError, match="Cannot push to AnonymousUser"):
        send_push(SimpleLazyObject(AnonymousUser), title="Hi")


def test_a_queryset_of_something_else_is_a_type_error():
    """As is one of values with an aggregate, whose rows are no tokens."""
    with pytest.raises(TypeError, match="queryset of Group"):
        send_push(Group.objects.all(), title="Hi")
    with pytest.raises(TypeError, match="aggregate"):
        send_push(Token.objects.values("user").annotate(n=Count("pk")), title="Hi")


def test_an_item_that_is_no_recipient_has_its_ticket(rows):
    """Among others it is an outcome, not an exception: the others are sent to."""
    result = send_push([None, rows[0], 5, b"x", [rows[1]], AnonymousUser()], title="Hi")
    assert (result.accepted, result.counts[Outcome.INVALID_TOKEN]) == (1, 5)
    assert {"NotARecipient", ""} == {ticket.code for ticket in result}


@pytest.mark.parametrize("token", ["", "with space", "\ud800", "x" * 5000, "ä", "a\0b"])
def test_a_malformed_token_is_an_outcome(token):
    """With the alias or without, alone or among others, it never raises."""
    for to, using in ((token, "other"), ([token], "other"), (token, None), ([token], None)):
        result = send_push(to, title="Hi", using=using)
        assert [ticket.outcome for ticket in result] == [Outcome.INVALID_TOKEN]
    assert sent() == []


def test_an_ambiguous_string_is_an_error_alone_and_an_outcome_among_others(rows):
    """The error names the aliases."""
    with pytest.raises(AmbiguousBackend, match="'other', 'second'"):
        send_push("t", title="Hi")
    result = send_push(["t", rows[0]], title="Hi")
    assert result.counts == {Outcome.REJECTED: 1, Outcome.ACCEPTED: 1}


def test_the_only_alias_needs_no_name(settings):
    """A raw string goes to the one alias there is."""
    settings.PUSH_BACKENDS = {"only": settings.PUSH_BACKENDS["other"]}
    assert dict(send_push("t", title="Hi").backends) == {"only": 1}


def test_an_unknown_alias_raises_before_anything_is_sent(rows):
    """The error names it."""
    with pytest.raises(InvalidPushBackend, match="nowhere"):
        send_push(rows, title="Hi", using="nowhere")


@pytest.mark.parametrize("to", [Topic("news"), Condition("'a' in topics")])
def test_a_topic_is_a_recipient(to):
    """It is sent once, touches no row, and its alias must be clear."""
    with pytest.raises(AmbiguousBackend, match="'other', 'second'"):
        send_push(to, title="Hi")
    result = send_push([to, to], title="Hi", using="other")
    assert (result.accepted, dict(result.skipped), result.tickets[0].pk) == (1, {"duplicate": 1}, None)


def test_a_topic_where_there_are_none_is_refused(providers):
    """Expo has no topics: an outcome."""
    result = send_push(Topic("news"), title="Hi", using="expo")
    assert [(t.outcome, t.code) for t in result] == [(Outcome.REJECTED, "UnsupportedTarget")]
    assert len(send_push([Topic("news")], title="Hi")) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"title": ""},
        {"data": {"a": object()}},
        {"data": [1]},
        {"title": "\ud800"},
        {"nope": 1},
        {"title": b"x"},
    ],
)
def test_a_message_that_is_none_raises(rows, fields):
    """Before anything is sent, with a reason."""
    with pytest.raises(InvalidMessage):
        send_push(rows, **fields)
    assert sent() == []


def test_a_message_and_fields_are_not_both_given(rows):
    """Nor anything else than a PushMessage."""
    with pytest.raises(TypeError, match="not both"):
        send_push(rows, {"title": "Hi"})


def test_a_field_that_nobody_can_say_raises(providers):
    """Among the aliases in question; a provider's options are for a provider that is there."""
    with pytest.raises(UnsupportedOption, match="analytics_label"):
        send_push([], title="Hi", analytics_label="x", using="expo")
    with pytest.raises(UnsupportedOption, match="fmc"):
        send_push([], title="Hi", provider_options={"fmc": {"a": 1}}, using="expo")


def test_options_for_a_provider_pass_where_locmem_stands_in(rows):
    """A site's message is not refused in its tests."""
    assert send_push(rows, title="Hi", provider_options={"expo": {"badge": 1}}).accepted == 4


def test_a_million_digests_take_little_memory():
    """20 MB for a million, each new once."""
    import sys

    seen = _Seen()
    assert all(seen.add(str(n)) for n in range(50_000))
    assert not any(seen.add(str(n)) for n in range(0, 50_000, 97))
    buckets = seen._buckets
    size = sys.getsizeof(buckets) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in buckets.items())
    assert size < 10_000_000


def test_a_generator_is_read_as_it_is_sent_to(monkeypatch):
    """Nothing is read ahead of the chunk that is sent."""
    from django_push import iter_push

    monkeypatch.setattr("django_push.recipients.CHUNK", 10)
    monkeypatch.setattr("django_push.sending.lane.FLUSH", 10)
    read = []

    def names():
        for n in range(1000):
            read.append(n)
            yield f"t-{n}"

    tickets = iter_push(names(), title="Hi", using="other")
    assert read == []
    next(tickets)
    assert len(read) <= 20
    assert token_name(0) not in sent()
