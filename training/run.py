"""Train a network from a recipe and a prepared cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from ibt_deploy.types import Float32s, Ints
from training.checkpoint import load_network
from training.data.ecg import possible_relatives
from training.device import autocast, chosen_device, enough_memory, process_group
from training.distil import (
    BBM,
    BlockMatching,
    DeiT,
    FrozenTeacher,
    MaskedPatches,
    Objective,
    Supervised,
    boundaries,
    channel_statistics,
)
from training.fit import WARM_UP, Fit, StepCost, part_logits
from training.models import Encoder
from training.models.students import EcgDeiT, EcgMasked, StayDeiT, StayTwoHeads
from training.models.teachers import calibrate_batch_norm
from training.recipe import Recipe
from training.tasks import TASKS, build_network, build_teacher, open_external, open_source
from training.tasks.base import Cohort, Source
from training.tasks.ecg import EcgCohort, EcgSource
from training.tasks.stay import StaySource


def load_teacher(path: Path, recipe: Recipe, source: Source) -> Encoder:
    """The trained teacher at ``path``; DataError if its task, data, split or preprocessing differ."""
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
    if trained.recipe.data.refit:
        raise DataError(
            f"{path}: the teacher learnt from the validation part, on which students and bundles are chosen"
        )
    return trained.network


def start_from(path: Path, network: Encoder, recipe: Recipe, source: Source) -> list[str]:
    """Copy the weights of the trained network at ``path`` into ``network``.

    Its data may differ, as for a model that is adapted to one's own hospital. Inputs are then prepared with
    the constants of the new training part, and records that both data sets hold are not noticed. The decoder
    of a network that was pretrained on hidden patches is left behind.

    Returns
    -------
    Hashes of the caches other than the new run's from which the weights have learnt, sorted.

    Raises
    ------
    DataError
        The architectures or tasks differ, or the weights learnt from records that the new run keeps for
        validation, test or an external test.
    """
    trained = load_network(path)
    if trained.recipe.task != recipe.task:
        raise DataError(f"{path}: holds a network for {trained.recipe.task}, not for {recipe.task}")
    learnt_from = {trained.cache_sha256, *trained.also_learnt_from}
    theirs, ours = trained.recipe.data, recipe.data
    if (source.cache.sha256 in learnt_from - {trained.cache_sha256}) or (
        trained.cache_sha256 == source.cache.sha256
        and (trained.split_sha256 != source.split_sha256 or (theirs.refit and not ours.refit))
    ):
        raise DataError(f"{path}: learnt from records that the new run keeps for validation or test")
    kept_out = ours.sites and not (theirs.sites and set(theirs.sites) <= set(ours.sites))
    if trained.cache_sha256 == source.cache.sha256 and kept_out:
        raise DataError(f"{path}: learnt from sites that the new run keeps for an external test")
    weights = trained.network.state_dict()
    if isinstance(trained.network, EcgMasked) and not isinstance(network, EcgMasked):
        weights = {name: value for name, value in weights.items() if not name.startswith("decoder.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{path}: holds a network of another architecture than the recipe's") from error
    return sorted(learnt_from - {source.cache.sha256})


def untrained_teacher(recipe: Recipe, source: Source) -> Encoder:
    """A teacher with random weights (control); its batch norms get their statistics from training data."""
    teacher = build_teacher(recipe, source.n_inputs)
    if any(isinstance(module, _BatchNorm) for module in teacher.modules()):
        n = TASKS[recipe.task].statistics_size(recipe)
        calibrate_batch_norm(teacher, [x for x, _ in _plain_inputs(source, n)])
    return teacher.eval()


def build_objective(
    recipe: Recipe, source: Source, teacher: Encoder | None, device: torch.device
) -> Objective:
    """The recipe's objective on ``device``, seeded by the recipe."""
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, source.n_inputs, source.samples).to(device)
    if recipe.method in ("teacher", "transformer"):
        return Supervised(network).to(device)
    if recipe.method == "masked":
        assert isinstance(network, EcgMasked)
        return MaskedPatches(network, recipe.masked.share).to(device)
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
    n_rows = TASKS[recipe.task].statistics_size(recipe)
    sample = [
        (x.to(device), None if rows is None else rows.to(device)) for x, rows in _plain_inputs(source, n_rows)
    ]
    statistics = channel_statistics(teacher, stops, sample, recipe.bbm.deviation_floor)
    if not recipe.bbm.standardise:
        statistics = [(torch.zeros_like(m), torch.ones_like(d)) for m, d in statistics]
    frozen = FrozenTeacher(teacher, stops, statistics)
    matching = BlockMatching(
        network, frozen, pairs, feature_shapes(network, teacher, pairs, sample[0][0][:2]), recipe.bbm
    )
    return BBM(matching, recipe.bbm).to(device)


