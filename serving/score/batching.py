"""Threads that compute answers behind a bounded queue while the event loop keeps serving.

A thread takes the job that has waited longest and, up to the batch size, others of its kind waiting behind
it. No job waits for a batch to fill: a single job is computed alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ibt_deploy.errors import InputError
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Item, Predictor
from serving.http import telemetry
from serving.http.problems import Problem

SMOOTHING = 0.1
CLOSE_SECONDS = 2.0
AT_ONCE = 8
"""Windows or stays per graph run; more gain nothing on a CPU, and their memory stays in its arena."""
Answers = Sequence[Prediction | Refusal]
T = TypeVar("T")


class Job(Protocol):
    """A computation, alone or together with others of the same ``kind``."""

    @property
    def kind(self) -> object:
        """Jobs of equal kind may share a batch; None for a job that shares none."""

    @property
    def over(self) -> threading.Event:
        """Set as soon as the client no longer waits for the answer."""

    def run(self, jobs: Sequence[Any], /) -> Sequence[bytes | Exception]:
        """An answer or an exception for each of ``jobs``, of which this is the first."""


class ToScore(NamedTuple):
    """The items to score, and the function that turns their answers into a body."""

    items: Sequence[Item]
    write: Callable[[Answers], bytes]


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """Recordings or stays to be scored.

    Attributes
    ----------
    predictor
        Predictor of the task and operating point.
    read
        Returns what to score; raises InputError or a Problem.
    over
        Set once the client no longer waits.
    """

    predictor: Predictor
    read: Callable[[], ToScore]
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> Predictor:
        """Jobs with the same predictor may share a batch."""
        return self.predictor

    def run(self, jobs: Sequence[ScoreJob]) -> list[bytes | Exception]:
        """An answer or an exception for each of ``jobs``; none once no client waits for any of them."""
        began = time.perf_counter()
        read = [_or_error(job.read) for job in jobs]
        reading = time.perf_counter() - began

        def items() -> Iterator[Item]:
            for given in read:
                for item in given.items if isinstance(given, ToScore) else ():
                    if all(job.over.is_set() for job in jobs):
                        raise Problem("too_slow", "The client no longer waits for the answer.")
                    yield item

        found = list(self.predictor.predict_many(items(), AT_ONCE))
        scoring = time.perf_counter() - began - reading
        telemetry.observe_batch(self.predictor.bundle.task, len(jobs), reading, scoring, found)
        scored = iter(found)
        answers: list[bytes | Exception] = []
        for given in read:
            if isinstance(given, Exception):
                answers.append(given)
                continue
            own = [next(scored) for _ in given.items]
            answers.append(_or_error(partial(given.write, own)))
        return answers


@dataclass(frozen=True, eq=False)
class SingleJob:
    """A call that shares no batch."""

    call: Callable[[], bytes]
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> None:
        """Always None: the job is computed alone."""

    def run(self, jobs: Sequence[SingleJob]) -> list[bytes | Exception]:
        """An answer or an exception for each of ``jobs``."""
        return [_or_error(job.call) for job in jobs]


def _or_error(call: Callable[[], T]) -> T | Exception:
    try:
        return call()
    except (InputError, Problem) as error:
        # the traceback, and those of chained errors, hold what was read
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - one request's failure must not be another's
        return error


@dataclass(eq=False)
class _Waiting:
    job: Job
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bytes]


class Pool:
    """A bounded queue and the threads that empty it.

    Parameters
    ----------
    threads, batch, queue
        As in :class:`serving.settings.Settings`; none of them 0.
    on_length
        Called with the length of the queue whenever it changes.
    """

    def __init__(
        self, threads: int, batch: int, queue: int, on_length: Callable[[int], None] = lambda _: None
    ) -> None:
        self._queue: deque[_Waiting] = deque()
        self._batch, self._longest, self._on_length = batch, queue, on_length
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.02
        self.busy = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"score-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        return len(self._queue)

    def admit(self) -> None:
        """Raise a Problem if the queue is full, so that no body is read needlessly."""
        if len(self._queue) >= self._longest:
            raise Problem(
                "queue_full",
                "Too many requests are waiting; try again.",
                headers={"Retry-After": str(self._retry_after())},
            )

    async def answer(self, job: Job, seconds: float, receive: Receive | None = None) -> bytes:
        """Compute ``job`` on a thread.

        Parameters
        ----------
        job
            The job to compute.
        seconds
            Longest wait.
        receive
            ``receive`` of the request, whose body has been read: if the client leaves, its job is dropped.

        Raises
        ------
        Problem
            The queue is full, or there is no answer after ``seconds``.
        starlette.requests.ClientDisconnect
            The client has disconnected.
        Exception
            Any error of the job.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        entry = _Waiting(job, loop, future)
        with self._changed:
            self.admit()
            self._queue.append(entry)
            self._on_length(len(self._queue))
            self._changed.notify()
        gone = None if receive is None else loop.create_task(_disconnected(receive))
        try:
            either: set[asyncio.Future[Any]] = {future} if gone is None else {future, gone}
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if future in done:
                return future.result()
            if done:
                raise ClientDisconnect
            raise Problem(
                "too_slow", f"There was no answer within {seconds:g} s.", headers={"Retry-After": "1"}
            )
        finally:
            job.over.set()
            self._withdraw(entry)
            if gone is not None:
                gone.cancel()
            del entry, future  # they hold an error whose traceback holds this frame

    def close(self) -> None:
        """Finish what is in the queue and end the threads.

        By then no client waits for a thread that is still computing: its request was given up as too slow.
        The thread ends with the process.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        given_up = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(given_up - time.monotonic(), 0))

    def _retry_after(self) -> int:
        return max(1, math.ceil(len(self._queue) * self._seconds / len(self._threads)))

    def _withdraw(self, entry: _Waiting) -> None:
        """Remove a job without a waiting client from the queue, if it is still there."""
        if entry.future.done() and not entry.future.cancelled():
            return
        entry.future.cancel()
        with self._changed, contextlib.suppress(ValueError):
            self._queue.remove(entry)
            self._on_length(len(self._queue))

    def _work(self) -> None:
        while group := self._next_group():
            began = time.monotonic()
            answers: Sequence[bytes | Exception]
            try:
                answers = group[0].job.run([entry.job for entry in group])
            except Exception as error:  # noqa: BLE001 - the thread must live on; the request gets the error
                answers = [error] * len(group)
            _settle_soon(group, answers)
            each = (time.monotonic() - began) / len(group)
            with self._changed:
                self._seconds += SMOOTHING * (each - self._seconds)
                self.busy -= 1
            del group, answers  # an idle thread holds nothing

    def _next_group(self) -> list[_Waiting]:
        """The jobs to compute next; empty at the end."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            group = [self._queue.popleft()]
            kind = group[0].job.kind
            while (
                kind is not None
                and self._queue
                and len(group) < self._batch
                and self._queue[0].job.kind == kind
            ):
                group.append(self._queue.popleft())
            self._on_length(len(self._queue))
            self.busy += 1
            return group


async def _disconnected(receive: Receive) -> None:
    """Return once the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _settle_soon(group: Sequence[_Waiting], answers: Sequence[bytes | Exception]) -> None:
    """Deliver the answers of a group; each event loop is woken once for all its own."""
    for loop in {entry.loop for entry in group}:
        own = [(e.future, answer) for e, answer in zip(group, answers, strict=True) if e.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its clients with it
            loop.call_soon_threadsafe(_settle, own)


def _settle(answered: Sequence[tuple[asyncio.Future[bytes], bytes | Exception]]) -> None:
    for future, answer in answered:
        if future.done():
            continue
        if isinstance(answer, StopIteration):  # a future does not accept it
            future.set_exception(RuntimeError("the job stopped an iteration"))
        elif isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
