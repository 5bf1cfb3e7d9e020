"""What a site's own code, its queries and its backends get wrong: one lane waits, no token pays for it."""

import itertools
from datetime import timedelta

import pytest
from django.core.exceptions import FieldError
from django.db import OperationalError, connection
from django.db.models import F, Func, IntegerField
from django.db.models.functions import Cast
from django.utils import timezone as clock

from django_push import Outcome, testing
from django_push.backends.locmem import LocMemBackend
from django_push.broadcasts import audiences, control, draining, tick
from django_push.models import BatchStatus, Broadcast, BroadcastStatus, PauseReason, PushProblem
from django_push.wire import Parsed
from tests.broadcasts.factories import (
    LOCMEM,
    Tokens,
    batch_of,
    batches_of,
    copies,
    counted,
    drafted,
    drained,
    finished,
    lane_of,
    let_time_pass,
    make_tokens,
    reloaded,
    started,
    states,
    status_of,
    unknown,
)

pytestmark = pytest.mark.django_db
alone = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="others cast whatever it is")


def here(name):
    return f"{__name__}.{name}"


# --- audiences ------------------------------------------------------------------------------------


class Fails(Func):
    """An expression that fails when it is compiled."""

    output_field = IntegerField()

    def __init__(self, error):
        super().__init__()
        self.error = error

    def as_sql(self, *args, **kwargs):
        raise self.error


def everybody(tokens):
    return tokens


def no_column(tokens):
    return tokens.extra(where=["no_such_column = 1"])


def no_number(tokens):
    return tokens.annotate(number=Cast("token", IntegerField())).filter(number__gt=0)


def no_field(tokens):
    return tokens.annotate(number=Fails(FieldError("no such field"))).filter(number=1)


def no_value(tokens):
    return tokens.annotate(number=Fails(ValueError("no such value"))).filter(number=1)


def too_large(tokens):
    return tokens.annotate(number=Fails(OverflowError("too large"))).filter(number=1)


BAD = ["no_column", "no_field", "no_value", "too_large", pytest.param("no_number", marks=on_postgresql)]


def named(settings, function):
    settings.PUSH_AUDIENCES = {"named": here(function)}


def ended_long_ago():
    """Return a broadcast whose batch is to be pruned."""
    made = finished(started(make_tokens(1, backend="other")))
    Broadcast.objects.filter(pk=made.pk).update(finished_at=F("finished_at") - timedelta(days=31))


@pytest.mark.parametrize("bad", BAD)
def test_an_audience_that_fails_when_it_is_read(settings, bad):
    """Its lane is paused; other broadcasts, receipts and pruning of the same tick go on."""
    named(settings, "everybody")
    ended_long_ago()
    rows = make_tokens(2)
    made, another = started("named", using="default"), started(title="Another", using="default")
    testing.reset()
    named(settings, bad)
    done = tick()
    assert (done.woken, done.pruned) == (2, 1)
    assert done.receipts is not None
    assert (reloaded(made).status, reloaded(another).status) == (BroadcastStatus.PAUSED, BroadcastStatus.DONE)
    assert lane_of(made).pause_reason == PauseReason.AUDIENCE
    assert copies() == {row.token: 1 for row in rows}
    assert tick().woken == 0


@alone
@pytest.mark.parametrize("bad", ["no_column", "no_value", pytest.param("no_number", marks=on_postgresql)])
def test_an_audience_that_fails_when_it_is_counted(settings, bad):
    """A scheduled broadcast is paused rather than tried at every tick, and another starts."""
    named(settings, "everybody")
    make_tokens(2)
    times = {"schedule": clock.now() + timedelta(hours=1)}
    made, another = drafted("named", **times), drafted(title="Another", **times)
    assert control.schedule(made)
    assert control.schedule(another)
    Broadcast.objects.update(scheduled_at=F("scheduled_at") - timedelta(hours=2))
    named(settings, bad)
    assert tick().started == 1
    row = reloaded(made)
    assert (row.status, row.pause_reason) == (BroadcastStatus.PAUSED, PauseReason.AUDIENCE)
    assert reloaded(another).status == BroadcastStatus.DONE
    assert tick().started == 0


