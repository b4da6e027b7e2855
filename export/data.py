"""The parts of a prepared data set as the product sees patients: Recordings and Stays, with their labels.

Features are not made here. Scoring makes them, so that every published figure is one of the shipped model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from ibt_deploy.errors import DataError
from ibt_deploy.evaluation.labels import UNKNOWN, age_bands
from ibt_deploy.leads import LEADS
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, EcgPreprocessing
from ibt_deploy.records import Recording, Stay
from ibt_deploy.variables import INDEX
from training.cache import Cache, file_sha256, open_cache
from training.ecg_source import read_signals
from training.run import default_split
from training.sources import PARTS, Part
from training.stay_source import read_rows
from training.stratify import read_split

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.str_]

MICROVOLTS = 1000.0


@dataclass(frozen=True, eq=False)
class EcgPart:
    """Recordings of one part.

    Attributes
    ----------
    ids
        Record names.
    signals
        Int16 microvolts ``(12, samples)`` at 200 Hz.
    labels, known
        Shape ``(n, 26)``: positive, and whether that is known at all.
    patients
        Shape ``(n,)``: index of the patient, from 0.
    groups
        Sub-group of each recording, shape ``(n,)``, by what divides them (``source``, ``sex``, ``age``).
    """

    ids: list[str]
    signals: list[npt.NDArray[np.int16]]
    labels: Bools
    known: Bools
    patients: Ints
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    def items(self) -> Iterator[Recording]:
        """The recordings as scoring reads them."""
        for name, signal in zip(self.ids, self.signals, strict=True):
            yield Recording(signal / MICROVOLTS, float(SAMPLING_RATE), LEADS, name, name, "cache")

    def select(self, chosen: Bools) -> EcgPart:
        """Those recordings where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return EcgPart(
            [self.ids[i] for i in rows],
            [self.signals[i] for i in rows],
            self.labels[chosen],
            self.known[chosen],
            np.unique(self.patients[chosen], return_inverse=True)[1],
            {name: values[chosen] for name, values in self.groups.items()},
        )


@dataclass(frozen=True, eq=False)
class StayPart:
    """Stays of one part, one for each patient.

    Attributes
    ----------
    ids
        Patients.
    values
        Raw rows of each stay, ``(hours, 40)`` float32.
    labels
        ``SepsisLabel`` of all rows end to end.
    groups
        Sub-group of each stay, shape ``(n,)`` (``hospital``, ``sex``, ``age``, ``unit``).
    """

    ids: list[str]
    values: list[npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int8]
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> Ints:
        """Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]`` of ``labels``; shape ``(n + 1,)``."""
        return np.concatenate(([0], np.cumsum([len(v) for v in self.values]))).astype(np.int64)

    @property
    def septic(self) -> Bools:
        """Whether each stay has a positive row, shape ``(n,)``."""
        return np.array([self.labels[a:b].any() for a, b in pairwise(self.offsets)], bool)

    def items(self) -> Iterator[Stay]:
        """The stays as scoring reads them."""
        for name, values in zip(self.ids, self.values, strict=True):
            yield Stay(values.astype(np.float64), name, name, "cache")

    def select(self, chosen: Bools) -> StayPart:
        """Those stays where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return StayPart(
            [self.ids[i] for i in rows],
            [self.values[i] for i in rows],
            self.labels[np.repeat(chosen, np.diff(self.offsets))],
            {name: values[chosen] for name, values in self.groups.items()},
        )


AnyPart: TypeAlias = EcgPart | StayPart


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, divided.

    Attributes
    ----------
    task
        ``arrhythmia`` or ``sepsis``.
    parts
        Training, validation and test part.
    cache_sha256, split_sha256
        Of the files that it comes from.
    counts
        What preparation counted and refused.
    """

    task: str
    parts: Mapping[Part, AnyPart]
    cache_sha256: str
    split_sha256: str
    counts: dict[str, Any]


