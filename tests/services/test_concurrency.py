"""Real processes of the same moment: threads with connections of their own, on a database server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.db.models import Count

from django_push import Outcome, Ticket, register_token, unregister_token
from django_push.models import database_now, get_token_model
from django_push.outcomes import Target
from django_push.tokens import apply, deactivate, move, prune, reactivate, set_enabled, writing

pytestmark = [
    pytest.mark.services,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor == "sqlite",
        reason="SQLite has one writer at a time; set PUSH_TEST_DATABASE to postgresql or mysql",
    ),
]
Model = get_token_model()
Tokens = Model.objects


def at_once(*verbs):
    """Run each verb in a thread and a connection of its own, from one moment; return their results."""
    barrier = threading.Barrier(len(verbs))

    def run(verb):
        try:
            connection.ensure_connection()
            barrier.wait(10)
            return verb()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(verbs)) as pool:
        return [done.result(60) for done in [pool.submit(run, verb) for verb in verbs]]


def race(rounds, *verbs):
    """Let each verb run so many rounds, ``verb(n)``, against the others, all the time."""

    def repeat(verb):
        return lambda: [verb(n) for n in range(rounds)]

    return at_once(*map(repeat, verbs))


def deadlocks():
    """Return how many deadlocks PostgreSQL has seen in this database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


@pytest.fixture(autouse=True)
def _no_deadlocks(monkeypatch):
    """No deadlock had to be broken: by the database's own counter, or by the errors of its victims.

    MariaDB counts for all of its databases, of which other tests use some.
    """
    if connection.vendor == "postgresql":
        before = deadlocks()
        yield
        connections.close_all()
        time.sleep(0.1)  # counters arrive when a session ends
        assert deadlocks() == before
        return
    victims = []
    is_collision = writing.is_collision

    def noted(error):
        if error.args[:1] == (1213,):
            victims.append(error)
        return is_collision(error)

    monkeypatch.setattr(writing, "is_collision", noted)
    yield
    assert victims == []


@pytest.fixture
def users():
    return [get_user_model().objects.create(username=f"u{n}") for n in range(2)]


@pytest.fixture
def rows():
    Tokens.bulk_create([Model(token=f"t{n}", backend="default") for n in range(40)])
    return list(Tokens.order_by("pk"))


def dead(row, token=None):
    target = Target(row.token if token is None else token, row.pk)
    return Ticket(target=target, outcome=Outcome.UNREGISTERED, backend=row.backend, code="NotRegistered")


def canonical(row, new):
    target = Target(row.token, row.pk)
    return Ticket(target=target, outcome=Outcome.ACCEPTED, backend=row.backend, replacement=new)


def now():
    return database_now("default")


def assert_sound():
    """One row per token, and only replaced rows point."""
    assert not Tokens.values("backend", "token").annotate(n=Count("pk")).filter(n__gt=1).exists()
    assert not Tokens.exclude(replaced_by=None).exclude(status="replaced").exists()


def test_two_registrations_of_one_token(users):
    """Of many registrations of a new token one creates the row, and no other fails."""
    for n in range(40):
        verbs = [
            lambda n=n, user=user: register_token(f"t{n}", user=user, backend="default")
            for user in (*users, None, users[0])
        ]
        done = at_once(*verbs)
        assert sum(created for _, created in done) == 1
        row = Tokens.get(token=f"t{n}")
        assert {found.pk for found, _ in done} == {row.pk}
        assert row.status == "active"
        assert row.user in users


def test_two_new_tokens_of_one_device(users):
    """Two tokens that one device registers at one moment leave one active row."""
    for n in range(30):
        verbs = [
            lambda n=n, name=name: register_token(
                f"{name}{n}", user=users[0], backend="default", device_id=f"d{n}"
            )
            for name in "ab"
        ]
        at_once(*verbs)
        assert Tokens.active().filter(device_id=f"d{n}").count() == 1
    assert_sound()


def test_user_switch(users):
    """A phone that changes hands all the time has one row, and one owner."""
    row, _ = register_token("t", user=users[0], backend="default", device_id="d")

    def log_in(user):
        return lambda n: register_token("t", user=user, backend="default", device_id="d")

    def log_out(user):
        return lambda n: unregister_token("t", user=user)

    race(40, log_in(users[0]), log_out(users[0]), log_in(users[1]), log_out(users[1]))
    register_token("t", user=users[1], backend="default")
    row = Tokens.get()
    assert (row.user, row.status) == (users[1], "active")


def test_registration_against_a_late_verdict(rows):
    """A token that registers after the send is active, whenever the verdict comes."""
    for _ in range(12):
        reactivate(Tokens.all(), source="command")
        sent_at = now()
        again = rows[::2]
        verdicts = [dead(row) for row in reversed(rows)]

        def register_all(again=again):
            for row in again:
                register_token(row.token, backend="default")

        at_once(
            register_all,
            lambda v=verdicts, s=sent_at: apply(v, s),
            lambda v=verdicts, s=sent_at: apply(v[::-1], s, source="receipt"),
        )
        assert set(Tokens.active()) == set(again)


