"""Logits of every finished run, and all its measures on every bootstrap draw of patients, computed once.

How well a student reproduces its teacher's outputs is one of the measures, in several readings. The paper
reports "r-square values" without a definition. The primary one here is, for each class, the squared Pearson
correlation of the two networks' probabilities over test records (all valid hours for stays), averaged over
the classes whose outputs are not constant. Pooling the classes inflates it: rare classes are low in both
networks, regardless of what either has learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.bundle import sigmoid
from ibt_deploy.errors import DataError
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.bootstrap import Statistic, ratio
from ibt_deploy.metrics.ranking import quotient
from ibt_deploy.types import Array, Float32s, Floats
from training.checkpoint import load_network
from training.models import Encoder
from training.study.plan import Run
from training.study.study import VALIDATION, Arrays, Study, Subject, kept
from training.tasks import TASKS
from training.tasks.base import TUNED, Decider

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
        Share of equal decisions; high for rare classes regardless of the networks.
    ``kappa``
        Cohen's kappa of the decisions, mean over the classes where it is defined: 0 is chance.
    """
    a, b = _columns(student), _columns(teacher)
    p, q = sigmoid(a), sigmoid(b)
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


Moments = tuple[Floats, Floats, Floats, Floats, Floats, Floats]
"""For each patient: count, and sums of x, y, x^2, y^2 and x y."""


def _columns(values: Array) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _pairs(student: Floats, teacher: Floats) -> list[tuple[Floats, Floats]]:
    """Columns of both networks by class, standardised by the teacher's mean and standard deviation.

    This changes no measure here, but makes the sums of squares well conditioned.
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
    """Variance, exactly 0 where only rounding error is left."""
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


OUTPUTS = "outputs"
OUTPUTS_VERSION = 2


def run_outputs(study: Study, run: Run, device: torch.device) -> dict[str, Float32s]:
    """Logits by the name of the set: ``(recordings, 26)``, or for all hours of the stays end to end.

    Raises
    ------
    DataError
        When the run was trained under another split.
    """
    subjects = study.subjects(run)

    def make() -> dict[str, Float32s]:
        trained = load_network(study.checkpoint(run))
        if trained.split_sha256 != study.cohort.split_sha256:
            raise DataError(f"{run.name}: was trained under another split of the same data")
        network = trained.network.to(device)
        return {
            name: network_logits(network, subject, trained.preprocessing, device)
            for name, subject in subjects.items()
        }

    key = {
        "version": OUTPUTS_VERSION,
        "network": study.trained[run.name]["network_sha256"],
        "sets": {name: subject_sha256(subject) for name, subject in subjects.items()},
    }
    return kept(study.out / OUTPUTS / f"{run.name}.npz", key, make)


def network_logits(
    network: Encoder, subject: Subject, preprocessing: dict[str, Any], device: torch.device
) -> Float32s:
    """Logits in float32, regardless of training precision and without cuDNN's rounding to TF32."""
    network.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return subject.cohort.logits(network, subject.items, preprocessing, device)


def subject_sha256(subject: Subject) -> str:
    """Hash of the data and of the chosen items."""
    digest = hashlib.sha256(subject.cohort.cache.sha256.encode())
    digest.update(subject.items.astype("<i8").tobytes())
    return digest.hexdigest()


MEASURES = "measures"
AGREEMENT = "agreement"
MEASURES_VERSION = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """Measures of a run.

    Attributes
    ----------
    run
        The run.
    validation
        Official score on validation at its tuned thresholds.
    drawn
        By (set, row, measure): the value on the data as they are and on every draw of patients, as
        :func:`ibt_deploy.metrics.bootstrap.drawn_values` gives them.
    classes
        By set: number of classes over which AUROC and AUPRC, and the tuned F measure, are averaged.
    """

    run: Run
    validation: float
    drawn: dict[tuple[str, str, str], Floats]
    classes: dict[str, tuple[int, int]]


def measured(study: Study, run: Run, device: torch.device, draws: int) -> Measured:
    """Measure one finished run, against its reference if that is finished too."""
    reference = study.reference(run)
    reference = reference if reference and reference.name in study.trained else None
    subjects = study.subjects(run)
    key = {
        "version": MEASURES_VERSION,
        "draws": draws,
        "network": study.trained[run.name]["network_sha256"],
        "reference": study.trained[reference.name]["network_sha256"] if reference else None,
        "sets": {name: subject_sha256(subject) for name, subject in subjects.items()},
    }

    task = TASKS[study.task]

    def make() -> Arrays:
        logits, decider = run_outputs(study, run, device), run_decider(study, run, device)
        theirs = run_outputs(study, reference, device) if reference else None
        arrays: Arrays = {"validation": np.array(decider.validation)}
        for name, subject in subjects.items():
            if name == VALIDATION:
                continue
            truth = subject.cohort.truth(subject.items)
            labelled = subject.cohort.cache.labelled
            statistics = task.statistics(decider, logits[name], truth) if labelled else {}
            if theirs is not None and reference is not None:
                other = run_decider(study, reference, device)
                row = (TUNED, task.official)
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
            if labelled:
                arrays[f"classes|{name}"] = task.class_counts(decider, logits[name], truth)
        return arrays

    return _measured(run, kept(measures_path(study, run), key, make))


def measures_path(study: Study, run: Run) -> Path:
    """File of a run's measures."""
    return study.out / MEASURES / f"{run.name}.npz"


def run_decider(study: Study, run: Run, device: torch.device) -> Decider:
    """Decisions of a run, tuned on its validation part."""
    logits = run_outputs(study, run, device)[VALIDATION]
    cohort = study.cohort
    train = cohort.truth(cohort.items("train", run.recipe.data.sites))
    validation = cohort.truth(study.subjects(run)[VALIDATION].items)
    return TASKS[study.task].decider(logits, train, validation)


def _measured(run: Run, arrays: Arrays) -> Measured:
    drawn, classes = {}, {}
    for name, values in arrays.items():
        if name.startswith("classes|"):
            classes[name.removeprefix("classes|")] = (int(values[0]), int(values[1]))
        elif name != "validation":
            place, row, measure = name.split("|")
            drawn[place, row, measure] = values
    return Measured(run, float(arrays["validation"]), drawn, classes)
