"""A broadcast's progress while it runs: a bar on a terminal, lines elsewhere.

Showing it never disturbs the sending: neither a database nor a terminal that is away does.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseTrouble

from django_push.management.output import Quiet
from django_push.management.stopping import write_error
from django_push.management.waiting import Wait, paused, waits
from django_push.management.words import counted, span
from django_push.models import Broadcast, LaneProgress, LaneStatus, Progress

if TYPE_CHECKING:
    from typing_extensions import Self

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text
except ImportError:
    HAS_RICH = False
else:
    HAS_RICH = True

#: How often it is read, unless that takes more than this share of the time. Seconds.
EVERY = 1.0
SHARE = 0.05
#: How often a line is written, and when nothing has changed. Seconds.
LINES, SAME_LINES = 5.0, 30.0
#: The rate is the mean of so long. Seconds.
WINDOW = 20.0
#: After so long without a verdict it is said what is waited for. Seconds.
STALLED = 2.0

STOPPING = "Stopping: what is in flight is finished, then it is paused. Once more: stop at once."


class Meter:
    """Tells a rate from what was done when."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.moved_at = float("-inf")

    def add(self, now: float, done: int) -> None:
        if not self._seen or done != self._seen[-1][1]:
            self.moved_at = now
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Tokens per second; None if that cannot be told yet."""
        if len(self._seen) < 2:
            return None
        (first, before), (last, done) = self._seen[0], self._seen[-1]
        return (done - before) / (last - first) if last > first else None

    def remaining(self, count: int) -> float | None:
        """Return the seconds until so many more are done; None if that cannot be told."""
        return count / self.rate if self.rate else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is shown."""

    name: str
    done: int
    total: int
    rate: float | None
    remaining: float | None
    counts: str
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def speed(self) -> str:
        """Return ``, 540/s, 16 s left``, as far as it is known."""
        if self.rate is None:
            return ""
        left = "" if self.remaining is None else f", {span(self.remaining)} left"
        return f", {self.rate:,.0f}/s{left}" if self.rate >= 10 else f", {self.rate:,.1f}/s{left}"

    @property
    def figures(self) -> str:
        """Return ``1,200 of 10,000 (12 %)``."""
        return f"{self.done:,} of {self.total:,} ({int(self.share * 100)} %)"


class Screen:
    """Where a picture is shown; this one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, picture: Picture) -> None:
        """Show it, or do not: it is called once a second."""

    def stopping(self) -> None:
        """Say that it was asked to stop. Called by a signal."""


class Watcher:
    """Reads a broadcast's progress now and then, and has it shown. Call it as often as you like."""

    def __init__(self, row: Broadcast, screen: Screen) -> None:
        self.row = row
        self.screen = screen
        self.meter = Meter()
        self.lanes: defaultdict[str, Meter] = defaultdict(Meter)
        self._next = float("-inf")

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self.look()

    def look(self) -> None:
        """Read it now: how it ended."""
        now = time.monotonic()
        try:
            picture = self._read(now)
        except DatabaseTrouble:  # the drainer knows what to do about it
            self._next = now + EVERY
            return
        took = time.monotonic() - now
        self._next = now + max(EVERY, took / SHARE)
        self.screen.show(picture)

    def _read(self, now: float) -> Picture:
        progress = self.row.progress
        self.meter.add(now, progress.told)
        running = [lane for lane in progress.lanes if lane.status == LaneStatus.RUNNING]
        still = [lane for lane in running if self._stands_still(lane, now)]
        found = [wait for lane in still for wait in waits(self.row, lane)]
        return Picture(
            name=f"broadcast {self.row.pk}",
            done=progress.told,
            total=progress.total,
            rate=self.meter.rate,
            remaining=self._remaining(running, found),
            counts=", ".join(filter(None, (counted(progress.counts), *_rest(progress)))),
            notes=(*paused(progress), *(wait.why for wait in found)),
        )

    def _stands_still(self, lane: LaneProgress, now: float) -> bool:
        meter = self.lanes[lane.backend]
        meter.add(now, lane.told)
        return now - meter.moved_at >= STALLED

    def _remaining(self, running: Sequence[LaneProgress], found: Sequence[Wait]) -> float | None:
        """Return the seconds until all is done that is not paused: those of the longest wait at least."""
        count = sum(lane.total - lane.told for lane in running)
        left = self.meter.remaining(count) if count else None
        return None if left is None else max([left, *(wait.seconds for wait in found)])


def _rest(progress: Progress) -> Iterator[str]:
    for count, what in ((progress.unknown, "unknown"), (progress.skipped, "skipped")):
        if count:
            yield f"{count:,} {what}"


def screen_for(out: Any, *, is_silent: bool = False) -> Screen:
    """Return the best that the output can show: a bar needs a terminal, and the package rich."""
    if is_silent:
        return Screen()
    stream = getattr(out, "_out", out)
    is_capable = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Bar(stream) if is_capable and HAS_RICH else Lines(stream)


class Lines(Screen):
    """A line every few seconds, for a log or a terminal without rich."""

    def __init__(self, stream: Any, say: Callable[[str], object] = write_error) -> None:
        self.stream = Quiet(stream)
        self.say = say
        self._at = float("-inf")
        self._last: tuple[Any, ...] = ()

    def show(self, picture: Picture) -> None:
        now = time.monotonic()
        what = (picture.done, picture.counts, len(picture.notes))
        if now - self._at < (LINES if what != self._last else SAME_LINES):
            return
        self._at, self._last = now, what
        told = f"{picture.name}: {picture.figures}{picture.speed}"
        line = "; ".join(filter(None, (told, picture.counts, *picture.notes)))
        self.stream.write(f"{line}\n")
        self.stream.flush()

    def stopping(self) -> None:
        self.say(STOPPING)


class Bar(Screen):
    """A bar that is drawn anew, with what is waited for below it. Drawn by a thread of rich's."""

    def __init__(self, stream: Any) -> None:
        # A stream for all that rich does with one, though by name it is none.
        self.console = Console(file=Quiet(stream), highlight=False)  # type: ignore[arg-type]
        self.live = Live(self, console=self.console, refresh_per_second=4, redirect_stdout=False)
        self.picture: Picture | None = None
        self.is_stopping = False

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def show(self, picture: Picture) -> None:
        self.picture = picture

    def stopping(self) -> None:
        self.is_stopping = True

    def __rich__(self) -> Any:
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines()), *self._bar())

    def _lines(self) -> list[str]:
        if self.picture is None:
            return ["…"]
        picture = self.picture
        stopping = (STOPPING,) if self.is_stopping else ()
        return [*self._head(picture), *filter(None, (picture.counts,)), *picture.notes, *stopping]

    def _head(self, picture: Picture) -> list[str]:
        """Return the figures, in two lines where one would be cut."""
        figures = f"{picture.name}: {picture.figures}"
        if len(figures) + len(picture.speed) <= self.console.width:
            return [f"{figures}{picture.speed}"]
        return [figures, *filter(None, (picture.speed.removeprefix(", "),))]

    def _bar(self) -> Iterator[Any]:
        if self.picture is not None:
            yield ProgressBar(total=max(1, self.picture.total), completed=self.picture.done, width=60)
