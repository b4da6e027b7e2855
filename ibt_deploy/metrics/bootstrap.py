"""Percentile intervals by bootstrap over patients.

A statistic here is a function of how often each patient counts: weights of shape ``(draws, patients)``
in, values of shape ``(draws,)`` out. Weights of one give the point value, drawn weights the
distribution; so the same code yields both, and two statistics given the same weights are paired.
Patients are drawn, never rows or recordings, because the hours of one patient are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ibt_deploy.metrics.arrhythmia import Reward
from ibt_deploy.metrics.ranking import quotient
from ibt_deploy.metrics.sepsis import (
    EARLIEST,
    HOURS_PER_DAY,
    LATEST,
    clipped,
    onset_rows,
    row_utilities,
    stay_of_row,
)
from ibt_deploy.types import Array, Floats

Statistic = Callable[[Floats], Floats]

DRAWS = 1000
LEVEL = 0.95
BLOCK = 4_000_000
"""Numbers held at once while drawing and ranking (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval.

    Attributes
    ----------
    value
        The statistic on the original data.
    low, high
        Percentiles of the draws; NaN where no draw defines the statistic.
    draws
        Number of draws that define it (a draw without any septic patient, for example, does not).
    """

    value: float
    low: float
    high: float
    draws: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def draw_weights(n_patients: int, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """How often each patient is drawn, in blocks of shape ``(some draws, n_patients)``.

    The blocks hold ``draws`` rows in all; each row sums to ``n_patients``. The same arguments give
    the same numbers.
    """
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(n_patients, 1))
    for first in range(0, draws, block):
        n = min(block, draws - first)
        drawn = rng.integers(0, n_patients, size=(n, n_patients)) if n_patients else np.zeros((n, 0), int)
        flat = (drawn + n_patients * np.arange(n)[:, None]).ravel()
        yield np.bincount(flat, minlength=n * n_patients).reshape(n, n_patients).astype(np.float64)


def intervals(
    statistics: Mapping[str, Statistic],
    n_patients: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Each statistic with its percentile interval, all on the same draws of patients.

    Parameters
    ----------
    statistics
        Statistics by name.
    n_patients
        Number of weights that the statistics expect.
    draws, seed, level
        Number of draws, seed of the draws, coverage.
    """
    drawn = drawn_values(statistics, n_patients, draws=draws, seed=seed)
    return {name: interval_of(values, level) for name, values in drawn.items()}


def drawn_values(
    statistics: Mapping[str, Statistic], n_patients: int, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Floats]:
    """Each statistic on the original data, and then on every draw. Shape ``(1 + draws,)`` each.

    The same arguments give the same draws, so that sums and differences of such values are paired, including
    those of values kept on disk. Parameters as for :func:`intervals`.
    """
    everybody = np.ones((1, n_patients))
    values = {name: [statistic(everybody)] for name, statistic in statistics.items()}
    for weights in draw_weights(n_patients, draws, seed):
        for name, statistic in statistics.items():
            values[name].append(statistic(weights))
    return {name: np.concatenate(found) for name, found in values.items()}


def interval_of(values: Floats, level: float = LEVEL) -> Interval:
    """Percentile interval of the values of :func:`drawn_values`."""
    value, drawn = float(values[0]), values[1:]
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, float("nan"), float("nan"), 0)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len(defined))


def difference(first: Statistic, second: Statistic) -> Statistic:
    """``first - second`` on the same draws: the paired bootstrap of two methods on the same patients."""
    return lambda weights: first(weights) - second(weights)


def ratio(numerators: Array, denominators: Array, patients: Array, *, empty: float = np.nan) -> Statistic:
    """A ratio of sums; means, utilities and the challenge metric are all of this form.

    Parameters
    ----------
    numerators, denominators
        Shape ``(n,)``: contribution of each record or row.
    patients
        Shape ``(n,)``: index of the patient of each, from 0. Patients without any add nothing.
    empty
        The value where the denominator is 0.
    """
    top, bottom = np.bincount(patients, numerators), np.bincount(patients, denominators)

    def statistic(weights: Floats) -> Floats:
        return quotient(weights[:, : len(top)] @ top, weights[:, : len(bottom)] @ bottom, empty)

    return statistic


def utility(labels: Array, alarms: Array, offsets: Array) -> Statistic:
    """Normalised utility 2019; one weight per stay. Parameters as in :mod:`ibt_deploy.metrics.sepsis`."""
    rows = row_utilities(labels, offsets)
    return ratio(rows.observed(alarms) - rows.silence, rows.best - rows.silence, rows.stay)


def challenge_metric(labels: Array, outputs: Array, patients: Array, mask: Array | None = None) -> Statistic:
    """Challenge metric 2021.

    Parameters
    ----------
    labels, outputs, mask
        Shape ``(n, 26)``, as in :mod:`ibt_deploy.metrics.arrhythmia`.
    patients
        Shape ``(n,)``: index of each record's patient, from 0.
    """
    gained, possible = Reward(labels, mask=mask).terms(outputs)
    return ratio(gained, possible, patients, empty=0.0)


