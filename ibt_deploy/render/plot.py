"""Plots of predictions, the only code that needs matplotlib (the extra ``plot``).

A 12-lead ECG is drawn on its usual paper, true to scale: 25 mm/s and 10, 5 or 2.5 mm/mV. A stay is drawn as
its risk over the hours, with threshold and alarms, above the main vital signs. If there is an explanation,
what moved the answer is shaded behind the curves.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ibt_deploy.errors import require
from ibt_deploy.predictions import (
    NOTICE,
    ArrhythmiaPrediction,
    Finding,
    Model,
    Prediction,
    SepsisPrediction,
)
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, StandardEcg, examined
from ibt_deploy.records import Recording, Stay, plausible_age
from ibt_deploy.render.prediction import alarm_summary, caption, sorted_findings, warning_captions
from ibt_deploy.scorers import scorer_of
from ibt_deploy.types import PARTS, Bools, Floats
from ibt_deploy.vocabulary import INDEX, LEADS, VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ibt_deploy.explain import Explanation


# Okabe and Ito's palette, distinguishable with any colour vision
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
BLACK = "#222222"
_GREY = "#555555"
RAISED = (ORANGE, GREEN, PURPLE)
"""Shades of what raised a finding, one per explained finding."""
LOWERED = "#8a94a0"
DARKEST = 0.6
"""Opacity of the largest effect on an output."""
_FAINTEST = 0.03
_MANY_HOURS = 100

PANELS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("HR", BLUE, "o"),),
    (("SBP", SKY, "^"), ("MAP", PURPLE, "s")),
    (("Resp", GREEN, "o"),),
    (("O2Sat", ORANGE, "o"),),
    (("Temp", BLACK, "o"),),
)

ROOM_FOR_LEGEND = 0.4
"""Share of the axis kept free above the curves, so that the legend hides no curve."""


def shades(explanation: Explanation) -> list[tuple[float, float, float]]:
    """Stretches and their effects as a share of the largest one: start, end, -1 to 1.

    Where windows overlap, their effects are averaged.
    """
    edges = np.unique(np.concatenate([explanation.starts, explanation.ends]))
    largest = np.abs(explanation.over_time).max(initial=0.0)
    found = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        covering = (explanation.starts <= start) & (explanation.ends >= end)
        if covering.any() and largest:
            found.append((start, end, float(explanation.over_time[covering].mean() / largest)))
    return found


def strongest_channels(explanation: Explanation, most: int = 4) -> str:
    """The leads or variables that moved an output most, each with its effect."""
    order = np.argsort(-np.abs(explanation.by_channel), kind="stable")[:most]
    return ", ".join(f"{explanation.channels[i]} {explanation.by_channel[i]:+.2f}" for i in order)


def stay_figure(
    stay: Stay,  # noqa: ARG001
    prediction: SepsisPrediction,
    explanations: Sequence[Explanation] = (),
) -> Figure:
    """Plot risk, threshold and alarms over the hours, and the main vital signs below on the same axis.

    Dots are measurements; a line joins only measurements of consecutive hours, so that carried-forward values
    do not look measured. The hours of alarms are shaded; with an explanation, the hours whose measurements
    moved the highest risk are shaded instead, and each variable's effect is shown beside its curve.
    """
    from matplotlib.figure import Figure

    explanation = next(iter(explanations), None)
    figure = Figure(figsize=(11, 9.2), facecolor="white")
    grid = figure.add_gridspec(
        len(PANELS) + 1, 1, height_ratios=(3.4, *([1.0] * len(PANELS))), hspace=0.14,
        left=0.085, right=0.975 if explanation is None else 0.905, top=0.905, bottom=0.105,
    )  # fmt: skip
    top = figure.add_subplot(grid[0])
    _draw_risk(top, prediction)
    panels = [figure.add_subplot(grid[i + 1], sharex=top) for i in range(len(PANELS))]
    for axes, series in zip(panels, PANELS, strict=True):
        _draw_vitals(axes, prediction, series)
    for axes in (top, *panels):
        if explanation is None:
            _shade_alarms(axes, prediction)
        else:
            _shade_hours(axes, explanation)
        axes.grid(color="#e3e3e3", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    for axes in (top, *panels[:-1]):
        axes.tick_params(labelbottom=False)
    first, last = int(prediction.hours[0]), int(prediction.hours[-1])
    panels[-1].set_xlim(first - 0.6, max(last, first + 5) + 0.6)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    panels[-1].set_xlabel("hours since ICU admission", fontsize=10)
    figure.align_ylabels([top, *panels])
    name, summary = (
        caption(prediction.record, 80),
        caption(f"hourly sepsis risk: {alarm_summary(prediction)}"),
    )
    figure.text(0.085, 0.965, name, fontsize=13, fontweight="bold", parse_math=False)
    figure.text(0.085, 0.932, summary, fontsize=9, color=_GREY)
    if explanation is not None:
        _explain_stay(top, panels, prediction, explanation)
    moved = [] if explanation is None else [_moved_by(prediction, explanation)]
    foot = "\n".join([*moved, *warning_captions(prediction, 2), _signed(prediction.model)])
    figure.text(0.085, 0.008, foot, fontsize=7.5, color=_GREY, va="bottom", linespacing=1.4, parse_math=False)
    return figure


def _signed(model: Model) -> str:
    return (
        f"{model.name} {model.version} ({model.sha256[:12]}), {model.variant}, "
        f"operating point '{model.operating_point}'. {NOTICE}"
    )


def _draw_risk(axes: Axes, prediction: SepsisPrediction) -> None:
    hours, risk = prediction.hours, prediction.risk
    dot = _dot(len(hours))
    axes.plot(hours, risk, color=BLUE, linewidth=1.6, marker="o", markersize=dot, label="risk", zorder=3)
    axes.axhline(
        prediction.threshold, color=VERMILION, linestyle="--", linewidth=1.3,
        label=f"threshold {prediction.threshold:.3f}",
    )  # fmt: skip
    alarms = prediction.alarms
    if alarms.any():
        axes.plot(
            hours[alarms], risk[alarms], linestyle="none", marker="D", markersize=1.7 * dot, color=VERMILION,
            label="alarm", zorder=4,
        )  # fmt: skip
    axes.set_ylim(0, max(1.25 * float(risk.max()), 2.0 * prediction.threshold))
    axes.set_ylabel("risk", fontsize=10)
    axes.legend(loc="upper left", fontsize=8.5, framealpha=0.9, ncols=3)


def _draw_vitals(axes: Axes, prediction: SepsisPrediction, series: tuple[tuple[str, str, str], ...]) -> None:
    dot = _dot(len(prediction.hours))
    for name, colour, marker in series:
        values = prediction.values[:, INDEX[name]]
        axes.plot(
            prediction.hours,
            values,
            color=colour,
            linewidth=1.1,
            marker=marker,
            markersize=dot,
            label=name,
        )
    names = [name for name, _, _ in series]
    unit = VARIABLES[INDEX[names[0]]].unit
    axes.set_ylabel(f"{', '.join(names)}\n{unit.replace('deg', '°')}", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.18)
    measured = [~np.isnan(prediction.values[:, INDEX[name]]) for name in names]
    if not np.any(measured):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=_GREY)
    elif len(series) > 1:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + ROOM_FOR_LEGEND * (high - low))
        axes.legend(loc="upper left", fontsize=7.5, framealpha=0.9, ncols=len(series))


def _shade_alarms(axes: Axes, prediction: SepsisPrediction) -> None:
    for start, end in _runs(prediction.alarms):
        hours = prediction.hours
        axes.axvspan(hours[start] - 0.5, hours[end] + 0.5, color=VERMILION, alpha=0.10, linewidth=0, zorder=0)


def _shade_hours(axes: Axes, explanation: Explanation) -> None:
    """Shade every hour by its effect on the highest risk."""
    largest = np.abs(explanation.over_time).max(initial=0.0) or 1.0
    for hour, effect in zip(explanation.starts, explanation.over_time, strict=True):
        share = float(abs(effect) / largest)
        if share >= _FAINTEST:
            colour = RAISED[0] if effect > 0 else LOWERED
            axes.axvspan(hour - 0.5, hour + 0.5, color=colour, alpha=DARKEST * share, linewidth=0, zorder=0)


def _explain_stay(
    top: Axes, panels: list[Axes], prediction: SepsisPrediction, explanation: Explanation
) -> None:
    """Write which hour is explained, what the shades mean, and the effect of each variable."""
    from matplotlib.patches import Patch

    peak = _peak(prediction)
    top.axvline(peak, color=BLACK, linestyle=":", linewidth=1.2)
    handles, labels = top.get_legend_handles_labels()
    handles += [Patch(color=colour, alpha=DARKEST) for colour in (RAISED[0], LOWERED)]
    labels += [f"hour that raised the risk of hour {peak} (dotted)", "hour that lowered it"]
    top.legend(handles, labels, loc="upper left", fontsize=8.5, framealpha=0.9, ncols=5)
    low, high = top.get_ylim()
    top.set_ylim(low, 1.12 * high)
    effects = dict(zip(explanation.channels, explanation.by_channel.tolist(), strict=True))
    for axes, series in zip(panels, PANELS, strict=True):
        text = "\n".join(f"{name} {effects[name]:+.2f}" for name, _, _ in series if name in effects)
        axes.text(1.01, 0.5, text, fontsize=8, fontweight="bold", va="center", transform=axes.transAxes)
    top.text(1.01, 0.02, "effect of each\nvariable", fontsize=8, color=_GREY, transform=top.transAxes)


def _peak(prediction: SepsisPrediction) -> int:
    """The hour of the highest risk, which is the explained one."""
    return int(prediction.hours[int(np.argmax(prediction.risk))])


def _moved_by(prediction: SepsisPrediction, explanation: Explanation) -> str:
    return (
        f"Effects are log odds of hour {_peak(prediction)} lost without a variable, or without what an hour "
        f"measured. Largest: {strongest_channels(explanation, 5)}."
    )


def _dot(hours: int) -> float:
    """Dot size in points: smaller if many hours share the axis."""
    return 3.2 if hours <= _MANY_HOURS else 1.8


def _runs(flags: Bools) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


MM_PER_SECOND = 25.0
GAINS = (10.0, 5.0, 2.5)
"""Gains in mm/mV: the first at which no curve runs into its neighbour or off the paper is used."""
MM_PER_INCH = 25.4
SECONDS = 10.0
COLUMNS = (LEADS[0:3], LEADS[3:6], LEADS[6:9], LEADS[9:12])
RHYTHM = "II"
COLUMN_SECONDS = SECONDS / len(COLUMNS)
_LEAST_GAP_MM, _STRIP_SECONDS = 1.0, 0.04

_LEFT, _RIGHT, _TOP, _BOTTOM = 12.0, 6.0, 17.0, 5.0
_ROW_MM, _HEAD_ROOM_MM, _PULSE_MM, _TABLE_MM = 32.0, 7.0, 10.0, 58.0
_KEY_MM, _LANES_MM, _BAR_MM = 5.5, 28.0, 9.0
_FINE, _COARSE, _INK, _LABEL = "#f6d5d5", "#e59a9a", "#101010", "#555577"
_SHOWN_NEGATIVE = 4


def ecg_figure(
    recording: Recording, prediction: ArrhythmiaPrediction, explanations: Sequence[Explanation] = ()
) -> Figure:
    """Plot the first 10 s of a recording on ECG paper, with its findings below.

    Four columns of 2.5 s and three rows of leads, lead II throughout in a fourth row; a calibration pulse of
    1 mV and 0.2 s before each row. The columns are consecutive in time; those of a recording shorter than
    10 s overlap, so that each is full, and the header says at which second each begins. The signal is
    shown after preprocessing but before any filter: medians removed, at 200 Hz. A lead without any valid
    sample is marked, not drawn. Complexes that would run into the next row are drawn at half or a quarter of
    the usual gain, which the header states.

    With explanations, the half seconds that moved a finding are shaded behind every lead, darker for larger
    effects; a bar beside a lead's name is that lead's own effect. Several findings share a row, each
    with its own colour and lane; a key below the paper identifies them.
    """
    from matplotlib.figure import Figure

    standard = examined(recording)
    width = _LEFT + _PULSE_MM + SECONDS * MM_PER_SECOND + _RIGHT
    paper = 4 * _ROW_MM + _HEAD_ROOM_MM
    explained = list(explanations[: len(RAISED)])
    key = _KEY_MM * (len(explained) + 1) if explained else 0.0
    height = _TOP + paper + key + _TABLE_MM + _BOTTOM
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), facecolor="white")
    left, bottom = _LEFT / width, (_BOTTOM + _TABLE_MM + key) / height
    axes = figure.add_axes((left, bottom, (_PULSE_MM + SECONDS * MM_PER_SECOND) / width, paper / height))
    _draw_grid(axes, _PULSE_MM + SECONDS * MM_PER_SECOND, paper)
    strips = _strips(standard)
    gain = _gain(strips, paper)
    for row in range(4):
        _draw_pulse(axes, _baseline(row), gain)
    for strip in strips:
        _draw_strip(axes, strip, gain)
        _shade_strip(axes, strip, explained)
    if explained:
        _write_key(figure, explained, len(explanations) - len(explained), left, width, height)
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
    """What to draw of one lead: millivolts at 200 Hz from ``start`` seconds on; empty if missing."""

    lead: str
    row: int
    column: int
    start: float
    part: Floats
    missing: bool

    @property
    def x(self) -> Floats:
        """Millimetres from the left edge of the paper, one per sample."""
        first = _PULSE_MM + self.column * COLUMN_SECONDS * MM_PER_SECOND
        return first + np.arange(len(self.part)) / SAMPLING_RATE * MM_PER_SECOND


def column_starts(seconds: float) -> list[float]:
    """Second at which each column begins; the last one ends with the shown part of ``seconds``."""
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
    """The highest gain at which every curve stays clear of its vertical neighbours and of the edges."""
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
    # a neighbouring cell counts too, because lines have a width
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
    # drawn below the curve and without a box, so that a label never hides a complex
    axes.text(
        x0 + 1.5,
        baseline + 11.0,
        f"{strip.lead} (missing)" if strip.missing else strip.lead,
        fontsize=9,
        fontweight="bold",
        color=_LABEL,
        zorder=1.5,
    )


def _shade_strip(axes: Axes, strip: _Strip, explained: Sequence[Explanation]) -> None:
    """Shade what moved each finding in the seconds of this strip, with a bar for the lead's effect."""
    if not explained or strip.missing:
        return
    lane = _LANES_MM / len(explained)
    first, last = strip.start, strip.start + (len(strip.part) - 1) / SAMPLING_RATE
    x0 = _PULSE_MM + strip.column * COLUMN_SECONDS * MM_PER_SECOND
    for i, (explanation, colour) in enumerate(zip(explained, RAISED, strict=False)):
        bottom = _baseline(strip.row) + _LANES_MM / 2 - (i + 1) * lane
        for start, end, share in shades(explanation):
            begin, stop = max(start, first), min(end, last)
            if stop > begin and abs(share) >= _FAINTEST:
                axes.broken_barh(
                    [(x0 + (begin - first) * MM_PER_SECOND, (stop - begin) * MM_PER_SECOND)],
                    (bottom + 0.3, lane - 0.6),
                    facecolor=colour if share > 0 else LOWERED,
                    alpha=DARKEST * abs(share),
                    linewidth=0,
                    zorder=0.5,
                )
        effect = float(explanation.by_channel[LEADS.index(strip.lead)])
        largest = float(np.abs(explanation.by_channel).max(initial=0.0))
        if largest:
            axes.barh(
                _baseline(strip.row) + 13.2 - 1.7 * i,
                _BAR_MM * abs(effect) / largest,
                left=x0 + 11.0,
                height=1.4,
                color=colour if effect > 0 else LOWERED,
                zorder=1.5,
            )


