"""Values that a recipe may hold: what no training run can honour is refused before one begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ibt_deploy.errors import RecipeError
from ibt_deploy.variables import NAMES

RANGES: dict[str, str] = {
    "seed": "[0, inf)",
    "data.max_hours": "[1, 336]",
    "data.train_fraction": "(0, 1]",
    "data.soft_weight": "[0, 1]",
    "resnet.n_blocks": "[1, inf)",
    "resnet.base_filters": "[1, inf)",
    "resnet.kernel": "[1, inf)",
    "resnet.dropout": "[0, 1)",
    "resnet.pad_to": "[0, inf)",
    "lstm.hidden": "[1, inf)",
    "lstm.n_layers": "[1, inf)",
    "lstm.dropout": "[0, 1)",
    "student.dim": "[2, inf)",
    "student.depth": "[0, inf)",
    "student.heads": "[1, inf)",
    "student.mlp_ratio": "(0, inf)",
    "student.dropout": "[0, 1)",
    "student.patch": "[1, 2000]",
    "student.embedding_scale": "(0, inf)",
    "deit.alpha": "[0, 1]",
    "deit.tau": "(0, inf)",
    "bbm.groups": "[0, inf)",
    "bbm.weight": "[0, inf)",
    "bbm.w1": "[0, inf)",
    "bbm.w2": "[0, inf)",
    "bbm.w3": "[0, inf)",
    "bbm.groups_per_step": "[0, inf)",
    "bbm.deviation_floor": "[0, inf)",
    "bbm.group_weights": "[0, inf)",
    "bbm.standardise_rows": "[1, inf)",
    "bbm.alpha_kd": "[0, inf)",
    "augment.n_ops": "[0, inf)",
    "augment.magnitude": "[0, 10]",
    "augment.shortest_crop": "[1, 10]",
    "fit.batch_size": "[1, inf)",
    "fit.epochs": "[1, inf)",
    "fit.lr": "(0, inf)",
    "fit.weight_decay": "[0, inf)",
    "fit.beta1": "[0, 1)",
    "fit.beta2": "[0, 1)",
    "fit.eps": "(0, inf)",
    "fit.warmup_epochs": "[0, inf)",
    "fit.warmup_fraction": "[0, 1]",
    "fit.final_lr": "[0, 1]",
    "fit.clip_norm": "(0, inf)",
    "fit.patience": "[1, inf)",
    "fit.min_epochs": "[0, inf)",
    "fit.ema": "[0, 1)",
}
"""Interval of each number, in the notation of mathematics."""

HIGHEST_BAND_EDGE = 100.0


def is_within(value: float, interval: str) -> bool:
    """Whether ``value`` lies in an ``interval`` such as ``"[0, 1)"``; NaN lies in none."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    return above and below and not math.isnan(value)


def refuse_impossible(table: Mapping[str, Any]) -> None:
    """Check the plain data of a whole recipe, defaults included.

    Raises
    ------
    RecipeError
        A number out of range, or values that exclude each other.
    """
    for dotted, interval in RANGES.items():
        section, _, key = dotted.rpartition(".")
        value = (table[section] if section else table)[key]
        for number in value if isinstance(value, list | tuple) else (value,):
            if not is_within(number, interval):
                raise RecipeError(f"{dotted}: {number} is not in {interval}")
    if 2000 % table["student"]["patch"]:
        raise RecipeError(f"student.patch: {table['student']['patch']} does not divide 2000 samples (10 s)")
    data, student, bbm = table["data"], table["student"], table["bbm"]
    band = data["band"]
    if band and not (len(band) == 2 and 0 < band[0] < band[1] < HIGHEST_BAND_EDGE):
        raise RecipeError(
            f"data.band: give two rising edges between 0 and {HIGHEST_BAND_EDGE:g} Hz, or nothing"
        )
    if unknown := [name for name in data["drop_variables"] if name not in NAMES]:
        raise RecipeError(f"data.drop_variables: {', '.join(unknown)} not among the 40 variables")
    if student["dim"] % student["heads"]:
        raise RecipeError(f"student.dim: {student['dim']} cannot be shared among {student['heads']} heads")
    if student["dim"] % 2:
        raise RecipeError(f"student.dim: {student['dim']} is odd; sine and cosine need an even number")
    groups = bbm["groups"] or (4 if table["task"] == "arrhythmia" else 3)
    if bbm["group_weights"] and len(bbm["group_weights"]) != groups:
        raise RecipeError(f"bbm.group_weights: {len(bbm['group_weights'])} weights for {groups} groups")
