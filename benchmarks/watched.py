"""Run a command and watch the memory of it and of all its children."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PERIOD = 0.5


@dataclass(frozen=True)
class Watched:
    """What a command took.

    Attributes
    ----------
    seconds
        From start to exit.
    peak_mb
        Most memory at once, of the command and its children; shared pages count once (Linux: PSS).
    halves_mb
        The same for the first and for the second half of the time.
    status, output
        Exit status; standard output and standard error.
    """

    seconds: float
    peak_mb: float
    halves_mb: tuple[float, float]
    status: int
    output: str


def watched(command: Sequence[str]) -> Watched:
    """Run ``command`` to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PERIOD):
            samples.append(sum(_pss_kb(pid) for pid in _family(process.pid)) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    over.set()
    thread.join()
    samples = samples or [0.0]
    middle = len(samples) // 2
    halves = max(samples[: middle or 1]), max(samples[middle:])
    return Watched(time.perf_counter() - start, max(samples), halves, process.returncode, output)


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for listing in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in listing.read_text().split()]
            except OSError:
                continue
    return found


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
