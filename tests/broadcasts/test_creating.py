"""From a call to a broadcast: keys, times, lists, and who may."""

from datetime import datetime, timedelta, timezone

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Permission
from django.db.models import F
from django.utils import timezone as clock
from django.utils.translation import gettext_lazy

from django_push import PushMessage, testing
from django_push.broadcasts import broadcast, creating, recent_twin
from django_push.broadcasts.packing import unpack
from django_push.exceptions import BroadcastForbidden, InvalidBroadcast
from django_push.models import (
    Broadcast,
    BroadcastBatch,
    BroadcastLane,
    BroadcastStatus,
    database_now,
    get_token_model,
    instant,
)
from tests.broadcasts.factories import (
    Tokens,
    batches_of,
    copies,
    drafted,
    finished,
    lane_of,
    make_tokens,
    reloaded,
    started,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def woken(settings, django_capture_on_commit_callbacks):
    """Return a function that runs a call, commits, and returns the broadcasts that workers were woken for."""
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"

    def run(call):
        Queue.jobs.clear()
        with django_capture_on_commit_callbacks(execute=True):
            made = call()
            assert Queue.jobs == []  # not before the commit
        return made, [payload["broadcast"] for _, payload in Queue.jobs]

    return run


class Queue:
    """A dispatcher that keeps what it is asked for."""

    can_defer = True
    jobs = []

    def enqueue(self, job, payload, *, delay=0.0):
        self.jobs.append((job, payload))


def seconds_from_now(moment):
    return (instant(moment, "default") - instant(database_now("default"), "default")).total_seconds()


# --- begun at once --------------------------------------------------------------------------------


def test_a_broadcast_runs_at_once(woken):
    """It is returned before anything is sent; a worker is woken after the commit."""
    rows = make_tokens(3)
    made, jobs = woken(lambda: broadcast(title="Hi", name="A name"))
    assert (made.status, made.name, jobs) == (BroadcastStatus.RUNNING, "A name", [made.pk])
    assert testing.outbox == []
    assert finished(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 for row in rows}


def test_as_many_workers_as_asked_for(woken):
    """Each is a task of its own."""
    make_tokens(1)
    made, jobs = woken(lambda: broadcast(title="Hi", workers=3))
    assert jobs == [made.pk] * 3


def test_a_draft_waits_to_be_begun(woken):
    """``start=False`` wakes nobody; ``begin`` does."""
    make_tokens(1)
    made, jobs = woken(lambda: broadcast(title="Hi", start=False))
    assert (made.status, jobs) == (BroadcastStatus.DRAFT, [])
    began, jobs = woken(lambda: creating.begin(made))
    assert (began, jobs) == (True, [made.pk])
    began, jobs = woken(lambda: creating.begin(made))
    assert (began, jobs) == (False, [])


def test_nobody_is_woken_for_nothing(woken):
    """An empty audience is done at once."""
    made, jobs = woken(lambda: broadcast(title="Hi"))
    assert (reloaded(made).status, jobs) == (BroadcastStatus.DONE, [])


def test_the_default_dispatcher_sends_after_the_commit(django_capture_on_commit_callbacks):
    """With nothing set up the broadcast is sent by the process that has made it."""
    make_tokens(3)
    with django_capture_on_commit_callbacks(execute=True):
        made = broadcast(title="Hi")
        assert testing.outbox == []
    assert reloaded(made).status == BroadcastStatus.DONE
    assert len(testing.outbox) == 3


# --- the message ----------------------------------------------------------------------------------


def test_what_is_said_is_kept_as_json():
    """The message comes back as it was given; translations hold what differs and the rest."""
    said = PushMessage(title="Hi", data={"id": 1}, ttl=timedelta(hours=1))
    made = reloaded(
        broadcast(message=said, translations={"de_AT": {"title": "Servus"}}, start=False),
    )
    assert PushMessage(**made.message) == PushMessage(title="Hi", data={"id": 1}, ttl=3600)
    assert made.translations == {"de-at": {**made.message, "title": "Servus"}}


def test_lazy_texts_are_rendered_for_each_language():
    """A lazy translation is written down in each of LANGUAGES, since workers may not have it."""
    made = reloaded(drafted(title=gettext_lazy("Yes")))
    assert made.message["title"] == "Yes"
    assert {code: said["title"] for code, said in made.translations.items()} == {
        "en": "Yes",
        "de": "Ja",
        "fr": "Oui",
    }


# --- the key --------------------------------------------------------------------------------------


def test_a_second_press_is_the_first(woken):
    """The same key returns the same broadcast, and starts and wakes nothing."""
    make_tokens(1)
    first, _ = woken(lambda: broadcast(title="Hi", key="monday"))
    second, jobs = woken(lambda: broadcast(title="Hi", key="monday"))
    assert (second.pk, jobs) == (first.pk, [])
    assert Broadcast.objects.count() == 1
    finished(first)
    third, jobs = woken(lambda: broadcast(title="Hi", key="monday"))
    assert (third.pk, third.status, jobs) == (first.pk, BroadcastStatus.DONE, [])


def test_a_second_press_after_a_crash(woken):
    """A draft that its first caller did not come to start is started."""
    make_tokens(1)
    first = drafted(key="monday")
    second, jobs = woken(lambda: broadcast(title="Hi", key="monday"))
    assert (second.pk, second.status, jobs) == (first.pk, BroadcastStatus.RUNNING, [first.pk])


def test_a_second_press_of_a_list_writes_it_down_once():
    """Its tokens are planned once."""
    rows = make_tokens(3)
    made = started(rows, key="monday")
    assert drafted(rows, key="monday").pk == made.pk
    assert BroadcastBatch.objects.count() == 1


@pytest.mark.parametrize(
    "other", [{"title": "Ho"}, {"audience": {"locale": "de"}}, {"translations": {"de": {"title": "Hallo"}}}]
)
def test_a_key_of_something_else(other):
    """A key belongs to what was said with it first."""
    first = drafted(key="monday")
    with pytest.raises(InvalidBroadcast, match=f"broadcast {first.pk}, which says something else"):
        drafted(**{"key": "monday", **other})


def test_a_second_press_after_its_time():
    """A call that is repeated later is still the first, though its schedule has passed by now."""
    at = clock.now() + timedelta(hours=1)
    first = broadcast(title="Hi", key="monday", schedule=at)
    second = broadcast(title="Hi", key="monday", schedule=at - timedelta(hours=2))
    assert second.pk == first.pk
    assert second.scheduled_at == reloaded(first).scheduled_at


def test_without_a_key_two_are_two():
    """The table has room for any number of broadcasts without one."""
    assert drafted().pk != drafted().pk


def test_a_twin_is_told():
    """The same content, of a moment ago, cancelled ones aside, is pointed out."""
    first, other = drafted(), drafted(title="Ho")
    assert recent_twin(first) is None
    second = drafted()
    assert recent_twin(second) == first
    assert recent_twin(other) is None
    Broadcast.objects.filter(pk=first.pk).update(status=BroadcastStatus.CANCELLED)
    assert recent_twin(second) is None
    Broadcast.objects.filter(pk=first.pk).update(
        status=BroadcastStatus.DONE, created=F("created") - timedelta(hours=1)
    )
    assert recent_twin(second) is None


# --- times ----------------------------------------------------------------------------------------


def wall_clock(delta):
    """Return a time without a zone, as a person in TIME_ZONE would write it."""
    local = datetime.now(timezone.utc) + delta
    return clock.make_naive(local, clock.get_default_timezone())


AHEAD = [
    pytest.param(lambda: datetime.now(timezone.utc) + timedelta(hours=2), id="utc"),
    pytest.param(lambda: datetime.now(timezone(timedelta(hours=9))) + timedelta(hours=2), id="tokyo"),
    pytest.param(lambda: wall_clock(timedelta(hours=2)), id="naive"),
]


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_schedule_is_a_moment(woken, ahead):
    """Whatever the zone it is written in, and whether or not USE_TZ is set."""
    make_tokens(1)
    made, jobs = woken(lambda: broadcast(title="Hi", schedule=ahead()))
    assert (made.status, jobs) == (BroadcastStatus.SCHEDULED, [])
    assert seconds_from_now(reloaded(made).scheduled_at) == pytest.approx(7200, abs=30)


@pytest.mark.parametrize("ahead", AHEAD)
def test_an_expiry_is_a_moment(ahead):
    """The same holds for its end."""
    made = reloaded(drafted(expires=ahead()))
    assert seconds_from_now(made.expires_at) == pytest.approx(7200, abs=30)


def test_an_expiry_counts_from_the_start():
    """A duration begins with the schedule, or now."""
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    made = reloaded(drafted(schedule=at, expires=timedelta(hours=2)))
    assert made.expires_at - made.scheduled_at == timedelta(hours=2)
    made = reloaded(drafted(expires=timedelta(hours=2)))
    assert seconds_from_now(made.expires_at) == pytest.approx(7200, abs=30)


@pytest.mark.parametrize(
    "past",
    [
        pytest.param(lambda: datetime.now(timezone.utc) - timedelta(seconds=1), id="utc"),
        pytest.param(lambda: datetime.now(timezone(timedelta(hours=9))) - timedelta(minutes=5), id="tokyo"),
        pytest.param(lambda: wall_clock(-timedelta(minutes=5)), id="naive"),
    ],
)
def test_a_time_in_the_past(past):
    """Neither a start nor an end may lie behind us."""
    with pytest.raises(InvalidBroadcast, match="The schedule is in the past"):
        drafted(schedule=past())
    with pytest.raises(InvalidBroadcast, match="It expires before it starts"):
        drafted(expires=past())
    assert not Broadcast.objects.exists()


def test_an_end_before_the_start():
    """Which nobody would ever get to see."""
    at = datetime.now(timezone.utc) + timedelta(hours=2)
    with pytest.raises(InvalidBroadcast, match="expires before it starts"):
        drafted(schedule=at, expires=at)
    with pytest.raises(InvalidBroadcast, match="expires before it starts"):
        drafted(schedule=at, expires=-timedelta(hours=1))


# --- lists ----------------------------------------------------------------------------------------


def chosen(made):
    return sorted(pk for batch in batches_of(made) for pk, _ in unpack(batch.pks))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda rows, user: rows, id="tokens"),
        pytest.param(lambda rows, user: (row for row in rows), id="generator"),
        pytest.param(lambda rows, user: user, id="user"),
        pytest.param(lambda rows, user: [user, user, rows[0]], id="twice"),
        pytest.param(lambda rows, user: get_user_model().objects.all(), id="users"),
        pytest.param(lambda rows, user: get_token_model().objects.filter(user=user), id="queryset"),
        pytest.param(lambda rows, user: get_token_model().objects.order_by("-pk")[:5], id="slice"),
        pytest.param(lambda rows, user: get_token_model().objects, id="manager"),
    ],
)
def test_a_list_is_written_down_now(given):
    """Tokens and users of any form become keys, each once; what comes later is not among them."""
    user = get_user_model().objects.create(username="ada")
    rows = make_tokens(5, user=user)
    made = drafted(given(rows, user), batch_size=2)
    assert chosen(made) == [row.pk for row in rows]
    assert sorted(batches_of(made).values_list("size", flat=True)) == [1, 2, 2]
    assert lane_of(made).size == 5
    Tokens.create(token="late", backend="default", user=user)
    assert finished(creating.begin(made) and made).progress.total == 5
    assert copies() == {row.token: 1 for row in rows}


