"""Pictures of the study: one style, files that are the same byte for byte whenever the numbers are.

Every function of :mod:`training.study.charts` and :mod:`training.study.maps` takes plain data and gives a
matplotlib figure; :func:`write` makes files of it. A method that was not measured is left out, never drawn as
zero.

An *estimate* is a mapping with ``value``, ``interval`` (``[low, high]`` or None) and ``per_seed`` (values by
seed), as ``results.json`` holds it; ``value`` may be None where it is undefined.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibt_deploy.errors import DataError, missing_extra
from ibt_deploy.files import atomic_open
from ibt_deploy.predictions import NOTICE

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
    """How one method is drawn everywhere; colour is never the only difference."""

    label: str
    colour: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]

    @property
    def points(self) -> dict[str, Any]:
        """Arguments of ``Axes.errorbar`` for a course of estimates with intervals."""
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
    """The style of a method, or for anything else one that depends on its place in the picture."""
    if name in METHOD_STYLES:
        return METHOD_STYLES[name]
    place = index % len(SPARE)
    return MethodStyle(name, SPARE[place], SPARE_MARKERS[place], SPARE_DASHES[index % len(SPARE_DASHES)])


@contextmanager
def styled() -> Iterator[None]:
    """The study's style while something is drawn; MissingExtra where matplotlib is not installed."""
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # else it warns about a home folder that it cannot write to
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a figure") from error
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float, *, images: bool = False) -> Figure:
    """An empty figure, sizes in inches, whose parts cannot overlap; never shown, no global state.

    ``images`` moves panels of a fixed aspect together.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="compressed" if images else "constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)  # type: ignore[union-attr, call-arg]
    return figure


def annotate(figure: Figure, note: str) -> None:
    """What was measured on what, at the foot, with the notice that this is not a medical device."""
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
    """Save as PNG (150 dpi), SVG or PDF, by suffix; without dates or versions of programs in the files.

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
    """The value, NaN where there is none."""
    value = None if estimate is None else estimate.get("value")
    return float("nan") if value is None else float(value)


def error_of(estimate: Estimate | None) -> tuple[float, float]:
    """How far the interval reaches below and above the value; zeros where there is no interval."""
    interval = None if estimate is None else estimate.get("interval")
    if interval is None or any(bound is None for bound in interval):
        return 0.0, 0.0
    value = value_of(estimate)
    return max(value - float(interval[0]), 0.0), max(float(interval[1]) - value, 0.0)


def seeds_of(estimate: Estimate | None) -> list[float]:
    """Defined values of single seeds."""
    found = {} if estimate is None else estimate.get("per_seed") or {}
    return [float(value) for value in found.values() if value is not None]


def errors_of(estimates: list[Estimate]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As matplotlib wants error bars: shape ``(2, n)``."""
    return np.array([error_of(estimate) for estimate in estimates], dtype=np.float64).reshape(-1, 2).T


def spread(axes: Axes, low: float, high: float) -> None:
    """Vertical limits with a little room, also where all values are equal."""
    room = max(0.06 * (high - low), 1e-3)
    axes.set_ylim(low - room, high + room)
