"""Score labelled recordings: challenge metric 2021, macro F, macro AUROC and AUPRC, and every class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.calibration import calibration_line
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation import Evaluation, Group, Label, LabelTable, Measure, index_of_each, why_none
from ibt_deploy.metrics import arrhythmia as metrics
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.ranking import quotient
from ibt_deploy.predictions import ArrhythmiaPrediction, Refusal
from ibt_deploy.predictor import Predictor
from ibt_deploy.records import Recording
from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import CLASSES, label_vector

TITLES = {
    "challenge_metric": "challenge metric 2021",
    "f_measure": "macro F",
    "auroc": "macro AUROC",
    "auprc": "macro AUPRC",
}
COLUMNS = (
    ("positives", "n"),
    ("outputs", "output"),
    ("f", "F"),
    ("sensitivity", "sens."),
    ("specificity", "spec."),
    ("ppv", "PPV"),
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("calibration_slope", "cal. slope"),
    ("calibration_intercept", "cal. intercept"),
)
SOURCE_COLUMNS = (
    ("recordings", "recordings"),
    ("challenge_metric", "challenge metric"),
    ("f", "macro F"),
    ("auroc", "macro AUROC"),
    ("auprc", "macro AUPRC"),
    ("classes", "classes with positives"),
)


@dataclass(frozen=True, eq=False)
class ScoredRecordings:
    """Labels and answers of ``n`` recordings.

    Attributes
    ----------
    records, patients
        Name of each recording, and index of its patient.
    labels, probabilities, outputs
        Shape ``(n, 26)``.
    windows
        Probabilities of the windows of each recording, shape ``(windows, 26)``.
    sources
        Origin of each recording; empty where the table of labels does not say.
    refusals
        Recordings without a score or without a label.
    without_patient
        Recordings that each count as a separate patient, because no patient is named.
    """

    records: tuple[str, ...]
    patients: Ints
    labels: Bools
    probabilities: Floats
    outputs: Bools
    windows: tuple[Floats, ...]
    sources: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    without_patient: int

    def evaluated(self, predictor: Predictor, source: str, draws: int) -> Evaluation:
        """Every measure, with intervals over patients."""
        return evaluated(predictor, self, source, draws)

    def rows(self, predictor: Predictor) -> tuple[list[str], Iterator[list[Any]]]:  # noqa: ARG002
        """Header and rows of ``predictions.csv``: label, probability and output of every class."""
        names = (f"{c.abbreviation} {what}" for c in CLASSES for what in ("label", "probability", "output"))
        columns = zip(self.records, self.labels, self.probabilities, self.outputs, strict=True)
        rows = (
            [record, *(v for y, p, o in zip(*numbers, strict=True) for v in (int(y), f"{p:.9g}", int(o)))]
            for record, *numbers in columns
        )
        return ["record", *names], rows


def scored_recordings(
    predictor: Predictor, files: Iterable[Path], table: LabelTable | None = None
) -> ScoredRecordings:
    """Score the files and find their labels: in the table where there is one, else in the headers.

    A recording without any stated diagnosis is refused (``no_label``). Stated diagnoses of which none is
    among the 26 classes are a label, the empty one.

    Raises
    ------
    DataError
        When no recording is left.
    """
    refusals: list[Refusal] = []
    kept: list[tuple[ArrhythmiaPrediction, Label]] = []
    for item, answer in predictor.predict_pairs(files):
        if isinstance(answer, Refusal):
            refusals.append(answer)
        elif isinstance(item, Recording) and isinstance(answer, ArrhythmiaPrediction):
            label = table.of(item) if table else Label(item.dx) if item.dx is not None else None
            if label is None:
                where = "the table of labels" if table else "the header"
                message = f"{item.source}: {where} states no diagnosis"
                refusals.append(Refusal(item.source, "no_label", message))
            else:
                kept.append((answer, label))
    if not kept:
        raise DataError(f"no recording has both an answer and a label {why_none(refusals)}")
    names = [label.patient or f"\0{answer.source}" for answer, label in kept]
    return ScoredRecordings(
        records=tuple(answer.record for answer, _ in kept),
        patients=np.array(index_of_each(names)),
        labels=np.array([label_vector(label.codes) for _, label in kept]),
        probabilities=np.array([answer.probabilities for answer, _ in kept]),
        outputs=np.array([answer.positive for answer, _ in kept]),
        windows=tuple(answer.windows for answer, _ in kept),
        sources=tuple(label.source for _, label in kept),
        refusals=tuple(refusals),
        without_patient=sum(label.patient is None for _, label in kept),
    )


def evaluated(
    predictor: Predictor, scored: ScoredRecordings, source: str, draws: int = bootstrap.DRAWS
) -> Evaluation:
    """Every measure of scored recordings, with intervals over patients."""
    labels, probabilities, outputs = scored.labels, scored.probabilities, scored.outputs
    n_patients = int(scored.patients.max()) + 1
    statistics = bootstrap.arrhythmia_statistics(labels, probabilities, outputs, scored.patients)
    found = bootstrap.intervals(statistics, n_patients, draws=draws)
    scores = metrics.scores(labels, probabilities, outputs)
    entered = {"f_measure": scores.f_measure, "auroc": scores.auroc, "auprc": scores.auprc}
    measures = [
        Measure.of(
            name, f"{title} ({entered[name].n_classes} classes)" if name in entered else title, found[name]
        )
        for name, title in TITLES.items()
    ]
    measures.append(Measure("accuracy", "all 26 classes right", scores.accuracy))
    notes = list(scores.notes)
    if scored.without_patient:
        notes.append(f"{scored.without_patient} recordings name no patient; each counts as one of its own")
    evaluable = np.array([c.evaluable for c in predictor.bundle.classes])
    if not evaluable.all():
        never = ", ".join(CLASSES[i].abbreviation for i in np.flatnonzero(~evaluable))
        notes.append(f"never reported, because training and validation say too little about them: {never}")
    return Evaluation(
        task="arrhythmia",
        source=source,
        model=predictor.model,
        counts={
            "recordings": len(scored.records),
            "patients": n_patients,
            "refused": len(scored.refusals),
        },
        measures=tuple(measures),
        groups=(_per_class(scored, scores, evaluable), *_per_source(scored)),
        refusals=scored.refusals,
        notes=tuple(notes),
        draws=draws,
    )


def _per_source(scored: ScoredRecordings) -> Iterator[Group]:
    """The same by source, if the table names more than one: labels and sources are often confounded."""
    names = sorted(set(scored.sources))
    if len(names) < 2:
        return
    rows = []
    for name in names:
        chosen = np.array(scored.sources) == name
        scores = metrics.scores(scored.labels[chosen], scored.probabilities[chosen], scored.outputs[chosen])
        numbers = {
            "recordings": scores.n_records,
            "challenge_metric": scores.challenge_metric,
            "f": scores.f_measure.mean,
            "auroc": scores.auroc.mean,
            "auprc": scores.auprc.mean,
            "classes": scores.auroc.n_classes,
        }
        rows.append((name or "not stated", numbers))
    yield Group("sources", "source", SOURCE_COLUMNS, tuple(rows))


def _per_class(scored: ScoredRecordings, scores: metrics.ArrhythmiaScores, evaluable: Bools) -> Group:
    labels, outputs = scored.labels, scored.outputs
    both, neither = (labels & outputs).sum(axis=0), (~labels & ~outputs).sum(axis=0)
    sensitivity = quotient(both, labels.sum(axis=0))
    specificity = quotient(neither, (~labels).sum(axis=0))
    ppv = quotient(both, outputs.sum(axis=0))
    rows = []
    for i, c in enumerate(CLASSES):
        line = calibration_line(labels[:, i], scored.probabilities[:, i])
        numbers: dict[str, Any] = {
            "positives": int(labels[:, i].sum()),
            "outputs": int(outputs[:, i].sum()),
            "f": float(scores.f_measure.per_class[i]),
            "sensitivity": float(sensitivity[i]),
            "specificity": float(specificity[i]),
            "ppv": float(ppv[i]),
            "auroc": float(scores.auroc.per_class[i]),
            "auprc": float(scores.auprc.per_class[i]),
            "calibration_slope": line.slope,
            "calibration_intercept": line.intercept,
            "evaluable": bool(evaluable[i]),
        }
        rows.append((c.abbreviation, numbers))
    return Group("classes", "class", COLUMNS, tuple(rows))
