"""Stays from a packed cache, as padded batches of feature rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.bundle import Calibration
from ibt_deploy.calibration import fitted_calibration
from ibt_deploy.errors import RecipeError
from ibt_deploy.metrics.ranking import auprc, auroc
from ibt_deploy.metrics.sepsis import row_utilities, utility_sweep
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from training.batch import Batch
from training.cache import Cache, file_sha256
from training.recipe import DataRecipe
from training.sources import EVERYTHING, Part, Scores, Source, divided
from training.stratify import read_split

LENGTH_BUCKETS = 24
EARLIER_ROWS = 6
"""``h12`` labels turn positive this many rows before the official ones."""

Ints = npt.NDArray[np.int64]


def read_rows(cache: Cache) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], Ints]:
    """Raw values ``(rows, 40)``, labels ``(rows,)`` and offsets ``(stays + 1,)`` of the whole cache."""
    values, labels = [], []
    for name in sorted(n for n in cache.manifest["files"] if n.startswith("rows-")):
        with np.load(cache.folder / name) as piece:
            values.append(piece["values"])
            labels.append(piece["labels"])
    offsets = np.concatenate(([0], np.cumsum(cache.index["length"].to_numpy())))
    return np.concatenate(values), np.concatenate(labels), offsets.astype(np.int64)


def concatenated_spans(offsets: Ints, items: Ints) -> Ints:
    """Row numbers of the stays ``items``, end to end."""
    lengths = offsets[items + 1] - offsets[items]
    ends = np.cumsum(lengths)
    rows: Ints = np.arange(ends[-1] if len(ends) else 0)
    rows += np.repeat(offsets[items] - (ends - lengths), lengths)
    return rows


def decisions_worth(
    labels: npt.NDArray[np.int8], offsets: Ints, train_rows: Ints
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Where an alarm pays by the utility of the Challenge 2019, and how much the decision matters there.

    Minimising cross-entropy under these labels and weights raises the utility itself, as regression on the
    gain of an alarm does (Morrill et al. 2019, the Challenge's first place).

    Returns
    -------
    Labels ``(rows,)``, 1 where an alarm is worth more than silence, and weights ``(rows,)``, the absolute
    difference, with mean 1 over ``train_rows``.
    """
    worth = row_utilities(labels, offsets)
    gain = worth.alarm - worth.silence
    weights = np.abs(gain)
    scaled = (weights / weights[train_rows].mean()).astype(np.float32)
    return (gain > 0).astype(np.int8), scaled


