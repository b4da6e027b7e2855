"""What an evaluation says: measures with intervals over patients, tables, refusals and what is undefined."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ibt_deploy.metrics.bootstrap import Interval
from ibt_deploy.predictions import NOTICE, Model, Refusal


@dataclass(frozen=True)
class Measure:
    """One number of an evaluation.

    Attributes
    ----------
    name, title
        For machines and for people.
    value, low, high
        The value and its interval; NaN where undefined.
    """

    name: str
    title: str
    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, name: str, title: str, interval: Interval) -> Measure:
        """A measure with its bootstrap interval."""
        return cls(name, title, interval.value, interval.low, interval.high)


@dataclass(frozen=True)
class Group:
    """Rows of numbers about parts of the data: classes, or hospitals.

    Attributes
    ----------
    name, title
        For machines and for people.
    columns
        Key and title of each number.
    rows
        Name of each part with its numbers; NaN where undefined, None where it does not apply.
    """

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, Mapping[str, float | int | bool | None]], ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes
    ----------
    task, source, model
        What was scored by which model.
    counts
        What was scored and refused, e.g. ``{"recordings": 200, "patients": 200, "refused": 1}``.
    measures
        The headline numbers.
    groups
        Tables.
    refusals
        Inputs without a score.
    notes
        What is undefined, and other remarks.
    draws
        Bootstrap draws of patients behind each interval.
    """

    task: str
    source: str
    model: Model
    counts: Mapping[str, int]
    measures: tuple[Measure, ...]
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON knows it; null where a number is undefined."""
        m = self.model
        return {
            "task": self.task,
            "source": self.source,
            "bundle": {"name": m.name, "version": m.version, "sha256": m.sha256, "variant": m.variant},
            "operating_point": m.operating_point,
            "device": m.device,
            "counts": dict(self.counts),
            "bootstrap_draws": self.draws,
            "measures": {
                measure.name: {
                    "value": _finite(measure.value),
                    "interval": [_finite(measure.low), _finite(measure.high)],
                }
                for measure in self.measures
            },
            "groups": {
                group.name: [
                    {"name": name, **{key: _finite(value) for key, value in numbers.items()}}
                    for name, numbers in group.rows
                ]
                for group in self.groups
            },
            "refused": [refusal.to_dict() for refusal in self.refusals],
            "notes": list(self.notes),
            "notice": NOTICE,
        }


def index_of_each(names: Iterable[str]) -> list[int]:
    """Number of each name, in order of first appearance: ``a b a`` gives ``0 1 0``."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _finite(value: float | int | bool | None) -> float | int | bool | None:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def why_none(refusals: Sequence[Refusal]) -> str:
    """Why nothing is left: the number of refusals, and the commonest reason with an example."""
    if not refusals:
        return "(the data hold none)"
    reasons = Counter(refusal.code for refusal in refusals)
    code, count = reasons.most_common(1)[0]
    example = next(refusal.message for refusal in refusals if refusal.code == code)
    others = f", {len(refusals) - count} others" if len(refusals) > count else ""
    return f"({len(refusals)} refused; {count} {code}{others}: {example})"
