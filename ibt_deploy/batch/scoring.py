"""One part of a run: read, preprocessed, scored and written.

Batches follow the order of the inputs of one part and never depend on timing, so that a part comes out the
same on any worker. Reading and preprocessing run in a thread beside the graph, which releases the GIL; each
of the two waits for the other only when it is two pools ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from ibt_deploy.batch.items import At, Item, Items, Skipped
from ibt_deploy.batch.output import Output
from ibt_deploy.batch.plan import Job
from ibt_deploy.batch.tally import Tally
from ibt_deploy.bundle import Bundle
from ibt_deploy.device import Device, OpenGraph
from ibt_deploy.errors import IbtError
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Pool, Predictor, pools
from ibt_deploy.scorers import scorer_of

T = TypeVar("T")
_AHEAD = 2


def pools_of(items: Iterable[Item], bundle: Bundle) -> Iterator[Pool]:
    """The inputs of one part ready to be scored, in order."""
    return pools(items, bundle, scorer_of(bundle.task).bulk)


class ReadingCrashed(Exception):
    """Reading or preprocessing an input raised an error that is not an IbtError."""


class PartScorer:
    """Scores the parts of one job; one for each worker.

    Parameters
    ----------
    job
        The run; the bundle is loaded and compared with it.
    output
        Where the parts go.
    threads
        Threads of the graph.
    """

    def __init__(self, job: Job, output: Output, threads: int = 1) -> None:
        self.job = job
        self.output = output
        self.bundle = job.load_bundle()
        device: Device = "cuda" if job.device == "cuda" else "cpu"
        graph = OpenGraph.of(self.bundle, device=device, variant=job.variant, threads=threads)
        self._predictor = Predictor(self.bundle, graph, job.operating_point)

    def part(self, items: Items, number: int, skipped: Skipped, at: At) -> Tally:
        """Read, score and write a part; returns its counts."""
        with Prefetched(_guarded(pools_of(items.read(number, skipped, at), self.bundle))) as ahead:
            return self.written(number, items.size_of(number), ahead)

    def written(self, number: int, inputs: int, prepared: Iterable[Pool]) -> Tally:
        """Score and write a part whose inputs are ready."""
        tally = Tally(inputs=inputs)
        answers: list[Prediction | Refusal] = []
        for pool in prepared:
            found = self._predictor.answers(pool)
            tally.count(found)
            answers += found
        self.output.write(number, self.job, self.bundle, answers, tally)
        return tally


def _guarded(prepared: Iterator[Pool]) -> Iterator[Pool]:
    try:
        yield from prepared
    except (IbtError, OSError):
        raise
    except Exception as error:
        raise ReadingCrashed(f"{type(error).__name__}: {error}") from error


class Prefetched(Generic[T]):
    """Iterates over values that a background thread produces a little ahead of the consumer.

    An exception of the iterable is raised where its next value would be. Leaving the block ends the thread.
    """

    def __init__(self, values: Iterable[T], ahead: int = _AHEAD) -> None:
        self._values = values
        self._queue: queue.Queue[tuple[Sequence[T], BaseException | None]] = queue.Queue(ahead)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Prefetched[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[T]:
        while True:
            values, error = self._queue.get()
            if error is not None:
                raise error
            if not values:
                return
            yield from values

    def _run(self) -> None:
        try:
            for value in self._values:
                if self._over.is_set():
                    return
                self._queue.put(([value], None))
        except BaseException as error:  # noqa: BLE001 - passed to the consumer, which raises it
            self._queue.put(([], error))
        else:
            self._queue.put(([], None))