def _write_key(
    figure: Figure, explained: Sequence[Explanation], others: int, left: float, width: float, height: float
) -> None:
    """Write which shade is which finding, and the effect of the strongest parts."""
    tall = _KEY_MM * (len(explained) + 1)
    span = width - _LEFT - _RIGHT
    axes = figure.add_axes((left, (_BOTTOM + _TABLE_MM) / height, 1 - left - _RIGHT / width, tall / height))
    axes.set(xlim=(0, span), ylim=(tall, 0))
    axes.axis("off")
    for i, (explanation, colour) in enumerate(zip(explained, RAISED, strict=False)):
        y = _KEY_MM * (i + 0.75)
        for step in range(5):
            alpha = DARKEST * (step + 1) / 5
            axes.barh(y, 3.0, left=3.0 * step, height=3.4, color=colour, alpha=alpha, linewidth=0)
        peak = int(np.argmax(np.abs(explanation.over_time)))
        seconds = f"{explanation.starts[peak]:g} to {explanation.ends[peak]:g} s"
        beyond = " (not shown)" if explanation.starts[peak] >= SECONDS else ""
        effect = f"{explanation.over_time[peak]:+.2f}"
        text = f"moved most by {seconds}{beyond} {effect}; {strongest_channels(explanation)}"
        axes.text(18.0, y, explanation.output, fontsize=8.5, fontweight="bold", color=_INK, va="center")
        axes.text(46.0, y, text, fontsize=8, color="#333333", va="center")
    y = _KEY_MM * (len(explained) + 0.75)
    axes.barh(y, 15.0, height=3.4, color=LOWERED, alpha=DARKEST, linewidth=0)
    text = (
        "lowered a finding. Effects are log odds lost without a half second of all leads, or without a lead"
    )
    more = f"; {others} more findings are explained and not drawn" if others else ""
    axes.text(18.0, y, f"{text}{more}.", fontsize=7.5, color="#444444", va="center")


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
    if recording.recorded is not None:
        details.append(f"{recording.recorded:%Y-%m-%d}")
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
    foot.append(_signed(prediction.model))
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
    """Write findings with a bar each: length is the probability, the tick is the threshold."""
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


