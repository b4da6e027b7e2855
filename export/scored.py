"""A prepared data set run through the product: the bundle's own preprocessing, graph and calibration.

Features are not made here. Scoring makes them, so that every published figure is one of the shipped model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.bundle import Calibration
from ibt_deploy.calibration import FittedCalibration, calibration_entry, calibration_line, reliability
from ibt_deploy.decisions import combined, decisions
from ibt_deploy.errors import DataError, InputError
from ibt_deploy.metrics.bootstrap import Interval, Statistic, difference, intervals, ratio
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.predictions import ArrhythmiaPrediction, Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.predictor import prepared as prepared_item
from ibt_deploy.preprocess.ecg import SAMPLING_RATE
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers.ecg import EcgScorer, PreparedEcg
from ibt_deploy.scorers.stay import CheckedStay, StayScorer
from ibt_deploy.types import Bools, Float32s, Floats, Ints, Strings
from ibt_deploy.vocabulary import CLASSES, LEADS, N_CLASSES
from training.data.cache import Cache, open_cache
from training.data.split import PARTS, Part
from training.models import Encoder
from training.models.students import EcgTransformer
from training.tasks import TASKS, open_cohort
from training.tasks.base import Cohort
from training.tasks.ecg import EcgCohort
from training.tasks.stay import StayCohort

MICROVOLTS = 1000.0


@dataclass(frozen=True, eq=False)
class EcgPart:
    """Recordings of one part.

    Attributes
    ----------
    ids
        Record names.
    signals
        Int16 microvolts ``(12, samples)`` at 200 Hz.
    labels, known
        Shape ``(n, 26)``: positive, and whether that is known at all.
    patients
        Shape ``(n,)``: index of the patient, from 0.
    groups
        Sub-group of each recording, shape ``(n,)``, by what divides them (``source``, ``sex``, ``age``).
    """

    ids: list[str]
    signals: list[npt.NDArray[np.int16]]
    labels: Bools
    known: Bools
    patients: Ints
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    def items(self) -> Iterator[Recording]:
        """The recordings as scoring reads them."""
        for name, signal in zip(self.ids, self.signals, strict=True):
            yield Recording(signal / MICROVOLTS, float(SAMPLING_RATE), LEADS, name, name, "cache")

    def select(self, chosen: Bools) -> EcgPart:
        """Those recordings where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return EcgPart(
            [self.ids[i] for i in rows],
            [self.signals[i] for i in rows],
            self.labels[chosen],
            self.known[chosen],
            np.unique(self.patients[chosen], return_inverse=True)[1],
            {name: values[chosen] for name, values in self.groups.items()},
        )

    def entry(self) -> dict[str, Any]:
        """Counts, whole and by sub-group, as a bundle keeps them."""
        labelled = self.labels & self.known
        sources = self.groups["source"]
        return {
            "recordings": len(self),
            "patients": len(np.unique(self.patients)),
            "groups": {
                name: {value: int((values == value).sum()) for value in sorted(set(values.tolist()))}
                for name, values in self.groups.items()
            },
            "positives_by_source": {
                source: {
                    c.abbreviation: int(n)
                    for c, n in zip(CLASSES, labelled[sources == source].sum(axis=0), strict=True)
                    if n
                }
                for source in sorted(set(sources.tolist()))
            },
        }


@dataclass(frozen=True, eq=False)
class StayPart:
    """Stays of one part, one for each patient.

    Attributes
    ----------
    ids
        Patients.
    values
        Raw rows of each stay, ``(hours, 40)`` float32.
    labels
        ``SepsisLabel`` of all rows end to end.
    groups
        Sub-group of each stay, shape ``(n,)`` (``hospital``, ``sex``, ``age``, ``unit``).
    """

    ids: list[str]
    values: list[npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int8]
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> Ints:
        """Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]`` of ``labels``; shape ``(n + 1,)``."""
        return np.concatenate(([0], np.cumsum([len(v) for v in self.values]))).astype(np.int64)

    @property
    def septic(self) -> Bools:
        """Whether each stay has a positive row, shape ``(n,)``."""
        return np.array([(self.labels[a:b] > 0).any() for a, b in pairwise(self.offsets)], bool)

    @property
    def labelled(self) -> bool:
        """Whether the labels are known; a data set prepared without labels has -1 everywhere."""
        return bool((self.labels >= 0).all())

    def items(self) -> Iterator[Stay]:
        """The stays as scoring reads them."""
        for name, values in zip(self.ids, self.values, strict=True):
            yield Stay(values.astype(np.float64), name, name, "cache")

    def select(self, chosen: Bools) -> StayPart:
        """Those stays where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return StayPart(
            [self.ids[i] for i in rows],
            [self.values[i] for i in rows],
            self.labels[np.repeat(chosen, np.diff(self.offsets))],
            {name: values[chosen] for name, values in self.groups.items()},
        )

    def entry(self) -> dict[str, Any]:
        """Counts, whole and by sub-group, as a bundle keeps them."""
        septic = self.septic
        return {
            "stays": len(self),
            "septic": int(septic.sum()),
            "hours": len(self.labels),
            "positive_hours": int((self.labels > 0).sum()),
            "septic_from_first_hour": int((self.labels[self.offsets[:-1]] > 0).sum()),
            "groups": {
                name: {
                    value: {
                        "stays": int((values == value).sum()),
                        "septic": int(septic[values == value].sum()),
                    }
                    for value in sorted(set(values.tolist()))
                }
                for name, values in self.groups.items()
            },
        }


AnyPart: TypeAlias = EcgPart | StayPart


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, divided.

    Attributes
    ----------
    task
        ``arrhythmia`` or ``sepsis``.
    parts
        Training, validation and test part.
    cache_sha256, split_sha256
        Of the files that it comes from.
    counts
        What preparation counted and refused.
    """

    task: str
    parts: Mapping[Part, AnyPart]
    cache_sha256: str
    split_sha256: str
    counts: dict[str, Any]


