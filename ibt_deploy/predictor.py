"""A bundle made ready on a device.

>>> from ibt_deploy import load
>>> predictor = load("arrhythmia")  # doctest: +SKIP
>>> predictor.predict("record.hea").findings  # doctest: +SKIP

``predict`` answers or raises; ``predict_many`` answers or refuses every input, in order, and loses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, overload

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import Device
from ibt_deploy.errors import InputError, UnsupportedFormat
from ibt_deploy.files import AnyFile, File
from ibt_deploy.inputs import items_of, refusal, wrong_task
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.readers import read
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.types import Floats

if TYPE_CHECKING:
    from ibt_deploy.explain import Explanation

Input: TypeAlias = AnyFile | Recording | Stay
Item: TypeAlias = Recording | Stay | Refusal
BATCH_SIZE = 32
_BATCHES_AT_ONCE = {"arrhythmia": 1, "sepsis": 8}
"""Stays are gathered to put those of like length together; recordings are answered as soon as may be."""


class _Prepared(Protocol):
    @property
    def size(self) -> int: ...


class _Scorer(Protocol):
    def prepare(self, item: Any, /) -> Any: ...

    def score(self, prepared: Sequence[Any], batch_size: int, /) -> Sequence[Prediction]: ...


class Predictor:
    """Scores recordings or stays; made by :func:`load`.

    Attributes
    ----------
    bundle
        The model and its contract.
    device
        ``"cpu"`` or ``"cuda"``: the device really used.
    variant
        Precision of the graph.
    model
        How answers name the model.
    """

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        self.bundle = bundle
        self.device = graph.device
        self.variant = graph.variant
        self.model = graph.model(bundle, bundle.operating_point(operating_point).name)
        self._scorer = _scorer(bundle, graph, operating_point)

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
            When an input is refused; :meth:`predict_many` goes on after a refusal.
        """
        if isinstance(inputs, str | File | Recording | Stay):
            items = _read(inputs)
            if len(items) != 1:
                what = "recordings" if items and isinstance(items[0], Recording) else "stays"
                raise UnsupportedFormat(
                    f"holds {len(items)} {what}; give [path] or use predict_many",
                    where=str(inputs),
                    code="several",
                )
            return self._scorer.score([self._prepare(items[0])], BATCH_SIZE)[0]
        prepared = [self._prepare(item) for given in inputs for item in _read(given)]
        return list(self._scorer.score(prepared, BATCH_SIZE))

    def predict_many(
        self, inputs: Iterable[Input | Refusal], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | Refusal]:
        """Score any number of inputs, in order, with bounded memory.

        Parameters
        ----------
        inputs
            Paths, Files, Recordings or Stays, taken as the answers are consumed. A Refusal keeps its place,
            so that the items of :func:`ibt_deploy.inputs.items_of` can be passed on as they come.
        batch_size
            Windows of an ECG, or stays, that go through the graph together.

        Yields
        ------
        A prediction or a refusal for every recording or stay; one refusal for a file that cannot be read.
        """
        return (answer for _, answer in self.predict_pairs(inputs, batch_size))

    def predict_pairs(
        self, inputs: Iterable[Input | Refusal], batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Item, Prediction | Refusal]]:
        """As :meth:`predict_many`, with each answer beside the recording or stay that it is for."""
        enough = batch_size * _BATCHES_AT_ONCE[self.bundle.task]
        pool: list[tuple[Item, _Prepared | Refusal]] = []
        work = 0
        for given in inputs:
            for item in (given,) if isinstance(given, Item) else items_of(given):
                prepared = self._prepared_or_refused(item)
                pool.append((item, prepared))
                work += 0 if isinstance(prepared, Refusal) else prepared.size
                if work >= enough or len(pool) >= enough:
                    yield from self._answers(pool, batch_size)
                    pool, work = [], 0
        yield from self._answers(pool, batch_size)

    def explain(self, item: Recording | Stay, findings: Sequence[str] | None = None) -> list[Explanation]:
        """Which seconds and leads moved findings, or which hours and variables moved the highest risk.

        Parameters
        ----------
        item
            What was scored.
        findings
            Abbreviations of classes, as :class:`ibt_deploy.predictions.Finding` has them. Where left out: the
            positive findings or, without any, the class nearest to its threshold. Without meaning for a stay.

        Raises
        ------
        InputError
            When the input is refused.
        ValueError
            For a class that does not exist.
        """
        from ibt_deploy.explain import explained_ecg, explained_stay
        from ibt_deploy.scorers.ecg import EcgScorer, PreparedEcg
        from ibt_deploy.scorers.stay import CheckedStay, StayScorer

        prepared, scorer = self._prepare(item), self._scorer
        if isinstance(scorer, StayScorer):
            assert isinstance(prepared, CheckedStay)
            return [explained_stay(scorer, prepared, self.bundle.calibration, BATCH_SIZE)]
        assert isinstance(scorer, EcgScorer)
        assert isinstance(prepared, PreparedEcg)
        names = [c.abbreviation for c in self.bundle.classes]
        chosen = findings
        if chosen is None:
            answer = scorer.score([prepared], BATCH_SIZE)[0].findings
            nearest = max((f for f in answer if f.evaluable), key=lambda f: f.probability / f.threshold)
            chosen = [f.abbreviation for f in answer if f.positive] or [nearest.abbreviation]
        if unknown := [name for name in chosen if name not in names]:
            raise ValueError(f"no finding {unknown[0]!r}; there is {', '.join(names)}")
        outputs = {name: names.index(name) for name in chosen}
        return explained_ecg(scorer, prepared, self.bundle.calibration, outputs, BATCH_SIZE)

    def _prepared_or_refused(self, item: Item) -> _Prepared | Refusal:
        if isinstance(item, Refusal):
            return item
        try:
            return self._prepare(item)
        except InputError as error:
            return refusal(item.source, error)

    def _answers(
        self, pool: list[tuple[Item, _Prepared | Refusal]], batch_size: int
    ) -> Iterator[tuple[Item, Prediction | Refusal]]:
        scored = iter(self._scorer.score([p for _, p in pool if not isinstance(p, Refusal)], batch_size))
        for item, entry in pool:
            yield item, entry if isinstance(entry, Refusal) else next(scored)

    def _prepare(self, item: Recording | Stay) -> _Prepared:
        if not isinstance(item, Recording if self.bundle.task == "arrhythmia" else Stay):
            raise wrong_task(item, self.bundle)
        try:
            prepared: _Prepared = self._scorer.prepare(item)
        except InputError as error:
            raise error.at(_place(item)) from None
        return prepared


