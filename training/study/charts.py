"""Figures of the study: scores by method (Figure 1), learning curves, attention, features, reliability.

All share one style, and equal numbers give byte-identical files. Every function takes plain data and returns
a matplotlib figure; :func:`write` saves it to files. A method that was not measured is left out, never drawn
as zero.

An *estimate* is a mapping with ``value``, ``interval`` (``[low, high]`` or None) and ``per_seed`` (values by
seed), as ``results.json`` holds it; ``value`` may be None where it is undefined.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError, require
from ibt_deploy.files import atomic_open
from ibt_deploy.predictions import NOTICE
from ibt_deploy.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Estimate = Mapping[str, Any]

DPI = 150
INK, GREY, PALE = "#222222", "#6b6b6b", "#e3e3e3"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "ibt",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class MethodStyle:
    """Style of one method in all figures; colour is never the only difference."""

    label: str
    colour: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]

    @property
    def points(self) -> dict[str, Any]:
        """Arguments of ``Axes.errorbar`` for a series of estimates with intervals."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dashes,
            "markersize": 5.5,
            "markeredgecolor": INK,
            "markeredgewidth": 0.5,
            "capsize": 2,
        }


# Okabe and Ito's palette, distinguishable with any colour vision
METHOD_STYLES: dict[str, MethodStyle] = {
    "transformer": MethodStyle("Transformer", "#56b4e9", "o", "--"),
    "deit": MethodStyle("DeiT", "#e69f00", "s", "-."),
    "deit-soft": MethodStyle("DeiT (soft)", "#e69f00", "s", "-."),
    "deit-hard": MethodStyle("DeiT (hard)", "#d55e00", "v", (0, (4, 1, 1, 1))),
    "bbm": MethodStyle("BBM", "#0072b2", "D", "-"),
    "teacher": MethodStyle("Teacher", "#8c8c8c", "^", ":"),
    "ceiling": MethodStyle("Second teacher (ceiling)", "#009e73", "P", (0, (1, 1))),
}
SPARE = ("#009e73", "#cc79a7", "#d55e00", "#0072b2", "#222222", "#e69f00", "#56b4e9", "#8c8c8c")
SPARE_MARKERS = "Xhp<>*dP"
SPARE_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":")


def style_of(name: str, index: int = 0) -> MethodStyle:
    """Style of a method, or for any other name one that depends on its position in the figure."""
    if name in METHOD_STYLES:
        return METHOD_STYLES[name]
    place = index % len(SPARE)
    return MethodStyle(name, SPARE[place], SPARE_MARKERS[place], SPARE_DASHES[index % len(SPARE_DASHES)])


@contextmanager
def styled() -> Iterator[None]:
    """Context with the study's style; MissingExtra if matplotlib is not installed."""
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # else it warns about a home folder that it cannot write to
    require("a figure", "matplotlib")
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float, *, images: bool = False) -> Figure:
    """An empty figure, sizes in inches, whose parts cannot overlap; it uses no global state.

    ``images`` moves panels of a fixed aspect together.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="compressed" if images else "constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)  # type: ignore[union-attr, call-arg]
    return figure


@contextmanager
def sheet(note: str, width: float, height: float, *, images: bool = False) -> Iterator[Figure]:
    """A :func:`new_figure` in the study's style, with a note added at its foot on exit."""
    with styled():
        figure = new_figure(width, height, images=images)
        yield figure
        _annotate(figure, note)


def _annotate(figure: Figure, note: str) -> None:
    """Add the note, with the notice that this is not a medical device."""
    text = f"{note.strip().rstrip('.')}. {NOTICE}" if note else NOTICE
    figure.supxlabel(_wrapped(text, int(figure.get_size_inches()[0] * 16)), fontsize=8, color=GREY)


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def write(figure: Figure, *paths: Path) -> None:
    """Save as PNG (150 dpi), SVG or PDF, by suffix; without dates or program versions in the files.

    Raises
    ------
    DataError
        When a file cannot be written.
    """
    nothing: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    with styled():
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_open(path) as file:
                    figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=nothing[path.suffix])
            except OSError as error:
                raise DataError(f"{path}: cannot be written: {error}") from error


def value_of(estimate: Estimate | None) -> float:
    """The value, NaN if there is none."""
    value = None if estimate is None else estimate.get("value")
    return float("nan") if value is None else float(value)


def error_of(estimate: Estimate | None) -> tuple[float, float]:
    """Distances of the interval's ends below and above the value; zeros if there is no interval."""
    interval = None if estimate is None else estimate.get("interval")
    if interval is None or any(bound is None for bound in interval):
        return 0.0, 0.0
    value = value_of(estimate)
    return max(value - float(interval[0]), 0.0), max(float(interval[1]) - value, 0.0)


