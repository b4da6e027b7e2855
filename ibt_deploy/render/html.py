"""Recordings and predictions in a notebook: HTML that runs no script and styles only itself."""

from __future__ import annotations

from html import escape

import numpy as np

from ibt_deploy.errors import one_line
from ibt_deploy.predictions import Prediction
from ibt_deploy.records import Recording
from ibt_deploy.render.prediction import prediction_report
from ibt_deploy.render.report import Line, Meaning, Report

_STYLES: dict[Meaning, str] = {
    "plain": "",
    "heading": "font-weight:bold",
    "positive": "font-weight:bold;color:#b34700",
    "warning": "color:#8a2be2",
    "muted": "color:#777777",
}
_MOST_POINTS = 2000
_ROW, _WIDTH = 40, 800


def prediction_html(prediction: Prediction) -> str:
    """The report of a prediction as HTML."""
    return report_html(prediction_report(prediction))


def report_html(report: Report) -> str:
    """A report as HTML; all content from files is escaped."""
    parts = []
    for block in report:
        if isinstance(block, Line):
            label = f"{block.label}: " if block.label else ""
            parts.append(f'<div style="{_STYLES[block.meaning]}">{_safe(label + block.text)}</div>')
            continue
        sides = ["right" if title.endswith(">") else "left" for title in block.titles]
        head = "".join(
            f'<th style="text-align:{side}">{_safe(text)}</th>'
            for side, text in zip(sides, block.heads, strict=True)
        )
        rows = "".join(
            f'<tr style="{_STYLES[row.meaning]}">'
            + "".join(
                f'<td style="text-align:{side}">{_safe(cell)}</td>'
                for side, cell in zip(sides, row.cells, strict=True)
            )
            + "</tr>"
            for row in block.rows
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    return "<div>" + "".join(parts) + "</div>"


def recording_html(recording: Recording) -> str:
    """What was read, and a sketch of every lead, each at its own scale, for orientation only."""
    head = _safe(repr(recording).strip("<>"))
    step = max(1, recording.signal.shape[1] // _MOST_POINTS)
    sketches = []
    for row, (lead, signal) in enumerate(zip(recording.leads, recording.signal[:, ::step], strict=True)):
        top = row * _ROW
        sketches.append(f'<text x="0" y="{top + _ROW / 2 + 4:g}" font-size="12">{_safe(lead)}</text>')
        valid = np.isfinite(signal)
        if not valid.any():
            continue
        low, high = np.nanmin(signal[valid]), np.nanmax(signal[valid])
        y = top + (_ROW - 4) * (1 - (signal - low) / max(high - low, 1e-9)) + 2
        x = 50 + (_WIDTH - 50) * np.arange(len(signal)) / max(len(signal) - 1, 1)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[valid], y[valid], strict=True))
        sketches.append(f'<polyline points="{points}" fill="none" stroke="#101010" stroke-width="0.7"/>')
    height = _ROW * len(recording.leads)
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">{"".join(sketches)}</svg>'
    return f"<div><b>{head}</b><br>{svg}<br><i>each lead has its own scale</i></div>"


def _safe(text: str) -> str:
    return escape(one_line(text))
