"""What an alarm policy means at the bedside: how many alarms, how early, and how many of them right.

The policy
    An alarm is given when the risk reaches the threshold. Then there is silence for a number of hours.
    After the silence it is given again only if something has changed for the worse: the risk is higher
    than at the last alarm, or has since fallen below the threshold and come back. The decision for an
    hour depends on that hour and earlier ones alone.

What counts
    An alarm is right when it comes from 12 h before to 3 h after onset, the hours in which the utility
    of the Challenge 2019 rewards it. Earlier, later, and in a stay without sepsis, it is a false alarm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.metrics.ranking import quotient
from ibt_deploy.metrics.sepsis import EARLIEST, LATEST, onset_rows, stay_of_row
from ibt_deploy.types import Array, Bools, Floats

HOURS_PER_DAY = 24


@dataclass(frozen=True)
class AlarmPolicy:
    """When to give an alarm again.

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
        Shape ``(rows,)``, one row an hour.
    offsets
        Shape ``(stays + 1,)``.
    thresholds
        One threshold, or ``k`` of them to simulate at once.
    policy
        Six hours of silence and any rise, where left out.

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
        Alarms to be looked at for one that is right, ``1 / ppv``; infinite where none is.
    lead_time
        Lower quartile, median and upper quartile of the hours from the first right alarm of a stay to
        onset; negative is after onset. NaN without a right alarm.
    only_after_onset
        Share of septic stays whose first alarm of all comes after onset.
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
    """Statistics of the alarms that were given.

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
    """What :func:`alarm_statistics` says of sensitivity and alarms, at many thresholds at once.

    Parameters
    ----------
    labels, risk, offsets, policy
        As above.
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
