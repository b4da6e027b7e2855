"""From a recipe and a prepared cache to a trained network."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from ibt_deploy.errors import DataError
from training.assemble import build_objective, load_teacher
from training.cache import Cache, file_sha256, open_cache
from training.distributed import process_group
from training.ecg_source import EcgSource
from training.fit import Fit
from training.precision import chosen_device
from training.recipe import Recipe
from training.sources import Source
from training.stay_source import StaySource


def default_split(cache: Cache) -> Path:
    """The split beside the cache's arrays, or else the one that travels with the package for this task."""
    own = cache.folder / "split.csv"
    if own.is_file():
        return own
    packaged = Path(str(files("training").joinpath("splits", f"{cache.task}.csv")))
    if not packaged.is_file():
        raise DataError(f"{cache.folder}: no split.csv; make one with `ibt train prepare`")
    return packaged


def open_source(recipe: Recipe, cache_folder: Path, split: Path | None = None) -> Source:
    """The recipe's view of a cache; DataError if the cache is of the other task."""
    cache = open_cache(cache_folder)
    if cache.task != recipe.task:
        raise DataError(f"{cache_folder}: holds {cache.task} data, the recipe is for {recipe.task}")
    split = split or default_split(cache)
    if recipe.task == "sepsis":
        return StaySource(cache, split, recipe.data, recipe.fit.batch_size)
    return EcgSource(cache, split, recipe.data, recipe.augment, recipe.fit.batch_size, recipe.student.patch)


def train(
    recipe: Recipe,
    cache_folder: Path,
    out: Path,
    *,
    split: Path | None = None,
    teacher: Path | None = None,
    opinion: Path | None = None,
    device: str = "auto",
    keep_going: Callable[[list[dict[str, Any]]], bool] | None = None,
) -> dict[str, Any]:
    """Train as ``recipe`` says, or go on where ``out`` stopped; record of the best epoch.

    ``teacher`` is the ``best.pt`` of a teacher's run, needed by DeiT and BBM; ``opinion`` the file of an
    ensemble, needed where ``data.soft_weight`` is above 0.
    """
    with process_group(device) as place:
        chosen = chosen_device(device, place.local_rank)
        source = open_source(recipe, cache_folder, split)
        opinion_sha256 = None
        if recipe.data.soft_weight > 0:
            if opinion is None:
                raise DataError("data.soft_weight: give an ensemble's opinion, made by `ibt train ensemble`")
            from training.ensemble import soften

            opinion_sha256 = soften(source, opinion, recipe.data.soft_weight)
        network = load_teacher(teacher, recipe, source) if teacher and recipe.needs_teacher else None
        objective = build_objective(recipe, source, network, chosen)
        teacher_sha256 = file_sha256(teacher) if teacher and recipe.needs_teacher else None
        fit = Fit(
            recipe,
            source,
            objective,
            out,
            chosen,
            place=place,
            learnt_from={"teacher_sha256": teacher_sha256, "opinion_sha256": opinion_sha256},
        )
        return fit.run(keep_going)
