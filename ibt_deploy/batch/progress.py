"""How far a run is: a line that changes where a person watches, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

QUIET_SECONDS = 30.0
LARGE = 1 << 28
"""Bytes of tables from which on it is told how much was read, and the first rows are looked at before."""


class Progress:
    """Counts records and refusals and shows them on standard error.

    Parameters
    ----------
    total
        Inputs of the run.
    noun
        What an input is called, in the plural.
    """

    def __init__(self, total: int, noun: str, stream: TextIO | None = None) -> None:
        self._total, self._noun = total, noun
        self.before = 0
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._start = self._shown = time.monotonic()
        self._done = 0
        self._refused = 0
        self._width = 0

    def begin(self, before: int) -> None:
        """Start the clock; ``before`` inputs were answered by earlier runs."""
        self._start = self._shown = time.monotonic()
        self._done = self.before = before

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def add(self, inputs: int, refused: int) -> None:
        """Some more inputs are answered."""
        self._done += inputs
        self._refused += refused

    def show(self) -> None:
        """Bring the line up to date, or write one if it is time."""
        now = time.monotonic()
        if self._live:
            line = self.line()
            self._stream.write("\r" + line.ljust(self._width))
            self._stream.flush()
            self._width = len(line)
        elif now - self._shown >= QUIET_SECONDS:
            self._shown = now
            self._stream.write(f"ibt batch: {self.line()}\n")
            self._stream.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        if self._live and self._width:
            self.show()
            self._stream.write("\n")
            self._stream.flush()

    def line(self) -> str:
        """Inputs, rate, refusals and time left."""
        done = self._done - self.before
        rate = done / self.seconds if self.seconds > 0 else 0.0
        left = f", {_duration((self._total - self._done) / rate)} left" if rate > 0 else ""
        share = 100 * self._done // self._total if self._total else 100
        return (
            f"{self._done:,} of {self._total:,} {self._noun} ({share} %), {rate:,.1f}/s, "
            f"{self._refused:,} refused{left}"
        )


class BytesRead:
    """Says how much of something large was read, so that nobody takes it for stuck.

    Parameters
    ----------
    total
        Bytes; of less than 256 MiB nothing is said.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._done = 0
        self._stream = stream or sys.stderr
        self._every = 0.5 if self._stream.isatty() else QUIET_SECONDS
        self._shown = time.monotonic()
        self._is_line_open = False

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        now = time.monotonic()
        if self._total < LARGE or now - self._shown < self._every:
            return
        self._shown = now
        share = min(100 * self._done // self._total, 100)
        line = f"reading the tables: {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB ({share} %)"
        self._is_line_open = self._stream.isatty()
        self._stream.write(f"\r{line}" if self._is_line_open else f"ibt batch: {line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        if self._is_line_open:
            self._stream.write("\n")
            self._stream.flush()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
