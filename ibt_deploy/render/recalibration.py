"""A recalibration as a report for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ibt_deploy.bundle import Bundle
from ibt_deploy.evaluation.recalibration import Recalibration
from ibt_deploy.evaluation.site_bundle import COLUMNS
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.markdown import decimal
from ibt_deploy.render.report import Line, Report, Row, Table


def recalibration_report(out: Path, shipped: Bundle, found: Recalibration) -> Report:
    """What was fitted on whom, and reliability and alarms before and after."""
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
