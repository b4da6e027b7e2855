"""What a search draws (science 5.1). The same seed gives the same draws, whatever runs them.

Trial ``i`` of every method shares the draws of what all methods share: the same quantile of the learning
rate, the same weight decay, dropout and augmentation. Methods then differ in method alone, not in luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibt_deploy.errors import RecipeError
from training.recipe import Recipe, recipe_from_dict

METHODS: dict[str, dict[str, Any]] = {
    "teacher": {"method": "teacher"},
    "transformer": {"method": "transformer"},
    "bbm": {"method": "bbm"},
    "deit-soft": {"method": "deit", "deit": {"variant": "soft"}},
    "deit-hard": {"method": "deit", "deit": {"variant": "hard"}},
}
TEACHER_SECTION = {"arrhythmia": "resnet", "sepsis": "lstm"}
DIGITS = 4
"""Significant digits of a drawn number, so that a recipe holds what a person can copy."""


@dataclass(frozen=True)
class Dimension:
    """One key of a recipe, how a uniform number in [0, 1) becomes its value, and how to say so."""

    key: str
    value: Callable[[float], Any]
    says: str


def log_uniform(key: str, low: float, high: float) -> Dimension:
    """A number whose logarithm is uniform."""

    def value(u: float) -> float:
        return _rounded(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))

    return Dimension(key, value, f"log-uniform in [{low:g}, {high:g}]")


def uniform(key: str, low: float, high: float) -> Dimension:
    """A number."""
    return Dimension(key, lambda u: _rounded(low + u * (high - low)), f"uniform in [{low:g}, {high:g}]")


def choice(key: str, *values: float) -> Dimension:
    """One of a few values."""
    return Dimension(
        key, lambda u: values[int(u * len(values))], f"one of {', '.join(f'{v:g}' for v in values)}"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def shared_dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """What every method of a task draws, in this order."""
    teaches = method == "teacher"
    rates = (1e-4, 3e-3) if teaches else (5e-5, 2e-3)
    dropout = f"{TEACHER_SECTION[task] if teaches else 'student'}.dropout"
    dimensions = (
        log_uniform("fit.lr", *rates),
        log_uniform("fit.weight_decay", 1e-6, 1e-1),
        choice(dropout, 0.0, 0.1, 0.2, 0.3),
    )
    if task == "sepsis":
        return dimensions
    return (*dimensions, choice("augment.n_ops", 1, 2, 3), uniform("augment.magnitude", 0, 10))


def own_dimensions(method: str) -> tuple[Dimension, ...]:
    """What a method alone draws."""
    if method == "bbm":
        return (log_uniform("bbm.weight", 0.1, 10),)
    if method == "deit-soft":
        return (choice("deit.alpha", 0.1, 0.5, 0.9), choice("deit.tau", 1.0, 2.0, 4.0))
    if method == "deit-hard":
        return (choice("deit.alpha", 0.1, 0.5, 0.9),)
    return ()


def dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """The whole space of a method."""
    return (*shared_dimensions(task, method), *own_dimensions(method))


def draw(task: str, method: str, seed: int, trial: int) -> dict[str, Any]:
    """Values of a trial by dotted key.

    Parameters
    ----------
    task, method
        One of :data:`METHODS`.
    seed, trial
        Of the search, and number of the trial from 0. How many trials there are makes no difference.
    """
    shared, own = shared_dimensions(task, method), own_dimensions(method)
    first = np.random.default_rng((seed, trial, 0)).random(len(shared))
    second = np.random.default_rng((seed, trial, 1)).random(len(own))
    drawn = zip((*shared, *own), (*first, *second), strict=True)
    return {dimension.key: dimension.value(float(u)) for dimension, u in drawn}


def method_recipe(base: Recipe, method: str, epochs: int, grace: int) -> Recipe:
    """The recipe whose keys the trials replace.

    Raises
    ------
    RecipeError
        When the first decision would fall into the warm-up, where the rates that rise slowest look best.
    """
    table = _merged(base.to_dict(), METHODS[method])
    recipe = recipe_from_dict(_merged(table, {"fit": {"epochs": epochs}}))
    warmup = min(recipe.fit.warmup_epochs, recipe.fit.warmup_fraction * epochs)
    if grace <= warmup:
        raise RecipeError(
            f"a grace period of {grace} epochs ends within the warm-up of {warmup:g}; "
            "trials would be judged by it"
        )
    return recipe


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with drawn values in place."""
    table = recipe.to_dict()
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        table = _merged(table, {section: {key: value}})
    return recipe_from_dict(table)


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in changes.items():
        merged[key] = {**merged[key], **value} if isinstance(value, Mapping) else value
    return merged