def seeds_of(estimate: Estimate | None) -> list[float]:
    """Values of single seeds, where defined."""
    found = {} if estimate is None else estimate.get("per_seed") or {}
    return [float(value) for value in found.values() if value is not None]


def errors_of(estimates: list[Estimate]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Error bars for matplotlib, shape ``(2, n)``."""
    return np.array([error_of(estimate) for estimate in estimates], dtype=np.float64).reshape(-1, 2).T


def spread(axes: Axes, low: float, high: float) -> None:
    """Set vertical limits with a little room, even if all values are equal."""
    room = max(0.06 * (high - low), 1e-3)
    axes.set_ylim(low - room, high + room)


@dataclass(frozen=True)
class BarPanel:
    """One measure of several methods.

    Attributes
    ----------
    title, measure
        Heading, and label of the vertical axis.
    methods
        Estimates by method, in the order of the bars; methods not measured are left out.
    paper
        The paper's values by method. Its data differ, so the levels need not agree.
    """

    title: str
    measure: str
    methods: Mapping[str, Estimate]
    paper: Mapping[str, float] = field(default_factory=dict)


def bar_chart(panels: Sequence[BarPanel], note: str = "") -> Figure:
    """Bars from 0 up on one scale, with 95 % intervals, dots for seeds, the paper's values as diamonds."""
    with sheet(note, max(3.5 * len(panels), 4.4), 4.1) as figure:
        for axes, panel in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            _bars(axes, panel)
            axes.tick_params(labelleft=True)
        low, high = axes.get_ylim()  # of all panels: the axis is shared
        axes.set_ylim(min(low, 0), high * 1.04)
        _key_of_bars(figure, panels)
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

    entries: list[tuple[str, dict[str, Any]]] = [
        ("95 % interval, patients", {"color": INK, "marker": "|", "markersize": 9})
    ]
    if any(len(seeds_of(e)) > 1 for p in panels for e in p.methods.values()):
        entries.append(("a seed", {"color": "white", "marker": "o", "markeredgecolor": INK}))
    if any(p.paper for p in panels):
        entries.append(
            ("the paper, on its own data", {"color": "none", "marker": "D", "markeredgecolor": INK})
        )
    handles = [Line2D([], [], linestyle="", label=label, **style) for label, style in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(entries))


def learning_curves(panels: Mapping[str, Sequence[Mapping[str, Any]]], note: str = "") -> Figure:
    """Scores against training patients on a logarithmic axis, 95 % intervals, methods side by side.

    ``panels`` holds, by the name of a measure, mappings with ``fraction``, ``patients`` (of the training
    part), ``method`` and ``estimate``.
    """
    with sheet(note, max(5.2 * len(panels), 6.0), 4.3) as figure:
        drawn: dict[str, Any] = {}
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (measure, points) in zip(grid, panels.items(), strict=True):
            drawn |= _curves(axes, points)
            axes.set_ylabel(measure)
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=max(len(drawn), 1))
    return figure


