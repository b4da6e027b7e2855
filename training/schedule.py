"""Learning-rate schedule and the groups of parameters that decay."""

from __future__ import annotations

import math

from torch import nn

from training.objectives import Objective
from training.recipe import FitRecipe


def learning_rate(done: float, recipe: FitRecipe) -> float:
    """Rate of the step that completes ``done`` epochs: linear from 0 to the peak, then cosine to its end."""
    warmup = min(recipe.warmup_epochs, recipe.warmup_fraction * recipe.epochs)
    if done <= warmup:
        return recipe.lr * done / warmup
    share = min((done - warmup) / (recipe.epochs - warmup), 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * cosine)


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: weight matrices decay; biases, norms, positions, tokens and BBM maps do not."""
    undecayed = {id(p) for p in objective.undecayed()}
    tables = ("position", "token", "query")
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = any(word in name.rsplit(".", 1)[-1] for word in tables)
        exempt = parameter.dim() < 2 or is_table or id(parameter) in undecayed
        (no_decay if exempt else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
