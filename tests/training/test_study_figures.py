"""Figures: the same bytes for the same numbers, nothing outside the page, no text over other text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibt_deploy.errors import DataError

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from training.study.charts import (
    NOTICE,
    AlarmCurve,
    BarPanel,
    alarm_curves,
    attention_maps,
    attention_numbers,
    bar_chart,
    cka_maps,
    learning_curves,
    reliability_diagrams,
    styled,
    write,
)

METHODS = ("transformer", "deit", "bbm", "teacher")
NOTE = "Synthetic numbers; 5,446 held-out stays of two hospitals; seeds 0 to 2; 1,000 draws of patients."


def estimate(value: float, seeds: int = 3) -> dict[str, Any]:
    return {
        "value": value,
        "interval": [value - 0.03, value + 0.04],
        "per_seed": {str(s): value + 0.01 * s for s in range(seeds)},
    }


def bars() -> Figure:
    values = dict(zip(METHODS, (0.30, 0.33, 0.355, 0.36), strict=True))
    panel = BarPanel("official score", "utility", {m: estimate(v) for m, v in values.items()}, {"bbm": 0.26})
    return bar_chart([panel, BarPanel("F-1", "F", {"bbm": estimate(0.1, 1)})], NOTE)


def curves() -> Figure:
    points = [
        {"fraction": f, "patients": round(25_410 * f), "method": m, "estimate": estimate(0.3 + 0.05 * f)}
        for f in (0.02, 0.05, 0.25, 1)
        for m in METHODS
    ]
    return learning_curves({"utility": points, "AUPRC": points}, NOTE)


def cka_of_ecgs() -> Figure:
    rng = np.random.default_rng(0)
    grids = {m: rng.random((16, 8)) for m in METHODS[:3]} | {"ceiling": rng.random((16, 16))}
    grids["bbm"][3, 2] = np.nan
    return cka_maps(grids, NOTE, groups=[(4, 2), (8, 4), (12, 6), (16, 8)])


def cka_of_stays() -> Figure:
    return cka_maps({m: np.eye(3) for m in (*METHODS[:3], "ceiling")}, NOTE, units=("LSTM layer", "block"))


def attention(tokens: int, blocks: int, *, causal: bool) -> Figure:
    weights = np.random.default_rng(0).random((blocks, tokens, tokens))
    weights = np.tril(weights) if causal else weights
    weights /= weights.sum(axis=-1, keepdims=True)
    reached = np.linspace(100, 1, tokens) if causal else None
    return attention_maps(dict.fromkeys(METHODS[:3], weights), NOTE, reached=reached)


def numbers() -> Figure:
    kinds = ("distance", "local_mass", "toeplitz_share", "entropy")
    found = {m: {kind: [estimate(0.5)] * 8 for kind in kinds} for m in METHODS[:3]}
    return attention_numbers(found, NOTE, uniform={"distance": 1.0})


def reliability() -> Figure:
    bins = [
        {"predicted": p, "observed": 0.9 * p, "n": 2000, "interval": [0.8 * p, 1.1 * p]}
        for p in np.geomspace(1e-4, 0.12, 10)
    ]
    panels = {f"by {k}": {f"{k} {i}": bins for i in range(4)} for k in "abcde"}
    return reliability_diagrams(panels, NOTE)


def alarms() -> Figure:
    curve = AlarmCurve(np.geomspace(0.01, 200, 30), np.linspace(0, 0.9, 30), {"default": (50.0, 0.6)})
    other = AlarmCurve(np.geomspace(0.1, 300, 30), np.linspace(0, 0.8, 30), {"": (80.0, 0.5)})
    return alarm_curves({"all": {"bbm": curve}, "by hospital": {"A": curve, "B": other}}, NOTE)


FIGURES: dict[str, Callable[[], Figure]] = {
    "bars": bars,
    "curves": curves,
    "cka-ecg": cka_of_ecgs,
    "cka-stays": cka_of_stays,
    "attention-ecg": lambda: attention(100, 8, causal=False),
    "attention-stays": lambda: attention(50, 3, causal=True),
    "numbers": numbers,
    "reliability": reliability,
    "alarms": alarms,
}


@pytest.mark.parametrize("name", FIGURES)
def test_everything_is_on_the_page_and_no_text_lies_on_another(name: str) -> None:
    with styled():
        figure = FIGURES[name]()
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.canvas.draw()
        page, outer = figure.bbox, figure.get_tightbbox(renderer)
        scale = figure.dpi
        assert outer.x0 * scale >= -1, "cut off on the left"
        assert outer.y0 * scale >= -1, "cut off at the foot"
        assert outer.x1 * scale <= page.width + 1, "cut off on the right"
        assert outer.y1 * scale <= page.height + 1, "cut off at the top"
        hidden = unseen(figure)
        texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip()]
        seen = [t for t in texts if t not in hidden and t.get_visible()]
        boxes = [(t.get_text(), t.get_window_extent(renderer).shrunk(0.94, 0.8)) for t in seen]
    overlapping = [
        (a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[:i] if box.overlaps(other)
    ]
    assert not overlapping
    assert NOTICE in " ".join(" ".join(t for t, _ in boxes).split())


def unseen(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the ends of their axis, and everything in panels that are switched off."""
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high or not axes.get_visible():
                    hidden |= {tick.label1, tick.label2}
    return hidden


@pytest.mark.parametrize("name", ["bars", "cka-ecg"])
def test_files_are_the_same_whenever_the_numbers_are(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(FIGURES[name](), *(tmp_path / folder / f"x{suffix}" for suffix in (".png", ".svg", ".pdf")))
    for suffix in (".png", ".svg", ".pdf"):
        first, second = ((tmp_path / folder / f"x{suffix}").read_bytes() for folder in "ab")
        assert first == second
        assert b"Matplotlib v" not in first
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["x.pdf", "x.png", "x.svg"]


def test_panels_share_one_scale() -> None:
    for name in ("cka-ecg", "attention-ecg"):
        images = [i for axes in FIGURES[name]().axes for i in axes.get_images()]
        assert len(images) in (4, 24)
        assert len({i.get_clim() for i in images}) == 1


def test_the_future_and_rare_hours_are_blank() -> None:
    axes = attention(50, 3, causal=True).axes[0]
    shown = axes.get_images()[0].get_array()
    assert shown is not None
    assert shown.shape[0] < 50
    assert np.ma.getmaskarray(shown)[np.triu_indices(len(shown), 1)].all()


def test_what_was_not_measured_is_left_out() -> None:
    found = {"bbm": {"value": None, "interval": None, "per_seed": {}}, "teacher": {"value": 0.3}}
    axes = bar_chart([BarPanel("score", "utility", found)]).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["BBM\nnot defined", "Teacher\n0.300"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write(numbers(), tmp_path / "file" / "x.png")
