"""Figures of a stay model on a set of stays, with bootstrap intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.data import StayPart
from export.decide import Decisions
from export.figures import calibration_figures, compared, figures, number, reliability_bins
from export.scored import Answers
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_statistics, policy_alarms, stay_of_row

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FIXED = "0.5"
SMALLEST_GROUP = 20
"""Septic stays from which on a sub-group gets figures."""


def stay_evaluation(answers: Answers[StayPart], decisions: Decisions, draws: int) -> dict[str, Any]:
    """Everything that is published about one set.

    Parameters
    ----------
    answers
        What the model said.
    decisions
        Its operating points.
    draws
        Of the bootstrap.
    """
    part, risk = answers.part, answers.probabilities
    labels = part.labels
    thresholds = {FIXED: 0.5} | {name: float(p.thresholds[0]) for name, p in decisions.points.items()}
    alarms = {
        name: answers.positive if name == decisions.default else risk >= threshold
        for name, threshold in thresholds.items()
    }
    return {
        "stays": len(part),
        "septic": int(part.septic.sum()),
        "hours": len(labels),
        "positive_hours": int(labels.sum()),
        "refused": answers.refused,
        "thresholds": {
            name: {"threshold": number(thresholds[name])}
            | figures(_threshold_statistics(part, given), len(part), draws)
            for name, given in alarms.items()
        },
        "threshold_free": figures(_ranking(part, risk), len(part), draws),
        "alarms": {
            name: _alarms(part, risk, thresholds[name], draws) for name in thresholds if name != FIXED
        },
        "calibration": calibration_figures(labels, risk) | {"bins": reliability_bins(labels, risk)},
        "groups": {
            name: {value: _group(answers, values == value, draws) for value in sorted(set(values.tolist()))}
            for name, values in part.groups.items()
        },
    }


def _threshold_statistics(part: StayPart, alarms: Bools) -> dict[str, bootstrap.Statistic]:
    stay = stay_of_row(part.offsets, len(part.labels))
    return {
        "utility": bootstrap.utility(part.labels, alarms, part.offsets),
        "f_measure": bootstrap.f_measure(part.labels, alarms, stay),
    }


def _ranking(part: StayPart, risk: Floats) -> dict[str, bootstrap.Statistic]:
    statistics = bootstrap.sepsis_statistics(part.labels, risk, risk >= 0.5, part.offsets)
    return {name: statistics[name] for name in ("auroc", "auprc")}


def _alarms(part: StayPart, risk: Floats, threshold: float, draws: int) -> dict[str, Any]:
    policy = AlarmPolicy()
    given = policy_alarms(risk, part.offsets, threshold, policy)
    found = alarm_statistics(part.labels, given, part.offsets)
    return figures(bootstrap.alarm_rates(part.labels, given, part.offsets), len(part), draws) | {
        "alarms": found.n_alarms,
        "patient_days": number(found.patient_days),
        "number_needed_to_evaluate": number(found.number_needed_to_evaluate),
        "lead_time_hours": [number(hours) for hours in found.lead_time],
        "only_after_onset": number(found.only_after_onset),
        "silence_hours": policy.silence,
    }


def _group(answers: Answers[StayPart], chosen: Bools, draws: int) -> dict[str, Any]:
    part = answers.part.select(chosen)
    rows = np.repeat(chosen, np.diff(answers.part.offsets))
    risk, alarms = answers.probabilities[rows], answers.positive[rows]
    table: dict[str, Any] = {"stays": len(part), "septic": int(part.septic.sum())}
    if table["septic"] < SMALLEST_GROUP:
        return table
    statistics = {"utility": bootstrap.utility(part.labels, alarms, part.offsets), **_ranking(part, risk)}
    calibration = calibration_figures(part.labels, risk)
    return table | figures(statistics, len(part), draws) | {"calibration": calibration}


def stay_comparison(student: Answers[StayPart], teacher: Answers[StayPart], draws: int) -> dict[str, Any]:
    """Teacher's figures on the same stays, and student minus teacher on the same draws."""
    part = student.part
    both = [
        bootstrap.sepsis_statistics(part.labels, a.probabilities, a.positive, part.offsets)
        for a in (student, teacher)
    ]
    return compared(both[0], both[1], len(part), draws)
