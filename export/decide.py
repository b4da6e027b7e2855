"""Everything that turns logits into decisions, chosen on the validation part alone.

Calibration first, thresholds on the calibrated probabilities after it. Of the test part nothing is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.data import Data, EcgPart, StayPart
from export.scored import Float32s, window_probabilities
from ibt_deploy.calibration import FittedCalibration, calibration_entry, fitted_calibration
from ibt_deploy.classes import CLASSES
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import ExportError
from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.thresholds import (
    alarm_rate_threshold,
    challenge_thresholds,
    clinical_thresholds,
    f_thresholds,
    sensitivity_threshold,
    utility_threshold,
)
from training.tasks.base import PARTS, Part

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

CHALLENGE = "challenge"
"""Operating point at which the challenge metric is published."""
FEWEST_LEARNT, FEWEST_VALIDATED = 15, 3
LOWEST_AUROC = 0.6
SENSITIVITY = 0.80
ALARMS_PER_PATIENT_DAY = 0.1


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
        """What is put out at an operating point for ECGs, shape ``(n, 26)``, with the rule of scoring."""
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


def class_positives(data: Data) -> dict[Part, Ints]:
    """Recordings of each part that have each class, shape ``(26,)``."""
    counts: dict[Part, Ints] = {}
    for name in PARTS:
        part = data.parts[name]
        assert isinstance(part, EcgPart)
        counts[name] = (part.labels & part.known).sum(axis=0)
    return counts


def evaluable_classes(
    positives: Mapping[Part, Ints], validation: EcgPart, logits: Floats | Float32s
) -> Bools:
    """Classes that training and validation say enough about; ExportError when there is none.

    A class needs 15 positives in training and validation together, 3 of them in validation, and there an
    AUROC whose 95 % interval lies above 0.6.

    Parameters
    ----------
    positives
        Of each part, shape ``(26,)`` each.
    validation
        The recordings.
    logits
        Of each of them, shape ``(n, 26)``.
    """
    evaluable = np.zeros(len(CLASSES), dtype=bool)
    for c in range(len(CLASSES)):
        known = validation.known[:, c]
        labels = validation.labels[known, c]
        enough = positives["train"][c] + positives["validation"][c] >= FEWEST_LEARNT
        if enough and FEWEST_VALIDATED <= labels.sum() < len(labels):
            evaluable[c] = lowest_auroc(labels, logits[known, c]) > LOWEST_AUROC
    if not evaluable.any():
        raise ExportError("no class is evaluable on validation: nothing to publish")
    return evaluable


def lowest_auroc(labels: Bools, scores: Floats | Float32s) -> float:
    """Lower end of the 95 % interval of an AUROC (Hanley and McNeil, Radiology 143, 1982).

    ``labels`` and ``scores`` have shape ``(n,)``, with both outcomes among the labels. For its variance an
    AUROC counts as at most ``1 - 1 / (2 positives)``, so that a few perfect rankings do not count as certain.
    """
    area = auroc(labels, scores.astype(np.float64))
    n, m = int(labels.sum()), int((~labels).sum())
    a = min(area, 1 - 1 / (2 * n))
    both_positive, both_negative = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (both_positive - a * a) + (m - 1) * (both_negative - a * a)) / (n * m)
    return float(area - 1.96 * np.sqrt(variance))


def ecg_decisions(logits: Float32s, n_windows: list[int], validation: EcgPart, evaluable: Bools) -> Decisions:
    """Calibration and the operating points ``clinical``, ``challenge`` and ``f1``.

    Parameters
    ----------
    logits
        Of every window of every validation recording, shape ``(windows, 26)``.
    n_windows
        Windows of each recording.
    validation
        The recordings.
    evaluable
        Classes that may be put out, shape ``(26,)``.

    Notes
    -----
    Calibrated is the middle window of each recording, so that every recording counts once; thresholds are
    tuned on what scoring gives, the windows' probabilities combined.
    """
    counts = np.array(n_windows)
    middle = np.cumsum(counts) - counts + counts // 2
    labels, known = validation.labels, validation.known
    fitted = fitted_calibration(logits[middle], labels, known)
    probabilities = window_probabilities(logits, n_windows, fitted.calibration)
    tuned = challenge_thresholds(labels, probabilities, known, evaluable)
    return Decisions(
        fitted,
        {
            "clinical": Point(
                clinical_thresholds(labels, probabilities, known, evaluable),
                "highest F measure of each class on validation, the fewer positives a class has there the "
                "nearer to the best common threshold; of findings that exclude each other the stronger one, "
                "the others as alternatives; no finding where no class reaches its threshold",
                exclusive=True,
            ),
            CHALLENGE: Point(
                tuned.thresholds,
                f"highest challenge metric 2021 on validation ({tuned.score:.3f} there); classes with fewer "
                "than 20 validation positives drawn half-way to the best common threshold",
            ),
            "f1": Point(
                f_thresholds(labels, probabilities, known), "highest F measure of each class on validation"
            ),
        },
    )


def stay_decisions(logits: Float32s, validation: StayPart) -> Decisions:
    """Calibration and the operating points ``utility``, ``sensitivity80`` and ``alarms_per_10_patient_days``.

    Parameters
    ----------
    logits
        Of every row of the validation stays end to end.
    validation
        The stays.
    """
    labels, offsets = validation.labels, validation.offsets
    fitted = fitted_calibration(logits, labels)
    risk = fitted.calibration.probability(logits)
    utility = utility_threshold(labels, risk, offsets)
    sensitive = sensitivity_threshold(labels, risk, offsets, SENSITIVITY)
    sparing = alarm_rate_threshold(labels, risk, offsets, ALARMS_PER_PATIENT_DAY)
    return Decisions(
        fitted,
        {
            "utility": Point(
                np.array([utility.threshold]),
                f"highest utility 2019 on validation ({utility.reached:.3f} there)",
            ),
            "sensitivity80": Point(
                np.array([sensitive.threshold]),
                "highest threshold that alarms in time (from 12 h before to 3 h after onset) in 80 % of "
                f"septic validation stays ({sensitive.reached:.1%} there)",
            ),
            "alarms_per_10_patient_days": Point(
                np.array([sparing.threshold]),
                "lowest threshold with at most 1 alarm in 10 patient-days on validation "
                f"({10 * sparing.reached:.2f} there; 6 h of silence after an alarm)",
            ),
        },
    )
