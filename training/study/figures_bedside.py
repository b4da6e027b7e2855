"""Whether risks can be believed, and what alarms cost: reliability diagrams and alarm burden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.study.figures import GREY, INK, annotate, errors_of, look, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_COLUMNS = 4
FREQUENCIES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
FEWEST_ALARMS = 0.5
"""Left end of the axis of alarms per 100 patient-days, unless an operating point gives fewer."""


@dataclass(frozen=True)
class ReliabilityPanel:
    """Predicted against observed frequency.

    Attributes
    ----------
    title
        For example ``by hospital``.
    curves
        By name, bins from the lowest probability up: mappings with ``predicted``, ``observed``, ``n`` and,
        where known, ``interval`` of the observed frequency.
    """

    title: str
    curves: Mapping[str, Sequence[Mapping[str, Any]]]


def reliability_diagrams(
    panels: Sequence[ReliabilityPanel], note: str = "", *, probability: str = "predicted risk"
) -> Figure:
    """A panel for each way to divide the patients; equal axes throughout, the diagonal is ideal.

    Both axes are on a square-root scale, because most risks of a rare event are small.
    """
    with styled():
        columns = min(len(panels), PANEL_COLUMNS)
        rows = -(-len(panels) // columns)
        figure = new_figure(max(3.5 * columns, 4.2), 3.7 * rows + 0.4)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        top = max(_reach(bins) for panel in panels for bins in panel.curves.values()) * 1.06
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _reliability(axes, panel, top)
        for axes in grid[:, 0]:
            axes.set_ylabel("observed frequency")
        for column in range(columns):
            below = [a for a in grid[:, column] if a.get_visible()][-1]
            below.set_xlabel(probability)
            below.tick_params(labelbottom=True)
        annotate(figure, f"Square-root axes, diagonal ideal. {note}")
    return figure


def _reach(bins: Sequence[Mapping[str, Any]]) -> float:
    ends = [(b.get("interval") or [0, 0])[1] or 0 for b in bins]
    return max(
        *(float(b["predicted"]) for b in bins), *(float(b["observed"]) for b in bins), *map(float, ends), 1e-3
    )


def _reliability(axes: Axes, panel: ReliabilityPanel, top: float) -> None:
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for i, (name, bins) in enumerate(panel.curves.items()):
        style = look("bbm" if len(panel.curves) == 1 else name, i)
        estimates = [{"value": b["observed"], "interval": b.get("interval")} for b in bins]
        axes.errorbar(
            [float(b["predicted"]) for b in bins],
            [float(b["observed"]) for b in bins],
            errors_of(list(estimates)),
            linewidth=1.4,
            elinewidth=0.9,
            label=f"{name} (n = {sum(int(b['n']) for b in bins):,})",
            **style.points,
        )
    for axis, scale, limits in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        scale("function", functions=(_root, np.square))
        limits(0, top)
        axis.set_ticks(_spaced([f for f in FREQUENCIES if f <= top], top), minor=False)
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(title=panel.title, box_aspect=1)
    axes.grid(visible=True)
    axes.legend(loc="upper left", fontsize=8, handlelength=1.8, borderaxespad=0.3)


def _root(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rooted: npt.NDArray[np.float64] = np.sqrt(np.maximum(values, 0))
    return rooted


def _spaced(ticks: list[float], top: float) -> list[float]:
    """Those ticks that stand far enough apart on the square-root scale to be labelled."""
    kept = ticks[:1]
    for tick in ticks[1:]:
        if np.sqrt(tick / top) - np.sqrt(kept[-1] / top) > 0.11:
            kept.append(tick)
    return kept


@dataclass(frozen=True, eq=False)
class AlarmCurve:
    """Sensitivity against alarms as the threshold falls.

    Attributes
    ----------
    alarms
        Alarms per 100 patient-days, ``(k,)``.
    sensitivity
        Share of septic stays with a right alarm, ``(k,)``.
    points
        Operating points by name: ``(alarms, sensitivity)``.
    """

    alarms: npt.ArrayLike
    sensitivity: npt.ArrayLike
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def alarm_curves(panels: Mapping[str, Mapping[str, AlarmCurve]], note: str = "") -> Figure:
    """Sensitivity against alarm burden on a logarithmic axis; stars are the operating points of the models.

    They are named in panels of one curve; in others, where the names would lie on each other, they are in
    the same order from left to right.

    Parameters
    ----------
    panels
        By title, curves by method, hospital or other name.
    """
    with styled():
        figure = new_figure(max(4.6 * len(panels), 5.2), 4.2)
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, curves) in zip(grid, panels.items(), strict=True):
            for i, (name, curve) in enumerate(curves.items()):
                _alarm_curve(axes, name, curve, i, alone=len(curves) == 1)
            fewest = min(FEWEST_ALARMS, *(x / 2 for c in curves.values() for x, _ in c.points.values()), 1e9)
            axes.set(xscale="log", ylim=(-0.02, 1.02), title=title, xlabel="alarms per 100 patient-days")
            axes.set_xlim(left=fewest)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.grid(visible=True)
            axes.legend(loc="lower right")
        grid[0].set_ylabel("sensitivity (septic stays)")
        annotate(figure, note)
    return figure


def _alarm_curve(axes: Axes, name: str, curve: AlarmCurve, index: int, *, alone: bool) -> None:
    style = look("bbm" if alone else name, index)
    alarms, sensitivity = np.asarray(curve.alarms, dtype=float), np.asarray(curve.sensitivity, dtype=float)
    given = alarms > 0
    axes.plot(
        alarms[given],
        sensitivity[given],
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        label=look(name, index).label,
    )
    for point, (x, y) in curve.points.items():
        axes.plot(x, y, "*", color=style.colour, markeredgecolor=INK, markersize=13, zorder=3)
        if point and alone:
            axes.annotate(
                point, (x, y), textcoords="offset points", xytext=(-8, 7), ha="right", fontsize=8.5, color=INK
            )