def open_data(folder: Path, split: Path | None = None) -> Data:
    """The data set of a cache, divided by ``split`` or else by the split that belongs to it.

    Raises
    ------
    DataError
        When cache or split are missing, altered, or do not belong together.
    """
    cache = open_cache(folder)
    split = split or default_split(cache)
    parts = read_split(split, _ids(cache))
    for i, name in enumerate(PARTS):
        if not (parts == i).any():
            raise DataError(f"{split}: nothing is in the {name} part")
    everything = _everything(cache)
    return Data(
        task=cache.task,
        parts={part: everything.select(parts == i) for i, part in enumerate(PARTS)},
        cache_sha256=cache.sha256,
        split_sha256=file_sha256(split),
        counts=_counts(cache),
    )


@dataclass(frozen=True, eq=False)
class External:
    """A whole data set that nothing was trained or tuned on.

    Attributes
    ----------
    name
        As it is to be called.
    part
        All of it.
    cache_sha256, counts
        As for :class:`Data`.
    """

    name: str
    part: AnyPart
    cache_sha256: str
    counts: dict[str, Any]


def open_external(name: str, folder: Path, data: Data) -> External:
    """An external test set; DataError when it is of the other task or shares a record with ``data``."""
    cache = open_cache(folder)
    if cache.task != data.task:
        raise DataError(f"{folder}: holds {cache.task} data, the student is for {data.task}")
    everything = _everything(cache)
    used = {i for part in data.parts.values() for i in part.ids}
    shared = sorted(used.intersection(everything.ids))
    if shared:
        raise DataError(
            f"{folder}: {len(shared)} records ({', '.join(shared[:3])}) are also in the training cache, "
            "so it is no external test"
        )
    return External(name, everything, cache.sha256, _counts(cache))


def _ids(cache: Cache) -> list[str]:
    ids: list[str] = cache.index["record" if cache.task == "arrhythmia" else "patient"].tolist()
    return ids


def _counts(cache: Cache) -> dict[str, Any]:
    refused: dict[str, int] = {}
    for entry in cache.manifest["refused"]:
        refused[entry["code"]] = refused.get(entry["code"], 0) + 1
    return {"records": cache.manifest["records"], **cache.manifest["counts"], "refused": refused}


def _everything(cache: Cache) -> AnyPart:
    index = cache.index
    if cache.task == "arrhythmia":
        labels = np.load(cache.folder / "labels.npy")
        return EcgPart(
            _ids(cache),
            read_signals(cache, EcgPreprocessing(scale=1.0)),
            labels == 1,
            labels >= 0,
            np.unique(_strings(index["group"]), return_inverse=True)[1],
            {
                "source": _strings(index["source"]),
                "sex": _named(np.char.lower(_strings(index["sex"])), {"male", "female"}),
                "age": age_bands(pd.to_numeric(index["age"], errors="coerce").to_numpy(np.float64)),
            },
        )
    values, row_labels, offsets = read_rows(cache)
    first = values[offsets[:-1]]
    unit = np.where(
        first[:, INDEX["Unit1"]] == 1, "MICU", np.where(first[:, INDEX["Unit2"]] == 1, "SICU", UNKNOWN)
    )
    gender = first[:, INDEX["Gender"]]
    return StayPart(
        _ids(cache),
        [values[a:b] for a, b in pairwise(offsets)],
        row_labels,
        {
            "hospital": _strings(index["hospital"]),
            "sex": np.where(gender == 1, "male", np.where(gender == 0, "female", UNKNOWN)),
            "age": age_bands(first[:, INDEX["Age"]].astype(np.float64)),
            "unit": unit,
        },
    )


def _strings(column: pd.Series[Any]) -> Strings:
    """A column as numpy strings; pandas' own conversion cuts some columns to one letter."""
    return np.array([UNKNOWN if pd.isna(value) else str(value) for value in column], dtype=np.str_)


def _named(values: Strings, known: set[str]) -> Strings:
    return np.where(np.isin(values, sorted(known)), values, UNKNOWN)