def refused_by_the_server(state):
    """Return the error of a query that is well formed, and that the server has ended."""
    cause = Exception()
    cause.sqlstate = state
    error = OperationalError("canceled")
    error.__cause__ = cause
    return error


#: statement_timeout, temp_file_limit, and a plan that needs too much stack.
LIMITS = ["57014", "53400", "54001"]


def due(*broadcasts):
    """Let scheduled broadcasts be due."""
    for made in broadcasts:
        assert control.schedule(made)
    Broadcast.objects.update(scheduled_at=F("scheduled_at") - timedelta(hours=2))


def paused_alone(made, another):
    """One tick after another: the first is paused for its audience, and the other has been sent."""
    assert [tick().started, tick().started] == [1, 0]
    row = reloaded(made)
    assert (row.status, row.pause_reason) == (BroadcastStatus.PAUSED, PauseReason.AUDIENCE)
    assert reloaded(another).status == BroadcastStatus.DONE


@pytest.mark.parametrize("state", LIMITS)
def test_an_audience_that_is_too_much_for_the_server(settings, monkeypatch, state):
    """Its scheduled broadcast is paused; others of the tick start."""
    named(settings, "everybody")
    make_tokens(2)
    later = {"schedule": clock.now() + timedelta(hours=1)}
    made, another = drafted("named", **later), drafted(title="Another", **later)
    monkeypatch.setitem(
        globals(),
        "too_much",
        lambda tokens: tokens.annotate(number=Fails(refused_by_the_server(state))).filter(number=1),
    )
    named(settings, "too_much")
    due(made, another)
    paused_alone(made, another)


@pytest.mark.parametrize("state", LIMITS)
def test_versions_that_are_too_many_to_be_read(monkeypatch, state):
    """What is fixed at the start may be too much as well."""

    def fixed_moment(*args):
        raise refused_by_the_server(state)

    make_tokens(2)
    later = {"schedule": clock.now() + timedelta(hours=1)}
    made, another = drafted({"app_version_from": "2"}, **later), drafted(title="Another", **later)
    monkeypatch.setattr(audiences, "fixed_moment", fixed_moment)
    due(made, another)
    paused_alone(made, another)


def large(tokens):
    return tokens.extra(where=["(SELECT count(*) FROM generate_series(1, 100000)) > 0"])


@pytest.fixture
def little_room():
    """The server gives a statement no room for temporary files."""
    with connection.cursor() as cursor:
        cursor.execute("SET temp_file_limit = '1kB'")
        cursor.execute("SET work_mem = '64kB'")
        yield
        cursor.execute("RESET temp_file_limit")
        cursor.execute("RESET work_mem")


@alone
@pytest.mark.services
@pytest.mark.skipif(connection.vendor != "postgresql", reason="others have no such limit")
def test_an_audience_that_needs_too_much_room(settings, transactional_db, little_room):
    """The same as PostgreSQL itself says it."""
    named(settings, "everybody")
    make_tokens(2)
    later = {"schedule": clock.now() + timedelta(hours=1)}
    made, another = drafted("named", **later), drafted(title="Another", **later)
    named(settings, "large")
    due(made, another)
    paused_alone(made, another)


def slow(tokens):
    sleep = "pg_sleep(2)::text = 'x'" if connection.vendor == "postgresql" else "SLEEP(2) = 5"
    return tokens.extra(where=[sleep])


@pytest.fixture
def short_statements():
    """The server ends a statement after a tenth of a second."""
    is_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        setting = "LOCAL statement_timeout" if is_postgresql else "SESSION max_statement_time"
        cursor.execute(f"SET {setting} = {100 if is_postgresql else 0.1}")
        yield
        cursor.execute(f"SET {setting} = 0")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no such limit")
def test_an_audience_that_takes_too_long(settings, db, short_statements):
    """The server's limit on statements is no lost database: the lane is paused."""
    named(settings, "everybody")
    make_tokens(2)
    made = started("named")
    named(settings, "slow")
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.AUDIENCE
    assert "more than the database allows" in lane_of(made).pause_detail


# --- texts ----------------------------------------------------------------------------------------

_lost = []


