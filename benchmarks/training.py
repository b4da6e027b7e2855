"""Training throughput of each method, full-size networks, on synthetic batches."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.machine import markdown, seconds_per_call
from training.device import autocast, chosen_device, chosen_dtype, computes_bf16
from training.distil import (
    BBM,
    BlockMatching,
    DeiT,
    FrozenTeacher,
    Objective,
    Supervised,
    boundaries,
    channel_statistics,
)
from training.models.students import EcgDeiT, StayDeiT
from training.recipe import Recipe, recipe_from_dict
from training.run import feature_shapes
from training.tasks import build_network, build_teacher
from training.tasks.base import Batch

METHODS = ("teacher", "transformer", "deit", "bbm")
ECGS, STAYS, HOURS = 32, 64, 40


def training_rates(least: float) -> dict[str, dict[str, float | None]]:
    """ECGs and 40-hour stays trained on per second, by method and kind; None without bf16 instructions."""
    rates: dict[str, dict[str, float | None]] = {}
    has_bf16 = computes_bf16(chosen_device("auto"))
    for method in METHODS:
        row = rates[method] = {}
        for task, what in (("arrhythmia", "ECGs/s {}"), ("sepsis", f"stays/s {{}} ({HOURS} h)")):
            for precision in ("fp32", "bf16"):
                name = what.format(precision)
                if precision == "bf16" and not has_bf16:
                    row[name] = None
                    continue
                recipe = recipe_from_dict({"task": task, "method": method, "fit": {"precision": precision}})
                row[name] = _items_per_second(recipe, least)
    return rates


def training_table(rates: dict[str, dict[str, float | None]]) -> str:
    """One row for each method."""
    rows = [
        [method, *("no bf16 here" if rate is None else f"{rate:.1f}" for rate in row.values())]
        for method, row in rates.items()
    ]
    return markdown(["training", *next(iter(rates.values()))], rows)


def _items_per_second(recipe: Recipe, least: float) -> float:
    device = chosen_device("auto")
    dtype = chosen_dtype(recipe.fit.precision, device)
    batch = _batch(recipe).to(device)
    objective = _objective(recipe, batch).to(device).train()
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        with autocast(device, dtype):
            loss = objective(batch, 0.0)["loss"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return len(batch.inputs) / seconds_per_call(step, least)


def _batch(recipe: Recipe) -> Batch:
    generator = np.random.default_rng(0)
    if recipe.task == "arrhythmia":
        inputs = torch.from_numpy(generator.standard_normal((ECGS, 12, 2000), dtype=np.float32))
        labels = torch.from_numpy((generator.random((ECGS, 26)) < 0.1).astype(np.float32))
        return Batch(inputs, labels, torch.ones_like(labels), None)
    inputs = torch.from_numpy(generator.standard_normal((STAYS, HOURS, 109), dtype=np.float32))
    labels = torch.from_numpy((generator.random((STAYS, HOURS)) < 0.02).astype(np.float32))
    return Batch(inputs, labels, torch.ones_like(labels), torch.ones_like(labels))


def _objective(recipe: Recipe, batch: Batch) -> Objective:
    n_inputs = batch.inputs.shape[1] if recipe.task == "arrhythmia" else batch.inputs.shape[2]
    network = build_network(recipe, n_inputs, batch.inputs.shape[-1])
    if recipe.method in ("teacher", "transformer"):
        return Supervised(network)
    teacher = build_teacher(recipe, n_inputs)
    if recipe.method == "deit":
        assert isinstance(network, EcgDeiT | StayDeiT)
        return DeiT(network, FrozenTeacher(teacher, (teacher.n_units,), []), recipe.deit, torch.zeros(1))
    pairs = boundaries(recipe, teacher.n_units, network.n_units)
    stops = tuple(t for t, _ in pairs)
    x = batch.inputs[:2].cpu()
    frozen = FrozenTeacher(teacher, stops, channel_statistics(teacher, stops, [(x, None)]))
    shapes = feature_shapes(network, teacher, pairs, x)
    return BBM(BlockMatching(network, frozen, pairs, shapes, recipe.bbm), recipe.bbm)
