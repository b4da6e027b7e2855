"""Figure 2, alignment of features with the teacher's, and Figure 3, averaged attention of every block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ibt_deploy.types import Array
from training.study.style import GREY, INK, annotate, new_figure, style_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = "viridis"
"""Rises in lightness throughout, for any colour vision and in grey."""
NUMBERED_CELLS = 64
SCALE_ENDS = (0.2, 99.8)
"""Percentiles of all attention weights at which the scale ends; few cells are beyond."""
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
    with styled():
        width = [np.shape(m)[1] for m in matrices.values()]
        rows = max(np.shape(m)[0] for m in matrices.values())
        cell = min(3.6 / rows, 0.8)
        inches = sum(max(cell * w, 1.5) for w in width) + 0.75 * len(width) + 1.3
        figure = new_figure(inches, cell * rows + 1.7, images=True)
        panels = figure.subplots(
            1, len(width), squeeze=False, width_ratios=[max(cell * w, 1.5) for w in width]
        )[0]
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
        annotate(figure, note)
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
        What a token stands for.
    reached
        Stays only: how many of them reach each hour. The upper triangle, the future, is left blank, and so
        are hours that fewer than a tenth of the stays reach.
    """
    from matplotlib.colors import LogNorm

    with styled():
        shown = {name: _causal(m, reached) for name, m in averaged.items()}
        blocks = max(len(m) for m in shown.values())
        low, high = _scale_ends(shown.values())
        scale = LogNorm(low, high, clip=True)
        side = 1.45 if blocks > 4 else 2.1
        figure = new_figure(side * blocks + 2.0, (side + 0.14) * len(shown) + 1.25, images=True)
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
            note = f"White line in the scale: uniform attention. {note}"
        annotate(figure, f"A token is {token}. {note}")
    return figure


def _scale_ends(matrices: Iterable[Array]) -> tuple[float, float]:
    """Shared ends of the scale, apart also where all attention is uniform."""
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
