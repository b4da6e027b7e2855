"""Fit probability calibration and operating-point thresholds on validation data.

Platt scaling (Platt, in: Advances in Large Margin Classifiers, 1999), ``sigmoid(slope * logit +
intercept)``, fitted by Newton's method with a weak normal prior around slope 1 and intercept 0, which keeps
it finite where the classes are separable. How much is fitted depends on the number of positives:

========================== =====================================================================
at least 50                slope and intercept ("platt")
5 to 49                    slope alone, a single temperature for the class ("temperature")
fewer than 5, or no others one temperature for all of these, from the pooled logits of every class
                           ("pooled"); nothing where no class has a positive ("identity")
========================== =====================================================================

Slopes are kept positive, so that calibration never changes the ranking within a class.

Thresholds apply to calibrated probabilities and are tuned after calibration, with the same decision rule as
scoring, :func:`ibt_deploy.decisions.decided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ibt_deploy.bundle import Calibration
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import DataError
from ibt_deploy.metrics.arrhythmia import Reward
from ibt_deploy.metrics.ranking import quotient
from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_burden, utility_sweep
from ibt_deploy.types import Array, Bools, Floats, Ints

ENOUGH_FOR_PLATT = 50
ENOUGH_FOR_TEMPERATURE = 5
PRIOR_SLOPE_DEVIATION = 1.0
PRIOR_INTERCEPT_DEVIATION = 3.0
SMALLEST_SLOPE = 0.01
BINS = 10


class FittedCalibration(NamedTuple):
    """A calibration, and the method used for each output: platt, temperature, pooled or identity."""

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
    """Maximum a posteriori slope and intercept; the slope is at least 0.01.

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
        # the objective is convex, so the best feasible point lies on the boundary
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
            # a saturated fit without a prior is flat; the minimum-norm step then stays put
            step[free] = np.linalg.lstsq(curvature[np.ix_(free, free)], gradient[free])[0]
        scale = 1.0
        while (candidate := loss(line - scale * step)) > best and scale > 1e-8:
            scale /= 2
        if candidate > best or best - candidate <= 1e-12 * (1 + abs(best)):
            return line - scale * step if candidate <= best else line
        line, best = line - scale * step, candidate
    return line


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed frequency in bins of equal count, from the lowest probability up.

    Attributes
    ----------
    predicted, observed
        Shape ``(bins,)``: mean probability and share of positives.
    counts
        Shape ``(bins,)``. Equal probabilities share a bin, so with ties there may be fewer bins, of
        unequal count.
    """

    predicted: Floats
    observed: Floats
    counts: Ints

    @property
    def expected_calibration_error(self) -> float:
        """Mean absolute difference of predicted and observed, weighted by count; NaN without examples."""
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
        Slope of a logistic regression on the log odds; below 1 where predictions are too extreme.
    intercept
        Intercept at a fixed slope of 1 (calibration in the large); below 0 where predictions are too high.
    """

    slope: float
    intercept: float


def calibration_line(labels: Array, probabilities: Array) -> CalibrationLine:
    """Calibration slope and intercept of ``(n,)`` probabilities, without any prior.

    NaN where only one outcome occurs; the slope is also NaN where probabilities separate the outcomes,
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


GRID: Floats = np.arange(1, 50) / 50
"""0.02, 0.04, ... 0.98."""
FEW_POSITIVES = 20
"""Classes with fewer validation positives have their threshold moved half-way to the pooled one; at the
clinical operating point, classes with exactly this many do."""
SMALLEST = 1e-6
"""Thresholds are at least this, so that ``probability / threshold`` is defined."""


def f_optimal(labels: Array, probabilities: Array) -> float:
    """Threshold of the highest F measure of one class; NaN without a positive.

    Half-way between two neighbouring probabilities, so that rounding elsewhere changes no decision.
    ``labels`` and ``probabilities`` have shape ``(n,)``.
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered, positive = np.asarray(probabilities, dtype=np.float64)[order], np.asarray(labels)[order] > 0
    if not positive.any():
        return float("nan")
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    f = 2 * np.cumsum(positive)[last] / (last + 1 + positive.sum())
    best = int(np.argmax(np.where(ordered[last] >= SMALLEST, f, -1.0)))
    below = ordered[last[best + 1]] if best + 1 < len(last) else 0.0
    return _between(ordered[last[best]], below)