def test_a_list_of_several_aliases():
    """Each has its lane; what is not sendable, or not of ``using``, is left out."""
    muted, *rows = make_tokens(4)
    Tokens.filter(pk=muted.pk).update(enabled=False)
    others = make_tokens(2, backend="other")
    made = drafted(get_token_model().objects.all())
    assert {lane.backend: lane.size for lane in made.lanes.all()} == {"default": 3, "other": 2}
    assert chosen(made) == [row.pk for row in (*rows, *others)]
    narrow = drafted(get_token_model().objects.all(), using="other")
    assert [lane.backend for lane in narrow.lanes.all()] == ["other"]


def test_a_long_list_is_inserted_in_parts(monkeypatch):
    """No statement grows with the list."""
    monkeypatch.setattr(creating, "INSERT", 3)
    rows = make_tokens(20)
    made = drafted(rows, batch_size=2)
    assert batches_of(made).count() == 10
    assert chosen(made) == [row.pk for row in rows]


def test_a_list_that_fails_half_way():
    """Nothing is left of it."""

    def rows():
        yield from make_tokens(3)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        drafted(rows(), batch_size=1)
    assert not Broadcast.objects.exists()
    assert not BroadcastLane.objects.exists()


# --- who ------------------------------------------------------------------------------------------


def operator(**fields):
    user = get_user_model().objects.create(username="ada", **fields)
    user.user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    return user