def load(
    task_or_directory: str | Path,
    *,
    device: Device = "auto",
    variant: str | None = None,
    threads: int | None = None,
    operating_point: str | None = None,
) -> Predictor:
    """Load a bundle and make it ready.

    Parameters
    ----------
    task_or_directory
        ``"arrhythmia"`` or ``"sepsis"`` for the bundle in the package, or a bundle's directory.
    device
        ``"auto"`` uses CUDA where it works, ``"cuda"`` fails where it does not.
    variant
        Precision, e.g. ``"int8"``; the bundle's default where left out.
    threads
        CPU threads of one operator; see :func:`ibt_deploy.device.open_session`.
    operating_point
        Name of a set of thresholds; the bundle's default where left out.

    Raises
    ------
    BundleError, DeviceError
    """
    bundle = load_bundle(task_or_directory)
    bundle.operating_point(operating_point)
    graph = OpenGraph.of(bundle, device=device, variant=variant, threads=threads)
    return Predictor(bundle, graph, operating_point)


def _scorer(bundle: Bundle, graph: OpenGraph, operating_point: str | None) -> _Scorer:
    if bundle.task == "arrhythmia":
        from ibt_deploy.scorers.ecg import EcgScorer

        return EcgScorer(bundle, graph, operating_point)
    from ibt_deploy.scorers.stay import StayScorer

    return StayScorer(bundle, graph, operating_point)


def _read(given: Input) -> Sequence[Recording | Stay]:
    return [given] if isinstance(given, Recording | Stay) else read(given)


def _place(item: Recording | Stay) -> str:
    if isinstance(item, Recording) or item.patient_id in item.source:
        return item.source
    return f"{item.source}, patient {item.patient_id}"
