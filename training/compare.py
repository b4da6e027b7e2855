"""Trained networks compared on the validation part, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ibt_deploy.metrics.bootstrap import DRAWS, Interval, drawn_values, interval_of
from ibt_deploy.types import Floats
from training.checkpoint import load_network, require_validated
from training.study.measures import network_logits
from training.study.study import Subject
from training.tasks import TASKS, open_cohort
from training.tasks.base import FREE, TUNED


@dataclass(frozen=True)
class Compared:
    """Scores of a network on the validation part.

    Attributes
    ----------
    scores
        By measure: the Challenge's metric (at thresholds tuned on the same part, hence optimistic), AUROC and
        AUPRC; on ECGs over the classes with at least five positives in training and validation part.
    minus_first
        By measure: the paired difference from the first network; empty for that one.
    """

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
        require_validated(path, trained, cohort.cache.sha256, cohort.split_sha256, "networks are compared")
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
            {name: interval_of(values) for name, values in of_run.items()},
            {name: interval_of(values - drawn[0][name]) for name, values in of_run.items()} if i else {},
        )
        for i, of_run in enumerate(drawn)
    ]
    n_classes = int(task.class_counts(decider, logits, truth)[0])  # the same for every network
    return found, cohort.describe(items) | ({"classes": n_classes} if n_classes > 1 else {})
