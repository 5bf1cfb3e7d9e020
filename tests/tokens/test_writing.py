import pytest
from django.db import IntegrityError, OperationalError, connections, transaction

from django_push import register_token
from django_push.models import get_token_model
from django_push.tokens import writing
from django_push.tokens.writing import ATTEMPTS, in_transaction, lock, rows, status_columns
from tests.tokens.helpers import register

Tokens = get_token_model().objects


class Cause(Exception):
    def __init__(self, sqlstate):
        self.sqlstate = sqlstate


def error(kind, *args, sqlstate=None):
    made = kind(*args)
    made.__cause__ = Cause(sqlstate)
    return made


ON_POSTGRESQL = pytest.mark.skipif(
    connections["default"].vendor != "postgresql", reason="only PostgreSQL ends what stands still"
)
COLLISIONS = [
    error(OperationalError, 1213, "Deadlock found"),
    error(OperationalError, 1205, "Lock wait timeout exceeded"),
    error(OperationalError, "deadlock detected", sqlstate="40P01"),
    error(OperationalError, "could not serialize", sqlstate="40001"),
    error(OperationalError, "database is locked"),
    error(OperationalError, "database table is locked: x"),
    IntegrityError("duplicate key"),
]


class Work:
    """Fails so often, then writes."""

    def __init__(self, error, times):
        self.error, self.left, self.prepared = error, times, 0

    def prepare(self):
        self.prepared += 1
        return self.prepared

    def write(self, found):
        Tokens.create(token=f"t{found}", backend="default")
        if self.left:
            self.left -= 1
            raise self.error
        return found


@pytest.mark.django_db(transaction=True)
class TestRetry:
    @pytest.mark.parametrize("error", COLLISIONS, ids=str)
    def test_again_from_the_start(self, error):
        """A race that was lost is run again, with its reading, and leaves nothing of the first try."""
        work = Work(error, 2)
        assert in_transaction(work.prepare, work.write) == 3
        assert list(Tokens.values_list("token", flat=True)) == ["t3"]

    def test_not_for_ever(self):
        """A race that is lost each time is raised in the end."""
        work = Work(IntegrityError(), 100)
        with pytest.raises(IntegrityError):
            in_transaction(work.prepare, work.write)
        assert work.prepared == ATTEMPTS

    @pytest.mark.parametrize("error", [OperationalError("server has gone away"), ZeroDivisionError()])
    def test_other_failures(self, error):
        """What is no race is raised at once, and nothing is written."""
        work = Work(error, 1)
        with pytest.raises(type(error)):
            in_transaction(work.prepare, work.write)
        assert work.prepared == 1
        assert not Tokens.exists()

    def test_deadlock_in_the_callers_transaction(self):
        """A deadlock has undone the caller's transaction too: it is theirs to run again."""
        work = Work(COLLISIONS[0], 1)
        with pytest.raises(OperationalError), transaction.atomic():
            in_transaction(work.prepare, work.write)
        assert work.prepared == 1

    def test_conflict_in_the_callers_transaction(self):
        """A row that was inserted meanwhile undoes only our part."""
        work = Work(IntegrityError(), 1)
        with transaction.atomic():
            Tokens.create(token="mine", backend="default")
            in_transaction(work.prepare, work.write)
        assert set(Tokens.values_list("token", flat=True)) == {"mine", "t2"}


@pytest.mark.django_db
class TestRows:
    def test_lock_orders_by_key(self):
        """Rows are locked in the order of their keys."""
        found = [register(name) for name in "abc"]
        assert lock([row.pk for row in reversed(found)]) == found
        assert lock([]) == []

    def test_status_columns_are_cut(self):
        """A code fits its column."""
        assert len(status_columns("active", "x" * 999, "y")["status_code"]) == 200


class Router:
    """Sends all reads elsewhere, where there is nothing."""

    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"


@pytest.mark.django_db
def test_reads_where_it_writes(settings, ann, monkeypatch):
    """With a router, state is read where it is written: a replica may be late."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    row = register("a", ann)
    assert register_token("a", user=ann, backend="default")[0].pk == row.pk
    assert rows().db == writing.database() == "default"
    made = get_token_model()(token="b", backend="default")
    Tokens.bulk_create([made])
    Tokens.using("default").get(token="b")
    assert "replica" not in connections


# --- what stands still --------------------------------------------------------------------------------


def limit():
    """Return for how long the current transaction may stand still."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        return cursor.fetchone()[0]


@ON_POSTGRESQL
@pytest.mark.django_db(transaction=True)
class TestStandstill:
    def test_the_transaction_has_a_limit(self):
        """It has, and nothing after it."""
        with writing.brief_transaction("default"):
            assert limit() == "30s"
        assert limit() == "0"

    @pytest.mark.parametrize(("own", "expected"), [("5s", "5s"), ("1min", "30s"), ("2h", "30s")])
    def test_a_shorter_limit_of_the_site_stays(self, own, expected):
        """Whatever its unit."""
        with connections["default"].cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{own}'")
        with writing.brief_transaction("default"):
            assert limit() == expected
        connections["default"].close()

    def test_somebodys_own_transaction_has_none(self):
        """In an atomic block, or where they commit by hand."""
        with transaction.atomic(), writing.brief_transaction("default"):
            assert limit() == "0"
        transaction.set_autocommit(False)
        try:
            with writing.brief_transaction("default"):
                pass
            assert limit() == "0"
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
