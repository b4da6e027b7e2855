"""Predictions as reports for people, positive findings first, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ibt_deploy.errors import one_line
from ibt_deploy.predictions import (
    DECIMALS,
    NOTICE,
    ArrhythmiaPrediction,
    Finding,
    Model,
    Prediction,
    SepsisPrediction,
    WindowShare,
)
from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate
from ibt_deploy.render.report import Line, Report, Row, Table, spans
from ibt_deploy.types import PARTS, Floats, Task
from ibt_deploy.vocabulary import N_TIME_VARYING

if TYPE_CHECKING:
    from ibt_deploy.explain import Explanation


def prediction_report(prediction: Prediction) -> Report:
    """Everything about one recording or stay."""
    report: Report = PARTS[prediction.task].report.load()(prediction)
    return report


def sorted_findings(prediction: ArrhythmiaPrediction) -> tuple[list[Finding], list[Finding]]:
    """Evaluable findings (positive, alternative, others, by descending probability); those not evaluable."""
    findings = prediction.findings
    evaluable = sorted(
        (f for f in findings if f.evaluable),
        key=lambda f: (not f.positive, not f.alternative, -f.probability),
    )
    return evaluable, [f for f in findings if not f.evaluable]


def caption(text: str, most: int = 150) -> str:
    """``text`` as a line of a plot: printable, and cut before it runs off the paper."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def warning_captions(prediction: Prediction, most: int) -> list[str]:
    """The first warnings as lines of a plot; the last line says how many more there are."""
    lines = [caption(f"Warning: {w.message.rstrip('.')}.") for w in prediction.warnings[:most]]
    if len(prediction.warnings) > most:
        lines[-1] += f" And {len(prediction.warnings) - most} more."
    return lines


def alarm_summary(prediction: SepsisPrediction) -> str:
    """One sentence about the risk over the stay."""
    highest = int(np.argmax(prediction.risk))
    hours = prediction.hours
    latest, most = prediction.risk[-1], prediction.risk[highest]
    text = (
        f"latest {latest:.3f} (hour {hours[-1]}), highest {most:.3f} (hour {hours[highest]}), "
        f"threshold {prediction.threshold:.3f}"
    )
    alarms = [int(hour) for hour in hours[prediction.alarms]]
    if not alarms:
        return f"{text}; no alarm"
    return f"{text}; alarm in {len(alarms)} of {len(hours)} hours: {spans(alarms)}"


def findings_summary(prediction: ArrhythmiaPrediction) -> str:
    """One line: positive findings and their alternatives, with probabilities."""
    evaluable, _ = sorted_findings(prediction)

    def listed(chosen: list[Finding]) -> str:
        return ", ".join(f"{f.abbreviation} {f.probability:.2f}" for f in chosen)

    summary = listed([f for f in evaluable if f.positive]) or "no finding reaches its threshold"
    if alternatives := listed([f for f in evaluable if f.alternative]):
        summary += f"; or {alternatives}"
    return summary


def rate_summary(rate: HeartRate) -> str:
    """One line about the computed heart rate."""
    if rate.bpm is None:
        return "not reliable enough to state (computed from the signal)"
    spread = "" if rate.variation is None else f", R-R variation {rate.variation:.0%}"
    return f"{rate.bpm:.0f} bpm{spread} (computed from the signal)"


_NO_AXIS = {
    "no_rate": "not stated, for lack of reliable beats",
    "leads": "not stated, because leads I and aVF cannot be relied on",
    "small": "indeterminate: the complexes are too small in I and aVF",
    "spread": "not stated, because it differs from beat to beat",
}


def axis_summary(axis: FrontalAxis) -> str:
    """One line about the computed axis."""
    if axis.degrees is None:
        return f"{_NO_AXIS[axis.reason or 'no_rate']} (computed from the signal)"
    return f"{axis.degrees:.0f} degrees (computed from the signal)"


def findings_report(prediction: ArrhythmiaPrediction) -> Report:
    """The findings of a recording, positive ones first."""
    evaluable, others = sorted_findings(prediction)
    rows = tuple(
        Row(
            (
                "positive" if f.positive else "or" if f.alternative else "",
                f.abbreviation,
                f.name,
                f"{f.probability:.3f}",
                f"{f.threshold:.3f}",
                *([_windows(f)] if len(prediction.windows) > 1 else []),
            ),
            "positive" if f.positive else "warning" if f.alternative else "plain",
        )
        for f in evaluable
    )
    found = (
        f"{prediction.format}, {prediction.sampling_rate:g} Hz, {prediction.duration:.1f} s, "
        f"{len(prediction.leads)} leads"
    )
    titles: tuple[str, ...] = ("", "finding", "name", "probability>", "threshold>")
    if len(prediction.windows) > 1:
        titles = (*titles, "windows")
    report: list[Line | Table] = [
        Line(f"{prediction.record}: arrhythmia findings", "heading"),
        Line(found, label="input"),
        *_context(prediction),
        *([Line(rate_summary(prediction.heart_rate), label="heart rate")] if prediction.heart_rate else []),
        *([Line(axis_summary(prediction.axis), label="axis")] if prediction.axis else []),
        Line(findings_summary(prediction), "positive" if prediction.positive.any() else "plain", "findings"),
        Table(titles, rows),
    ]
    if others:
        names = ", ".join(f.abbreviation for f in others)
        report.append(Line(f"not evaluable, too little is known of them: {names}", "muted"))
    return [*report, Line(NOTICE, "muted")]


def _windows(finding: Finding) -> str:
    """In how many windows the finding is reached, and where it is most probable."""
    share = finding.windows
    if share is None or not share.reached:
        return ""
    return f"{share.reached} of {share.of}, {share.highest:.2f} at {share.highest_at:g} s"


