"""A stay's risk over the hours, with threshold and alarms, above the main vital signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ibt_deploy.predictions import NOTICE, SepsisPrediction
from ibt_deploy.render.text import alarm_summary, caption, warning_captions
from ibt_deploy.types import Bools
from ibt_deploy.variables import INDEX, VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision can tell apart
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
BLACK = "#222222"
_GREY = "#555555"
_MANY_HOURS = 100

PANELS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("HR", BLUE, "o"),),
    (("SBP", SKY, "^"), ("MAP", PURPLE, "s")),
    (("Resp", GREEN, "o"),),
    (("O2Sat", ORANGE, "o"),),
    (("Temp", BLACK, "o"),),
)

ROOM_FOR_LEGEND = 0.4
"""Share of the axis kept free above the curves, so that the legend hides none of them."""


def stay_figure(prediction: SepsisPrediction) -> Figure:
    """Risk, threshold and alarms over the hours, and below them on the same axis the main vital signs.

    Dots are measurements; a line joins measurements of consecutive hours only, so that what was carried
    forward is not drawn as if it had been measured.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9.2), facecolor="white")
    grid = figure.add_gridspec(
        len(PANELS) + 1, 1, height_ratios=(3.4, *([1.0] * len(PANELS))), hspace=0.14,
        left=0.085, right=0.975, top=0.905, bottom=0.105,
    )  # fmt: skip
    top = figure.add_subplot(grid[0])
    _draw_risk(top, prediction)
    panels = [figure.add_subplot(grid[i + 1], sharex=top) for i in range(len(PANELS))]
    for axes, series in zip(panels, PANELS, strict=True):
        _draw_vitals(axes, prediction, series)
    for axes in (top, *panels):
        _shade_alarms(axes, prediction)
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
    m = prediction.model
    name, summary = (
        caption(prediction.record, 80),
        caption(f"hourly sepsis risk: {alarm_summary(prediction)}"),
    )
    figure.text(0.085, 0.965, name, fontsize=13, fontweight="bold", parse_math=False)
    figure.text(0.085, 0.932, summary, fontsize=9, color=_GREY)
    foot = f"{m.name} {m.version} ({m.sha256[:12]}), operating point '{m.operating_point}'. {NOTICE}"
    foot = "\n".join([*warning_captions(prediction, 2), foot])
    figure.text(0.085, 0.008, foot, fontsize=7.5, color=_GREY, va="bottom", linespacing=1.4, parse_math=False)
    return figure


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


def _dot(hours: int) -> float:
    """Size of a dot, in points: smaller where many hours share the axis."""
    return 3.2 if hours <= _MANY_HOURS else 1.8


def _runs(flags: Bools) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
