"""Progress of long work on standard error: a bar on a terminal, an occasional line in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
WORTH_SHOWING = 20
LIVE_SECONDS, QUIET_SECONDS = 0.5, 30.0
LARGE = 1 << 28
"""Bytes of input from which progress is shown during reading."""


def shown(things: Sequence[T], what: str, *, beside_output: bool = True) -> Iterator[T]:
    """The same things, with a progress bar if there are many and standard error is a terminal.

    Nothing is shown while answers go to standard output (``beside_output``) and that is a terminal too: they
    would break up the bar.
    """
    torn = beside_output and sys.stdout.isatty()
    if len(things) < WORTH_SHOWING or not sys.stderr.isatty() or torn:
        yield from things
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(things, description=what, console=Console(stderr=True), transient=True)


class Tracker:
    """A progress bar on a terminal; elsewhere a line every 30 seconds.

    Parameters
    ----------
    total
        Total amount of work.
    described
        Describes the amount done so far.
    stream
        Default: standard error.
    """

    def __init__(self, total: int, described: Callable[[int], str], stream: TextIO | None = None) -> None:
        self._total, self._described = total, described
        self._stream = stream or sys.stderr
        self._is_live = self._stream.isatty()
        self._shown = monotonic()
        self._bar: Progress | None = None
        self._done = 0

    def show(self, done: int) -> None:
        """Update the bar, or write a line, if it is time."""
        self._done = done
        now = monotonic()
        if now - self._shown < (LIVE_SECONDS if self._is_live else QUIET_SECONDS):
            return
        self._shown = now
        if self._is_live:
            self._draw()
        else:
            self._stream.write(f"ibt batch: {self._described(done)}\n")
            self._stream.flush()

    def end(self) -> None:
        """Leave the bar as it is, and end its line."""
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
                console=Console(file=self._stream), auto_refresh=False,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._bar.add_task(self._described(self._done), total=self._total)
            self._bar.start()
        (task,) = self._bar.task_ids
        self._bar.update(task, completed=self._done, description=self._described(self._done), refresh=True)


class BytesRead:
    """Counts the bytes of tables during reading, and shows the count.

    Parameters
    ----------
    total
        Number of bytes; nothing is shown for less than 256 MiB.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._done = 0
        self._tracker = Tracker(total, self._line, stream)

    def __call__(self, count: int) -> None:
        """Count more bytes."""
        self._done += count
        if self._total >= LARGE:
            self._tracker.show(self._done)

    def end(self) -> None:
        """Leave the bar as it is, and end its line."""
        self._tracker.end()

    def _line(self, done: int) -> str:
        share = min(100 * done // self._total, 100)
        return f"reading the tables: {done / 1e9:.1f} of {self._total / 1e9:.1f} GB ({share} %)"


class Answered:
    """Counts the inputs of a run that are answered, and shows rate, refusals and time left.

    Parameters
    ----------
    total
        Number of inputs of the run.
    noun
        Plural noun for the inputs.
    before
        Number of inputs that earlier runs have answered.
    """

    def __init__(self, total: int, noun: str, before: int, stream: TextIO | None = None) -> None:
        self.before = before
        self._total, self._noun = total, noun
        self._done, self._refused = before, 0
        self._start = monotonic()
        self._tracker = Tracker(total, self._line, stream)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._start

    def add(self, inputs: int, refused: int) -> None:
        """Count answered inputs, and the refusals among their answers."""
        self._done += inputs
        self._refused += refused

    def show(self) -> None:
        """Show the counts if it is time."""
        self._tracker.show(self._done)

    def end(self) -> None:
        """Leave the bar as it is, and end its line."""
        self._tracker.end()

    def _line(self, done: int) -> str:
        new = done - self.before
        rate = new / self.seconds if self.seconds > 0 else 0.0
        left = f", {_duration((self._total - done) / rate)} left" if rate > 0 else ""
        share = 100 * done // self._total if self._total else 100
        return (
            f"{done:,} of {self._total:,} {self._noun} ({share} %), {rate:,.1f}/s, "
            f"{self._refused:,} refused{left}"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
