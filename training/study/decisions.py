"""From logits to decisions: calibration and thresholds, chosen on the validation part alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ibt_deploy.bundle import Calibration
from ibt_deploy.calibration import fitted_calibration
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import DataError
from ibt_deploy.thresholds import challenge_thresholds, f_thresholds, utility_threshold
from training.stratify import FEWEST_POSITIVES
from training.study.cohort import Bools, Float32s, Floats, Truth

FIXED, TUNED = "0.5", "tuned"
OFFICIAL = {"arrhythmia": "challenge_metric", "sepsis": "utility"}
"""The Challenge's score of each task."""
Row = tuple[str, str]
"""Row of thresholds and measure."""


@dataclass(frozen=True, eq=False)
class Decider:
    """Decisions of one network.

    Attributes
    ----------
    calibration
        Fitted on validation.
    thresholds
        On calibrated probabilities, for each row of a table and measure. Of stays one, that of the highest
        utility, serves both measures; of ECGs each measure has its own.
    evaluable
        Outputs that may be put out.
    validation
        Official score on validation at the tuned thresholds; an optimistic number, by which DeiT is chosen.
    """

    calibration: Calibration
    thresholds: dict[Row, Floats]
    evaluable: Bools
    validation: float

    def probabilities(self, logits: Float32s) -> Floats:
        """Calibrated, shape of ``logits``."""
        return self.calibration.probability(logits)

    def outputs(self, logits: Float32s, row: Row) -> Bools:
        """Decisions, shape of ``logits``."""
        p = self.probabilities(logits)
        if p.ndim == 1:
            return np.asarray(p >= self.thresholds[row][0])
        return decisions(p, self.thresholds[row], self.evaluable)

    def raw_thresholds(self, row: Row) -> Floats:
        """The same thresholds on probabilities that are not calibrated."""
        t = np.clip(self.thresholds[row], 1e-12, 1 - 1e-12)
        z = (np.log(t / (1 - t)) - self.calibration.intercept) / self.calibration.slope
        return np.asarray(1 / (1 + np.exp(-z)))


def stay_decider(logits: Float32s, validation: Truth) -> Decider:
    """Decisions of a network of stays."""
    calibration = fitted_calibration(logits, validation.labels).calibration
    risk = calibration.probability(logits)
    tuned = utility_threshold(validation.labels, risk, validation.offsets)
    rows = {FIXED: np.array([0.5]), TUNED: np.array([tuned.threshold])}
    thresholds = {
        (name, measure): value for name, value in rows.items() for measure in ("utility", "f_measure")
    }
    return Decider(calibration, thresholds, np.ones(1, dtype=bool), tuned.reached)


def ecg_decider(logits: Float32s, validation: Truth, evaluable: Bools) -> Decider:
    """Decisions of a network of ECGs."""
    labels, known = validation.labels, validation.known
    calibration = fitted_calibration(logits, labels, known).calibration
    p = calibration.probability(logits)
    tuned = challenge_thresholds(labels, p, known, evaluable)
    half = np.full(len(evaluable), 0.5)
    thresholds = {
        (FIXED, "challenge_metric"): half,
        (FIXED, "f_measure"): half,
        (TUNED, "challenge_metric"): tuned.thresholds,
        (TUNED, "f_measure"): f_thresholds(labels, p, known),
    }
    return Decider(calibration, thresholds, evaluable, tuned.score)


def evaluable_classes(*parts: Truth) -> Bools:
    """Classes with at least five known positives in each part; DataError when there is none."""
    counts = np.stack([(part.labels & part.known).sum(axis=0) for part in parts])
    evaluable = np.asarray((counts >= FEWEST_POSITIVES).all(axis=0))
    if not evaluable.any():
        raise DataError(f"no class has {FEWEST_POSITIVES} positives in training and validation")
    return evaluable