def test_receipt_after_a_rotation(users):
    """A receipt about the token that was does not reach the one that is."""
    for n in range(40):
        row, _ = register_token(f"old{n}", user=users[0], backend="default", device_id=f"d{n}")
        sent_at = now()
        at_once(
            lambda n=n: register_token(f"new{n}", user=users[0], backend="default", device_id=f"d{n}"),
            lambda row=row, s=sent_at: apply([dead(row)], s, source="receipt"),
            lambda row=row, s=sent_at: apply([dead(row)], s),
        )
        row.refresh_from_db()
        assert (row.token, row.status) == (f"new{n}", "active")


def test_two_old_ids_to_one_new(users):
    """Two replies that replace two tokens by the same new one leave one active row of it."""
    for n in range(25):
        old = [
            register_token(f"{c}{n}", user=u, backend="default")[0] for c, u in zip("ab", users, strict=True)
        ]
        sent_at = now()
        at_once(*[lambda row=row, s=sent_at, n=n: apply([canonical(row, f"c{n}")], s) for row in old])
        holder = Tokens.get(token=f"c{n}")
        assert (holder.status, holder.user) == ("active", users[1])
        assert Tokens.get(status="replaced", replaced_by=holder).pk in {row.pk for row in old}
        Tokens.all().delete()


def test_crossed_canonical_ids(rows):
    """Replies that contradict each other leave one active row of each pair."""
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    for _ in range(12):
        reactivate(Tokens.all(), source="command")
        sent_at = now()
        there = [canonical(a, b.token) for a, b in pairs]
        back = [canonical(b, a.token) for a, b in reversed(pairs)]
        at_once(lambda v=there, s=sent_at: apply(v, s), lambda v=back, s=sent_at: apply(v, s))
        for a, b in pairs:
            assert Tokens.active().filter(pk__in=[a.pk, b.pk]).count() == 1
    assert_sound()


def test_new_ids_in_crossed_orders(rows):
    """Two replies that name the same new tokens in opposite orders wait for each other."""
    half = len(rows) // 2
    for n in range(12):
        rows = list(Tokens.active().order_by("pk"))[: 2 * half]
        one = [canonical(row, f"n{n}-{i}") for i, row in enumerate(rows[:half])]
        two = [canonical(row, f"n{n}-{half - 1 - i}") for i, row in enumerate(rows[half:])]
        sent_at = now()
        at_once(lambda v=one, s=sent_at: apply(v, s), lambda v=two, s=sent_at: apply(v, s))
        assert Tokens.active().filter(token__startswith=f"n{n}-").count() == half
        reactivate(Tokens.all(), source="command")
    assert_sound()


def test_chains_in_two_replies(rows):
    """Chains that are walked from both ends at once come to one end."""
    for n in range(15):
        names = [f"c{n}-{i}" for i in range(6)]
        chain = [register_token(name, backend="default")[0] for name in names]
        sent_at = now()
        links = [canonical(a, b.token) for a, b in pairwise(chain)]
        at_once(*[lambda link=link, s=sent_at: apply([link], s) for link in (*links, *reversed(links))])
        active = Tokens.active().filter(pk__in=[row.pk for row in chain])
        assert [row.token for row in active] == [names[-1]]


def test_everything_at_once(users, rows):
    """All verbs over the same rows, in opposite orders: no failure, no deadlock, a sound table."""
    tokens = [row.token for row in rows]

    def register_up(n):
        token = tokens[n % 40]
        register_token(token, user=users[n % 2], backend="default", device_id=f"d{n % 7}")

    def register_down(n):
        token = tokens[-1 - n % 40]
        register_token(token, user=users[n % 2], backend="default", device_id=f"d{n % 5}")

    def verdicts(n):
        apply([dead(row) for row in rows[n % 20 : n % 20 + 15]], now(), source="receipt")

    def replacements(n):
        found = list(Tokens.active().order_by("-pk")[:10])
        apply([canonical(row, tokens[(n + i * 7) % 40]) for i, row in enumerate(found)], now())

    def staff(n):
        down = Tokens.order_by("-pk").reverse() if n % 2 else Tokens.order_by("-pk")
        deactivate(down.filter(enabled=True), code="x", source="admin")
        reactivate(down, source="admin")
        set_enabled(down, bool(n % 2))

    race(25, register_up, register_down, verdicts, replacements, staff)
    assert Tokens.count() >= 40
    assert_sound()


def test_move_against_registrations(rows, users):
    """An alias is moved while apps register under both: every token ends in one active row."""

    def register_both(n):
        register_token(f"t{n % 40}", user=users[0], backend="other")
        register_token(f"t{39 - n % 40}", user=users[1], backend="default")

    race(3, lambda n: move("default", "other"), lambda n: [register_both(i) for i in range(40)])
    move("default", "other")
    assert Tokens.active().filter(backend="other").count() == 40
    assert not Tokens.active().filter(backend="default").exists()
    assert_sound()


def test_prune_against_registrations(users):
    """A row that registers while it is pruned lives, whatever points to it."""
    for n in range(6):
        rows = [register_token(f"t{n}-{i}", backend="default")[0] for i in range(20)]
        pairs = zip(rows[::2], rows[1::2], strict=True)
        apply([canonical(b, a.token) for a, b in pairs], now())
        deactivate(Tokens.all(), code="x", source="command")
        again = rows[::3]

        def register_some(again=again):
            for row in again:
                register_token(row.token, backend="default")

        def clean():
            return prune(dead_for=timedelta(0))

        at_once(register_some, clean, clean)
        assert set(Tokens.values_list("token", flat=True)) == {row.token for row in again}
        assert not Tokens.inactive().exists()
        Tokens.all().delete()
