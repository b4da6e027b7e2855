"""Fit calibration and thresholds on a site's own labelled patients, and say honestly what that changes.

The shipped log odds ``u`` of a patient become ``slope * u + intercept``, fitted with a weak prior around
"nothing changes" (:func:`ibt_deploy.calibration.fitted_line`). Thresholds are tuned afterwards, on the new
probabilities. What the new bundle says about itself is cross-fitted: patients are divided into five folds,
and the line and the thresholds that judge a fold come from the other four.

Too few patients are refused: a line through a handful of septic stays would be worse than the shipped one. A
class with too few positives keeps its calibration, and its thresholds with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Bundle
from ibt_deploy.calibration import calibration_line, fitted_line, reliability
from ibt_deploy.contract import Calibration
from ibt_deploy.decisions import combined, decisions
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation.arrhythmia import ScoredRecordings
from ibt_deploy.evaluation.sepsis import ScoredStays
from ibt_deploy.metrics import arrhythmia as ecg_metrics
from ibt_deploy.metrics import sepsis as stay_metrics
from ibt_deploy.metrics.alarms import alarm_statistics, policy_alarms
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.thresholds import (
    alarm_rate_threshold,
    challenge_thresholds,
    clinical_thresholds,
    f_thresholds,
    sensitivity_threshold,
    utility_threshold,
)
from ibt_deploy.types import Bools, Floats, Ints

FOLDS = 5
FEWEST_SEPTIC, FEWEST_WITHOUT_SEPSIS = 30, 70
FEWEST_RECORDINGS, FEWEST_POSITIVES = 100, 20
UNCHANGED = Calibration(np.ones(1), np.zeros(1))
SMALLEST = 1e-12
"""Probabilities nearer to 0 or 1 have the log odds of this."""

STAY_POINTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "utility": ("highest utility 2019", utility_threshold),
    "sensitivity80": (
        "highest threshold that alarms in time (from 12 h before to 3 h after onset) in 80 % of septic stays",
        sensitivity_threshold,
    ),
    "alarms_per_10_patient_days": (
        "lowest threshold with at most 1 alarm in 10 patient-days (6 h of silence after an alarm)",
        alarm_rate_threshold,
    ),
}
ECG_POINTS = {
    "challenge": "highest challenge metric 2021",
    "f1": "highest F measure of each class",
    "clinical": "highest F measure of each class, drawn to the common one where positives are few",
}


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What replaces the decisions of a bundle, and what is known about it.

    Attributes
    ----------
    line
        From shipped log odds to those of the site.
    thresholds, descriptions
        Of every operating point of the bundle.
    counts
        Patients, hours or recordings that it rests on.
    changed
        Classes that were fitted; empty for stays.
    before, after
        Reliability and decisions at every operating point: as shipped, and cross-fitted.
    data_sha256
        Hash of the patients, labels and shipped probabilities.
    """

    line: Calibration
    thresholds: dict[str, Floats]
    descriptions: dict[str, str]
    counts: dict[str, int]
    changed: tuple[str, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    data_sha256: str

    def calibration(self, shipped: Calibration) -> Calibration:
        """From logits of the graph to probabilities of the site."""
        return Calibration(
            self.line.slope * shipped.slope, self.line.slope * shipped.intercept + self.line.intercept
        )

    @property
    def is_better(self) -> bool:
        """Whether patients left out have a lower Brier score than as shipped."""
        return bool(self.after["brier"] < self.before["brier"])


def recalibrated_stays(scored: ScoredStays, bundle: Bundle) -> Recalibration:
    """A recalibration on labelled stays.

    Raises
    ------
    DataError
        Fewer than 30 septic stays or 70 others.
    """
    labels, offsets = scored.labels, scored.offsets
    septic = np.add.reduceat(labels, offsets[:-1]) > 0
    if septic.sum() < FEWEST_SEPTIC or (~septic).sum() < FEWEST_WITHOUT_SEPSIS:
        raise DataError(
            f"{septic.sum()} septic stays and {(~septic).sum()} others; a recalibration needs at least "
            f"{FEWEST_SEPTIC} and {FEWEST_WITHOUT_SEPSIS}"
        )
    log_odds = _log_odds(scored.risk)
    fold_of_stay = folds_of(scored.patients, septic)
    fold_of_row = np.repeat(fold_of_stay, np.diff(offsets))
    shipped = {name: float(point.thresholds[0]) for name, point in bundle.operating_points.items()}

    def fitted(rows: Bools, stays: Bools) -> tuple[Calibration, dict[str, float], dict[str, float]]:
        slope, intercept = fitted_line(log_odds[rows], labels[rows])
        line = Calibration(np.array([slope]), np.array([intercept]))
        risk = line.probability(log_odds[rows])
        spans = np.cumsum([0, *np.diff(offsets)[stays]])
        thresholds, reached = {}, {}
        for name, threshold in shipped.items():
            if name in STAY_POINTS:
                tuned = STAY_POINTS[name][1](labels[rows], risk, spans)
                thresholds[name], reached[name] = tuned.threshold, tuned.reached
            else:
                thresholds[name] = float(_carried(np.array([threshold]), line)[0])
        return line, thresholds, reached

    everything = np.ones(len(labels), dtype=bool)
    line, thresholds, reached = fitted(everything, np.ones(len(septic), dtype=bool))
    risk = np.empty(len(labels))
    margins = {name: np.empty(len(labels)) for name in shipped}
    for fold in range(FOLDS):
        out = fold_of_row == fold
        own_line, own_thresholds, _ = fitted(~out, fold_of_stay != fold)
        risk[out] = own_line.probability(log_odds[out])
        for name, threshold in own_thresholds.items():
            margins[name][out] = log_odds[out] * own_line.slope + own_line.intercept - _log_odds(threshold)
    before = _reliability(labels, scored.risk) | {
        "points": {
            name: _stay_point(labels, _log_odds(scored.risk) - _log_odds(threshold), offsets)
            for name, threshold in shipped.items()
        }
    }
    after = _reliability(labels, risk) | {
        "points": {name: _stay_point(labels, margin, offsets) for name, margin in margins.items()}
    }
    descriptions = {
        name: f"{STAY_POINTS[name][0]} on {len(septic)} stays of the site ({reached[name]:.3g} there)"
        if name in STAY_POINTS
        else f"{bundle.operating_points[name].description}; decisions as before the recalibration"
        for name in shipped
    }
    return Recalibration(
        line,
        {name: np.array([threshold]) for name, threshold in thresholds.items()},
        descriptions,
        {"stays": len(septic), "septic": int(septic.sum()), "hours": len(labels)},
        (),
        before,
        after,
        _digest(scored.patients, labels, scored.risk),
    )


def recalibrated_recordings(scored: ScoredRecordings, bundle: Bundle) -> Recalibration:
    """A recalibration on labelled recordings, class by class.

    Raises
    ------
    DataError
        Fewer than 100 recordings, or no class with 20 patients who have it and 20 who do not.
    """
    labels, windows = scored.labels, [_log_odds(w) for w in scored.windows]
    evaluable = np.array([c.evaluable for c in bundle.classes])
    patients = scored.patients
    with_it = np.array([len(np.unique(patients[column])) for column in labels.T])
    without = np.array([len(np.unique(patients[~column])) for column in labels.T])
    enough = evaluable & (with_it >= FEWEST_POSITIVES) & (without >= FEWEST_POSITIVES)
    if len(labels) < FEWEST_RECORDINGS or not enough.any():
        most = int(np.minimum(with_it, without)[evaluable].max())
        raise DataError(
            f"{len(labels)} recordings, and at most {most} patients on the rarer side of a class; a "
            f"recalibration needs at least {FEWEST_RECORDINGS} recordings and {FEWEST_POSITIVES} patients"
        )
    middle = np.array([w[len(w) // 2] for w in windows])
    fold_of_row = folds_of([str(patient) for patient in patients], np.zeros(len(patients), dtype=bool))
    shipped = {name: point.thresholds for name, point in bundle.operating_points.items()}

    def fitted(rows: Bools) -> tuple[Calibration, dict[str, Floats]]:
        slope, intercept = np.ones(len(enough)), np.zeros(len(enough))
        for column in np.flatnonzero(enough):
            slope[column], intercept[column] = fitted_line(middle[rows, column], labels[rows, column])
        line = Calibration(slope, intercept)
        chosen = [w for w, is_in in zip(windows, rows, strict=True) if is_in]
        probabilities = np.array([combined(line.probability(w)) for w in chosen])
        thresholds = {}
        for name, given in shipped.items():
            kept = _carried(given, line)
            if name == "challenge":
                kept = np.where(
                    enough,
                    challenge_thresholds(labels[rows], probabilities, evaluable=evaluable).thresholds,
                    kept,
                )
            elif name == "clinical":
                own = clinical_thresholds(labels[rows], probabilities, evaluable=evaluable)
                kept = np.where(enough, own, kept)
            elif name in ECG_POINTS:
                kept = np.where(enough, f_thresholds(labels[rows], probabilities), kept)
            thresholds[name] = kept
        return line, thresholds

    def given_at(name: str, p: Floats, thresholds: Floats) -> Bools:
        exclusive = bundle.operating_points[name].exclusive
        return decisions(p, thresholds, evaluable, exclusive=exclusive)

    line, thresholds = fitted(np.ones(len(labels), dtype=bool))
    probabilities = np.empty(labels.shape)
    outputs = {name: np.empty(labels.shape, dtype=bool) for name in shipped}
    for fold in range(FOLDS):
        out = fold_of_row == fold
        if not out.any():
            continue
        own_line, own_thresholds = fitted(~out)
        rows = np.flatnonzero(out)
        probabilities[rows] = [combined(own_line.probability(windows[row])) for row in rows]
        for name, threshold in own_thresholds.items():
            outputs[name][rows] = given_at(name, probabilities[rows], threshold)
    before = _reliability(labels[:, enough].ravel(), scored.probabilities[:, enough].ravel()) | {
        "points": {
            name: _ecg_point(labels, given_at(name, scored.probabilities, threshold))
            for name, threshold in shipped.items()
        }
    }
    after = _reliability(labels[:, enough].ravel(), probabilities[:, enough].ravel()) | {
        "points": {name: _ecg_point(labels, output) for name, output in outputs.items()}
    }
    changed = tuple(c.abbreviation for c, is_fitted in zip(bundle.classes, enough, strict=True) if is_fitted)
    descriptions = {
        name: f"{ECG_POINTS[name]} on {len(labels)} recordings of the site; of "
        f"{len(changed)} classes with enough patients, the others as before"
        if name in ECG_POINTS
        else f"{bundle.operating_points[name].description}; decisions as before the recalibration"
        for name in shipped
    }
    return Recalibration(
        line,
        thresholds,
        descriptions,
        {"recordings": len(labels), "patients": len(np.unique(patients)), "classes fitted": len(changed)},
        changed,
        before,
        after,
        _digest(scored.records, labels, scored.probabilities),
    )


def folds_of(patients: Sequence[str], strata: Bools) -> Ints:
    """The fold, 0 to 4, of each patient: by the hash of the name, of like size within a stratum.

    All that belongs to one name is in one fold, in whatever order it comes.
    """
    names = np.array(patients)
    folds = np.empty(len(names), dtype=np.int64)
    of_name: dict[str, int] = {}
    for stratum in (True, False):
        chosen = sorted(set(names[strata == stratum].tolist()) - of_name.keys(), key=_hash)
        of_name |= {name: place % FOLDS for place, name in enumerate(chosen)}
    for place, name in enumerate(names.tolist()):
        folds[place] = of_name[name]
    return folds


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _carried(thresholds: Floats, line: Calibration) -> Floats:
    """Thresholds on the new probabilities that decide as the shipped ones did on theirs."""
    return np.clip(line.probability(_log_odds(thresholds)), SMALLEST, 1.0)


def _stay_point(labels: Bools, margins: Floats, offsets: Ints) -> dict[str, float | None]:
    """Measures of alarms where the log odds lie this far above their threshold."""
    shifted = UNCHANGED.probability(margins)
    alarms = alarm_statistics(labels, policy_alarms(shifted, offsets, 0.5), offsets)
    scores = stay_metrics.scores(labels, shifted, offsets, 0.5)
    return _finite(
        {
            "utility": scores.utility,
            "hours_in_alarm": float((shifted >= 0.5).mean()),
            "sensitivity": alarms.sensitivity,
            "ppv": alarms.ppv,
            "alarms_per_100_patient_days": alarms.alarms_per_100_patient_days,
        }
    )


def _ecg_point(labels: Bools, outputs: Bools) -> dict[str, float | None]:
    scores = ecg_metrics.scores(labels, outputs.astype(np.float64), outputs)
    false = (outputs & ~labels).sum(axis=1).mean()
    return _finite(
        {
            "challenge_metric": scores.challenge_metric,
            "f_measure": scores.f_measure.mean,
            "findings_per_recording": float(outputs.sum(axis=1).mean()),
            "false_findings_per_recording": float(false),
        }
    )


def _reliability(labels: Bools, probabilities: Floats) -> dict[str, Any]:
    """How far probabilities can be believed, as JSON knows it."""
    table, line = reliability(labels, probabilities), calibration_line(labels, probabilities)
    found = _finite(
        {
            "slope": line.slope,
            "intercept": line.intercept,
            "brier": brier(labels, probabilities),
            "expected_calibration_error": table.expected_calibration_error,
        }
    )
    bins = [
        {"predicted": round(p, 6), "observed": round(o, 6), "n": n}
        for p, o, n in zip(
            table.predicted.tolist(), table.observed.tolist(), table.counts.tolist(), strict=True
        )
    ]
    return {**found, "bins": bins}


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: round(float(value), 6) if np.isfinite(value) else None for name, value in numbers.items()}


def _digest(names: Sequence[str], labels: Bools, probabilities: Floats) -> str:
    content = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass"))
    content.update(np.packbits(labels).tobytes())
    content.update(np.ascontiguousarray(probabilities, dtype="<f8").tobytes())
    return content.hexdigest()


def _log_odds(probabilities: npt.ArrayLike) -> Floats:
    p = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(p / (1 - p)))