DPI = 150
SUFFIXES = (".png", ".pdf", ".svg")


def require_matplotlib() -> None:
    """Raise MissingExtra, which says what to install, if matplotlib is missing."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it warns about an unwritable home
    require("a plot", "matplotlib")


def figure_of(
    item: Recording | Stay, prediction: Prediction, explanations: Sequence[Explanation] = ()
) -> Figure:
    """Plot one answer.

    Parameters
    ----------
    item
        The recording or stay that was scored.
    prediction
        Its prediction.
    explanations
        Explanations of the answer, to be drawn over it.

    Raises
    ------
    MissingExtra
        When matplotlib is not installed.
    TypeError
        When item and answer belong to different tasks.
    """
    require_matplotlib()
    if not isinstance(item, scorer_of(prediction.task).item):
        raise TypeError(f"a {type(item).__name__} has no {type(prediction).__name__}")
    figure: Figure = PARTS[prediction.task].figure.load()(item, prediction, explanations)
    return figure


class NumberedPictures:
    """Writes plots to ``OUT.png``, or to ``OUT-1.png``, ``OUT-2.png``... once there is more than one.

    Parameters
    ----------
    path
        The requested name; its suffix determines the format (PNG, PDF, SVG).

    Attributes
    ----------
    written
        Current names of the plots: the first one is renamed when a second one is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written: list[Path] = []

    def there(self) -> Path | None:
        """An existing file that the plots would replace, if any."""
        prefix = f"{self._path.stem}-"
        if self._path.exists():
            return self._path
        for path in sorted(self._path.parent.iterdir()):
            number = path.stem.removeprefix(prefix)
            if path.suffix == self._path.suffix and path.stem.startswith(prefix) and number.isdecimal():
                return path
        return None

    def draw(
        self, item: Recording | Stay, prediction: Prediction, explanations: Sequence[Explanation] = ()
    ) -> Path:
        """Plot one answer; returns the file written."""
        if len(self.written) == 1:
            self.written = [self._path.replace(self._numbered(1))]
        path = self._numbered(len(self.written) + 1) if self.written else self._path
        figure = figure_of(item, prediction, explanations)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # names may be in any script
            figure.savefig(path, dpi=DPI)
        self.written.append(path)
        return path

    def _numbered(self, number: int) -> Path:
        return self._path.with_stem(f"{self._path.stem}-{number}")
