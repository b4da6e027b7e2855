"""An evaluation as a report for people."""

from __future__ import annotations

import math
from collections import Counter

from ibt_deploy.evaluation.result import Evaluation, Group
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.report import Line, Report, Row, Table, number

_MOST_REFUSALS = 10


def evaluation_report(evaluation: Evaluation) -> Report:
    """Measures with intervals, then tables, refusals and remarks."""
    m = evaluation.model
    counts = ", ".join(f"{n} {what}" for what, n in evaluation.counts.items())
    rows = tuple(
        Row((measure.title, _value(measure.value), _interval(measure.low, measure.high)))
        for measure in evaluation.measures
    )
    report: list[Line | Table] = [
        Line(f"{evaluation.source}: {evaluation.task}", "heading"),
        Line(counts, label="data"),
        Line(
            f"{m.name} {m.version} (sha256 {m.sha256[:12]}), {m.variant} on {m.device}, "
            f"operating point '{m.operating_point}'",
            "muted",
            label="model",
        ),
        Table(("measure", "value>", "95 % interval>"), rows),
        *(_table(group) for group in evaluation.groups),
    ]
    reasons = Counter(refusal.code for refusal in evaluation.refusals)
    report += [
        Line(f"{n} {code}", "warning", label="refused") for code, n in reasons.most_common(_MOST_REFUSALS)
    ]
    report += [Line(note.rstrip("."), "muted", label="note") for note in evaluation.notes]
    report.append(
        Line(f"intervals: percentiles of {evaluation.draws} draws of patients", "muted", label="note")
    )
    return [*report, Line(NOTICE, "muted")]


def _table(group: Group) -> Table:
    """The rows with most positives (or stays) first."""
    key = group.columns[0][0]
    ordered = sorted(group.rows, key=lambda row: -float(row[1][key] or 0))
    rows = tuple(
        Row(
            (name, *(_cell(numbers[column]) for column, _ in group.columns)),
            "muted" if numbers.get("evaluable") is False else "plain",
        )
        for name, numbers in ordered
    )
    return Table((group.title, *(f"{title}>" for _, title in group.columns)), rows)


def _cell(value: float | int | bool | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else number(value)


def _value(value: float) -> str:
    if math.isinf(value):
        return "infinite"
    return number(value, 1 if abs(value) >= 10 else 3)


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"{_value(low)} to {_value(high)}"