def open_data(folder: Path, split: Path | None = None) -> Data:
    """The data set of a cache, divided by ``split`` or else by the split that belongs to it.

    Raises
    ------
    DataError
        When cache or split are missing, altered, or do not belong together.
    """
    cohort = open_cohort(folder, split)
    assert cohort.split_sha256 is not None
    return Data(
        task=cohort.cache.task,
        parts={part: _part(cohort, cohort.items(part)) for part in PARTS},
        cache_sha256=cohort.cache.sha256,
        split_sha256=cohort.split_sha256,
        counts=_counts(cohort.cache),
    )


@dataclass(frozen=True, eq=False)
class External:
    """A whole data set that nothing was trained or tuned on.

    Attributes
    ----------
    name
        Its name in figures and card.
    part
        All of it.
    cache_sha256, counts
        As for :class:`Data`.
    """

    name: str
    part: AnyPart
    cache_sha256: str
    counts: dict[str, Any]


def open_external(name: str, folder: Path, data: Data) -> External:
    """An external test set, without labels only for stays, whose alarms are then counted.

    Raises
    ------
    DataError
        It is of the other task, shares a record with ``data``, or holds ECGs without labels.
    """
    cache = open_cache(folder)
    if cache.task != data.task:
        raise DataError(f"{folder}: holds {cache.task} data, the student is for {data.task}")
    if cache.task == "arrhythmia" and not cache.labelled:
        raise DataError(f"{folder}: was prepared without labels; figures on ECGs need them")
    cohort = TASKS[cache.task].cohort(cache, None)
    used = {i for part in data.parts.values() for i in part.ids}
    shared = sorted(used.intersection(cohort.ids))
    if shared:
        raise DataError(
            f"{folder}: {len(shared)} records ({', '.join(shared[:3])}) are also in the training cache, "
            "so it is not an external test"
        )
    return External(name, _part(cohort, np.arange(len(cohort))), cache.sha256, _counts(cache))


def _counts(cache: Cache) -> dict[str, Any]:
    refused = Counter(entry["code"] for entry in cache.manifest["refused"])
    return {"records": cache.manifest["records"], **cache.manifest["counts"], "refused": dict(refused)}


def _part(cohort: Cohort, items: Ints) -> AnyPart:
    """Some items of a cohort as the product sees them."""
    ids, truth, groups = [cohort.ids[i] for i in items], cohort.truth(items), cohort.groups(items)
    if isinstance(cohort, EcgCohort):
        signals = cohort.signals(None)
        return EcgPart(ids, [signals[i] for i in items], truth.labels, truth.known, truth.patients, groups)
    assert isinstance(cohort, StayCohort)
    values = [cohort.values[cohort.offsets[i] : cohort.offsets[i + 1]] for i in items]
    return StayPart(ids, values, truth.labels, groups | {"unit": cohort.units(items)})


SomePart = TypeVar("SomePart", EcgPart, StayPart)
Prepared = TypeVar("Prepared", PreparedEcg, CheckedStay)

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class PreparedPart(Generic[SomePart, Prepared]):
    """What scoring accepts of a part, ready for the graph, and how often it refused for which reason."""

    part: SomePart
    prepared: list[Prepared]
    refused: dict[str, int]


def prepared_ecgs(scorer: EcgScorer, part: EcgPart) -> PreparedPart[EcgPart, PreparedEcg]:
    """The windows of every recording that is not refused."""
    prepared, accepted, refused = _prepared(scorer, part)
    return PreparedPart(part.select(accepted), prepared, refused)