def _curves(axes: Axes, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    methods = list(dict.fromkeys(str(point["method"]) for point in measured))
    drawn = {}
    for i, name in enumerate(methods):
        points = sorted((p for p in measured if p["method"] == name), key=lambda p: float(p["patients"]))
        aside = 1.035 ** (i - (len(methods) - 1) / 2)  # so that intervals lie side by side
        style, estimates = style_of(name, i), [p["estimate"] for p in points]
        drawn[style.label] = axes.errorbar(
            [float(p["patients"]) * aside for p in points],
            [value_of(e) for e in estimates],
            errors_of(estimates),
            linewidth=1.6,
            elinewidth=1.0,
            **style.points,
        )
    sizes = sorted({(float(p["patients"]), float(p["fraction"])) for p in measured})
    axes.set_xscale("log")
    axes.set_xticks([n for n, _ in sizes], [f"{n:,.0f}\n{100 * share:g} %" for n, share in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training patients, and their share of the training part", color=GREY)
    axes.grid(visible=True)
    ends = [value_of(p["estimate"]) + s for p in measured for s in _ends(p["estimate"])]
    if finite := [v for v in ends if np.isfinite(v)]:
        spread(axes, min(finite), max(finite))
    return drawn


def _ends(estimate: Estimate) -> tuple[float, float]:
    below, above = error_of(estimate)
    return -below, above


TITLES: dict[str, str] = {
    "distance": "mean distance",
    "local_mass": "local mass",
    "toeplitz_share": "translation invariance\n(Toeplitz share)",
    "entropy": "entropy of a row (nats)",
}
"""Titles of the numbers of :class:`training.study.similarity.AttentionSummary`, by name."""


def attention_numbers(
    methods: Mapping[str, Mapping[str, Sequence[Estimate]]],
    note: str = "",
    *,
    uniform: Mapping[str, float] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """One panel per number, blocks across, methods as lines with 95 % intervals.

    Parameters
    ----------
    methods
        By method and number, an estimate for each block.
    uniform
        Values that uniform attention would have, drawn as a line.
    titles
        Titles to use in place of :data:`TITLES`, for example with units.
    """
    names = list(dict.fromkeys(name for numbers in methods.values() for name in numbers))
    known = TITLES | dict(titles or {})
    with sheet(note, max(3.0 * len(names), 5.0), 3.7) as figure:
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


def reliability_diagrams(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], note: str = ""
) -> Figure:
    """One panel per way of dividing the patients; equal axes throughout, the diagonal is ideal.

    Both axes are on a square-root scale, because most risks of a rare event are small. ``panels`` holds, by
    title (``by hospital``) and name, bins from the lowest probability up: mappings with ``predicted``,
    ``observed``, ``n`` and, where known, ``interval`` of the observed frequency.
    """
    columns = min(len(panels), PANEL_COLUMNS)
    rows = -(-len(panels) // columns)
    note = f"Square-root axes, diagonal ideal. {note}"
    with sheet(note, max(3.5 * columns, 4.2), 3.7 * rows + 0.4) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        top = max(_reach(bins) for curves in panels.values() for bins in curves.values()) * 1.06
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            _reliability(axes, curves, top)
            axes.set_title(title)
        for axes in grid[:, 0]:
            axes.set_ylabel("observed frequency")
        for column in range(columns):
            below = [a for a in grid[:, column] if a.get_visible()][-1]
            below.set_xlabel("predicted risk")
            below.tick_params(labelbottom=True)
    return figure


def _reach(bins: Sequence[Mapping[str, Any]]) -> float:
    ends = [(b.get("interval") or [0, 0])[1] or 0 for b in bins]
    return max(
        *(float(b["predicted"]) for b in bins), *(float(b["observed"]) for b in bins), *map(float, ends), 1e-3
    )


def _reliability(axes: Axes, curves: Mapping[str, Sequence[Mapping[str, Any]]], top: float) -> None:
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for i, (name, bins) in enumerate(curves.items()):
        style = style_of("bbm" if len(curves) == 1 else name, i)
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
    axes.set_box_aspect(1)
    axes.grid(visible=True)
    axes.legend(loc="upper left", fontsize=8, handlelength=1.8, borderaxespad=0.3)


def _root(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rooted: npt.NDArray[np.float64] = np.sqrt(np.maximum(values, 0))
    return rooted


def _spaced(ticks: list[float], top: float) -> list[float]:
    """Ticks that are far enough apart on the square-root scale to be labelled."""
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

    They are labelled in panels with one curve; in others, where labels would overlap, they come in the same
    order from left to right.

    Parameters
    ----------
    panels
        By title, curves by method, hospital or other name.
    """
    with sheet(note, max(4.6 * len(panels), 5.2), 4.2) as figure:
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


COLOURS = "viridis"
"""Monotonic in lightness, for any colour vision and in greyscale."""
NUMBERED_CELLS = 64
SCALE_ENDS = (0.2, 99.8)
"""Percentiles of all attention weights at which the scale ends; few cells lie beyond."""
WELL_REACHED = 0.1


def cka_maps(
    matrices: Mapping[str, Array],
    note: str = "",
    *,
    groups: Sequence[tuple[int, int]] = (),
    units: tuple[str, str] = ("teacher: residual block", "student: block"),
) -> Figure:
    """CKA of the teacher's units (up) with those of each other network (across), all on one scale.

    Parameters
    ----------
    matrices
        ``(teacher's units, other's units)`` by method, in order; ``ceiling`` is a second teacher.
    groups
        Ends of matched groups (teacher unit, student unit), counted from 1; drawn as white lines.
    units
        Names of the axes.
    """
    rows = max(np.shape(m)[0] for m in matrices.values())
    cell = min(3.6 / rows, 0.8)
    width = [max(cell * np.shape(m)[1], 1.5) for m in matrices.values()]
    with sheet(note, sum(width) + 0.75 * len(width) + 1.3, cell * rows + 1.7, images=True) as figure:
        panels = figure.subplots(1, len(width), squeeze=False, width_ratios=width)[0]
        image = None
        for i, (axes, (name, matrix)) in enumerate(zip(panels, matrices.items(), strict=True)):
            image = _grid(axes, np.asarray(matrix, dtype=np.float64))
            axes.set_title(style_of(name, i).label)
            square = name == "ceiling"
            axes.set_xlabel("second teacher" if square else units[1])
            for teacher, student in groups[:-1]:
                across = teacher if square else student
                axes.axhline(teacher - 0.5, color="white", linewidth=1.4)
                axes.axvline(across - 0.5, color="white", linewidth=1.4)
        panels[0].set_ylabel(units[0])
        if image is not None:
            bar = figure.colorbar(image, ax=panels, fraction=0.05, shrink=0.92, pad=0.01)
            bar.set_label("CKA (unbiased; 1 alike, 0 unrelated)")
    return figure


def _grid(axes: Axes, matrix: Array) -> Any:
    rows, columns = matrix.shape
    axes.set_facecolor("#bdbdbd")  # seen where a unit's features are constant
    image = axes.imshow(
        np.ma.masked_invalid(matrix), origin="lower", cmap=COLOURS, vmin=0, vmax=1, aspect="equal"
    )
    for ticks, count in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        shown = [n for n in range(count) if count <= 8 or (n + 1) % 4 == 0 or n == 0]
        ticks(shown, [str(n + 1) for n in shown])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2)
    if rows * columns <= NUMBERED_CELLS:
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                ink = INK if value > 0.6 else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
    return image


def attention_maps(
    averaged: Mapping[str, Array],
    note: str = "",
    *,
    token: str = "0.1 s",
    reached: Array | None = None,
) -> Figure:
    """Averaged attention: a row for each method, a column for each block, all on one scale.

    The scale is logarithmic, because a few tokens get many times the attention of the rest, and reaches from
    the 0.2nd to the 99.8th percentile of all weights shown.

    Parameters
    ----------
    averaged
        ``(blocks, tokens, tokens)`` by method, rows summing to 1.
    token
        Length of a token.
    reached
        Stays only: number of stays that reach each hour. The upper triangle, the future, is left blank, and
        so are hours that fewer than a tenth of the stays reach.
    """
    from matplotlib.colors import LogNorm

    shown = {name: _causal(m, reached) for name, m in averaged.items()}
    blocks = max(len(m) for m in shown.values())
    low, high = _scale_ends(shown.values())
    scale = LogNorm(low, high, clip=True)
    side = 1.45 if blocks > 4 else 2.1
    uniform = "White line in the scale: uniform attention. " if reached is None else ""
    note = f"A token is {token}. {uniform}{note}"
    with sheet(note, side * blocks + 2.0, (side + 0.14) * len(shown) + 1.25, images=True) as figure:
        panels = figure.subplots(len(shown), blocks, squeeze=False, sharex=True, sharey=True)
        for row, (name, matrices) in enumerate(shown.items()):
            for block, matrix in enumerate(matrices):
                axes = panels[row, block]
                image = axes.imshow(
                    np.ma.masked_invalid(matrix), norm=scale, cmap=COLOURS, interpolation="nearest"
                )
                axes.tick_params(length=2)
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(f"block {block + 1}")
            panels[row, 0].set_ylabel(f"{style_of(name, row).label}\nattending token")
        for axes in panels[-1]:
            axes.set_xlabel("attended", color=GREY)
        bar = figure.colorbar(image, ax=panels, extend="both", fraction=0.03, pad=0.01, shrink=0.95)
        bar.set_label("mean weight (log scale)")
        bar.minorticks_off()
        ticks = [step * 10.0**power for power in range(-9, 1) for step in (1, 1.5, 2, 3, 5, 7)]
        bar.set_ticks(inside := [t for t in ticks if low <= t <= high], labels=[f"{t:g}" for t in inside])
        if reached is None:
            bar.ax.axhline(1 / np.shape(matrix)[1], color="white", linewidth=2)
    return figure


def _scale_ends(matrices: Iterable[Array]) -> tuple[float, float]:
    """Shared ends of the scale, distinct even if all attention is uniform."""
    seen = np.concatenate([m[np.isfinite(m) & (m > 0)] for m in matrices])
    low, high = np.percentile(seen, SCALE_ENDS)
    return float(low) / 1.01, float(high) * 1.01


def _causal(matrices: Array, reached: Array | None) -> Array:
    if reached is None:
        return np.asarray(matrices, dtype=np.float64)
    hours = int((np.asarray(reached) >= WELL_REACHED * np.max(reached)).sum())
    cropped = np.array(matrices[:, :hours, :hours], dtype=np.float64)
    cropped[:, ~np.tri(hours, dtype=bool)] = np.nan
    return cropped
