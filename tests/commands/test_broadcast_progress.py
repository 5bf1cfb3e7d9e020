"""The progress of a running broadcast: rates, lines, the bar, and why it does not go on."""

import io
from datetime import timedelta

import pytest
from django.core.management.base import OutputWrapper
from django.db import InterfaceError, OperationalError

from django_push import broadcasts
from django_push.broadcasts import claims, control, rates
from django_push.broadcasts.rows import batches, lanes, moment
from django_push.management import progress, words
from django_push.management.progress import Lines, Meter, Picture, Watcher, screen_for
from django_push.management.waiting import paused, waiting
from django_push.models import BatchStatus, PauseReason
from tests.commands.conftest import without_colors


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def row(shop):
    row = broadcasts.broadcast("everyone", title="Hi", start=False)
    broadcasts.begin(row, workers=0)
    return row


def picture(done=1200, **more):
    fields = {"name": "broadcast 7", "done": done, "total": 10_000, "rate": 540.0, "remaining": 16.0}
    return Picture(**{**fields, "counts": "1,200 accepted", **more})


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(Terminal):
    """A terminal, or a pipe, whose reader has left."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


# --- rates ----------------------------------------------------------------------------------------


def test_a_rate_is_that_of_the_last_seconds():
    """The start does not count for ever."""
    meter = Meter()
    assert (meter.rate, meter.remaining(10)) == (None, None)
    for second in range(100):
        meter.add(float(second), 10 * second if second < 50 else 500 + 100 * (second - 50))
    assert meter.rate == 100
    assert meter.remaining(1000) == 10


def test_a_rate_of_nothing():
    """Tells no remaining time."""
    meter = Meter()
    meter.add(0.0, 5)
    meter.add(10.0, 5)
    assert (meter.rate, meter.remaining(10), meter.moved_at) == (0, None, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "59 min"), (3600, "1 h"), (11100, "3 h 5 min"),
        (172800, "2 d"), (183600, "2 d 3 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_spans_of_time(seconds, text):
    """In the words of a person."""
    assert words.span(seconds) == text


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_every_few_seconds(clock):
    """All in one line; less often while nothing changes."""
    out = io.StringIO()
    lines = Lines(out)
    with lines:
        for second in range(60):
            clock.now = 1000.0 + second
            lines.show(picture(1200 + min(second, 10), notes=("a waits 58 s",)))
    told = out.getvalue().splitlines()
    assert told[0] == "broadcast 7: 1,200 of 10,000 (12 %), 540/s, 16 s left; 1,200 accepted; a waits 58 s"
    assert len(told) == 4  # at 0, 5, 10 and 40


@pytest.mark.parametrize(
    ("rate", "remaining", "text"),
    [(None, None, ""), (0.0, None, ", 0.0/s"), (2.25, 8.0, ", 2.2/s, 8 s left"), (1234.0, None, ", 1,234/s")],
)
def test_a_speed(rate, remaining, text):
    """As far as it is known."""
    assert picture(rate=rate, remaining=remaining).speed == text


def test_a_share_is_at_most_all():
    """An estimate may have been low; no tokens are no share."""
    assert (picture(20_000).share, picture(total=0).share) == (1, 0)


@pytest.mark.parametrize("kind", [Lines, screen_for])
def test_whoever_read_it_is_gone(clock, kind):
    """That stops no broadcast."""
    screen = kind(Gone())
    with screen:
        screen.show(picture())
        clock.now += 100
        screen.show(picture(2000))


def test_a_silent_screen():
    """Shows nothing."""
    out = io.StringIO()
    with screen_for(out, is_silent=True) as screen:
        screen.show(picture())
        screen.stopping()
    assert out.getvalue() == ""


@pytest.mark.parametrize(("term", "has_rich"), [("dumb", True), ("xterm", False)])
def test_a_terminal_that_can_do_no_bar(monkeypatch, term, has_rich):
    """Or the lack of rich, gets lines."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(progress, "HAS_RICH", has_rich)
    assert type(screen_for(Terminal())) is Lines


# --- the bar --------------------------------------------------------------------------------------


def test_the_bar(monkeypatch):
    """Figures, outcomes, what is waited for, and that it was asked to stop; no markup of others' words."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with screen_for(OutputWrapper(out)) as screen:
        screen.live.refresh()
        screen.show(picture(notes=("a waits 58 s: [bold]the provider asked for it",)))
        screen.stopping()
        screen.live.refresh()
    shown = without_colors(out.getvalue())
    for text in (
        "broadcast 7: 1,200 of 10,000 (12 %), 540/s, 16 s left",
        "1,200 accepted",
        "a waits 58 s: [bold]the provider",
        "Stopping: what is in flight is finished",
        "━━━━",
    ):
        assert text in shown


def test_a_narrow_bar(monkeypatch):
    """Has the rate and the remaining time on a line of their own, where nothing cuts them."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    with screen_for(OutputWrapper(out)) as screen:
        screen.show(picture())
        screen.live.refresh()
    shown = without_colors(out.getvalue())
    assert "broadcast 7: 1,200 of 10,000 (12 %)" in shown
    assert "540/s, 16 s left" in shown
    screen.show(picture(rate=None))
    assert len(screen._lines()) == 2


# --- what is read ---------------------------------------------------------------------------------


class Seen:
    def __init__(self):
        self.pictures = []

    def show(self, picture):
        self.pictures.append(picture)