def _between(above: float, below: float) -> float:
    """Midpoint of two neighbouring values, in (0, 1], that still lets only ``above`` through."""
    middle = (min(above, 1.0) + below) / 2
    return float(np.clip(middle if middle > below else above, SMALLEST, 1.0))


def f_thresholds(labels: Array, probabilities: Array, mask: Array | None = None) -> Floats:
    """The F-optimal threshold of each class, shape ``(classes,)``.

    Classes without a known positive get the threshold that is F-optimal for all classes pooled.

    Parameters
    ----------
    labels, probabilities
        Shape ``(n, classes)``.
    mask
        Shape ``(n, classes)``, true where the label is known.

    Raises
    ------
    DataError
        When there is no positive at all.
    """
    known = np.ones(np.shape(labels), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    pooled = f_optimal(labels[known], probabilities[known])
    if np.isnan(pooled):
        raise DataError("no positive label: there is nothing to tune thresholds on")
    each = [f_optimal(labels[k, c], probabilities[k, c]) for c, k in enumerate(known.T)]
    return np.where(np.isnan(each), pooled, each)


def clinical_thresholds(
    labels: Array, probabilities: Array, mask: Array | None = None, evaluable: Array | None = None
) -> Floats:
    """The F-optimal threshold of each class, shrunk towards the common one where positives are few.

    ``n / (n + 20) * own + 20 / (n + 20) * common``, ``n`` being the known positives of the class and
    ``common`` the threshold that is F-optimal for all evaluable classes pooled. Shape ``(classes,)``.

    Parameters
    ----------
    labels, probabilities, mask
        As for :func:`f_thresholds`.
    evaluable
        Shape ``(classes,)``, as for :func:`ibt_deploy.decisions.decided`.

    Raises
    ------
    DataError
        When no evaluable class has a positive.
    """
    known = np.ones(np.shape(labels), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    counted = known if evaluable is None else known & np.asarray(evaluable, dtype=bool)
    common = f_optimal(labels[counted], probabilities[counted])
    if np.isnan(common):
        raise DataError("no positive label: there is nothing to tune thresholds on")
    own = np.array([f_optimal(labels[k, c], probabilities[k, c]) for c, k in enumerate(known.T)])
    n = ((np.asarray(labels) > 0) & known).sum(axis=0)
    weight = n / (n + FEW_POSITIVES)
    return np.where(n > 0, weight * np.nan_to_num(own) + (1 - weight) * common, common)


class ChallengeThresholds(NamedTuple):
    """Thresholds for the challenge metric.

    Attributes
    ----------
    thresholds
        Shape ``(classes,)``.
    score
        Challenge metric with them on the data they were tuned on; an optimistic number.
    pooled
        The best single threshold for all classes.
    """

    thresholds: Floats
    score: float
    pooled: float


def challenge_thresholds(
    labels: Array,
    probabilities: Array,
    mask: Array | None = None,
    evaluable: Array | None = None,
    *,
    weights: Array | None = None,
    grid: Floats = GRID,
    sweeps: int = 10,
    orders: int = 3,
    seed: int = 0,
) -> ChallengeThresholds:
    """Thresholds that maximise the challenge metric, by cyclic coordinate ascent.

    Starting from the F-optimal thresholds, each class in turn moves to the grid value that raises the metric
    most, if any does, until a sweep moves none. The best of several random orders of the classes is
    kept. Classes with fewer than 20 positives are then moved half-way to the best threshold common to
    all classes, because a handful of recordings is weak evidence.

    Parameters
    ----------
    labels, probabilities
        Shape ``(n, classes)``; probabilities are calibrated.
    mask
        Shape ``(n, classes)``, true where the label is known.
    evaluable
        Shape ``(classes,)``, as for :func:`ibt_deploy.decisions.decided`.
    weights
        Reward matrix, as for :class:`ibt_deploy.metrics.arrhythmia.Reward`.
    grid
        Thresholds to try, ascending, above 0.
    sweeps, orders, seed
        Maximum number of sweeps, number of random orders, and their seed.

    Raises
    ------
    DataError
        When there is no positive at all.
    """
    reward = Reward(labels, weights, mask)
    p = np.asarray(probabilities, dtype=np.float64)
    allowed = np.ones(p.shape[1], dtype=bool) if evaluable is None else np.asarray(evaluable, dtype=bool)
    start = f_thresholds(labels, p, mask)
    common = [reward.score(decisions(p, np.full(len(start), g), allowed)) for g in grid]
    pooled = float(grid[_middle_of_best(np.array(common))])
    rng = np.random.default_rng(seed)
    best = _Ascent(reward, p, start, allowed)
    for _ in range(orders):
        ascent = _Ascent(reward, p, start, allowed)
        ascent.climb(rng.permutation(np.flatnonzero(allowed)), grid, sweeps)
        if ascent.total > best.total:
            best = ascent
    few = reward.labels.sum(axis=0) < FEW_POSITIVES
    thresholds = np.where(few, (best.thresholds + pooled) / 2, best.thresholds)
    return ChallengeThresholds(thresholds, reward.score(decisions(p, thresholds, allowed)), pooled)


def _middle_of_best(totals: Floats) -> int:
    """Index in the middle of the first run of highest values, where small changes cost nothing."""
    high = totals >= totals.max() - 1e-9
    first = int(np.argmax(high))
    length = int(np.argmin(np.append(high[first:], False)))
    return first + (length - 1) // 2


class _Ascent:
    """State of the ascent, such that trying one class takes time linear in the recordings."""

    def __init__(self, reward: Reward, probabilities: Floats, thresholds: Floats, allowed: Bools) -> None:
        self.reward, self.p, self.allowed = reward, probabilities, allowed
        self.thresholds = thresholds.copy()
        self.on: Bools = (probabilities >= thresholds) & allowed
        self.ratios: Floats = np.where(allowed, probabilities / thresholds, -1.0)
        self.n_on = self.on.sum(axis=1)
        self.numerator = np.einsum("ij,ij->i", reward.gains, self.on)
        self.union = reward.n_labels + (self.on & reward.extra).sum(axis=1)
        self.total = float(reward.earned(decisions(probabilities, thresholds, allowed)).sum())

    def climb(self, order: Ints, grid: Floats, sweeps: int) -> None:
        """Sweep over the classes in ``order`` until none moves."""
        for _ in range(sweeps):
            moved = False
            for column in order.tolist():
                totals = self.totals(column, grid)
                best = _middle_of_best(totals)
                if totals[best] > self.total + 1e-9:
                    self.move(column, float(grid[best]))
                    self.total, moved = float(totals[best]), True
            if not moved:
                return

    def totals(self, column: int, grid: Floats) -> Floats:
        """Total reward of all recordings for each threshold of ``grid`` for one class."""
        gain, extra, was_on = self.reward.gains[:, column], self.reward.extra[:, column], self.on[:, column]
        numerator = self.numerator - gain * was_on
        union = self.union - (was_on & extra)
        without = quotient(numerator, union, empty=0.0)
        with_it = quotient(numerator + gain, union + extra, empty=0.0)
        on = self.p[:, column, None] >= grid
        empty = np.flatnonzero(self.n_on == was_on)
        if len(empty):
            rivals = self.ratios[empty].copy()
            rivals[:, column] = -1.0
            rival = np.argmax(rivals, axis=1)
            rival_ratio = rivals[np.arange(len(empty)), rival][:, None]
            alone = self.reward.n_labels[empty] + self.reward.extra[empty, rival]
            without[empty] = quotient(self.reward.gains[empty, rival], alone, empty=0.0)
            ratio = self.p[empty, column, None] / grid
            first = column < rival[:, None]
            on[empty] |= (ratio > rival_ratio) | ((ratio == rival_ratio) & first)
        return np.asarray(without.sum() + (with_it - without) @ on)

    def move(self, column: int, threshold: float) -> None:
        """Give one class a new threshold."""
        now = self.p[:, column] >= threshold
        change = now.astype(np.int64) - self.on[:, column]
        self.numerator = self.numerator + change * self.reward.gains[:, column]
        self.union = self.union + change * self.reward.extra[:, column]
        self.n_on = self.n_on + change
        self.on[:, column] = now
        self.ratios[:, column] = self.p[:, column] / threshold
        self.thresholds[column] = threshold


class TunedThreshold(NamedTuple):
    """A threshold on hourly risk, and what it reaches on the data it was tuned on."""

    threshold: float
    reached: float


FLAT = 0.005
"""Utility that an operating point may give up for fewer alarms: the optimum is flat, so a threshold far above
that of the highest utility loses next to nothing."""


def utility_threshold(labels: Array, risk: Array, offsets: Array, within: float = 0.0) -> TunedThreshold:
    """The threshold of highest normalised utility; ``reached`` is that utility.

    Parameters
    ----------
    labels, risk
        Shape ``(rows,)``; risk in [0, 1].
    offsets
        Shape ``(stays + 1,)``.
    within
        Utility that may be given up for fewer alarms: the highest threshold within it is taken.

    Raises
    ------
    DataError
        There is no septic stay.
    """
    _require_septic(labels)
    sweep = utility_sweep(labels, risk, offsets)
    utilities = np.where(sweep.thresholds >= SMALLEST, sweep.utilities, -np.inf)
    highest = float(utilities.max())
    best = int(np.argmax(utilities >= highest - min(within, max(highest, 0.0) / 2)))
    below = sweep.thresholds[best + 1] if best + 1 < len(sweep.thresholds) else 0.0
    return TunedThreshold(_between(sweep.thresholds[best], below), float(sweep.utilities[best]))


def sensitivity_threshold(
    labels: Array, risk: Array, offsets: Array, sensitivity: float = 0.80, policy: AlarmPolicy | None = None
) -> TunedThreshold:
    """The highest threshold at which the alarm policy detects a given share of the septic stays in time.

    If no threshold does, the highest of those that detect most; ``reached`` is the share detected.
    Parameters and errors as for :func:`utility_threshold`.
    """
    _require_septic(labels)
    burden = alarm_burden(labels, risk, offsets, _candidates(labels, risk, offsets), policy)
    enough = burden.sensitivity >= min(sensitivity, burden.sensitivity.max())
    chosen = int(np.flatnonzero(enough)[-1])
    return TunedThreshold(float(burden.thresholds[chosen]), float(burden.sensitivity[chosen]))


def alarm_rate_threshold(
    labels: Array,
    risk: Array,
    offsets: Array,
    alarms_per_patient_day: float = 0.1,
    policy: AlarmPolicy | None = None,
) -> TunedThreshold:
    """The lowest threshold at and above which the alarm policy stays within a given alarm rate.

    ``reached`` is the rate, in alarms per patient-day. Parameters and errors as for
    :func:`utility_threshold`.
    """
    _require_septic(labels)
    candidates = np.append(_candidates(labels, risk, offsets), 1.0)
    burden = alarm_burden(labels, risk, offsets, candidates, policy)
    too_many = np.flatnonzero(burden.alarms_per_patient_day > alarms_per_patient_day)
    chosen = min(int(too_many[-1]) + 1 if len(too_many) else 0, len(candidates) - 1)
    return TunedThreshold(float(candidates[chosen]), float(burden.alarms_per_patient_day[chosen]))


def _require_septic(labels: Array) -> None:
    if not (np.asarray(labels) > 0).any():
        raise DataError("no septic stay: there is nothing to tune a threshold on")


def _candidates(labels: Array, risk: Array, offsets: Array) -> Floats:
    """Candidate thresholds, ascending: quantiles of the stays' highest risks and of the positive rows."""
    values, spans = np.asarray(risk, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    highest = np.maximum.reduceat(values, spans[:-1][np.diff(spans) > 0])
    quantiles = np.linspace(0, 1, 301)
    tried = [np.quantile(highest, quantiles), np.quantile(values[np.asarray(labels) > 0], quantiles)]
    return np.unique(np.clip(np.concatenate(tried), SMALLEST, 1.0))