def prepared_stays(scorer: StayScorer, part: StayPart) -> PreparedPart[StayPart, CheckedStay]:
    """Every stay that is not refused, cleaned."""
    prepared, accepted, refused = _prepared(scorer, part)
    return PreparedPart(part.select(accepted), prepared, refused)


def _prepared(
    scorer: EcgScorer | StayScorer, part: EcgPart | StayPart
) -> tuple[list[Any], Bools, dict[str, int]]:
    prepared, accepted, refused = [], [], Counter[str]()
    for item in part.items():
        try:
            prepared.append(prepared_item(item, scorer.bundle))
            accepted.append(True)
        except InputError as error:
            refused[error.code] += 1
            accepted.append(False)
    return prepared, np.array(accepted, dtype=bool), dict(refused)


@dataclass(frozen=True, eq=False)
class Answers(Generic[SomePart]):
    """Answers of a model about a part.

    Attributes
    ----------
    part
        What was answered; refused inputs are no longer in it.
    probabilities
        Calibrated, shape ``(n, 26)``, or ``(rows,)`` for stays.
    positive
        Decisions at the default operating point, same shape.
    refused
        How often scoring refused, by reason.
    """

    part: SomePart
    probabilities: Floats
    positive: Bools
    refused: dict[str, int]


def ecg_answers(predictor: Predictor, part: EcgPart) -> Answers[EcgPart]:
    """What the shipped model says about recordings."""
    found, accepted, refused = _predictions(predictor, part.items())
    answers = [p for p in found if isinstance(p, ArrhythmiaPrediction)]
    n_classes = part.labels.shape[1]
    return Answers(
        part.select(accepted),
        np.array([p.probabilities for p in answers]).reshape(-1, n_classes),
        np.array([p.positive for p in answers], dtype=bool).reshape(-1, n_classes),
        refused,
    )


def stay_answers(predictor: Predictor, part: StayPart) -> Answers[StayPart]:
    """What the shipped model says about every hour of stays."""
    found, accepted, refused = _predictions(predictor, part.items())
    answers = [p for p in found if isinstance(p, SepsisPrediction)]
    empty = np.empty(0)
    return Answers(
        part.select(accepted),
        np.concatenate([empty, *(p.risk for p in answers)]),
        np.concatenate([empty, *(p.alarms for p in answers)]).astype(bool),
        refused,
    )


def _predictions(predictor: Predictor, items: Iterator[Any]) -> tuple[list[Any], Bools, dict[str, int]]:
    answers = list(predictor.predict_many(items, BATCH_SIZE))
    accepted = np.array([not isinstance(a, Refusal) for a in answers], dtype=bool)
    refused = Counter(a.code for a in answers if isinstance(a, Refusal))
    return answers, accepted, dict(refused)


def over_windows(probabilities: Floats, counts: list[int]) -> Floats:
    """Mean over the windows of each recording: ``(windows, c)`` to ``(n, c)``."""
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    means: Floats = np.add.reduceat(probabilities, starts, axis=0) / np.array(counts)[:, None]
    return means


def window_probabilities(logits: Float32s, counts: list[int], calibration: Calibration) -> Floats:
    """Calibrated probabilities ``(n, 26)`` of recordings whose windows' logits follow each other.

    Windows combine as in scoring: :func:`ibt_deploy.decisions.combined`.
    """
    per_window = np.split(calibration.probability(logits), np.cumsum(counts)[:-1])
    return np.stack([combined(windows) for windows in per_window])


@torch.no_grad()
def network_ecg_logits(network: Encoder, windows: Float32s) -> Float32s:
    """Logits ``(windows, 26)`` straight from a torch network; NaN marks what was not recorded.

    A network without a mask sees every window cut to what was recorded.
    """
    network.eval()
    found: Float32s = np.empty((len(windows), N_CLASSES), dtype=np.float32)
    if isinstance(network, EcgTransformer):
        for i in range(0, len(windows), BATCH_SIZE):
            found[i : i + BATCH_SIZE] = network.masked(torch.from_numpy(windows[i : i + BATCH_SIZE]))[0]
        return found
    recorded = (~np.isnan(windows[:, 0])).sum(axis=1)
    for length in np.unique(recorded):
        alike = np.flatnonzero(recorded == length)
        for i in range(0, len(alike), BATCH_SIZE):
            chosen = alike[i : i + BATCH_SIZE]
            found[chosen] = network(torch.from_numpy(windows[chosen, :, :length])).numpy()
    return found


