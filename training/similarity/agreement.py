"""How well a student repeats its teacher's outputs: R squared in several readings, and equal decisions.

The paper reports "r-square values" without a definition. The primary one here is, for each class, the squared
Pearson correlation of the two networks' probabilities over test records (all valid hours for stays), averaged
over the classes whose outputs are not constant. Pooling the classes inflates it: rare classes are low in both
networks, whatever either has learnt.

Every function gives a statistic of how often each patient counts, so that
:func:`ibt_deploy.metrics.bootstrap.intervals` yields the value and its interval from one piece of code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.metrics.bootstrap import Statistic, ratio
from ibt_deploy.metrics.ranking import Macro, macro, quotient

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

CONSTANT = 1e-12
"""An output whose variance in a draw is below this share of that over all records counts as constant."""


def agreement_statistics(
    student: Array,
    teacher: Array,
    student_thresholds: npt.ArrayLike,
    teacher_thresholds: npt.ArrayLike,
    patients: Array,
) -> dict[str, Statistic]:
    """All readings of the similarity of two networks' outputs, by name.

    Parameters
    ----------
    student, teacher
        Logits, shape ``(n, classes)`` or, for stays, ``(n,)`` over all valid hours.
    student_thresholds, teacher_thresholds
        Probability from which each class counts as positive; each network's own, tuned on validation.
    patients
        Shape ``(n,)``: index of each record's or hour's patient, from 0.

    Returns
    -------
    ``r_squared``
        Primary: squared correlation of the probabilities, mean over classes.
    ``r_squared_pooled``
        The same over all classes at once.
    ``determination``
        Coefficient of determination with the teacher as truth, mean over classes; can be negative.
    ``r_squared_logits``
        As the primary, on logits.
    ``same_decision``
        Share of equal decisions; high for rare classes whatever the networks do.
    ``kappa``
        Cohen's kappa of the decisions, mean over the classes where it is defined: 0 is chance.
    """
    a, b = _columns(student), _columns(teacher)
    p, q = _probabilities(a), _probabilities(b)
    n_classes = p.shape[1]
    pooled_patients = np.repeat(patients, n_classes)
    given, wanted = p >= np.asarray(student_thresholds), q >= np.asarray(teacher_thresholds)
    return {
        "r_squared": squared_correlation(p, q, patients),
        "r_squared_pooled": squared_correlation(p.ravel(), q.ravel(), pooled_patients),
        "determination": determination(p, q, patients),
        "r_squared_logits": squared_correlation(a, b, patients),
        "same_decision": ratio((given == wanted).mean(axis=1), np.ones(len(p)), patients),
        "kappa": kappa(given, wanted, patients),
    }


def squared_correlation(student: Array, teacher: Array, patients: Array) -> Statistic:
    """Squared Pearson correlation, mean over the classes that are constant in neither network."""
    return _mean_over_classes(student, teacher, patients, _squared_pearson)


def determination(student: Array, teacher: Array, patients: Array) -> Statistic:
    """``1 - sum (student - teacher)^2 / sum (teacher - mean)^2``, mean over classes."""
    return _mean_over_classes(student, teacher, patients, _explained)


def kappa(student: Array, teacher: Array, patients: Array) -> Statistic:
    """Cohen's kappa of two sets of decisions (true or false), mean over the classes where it is defined."""
    return _mean_over_classes(student, teacher, patients, _beyond_chance, standardise=False)


def class_correlations(student: Array, teacher: Array) -> Macro:
    """Squared correlation of each class, their mean, and how many classes entered it.

    Parameters
    ----------
    student, teacher
        Probabilities (or logits), shape ``(n, classes)`` or ``(n,)``.
    """
    a, b = _columns(student), _columns(teacher)
    everybody = np.zeros(len(a), dtype=np.int64)
    one = np.ones((1, 1))
    return macro(
        np.array([float(_squared_pearson(one, *_moments(x, y, everybody))[0]) for x, y in _pairs(a, b)])
    )


Moments = tuple[Floats, Floats, Floats, Floats, Floats, Floats]
"""For each patient: count, and sums of x, y, x^2, y^2 and x y."""


def _columns(values: Array) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _probabilities(logits: Floats) -> Floats:
    negative = np.exp(-np.abs(logits))
    positive: Floats = np.where(logits >= 0, 1.0, negative) / (1 + negative)
    return positive


def _pairs(student: Floats, teacher: Floats) -> list[tuple[Floats, Floats]]:
    """The classes' columns, both measured from the teacher's mean in units of the teacher's deviation.

    Every measure here is the same in any such units; the sums of squares are then well conditioned.
    """
    pairs = []
    for x, y in zip(student.T, teacher.T, strict=True):
        unit = y.std() or 1.0
        pairs.append(((x - y.mean()) / unit, (y - y.mean()) / unit))
    return pairs


def _moments(x: Floats, y: Floats, patients: Array) -> Moments:
    n, sx, sy, sxx, syy, sxy = (
        np.bincount(patients, v).astype(np.float64) for v in (np.ones_like(x), x, y, x * x, y * y, x * y)
    )
    return n, sx, sy, sxx, syy, sxy


def _mean_over_classes(
    student: Array,
    teacher: Array,
    patients: Array,
    measure: Callable[..., Floats],
    *,
    standardise: bool = True,
) -> Statistic:
    a, b = _columns(student), _columns(teacher)
    pairs = _pairs(a, b) if standardise else list(zip(a.T, b.T, strict=True))
    moments = [_moments(x, y, patients) for x, y in pairs]

    def statistic(weights: Floats) -> Floats:
        values = np.stack([measure(weights[:, : len(m[0])], *m) for m in moments])
        defined = ~np.isnan(values)
        return quotient(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))

    return statistic


def _squared_pearson(weights: Floats, *moments: Floats) -> Floats:
    n, sx, sy, sxx, syy, sxy = (weights @ m for m in moments)
    vx, vy = _variance(n, sx, sxx), _variance(n, sy, syy)
    return quotient((sxy / n - sx * sy / n**2) ** 2, vx * vy)


def _variance(n: Floats, s: Floats, ss: Floats) -> Floats:
    """Variance, exactly 0 where only rounding is left of it."""
    variance = ss / n - (s / n) ** 2
    return np.where(variance <= CONSTANT * (ss / n + 1), 0.0, variance)


def _explained(weights: Floats, *moments: Floats) -> Floats:
    n, _, sy, sxx, syy, sxy = (weights @ m for m in moments)
    return 1 - quotient((sxx - 2 * sxy + syy) / n, _variance(n, sy, syy))


def _beyond_chance(weights: Floats, *moments: Floats) -> Floats:
    n, positive, wanted, _, _, both = (weights @ m for m in moments)
    observed = (n - positive - wanted + 2 * both) / n
    chance = (positive * wanted + (n - positive) * (n - wanted)) / n**2
    return quotient(observed - chance, 1 - chance)
