"""Charts: scores by method (Figure 1), learning curves, attention by block, reliability, alarm burden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.study.style import (
    GREY,
    INK,
    Estimate,
    annotate,
    error_of,
    errors_of,
    new_figure,
    seeds_of,
    spread,
    style_of,
    styled,
    value_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BarPanel:
    """One measure of several methods.

    Attributes
    ----------
    title, measure
        Heading, and label of the vertical axis.
    methods
        Estimates by method, in the order of the bars; leave out what was not measured.
    paper
        The paper's values by method. Its data are others, so the levels need not agree.
    """

    title: str
    measure: str
    methods: Mapping[str, Estimate]
    paper: Mapping[str, float] = field(default_factory=dict)


def bar_chart(panels: Sequence[BarPanel], note: str = "") -> Figure:
    """Bars from 0 up on one scale, with 95 % intervals, dots for seeds, the paper's values as diamonds."""
    with styled():
        figure = new_figure(max(3.5 * len(panels), 4.4), 4.1)
        for axes, panel in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            _bars(axes, panel)
            axes.tick_params(labelleft=True)
        low, high = axes.get_ylim()  # of all panels: the axis is shared
        axes.set_ylim(min(low, 0), high * 1.04)
        _key_of_bars(figure, panels)
        annotate(figure, note)
    return figure


def _bars(axes: Axes, panel: BarPanel) -> None:
    for i, (name, estimate) in enumerate(panel.methods.items()):
        value, style = value_of(estimate), style_of(name, i)
        axes.bar(i, value, width=0.72, color=style.colour, edgecolor=INK, linewidth=0.6)
        below, above = error_of(estimate)
        if below or above:
            axes.errorbar(i, value, [[below], [above]], fmt="none", ecolor=INK, capsize=4, linewidth=1.2)
        seeds = seeds_of(estimate)
        if len(seeds) > 1:
            where = i + np.linspace(0.12, 0.28, len(seeds))
            axes.plot(where, seeds, "o", color="white", markeredgecolor=INK, markersize=4, zorder=3)
        if name in panel.paper:
            axes.plot(
                i - 0.2, panel.paper[name], "D", color="white", markeredgecolor=INK, markersize=6, zorder=3
            )
    labels = [f"{style_of(n, i).label}\n{_written(e)}" for i, (n, e) in enumerate(panel.methods.items())]
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.measure)
    axes.grid(axis="y")
    axes.axhline(0, color=INK, linewidth=0.8)


def _written(estimate: Estimate) -> str:
    value = value_of(estimate)
    return f"{value:.3f}" if np.isfinite(value) else "not defined"


def _key_of_bars(figure: Figure, panels: Sequence[BarPanel]) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=INK, marker="|", markersize=9, linestyle="", label="95 % interval, patients")
    ]
    if any(len(seeds_of(e)) > 1 for p in panels for e in p.methods.values()):
        entries.append(
            Line2D([], [], marker="o", color="white", markeredgecolor=INK, linestyle="", label="a seed")
        )
    if any(p.paper for p in panels):
        entries.append(
            Line2D(
                [],
                [],
                marker="D",
                color="none",
                markeredgecolor=INK,
                linestyle="",
                label="the paper, on its own data",
            )
        )
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))


@dataclass(frozen=True)
class CurvePanel:
    """One measure by the number of training patients.

    Attributes
    ----------
    measure
        Label of the vertical axis.
    points
        Mappings with ``fraction``, ``patients`` (of the training part), ``method`` and ``estimate``.
    """

    measure: str
    points: Sequence[Mapping[str, Any]]


def learning_curves(panels: Sequence[CurvePanel], note: str = "") -> Figure:
    """Scores against training patients on a logarithmic axis, 95 % intervals, methods side by side."""
    with styled():
        figure = new_figure(max(5.2 * len(panels), 6.0), 4.3)
        drawn: dict[str, Any] = {}
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            drawn |= _curves(axes, panel)
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=max(len(drawn), 1))
        annotate(figure, note)
    return figure


