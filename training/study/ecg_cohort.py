"""Recordings of a cache, see :mod:`training.study.cohort`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ibt_deploy.evaluation.labels import age_bands, named_sexes
from ibt_deploy.leads import LEADS
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, EcgPreprocessing, scaled, window_spans
from ibt_deploy.records import Recording
from ibt_deploy.types import Strings
from training.cache import Cache
from training.ecg_source import MICROVOLTS, read_signals
from training.study.cohort import Cohort, Float32s, Ints, Truth, strings

BATCH = 64


class EcgCohort(Cohort):
    """Signals are filtered once for every pass band that is asked for."""

    def __init__(self, cache: Cache, split: Path | None) -> None:
        super().__init__(cache, split)
        self.labels = np.load(cache.folder / "labels.npy")
        self.sites = strings(cache.index["source"])
        self._patients = np.unique(strings(cache.index["group"]), return_inverse=True)[1]
        self._signals: dict[tuple[float, float] | None, list[npt.NDArray[np.int16]]] = {}

    def signals(self, band: tuple[float, float] | None) -> list[npt.NDArray[np.int16]]:
        """Microvolts ``(leads, samples)`` at 200 Hz of every recording."""
        if band not in self._signals:
            self._signals[band] = read_signals(self.cache, EcgPreprocessing(scale=1.0, band=band))
        return self._signals[band]

    def truth(self, items: Ints) -> Truth:
        """See :meth:`Cohort.truth`."""
        labels = self.labels[items]
        patients = np.unique(self._patients[items], return_inverse=True)[1].astype(np.int64)
        return Truth(labels == 1, labels >= 0, np.arange(len(items) + 1), patients)

    def groups(self, items: Ints) -> dict[str, Strings]:
        """See :meth:`Cohort.groups`."""
        index = self.cache.index.iloc[items]
        ages = pd.to_numeric(index["age"], errors="coerce").to_numpy(np.float64)
        return {"source": self.sites[items], "sex": named_sexes(index["sex"]), "age": age_bands(ages)}

    def batches(self, items: Ints, preprocessing: dict[str, Any]) -> Iterator[tuple[Ints, torch.Tensor]]:
        """The middle window of each recording; see :meth:`Cohort.batches`."""
        constants = EcgPreprocessing.from_dict(preprocessing)
        signals = self.signals(constants.band)
        for start in range(0, len(items), BATCH):
            chosen = items[start : start + BATCH]
            windows = np.zeros((len(chosen), len(signals[chosen[0]]), constants.length), dtype=np.float32)
            for window, item in zip(windows, chosen, strict=True):
                first, last = window_spans(signals[item].shape[1], constants.length, "centre")[0]
                window[:, : last - first] = scaled(signals[item][:, first:last] / MICROVOLTS, constants)
            yield chosen, torch.from_numpy(windows)

    def joined(self, items: Ints, outputs: list[tuple[Ints, Float32s]]) -> Float32s:
        """See :meth:`Cohort.joined`."""
        del items  # batches keep their order
        return np.concatenate([rows for _, rows in outputs])

    def records(self, items: Ints) -> Iterator[Recording]:
        """See :meth:`Cohort.records`."""
        for item in items:
            signal, name = self.signals(None)[item], self.ids[item]
            yield Recording(signal / MICROVOLTS, float(SAMPLING_RATE), LEADS, name, name, "cache")