@torch.no_grad()
def network_stay_logits(network: Encoder, stays: list[Float32s]) -> list[Float32s]:
    """Logits ``(hours,)`` of every stay's features ``(hours, F)`` straight from a torch network."""
    network.eval()
    found: list[Float32s] = [np.empty(0, dtype=np.float32)] * len(stays)
    by_length = sorted(range(len(stays)), key=lambda i: len(stays[i]))
    for start in range(0, len(by_length), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        hours = len(stays[chosen[-1]])
        rows = torch.zeros(len(chosen), hours, stays[chosen[0]].shape[1])
        for k, i in enumerate(chosen):
            rows[k, : len(stays[i])] = torch.from_numpy(stays[i])
        logits = network(rows).numpy()
        for k, i in enumerate(chosen):
            found[i] = logits[k, : len(stays[i])].copy()
    return found


DECIMALS = 6


def number(value: float) -> float | None:
    """The value as JSON can hold it: rounded, and None where it is undefined."""
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def figure(interval: Interval) -> dict[str, Any]:
    """A value with its 95 % interval; None where undefined."""
    low, high = number(interval.low), number(interval.high)
    return {
        "value": number(interval.value),
        "interval": None if low is None or high is None else [low, high],
    }


def figures(statistics: Mapping[str, Statistic], n_patients: int, draws: int) -> dict[str, dict[str, Any]]:
    """Each statistic with its percentile interval over ``draws`` draws of patients."""
    return {name: figure(found) for name, found in intervals(statistics, n_patients, draws=draws).items()}


def decision_statistics(labels: Bools, positive: Bools, patients: Ints) -> dict[str, Statistic]:
    """Sensitivity, specificity and positive predictive value of decisions ``(n,)``."""
    right = labels & positive
    return {
        "sensitivity": ratio(right * 1.0, labels * 1.0, patients),
        "specificity": ratio(~labels & ~positive, ~labels * 1.0, patients),
        "ppv": ratio(right * 1.0, positive * 1.0, patients),
    }


def calibration_figures(labels: npt.NDArray[Any], probabilities: Floats) -> dict[str, Any]:
    """Slope, intercept, Brier score and expected calibration error of ``(n,)`` probabilities."""
    line = calibration_line(labels, probabilities)
    return {
        "slope": number(line.slope),
        "intercept": number(line.intercept),
        "brier": number(brier(labels, probabilities)),
        "expected_calibration_error": number(reliability(labels, probabilities).expected_calibration_error),
    }


def reliability_bins(labels: npt.NDArray[Any], probabilities: Floats) -> list[dict[str, Any]]:
    """Predicted against observed frequency in ten bins of equal count."""
    table = reliability(labels, probabilities)
    return [
        {"predicted": number(p), "observed": number(o), "n": int(n)}
        for p, o, n in zip(table.predicted, table.observed, table.counts, strict=True)
    ]


def compared(
    student: dict[str, Statistic],
    teacher: dict[str, Statistic],
    n_patients: int,
    draws: int,
) -> dict[str, Any]:
    """The teacher's statistics, and the paired difference of the student's to them."""
    statistics = {f"teacher {name}": statistic for name, statistic in teacher.items()} | {
        f"difference {name}": difference(student[name], teacher[name]) for name in teacher
    }
    found = intervals(statistics, n_patients, draws=draws)
    return {
        "teacher": {name: figure(found[f"teacher {name}"]) for name in teacher},
        "student_minus_teacher": {
            name: figure(found[f"difference {name}"])
            | {"resolved": found[f"difference {name}"].excludes_zero}
            for name in teacher
        },
    }


CHALLENGE = "challenge"
"""Operating point at which the challenge metric is published."""


@dataclass(frozen=True, eq=False)
class Point:
    """Thresholds of an operating point, where they come from, and whether it is exclusive."""

    thresholds: Floats
    description: str
    exclusive: bool = False


@dataclass(frozen=True, eq=False)
class Decisions:
    """From logits to decisions.

    Attributes
    ----------
    calibration
        Fitted on validation.
    points
        Operating points by name, the default one first.
    """

    calibration: FittedCalibration
    points: dict[str, Point]

    @property
    def default(self) -> str:
        """Name of the default operating point."""
        return next(iter(self.points))

    @property
    def thresholds(self) -> dict[str, Floats]:
        """Thresholds of every operating point."""
        return {name: point.thresholds for name, point in self.points.items()}

    def outputs(self, point: str, probabilities: Floats, evaluable: Bools) -> Bools:
        """Findings at an operating point of ECGs, shape ``(n, 26)``, by the rule of scoring."""
        chosen = self.points[point]
        return decisions(probabilities, chosen.thresholds, evaluable, exclusive=chosen.exclusive)

    def to_dict(self) -> dict[str, Any]:
        """The entries of a bundle's contract."""
        return {
            "calibration": calibration_entry(self.calibration),
            "operating_points": {
                name: {"thresholds": point.thresholds.tolist(), "description": point.description}
                | ({"exclusive": True} if point.exclusive else {})
                for name, point in self.points.items()
            },
            "default_operating_point": self.default,
        }