def _curves(axes: Axes, panel: CurvePanel) -> dict[str, Any]:
    methods = list(dict.fromkeys(str(point["method"]) for point in panel.points))
    drawn = {}
    for i, name in enumerate(methods):
        points = sorted((p for p in panel.points if p["method"] == name), key=lambda p: float(p["patients"]))
        aside = 1.035 ** (i - (len(methods) - 1) / 2)  # so that intervals stand beside each other
        style, estimates = style_of(name, i), [p["estimate"] for p in points]
        drawn[style.label] = axes.errorbar(
            [float(p["patients"]) * aside for p in points],
            [value_of(e) for e in estimates],
            errors_of(estimates),
            color=style.colour,
            marker=style.marker,
            linestyle=style.dashes,
            markersize=6,
            markeredgecolor=INK,
            markeredgewidth=0.5,
            capsize=2.5,
            linewidth=1.6,
            elinewidth=1.0,
        )
    sizes = sorted({(float(p["patients"]), float(p["fraction"])) for p in panel.points})
    axes.set_xscale("log")
    axes.set_xticks([n for n, _ in sizes], [f"{n:,.0f}\n{100 * share:g} %" for n, share in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training patients, and their share of the training part", color=GREY)
    axes.set_ylabel(panel.measure)
    axes.grid(visible=True)
    ends = [value_of(p["estimate"]) + s for p in panel.points for s in _ends(p["estimate"])]
    if finite := [v for v in ends if np.isfinite(v)]:
        spread(axes, min(finite), max(finite))
    return drawn


def _ends(estimate: Estimate) -> tuple[float, float]:
    below, above = error_of(estimate)
    return -below, above


TITLES: dict[str, str] = {
    "distance": "mean distance",
    "distance_ratio": "mean distance / uniform",
    "local_mass": "local mass",
    "toeplitz_share": "translation invariance\n(Toeplitz share)",
    "entropy": "entropy of a row (nats)",
    "entropy_ratio": "entropy / uniform",
}
"""What is known of the numbers of :class:`training.similarity.attention.AttentionSummary`, by name."""


def attention_numbers(
    methods: Mapping[str, Mapping[str, Sequence[Estimate]]],
    note: str = "",
    *,
    uniform: Mapping[str, float] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """A panel for each number, blocks across, methods as lines with 95 % intervals.

    Parameters
    ----------
    methods
        By method and number, an estimate for each block.
    uniform
        Values that uniform attention would have, drawn as a line.
    titles
        In place of :data:`TITLES`, for example with units.
    """
    names = list(dict.fromkeys(name for numbers in methods.values() for name in numbers))
    known = TITLES | dict(titles or {})
    with styled():
        figure = new_figure(max(3.0 * len(names), 5.0), 3.7)
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _block_number(axes, name, methods)
            axes.set_title(known.get(name, name))
            if uniform is not None and name in uniform:
                axes.axhline(uniform[name], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0), high * 1.05)
        from matplotlib.lines import Line2D

        handles, labels = panels[0].get_legend_handles_labels()
        if uniform:
            handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (2, 2))))
            labels.append("uniform attention")
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        annotate(figure, note)
    return figure


def _block_number(axes: Axes, name: str, methods: Mapping[str, Mapping[str, Sequence[Estimate]]]) -> None:
    blocks = 0
    for i, (method, numbers) in enumerate(methods.items()):
        estimates = list(numbers.get(name, ()))
        style, aside = style_of(method, i), 0.07 * (i - (len(methods) - 1) / 2)
        blocks = max(blocks, len(estimates))
        axes.errorbar(
            1 + np.arange(len(estimates)) + aside,
            [value_of(e) for e in estimates],
            errors_of(estimates),
            linewidth=1.5,
            elinewidth=1.0,
            label=style.label,
            **style.points,
        )
    axes.set_xticks(range(1, blocks + 1))
    axes.set_xlabel("block")
    axes.grid(visible=True)


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
        style = style_of("bbm" if len(panel.curves) == 1 else name, i)
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
    style = style_of("bbm" if alone else name, index)
    alarms, sensitivity = np.asarray(curve.alarms, dtype=float), np.asarray(curve.sensitivity, dtype=float)
    given = alarms > 0
    axes.plot(
        alarms[given],
        sensitivity[given],
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        label=style_of(name, index).label,
    )
    for point, (x, y) in curve.points.items():
        axes.plot(x, y, "*", color=style.colour, markeredgecolor=INK, markersize=13, zorder=3)
        if point and alone:
            axes.annotate(
                point, (x, y), textcoords="offset points", xytext=(-8, 7), ha="right", fontsize=8.5, color=INK
            )
