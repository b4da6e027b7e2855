"""Put an objective together: network, teacher, maps, statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ibt_deploy.errors import DataError
from training.bbm import BlockMatching, FrozenTeacher, channel_statistics
from training.checkpoint import load_network
from training.inference import part_logits
from training.models.deit import EcgDeiT, StayDeiT, StayTwoHeads
from training.models.encoder import Encoder
from training.models.resnet import calibrate_batch_norm
from training.networks import boundaries, build_network, build_teacher
from training.objectives import BBM, DeiT, Objective, Supervised
from training.recipe import Recipe
from training.sources import Source

STATISTICS_ECGS = 2048


def load_teacher(path: Path, recipe: Recipe, source: Source) -> Encoder:
    """The trained teacher at ``path``; DataError if its task, data, split or preprocessing are others."""
    trained = load_network(path)
    if trained.recipe.task != recipe.task or trained.recipe.method != "teacher":
        raise DataError(
            f"{path}: holds the method {trained.recipe.method} of the task {trained.recipe.task}, "
            f"not a teacher for {recipe.task}"
        )
    if trained.cache_sha256 != source.cache.sha256 or trained.split_sha256 != source.split_sha256:
        raise DataError(f"{path}: the teacher was trained on other data or another split")
    if not source.prepares_as(trained.preprocessing):
        raise DataError(f"{path}: the teacher was trained with other preprocessing")
    return trained.network


def untrained_teacher(recipe: Recipe, source: Source) -> Encoder:
    """A teacher with random weights (control); its batch norms take their statistics from training data."""
    teacher = build_teacher(recipe, source.n_inputs)
    if recipe.task == "arrhythmia":
        calibrate_batch_norm(teacher, [x for x, _ in _plain_inputs(source, STATISTICS_ECGS)])
    return teacher.eval()


def build_objective(
    recipe: Recipe, source: Source, teacher: Encoder | None, device: torch.device
) -> Objective:
    """The recipe's objective on ``device``, seeded by the recipe."""
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, source.n_inputs, source.samples).to(device)
    if recipe.method in ("teacher", "transformer"):
        return Supervised(network).to(device)
    if recipe.method == "bbm" and recipe.bbm.teacher == "untrained":
        teacher = untrained_teacher(recipe, source)
    if teacher is None:
        raise DataError(f"method {recipe.method!r} needs a trained teacher: give its checkpoint")
    teacher = teacher.to(device)
    if recipe.method == "deit":
        assert isinstance(network, EcgDeiT | StayDeiT | StayTwoHeads)
        thresholds = _decision_thresholds(teacher, source, device) if recipe.deit.variant == "hard" else None
        frozen = FrozenTeacher(teacher, (teacher.n_units,), [])
        return DeiT(network, frozen, recipe.deit, torch.zeros(1) if thresholds is None else thresholds).to(
            device
        )
    pairs = boundaries(recipe, teacher.n_units, network.n_units)
    stops = tuple(t for t, _ in pairs)
    n_rows = STATISTICS_ECGS if recipe.task == "arrhythmia" else recipe.bbm.standardise_rows
    sample = [
        (x.to(device), None if rows is None else rows.to(device)) for x, rows in _plain_inputs(source, n_rows)
    ]
    statistics = channel_statistics(teacher, stops, sample, recipe.bbm.deviation_floor)
    if not recipe.bbm.standardise:
        statistics = [(torch.zeros_like(m), torch.ones_like(d)) for m, d in statistics]
    frozen = FrozenTeacher(teacher, stops, statistics)
    matching = BlockMatching(
        network, frozen, pairs, _feature_shapes(network, teacher, pairs, sample[0][0][:2]), recipe.bbm
    )
    return BBM(matching, recipe.bbm).to(device)


def _plain_inputs(source: Source, wanted: int) -> list[tuple[Tensor, Tensor | None]]:
    """Un-augmented training batches holding about ``wanted`` ECGs or rows, drawn without regard to labels."""
    items = np.random.default_rng(0).permutation(source.items("train"))[:wanted]
    taken, count = [], 0
    for start in range(0, len(items), source.batch_size):
        for _, batch in source.plain(items[start : start + source.batch_size]):
            taken.append((batch.inputs, batch.rows))
            count += len(batch.inputs) if batch.rows is None else int(batch.rows.sum())
        if count >= wanted:
            break
    return taken


@torch.no_grad()
def _feature_shapes(
    student: Encoder, teacher: Encoder, pairs: tuple[tuple[int, int], ...], x: Tensor
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """``(time, depth)`` of student and teacher after each pair of units; equal times need no resize."""
    student.eval()
    of_teacher = teacher.boundary_features(x, tuple(t for t, _ in pairs))
    of_student = [student.matched_tokens(z) for z in student.boundary_features(x, tuple(s for _, s in pairs))]
    student.train()
    return [
        ((f.shape[1], f.shape[2]), (g.shape[1], g.shape[2]))
        for f, g in zip(of_student, of_teacher, strict=True)
    ]


def _decision_thresholds(teacher: Encoder, source: Source, device: torch.device) -> Tensor:
    logits = part_logits(teacher, source, source.items("validation"), device)
    return torch.from_numpy(source.decision_thresholds("validation", logits)).float()
