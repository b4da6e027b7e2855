"""The recordings or stays that runs are judged on: their labels and patients, and what networks read.

Inputs are prepared by the constants in each network's checkpoint, so that a cache that it was not trained on
is read in the very same way as its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.errors import DataError
from ibt_deploy.evaluation.labels import UNKNOWN
from ibt_deploy.metrics.sepsis import stay_of_row
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Strings
from training.cache import Cache, file_sha256, open_cache
from training.run import default_split
from training.sources import PARTS, Part
from training.stratify import read_split

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about some recordings or stays.

    Attributes
    ----------
    labels
        ``(recordings, 26)``, true where positive; of stays ``SepsisLabel`` of all rows end to end.
    known
        Where a label is known, same shape; of stays everywhere.
    offsets
        Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]``; of recordings each is one row.
    patients
        Index of the patient of each row of ``labels``, from 0.
    """

    labels: Array
    known: Bools
    offsets: Ints
    patients: Ints

    @property
    def n_patients(self) -> int:
        """Patients, from whom the bootstrap draws."""
        return int(self.patients.max(initial=-1)) + 1

    def chosen(self, items: Bools) -> Truth:
        """Those recordings or stays where ``items`` is true; patients are numbered anew."""
        lengths = np.diff(self.offsets)
        rows = np.repeat(items, lengths)
        offsets = np.concatenate(([0], np.cumsum(lengths[items]))).astype(np.int64)
        patients = np.unique(self.patients[rows], return_inverse=True)[1].astype(np.int64)
        return Truth(self.labels[rows], self.known[rows], offsets, patients)


class Cohort(ABC):
    """All recordings or stays of a cache.

    Parameters
    ----------
    cache
        Prepared data.
    split
        Its division into parts; None for data that nothing was trained or tuned on.
    """

    labels: Array
    sites: Strings

    def __init__(self, cache: Cache, split: Path | None) -> None:
        self.cache = cache
        self.ids: list[str] = cache.index["record" if cache.task == "arrhythmia" else "patient"].tolist()
        self.split_sha256 = file_sha256(split) if split else None
        self.parts = read_split(split, self.ids) if split else None

    def __len__(self) -> int:
        return len(self.ids)

    def items(self, part: Part, sites: tuple[str, ...] = ()) -> Ints:
        """Items of a part, of some sites where these are named; those that training or testing uses."""
        if self.parts is None:
            raise ValueError("an external cohort has no parts")
        wanted = self.parts == PARTS.index(part)
        return np.flatnonzero(wanted & np.isin(self.sites, sites) if sites else wanted)

    def left_out(self, sites: tuple[str, ...]) -> Ints:
        """Items of every part from all other sites."""
        return np.flatnonzero(~np.isin(self.sites, sites))

    def describe(self, items: Ints) -> dict[str, int]:
        """How many recordings, patients and positives."""
        truth = self.truth(items)
        if self.cache.task == "arrhythmia":
            counts = {"recordings": len(items), "patients": truth.n_patients}
            return counts | {"positive_labels": int((truth.labels & truth.known).sum())}
        positive = np.unique(stay_of_row(truth.offsets, len(truth.labels))[truth.labels > 0])
        counts = {"stays": len(items), "patients": truth.n_patients, "septic": len(positive)}
        return counts | {"hours": len(truth.labels), "positive_hours": int((truth.labels > 0).sum())}

    @abstractmethod
    def truth(self, items: Ints) -> Truth:
        """Labels and patients of items."""

    @abstractmethod
    def groups(self, items: Ints) -> dict[str, Strings]:
        """Site, sex and age band of each item, by what divides them."""

    @abstractmethod
    def batches(self, items: Ints, preprocessing: dict[str, Any]) -> Iterator[tuple[Ints, torch.Tensor]]:
        """What a network with this preprocessing reads, batch by batch, each with its items."""

    @abstractmethod
    def joined(self, items: Ints, outputs: list[tuple[Ints, Float32s]]) -> Float32s:
        """Outputs in the order of ``items``: one row for each ECG, or the hours of all stays end to end."""

    @abstractmethod
    def records(self, items: Ints) -> Iterator[Recording | Stay]:
        """The items as scoring by a bundle reads them."""


def open_cohort(folder: Path, split: Path | None = None) -> Cohort:
    """The cohort of a training cache, divided by ``split`` or else by the split that belongs to it."""
    cache = open_cache(folder)
    cohort = _cohort(cache, split or default_split(cache))
    for part in PARTS:
        if not len(cohort.items(part)):
            raise DataError(f"{folder}: nothing is in the {part} part of its split")
    return cohort


def open_external(name: str, folder: Path, cohort: Cohort) -> Cohort:
    """A cohort that nothing was trained on; DataError when it is of the other task or shares a record."""
    cache = open_cache(folder)
    if cache.task != cohort.cache.task:
        raise DataError(f"{name}: {folder} holds {cache.task} data, the study is of {cohort.cache.task}")
    external = _cohort(cache, None)
    if shared := sorted(set(external.ids).intersection(cohort.ids)):
        raise DataError(
            f"{name}: {len(shared)} records of {folder} ({', '.join(shared[:3])}) are in the training cache "
            "too, so it is no external test"
        )
    return external


def _cohort(cache: Cache, split: Path | None) -> Cohort:
    from training.study.ecg_cohort import EcgCohort
    from training.study.stay_cohort import StayCohort

    return EcgCohort(cache, split) if cache.task == "arrhythmia" else StayCohort(cache, split)


def strings(column: Any) -> Strings:
    """A column of an index as numpy strings; what is missing is ``unknown``."""
    return np.array([UNKNOWN if value != value or value is None else str(value) for value in column], np.str_)
