"""Make probabilities out of logits, and measure how far they can be believed.

Platt scaling (Platt, in: Advances in Large Margin Classifiers, 1999), ``sigmoid(slope * logit +
intercept)``, fitted on validation data by Newton's method with a weak normal prior around slope 1 and
intercept 0, which keeps it finite where the classes are separable. How much is fitted depends on the
number of positives:

========================== =====================================================================
at least 50                slope and intercept ("platt")
5 to 49                    slope alone, a single temperature for the class ("temperature")
fewer than 5, or no others one temperature for all of these, from the pooled logits of every class
                           ("pooled"); nothing where no class has a positive ("identity")
========================== =====================================================================

Slopes are kept positive, so that calibration never changes the ranking within a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Calibration
from ibt_deploy.errors import DataError
from ibt_deploy.types import Array, Bools, Floats, Ints

ENOUGH_FOR_PLATT = 50
ENOUGH_FOR_TEMPERATURE = 5
PRIOR_SLOPE_DEVIATION = 1.0
PRIOR_INTERCEPT_DEVIATION = 3.0
SMALLEST_SLOPE = 0.01
BINS = 10


class FittedCalibration(NamedTuple):
    """A calibration and how each output came by it: platt, temperature, pooled or identity."""

    calibration: Calibration
    methods: tuple[str, ...]


def fitted_calibration(logits: Array, labels: Array, mask: Array | None = None) -> FittedCalibration:
    """Calibration of each output, fitted on validation data.

    Parameters
    ----------
    logits
        Shape ``(n, outputs)``, or ``(n,)`` for one output.
    labels
        Shape of ``logits``, positive above 0.
    mask
        Shape of ``logits``, true where the label is known.

    Raises
    ------
    DataError
        When a logit is not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels) > 0
    known = np.ones(z.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if z.shape != y.shape or z.shape != known.shape:
        raise ValueError(f"logits {z.shape}, labels {y.shape} and mask {known.shape} differ in shape")
    if not np.isfinite(z).all():
        raise DataError("logits to calibrate are not all finite")
    z, y, known = _columns(z), _columns(y), _columns(known)
    pooled = fitted_line(z[known], y[known], intercept=False)[0] if (y & known).any() else None
    lines, methods = [], []
    for column in range(z.shape[1]):
        rows = known[:, column]
        outcomes = y[rows, column]
        n = min(int(outcomes.sum()), int((~outcomes).sum()))
        if n >= ENOUGH_FOR_PLATT:
            lines.append(fitted_line(z[rows, column], outcomes))
            methods.append("platt")
        elif n >= ENOUGH_FOR_TEMPERATURE:
            lines.append(fitted_line(z[rows, column], outcomes, intercept=False))
            methods.append("temperature")
        else:
            lines.append((1.0, 0.0) if pooled is None else (pooled, 0.0))
            methods.append("identity" if pooled is None else "pooled")
    slope, intercept = np.array(lines, dtype=np.float64).reshape(-1, 2).T
    return FittedCalibration(Calibration(slope, intercept), tuple(methods))


def _columns(values: Array) -> Array:
    return values[:, None] if values.ndim == 1 else values


def calibration_entry(fitted: FittedCalibration) -> dict[str, Any]:
    """The ``calibration`` of a bundle's contract; ``Calibration.from_dict`` reads it."""
    return {
        "kind": "platt",
        "slope": fitted.calibration.slope.tolist(),
        "intercept": fitted.calibration.intercept.tolist(),
        "methods": list(fitted.methods),
    }


def fitted_line(logits: Array, labels: Array, *, intercept: bool = True) -> tuple[float, float]:
    """Slope and intercept of greatest posterior probability; the slope is at least 0.01.

    Parameters
    ----------
    logits, labels
        Shape ``(n,)``.
    intercept
        Whether to fit it; otherwise it stays 0.
    """
    precision = np.array([PRIOR_SLOPE_DEVIATION**-2, PRIOR_INTERCEPT_DEVIATION**-2])
    free = np.array([True, intercept])
    line = _newton(logits, labels, np.array([1.0, 0.0]), free, precision)
    if line[0] < SMALLEST_SLOPE:
        # the objective is convex, so that the best permitted point lies on the boundary
        line = _newton(logits, labels, np.array([SMALLEST_SLOPE, 0.0]), free & [False, True], precision)
    return float(line[0]), float(line[1])


def _newton(logits: Array, labels: Array, start: Floats, free: Bools, precision: Floats) -> Floats:
    """Minimum of the logistic loss plus ``precision / 2 * (line - (1, 0)) ** 2`` over the free parameters."""
    z, y = np.asarray(logits, dtype=np.float64), (np.asarray(labels) > 0).astype(np.float64)
    prior = np.array([1.0, 0.0])

    def loss(line: Floats) -> float:
        u = line[0] * z + line[1]
        return float(np.sum(np.logaddexp(0, u) - y * u) + np.sum(precision * (line - prior) ** 2) / 2)

    line, best = start, loss(start)
    for _ in range(100):
        p = Calibration(line[:1], line[1:]).probability(z)
        w, error = p * (1 - p), p - y
        gradient = np.array([error @ z, error.sum()]) + precision * (line - prior)
        curvature = np.array([[w @ z**2, w @ z], [w @ z, w.sum()]]) + np.diag(precision)
        step = np.zeros(2)
        if free.any():
            # a saturated fit without a prior is flat; the step of least norm then stays put
            step[free] = np.linalg.lstsq(curvature[np.ix_(free, free)], gradient[free])[0]
        scale = 1.0
        while (candidate := loss(line - scale * step)) > best and scale > 1e-8:
            scale /= 2
        if candidate > best or best - candidate <= 1e-12 * (1 + abs(best)):
            return line - scale * step if candidate <= best else line
        line, best = line - scale * step, candidate
    return line


def recalibrated(calibration: Calibration, logits: Array, prevalence: npt.ArrayLike) -> Calibration:
    """The calibration with intercepts re-estimated for a local prevalence; slopes stay.

    The intercept of greatest likelihood on local data makes the mean probability equal the share of
    positives, so that share is all that must be known of the local labels. Never applied unasked.

    Parameters
    ----------
    calibration
        As shipped.
    logits
        Local logits, shape ``(n, outputs)``, or ``(n,)`` for one output.
    prevalence
        Local share of positives, shape ``(outputs,)`` or one number; NaN leaves an output as it is.

    Raises
    ------
    DataError
        Without logits, or when a prevalence is not between 0 and 1.
    """
    z = _columns(np.asarray(logits, dtype=np.float64))
    wanted = np.broadcast_to(np.asarray(prevalence, dtype=np.float64), calibration.slope.shape)
    if not len(z) or z.shape[1] != len(wanted) or not np.isfinite(z).all():
        raise DataError(
            f"local logits {z.shape} must be finite, at least one for each of {len(wanted)} outputs"
        )
    if not (np.isnan(wanted) | ((wanted > 0) & (wanted < 1))).all():
        raise DataError("a local prevalence must lie between 0 and 1, both excluded: count more patients")
    intercept = calibration.intercept.copy()
    for column in np.flatnonzero(~np.isnan(wanted)):
        u = calibration.slope[column] * z[:, column]
        target = np.log(wanted[column] / (1 - wanted[column]))
        low, high = target - u.max(), target - u.min()
        # the mean probability rises with the intercept, and its root is bracketed
        for _ in range(100):
            middle = (low + high) / 2
            mean = Calibration(np.ones(1), np.array([middle])).probability(u).mean()
            low, high = (middle, high) if mean < wanted[column] else (low, middle)
        intercept[column] = (low + high) / 2
    return Calibration(calibration.slope.copy(), intercept)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed frequency in bins of equal count, from the lowest probability up.

    Attributes
    ----------
    predicted, observed
        Shape ``(bins,)``: mean probability and share of positives.
    counts
        Shape ``(bins,)``. Equal probabilities share a bin, so that there may be fewer bins, of
        unequal count, where probabilities are tied.
    """

    predicted: Floats
    observed: Floats
    counts: Ints

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of predicted from observed over these bins, weighted by count; NaN for no example."""
        if not len(self.counts):
            return float("nan")
        return float(self.counts @ np.abs(self.predicted - self.observed) / self.counts.sum())


def reliability(labels: Array, probabilities: Array, bins: int = BINS) -> Reliability:
    """Reliability table of ``(n,)`` probabilities in ``bins`` bins of equal count."""
    p = np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    p, y = p[order], (np.asarray(labels) > 0)[order].astype(np.float64)
    if not len(p):
        return Reliability(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    cuts = np.linspace(0, len(p), min(bins, len(p)) + 1).astype(np.int64)[:-1]
    starts = np.unique(np.searchsorted(p, p[cuts], side="left"))
    counts = np.diff(np.append(starts, len(p)))
    return Reliability(np.add.reduceat(p, starts) / counts, np.add.reduceat(y, starts) / counts, counts)


class CalibrationLine(NamedTuple):
    """How observed outcomes follow predicted log odds; 1 and 0 are ideal.

    Attributes
    ----------
    slope
        Of a logistic regression on the log odds; below 1 where predictions are too extreme.
    intercept
        Of the same with the slope held at 1 (calibration in the large); below 0 where too high.
    """

    slope: float
    intercept: float


def calibration_line(labels: Array, probabilities: Array) -> CalibrationLine:
    """Calibration slope and intercept of ``(n,)`` probabilities, without any prior.

    NaN where only one outcome occurs; the slope is NaN also where probabilities separate the outcomes,
    because it then has no finite estimate.
    """
    y = np.asarray(labels) > 0
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    if y.all() or not y.any():
        return CalibrationLine(float("nan"), float("nan"))
    z, none = np.log(p / (1 - p)), np.zeros(2)
    intercept = _newton(z, y, np.array([1.0, 0.0]), np.array([False, True]), none)[1]
    separated = z[y].min() >= z[~y].max() or z[y].max() <= z[~y].min()
    if separated:
        return CalibrationLine(float("nan"), float(intercept))
    return CalibrationLine(
        float(_newton(z, y, np.array([1.0, 0.0]), np.array([True, True]), none)[0]), float(intercept)
    )