def asks_the_database(token):
    if not _lost:
        _lost.append(token.pk)
        raise OperationalError("server closed the connection unexpectedly")
    return {"body": token.token}


@alone
def test_a_database_that_is_lost_while_a_text_is_made(monkeypatch):
    """It says nothing of a token: all are sent once the database is back, with no send spent."""
    monkeypatch.setattr(draining, "NAP", 0.001)
    _lost.clear()
    rows = make_tokens(3)
    made = started(personalize=here("asks_the_database"))
    assert drained(made).status == BroadcastStatus.DONE
    assert _lost == [rows[0].pk]
    assert copies() == {row.token: 1 for row in rows}
    assert (counted(made), batch_of(made).sends, made.progress.resent) == ({Outcome.ACCEPTED: 3}, 1, 0)
    assert not PushProblem.objects.exists()


def test_a_module_that_fails_when_it_is_imported(tmp_path, monkeypatch):
    """Whatever it raises, the lane is paused and nothing is claimed."""
    (tmp_path / "fails_at_import.py").write_text("raise RuntimeError('no settings')")
    monkeypatch.syspath_prepend(tmp_path)
    make_tokens(1)
    made = started()
    Broadcast.objects.filter(pk=made.pk).update(personalize="fails_at_import.text")
    assert drained(made).status == BroadcastStatus.PAUSED
    paused = lane_of(made)
    assert (paused.pause_reason, paused.pause_detail) == (PauseReason.MESSAGE, "RuntimeError: no settings")
    assert not batches_of(made).exists()


@pytest.mark.parametrize("translations", [["de"], "de", 5, {"de": ["Hallo"]}, {"de": None}])
def test_translations_of_a_wrong_type(translations):
    """What somebody has written into the row pauses the lane, and raises nothing."""
    make_tokens(1)
    made = started()
    made.translations = translations
    made.save()
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.MESSAGE
    assert testing.outbox == []


def malformed(rows):
    """Let tokens have a form that their backend no longer takes."""
    for row in rows:
        Tokens.filter(pk=row.pk).update(token=f"mal formed {row.pk}")


def test_malformed_tokens_in_small_batches():
    """From ten of them on, if they are a fifth, the site's settings are in doubt and rows are spared."""
    rows = make_tokens(40)
    malformed(rows)
    made = started(batch_size=5)
    assert drained(made).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.INVALID_TOKEN: 5, Outcome.REJECTED: 35}
    assert [status_of(row) for row in rows] == ["invalid"] * 5 + ["active"] * 35


def test_a_few_malformed_tokens():
    """Less than a fifth are what is to be expected, however many they are."""
    rows = make_tokens(96)
    malformed(rows[::8])
    made = started(batch_size=8)
    assert drained(made).status == BroadcastStatus.DONE
    assert counted(made) == {Outcome.ACCEPTED: 84, Outcome.INVALID_TOKEN: 12}


# --- backends -------------------------------------------------------------------------------------


def use(settings, backend):
    settings.PUSH_BACKENDS = {"default": {"BACKEND": here(backend)}, "other": LOCMEM}


class Forgetful(LocMemBackend):
    """Says nothing of the last target."""

    def read(self, request, reply):
        tickets = self.tickets(request, super().read(request, reply))
        return Parsed(tickets[:-1])


class Confused(LocMemBackend):
    """Says again of the first target what it should say of the last."""

    def read(self, request, reply):
        tickets = self.tickets(request, super().read(request, reply))
        return Parsed([*tickets[:-1], *tickets[:-1][:1]])


@pytest.mark.parametrize("backend", ["Forgetful", "Confused"])
def test_a_backend_that_leaves_a_target_out(settings, backend):
    """That token is unknown: sent up to the cap, and not for ever; each other has one verdict."""
    use(settings, backend)
    rows = make_tokens(3)
    made = started(max_sends=2)
    for _ in range(4):
        drained(made, is_stopped=lambda: len(testing.outbox) > 20)
        let_time_pass(made)
    assert reloaded(made).status == BroadcastStatus.DONE
    assert copies() == {rows[0].token: 1, rows[1].token: 1, rows[2].token: 2}
    assert (counted(made), made.progress.unknown) == ({Outcome.ACCEPTED: 2}, 1)
    assert (made.progress.told, made.progress.total) == (3, 3)


