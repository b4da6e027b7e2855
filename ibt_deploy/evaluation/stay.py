"""Score labelled stays: utility 2019, row F, AUROC and AUPRC, calibration, and what the alarms mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.calibration import calibration_line
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation import Evaluation, Group, Measure, why_none
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics import sepsis as metrics
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_statistics, policy_alarms
from ibt_deploy.predictions import Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.records import Stay
from ibt_deploy.types import Bools, Floats, Ints

TITLES = {
    "utility": "utility 2019 (normalised)",
    "auroc": "AUROC (hours)",
    "auprc": "AUPRC (hours)",
    "f_measure": "F (hours)",
}
HOSPITAL = "hospital"
HOSPITAL_COLUMNS = (
    ("stays", "stays"),
    ("septic", "septic"),
    ("hours", "hours"),
    ("utility", "utility"),
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("f", "F"),
    ("calibration_slope", "cal. slope"),
    ("calibration_intercept", "cal. intercept"),
)


@dataclass(frozen=True, eq=False)
class ScoredStays:
    """Labels and risks of the labelled hours of many stays, one after the other.

    Attributes
    ----------
    patients, hospitals
        Per stay; the hospital is empty where the data name none.
    offsets
        Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]``; shape ``(stays + 1,)``.
    hours, labels, risk
        Shape ``(rows,)``.
    refusals
        Stays without a score or without a label.
    unlabelled
        Scored hours that have no label (mostly inserted ones); no measure counts them.
    """

    patients: tuple[str, ...]
    hospitals: tuple[str, ...]
    offsets: Ints
    hours: Ints
    labels: Bools
    risk: Floats
    refusals: tuple[Refusal, ...]
    unlabelled: int

    def evaluated(self, predictor: Predictor, source: str, draws: int) -> Evaluation:
        """Every measure at the operating point, with intervals over patients."""
        return evaluated(predictor, self, source, draws)

    def rows(self, predictor: Predictor) -> tuple[list[str], Iterator[list[Any]]]:
        """Header and rows of ``predictions.csv``: one row for each labelled hour."""
        threshold = float(predictor.thresholds[0])
        rows = (
            [patient, int(hour), int(label), f"{risk:.9g}", int(risk >= threshold)]
            for patient, start, end in zip(self.patients, self.offsets[:-1], self.offsets[1:], strict=True)
            for hour, label, risk in zip(
                self.hours[start:end], self.labels[start:end], self.risk[start:end], strict=True
            )
        )
        return ["patient", "hour", "label", "risk", "alarm"], rows


def scored_stays(predictor: Predictor, files: Iterable[Path]) -> ScoredStays:
    """Score every stay of the files; a stay without ``SepsisLabel`` is refused (``no_label``).

    Raises
    ------
    DataError
        When no stay is left.
    """
    refusals: list[Refusal] = []
    kept: list[tuple[str, str]] = []
    hours: list[Ints] = []
    labels: list[npt.NDArray[np.int8]] = []
    risk: list[Floats] = []
    unlabelled = 0
    for item, answer in predictor.predict_pairs(files):
        if isinstance(answer, Refusal):
            refusals.append(answer)
        elif isinstance(item, Stay) and isinstance(answer, SepsisPrediction):
            known = item.labels >= 0 if item.labels is not None else np.zeros(len(item.values), dtype=bool)
            if item.labels is None or not known.any():
                message = f"{item.source}, patient {item.patient_id}: no SepsisLabel"
                refusals.append(Refusal(item.source, "no_label", message))
                continue
            unlabelled += int((~known).sum())
            kept.append((item.patient_id, str(item.extra.get(HOSPITAL, ""))))
            hours.append(answer.hours[known])
            labels.append(item.labels[known])
            risk.append(answer.risk[known])
    if not kept:
        raise DataError(f"no stay has both a risk and a label {why_none(refusals)}")
    return ScoredStays(
        patients=tuple(patient for patient, _ in kept),
        hospitals=tuple(hospital for _, hospital in kept),
        offsets=np.cumsum([0, *(len(part) for part in risk)]),
        hours=np.concatenate(hours),
        labels=np.concatenate(labels) > 0,
        risk=np.concatenate(risk),
        refusals=tuple(refusals),
        unlabelled=unlabelled,
    )


def evaluated(
    predictor: Predictor, scored: ScoredStays, source: str, draws: int = bootstrap.DRAWS
) -> Evaluation:
    """Every measure of scored stays at the operating point, with intervals over patients."""
    threshold = float(predictor.thresholds[0])
    labels, risk, offsets = scored.labels, scored.risk, scored.offsets
    statistics = bootstrap.sepsis_statistics(labels, risk, risk >= threshold, offsets)
    found = bootstrap.intervals(statistics, len(scored.patients), draws=draws)
    scores = metrics.scores(labels, risk, offsets, threshold)
    line = calibration_line(labels, risk)
    measures = [Measure.of(name, title, found[name]) for name, title in TITLES.items()]
    measures += [
        Measure("accuracy", "accuracy (hours)", scores.accuracy),
        Measure("brier", "Brier score (hours)", brier(labels, risk)),
        Measure("calibration_slope", "calibration slope", line.slope),
        Measure("calibration_intercept", "calibration intercept", line.intercept),
        Measure("threshold", "threshold", threshold),
        *_alarm_measures(labels, risk, offsets, threshold),
    ]
    notes = list(scores.notes)
    if scored.unlabelled:
        notes.append(f"{scored.unlabelled} hours without a label (mostly inserted hours) were left out")
    notes.append(
        f"an alarm is repeated after {AlarmPolicy().silence} h of silence if the risk has risen; "
        f"it is right from {-metrics.EARLIEST} h before to {metrics.LATEST} h after onset"
    )
    return Evaluation(
        task="sepsis",
        source=source,
        model=predictor.model,
        counts={
            "stays": scores.n_stays,
            "septic": scores.n_septic,
            "hours": scores.n_rows,
            "refused": len(scored.refusals),
        },
        measures=tuple(measures),
        groups=tuple(_hospitals(scored, threshold)),
        refusals=scored.refusals,
        notes=tuple(notes),
        draws=draws,
    )


def _alarm_measures(
    labels: Bools,
    risk: Floats,
    offsets: Ints,
    threshold: float,
) -> Iterator[Measure]:
    alarms = alarm_statistics(labels, policy_alarms(risk, offsets, threshold), offsets)
    low, median, high = alarms.lead_time
    for name, title, value in (
        ("sensitivity", "septic stays alarmed in time", alarms.sensitivity),
        ("ppv", "alarms that are right", alarms.ppv),
        ("number_needed_to_evaluate", "alarms for one that is right", alarms.number_needed_to_evaluate),
        ("alarms_per_100_patient_days", "alarms in 100 patient-days", alarms.alarms_per_100_patient_days),
        ("only_after_onset", "septic stays first alarmed after onset", alarms.only_after_onset),
    ):
        yield Measure(name, title, value)
    yield Measure("lead_time", "hours from first right alarm to onset", median)
    yield Measure("lead_time_lower_quartile", "  lower quartile", low)
    yield Measure("lead_time_upper_quartile", "  upper quartile", high)


def _hospitals(scored: ScoredStays, threshold: float) -> Iterator[Group]:
    """The same by hospital, if the data name more than one."""
    names = sorted(set(scored.hospitals))
    if len(names) < 2:
        return
    hospital_of_row = np.repeat(np.array(scored.hospitals), np.diff(scored.offsets))
    rows = []
    for name in names:
        chosen = hospital_of_row == name
        lengths = np.diff(scored.offsets)[np.array(scored.hospitals) == name]
        labels, risk = scored.labels[chosen], scored.risk[chosen]
        scores = metrics.scores(labels, risk, np.cumsum([0, *lengths]), threshold)
        line = calibration_line(labels, risk)
        numbers = {
            "stays": scores.n_stays,
            "septic": scores.n_septic,
            "hours": scores.n_rows,
            "utility": scores.utility,
            "auroc": scores.auroc,
            "auprc": scores.auprc,
            "f": scores.f_measure,
            "calibration_slope": line.slope,
            "calibration_intercept": line.intercept,
        }
        rows.append((name or "not stated", numbers))
    yield Group("hospitals", "hospital", HOSPITAL_COLUMNS, tuple(rows))