def f_measure(labels: Array, outputs: Array, patients: Array, mask: Array | None = None) -> Statistic:
    """Macro F over the classes that occur in a draw; parameters as for :func:`challenge_metric`.

    Labels of shape ``(n,)`` give the F of that one class.
    """
    known = np.ones_like(labels, dtype=bool) if mask is None else mask
    positive, given, known = ((np.asarray(a) > 0).reshape(len(a), -1) for a in (labels, outputs, known))
    per_class = [
        ratio(2.0 * right, 2.0 * right + wrong, patients)
        for right, wrong in zip((positive & given & known).T, ((positive != given) & known).T, strict=True)
    ]
    return lambda weights: _mean_of_defined(np.stack([f(weights) for f in per_class]))


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis, ignoring NaN; NaN where all values are."""
    defined = ~np.isnan(values)
    return quotient(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def ranking(
    measure: Literal["auroc", "auprc"],
    labels: Array,
    scores: Array,
    patients: Array,
    mask: Array | None = None,
) -> Statistic:
    """AUROC or AUPRC; of one class, or the mean over the classes that are defined in a draw.

    Parameters
    ----------
    measure
        Which of the two.
    labels, scores
        Shape ``(n,)`` or ``(n, classes)``.
    patients
        Shape ``(n,)``: index of each record's patient, from 0.
    mask
        Shape of ``labels``; true where the label is known.
    """
    if np.ndim(labels) == 1:
        known = slice(None) if mask is None else np.asarray(mask, dtype=bool)
        return _ranking_of_one(measure, np.asarray(labels)[known], np.asarray(scores)[known], patients[known])
    every = [
        ranking(measure, labels[:, c], scores[:, c], patients, None if mask is None else mask[:, c])
        for c in range(np.shape(labels)[1])
    ]
    return lambda weights: _mean_of_defined(np.stack([one(weights) for one in every]))


def _ranking_of_one(measure: str, labels: Array, scores: Array, patients: Array) -> Statistic:
    """AUROC or AUPRC from the counts above, and in, each run of tied scores that holds a positive.

    Positives are rare, so summing between such runs is far cheaper than accumulating over all rows.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.flatnonzero(labels[order] > 0)
    if not len(hits):
        return lambda weights: np.full(len(weights), np.nan)
    patient, hit_patient = np.asarray(patients)[order], np.asarray(patients)[order][hits]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    runs, first_hit = np.unique(np.searchsorted(first, hits, side="right") - 1, return_index=True)
    starts, ends = first[runs], np.append(first, len(order))[runs + 1]
    bounds = np.unique(np.concatenate([[0, len(order)], starts, ends]))
    start, end = np.searchsorted(bounds, starts), np.searchsorted(bounds, ends)

    def values(weights: Floats) -> Floats:
        pieces = np.add.reduceat(weights[:, patient], bounds[:-1], axis=1)
        everyone = np.pad(np.cumsum(pieces, axis=1), ((0, 0), (1, 0)))
        right = np.add.reduceat(weights[:, hit_patient], first_hit, axis=1)
        right_so_far = np.cumsum(right, axis=1)
        whole = right_so_far[:, -1]
        if measure == "auprc":
            value = quotient(right_so_far, everyone[:, end], empty=0.0)
        else:
            above, wrong = everyone[:, start] - right_so_far + right, everyone[:, -1] - whole
            tied = everyone[:, end] - everyone[:, start] - right
            value = wrong[:, None] - above - tied / 2
            whole = whole * wrong
        area = np.einsum("ij,ij->i", right, value)
        return quotient(area, whole)

    def statistic(weights: Floats) -> Floats:
        block = max(1, BLOCK // 16 // len(order))
        return np.concatenate([values(weights[i : i + block]) for i in range(0, len(weights), block)])

    return statistic


def sepsis_statistics(labels: Array, risk: Array, alarms: Array, offsets: Array) -> dict[str, Statistic]:
    """Utility, AUROC, AUPRC and row F as statistics of the stays."""
    stay = stay_of_row(offsets, len(labels))
    return {
        "utility": utility(labels, alarms, offsets),
        "auroc": ranking("auroc", labels, clipped(risk), stay),
        "auprc": ranking("auprc", labels, clipped(risk), stay),
        "f_measure": f_measure(labels, alarms, stay),
    }


def arrhythmia_statistics(
    labels: Array, probabilities: Array, outputs: Array, patients: Array, mask: Array | None = None
) -> dict[str, Statistic]:
    """Challenge metric, macro F, macro AUROC and macro AUPRC as statistics of the patients."""
    return {
        "challenge_metric": challenge_metric(labels, outputs, patients, mask),
        "f_measure": f_measure(labels, outputs, patients, mask),
        "auroc": ranking("auroc", labels, probabilities, patients, mask),
        "auprc": ranking("auprc", labels, probabilities, patients, mask),
    }


def alarm_rates(labels: Array, alarms: Array, offsets: Array) -> dict[str, Statistic]:
    """Sensitivity, PPV and rate of alarms as statistics of the stays.

    Parameters as for :func:`ibt_deploy.metrics.sepsis.alarm_statistics`, whose values these have for all
    stays together.
    """
    spans = np.asarray(offsets, dtype=np.int64)
    stay, n = stay_of_row(spans, len(labels)), len(spans) - 1
    onset = onset_rows(labels, spans)
    from_onset = np.arange(len(labels)) - spans[:-1][stay] - onset[stay]
    right = (np.asarray(alarms) > 0) & (from_onset >= EARLIEST) & (from_onset <= LATEST)
    given = np.bincount(stay, np.asarray(alarms) > 0, n)
    hits, hours, each = np.bincount(stay, right, n), np.bincount(stay, minlength=n), np.arange(n)
    return {
        "sensitivity": ratio(hits > 0, ~np.isnan(onset), each),
        "ppv": ratio(hits, given, each),
        "alarms_per_100_patient_days": ratio(100 * given, hours / HOURS_PER_DAY, each),
    }
