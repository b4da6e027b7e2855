"""Engine for one machine: worker processes, each with a graph on one thread, score one part after another.

Measured on two cores, workers that do everything beat readers that feed one scorer (docs/batch.md). A worker
killed by a codec's segmentation fault or by lack of memory is replaced, and its part starts over; an input at
which a second worker dies is refused, and the part continues without it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from ibt_deploy.batch.items import Items
from ibt_deploy.batch.output import Output
from ibt_deploy.batch.plan import Job
from ibt_deploy.batch.tally import Tally
from ibt_deploy.errors import BatchError

Event = tuple[int, Tally] | str | None
"""A finished part and its counts, the reason why the run cannot continue, or None for nothing new."""
_TRIES = 2
_DEATHS_IN_PART = 20
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Setting:
    """The first message to a worker."""

    job: Job
    output: Output
    items: Items
    threads: int


@dataclass(frozen=True)
class Request:
    """A part to score; ``skipped`` as in :meth:`ibt_deploy.batch.items.Items.read`."""

    part: int
    skipped: dict[int, str]


@dataclass(frozen=True)
class Reading:
    """The worker is about to read the input at this place of its part."""

    place: int


@dataclass(frozen=True)
class Done:
    """The part is on disk."""

    tally: Tally


@dataclass(frozen=True)
class Failed:
    """The run cannot continue: a full disk, a folder that disappeared, a model that does not run."""

    message: str


@dataclass(frozen=True)
class Crashed:
    """Reading an input raised an error that no reader should raise; the worker ends."""

    error: str


Report: TypeAlias = Reading | Done | Failed | Crashed


class LocalEngine:
    """Scores parts in worker processes; a context manager that leaves no process behind.

    Parameters
    ----------
    job, output, items
        What every worker needs to know.
    workers
        Number of processes.
    """

    def __init__(self, job: Job, output: Output, items: Items, workers: int) -> None:
        self._setting = pickle.dumps(Setting(job, output, items, threads=1))
        self._workers = workers
        self._parts: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()

    def run(self, parts: Sequence[int], tick: float) -> Iterator[tuple[int, Tally] | None]:
        """Yield each finished part with its counts, and None whenever ``tick`` seconds pass without one.

        Raises
        ------
        BatchError
            The run cannot continue. Parts that are done stay done.
        """
        for part in parts:
            self._parts.put(part)
        for _ in range(min(self._workers, len(parts))):
            thread = threading.Thread(target=self._attend, daemon=True)
            self._threads.append(thread)
            thread.start()
        left = len(parts)
        while left:
            try:
                event = self._events.get(timeout=tick)
            except queue.Empty:
                yield None
                continue
            if isinstance(event, str):
                raise BatchError(event)
            if event is not None:
                left -= 1
            yield event

    def _attend(self) -> None:
        """Look after one worker until there are no more parts."""
        process: subprocess.Popen[bytes] | None = None
        try:
            while not self._over.is_set():
                try:
                    part = self._parts.get_nowait()
                except queue.Empty:
                    break
                process = self._scored(part, process)
                if process is None:
                    return
        except OSError as error:
            self._events.put(f"cannot start a worker: {error.strerror or error}")
        except Exception as error:
            self._events.put(f"internal error: {error}")
            raise
        finally:
            if process is not None:
                self._end(process)

    def _scored(self, part: int, process: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes] | None:
        """Have a part scored; return the surviving worker, or None if the run is over."""
        died_at: Counter[int] = Counter()
        skipped: dict[int, str] = {}
        while not self._over.is_set():
            process = process or self._started()
            if process is None:
                return None
            place, report = _reported(process, Request(part, skipped))
            if isinstance(report, Done):
                self._events.put((part, report.tally))
                return process
            self._end(process)
            exit_status, process = process.returncode, None
            if self._over.is_set():
                return None
            if isinstance(report, Failed):
                self._events.put(report.message)
                return None
            died_at[place] += 1
            how = report.error if isinstance(report, Crashed) else f"exit status {exit_status}"
            if place < 0 or died_at.total() > _DEATHS_IN_PART:
                if died_at.total() >= _TRIES:
                    self._events.put(f"workers keep dying in part {part} ({how}); too little memory?")
                    return None
            elif died_at[place] >= _TRIES:
                skipped[place] = f"the process that read it died {_TRIES} times ({how})"
        return None

    def _started(self) -> subprocess.Popen[bytes] | None:
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-P", "-m", "ibt_deploy.batch.worker", str(os.getpid())]
        with self._lock:
            if self._over.is_set():
                return None
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            self._running.add(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the worker died at once; the request will fail
            process.stdin.write(self._setting)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
        with self._lock:
            self._running.discard(process)


def _reported(process: subprocess.Popen[bytes], request: Request) -> tuple[int, Report | None]:
    """Index of the input that the worker read last, and its final report (None if it died)."""
    assert process.stdin is not None
    assert process.stdout is not None
    place = -1
    try:
        pickle.dump(request, process.stdin)
        process.stdin.flush()
        while True:
            report = cast("Report", pickle.load(process.stdout))
            if not isinstance(report, Reading):
                return place, report
            place = report.place
    except (EOFError, OSError, pickle.UnpicklingError, ValueError):
        return place, None