class StaySource(Source):
    """All stays of a cache, featurised once with constants fitted on the training part."""

    def __init__(self, cache: Cache, split: Path, recipe: DataRecipe, batch_size: int) -> None:
        self.cache, self.batch_size, self.samples = cache, batch_size, 0
        values, labels, self.offsets = read_rows(cache)
        longest = int(np.diff(self.offsets).max())
        if longest > recipe.max_hours:
            raise RecipeError(f"data.max_hours: {recipe.max_hours}, but there are stays of {longest} hours")
        ids = cache.index["patient"].tolist()
        parts, self.split_sha256 = read_split(split, ids), file_sha256(split)
        self._items = divided(parts, cache.index["hospital"].to_numpy(), recipe)
        train_rows = concatenated_spans(self.offsets, self._items["train"])
        train_lengths = np.diff(self.offsets)[self._items["train"]]
        self.constants = StayPreprocessing.fit(
            values[train_rows],
            np.concatenate(([0], np.cumsum(train_lengths))),
            recipe.features,
            hidden=recipe.drop_variables,
        )
        self.n_inputs = self.constants.n_features
        self.features = featurise(values, self.offsets, self.constants)
        if recipe.scale == "standard":
            self.constants = self.constants.standardising(self.features[train_rows])
            self.features = self.constants.standardised(self.features)
        self.official_labels = labels
        self.labels: npt.NDArray[np.int8] | npt.NDArray[np.float32]
        self.labels = self._earlier(labels) if recipe.label == "h12" else labels
        self.weights: npt.NDArray[np.float32] | None = None
        if recipe.label == "utility":
            self.labels, self.weights = decisions_worth(labels, self.offsets, train_rows)

    def _earlier(self, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        earlier = labels.copy()
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            if labels[stop - 1]:
                first = start + int(np.argmax(labels[start:stop]))
                earlier[max(first - EARLIER_ROWS, start) : first] = 1
        return earlier

    def items(self, part: Part) -> Ints:
        """See :meth:`Source.items`."""
        return self._items[part]

    def _batch(self, items: Ints) -> Batch:
        # numpy throughout: torch operations in the thread that prepares batches would start a second team
        # of OpenMP threads, which fights with the one that trains.
        starts = self.offsets[items]
        lengths = self.offsets[items + 1] - starts
        mask = np.arange(lengths.max()) < lengths[:, None]
        rows = np.minimum(starts[:, None] + np.arange(lengths.max()), len(self.features) - 1)
        inputs = self.features[rows]
        inputs[~mask] = 0
        known = torch.from_numpy(mask.astype(np.float32))
        labels = (self.labels[rows] * mask).astype(np.float32)
        weights = None if self.weights is None else torch.from_numpy(self.weights[rows] * mask)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), known, known, weights)

    def plan(self, seed: int, epoch: int) -> list[Ints]:
        """Stays of similar length together, about as many rows in every batch; see :meth:`Source.plan`.

        The loss is a mean over the rows of a batch. Were every batch to hold as many stays, rows of short
        stays would weigh ten times as much as rows of long ones.
        """
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(self._items["train"])
        lengths = np.diff(self.offsets)
        budget = self.batch_size * lengths[order].mean()
        chunk = self.batch_size * LENGTH_BUCKETS
        batches: list[Ints] = []
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            part = part[np.argsort(lengths[part], kind="stable")]
            rows = np.cumsum(lengths[part])
            parts = max(round(rows[-1] / budget), 1)
            cuts = np.searchsorted(rows, rows[-1] * np.arange(1, parts) / parts)
            batches += [batch for batch in np.split(part, cuts) if len(batch)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def training_batch(self, seed: int, epoch: int, items: Ints, share: slice = EVERYTHING) -> Batch:
        """See :meth:`Source.training_batch`; nothing is drawn for stays."""
        del seed, epoch
        return self._batch(items[share])

    def plain(self, items: Ints) -> Iterator[tuple[Ints, Batch]]:
        """See :meth:`Source.plain`; shortest stays first."""
        order = items[np.argsort(np.diff(self.offsets)[items], kind="stable")]
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield chosen, self._batch(chosen)

    def gather(
        self, items: Ints, outputs: list[tuple[Ints, npt.NDArray[np.float32]]]
    ) -> npt.NDArray[np.float32]:
        """See :meth:`Source.gather`."""
        by_item = {
            int(item): row[: self.offsets[item + 1] - self.offsets[item]]
            for chosen, logits in outputs
            for item, row in zip(chosen, logits, strict=True)
        }
        return np.concatenate([by_item[int(item)] for item in items])

    def part_labels(self, part: Part) -> tuple[npt.NDArray[np.int8], Ints]:
        """Official labels of the part's rows end to end, and their offsets."""
        items = self._items[part]
        lengths = np.diff(self.offsets)[items]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return self.official_labels[concatenated_spans(self.offsets, items)], offsets

    def selection_scores(self, part: Part, logits: npt.NDArray[np.float32]) -> Scores:
        """Normalised utility at its best single threshold, AUROC and AUPRC over rows."""
        labels, offsets = self.part_labels(part)
        risk = 1 / (1 + np.exp(-logits.astype(np.float64)))
        sweep = utility_sweep(labels, risk, offsets)
        best = int(np.argmax(sweep.utilities))
        return {
            "selection": float(sweep.utilities[best]),
            "utility": float(sweep.utilities[best]),
            "threshold": float(sweep.thresholds[best]),
            "bce": float(np.mean(np.logaddexp(0, logits) - labels * logits)),
            "auroc": auroc(labels, risk),
            "auprc": auprc(labels, risk),
        }

    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """See :meth:`Source.decision_thresholds`; the one of best utility."""
        return np.array([self.selection_scores(part, logits)["threshold"]])

    def calibration(self, part: Part, logits: npt.NDArray[np.float32]) -> Calibration:
        """See :meth:`Source.calibration`."""
        return fitted_calibration(logits, self.part_labels(part)[0]).calibration

    def soften(self, probabilities: npt.NDArray[np.float32], weight: float) -> None:
        """See :meth:`Source.soften`."""
        rows = concatenated_spans(self.offsets, self._items["train"])
        softened = self.labels.astype(np.float32)
        softened[rows] += weight * (probabilities - softened[rows])
        self.labels = softened

    def preprocessing(self) -> dict[str, Any]:
        """See :meth:`Source.preprocessing`."""
        return self.constants.to_dict()

    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """See :meth:`Source.prepares_as`."""
        return StayPreprocessing.from_dict(preprocessing) == self.constants
