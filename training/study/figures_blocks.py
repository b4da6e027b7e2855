"""Attention of every block in numbers: how far, how local, how invariant to translation, how spread out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.study.figures import (
    GREY,
    Estimate,
    annotate,
    errors_of,
    look,
    new_figure,
    styled,
    value_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
            _number(axes, name, methods)
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


def _number(axes: Axes, name: str, methods: Mapping[str, Mapping[str, Sequence[Estimate]]]) -> None:
    blocks = 0
    for i, (method, numbers) in enumerate(methods.items()):
        estimates = list(numbers.get(name, ()))
        style, aside = look(method, i), 0.07 * (i - (len(methods) - 1) / 2)
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
