"""Trained networks compared on the validation part, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ibt_deploy.errors import DataError
from ibt_deploy.metrics.bootstrap import DRAWS, Interval, drawn_values, interval_of
from ibt_deploy.types import Floats
from training.checkpoint import TrainedNetwork, load_network, refuse_pretrained
from training.study.measures import network_logits
from training.study.study import Subject
from training.tasks import TASKS, open_cohort
from training.tasks.base import FREE, TUNED, Cohort


@dataclass(frozen=True)
class Compared:
    """Scores of a network on the validation part.

    Attributes
    ----------
    path
        Its checkpoint.
    scores
        By measure: the Challenge's metric (at thresholds tuned on the same part, hence optimistic), AUROC and
        AUPRC.
    minus_first
        By measure: the paired difference from the first network; empty for that one.
    """

    path: Path
    scores: Mapping[str, Interval]
    minus_first: Mapping[str, Interval]


def compared(
    checkpoints: Sequence[Path],
    cache: Path,
    split: Path | None = None,
    *,
    device: torch.device,
    draws: int = DRAWS,
) -> tuple[list[Compared], dict[str, int]]:
    """Compare trained networks, and count what they are compared on.

    Parameters
    ----------
    checkpoints
        ``best.pt`` or ``.safetensors`` of one task.
    cache, split
        The prepared data that they were trained on, and a split to use in place of its own.
    device
        Device of the networks.
    draws
        Bootstrap draws of patients; the same for every network, so that differences are paired.

    Raises
    ------
    DataError
        When a network was trained on other data or under another split, or learnt from the validation part.
    """
    cohort = open_cohort(cache, split)
    task = TASKS[cohort.cache.task]
    items = cohort.items("validation")
    train, truth = cohort.truth(cohort.items("train")), cohort.truth(items)
    drawn: list[dict[str, Floats]] = []
    for path in checkpoints:
        trained = load_network(path)
        _refuse_stranger(path, trained, cohort)
        network, subject = trained.network.to(device), Subject(cohort, items)
        logits = network_logits(network, subject, trained.preprocessing, device)
        decider = task.decider(logits, train, truth)
        wanted = (f"{TUNED}|{task.official}", f"{FREE}|auroc", f"{FREE}|auprc")
        statistics = {
            name.partition("|")[2]: statistic
            for name, statistic in task.statistics(decider, logits, truth).items()
            if name in wanted
        }
        drawn.append(drawn_values(statistics, truth.n_patients, draws=draws))
    found = [
        Compared(
            path,
            {name: interval_of(values) for name, values in of_run.items()},
            {name: interval_of(values - drawn[0][name]) for name, values in of_run.items()} if i else {},
        )
        for i, (path, of_run) in enumerate(zip(checkpoints, drawn, strict=True))
    ]
    return found, cohort.describe(items)


def _refuse_stranger(path: Path, trained: TrainedNetwork, cohort: Cohort) -> None:
    refuse_pretrained(path, trained)
    same_data = (trained.cache_sha256, trained.split_sha256) == (cohort.cache.sha256, cohort.split_sha256)
    if trained.recipe.task != cohort.cache.task or not same_data:
        raise DataError(f"{path}: trained on other data or under another split")
    if trained.recipe.data.refit:
        raise DataError(f"{path}: learnt from the validation part")
