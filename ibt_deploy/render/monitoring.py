"""What changed between two exports, as a report and as a picture."""

from __future__ import annotations

import math

from ibt_deploy.evaluation.monitoring import LARGE, MODERATE, Change, Monitoring
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.report import Line, Report, Row, Table
from ibt_deploy.render.svg import stability_svg

SHARES = ("alarm", "finding", "warning", "refused")
MOST_SHOWN = 25


def monitoring_report(found: Monitoring) -> Report:
    """The largest changes first; those beyond their limit are marked."""
    shown = [c for place, c in enumerate(found.changes) if c.is_large or place < MOST_SHOWN]
    rows = tuple(
        Row(
            (
                c.name,
                _value(c, c.then),
                _value(c, c.now),
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


def _value(change: Change, value: float) -> str:
    if math.isnan(value):
        return "-"
    if change.kind in SHARES or change.name.endswith(" measured"):
        return f"{value:.1%}"
    return f"{value:.4g}"
