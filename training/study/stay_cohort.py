"""Stays of a cache, see :mod:`training.study.cohort`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ibt_deploy.evaluation.labels import UNKNOWN, age_bands
from ibt_deploy.metrics.sepsis import stay_of_row
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from ibt_deploy.records import Stay
from ibt_deploy.types import Strings
from ibt_deploy.variables import INDEX
from training.cache import Cache
from training.stay_source import concatenated_spans, read_rows
from training.study.cohort import Cohort, Float32s, Ints, Truth, strings

BATCH = 32


class StayCohort(Cohort):
    """Every stay is of a patient of its own."""

    def __init__(self, cache: Cache, split: Path | None) -> None:
        super().__init__(cache, split)
        self.values, self.labels, self.offsets = read_rows(cache)
        self.sites = strings(cache.index["hospital"])

    def truth(self, items: Ints) -> Truth:
        """See :meth:`Cohort.truth`."""
        labels = self.labels[concatenated_spans(self.offsets, items)]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[items]))).astype(np.int64)
        return Truth(labels, np.ones(labels.shape, dtype=bool), offsets, stay_of_row(offsets, len(labels)))

    def groups(self, items: Ints) -> dict[str, Strings]:
        """See :meth:`Cohort.groups`."""
        first = self.values[self.offsets[:-1][items]]
        gender = first[:, INDEX["Gender"]]
        return {
            "hospital": self.sites[items],
            "sex": np.where(gender == 1, "male", np.where(gender == 0, "female", UNKNOWN)),
            "age": age_bands(first[:, INDEX["Age"]]),
        }

    def batches(self, items: Ints, preprocessing: dict[str, Any]) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Stays of like length, followed by zeros; see :meth:`Cohort.batches`."""
        constants = StayPreprocessing.from_dict(preprocessing)
        order = items[np.argsort(np.diff(self.offsets)[items], kind="stable")]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            lengths = np.diff(self.offsets)[chosen]
            ends = np.concatenate(([0], np.cumsum(lengths)))
            rows = featurise(self.values[concatenated_spans(self.offsets, chosen)], ends, constants)
            padded = np.zeros((len(chosen), int(lengths.max()), rows.shape[1]), dtype=np.float32)
            for stay, first, last in zip(padded, ends[:-1], ends[1:], strict=True):
                stay[: last - first] = rows[first:last]
            yield chosen, torch.from_numpy(padded)

    def joined(self, items: Ints, outputs: list[tuple[Ints, Float32s]]) -> Float32s:
        """See :meth:`Cohort.joined`."""
        lengths = np.diff(self.offsets)
        by_item = {
            int(item): row[: lengths[item]]
            for chosen, rows in outputs
            for item, row in zip(chosen, rows, strict=True)
        }
        return np.concatenate([by_item[int(item)] for item in items])

    def records(self, items: Ints) -> Iterator[Stay]:
        """See :meth:`Cohort.records`."""
        for item in items:
            values = self.values[self.offsets[item] : self.offsets[item + 1]].astype(np.float64)
            yield Stay(values, self.ids[item], self.ids[item], "cache")
