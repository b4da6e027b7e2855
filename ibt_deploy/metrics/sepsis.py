"""Measures of hourly sepsis risk: those of the Challenge 2019, and what an alarm policy means in practice.

Definitions of utility, row F, accuracy, AUROC and AUPRC follow the official ``evaluate_sepsis_score.py``
(physionetchallenges/evaluation-2019), whose results on ``tests/data/metric_vectors.json`` are reproduced. The
utility of a row depends only on its own alarm and its distance from onset, so alarm and silence are each
worth a fixed amount per row. Sorting rows by risk and summing the difference then gives the utility at every
threshold at once.

Quirks of the official code
    Its AUROC starts at threshold 1 and drops threshold 0, so that risks of exactly 0 or 1 spoil it;
    risks are therefore clipped to [1e-6, 1 - 1e-6], where it equals the usual AUROC. Without negative
    rows it reports an AUROC of 1, which is kept; without positive rows it reports 0, where this
    module says NaN. Rows later than 3 h after onset are worth nothing, so alarms there are free.

The alarm policy
    An alarm is given when the risk reaches the threshold. Then there is silence for a number of hours.
    After the silence it is given again only if something has changed for the worse: the risk is higher
    than at the last alarm, or has since fallen below the threshold and come back. The decision for an
    hour depends on that hour and earlier ones alone.

What counts as a right alarm
    An alarm is right when it comes from 12 h before to 3 h after onset, the hours in which the utility
    of the Challenge 2019 rewards it. Earlier, later, and in a stay without sepsis, it is a false alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ibt_deploy.metrics.ranking import auprc, auroc, quotient
from ibt_deploy.types import Array, Bools, Floats, Indices

LABEL_LEAD = 6
"""The label turns 1 this many hours before onset."""
EARLIEST, OPTIMAL, LATEST = -12, -6, 3
"""Hours from onset: first useful alarm, best alarm, last useful alarm."""
BEST_ALARM, WORST_SILENCE, FALSE_ALARM = 1.0, -2.0, -0.05
CLIP = 1e-6


def stay_of_row(offsets: Array, n_rows: int) -> Indices:
    """Index of the stay of each row, shape ``(n_rows,)``.

    Raises
    ------
    ValueError
        When ``offsets`` do not ascend from 0 to ``n_rows``.
    """
    spans = np.asarray(offsets, dtype=np.int64)
    if (
        spans.ndim != 1
        or not len(spans)
        or spans[0] != 0
        or spans[-1] != n_rows
        or (np.diff(spans) < 0).any()
    ):
        raise ValueError(f"offsets must rise from 0 to the number of rows, {n_rows}")
    return np.repeat(np.arange(len(spans) - 1, dtype=np.intp), np.diff(spans))


def onset_rows(labels: Array, offsets: Array) -> Floats:
    """Row within the stay at which sepsis begins, shape ``(stays,)``; NaN where it never does.

    That is the first positive row plus six; it may lie beyond the last row. Where the very first row
    is positive, the true onset may have been earlier.
    """
    positive = np.flatnonzero(np.asarray(labels) > 0)
    stays, first = np.unique(stay_of_row(offsets, len(labels))[positive], return_index=True)
    onsets = np.full(len(offsets) - 1, np.nan)
    onsets[stays] = positive[first] - np.asarray(offsets)[stays] + LABEL_LEAD
    return onsets


@dataclass(frozen=True, eq=False)
class RowUtilities:
    """Utility of alarm and silence in each row.

    Attributes
    ----------
    alarm, silence
        Shape ``(rows,)``.
    stay
        Shape ``(rows,)``: index of each row's stay.
    n_stays, n_septic
        Number of stays, and of those with a positive row.
    """

    alarm: Floats
    silence: Floats
    stay: Indices
    n_stays: int
    n_septic: int

    @property
    def best(self) -> Floats:
        """Utility of each row under the best policy: alarm from 12 h before to 3 h after onset."""
        return np.maximum(self.alarm, self.silence)

    def observed(self, alarms: Array) -> Floats:
        """Utility of each row for ``alarms``, shape ``(rows,)``, true where the alarm is given."""
        return np.where(np.asarray(alarms) > 0, self.alarm, self.silence)

    def per_stay(self, row_values: Array) -> Floats:
        """Sums over each stay of a value per row. Returns shape ``(stays,)``."""
        sums: Floats = np.bincount(self.stay, row_values, self.n_stays).astype(np.float64)
        return sums

    def normalised(self, observed: npt.ArrayLike) -> Floats:
        """Total utilities on the scale where silence is 0 and the best policy 1.

        NaN without a septic patient, because the scale is undefined then.
        """
        silent = self.silence.sum()
        possible = self.best.sum() - silent
        if self.n_septic == 0 or possible <= 0:
            return np.full(np.shape(observed), np.nan)
        return np.asarray((np.asarray(observed, dtype=np.float64) - silent) / possible)


def row_utilities(labels: Array, offsets: Array) -> RowUtilities:
    """Utility of alarm and silence in each row, given ``SepsisLabel``.

    Parameters
    ----------
    labels
        Shape ``(rows,)``, 1 from six hours before onset.
    offsets
        Shape ``(stays + 1,)``.
    """
    labels = np.asarray(labels)
    spans = np.asarray(offsets, dtype=np.int64)
    stay = stay_of_row(spans, len(labels))
    onset = onset_rows(labels, spans)
    alarm = np.full(len(labels), FALSE_ALARM)
    silence = np.zeros(len(labels))
    rows = np.flatnonzero(~np.isnan(onset)[stay])
    from_onset = (rows - spans[stay[rows]]) - onset[stay[rows]]
    early = np.maximum(BEST_ALARM * (from_onset - EARLIEST) / (OPTIMAL - EARLIEST), FALSE_ALARM)
    late = BEST_ALARM * (LATEST - from_onset) / (LATEST - OPTIMAL)
    missed = WORST_SILENCE * (from_onset - OPTIMAL) / (LATEST - OPTIMAL)
    useful = from_onset <= LATEST
    alarm[rows] = np.where(from_onset <= OPTIMAL, early, np.where(useful, late, 0.0))
    silence[rows] = np.where((from_onset > OPTIMAL) & useful, missed, 0.0)
    return RowUtilities(alarm, silence, stay, len(spans) - 1, int((~np.isnan(onset)).sum()))


def utility(labels: Array, alarms: Array, offsets: Array) -> float:
    """Normalised utility: 1 for the best policy, 0 for silence, NaN without a septic patient.

    Parameters
    ----------
    labels, alarms
        Shape ``(rows,)``, true where positive.
    offsets
        Shape ``(stays + 1,)``.
    """
    rows = row_utilities(labels, offsets)
    return float(rows.normalised(rows.observed(alarms).sum()))


class UtilitySweep(NamedTuple):
    """Normalised utility at every threshold that changes anything.

    Attributes
    ----------
    thresholds
        Infinity (never an alarm), then every distinct risk, descending.
    utilities
        Same shape, for an alarm wherever risk >= threshold.
    """

    thresholds: Floats
    utilities: Floats

    def at(self, thresholds: npt.ArrayLike) -> Floats:
        """Utilities at any ``thresholds``; same shape as these."""
        wanted = np.asarray(thresholds, dtype=np.float64)
        return self.utilities[np.searchsorted(-self.thresholds, -wanted, side="right") - 1]


def utility_sweep(
    labels: Array, risk: Array, offsets: Array, rows: RowUtilities | None = None
) -> UtilitySweep:
    """Normalised utility at every distinct risk, in one pass.

    Parameters
    ----------
    labels, offsets
        As for :func:`utility`.
    risk
        Shape ``(rows,)``, on any scale; may not hold NaN.
    rows
        The result of :func:`row_utilities` on the same labels, if already available.
    """
    rows = rows or row_utilities(labels, offsets)
    risk = np.asarray(risk, dtype=np.float64)
    if risk.shape != rows.alarm.shape or np.isnan(risk).any():
        raise ValueError(f"risk {risk.shape} must be a vector of {len(rows.alarm)} values without NaN")
    order = np.argsort(-risk)
    ordered = risk[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else order
    gained = np.cumsum((rows.alarm - rows.silence)[order])[last]
    observed = rows.silence.sum() + np.append(0.0, gained)
    return UtilitySweep(np.append(np.inf, ordered[last]), rows.normalised(observed))


def clipped(risk: Array) -> Floats:
    """Risk clipped to [1e-6, 1 - 1e-6], where the official AUROC is sound."""
    return np.clip(np.asarray(risk, dtype=np.float64), CLIP, 1 - CLIP)


@dataclass(frozen=True)
class SepsisScores:
    """All measures of one set of stays; ``notes`` says what is undefined and why."""

    n_stays: int
    n_septic: int
    n_rows: int
    threshold: float
    utility: float
    f_measure: float
    accuracy: float
    auroc: float
    auprc: float
    notes: tuple[str, ...]


def row_f_measure(labels: Array, alarms: Array) -> float:
    """F of the positive class pooled over rows; 1 if nothing is positive, as in the official code."""
    positive, given = np.asarray(labels) > 0, np.asarray(alarms) > 0
    right, wrong = int((positive & given).sum()), int((positive != given).sum())
    return 2 * right / (2 * right + wrong) if right or wrong else 1.0


def scores(labels: Array, risk: Array, offsets: Array, threshold: float) -> SepsisScores:
    """Every measure of hourly risks in [0, 1] at one threshold (alarm where risk >= threshold)."""
    positive = np.asarray(labels) > 0
    alarms = np.asarray(risk) >= threshold
    rows = row_utilities(positive, offsets)
    notes = []
    if rows.n_septic == 0:
        notes.append(f"none of the {rows.n_stays} stays is septic: utility, AUROC and AUPRC are undefined")
    only_positive = bool(len(positive)) and bool(positive.all())
    if only_positive:
        notes.append("every row is positive: AUROC is 1 by the convention of the official code")
    return SepsisScores(
        n_stays=rows.n_stays,
        n_septic=rows.n_septic,
        n_rows=len(positive),
        threshold=threshold,
        utility=float(rows.normalised(rows.observed(alarms).sum())),
        f_measure=row_f_measure(positive, alarms),
        accuracy=float(np.mean(positive == alarms)) if len(positive) else float("nan"),
        auroc=1.0 if only_positive else auroc(positive, clipped(risk)),
        auprc=auprc(positive, clipped(risk)),
        notes=tuple(notes),
    )


HOURS_PER_DAY = 24


@dataclass(frozen=True)
class AlarmPolicy:
    """When to repeat an alarm.

    Attributes
    ----------
    silence
        Hours that must pass between two alarms of a stay.
    rise
        How far the risk must exceed that of the last alarm to give another.
    """

    silence: int = 6
    rise: float = 0.0


def policy_alarms(
    risk: Array, offsets: Array, thresholds: npt.ArrayLike, policy: AlarmPolicy | None = None
) -> Bools:
    """Hours in which the policy gives an alarm.

    Parameters
    ----------
    risk
        Shape ``(rows,)``, one row per hour.
    offsets
        Shape ``(stays + 1,)``.
    thresholds
        One threshold, or ``k`` of them to simulate at once.
    policy
        Default: six hours of silence and any rise.

    Returns
    -------
    Shape ``(rows,)``, or ``(rows, k)``.
    """
    policy = policy or AlarmPolicy()
    limits = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    values, spans = np.asarray(risk, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    lengths = np.diff(spans)
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = spans[:-1][longest_first], lengths[longest_first]
    alarms = np.zeros((len(values), len(limits)), dtype=bool)
    armed = np.ones((len(lengths), len(limits)), dtype=bool)
    level = np.zeros(armed.shape)
    ready = np.zeros(armed.shape, dtype=np.int64)
    for hour in range(int(lengths[0]) if len(lengths) else 0):
        here = slice(0, int(np.searchsorted(-lengths, -hour, side="left")))
        rows = starts[here] + hour
        now = values[rows][:, None]
        over = now >= limits
        armed[here] |= ~over
        given = over & (ready[here] <= hour) & (armed[here] | (now > level[here] + policy.rise))
        armed[here] &= ~given
        np.copyto(level[here], now, where=given)
        np.copyto(ready[here], hour + policy.silence, where=given)
        alarms[rows] = given
    return alarms if np.ndim(thresholds) else alarms[:, 0]


@dataclass(frozen=True)
class AlarmStatistics:
    """Alarms of a set of stays, counted by patient.

    Attributes
    ----------
    n_stays, n_septic, patient_days, n_alarms
        Patient-days are rows / 24.
    sensitivity
        Share of septic stays with an alarm from 12 h before to 3 h after onset; NaN without such a stay.
    ppv
        Share of alarms that are right; NaN without an alarm.
    alarms_per_100_patient_days
        NaN without a row.
    number_needed_to_evaluate
        Alarms to be checked for each right one, ``1 / ppv``; infinite if none is right.
    lead_time
        Lower quartile, median and upper quartile of the hours from the first right alarm of a stay to
        onset; negative is after onset. NaN without a right alarm.
    only_after_onset
        Share of septic stays whose very first alarm comes after onset.
    """

    n_stays: int
    n_septic: int
    patient_days: float
    n_alarms: int
    sensitivity: float
    ppv: float
    alarms_per_100_patient_days: float
    number_needed_to_evaluate: float
    lead_time: tuple[float, float, float]
    only_after_onset: float


def alarm_statistics(labels: Array, alarms: Array, offsets: Array) -> AlarmStatistics:
    """Statistics of given alarms.

    Parameters
    ----------
    labels
        Shape ``(rows,)``: ``SepsisLabel``.
    alarms
        Shape ``(rows,)``, true where an alarm is given, for example by :func:`policy_alarms`.
    offsets
        Shape ``(stays + 1,)``.
    """
    given = np.flatnonzero(np.asarray(alarms) > 0)
    onset = onset_rows(labels, offsets)
    stay = stay_of_row(offsets, len(labels))[given]
    from_onset = given - np.asarray(offsets)[stay] - onset[stay]
    right = (from_onset >= EARLIEST) & (from_onset <= LATEST)
    detected, first_right = np.unique(stay[right], return_index=True)
    first = np.unique(stay, return_index=True)[1]
    late = int((from_onset[first] > 0).sum())
    lead = -from_onset[right][first_right]
    n_septic, days = int((~np.isnan(onset)).sum()), len(labels) / HOURS_PER_DAY
    quartiles = np.quantile(lead, [0.25, 0.5, 0.75]) if len(lead) else np.full(3, np.nan)
    ppv = float(quotient(right.sum(), len(given)))
    return AlarmStatistics(
        n_stays=len(onset),
        n_septic=n_septic,
        patient_days=days,
        n_alarms=len(given),
        sensitivity=float(quotient(len(detected), n_septic)),
        ppv=ppv,
        alarms_per_100_patient_days=float(quotient(100 * len(given), days)),
        number_needed_to_evaluate=1 / ppv if ppv else float("inf"),
        lead_time=(float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
        only_after_onset=float(quotient(late, n_septic)),
    )


@dataclass(frozen=True, eq=False)
class AlarmBurden:
    """Sensitivity and number of alarms at each of several thresholds, shape ``(k,)`` each."""

    thresholds: Floats
    sensitivity: Floats
    alarms_per_patient_day: Floats


def alarm_burden(
    labels: Array,
    risk: Array,
    offsets: Array,
    thresholds: npt.ArrayLike,
    policy: AlarmPolicy | None = None,
) -> AlarmBurden:
    """Sensitivity and alarms as in :func:`alarm_statistics`, at many thresholds at once.

    Parameters
    ----------
    labels, risk, offsets, policy
        As for :func:`alarm_statistics` and :func:`policy_alarms`.
    thresholds
        Shape ``(k,)``.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    stay = stay_of_row(offsets, len(labels))
    onset = onset_rows(labels, offsets)
    from_onset = np.arange(len(labels)) - np.asarray(offsets)[stay] - onset[stay]
    window = np.flatnonzero((from_onset >= EARLIEST) & (from_onset <= LATEST))
    first = np.unique(stay[window], return_index=True)[1]
    hits, counts = [], []
    # about 64 MB of flags at once
    block = max(1, 64_000_000 // max(len(labels), 1))
    for i in range(0, len(limits), block):
        given = policy_alarms(risk, offsets, limits[i : i + block], policy)
        counts.append(given.sum(axis=0))
        hits.append(np.logical_or.reduceat(given[window], first, axis=0).sum(axis=0) if len(first) else 0)
    days = np.full(len(limits), len(labels) / HOURS_PER_DAY)
    septic = np.full(len(limits), len(first))
    found = np.concatenate([np.broadcast_to(h, c.shape) for h, c in zip(hits, counts, strict=True)])
    return AlarmBurden(limits, quotient(found, septic), quotient(np.concatenate(counts), days))
