"""A bundle ready to score on a device: the only path from files to answers.

>>> from ibt_deploy import load
>>> predictor = load("arrhythmia")  # doctest: +SKIP
>>> predictor.predict("record.hea").findings  # doctest: +SKIP

``predict`` answers or raises; ``predict_many`` answers or refuses every input, in order, and loses none. The
terminal, batch runs and the service take the same steps: :func:`ibt_deploy.readers.items_of` reads,
:func:`pools` prepares and :meth:`Predictor.answers` scores. They differ only in their
:class:`ibt_deploy.scorers.Batching`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import Device, OpenGraph
from ibt_deploy.errors import InputError, UnsupportedFormat
from ibt_deploy.files import AnyFile, File
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.readers import Recognised, items_of, read
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers import Batching, Prepared, scorer_of
from ibt_deploy.types import PARTS, Floats

if TYPE_CHECKING:
    from ibt_deploy.explain import Explanation

Input: TypeAlias = AnyFile | Recognised | Recording | Stay
Item: TypeAlias = Recording | Stay | Refusal
BATCH_SIZE = 32
Pool: TypeAlias = "list[Prepared | Refusal]"


def pools(items: Iterable[Item], bundle: Bundle, batching: Batching) -> Iterator[Pool]:
    """Prepare the items, refusing some, and group them in order into pools for one call of the scorer."""
    pool: Pool = []
    work = 0
    for item in items:
        entry: Prepared | Refusal
        if isinstance(item, Refusal):
            entry = item
        else:
            try:
                entry = prepared(item, bundle)
                work += entry.size
            except InputError as error:
                entry = Refusal.of(item.source, error)
        pool.append(entry)
        if work >= batching.work or len(pool) >= batching.inputs:
            yield _ready(pool, bundle)
            pool, work = [], 0
    if pool:
        yield _ready(pool, bundle)


def prepared(item: Recording | Stay, bundle: Bundle) -> Prepared:
    """The item as its scorer takes it; raises InputError if it is refused."""
    scorer = scorer_of(bundle.task)
    if not isinstance(item, scorer.item):
        found = "an ECG" if isinstance(item, Recording) else "an ICU stay"
        message = f"this is {found}, and the model {bundle.name} is for {bundle.task}"
        raise UnsupportedFormat(message, where=item.source, code="wrong_task")
    try:
        entry: Prepared = scorer.prepare(item, bundle)
    except InputError as error:
        raise error.at(item.source) from None
    return entry


def _ready(pool: Pool, bundle: Bundle) -> Pool:
    bare = [entry for entry in pool if not isinstance(entry, Refusal)]
    ready = iter(scorer_of(bundle.task).ready(bare, bundle))
    return [entry if isinstance(entry, Refusal) else next(ready) for entry in pool]


class Predictor:
    """Scores recordings or stays; made by :func:`load`.

    Attributes
    ----------
    bundle
        The model and its contract.
    device
        ``"cpu"`` or ``"cuda"``: the device actually used.
    variant
        Precision of the graph.
    model
        Description of the model in answers.
    """

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        self.bundle = bundle
        self.device = graph.device
        self.variant = graph.variant
        self.model = graph.model(bundle, bundle.operating_point(operating_point).name)
        self._scorer = scorer_of(bundle.task)(bundle, graph, operating_point)

    @property
    def thresholds(self) -> Floats:
        """Thresholds of the operating point on calibrated probabilities, shape ``(outputs,)``."""
        return self.bundle.operating_point(self.model.operating_point).thresholds

    @overload
    def predict(self, inputs: Input) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, inputs: Sequence[Input]) -> list[Prediction]: ...

    def predict(self, inputs: Input | Sequence[Input]) -> Prediction | list[Prediction]:
        """Score one input, or a list of them.

        Parameters
        ----------
        inputs
            A path, File, Recording or Stay, or a list of these. A file in a list may hold several stays;
            their predictions follow each other.

        Returns
        -------
        One prediction for one input, a list in order for a list.

        Raises
        ------
        InputError
            When an input is refused; :meth:`predict_many` continues after a refusal.
        """
        if isinstance(inputs, str | File | Recognised | Recording | Stay):
            items = _read(inputs)
            if len(items) != 1:
                what = "recordings" if items and isinstance(items[0], Recording) else "stays"
                raise UnsupportedFormat(
                    f"holds {len(items)} {what}; give [path] or use predict_many",
                    where=str(inputs),
                    code="several",
                )
            return self._scorer.score([prepared(items[0], self.bundle)], BATCH_SIZE)[0]
        found = [prepared(item, self.bundle) for given in inputs for item in _read(given)]
        return list(self._scorer.score(found, BATCH_SIZE))

    def predict_many(
        self, inputs: Iterable[Input | Refusal], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | Refusal]:
        """Score any number of inputs, in order, with bounded memory.

        Parameters
        ----------
        inputs
            Paths, Files, Recordings or Stays, consumed as the answers are. A Refusal keeps its place, so that
            items of :func:`ibt_deploy.readers.items_of` can be passed on unchanged.
        batch_size
            Number of ECG windows, or of stays, per batch of the graph.

        Yields
        ------
        A prediction or a refusal for every recording or stay; one refusal for a file that cannot be read.
        """
        batching = self._scorer.soon(batch_size)
        for pool in pools(_items(inputs), self.bundle, batching):
            yield from self.answers(pool, batching)

    def predict_pairs(
        self, inputs: Iterable[Input | Refusal], batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Item, Prediction | Refusal]]:
        """Like :meth:`predict_many`, with each answer paired with its recording or stay."""
        waiting: deque[Item] = deque()

        def noted() -> Iterator[Item]:
            for item in _items(inputs):
                waiting.append(item)
                yield item

        for answer in self.predict_many(noted(), batch_size):
            yield waiting.popleft(), answer

    def answers(self, pool: Pool, batching: Batching | None = None) -> list[Prediction | Refusal]:
        """The answers for a pool of :func:`pools`, in order; batched in bulk by default."""
        batching = batching or self._scorer.bulk
        answers: list[Prediction | Refusal | None] = [e if isinstance(e, Refusal) else None for e in pool]
        smaller = 0
        for largest, batch_size in batching.together:
            chosen = [
                (place, entry)
                for place, entry in enumerate(pool)
                if not isinstance(entry, Refusal) and smaller < entry.size <= largest
            ]
            scored = self._scorer.score([entry for _, entry in chosen], batch_size) if chosen else ()
            for (place, _), answer in zip(chosen, scored, strict=True):
                answers[place] = answer
            smaller = largest
        return [answer for answer in answers if answer is not None]

    def explain(self, item: Recording | Stay, findings: Sequence[str] | None = None) -> list[Explanation]:
        """Which seconds and leads moved findings, or which hours and variables moved the highest risk.

        Parameters
        ----------
        item
            The recording or stay that was scored.
        findings
            Abbreviations of classes, as in :class:`ibt_deploy.predictions.Finding`. Default: the positive
            findings or, without any, the class nearest to its threshold. Meaningless for a stay.

        Raises
        ------
        InputError
            When the input is refused.
        ValueError
            For a class that does not exist.
        """
        explained = PARTS[self.bundle.task].explained.load()
        found: list[Explanation] = explained(self._scorer, prepared(item, self.bundle), findings)
        return found


def load(
    task_or_directory: str | Path,
    *,
    device: Device = "auto",
    variant: str | None = None,
    threads: int | None = None,
    operating_point: str | None = None,
) -> Predictor:
    """Load a bundle and prepare it for scoring.

    Parameters
    ----------
    task_or_directory
        ``"arrhythmia"`` or ``"sepsis"`` for the bundle in the package, or a bundle's directory.
    device
        ``"auto"`` uses CUDA where it works, ``"cuda"`` fails where it does not.
    variant
        Precision, e.g. ``"int8"``; default: that of the bundle.
    threads
        CPU threads of one operator; see :func:`ibt_deploy.device.open_session`.
    operating_point
        Name of a set of thresholds; default: that of the bundle.

    Raises
    ------
    BundleError, DeviceError
    """
    bundle = load_bundle(task_or_directory)
    bundle.operating_point(operating_point)
    graph = OpenGraph.of(bundle, device=device, variant=variant, threads=threads)
    return Predictor(bundle, graph, operating_point)


def _read(given: Input) -> Sequence[Recording | Stay]:
    return [given] if isinstance(given, Recording | Stay) else read(given)


def _items(inputs: Iterable[Input | Refusal]) -> Iterator[Item]:
    for given in inputs:
        yield from (given,) if isinstance(given, Item) else items_of(given)