def _plain_inputs(source: Source, wanted: int) -> list[tuple[Tensor, Tensor | None]]:
    """Unaugmented training batches holding about ``wanted`` ECGs or rows, drawn without regard to labels."""
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
def feature_shapes(
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


class OpinionFile(NamedTuple):
    """What :meth:`training.ensemble.Opinion.save` wrote.

    Attributes
    ----------
    items
        Items of the training part, numbered as in the cache.
    train, validation
        Probabilities of each part; those of validation are None in a file of an earlier version.
    cache_sha256, split_sha256
        Hashes of the data that it was made from.
    out_of_fold
        Whether no member predicted data that it had learnt from; False if the file does not say so.
    """

    items: Ints
    train: Float32s
    validation: Float32s | None
    cache_sha256: str
    split_sha256: str
    out_of_fold: bool


def read_opinion(path: Path) -> OpinionFile:
    """Read an opinion; DataError when the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as content:
            return OpinionFile(
                content["items"],
                content["probabilities"],
                content.get("validation"),
                str(content["cache_sha256"]),
                str(content["split_sha256"]),
                bool(content.get("out_of_fold", False)),
            )
    except (OSError, EOFError, TypeError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(
            f"{path}: not the opinion of an ensemble; make one with `ibt train ensemble`"
        ) from error


def blend_labels(source: Source, path: Path, weight: float) -> str:
    """Mix the opinion in ``path`` into the training labels with ``weight``; return the hash of the file.

    Raises
    ------
    DataError
        When the file is missing, damaged, or made from other data.
    """
    found = read_opinion(path)
    if (found.cache_sha256, found.split_sha256) != (source.cache.sha256, source.split_sha256) or (
        not np.array_equal(found.items, source.items("train"))
    ):
        raise DataError(f"{path}: made on other data, another split or another share of it")
    source.blend_labels("train", found.train, weight)
    if source.refit:
        if found.validation is None:
            raise DataError(f"{path}: has no opinion on the validation part; make it again")
        source.blend_labels("validation", found.validation, weight)
    return file_sha256(path)


def add_unlabelled(source: Source, recipe: Recipe, folders: Sequence[Path]) -> list[str]:
    """Let a network learn from the ECGs of further caches as well; return the hashes of these.

    Raises
    ------
    DataError
        The recipe needs labels; a recording is in two of the caches, the source's included, under the same
        name or with the same limb leads; or one of them may be of a patient whom the source keeps for
        validation or test.
    """
    if recipe.method != "masked":
        raise DataError(f"method {recipe.method!r} needs labels; only masked learns from further caches")
    assert isinstance(source, EcgSource)
    before: list[Cohort] = [TASKS[recipe.task].cohort(source.cache, None)]
    index, hashes = source.cache.index, []
    held_out = ~np.isin(np.arange(len(index)), source.learnt_items())
    for folder in folders:
        for cohort in before:
            added = open_external(str(folder), folder, cohort)
        related = possible_relatives(index, held_out, added.cache.index)
        if related.any():
            raise DataError(
                f"{folder}: {related.sum()} of its recordings may be of patients whom {source.cache.folder} "
                f"keeps for validation or test, such as {added.ids[int(related.argmax())]}"
            )
        before.append(added)
        assert isinstance(added, EcgCohort)
        source.add_unlabelled(added)
        hashes.append(added.cache.sha256)
    return hashes


def train(
    recipe: Recipe,
    cache_folder: Path,
    out: Path,
    *,
    split: Path | None = None,
    teacher: Path | None = None,
    opinion: Path | None = None,
    initial: Path | None = None,
    also: Sequence[Path] = (),
    device: str = "auto",
    keep_going: Callable[[list[dict[str, Any]]], bool] | None = None,
) -> dict[str, Any]:
    """Train as ``recipe`` says, or resume the run in ``out``; return the record of the best epoch.

    ``teacher`` is the ``best.pt`` of a teacher's run, needed by DeiT and BBM; ``opinion`` the file of an
    ensemble, needed where ``data.soft_weight`` is above 0; ``initial`` a checkpoint whose weights a new run
    starts from (:func:`start_from`), in place of random ones; ``also`` further caches of ECGs for the method
    ``masked``, which needs no labels.

    Raises
    ------
    DataError
        Data, teacher, opinion, initial weights and the content of ``out`` do not belong together, or a cache
        of ``also`` shares records with the first.
    DeviceError
        The device is not available, or has too little memory.
    DivergedError
        The loss became infinite.
    """
    with process_group(device) as place, enough_memory():
        chosen = chosen_device(device, place.local_rank)
        source = open_source(recipe, cache_folder, split)
        opinion_sha256 = None
        if recipe.data.soft_weight > 0:
            if opinion is None:
                raise DataError("data.soft_weight: give an ensemble's opinion, made by `ibt train ensemble`")
            opinion_sha256 = blend_labels(source, opinion, recipe.data.soft_weight)
        others = add_unlabelled(source, recipe, also) if also else []
        network = load_teacher(teacher, recipe, source) if teacher and recipe.needs_teacher else None
        objective = build_objective(recipe, source, network, chosen)
        teacher_sha256 = None
        if teacher and recipe.needs_teacher:
            teacher_sha256 = file_sha256(teacher)
            others += load_network(teacher).also_learnt_from
        learnt_from = {"teacher_sha256": teacher_sha256, "opinion_sha256": opinion_sha256}
        if initial is not None:
            others += start_from(initial, objective.network, recipe, source)
            learnt_from["initial_sha256"] = file_sha256(initial)
        if others:
            learnt_from["also_sha256"] = " ".join(sorted(set(others)))
        fit = Fit(
            recipe,
            source,
            objective,
            out,
            chosen,
            place=place,
            learnt_from=learnt_from,
        )
        fit.resume()
        if not fit.finished:
            _remember(fit, source.learnt_items())
        return fit.run(keep_going)


def _remember(fit: Fit, items: Ints) -> None:
    """Compute a frozen teacher's output for stays once: unlike ECGs, they are the same in every epoch."""
    source = fit.source
    teacher = next((m for m in fit.objective.modules() if isinstance(m, FrozenTeacher)), None)
    if teacher is None or not isinstance(source, StaySource):
        return
    hours = np.diff(source.offsets)
    if not teacher.has_room(int(hours[source.learnt_items()].sum())):
        return
    with autocast(fit.device, fit.dtype):
        teacher.remember((batch.to(fit.device) for _, batch in source.plain(items)), int(hours[items].sum()))


def step_cost(recipe: Recipe, source: Source, device: torch.device, steps: int = 5) -> StepCost:
    """Cost of one training step of ``recipe`` on ``device``, with an untrained teacher where it needs one."""
    if recipe.method == "deit":  # soft labels cost the same as hard ones, but need no teacher thresholds
        recipe = replace(recipe, deit=replace(recipe.deit, variant="soft"))
    teacher = untrained_teacher(recipe, source) if recipe.needs_teacher else None
    fit = Fit(recipe, source, build_objective(recipe, source, teacher, device), Path(), device)
    plan = source.plan(recipe.seed, 0)
    chosen = [plan[i] for i in np.random.default_rng(0).permutation(len(plan))[: steps + WARM_UP]]
    _remember(fit, np.concatenate(chosen))
    return fit.step_cost(chosen)
