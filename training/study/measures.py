"""Every measure of a run on every draw of patients, computed once; tables sum and subtract them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ibt_deploy.metrics import arrhythmia, bootstrap
from training.similarity.agreement import agreement_statistics
from training.stratify import FEWEST_POSITIVES
from training.study.cohort import Bools, Float32s, Floats, Ints, Truth
from training.study.decisions import (
    FIXED,
    OFFICIAL,
    TUNED,
    Decider,
    ecg_decider,
    evaluable_classes,
    stay_decider,
)
from training.study.outputs import run_outputs, subject_sha256
from training.study.plan import Run
from training.study.store import Arrays, kept
from training.study.study import VALIDATION, Study

MEASURES = "measures"
FREE, AGREEMENT = "threshold_free", "agreement"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Measured:
    """A run that was judged.

    Attributes
    ----------
    run
        Which.
    validation
        Official score on validation at its tuned thresholds.
    drawn
        By (set, row, measure): the value on the data as they are and on every draw of patients, as
        :func:`ibt_deploy.metrics.bootstrap.drawn_values` gives them.
    classes
        By set: over how many classes AUROC and AUPRC, and the tuned F measure, are averaged.
    """

    run: Run
    validation: float
    drawn: dict[tuple[str, str, str], Floats]
    classes: dict[str, tuple[int, int]]


def measured(study: Study, run: Run, device: torch.device, draws: int) -> Measured:
    """Judge one finished run; its reference enters where it is finished too."""
    reference = study.reference(run)
    reference = reference if reference and reference.name in study.trained else None
    subjects = study.subjects(run)
    key = {
        "version": VERSION,
        "draws": draws,
        "network": study.trained[run.name]["network_sha256"],
        "reference": study.trained[reference.name]["network_sha256"] if reference else None,
        "sets": {name: subject_sha256(subject) for name, subject in subjects.items()},
    }

    def make() -> Arrays:
        logits, decider = run_outputs(study, run, device), run_decider(study, run, device)
        theirs = run_outputs(study, reference, device) if reference else None
        arrays: Arrays = {"validation": np.array(decider.validation)}
        for name, subject in subjects.items():
            if name == VALIDATION:
                continue
            truth = subject.cohort.truth(subject.items)
            statistics = run_statistics(study.task, decider, logits[name], truth)
            if theirs is not None and reference is not None:
                other = run_decider(study, reference, device)
                row = (TUNED, OFFICIAL[study.task])
                found = agreement_statistics(
                    logits[name],
                    theirs[name],
                    decider.raw_thresholds(row),
                    other.raw_thresholds(row),
                    truth.patients,
                )
                statistics |= {f"{AGREEMENT}|{measure}": one for measure, one in found.items()}
            values = bootstrap.drawn_values(statistics, truth.n_patients, draws=draws)
            arrays |= {f"{name}|{entry}": drawn for entry, drawn in values.items()}
            arrays[f"classes|{name}"] = _class_counts(decider, logits[name], truth)
        return arrays

    return _measured(run, kept(measures_path(study, run), key, make))


def measures_path(study: Study, run: Run) -> Path:
    """Where a run's measures are kept."""
    return study.out / MEASURES / f"{run.name}.npz"


def run_decider(study: Study, run: Run, device: torch.device) -> Decider:
    """Decisions of a run, from its validation part."""
    logits = run_outputs(study, run, device)[VALIDATION]
    subjects = study.subjects(run)
    truth = study.cohort.truth(subjects[VALIDATION].items)
    if study.task == "sepsis":
        return stay_decider(logits, truth)
    train = study.cohort.truth(study.cohort.items("train", run.recipe.data.sites))
    return ecg_decider(logits, truth, evaluable_classes(train, truth))


def run_statistics(
    task: str, decider: Decider, logits: Float32s, truth: Truth
) -> dict[str, bootstrap.Statistic]:
    """Every measure of a set, by ``row|measure``."""
    labels, known, patients = truth.labels, truth.known, truth.patients
    p = decider.probabilities(logits)
    found: dict[str, bootstrap.Statistic] = {}
    for row in (FIXED, TUNED):
        for measure in (OFFICIAL[task], "f_measure"):
            given = decider.outputs(logits, (row, measure))
            if measure == "utility":
                statistic = bootstrap.utility(labels, given, truth.offsets)
            elif measure == "challenge_metric":
                statistic = bootstrap.challenge_metric(labels, given, patients, known)
            else:
                statistic = bootstrap.f_measure(labels, given, patients, known)
            found[f"{row}|{measure}"] = statistic
    if task == "sepsis":
        found[f"{FREE}|auroc"] = bootstrap.ranking("auroc", labels, p, patients)
        found[f"{FREE}|auprc"] = bootstrap.ranking("auprc", labels, p, patients)
        return found
    c = _ranked(decider, truth)
    if c.any():
        found[f"{FREE}|auroc"] = bootstrap.ranking("auroc", labels[:, c], p[:, c], patients, known[:, c])
        found[f"{FREE}|auprc"] = bootstrap.ranking("auprc", labels[:, c], p[:, c], patients, known[:, c])
    return found


def _ranked(decider: Decider, truth: Truth) -> Bools:
    """Evaluable classes with at least five positives in a set, over which ranking is averaged."""
    if truth.labels.ndim == 1:
        return np.ones(1, dtype=bool)
    counts = (truth.labels & truth.known).sum(axis=0)
    return np.asarray(decider.evaluable & (counts >= FEWEST_POSITIVES))


def _class_counts(decider: Decider, logits: Float32s, truth: Truth) -> Ints:
    """How many classes enter the means of ranking measures and of F."""
    if truth.labels.ndim == 1:
        return np.ones(2, dtype=np.int64)
    given = decider.outputs(logits, (TUNED, "f_measure"))
    entered = arrhythmia.f_measure(truth.labels, given, truth.known).n_classes
    return np.array([_ranked(decider, truth).sum(), entered])


def _measured(run: Run, arrays: Arrays) -> Measured:
    drawn, classes = {}, {}
    for name, values in arrays.items():
        if name.startswith("classes|"):
            classes[name.removeprefix("classes|")] = (int(values[0]), int(values[1]))
        elif name != "validation":
            place, row, measure = name.split("|")
            drawn[place, row, measure] = values
    return Measured(run, float(arrays["validation"]), drawn, classes)
