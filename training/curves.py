"""The course of training runs: read, tabulate and draw what ``metrics.jsonl`` holds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.errors import DataError
from ibt_deploy.extras import missing_extra

METRICS = "metrics.jsonl"
HIDDEN = ("rms_", "norm_", "L1_", "L2_", "L3_")
"""Terms that the table leaves out; they are in the file."""


@dataclass(frozen=True)
class Curve:
    """One run: its name and a record for every epoch."""

    name: str
    epochs: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """The epoch that ``best.pt`` holds."""
        return [e for e in self.epochs if e["improved"]][-1]

    def series(self, part: str, name: str) -> tuple[list[int], list[float]]:
        """Epochs, from 1, and the finite values of a quantity of ``train`` or ``validation``."""
        found = [(e["epoch"] + 1, e[part][name]) for e in self.epochs if name in e[part]]
        finite = [(epoch, value) for epoch, value in found if math.isfinite(value)]
        return [epoch for epoch, _ in finite], [value for _, value in finite]


def read_curve(folder: Path) -> Curve:
    """The run in ``folder``; DataError where there is none."""
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {METRICS} here; it is written after the first epoch") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        epochs = [json.loads(line) for line in lines]
        curve = Curve(folder.resolve().name, epochs)
        if not epochs or not isinstance(curve.best["validation"], dict):
            raise DataError(f"{path}: holds no epoch")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: is not the record of a training run ({error})") from error
    return curve


def table_lines(curve: Curve) -> list[str]:
    """One line an epoch; the best one, which ``best.pt`` holds, has a star."""
    terms = [name for name in curve.epochs[0]["train"] if not name.startswith(HIDDEN)]
    scores = [name for name in curve.epochs[0]["validation"] if name != "selection"]
    head = ["epoch", "lr", *terms, *scores, "seconds"]
    rows = [
        [
            str(e["epoch"] + 1),
            f"{e['lr']:.2e}",
            *(_number(e["train"].get(name)) for name in terms),
            *(_number(e["validation"].get(name)) for name in scores),
            f"{e['seconds']:.1f}",
        ]
        for e in curve.epochs
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    best = curve.best["epoch"]
    lines = [curve.name, "  ".join(f"{text:>{w}s}" for text, w in zip(head, widths, strict=True))]
    for e, row in zip(curve.epochs, rows, strict=True):
        star = " *" if e["epoch"] == best else ""
        lines.append("  ".join(f"{text:>{w}s}" for text, w in zip(row, widths, strict=True)) + star)
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Training loss and validation metric of every run, as a picture.

    Raises
    ------
    MissingExtra
        Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error, "--plot") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, metric = figure.subplots(1, 2)
    names = {"challenge" if "challenge" in c.best["validation"] else "utility" for c in curves}
    for curve in curves:
        loss.plot(*curve.series("train", "loss"), label=curve.name)
        metric.plot(*curve.series("validation", "selection"), label=curve.name)
        metric.plot(curve.best["epoch"] + 1, curve.best["validation"]["selection"], "k*")
    loss.set(xlabel="epoch", ylabel="training loss")
    metric.set(xlabel="epoch", ylabel=f"validation: {', '.join(sorted(names))}")
    for axes in (loss, metric):
        axes.grid(visible=True, alpha=0.3)
    loss.legend()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
