"""One part of a run: read, preprocessed, scored and written.

Batches are made of the inputs of one part in their order and never depend on time, so that a part comes out
the same whoever scores it. Reading and preprocessing go on in a thread while the graph runs, which leaves
Python's lock alone; the two wait for each other only when one of them is two pools ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from ibt_deploy.batch.items import At, Items, Skipped
from ibt_deploy.batch.job import Job
from ibt_deploy.batch.output import Output
from ibt_deploy.batch.tally import Tally
from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import IbtError, InputError
from ibt_deploy.inputs import refusal, wrong_task
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.preprocess.ecg import EcgPreprocessing, StandardEcg, examined, windows
from ibt_deploy.preprocess.stay import StayPreprocessing
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers.ecg import EcgScorer, PreparedEcg
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.scorers.stay import CheckedStay, PreparedStay, StayScorer, features_of
from ibt_deploy.types import Float32s
from ibt_deploy.variables import MAX_HOURS

Prepared: TypeAlias = PreparedEcg | PreparedStay | Refusal
Pool: TypeAlias = list[Prepared]
POOL_WINDOWS = 128
POOL_STAYS, POOL_HOURS = 512, 32_768
"""What goes to the scorer at once: the more, the less a batch of stays is padding."""
T = TypeVar("T")
BATCH = 32
STAYS_AT_ONCE = ((64, 32), (128, 16), (MAX_HOURS, 4))
"""Longest stay, and how many of such go through the graph together: attention takes their hours squared."""
_AHEAD = 2


def pools(items: Iterable[Recording | Stay | Refusal], bundle: Bundle) -> Iterator[Pool]:
    """The inputs ready to be scored, in order, in pools that are worth a call of the scorer.

    Parameters
    ----------
    items
        Of one part.
    bundle
        The model.
    """
    constants = bundle.preprocessing
    if isinstance(constants, EcgPreprocessing):
        return _recordings(items, bundle, constants)
    return _stays(items, bundle, constants)


def _recordings(
    items: Iterable[Recording | Stay | Refusal], bundle: Bundle, constants: EcgPreprocessing
) -> Iterator[Pool]:
    pool: Pool = []
    work = 0
    for item in items:
        prepared: Prepared
        if isinstance(item, Recording):
            try:
                standard = examined(item)
                prepared = _without_signals(item, standard, windows(standard, constants))
                work += prepared.size
            except InputError as error:
                prepared = refusal(item.source, error.at(item.source))
        else:
            prepared = item if isinstance(item, Refusal) else refusal(item.source, wrong_task(item, bundle))
        pool.append(prepared)
        if work >= POOL_WINDOWS or len(pool) >= 2 * POOL_WINDOWS:
            yield pool
            pool, work = [], 0
    if pool:
        yield pool


def _stays(
    items: Iterable[Recording | Stay | Refusal], bundle: Bundle, constants: StayPreprocessing
) -> Iterator[Pool]:
    gathered: list[CheckedStay | Refusal] = []
    hours = 0
    for item in items:
        if isinstance(item, Stay):
            try:
                checked = CheckedStay(item, *checked_stay(item))
                gathered.append(checked)
                hours += len(checked.values)
            except InputError as error:
                gathered.append(refusal(item.source, error))
        else:
            gathered.append(
                item if isinstance(item, Refusal) else refusal(item.source, wrong_task(item, bundle))
            )
        if hours >= POOL_HOURS or len(gathered) >= POOL_STAYS:
            yield _featurised(gathered, constants)
            gathered, hours = [], 0
    if gathered:
        yield _featurised(gathered, constants)


def _featurised(gathered: Sequence[CheckedStay | Refusal], constants: StayPreprocessing) -> Pool:
    features = iter(features_of([entry for entry in gathered if isinstance(entry, CheckedStay)], constants))
    return [
        entry
        if isinstance(entry, Refusal)
        else PreparedStay(entry.stay, entry.values, entry.warnings, next(features))
        for entry in gathered
    ]


def _without_signals(recording: Recording, standard: StandardEcg, ready: Float32s) -> PreparedEcg:
    """A prepared recording whose signals have kept their shape alone; they weigh seven times its windows."""
    return PreparedEcg(
        replace(recording, signal=np.broadcast_to(0.0, recording.signal.shape)),
        replace(standard, signal=np.broadcast_to(0.0, standard.signal.shape)),
        ready,
    )


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
        Of the graph.
    """

    def __init__(self, job: Job, output: Output, threads: int = 1) -> None:
        self.job = job
        self.output = output
        self.bundle = job.load_bundle()
        graph = OpenGraph.of(
            self.bundle,
            device="cuda" if job.device == "cuda" else "cpu",
            variant=job.variant,
            threads=threads,
        )
        scorer = EcgScorer if job.task == "arrhythmia" else StayScorer
        self._scorer: EcgScorer | StayScorer = scorer(self.bundle, graph, job.operating_point)

    def part(self, items: Items, number: int, skipped: Skipped, at: At) -> Tally:
        """Read, score and write a part; returns its counts."""
        with Prefetched(_guarded(pools(items.read(number, skipped, at), self.bundle))) as ahead:
            return self.written(number, items.size_of(number), ahead)

    def written(self, number: int, inputs: int, prepared: Iterable[Pool]) -> Tally:
        """Score and write a part whose inputs are ready."""
        tally = Tally(inputs=inputs)
        answers: list[Prediction | Refusal] = []
        for pool in prepared:
            found = self._answers(pool)
            tally.count(found)
            answers += found
        self.output.write(number, self.job, self.bundle, answers, tally)
        return tally

    def _answers(self, pool: Pool) -> list[Prediction | Refusal]:
        if isinstance(self._scorer, EcgScorer):
            ready = [entry for entry in pool if isinstance(entry, PreparedEcg)]
            scored: Iterator[Prediction] = iter(self._scorer.score(ready, BATCH))
            return [entry if isinstance(entry, Refusal) else next(scored) for entry in pool]
        answers: list[Prediction | Refusal | None] = [e if isinstance(e, Refusal) else None for e in pool]
        shortest = 0
        for longest, batch in STAYS_AT_ONCE:
            chosen = [
                (place, entry)
                for place, entry in enumerate(pool)
                if isinstance(entry, PreparedStay) and shortest < len(entry.features) <= longest
            ]
            found = self._scorer.score([entry for _, entry in chosen], batch)
            for (place, _), answer in zip(chosen, found, strict=True):
                answers[place] = answer
            shortest = longest
        return [answer for answer in answers if answer is not None]


def _guarded(prepared: Iterator[Pool]) -> Iterator[Pool]:
    try:
        yield from prepared
    except (IbtError, OSError):
        raise
    except Exception as error:
        raise ReadingCrashed(f"{type(error).__name__}: {error}") from error


class Prefetched(Generic[T]):
    """What an iterable yields, made by a thread of its own a little ahead of whoever asks.

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
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks, who raises it
            self._queue.put(([], error))
        else:
            self._queue.put(([], None))
