"""A 12-lead ECG on its usual paper: 25 mm/s and 10, 5 or 2.5 mm/mV, true to scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ibt_deploy.leads import LEADS
from ibt_deploy.predictions import NOTICE, ArrhythmiaPrediction, Finding
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, StandardEcg, examined
from ibt_deploy.preprocess.plausibility import plausible_age
from ibt_deploy.records import Recording
from ibt_deploy.render.text import caption, sorted_findings, warning_captions
from ibt_deploy.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MM_PER_SECOND = 25.0
GAINS = (10.0, 5.0, 2.5)
"""mm/mV: the first at which no curve runs into its neighbour or off the paper."""
MM_PER_INCH = 25.4
SECONDS = 10.0
COLUMNS = (LEADS[0:3], LEADS[3:6], LEADS[6:9], LEADS[9:12])
RHYTHM = "II"
COLUMN_SECONDS = SECONDS / len(COLUMNS)
_LEAST_GAP_MM, _STRIP_SECONDS = 1.0, 0.04

_LEFT, _RIGHT, _TOP, _BOTTOM = 12.0, 6.0, 17.0, 5.0
_ROW_MM, _HEAD_ROOM_MM, _PULSE_MM, _TABLE_MM = 32.0, 7.0, 10.0, 58.0
_FINE, _COARSE, _INK, _LABEL = "#f6d5d5", "#e59a9a", "#101010", "#555577"
_SHOWN_NEGATIVE = 4


def ecg_figure(recording: Recording, prediction: ArrhythmiaPrediction) -> Figure:
    """The first 10 s of a recording on ECG paper, with its findings below.

    Four columns of 2.5 s and three rows of leads, lead II throughout in a fourth row; a calibration pulse of
    1 mV and 0.2 s before each row. The columns follow each other in time; those of a recording shorter than
    10 s overlap in time, so that each is full, and the head says at which second each begins. The signal is
    shown as preprocessing leaves it before any filter: medians removed, at 200 Hz. A lead without any valid
    sample is marked, not drawn. Complexes that would run into the next row are drawn at half or a quarter of
    the usual gain, which the head states.
    """
    from matplotlib.figure import Figure

    standard = examined(recording)
    width = _LEFT + _PULSE_MM + SECONDS * MM_PER_SECOND + _RIGHT
    paper = 4 * _ROW_MM + _HEAD_ROOM_MM
    height = _TOP + paper + _TABLE_MM + _BOTTOM
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), facecolor="white")
    left, bottom = _LEFT / width, (_BOTTOM + _TABLE_MM) / height
    axes = figure.add_axes((left, bottom, (_PULSE_MM + SECONDS * MM_PER_SECOND) / width, paper / height))
    _draw_grid(axes, _PULSE_MM + SECONDS * MM_PER_SECOND, paper)
    strips = _strips(standard)
    gain = _gain(strips, paper)
    for row in range(4):
        _draw_pulse(axes, _baseline(row), gain)
    for strip in strips:
        _draw_strip(axes, strip, gain)
    _write_head(figure, recording, standard, left, height, gain)
    _write_findings(figure, prediction, left, width, height)
    return figure


def _draw_grid(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(_COARSE)
    for step, colour, thickness in ((1.0, _FINE, 0.35), (5.0, _COARSE, 0.6)):
        axes.vlines(np.arange(0, width + 0.1, step), 0, height, colors=colour, linewidth=thickness, zorder=0)
        axes.hlines(np.arange(0, height + 0.1, step), 0, width, colors=colour, linewidth=thickness, zorder=0)


def _baseline(row: int) -> float:
    """Millimetres from the lower edge of the paper to the baseline of a row, counted from the top."""
    return (4 - row - 0.5) * _ROW_MM


@dataclass(frozen=True, eq=False)
class _Strip:
    """What is drawn of one lead: millivolts at 200 Hz from ``start`` seconds on; empty if missing."""

    lead: str
    row: int
    column: int
    start: float
    part: Floats
    missing: bool

    @property
    def x(self) -> Floats:
        """Millimetres from the left edge of the paper, one for each sample."""
        first = _PULSE_MM + self.column * COLUMN_SECONDS * MM_PER_SECOND
        return first + np.arange(len(self.part)) / SAMPLING_RATE * MM_PER_SECOND


def column_starts(seconds: float) -> list[float]:
    """Second at which each column begins; the last one ends where what is shown of ``seconds`` ends."""
    last = max(min(seconds, SECONDS) - COLUMN_SECONDS, 0.0)
    return [column * last / (len(COLUMNS) - 1) for column in range(len(COLUMNS))]


def _strips(standard: StandardEcg) -> list[_Strip]:
    starts = column_starts(standard.signal.shape[1] / SAMPLING_RATE)

    def strip(lead: str, row: int, column: int, start: float, seconds: float) -> _Strip:
        first = round(start * SAMPLING_RATE)
        part = standard.signal[LEADS.index(lead), first : first + round(seconds * SAMPLING_RATE) + 1]
        absent = lead in standard.missing_leads
        return _Strip(lead, row, column, start, part[:0] if absent else part, absent)

    shown = [
        strip(lead, row, column, starts[column], COLUMN_SECONDS)
        for column, leads in enumerate(COLUMNS)
        for row, lead in enumerate(leads)
    ]
    return [*shown, strip(RHYTHM, 3, 0, 0.0, SECONDS)]


def _gain(strips: list[_Strip], paper: float) -> float:
    """The highest gain at which every curve keeps clear of those above and below it and of the edges."""
    return next((gain for gain in GAINS if _is_clear(strips, gain, paper)), GAINS[-1])


def _is_clear(strips: list[_Strip], gain: float, paper: float) -> bool:
    width = _STRIP_SECONDS * MM_PER_SECOND
    cells = math.ceil((_PULSE_MM + SECONDS * MM_PER_SECOND) / width) + 1
    low = np.full((4, cells), np.nan)
    high = np.full((4, cells), np.nan)
    for strip in strips:
        y = _baseline(strip.row) + gain * strip.part
        cell = (strip.x / width).astype(np.int64)
        for found, extreme in ((low, np.fmin), (high, np.fmax)):
            extreme.at(found[strip.row], cell, y)
    # a neighbouring cell counts too, for lines have a width
    wide_low = np.fmin.reduce([np.roll(low, shift, axis=1) for shift in (-1, 0, 1)])
    gap = wide_low[:-1] - high[1:]
    clear = not (gap < _LEAST_GAP_MM).any()
    return clear and not (low < _LEAST_GAP_MM).any() and not (high > paper - _LEAST_GAP_MM).any()


def _draw_pulse(axes: Axes, baseline: float, gain: float) -> None:
    x = np.array([2.0, 3.0, 3.0, 8.0, 8.0, 9.0])
    y = baseline + np.array([0.0, 0.0, gain, gain, 0.0, 0.0])
    axes.plot(x, y, color=_INK, linewidth=0.8)


def _draw_strip(axes: Axes, strip: _Strip, gain: float) -> None:
    baseline = _baseline(strip.row)
    x0 = _PULSE_MM + strip.column * COLUMN_SECONDS * MM_PER_SECOND
    if len(strip.part):
        y = strip.part * gain + baseline
        axes.plot(strip.x, y, color=_INK, linewidth=0.8, solid_joinstyle="round")
    if strip.column:
        axes.vlines(x0, baseline - 3, baseline + 3, colors="#999999", linewidth=0.8)
    # below the curve in the order of drawing and without a box, so that a label never hides a complex
    axes.text(
        x0 + 1.5,
        baseline + 11.0,
        f"{strip.lead} (missing)" if strip.missing else strip.lead,
        fontsize=9,
        fontweight="bold",
        color=_LABEL,
        zorder=1.5,
    )


def _write_head(
    figure: Figure, recording: Recording, standard: StandardEcg, left: float, height: float, gain: float
) -> None:
    name = caption(recording.record_id, 80)
    figure.text(left, 1 - 6.5 / height, name, fontsize=13, fontweight="bold", color=_INK, parse_math=False)
    cut = f", the first {SECONDS:g} s shown" if recording.duration > SECONDS else ""
    details = [f"{recording.sampling_rate:g} Hz", f"{recording.duration:.1f} s{cut}"]
    age = plausible_age(recording.age)
    if age is not None:
        details.append(f"{age:g} years")
    if recording.sex:
        details.append(recording.sex)
    rate = standard.heart_rate
    details.append(f"{rate.bpm:.0f} bpm computed" if rate and rate.bpm is not None else "rate not computed")
    part = {1: "", 2: " (half gain)", 4: " (quarter gain)"}[round(GAINS[0] / gain)]
    details += [f"{MM_PER_SECOND:g} mm/s, {gain:g} mm/mV{part}", "drawn unfiltered"]
    if recording.duration < SECONDS:
        starts = ", ".join(f"{start:.1f}" for start in column_starts(recording.duration))
        details.append(f"columns begin at {starts} s")
    text = "   ".join(details)
    figure.text(left, 1 - 12.5 / height, text, fontsize=9, color="#444444", parse_math=False)


def _write_findings(
    figure: Figure, prediction: ArrhythmiaPrediction, left: float, width: float, height: float
) -> None:
    evaluable, others = sorted_findings(prediction)
    positive = [f for f in evaluable if f.positive]
    negative = [f for f in evaluable if not f.positive][:_SHOWN_NEGATIVE]
    axes = figure.add_axes((left, _BOTTOM / height, 1 - left - _RIGHT / width, (_TABLE_MM - 5.0) / height))
    axes.set(xlim=(0, width - _LEFT - _RIGHT), ylim=(_TABLE_MM - 5.0, 0))
    axes.axis("off")
    _write_column(axes, 0.0, "Positive", positive, "#b34700", bold=True)
    _write_column(axes, 135.0, "Highest below threshold", negative, "#555555", bold=False)
    foot = []
    if others:
        foot.append(
            f"Not evaluable, too little is known of them: {', '.join(f.abbreviation for f in others)}."
        )
    foot += warning_captions(prediction, 3)
    m = prediction.model
    foot.append(f"{m.name} {m.version} ({m.sha256[:12]}), operating point '{m.operating_point}'. {NOTICE}")
    axes.text(
        *(0, _TABLE_MM - 6.0, "\n".join(foot)),
        fontsize=7.5,
        color="#444444",
        va="bottom",
        linespacing=1.4,
        parse_math=False,
    )


def _write_column(
    axes: Axes, x: float, title: str, findings: list[Finding], colour: str, *, bold: bool
) -> None:
    """Findings with a bar each: length is the probability, the tick is the threshold."""
    axes.text(x, 2.0, title, fontsize=9.5, fontweight="bold", color=colour, va="center")
    length, bar = 30.0, x + 88.0
    axes.text(bar, 2.0, "probability (tick: threshold)", fontsize=7, color="#777777", va="center")
    room = 6
    for i, finding in enumerate(findings[:room]):
        y = 7.5 + 5.2 * i
        name = finding.name if len(finding.name) <= 40 else f"{finding.name[:38].rstrip()}..."
        weight = "bold" if bold else "normal"
        axes.text(x, y, finding.abbreviation, fontsize=8.5, fontweight=weight, color=_INK, va="center")
        axes.text(x + 24.0, y, name, fontsize=8, color="#333333", va="center")
        axes.barh(y, length, left=bar, height=2.4, color="#eeeeee")
        axes.barh(y, length * finding.probability, left=bar, height=2.4, color=colour)
        tick = bar + length * finding.threshold
        axes.vlines(tick, y - 1.9, y + 1.9, colors=_INK, linewidth=1.0)
        axes.text(bar + length + 2, y, f"{finding.probability:.2f}", fontsize=8.5, color=_INK, va="center")
    if len(findings) > room:
        rest = ", ".join(f.abbreviation for f in findings[room:])
        axes.text(x, 7.5 + 5.2 * room, f"and {rest}", fontsize=8, color="#333333", va="center")
