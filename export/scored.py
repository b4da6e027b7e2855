"""Scoring of a part of a data set with the product, and figures of the answers.

Features are computed by scoring, not here, so that every published figure is one of the shipped model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Bundle
from ibt_deploy.calibration import (
    FittedCalibration,
    calibration_entry,
    calibration_line,
    fitted_calibration,
    reliability,
)
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import InputError
from ibt_deploy.metrics.bootstrap import Interval, Statistic, difference, intervals, ratio
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.predictions import Refusal
from ibt_deploy.predictor import Predictor
from ibt_deploy.predictor import prepared as prepared_item
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Bools, Float32s, Floats, Ints, Strings
from ibt_deploy.vocabulary import N_CLASSES


class DataPart(Protocol):
    """Recordings or stays of one part of a data set."""

    @property
    def ids(self) -> list[str]:
        """Names of the items."""

    @property
    def groups(self) -> dict[str, Strings]:
        """Subgroup of each item, shape ``(n,)``, by kind of subgroup."""

    def __len__(self) -> int: ...

    def items(self) -> Iterator[Recording | Stay]:
        """The items as input for scoring."""

    def select(self, chosen: Bools) -> Self:
        """The items where ``chosen``, shape ``(n,)``, is true."""

    def entry(self) -> dict[str, Any]:
        """Counts for a bundle, overall and by subgroup."""


P = TypeVar("P", bound=DataPart)
Prepared = TypeVar("Prepared")
BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class PreparedPart(Generic[P, Prepared]):
    """Items of a part that scoring accepts, ready for the graph, and numbers of refusals by reason."""

    part: P
    prepared: list[Prepared]
    refused: dict[str, int]


def prepared_part(bundle: Bundle, part: P) -> PreparedPart[P, Any]:
    """Prepare every recording or stay that scoring does not refuse."""
    prepared, accepted, refused = [], [], Counter[str]()
    for item in part.items():
        try:
            prepared.append(prepared_item(item, bundle))
            accepted.append(True)
        except InputError as error:
            refused[error.code] += 1
            accepted.append(False)
    return PreparedPart(part.select(np.array(accepted, dtype=bool)), prepared, dict(refused))


@dataclass(frozen=True, eq=False)
class Answers(Generic[P]):
    """Answers of a model for a part.

    Attributes
    ----------
    part
        The part without refused inputs.
    probabilities
        Calibrated, shape ``(n, 26)``, or ``(rows,)`` for stays.
    positive
        Decisions at the default operating point, same shape.
    refused
        Number of refusals by reason.
    """

    part: P
    probabilities: Floats
    positive: Bools
    refused: dict[str, int]


def predictions(predictor: Predictor, part: P) -> tuple[P, list[Any], dict[str, int]]:
    """The part that the product accepts, its answers, and numbers of refusals by reason."""
    answers = list(predictor.predict_many(part.items(), BATCH_SIZE))
    accepted = np.array([not isinstance(a, Refusal) for a in answers], dtype=bool)
    refused = Counter(a.code for a in answers if isinstance(a, Refusal))
    return part.select(accepted), [a for a in answers if not isinstance(a, Refusal)], dict(refused)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for decisions besides the student's own answers on the validation part.

    Attributes
    ----------
    chosen
        Bundle of a network with the student's recipe that learnt from the training part alone. Its answers on
        the validation part are used for a student that learnt from that part as well.
    opinion, opinion_sha256
        Probabilities for the training part by networks that never saw it, in its order; hash of their file.
    """

    chosen: Bundle | None = None
    opinion: Float32s | None = None
    opinion_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Entries of a bundle."""
        contract = None if self.chosen is None else self.chosen.contract
        return {
            "chosen": None
            if contract is None
            else {
                "name": contract["name"],
                "version": contract["version"],
                "checkpoint_sha256": contract["training"]["student"]["checkpoint_sha256"],
            },
            "opinion_sha256": self.opinion_sha256,
        }


CERTAIN = 1e-6


@dataclass(frozen=True, eq=False)
class Judged:
    """Recordings with calibrated probabilities by networks that never saw them.

    Attributes
    ----------
    labels, known, probabilities
        Shape ``(n, 26)``.
    """

    labels: Bools
    known: Bools
    probabilities: Floats

    @classmethod
    def of(cls, labels: Bools, known: Bools, opinion: Float32s) -> Judged:
        """An opinion ``(n, 26)``, calibrated on its own recordings."""
        p = opinion.astype(np.float64).clip(CERTAIN, 1 - CERTAIN)
        logits = np.log(p) - np.log1p(-p)
        calibration = fitted_calibration(logits, labels, known).calibration
        return cls(labels, known, calibration.probability(logits))

    def beside(self, labels: Bools, known: Bools, probabilities: Floats) -> Judged:
        """Other recordings followed by these."""
        return Judged(
            np.concatenate((labels, self.labels)),
            np.concatenate((known, self.known)),
            np.concatenate((probabilities, self.probabilities)),
        )


NOBODY = Judged(*(np.zeros((0, N_CLASSES), dtype=bool),) * 2, np.zeros((0, N_CLASSES)))


DECIMALS = 6


def number(value: float) -> float | None:
    """The value for JSON: rounded, and None if it is undefined."""
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def figure(interval: Interval) -> dict[str, Any]:
    """A value with its 95 % interval; None if undefined."""
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
    """The teacher's statistics, and the paired differences, student minus teacher."""
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
"""Operating point of the published challenge metric."""


@dataclass(frozen=True, eq=False)
class Point:
    """Thresholds of an operating point, their origin, and whether the point is exclusive."""

    thresholds: Floats
    description: str
    exclusive: bool = False


@dataclass(frozen=True, eq=False)
class Decisions:
    """Calibration and thresholds, which turn logits into decisions.

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