def test_it_is_read_once_a_second(row, clock, django_assert_num_queries):
    """In one query, however often it is called."""
    seen = Seen()
    watcher = Watcher(row, seen)
    with django_assert_num_queries(1):
        watcher()
        watcher()
    clock.now += 1
    with django_assert_num_queries(1):
        watcher()
    assert [(p.done, p.total, p.rate) for p in seen.pictures] == [(0, 8, None), (0, 8, 0)]


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_is_not_its_business(row, clock, monkeypatch, error):
    """The replies that are under way must not be lost for it."""

    def away(self, now):
        raise error

    seen = Seen()
    watcher = Watcher(row, seen)
    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "_read", away)
        watcher()
    assert seen.pictures == []
    clock.now += 1
    watcher()
    assert len(seen.pictures) == 1


def test_what_it_waits_for_is_told_when_it_stands_still(row, clock):
    """Not before: that costs queries."""
    control.pause_lane(row, "b", PauseReason.CREDENTIALS, "401")
    rates.block("a", 58)
    seen = Seen()
    watcher = Watcher(row, seen)
    for _ in range(3):
        watcher()
        clock.now += 1.5
    lines = "b is paused: the provider refused our key (401)", "a waits 58 s: the provider asked for it"
    assert [p.notes for p in seen.pictures] == [lines[:1], lines[:1], lines]


def seen_after(row, clock, act, seconds=3):
    """Return what is shown when something happens each second."""
    seen = Seen()
    watcher = Watcher(row, seen)
    for _ in range(seconds + 1):
        watcher.look()
        act()
        clock.now += 1
    return seen.pictures[-1]


def done_each_second(row, alias, count=1):
    """Let tokens of a lane get their verdict."""
    lane = lanes().get(broadcast=row, backend=alias)

    def act():
        claim = claims.claim(row, lane.pk, count, 60)
        batches().filter(pk=claim.batch).update(status=BatchStatus.DONE, pending=0, accepted=count)

    return act


def test_the_remaining_time_leaves_out_what_is_paused(row, clock):
    """Its tokens are not sent by waiting."""
    control.pause_lane(row, "b", PauseReason.CREDENTIALS, "401")
    picture = seen_after(row, clock, done_each_second(row, "a"))
    assert (picture.rate, picture.done, picture.remaining) == (1, 3, 2)


def test_the_remaining_time_is_that_of_the_longest_wait(row, clock):
    """At least: one lane waits while another goes on."""
    rates.block("b", 58)
    picture = seen_after(row, clock, done_each_second(row, "a"))
    assert picture.remaining == pytest.approx(58, abs=1)
    assert picture.notes == ("b waits 58 s: the provider asked for it",)


@pytest.mark.parametrize(("seconds", "rate", "remaining"), [(5, 0.2, 58), (30, 0, None)])
def test_the_remaining_time_while_all_wait(row, clock, seconds, rate, remaining):
    """Is that of the wait at least, and none once it has lasted: how fast it will be then is not known."""
    for alias in ("a", "b"):
        rates.block(alias, 58.4)
    act, more = done_each_second(row, "a"), [1]
    picture = seen_after(row, clock, lambda: more and (more.pop(), act()), seconds)
    assert (picture.rate, len(picture.notes)) == (rate, 2)
    assert picture.remaining == (remaining and pytest.approx(remaining, abs=1))


@pytest.mark.parametrize(("count", "remaining"), [(1, 4), (2, 60)])
def test_a_lease_that_is_waited_for(row, clock, count, remaining):
    """Counts where nothing else of the lane is left to be sent meanwhile."""
    claims.claim(row, lanes().get(backend="b").pk, count + 1, 60)
    picture = seen_after(row, clock, done_each_second(row, "a"), seconds=4)
    assert picture.remaining == pytest.approx(remaining, abs=1)


def test_no_remaining_time_at_the_end(row, clock):
    """Nothing is left."""
    broadcasts.cancel(row)
    assert seen_after(row, clock, lambda: None).remaining is None


# --- why it does not go on ------------------------------------------------------------------------


def told(row):
    return [*paused(row.progress), *waiting(row, row.progress)]


def test_nothing_to_wait_for(row):
    """Nothing is said."""
    assert told(row) == []


def test_a_lane_that_is_left_alone(row):
    """As the provider did not answer."""
    lanes().filter(backend="a").update(hold_until=moment() + timedelta(seconds=40.4))
    assert told(row) == ["a is left alone for 40 s: the provider did not answer"]


def test_a_lane_that_is_not_left_alone_any_more(row):
    """A time that is over is no reason."""
    lanes().filter(backend="a").update(hold_until=moment() - timedelta(seconds=1))
    rates.block("a", -5)
    assert told(row) == []


def test_batches_of_others(row):
    """With the time when the first lease ends."""
    lane = lanes().get(backend="a")
    claims.claim(row, lane.pk, 2, 40.4)
    assert told(row) == ["a: 1 batch is out; if a worker was lost, its lease ends in 40 s"]
    claims.claim(row, lane.pk, 2, 90.4)
    assert told(row) == ["a: 2 batches are out; if a worker was lost, the first lease ends in 40 s"]


def test_batches_that_are_tried_again(row):
    """With the time when."""
    lane = lanes().get(backend="a")
    claims.claim(row, lane.pk, 2, 40)
    batches().update(status=BatchStatus.RETRY, due_at=moment() + timedelta(seconds=12.4))
    assert told(row) == ["a: 2 tokens will be tried again in 12 s"]
    batches().update(due_at=moment())
    assert told(row) == []
