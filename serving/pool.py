"""Threads that compute answers while the event loop goes on serving, behind a queue that has an end.

A thread takes the request that has waited longest and, up to the batch size, others of its kind that wait
behind it. Nobody waits for a batch to fill: what is alone is computed alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.problems import Problem

SMOOTHING = 0.1
CLOSE_SECONDS = 2.0


class Work(Protocol):
    """What can be computed: alone, or together with others of the same ``kind``."""

    @property
    def kind(self) -> object:
        """Work of an equal kind may share a batch; None for work that shares none."""

    @property
    def over(self) -> threading.Event:
        """Set as soon as nobody waits for the answer any more."""

    def run(self, works: Sequence[Any], /) -> Sequence[bytes | Exception]:
        """An answer or an exception for each of ``works``, of which this is the first."""


@dataclass(eq=False)
class _Waiting:
    work: Work
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bytes]


class Pool:
    """A bounded queue and the threads that empty it.

    Parameters
    ----------
    threads, batch, queue
        As in :class:`serving.settings.Settings`; none of them 0.
    """

    def __init__(self, threads: int, batch: int, queue: int) -> None:
        self._queue: deque[_Waiting] = deque()
        self._batch, self._longest = batch, queue
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
        """Requests in the queue."""
        return len(self._queue)

    def admit(self) -> None:
        """Raise a Problem where the queue is full, so that a body need not be read in vain."""
        if len(self._queue) >= self._longest:
            raise Problem(
                "queue_full",
                "Too many requests are waiting; try again.",
                headers={"Retry-After": str(self._retry_after())},
            )

    async def answer(self, work: Work, seconds: float) -> bytes:
        """Compute ``work`` on a thread.

        Raises
        ------
        Problem
            The queue is full, or there is no answer after ``seconds``.
        Exception
            What the work raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        entry = _Waiting(work, loop, future)
        with self._changed:
            self.admit()
            self._queue.append(entry)
            self._changed.notify()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise Problem(
                "too_slow", f"There was no answer within {seconds:g} s.", headers={"Retry-After": "1"}
            ) from None
        finally:
            work.over.set()
            del entry, future  # they hold an error, and its traceback this frame

    def close(self) -> None:
        """Finish what is in the queue and end the threads.

        Requests have been waited for by then: a thread that still computes was given up as too slow, and is
        left to end with the process.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        given_up = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(given_up - time.monotonic(), 0))

    def _retry_after(self) -> int:
        return max(1, math.ceil(len(self._queue) * self._seconds / len(self._threads)))

    def _work(self) -> None:
        while group := self._next_group():
            began = time.monotonic()
            answers: Sequence[bytes | Exception]
            try:
                answers = group[0].work.run([entry.work for entry in group])
            except Exception as error:  # noqa: BLE001 - the thread must live on; the request gets the error
                answers = [error] * len(group)
            _settle_soon(group, answers)
            each = (time.monotonic() - began) / len(group)
            with self._changed:
                self._seconds += SMOOTHING * (each - self._seconds)
                self.busy -= 1
            del group, answers  # while nothing is asked for, nothing is held

    def _next_group(self) -> list[_Waiting]:
        """What to compute next; empty at the end."""
        with self._changed:
            while True:
                while self._queue and self._queue[0].work.over.is_set():
                    self._queue.popleft()
                if self._queue:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            group = [self._queue.popleft()]
            kind = group[0].work.kind
            while (
                kind is not None
                and self._queue
                and len(group) < self._batch
                and self._queue[0].work.kind == kind
            ):
                entry = self._queue.popleft()
                if not entry.work.over.is_set():
                    group.append(entry)
            self.busy += 1
            return group


def _settle_soon(group: Sequence[_Waiting], answers: Sequence[bytes | Exception]) -> None:
    """Hand over the answers of a group; a loop is woken once for all that are its own."""
    for loop in {entry.loop for entry in group}:
        own = [(e.future, answer) for e, answer in zip(group, answers, strict=True) if e.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever asked
            loop.call_soon_threadsafe(_settle, own)


def _settle(answered: Sequence[tuple[asyncio.Future[bytes], bytes | Exception]]) -> None:
    for future, answer in answered:
        if future.done():
            continue
        if isinstance(answer, StopIteration):  # a future takes none
            future.set_exception(RuntimeError("the work stopped an iteration"))
        elif isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
