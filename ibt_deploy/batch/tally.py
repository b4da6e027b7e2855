"""Counts that add up: of a part, of the parts done, of the run; and ``summary.json``, which states them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ibt_deploy.batch.plan import Job
from ibt_deploy.predictions import NOTICE, ArrhythmiaPrediction, Prediction, Refusal
from ibt_deploy.printable import one_line
from ibt_deploy.types import Floats

PROBABILITY_EDGES: tuple[float, ...] = tuple(i / 20 for i in range(21))
RISK_EDGES: tuple[float, ...] = (
    *(0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
)
LONGEST_EXAMPLE = 300


@dataclass
class Tally:
    """Counts of the outcomes of some inputs.

    Attributes
    ----------
    inputs
        Files, members of archives or patients that were planned.
    records
        Recordings or stays that were scored.
    rows
        Rows written to ``predictions/``: as many as records, or one for each hour of each stay.
    refused, warnings
        Refused inputs and warned-of records by code.
    examples
        The message of the first refusal of each code.
    positives
        Recordings with each finding, by abbreviation.
    alarm_hours, alarm_stays
        Hours with an alarm, stays with at least one.
    histograms
        Counts between the edges: for each finding over recordings, for ``risk`` over hours and for
        ``highest risk`` over stays.
    """

    inputs: int = 0
    records: int = 0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    positives: Counter[str] = field(default_factory=Counter)
    alarm_hours: int = 0
    alarm_stays: int = 0
    histograms: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n_refused(self) -> int:
        """Refusals of every code."""
        return sum(self.refused.values())

    def count(self, answers: Sequence[Prediction | Refusal]) -> None:
        """Add some answers."""
        predictions: list[Prediction] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                self.refused[answer.code] += 1
                self.examples.setdefault(answer.code, one_line(answer.message)[:LONGEST_EXAMPLE])
            else:
                predictions.append(answer)
                self.warnings.update({notice.code for notice in answer.warnings})
        self.records += len(predictions)
        if not predictions:
            return
        if isinstance(predictions[0], ArrhythmiaPrediction):
            self._count_findings([p for p in predictions if isinstance(p, ArrhythmiaPrediction)])
            return
        for stay in predictions:
            assert not isinstance(stay, ArrhythmiaPrediction)
            self.rows += len(stay.risk)
            self.alarm_hours += int(stay.alarms.sum())
            self.alarm_stays += bool(stay.alarms.any())
            self._spread("risk", stay.risk, RISK_EDGES)
            self._spread("highest risk", stay.risk.max(keepdims=True), RISK_EDGES)

    def add(self, other: Tally) -> None:
        """Add the counts of other inputs."""
        for name in ("inputs", "records", "rows", "alarm_hours", "alarm_stays"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("refused", "warnings", "positives"):
            getattr(self, name).update(getattr(other, name))
        self.examples = other.examples | self.examples
        for name, counts in other.histograms.items():
            mine = self.histograms.setdefault(name, [0] * len(counts))
            self.histograms[name] = [a + b for a, b in zip(mine, counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON knows them, in a fixed order."""
        return {
            "inputs": self.inputs,
            "records": self.records,
            "rows": self.rows,
            "refused": dict(sorted(self.refused.items())),
            "warnings": dict(sorted(self.warnings.items())),
            "examples": dict(sorted(self.examples.items())),
            "positives": dict(self.positives),
            "alarm_hours": self.alarm_hours,
            "alarm_stays": self.alarm_stays,
            "histograms": self.histograms,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Tally:
        """The counts that :meth:`to_dict` gave."""
        counters = {name: Counter(stored[name]) for name in ("refused", "warnings", "positives")}
        return cls(**{**stored, **counters})

    def _count_findings(self, predictions: Sequence[ArrhythmiaPrediction]) -> None:
        self.rows += len(predictions)
        names = [short_name(c.abbreviation) for c in predictions[0].classes]
        positive = np.array([p.positive for p in predictions]).sum(axis=0)
        for name, column, count in zip(
            names, np.array([p.probabilities for p in predictions]).T, positive.tolist(), strict=True
        ):
            self.positives[name] += count
            self._spread(name, column, PROBABILITY_EDGES)

    def _spread(self, name: str, values: Floats, edges: tuple[float, ...]) -> None:
        counts = self.histograms.setdefault(name, [0] * (len(edges) - 1))
        found = np.bincount(
            np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2),
            minlength=len(edges) - 1,
        )
        self.histograms[name] = [a + b for a, b in zip(counts, found.tolist(), strict=True)]


def short_name(abbreviation: str) -> str:
    """The shorter of the names of a class: ``LBBB`` of ``CLBBB|LBBB``; the first of two of equal length."""
    return min(abbreviation.split("|"), key=len)


def summary_of(job: Job, tally: Tally, tables: Any = None) -> dict[str, Any]:
    """The summary of a finished run, without anything that depends on the time it took.

    ``records`` and ``refusals`` add up to ``answers``, and the refusals by code to ``refusals``. An input
    gives one answer; only a file that holds several recordings gives more.
    """
    summary: dict[str, Any] = {
        "task": job.task,
        "inputs": tally.inputs,
        "answers": tally.records + tally.n_refused,
        "records": tally.records,
        "refusals": tally.n_refused,
        "refused": dict(sorted(tally.refused.items(), key=lambda entry: (-entry[1], entry[0]))),
        "warnings": dict(sorted(tally.warnings.items(), key=lambda entry: (-entry[1], entry[0]))),
        "rows": tally.rows,
        "parts": job.n_parts,
        "format": job.format,
        "model": job.model_columns(),
        "inputs_sha256": job.inputs,
        "mapping_sha256": job.mapping or None,
        "versions": {"ibt": job.ibt, "onnxruntime": job.onnxruntime, "layout": job.layout},
    }
    if job.task == "arrhythmia":
        summary["positives"] = dict(tally.positives)
    else:
        summary["alarms"] = {"hours": tally.alarm_hours, "stays": tally.alarm_stays}
    if tables is not None:
        summary["tables"] = tables
    return summary | {"notice": NOTICE}