class CannotBegin(LocMemBackend):
    """Fails at once."""

    def build(self, groups):
        raise RuntimeError("no build")


class CannotEncode(LocMemBackend):
    """Fails when the first request is asked for."""

    def encode(self, message):
        raise RuntimeError("no code")


@pytest.mark.parametrize("backend", ["CannotBegin", "CannotEncode"])
def test_a_backend_that_cannot_build(settings, backend, caplog):
    """Its lane is paused, what was claimed goes back with no send spent, the other lane goes on."""
    use(settings, backend)
    rows, others = make_tokens(3), make_tokens(2, backend="other")
    made = started()
    assert drained(made).status == BroadcastStatus.PAUSED
    assert (lane_of(made).pause_reason, lane_of(made).pause_detail) == (PauseReason.MESSAGE, "RuntimeError")
    assert lane_of(made, "other").status == "done"
    batch = batch_of(made, lane=lane_of(made))
    assert (batch.status, batch.pending, batch.sends, batch.resent) == (BatchStatus.RETRY, 3, 0, 0)
    assert "it cannot be said" in caplog.text
    use_again(settings, made)
    assert copies() == {row.token: 1 for row in (*rows, *others)}
    assert made.progress.resent == 0


def use_again(settings, made):
    settings.PUSH_BACKENDS = {"default": LOCMEM, "other": LOCMEM}
    assert control.resume(reloaded(made))
    assert finished(made).status == BroadcastStatus.DONE


class BreaksOff(LocMemBackend):
    """Fails after the first request, as a generator does: for good."""

    recipients_per_request = 1

    def build(self, groups):
        yield next(super().build(groups))
        raise RuntimeError("no more")


class FailsAgain(BreaksOff):
    """Fails after the first request, as a map does: again whenever it is asked."""

    def build(self, groups):
        return map(self.made, itertools.count(), itertools.repeat(super().build(groups)))

    def made(self, number, requests):
        if number:
            raise RuntimeError("no more")
        return next(requests)


@pytest.mark.parametrize("backend", ["BreaksOff", "FailsAgain"])
def test_a_backend_that_fails_within_a_batch(settings, backend):
    """What was built is told, were it unknown; what was not is no part of that, and is sent later."""
    use(settings, backend)
    lost, *others = rows = make_tokens(4)
    unknown(lost)
    made = started(on_unknown="skip")
    assert drained(made).status == BroadcastStatus.PAUSED
    assert lane_of(made).pause_reason == PauseReason.MESSAGE
    assert states(made) == [BatchStatus.UNKNOWN, BatchStatus.RETRY]
    assert batch_of(made, status=BatchStatus.RETRY).sends == 0
    use_again(settings, made)
    assert copies() == {row.token: 1 for row in rows}
    assert (counted(made), made.progress.unknown) == ({Outcome.ACCEPTED: len(others)}, 1)


@pytest.mark.parametrize("why", ["stop", "429"])
def test_a_backend_that_fails_while_the_rest_is_gathered(settings, why):
    """Who ends in the middle of a batch asks for no more of it: nothing is unknown, all is sent."""
    use(settings, "BreaksOff")
    busy, *_ = rows = make_tokens(4)
    if why == "429":
        testing.answer(busy.token, Outcome.RATE_LIMITED, about_project=True, retry_after=1.0)
    made = started(on_unknown="skip")
    ended = drained(made, is_stopped=lambda: why == "stop" and bool(testing.outbox))
    assert ended.status == BroadcastStatus.RUNNING
    batch = batch_of(made)
    assert (batch.status, batch.pending, batch.sends) == (BatchStatus.RETRY, 3 + (why == "429"), 0)
    settings.PUSH_BACKENDS = {"default": LOCMEM, "other": LOCMEM}
    testing.answer(busy.token, Outcome.ACCEPTED)
    let_time_pass(made)
    assert finished(made).status == BroadcastStatus.DONE
    assert copies() == {row.token: 1 + (why == "429" and row is busy) for row in rows}
    assert (counted(made), made.progress.unknown) == ({Outcome.ACCEPTED: 4}, 0)