def risk_report(prediction: SepsisPrediction) -> Report:
    """The risk of every hour of a stay."""
    measured = (~np.isnan(prediction.values[:, :N_TIME_VARYING])).sum(axis=1)
    rows = tuple(
        Row(
            (
                str(hour),
                f"{risk:.3f}",
                "alarm" if alarm else "",
                f"{n} of {N_TIME_VARYING}" if not inserted else "hour missing",
            ),
            "positive" if alarm else "plain",
        )
        for hour, risk, alarm, n, inserted in zip(
            prediction.hours, prediction.risk, prediction.alarms, measured, prediction.inserted, strict=True
        )
    )
    first, last = prediction.hours[0], prediction.hours[-1]
    hours = f"1 hour ({first})" if first == last else f"{len(prediction.hours)} hours ({first} to {last})"
    report: list[Line | Table] = [
        Line(f"{prediction.record}: hourly sepsis risk", "heading"),
        Line(f"{prediction.format}, {hours}", label="input"),
        *_context(prediction),
        Line(alarm_summary(prediction), "positive" if prediction.alarms.any() else "plain", label="risk"),
    ]
    report.append(Line(units_summary(prediction), "muted", label="units"))
    if prediction.never_measured:
        report.append(Line(", ".join(prediction.never_measured), "muted", label="never measured"))
    return [*report, Table(("hour>", "risk>", "", "measured>"), rows), Line(NOTICE, "muted")]


_UNSURE = frozenset(("BUN", "Calcium", "Lactate", "Phosphate", "Bilirubin_total", "TroponinI", "HospAdmTime"))
"""Variables for which a different unit goes unnoticed in more than a tenth of stays (docs/quality.md)."""


def units_summary(prediction: SepsisPrediction) -> str:
    """One line about the units in which the values were read, naming those that a reader has to check."""
    if prediction.units_stated:
        return "as the source states them"
    listed = [
        f"{read.variable} {read.median:.4g}"
        + (f" ({read.lowest:.4g} to {read.highest:.4g})" if read.lowest < read.highest else "")
        + f" {read.unit}{' of nitrogen' * (read.variable == 'BUN')}"
        for read in prediction.read_as
        if read.variable in _UNSURE
    ]
    if not listed:
        return "not stated; read in the units of the Challenge 2019"
    return f"not stated; read as {', '.join(listed)}, the others in the units of the Challenge 2019"


def _context(prediction: Prediction) -> list[Line]:
    lines = [Line(change.rstrip("."), label="changed") for change in prediction.changes]
    lines += [Line(w.message.rstrip("."), "warning", label="warning") for w in prediction.warnings]
    return [*lines, Line(_model(prediction.model), "muted", label="model")]


def _model(model: Model) -> str:
    return (
        f"{model.name} {model.version} (sha256 {model.sha256[:12]}), {model.variant} on {model.device}, "
        f"operating point '{model.operating_point}'"
    )


def explanation_lines(explanations: Sequence[Explanation]) -> list[Line]:
    """The parts that raised each output most, as lines of a report."""
    lines = []
    for e in explanations:
        places = [f"{a:g}-{b:g} s" if b > a else f"hour {a:g}" for a, b in zip(e.starts, e.ends, strict=True)]
        parts = [*_strongest(places, e.over_time), *_strongest(e.channels, e.by_channel)]
        text = ", ".join(parts) or "no single part raised it"
        lines.append(Line(f"{e.output}: {text}", label="moved by"))
    if lines:
        lines.append(Line("change of the log odds without the part; such effects do not add up", "muted"))
    return lines


def _strongest(names: Sequence[str], effects: Floats, most: int = 3) -> list[str]:
    order = np.argsort(-effects, kind="stable")[:most]
    return [f"{names[i]} ({effects[i]:+.2f})" for i in order if effects[i] > 0]


_MODEL = ("bundle", "version", "sha256", "variant", "operating_point", "device")


class CsvWriter:
    """Writes predictions of one task to a stream, the header first."""

    def __init__(self, stream: TextIO, task: Task) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(("record", *PARTS[task].csv_columns, *_MODEL))
        self._cells = PARTS[task].csv_cells.load()

    def write(self, prediction: Prediction) -> None:
        """Write every class, or every hour, of one prediction."""
        m = prediction.model
        model = (m.name, m.version, m.sha256, m.variant, m.operating_point, m.device)
        for row in self._cells(prediction):
            self._writer.writerow((prediction.record, *row, *model))


def _window_cells(share: WindowShare) -> tuple[object, ...]:
    return share.reached, share.of, round(share.highest, DECIMALS), round(share.highest_at, 3)


def findings_cells(prediction: ArrhythmiaPrediction) -> list[tuple[object, ...]]:
    """One CSV line per class."""
    return [
        (
            *(f.code, f.abbreviation, f.name, round(f.probability, DECIMALS)),
            *(round(f.threshold, DECIMALS), int(f.positive), int(f.evaluable)),
            f.status,
            *(_window_cells(f.windows) if f.windows else ("", "", "", "")),
        )
        for f in prediction.findings
    ]


def risk_cells(prediction: SepsisPrediction) -> list[tuple[object, ...]]:
    """One CSV line per hour."""
    threshold = round(prediction.threshold, DECIMALS)
    return [
        (int(hour), round(float(risk), DECIMALS), threshold, int(alarm), int(inserted), " ".join(missing))
        for hour, risk, alarm, inserted, missing in zip(
            *(prediction.hours, prediction.risk, prediction.alarms, prediction.inserted, prediction.missing),
            strict=True,
        )
    ]
