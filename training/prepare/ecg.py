"""12-lead recordings of a Challenge 2021 tree to a cache: 12 leads at 200 Hz in int16 microvolts.

The tree is any folder with ``.hea`` files below it. Labels come from the headers' ``Dx``, the source from the
name of a folder on the way. Where there is an ``index.csv`` (columns ``record, source, file`` and perhaps
``patient, fold, amplitude, age, sex, dx``) it is believed instead.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from ibt_deploy.classes import CLASSES, label_vector
from ibt_deploy.errors import DataError, InputError
from ibt_deploy.preprocess import ecg
from ibt_deploy.readers import read
from ibt_deploy.readers.wfdb.header import parse_header
from ibt_deploy.records import Recording
from training.folders import replaced_folder
from training.prepare.cache import SUMMARY, CacheSummary, Refused, sealed
from training.prepare.ecg_entries import APPROXIMATE, Entry, entries, index_of
from training.prepare.ecg_sources import INCART, corrected_gain

PREPROCESSING = {"name": ecg.NAME, "version": ecg.VERSION}
MAX_SECONDS = 600.0
PIECE_SAMPLES = (60 << 20) // (12 * 2) - 1024
"""Samples per piece: 60 MiB of int16, less room for the header."""

UNKNOWN = -1
LOW_VOLTAGE = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "LQRSV")

Signal = npt.NDArray[np.int16]
Progress = Callable[[int, int], None]


@dataclass(eq=False)
class _Pieces:
    """Signals gathered until they fill a file."""

    folder: Path
    piece: int = 0
    filled: int = 0
    waiting: list[Signal] = field(default_factory=list)

    def add(self, signal: Signal) -> dict[str, object]:
        """Take ``signal`` in; returns its place."""
        if self.filled + signal.shape[1] > PIECE_SAMPLES:
            self.flush()
        place: dict[str, object] = {"piece": self.piece, "start": self.filled, "length": signal.shape[1]}
        self.waiting.append(signal)
        self.filled += signal.shape[1]
        return place

    def flush(self) -> None:
        """Write what is waiting as ``signal-NNN.npy``."""
        if self.waiting:
            np.save(self.folder / f"signal-{self.piece:03d}.npy", np.concatenate(self.waiting, axis=1))
            self.piece, self.filled, self.waiting = self.piece + 1, 0, []


def prepare_recordings(
    root: Path,
    out: Path,
    *,
    index_csv: Path | None = None,
    exclude_sources: Collection[str] = (INCART,),
    only_sources: Collection[str] | None = None,
    progress: Progress | None = None,
) -> CacheSummary:
    """Write the recordings below ``root`` as a cache to ``out`` (replacing a cache that is there).

    Left out and counted: recordings of excluded sources, without a scored label, or longer than ten minutes
    (one label set for 30 minutes says little about a window of 10 s). Recordings that reader or
    preprocessing refuse are listed with the reason. Where the amplitude is approximate the label of low QRS
    voltage is unknown (-1).

    Parameters
    ----------
    root
        Folder of the data set.
    out
        Folder of the cache: ``cache.json``, ``index.csv`` (record, source, group, sampling_rate, amplitude,
        age, sex, fold, piece, start, length), ``labels.npy`` int8 ``(n, 26)`` and ``signal-NNN.npy``
        int16 microvolts ``(12, samples)``. ``group`` is the patient where known, else the record; groups
        with recordings whose leads I and II are the same are one.
    index_csv
        Index to believe; by default ``root/index.csv`` where it exists.
    exclude_sources, only_sources
        Sources left out, and, if given, the only ones taken.
    progress
        Called with the number of recordings done and the number of all.

    Raises
    ------
    DataError
        Nothing usable there, a malformed index, or ``out`` is a folder that is not a cache.
    """
    index_csv = index_csv or index_of(root)
    listed = entries(root, index_csv)
    counts: Counter[str] = Counter()
    refused: list[Refused] = []
    rows: list[dict[str, object]] = []
    labels: list[npt.NDArray[np.int8]] = []
    same: dict[str, list[str]] = {}
    with replaced_folder(out, SUMMARY, "cache") as folder:
        pieces = _Pieces(folder)
        for done, entry in enumerate(listed, start=1):
            if progress is not None:
                progress(done, len(listed))
            if entry.source in exclude_sources or entry.source not in (only_sources or (entry.source,)):
                counts["excluded_source"] += 1
                continue
            try:
                prepared = _prepared(entry, counts)
            except InputError as error:
                refused.append(Refused(entry.file.relative_to(root).as_posix(), error.code, error.message))
                continue
            if prepared is None:
                continue
            recording, label, signal = prepared
            labels.append(label)
            same.setdefault(_fingerprint(entry, signal), []).append(entry.group)
            rows.append(_described(entry, recording) | pieces.add(signal))
        pieces.flush()
        if not rows:
            raise DataError(f"{root}: no usable recording among {len(listed)}")
        counts["labels_from_headers" if index_csv is None else "labels_from_index"] = len(rows)
        counts["duplicate_signals"] = sum(len(groups) - 1 for groups in same.values())
        joined = _joined(same.values())
        for row in rows:
            row["group"] = joined[str(row["group"])]
        _write_index(folder / "index.csv", rows)
        np.save(folder / "labels.npy", np.stack(labels))
        sha256 = sealed(
            folder,
            task="arrhythmia",
            source=root,
            preprocessing=PREPROCESSING,
            records=len(rows),
            refused=refused,
            counts=counts,
        )
    return CacheSummary(out, len(rows), dict(counts), tuple(refused), sha256)


def _prepared(entry: Entry, counts: Counter[str]) -> tuple[Recording, npt.NDArray[np.int8], Signal] | None:
    """Recording, label ``(26,)`` and signal ``(12, samples)`` of ``entry``; None, counted, if left out."""
    recording = _recording(entry, counts)
    codes = recording.dx or () if entry.dx is None else entry.dx
    label = label_vector(codes).astype(np.int8)
    if not label.any():
        counts["no_scored_label"] += 1
        return None
    if recording.duration > MAX_SECONDS:
        counts["too_long"] += 1
        return None
    if entry.amplitude == APPROXIMATE:
        label[LOW_VOLTAGE] = UNKNOWN
    return recording, label, _microvolts(ecg.standardise(recording))


def _recording(entry: Entry, counts: Counter[str]) -> Recording:
    """The recording of ``entry``, its gain put right where the release is known to be wrong."""
    recording = cast(Recording, read(entry.file)[0])
    factor = corrected_gain(
        entry.source, parse_header(entry.file.read_text(encoding="utf-8", errors="replace"))
    )
    if factor == 1.0:
        return recording
    counts["gain_corrected"] += 1
    return replace(recording, signal=recording.signal * factor)


def _microvolts(standard: ecg.StandardEcg) -> Signal:
    """The standard signal in whole microvolts, shape ``(12, samples)``."""
    limit = np.iinfo(np.int16).max
    return np.clip(np.rint(standard.signal * 1000.0), -limit, limit).astype(np.int16)


def _fingerprint(entry: Entry, signal: Signal) -> str:
    """The same for recordings with the same leads I and II; flat ones are like no other."""
    limb = signal[:2]
    return hashlib.sha256(limb.tobytes()).hexdigest() if limb.any() else entry.record


def _described(entry: Entry, recording: Recording) -> dict[str, object]:
    """What the cache's index says about a recording, but for its place."""
    return {
        "record": entry.record,
        "source": entry.source,
        "group": entry.group,
        "sampling_rate": f"{recording.sampling_rate:g}",
        "amplitude": entry.amplitude,
        "age": entry.age or ("" if recording.age is None else f"{recording.age:g}"),
        "sex": entry.sex or recording.sex or "",
        "fold": entry.fold,
    }


def _joined(same: Iterable[list[str]]) -> dict[str, str]:
    """The name of each group once those that share a signal are one: the first of them by name."""
    parent: dict[str, str] = {}

    def top(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    for groups in same:
        first, *others = sorted({top(group) for group in groups})
        for other in others:
            parent[other] = first
    return {group: top(group) for group in list(parent)}


def _write_index(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the index of a cache."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
