"""Figure 1, scores by method, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from training.study.figures import (
    GREY,
    INK,
    Estimate,
    annotate,
    error_of,
    errors_of,
    look,
    new_figure,
    seeds_of,
    spread,
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
        value, style = value_of(estimate), look(name, i)
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
    labels = [f"{look(n, i).label}\n{_written(e)}" for i, (n, e) in enumerate(panel.methods.items())]
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
        style, estimates = look(name, i), [p["estimate"] for p in points]
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
