"""Reports for people: evaluations, recalibrations, and changes between two exports."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from ibt_deploy.bundle import Bundle
from ibt_deploy.evaluation import Evaluation, Group
from ibt_deploy.evaluation.monitoring import LARGE, MODERATE, Change, Monitoring
from ibt_deploy.evaluation.recalibration import COLUMNS, Recalibration
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.report import Line, Report, Row, Table, decimal, number
from ibt_deploy.render.svg import stability_svg

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


def recalibration_report(out: Path, shipped: Bundle, found: Recalibration) -> Report:
    """What was fitted on which data, and reliability and alarms before and after."""
    both: tuple[tuple[str, dict[str, Any]], ...] = (("before", found.before), ("after", found.after))
    reliability = tuple(
        Row(
            (
                when,
                decimal(part["slope"]),
                decimal(part["intercept"]),
                decimal(part["brier"], 5),
                decimal(part["expected_calibration_error"], 5),
            )
        )
        for when, part in both
    )
    measures = list(next(iter(found.before["points"].values())))
    points = tuple(
        Row((name, when, *(decimal(part["points"][name][measure]) for measure in measures)))
        for name in found.thresholds
        for when, part in both
    )
    fitted = [Line(", ".join(found.changed), label="fitted")] if found.changed else []
    return [
        Line(f"{out}: {shipped.name} {shipped.version}, recalibrated", "heading"),
        Line(", ".join(f"{n} {what}" for what, n in found.counts.items()), label="data"),
        *fitted,
        Table(("", "slope>", "intercept>", "Brier>", "calibration error>"), reliability),
        Table(("operating point", "", *(f"{COLUMNS[measure]}>" for measure in measures)), points),
        Line("after: on patients left out of the fit, five folds", "muted", label="note"),
        Line(f"use it with --bundle {out}; ibt verify {out} proves it", "muted", label="note"),
        Line(NOTICE, "muted"),
    ]


SHARES = ("alarm", "finding", "warning", "refused")
MOST_SHOWN = 25


def monitoring_report(found: Monitoring) -> Report:
    """The largest changes first; those beyond their limit are marked."""
    shown = [c for place, c in enumerate(found.changes) if c.is_large or place < MOST_SHOWN]
    rows = tuple(
        Row(
            (
                c.name,
                _amount(c, c.then),
                _amount(c, c.now),
                f"{c.index:.3f}",
                f"{c.limit:.3f}",
                f"{'large' if c.is_large else ''}{' (shift)' if c.measure == 'shift' else ''}",
            ),
            "warning" if c.is_large else "plain",
        )
        for c in shown
    )
    rest = len(found.changes) - len(shown)
    large = len(found.large)
    return [
        Line(f"{found.now} against {found.reference}: {found.task}", "heading"),
        Line(f"then {found.patients[0]}, now {found.patients[1]}", label="patients"),
        Line(f"{large} of {len(found.changes)} measures changed much", label="changed"),
        Table(("measure", "then>", "now>", "index>", "limit>", ""), rows),
        *(
            [Line(f"{rest} smaller changes are not shown; --json has all", "muted", label="note")]
            * bool(rest)
        ),
        *(Line(note, "muted", label="note") for note in found.notes),
        Line(NOTICE, "muted"),
    ]


def monitoring_svg(found: Monitoring) -> str:
    """A bar for each stability index of the report."""
    bars = [(c.name, c.index) for c in found.changes if c.measure == "stability"][:MOST_SHOWN]
    return stability_svg("population stability index, then to now", bars, (MODERATE, LARGE))


def _amount(change: Change, value: float) -> str:
    if math.isnan(value):
        return "-"
    if change.kind in SHARES or change.name.endswith(" measured"):
        return f"{value:.1%}"
    return f"{value:.4g}"
