"""The tasks that networks are trained for, one object per task.

A further task is a module like :mod:`training.tasks.stay` and an entry in :data:`TASKS`, with its number of
matched groups in :data:`training.recipe.N_GROUPS`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from training.data.cache import Cache, open_cache
from training.data.split import PARTS, default_split
from training.models import Encoder
from training.recipe import Recipe
from training.tasks.base import Cohort, Source, TrainingTask
from training.tasks.ecg import EcgTask
from training.tasks.stay import StayTask

TASKS: Mapping[str, TrainingTask] = {task.name: task for task in (EcgTask(), StayTask())}


_latest: dict[object, Source] = {}


def open_source(recipe: Recipe, cache_folder: Path, split: Path | None = None) -> Source:
    """The recipe's view of a cache; DataError if the cache is of another task.

    The latest view is kept for the next recipe that reads the same data, because stays take ten seconds to
    prepare. Both then share their arrays, except labels that :meth:`Source.blend_labels` changes.
    """
    cache = open_cache(cache_folder)
    if cache.task != recipe.task:
        raise DataError(f"{cache_folder}: holds {cache.task} data, the recipe is for {recipe.task}")
    _refuse_unlabelled(cache)
    split = split or default_split(cache)
    read_alike = (
        cache.folder.resolve(),
        cache.sha256,
        file_sha256(split),
        replace(recipe.data, soft_weight=0.0),
        recipe.augment,
        recipe.fit.batch_size,
        recipe.student.patch,
    )
    if read_alike not in _latest:
        forget_source()
        _latest[read_alike] = TASKS[recipe.task].source(recipe, cache, split)
    return copy.copy(_latest[read_alike])


def forget_source() -> None:
    """Drop the view that :func:`open_source` keeps."""
    _latest.clear()


def open_cohort(folder: Path, split: Path | None = None) -> Cohort:
    """The cohort of a training cache, divided by ``split`` or else by the split that belongs to it."""
    cache = open_cache(folder)
    _refuse_unlabelled(cache)
    cohort = TASKS[cache.task].cohort(cache, split or default_split(cache))
    for part in PARTS:
        if not len(cohort.items(part)):
            raise DataError(f"{folder}: nothing is in the {part} part of its split")
    return cohort


def _refuse_unlabelled(cache: Cache) -> None:
    if not cache.labelled:
        raise DataError(f"{cache.folder}: was prepared without labels; it is for external sets and `--also`")


def open_external(name: str, folder: Path, cohort: Cohort) -> Cohort:
    """A cohort that nothing was trained on.

    Raises
    ------
    DataError
        It is of another task, or shares a record with ``cohort``: an id, or exactly the same measurements
        under another id.
    """
    cache = open_cache(folder)
    if cache.task != cohort.cache.task:
        raise DataError(
            f"{name}: {folder} holds {cache.task} data, but the training cache holds {cohort.cache.task} data"
        )
    external = TASKS[cache.task].cohort(cache, None)
    known = set(cohort.ids)
    copied: dict[str | None, str] = dict(zip(cohort.measured(), cohort.ids, strict=True))
    copied.pop(None, None)
    shared = [
        record if record in known else f"{record} as {copied[found]}"
        for record, found in zip(external.ids, external.measured(), strict=True)
        if record in known or found in copied
    ]
    if shared:
        raise DataError(
            f"{name}: {len(shared)} of its records are also in {cohort.cache.folder}: {', '.join(shared[:3])}"
            + (" ..." if len(shared) > 3 else "")
        )
    return external


def build_teacher(recipe: Recipe, n_inputs: int) -> Encoder:
    """The teacher of the recipe's task for ``n_inputs`` leads or features."""
    return TASKS[recipe.task].teacher(recipe, n_inputs)


def build_network(recipe: Recipe, n_inputs: int, samples: int) -> Encoder:
    """The network that the recipe trains."""
    if recipe.method == "teacher":
        return build_teacher(recipe, n_inputs)
    return TASKS[recipe.task].student(recipe, n_inputs, samples)
