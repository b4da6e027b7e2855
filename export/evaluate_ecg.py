"""Figures of an ECG model on a set of recordings, with bootstrap intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.data import EcgPart
from export.decide import CHALLENGE, Decisions
from export.figures import (
    calibration_figures,
    compared,
    decision_statistics,
    figures,
    number,
    reliability_bins,
)
from export.scored import Answers
from ibt_deploy.classes import CLASSES
from ibt_deploy.decisions import decisions as decisions_of
from ibt_deploy.metrics import arrhythmia, bootstrap
from ibt_deploy.metrics.ranking import auroc, per_class
from training.data.split import FEWEST_POSITIVES

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FIXED = "0.5 for every class"
SMALLEST_GROUP = 20
"""Recordings from which on a sub-group gets figures."""


def ecg_evaluation(
    answers: Answers[EcgPart], decisions: Decisions, evaluable: Bools, draws: int
) -> dict[str, Any]:
    """Everything that is published about one set.

    Parameters
    ----------
    answers
        What the model said.
    decisions
        Its operating points.
    evaluable
        Classes that may be put out, shape ``(26,)``.
    draws
        Of the bootstrap.
    """
    part, p = answers.part, answers.probabilities
    n_patients = len(np.unique(part.patients))
    outputs = {FIXED: decisions_of(p, np.full(len(CLASSES), 0.5), evaluable)}
    for name in decisions.points:
        outputs[name] = (
            answers.positive if name == decisions.default else decisions.outputs(name, p, evaluable)
        )
    official = outputs.get(CHALLENGE, answers.positive)
    counted = ranked_classes(part, evaluable)
    scored = part.known & evaluable
    return {
        "recordings": len(part),
        "patients": n_patients,
        "refused": answers.refused,
        "unknown_labels": int((~part.known).sum()),
        "thresholds": {
            name: _threshold_row(part, given, n_patients, draws) for name, given in outputs.items()
        },
        "threshold_free": figures(_ranking(part, p, counted), n_patients, draws)
        | {"n_classes": int(counted.sum())},
        "calibration": calibration_figures(part.labels[scored], p[scored])
        | {"bins": reliability_bins(part.labels[scored], p[scored])},
        "classes": _classes(answers, counted, n_patients, draws),
        "groups": {
            name: {
                value: _group(answers, official, values == value, evaluable, draws)
                for value in sorted(set(values.tolist()))
            }
            for name, values in part.groups.items()
        },
    }


def ranked_classes(part: EcgPart, evaluable: Bools) -> Bools:
    """Evaluable classes with at least five positives in this set: those a macro mean is taken over."""
    counted: Bools = evaluable & ((part.labels & part.known).sum(axis=0) >= FEWEST_POSITIVES)
    return counted


def macro_auroc(part: EcgPart, probabilities: Floats, evaluable: Bools) -> float:
    """Mean AUROC over :func:`ranked_classes`."""
    c = ranked_classes(part, evaluable)
    return per_class(auroc, part.labels[:, c], probabilities[:, c], part.known[:, c]).mean


def _ranking(part: EcgPart, p: Floats, counted: Bools) -> dict[str, bootstrap.Statistic]:
    labels, known = part.labels[:, counted], part.known[:, counted]
    if not counted.any():
        return {}
    return {
        "auroc": bootstrap.ranking("auroc", labels, p[:, counted], part.patients, known),
        "auprc": bootstrap.ranking("auprc", labels, p[:, counted], part.patients, known),
    }


def _threshold_row(part: EcgPart, given: Bools, n_patients: int, draws: int) -> dict[str, Any]:
    statistics = {
        "challenge_metric": bootstrap.challenge_metric(part.labels, given, part.patients, part.known),
        "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
    }
    return figures(statistics, n_patients, draws) | {
        "n_f_classes": arrhythmia.f_measure(part.labels, given, part.known).n_classes,
        "accuracy": number(arrhythmia.accuracy(part.labels, given, part.known)),
    }


def _classes(
    answers: Answers[EcgPart], counted: Bools, n_patients: int, draws: int
) -> dict[str, dict[str, Any]]:
    part, found = answers.part, {}
    for c, entry in enumerate(CLASSES):
        known = part.known[:, c]
        labels, p, given = part.labels[known, c], answers.probabilities[known, c], answers.positive[known, c]
        patients = part.patients[known]
        table: dict[str, Any] = {"n": int(known.sum()), "positives": int(labels.sum())}
        if counted[c]:
            statistics = {
                "auroc": bootstrap.ranking("auroc", labels, p, patients),
                "auprc": bootstrap.ranking("auprc", labels, p, patients),
                "f_measure": bootstrap.f_measure(labels, given, patients),
                **decision_statistics(labels, given, patients),
            }
            table |= figures(statistics, n_patients, draws) | {"calibration": calibration_figures(labels, p)}
        found[entry.abbreviation] = table
    return found


def _group(
    answers: Answers[EcgPart], official: Bools, chosen: Bools, evaluable: Bools, draws: int
) -> dict[str, Any]:
    """Figures of some recordings; ``official`` is what is put out for the challenge metric."""
    part = answers.part.select(chosen)
    p, given = answers.probabilities[chosen], answers.positive[chosen]
    counted = ranked_classes(part, evaluable)
    n_patients = len(np.unique(part.patients))
    table: dict[str, Any] = {"recordings": len(part), "patients": n_patients, "n_classes": int(counted.sum())}
    if len(part) < SMALLEST_GROUP:
        return table
    statistics = {
        "challenge_metric": bootstrap.challenge_metric(
            part.labels, official[chosen], part.patients, part.known
        ),
        "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
        **_ranking(part, p, counted),
    }
    known = part.known & evaluable
    calibration = calibration_figures(part.labels[known], p[known])
    return table | figures(statistics, n_patients, draws) | {"calibration": calibration}


def ecg_comparison(
    student: Answers[EcgPart],
    teacher: Answers[EcgPart],
    official: tuple[Bools, Bools],
    evaluable: Bools,
    draws: int,
) -> dict[str, Any]:
    """Teacher's figures on the same recordings, and student minus teacher on the same draws.

    ``official`` is what each of them puts out for the challenge metric.
    """
    part = student.part
    n_patients = len(np.unique(part.patients))
    counted = ranked_classes(part, evaluable)
    both = []
    for answers, outputs in zip((student, teacher), official, strict=True):
        given = answers.positive
        both.append(
            {
                "challenge_metric": bootstrap.challenge_metric(
                    part.labels, outputs, part.patients, part.known
                ),
                "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
                **_ranking(part, answers.probabilities, counted),
            }
        )
    return compared(both[0], both[1], n_patients, draws)
