"""Published figures: values with intervals, as JSON knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.calibration import calibration_line, reliability
from ibt_deploy.metrics.bootstrap import Interval, Statistic, difference, intervals, ratio
from ibt_deploy.metrics.ranking import brier

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

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