def test_the_user_is_recorded():
    """By key, and by a name that stays when the user goes."""
    user = operator()
    made = reloaded(drafted(user=user))
    assert (made.created_by, made.created_by_name) == (user, "ada")
    user.delete()
    made = reloaded(made)
    assert (made.created_by, made.created_by_name) == (None, "ada")


@pytest.mark.parametrize(
    "user",
    [
        pytest.param(lambda: get_user_model().objects.create(username="bob"), id="no permission"),
        pytest.param(lambda: operator(is_active=False), id="inactive"),
        pytest.param(AnonymousUser, id="anonymous"),
        pytest.param(lambda: get_user_model()(username="new", is_superuser=True), id="unsaved"),
    ],
)
def test_who_may_not(user):
    """Nothing is written down for them."""
    with pytest.raises(BroadcastForbidden):
        drafted(user=user())
    assert not Broadcast.objects.exists()


def test_a_superuser_may():
    """As everywhere."""
    user = get_user_model().objects.create(username="root", is_superuser=True)
    assert drafted(user=user).created_by == user


def test_a_user_without_a_name():
    """Its going is still noticed."""
    user = get_user_model().objects.create(username="", is_superuser=True)
    made = drafted(user=user)
    user.delete()
    with pytest.raises(BroadcastForbidden):
        creating.begin(reloaded(made))
