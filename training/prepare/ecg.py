"""12-lead recordings of a Challenge 2021 tree to a cache: 12 leads at 200 Hz in int16 microvolts.

The tree is any folder with ``.hea`` files below it. Labels come from the headers' ``Dx``, the source from the
name of a folder on the way. Where there is an ``index.csv`` (columns ``record, source, file`` and perhaps
``patient, fold, amplitude, age, sex, dx``) it is believed instead.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibt_deploy.classes import CLASSES, label_vector
from ibt_deploy.errors import DataError, InputError
from ibt_deploy.preprocess import ecg
from ibt_deploy.readers.wfdb import read
from ibt_deploy.readers.wfdb_header import parse_header
from ibt_deploy.records import Recording
from training.prepare.cache import CacheSummary, Refused, new_cache, sealed
from training.prepare.ecg_sources import INCART, corrected_gain, source_of

PREPROCESSING = {"name": ecg.NAME, "version": ecg.VERSION}
MAX_SECONDS = 600.0
PIECE_SAMPLES = (60 << 20) // (12 * 2) - 1024
"""Samples per piece: 60 MiB of int16, less room for the header."""

APPROXIMATE = "approximate"
UNKNOWN = -1
LOW_VOLTAGE = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "LQRSV")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One recording to prepare, with what an index says about it.

    Attributes
    ----------
    file
        Its header.
    record, source
        Identifier, and the data set it belongs to.
    dx
        SNOMED CT codes; None: those of the header.
    patient, fold, amplitude, age, sex
        Empty where unknown.
    """

    file: Path
    record: str
    source: str
    dx: tuple[str, ...] | None = None
    patient: str = ""
    fold: str = ""
    amplitude: str = "mV"
    age: str = ""
    sex: str = ""


@dataclass(eq=False)
class _Pieces:
    """Signals gathered until they fill a file."""

    folder: Path
    piece: int = 0
    filled: int = 0
    waiting: list[npt.NDArray[np.int16]] = field(default_factory=list)

    def add(self, signal: npt.NDArray[np.int16]) -> tuple[int, int, int]:
        """Take ``signal`` in; returns its piece, start and length."""
        if self.filled + signal.shape[1] > PIECE_SAMPLES:
            self.flush()
        place = (self.piece, self.filled, signal.shape[1])
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
    (one label set for 30 minutes says little about a window of 10 s). Recordings that preprocessing
    refuses are listed with the reason. A recording whose amplitude is approximate has an unknown label
    (-1) for low QRS voltage.

    Parameters
    ----------
    root
        Folder of the data set.
    out
        Folder of the cache: ``cache.json``, ``index.csv`` (record, source, group, sampling_rate, amplitude,
        age, sex, fold, piece, start, length), ``labels.npy`` int8 ``(n, 26)`` and ``signal-NNN.npy``
        int16 microvolts ``(12, samples)``.
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
    entries = list(_entries(root, index_csv or index_of(root)))
    if not entries:
        raise DataError(f"{root}: no .hea file below it")
    counts: Counter[str] = Counter()
    refused: list[Refused] = []
    rows: list[dict[str, object]] = []
    labels: list[npt.NDArray[np.int8]] = []
    ties: dict[str, list[str]] = {}
    with new_cache(out) as folder:
        pieces = _Pieces(folder)
        for done, entry in enumerate(entries, start=1):
            if progress is not None:
                progress(done, len(entries))
            if entry.source in exclude_sources or (
                only_sources is not None and entry.source not in only_sources
            ):
                counts["excluded_source"] += 1
                continue
            try:
                recording = _recording(entry, counts)
                wanted = label_vector(entry.dx if entry.dx is not None else recording.dx or ())
                if not wanted.any():
                    counts["no_scored_label"] += 1
                    continue
                if recording.duration > MAX_SECONDS:
                    counts["too_long"] += 1
                    continue
                signal = _microvolts(ecg.standardise(recording))
            except InputError as error:
                refused.append(Refused(entry.file.relative_to(root).as_posix(), error.code, error.message))
                continue
            label = wanted.astype(np.int8)
            if entry.amplitude == APPROXIMATE:
                label[LOW_VOLTAGE] = UNKNOWN
            labels.append(label)
            fingerprint = hashlib.sha256(signal[:2].tobytes()).hexdigest()
            group = (
                f"{entry.source}:patient:{entry.patient}"
                if entry.patient
                else f"{entry.source}:{entry.record}"
            )
            ties.setdefault(fingerprint, []).append(group)
            rows.append(_row(entry, recording, group, pieces.add(signal)))
        pieces.flush()
        if not rows:
            raise DataError(f"{root}: no usable recording among {len(entries)}")
        counts["duplicate_signals"] = sum(len(tied) - 1 for tied in ties.values())
        joined = _joined(ties.values())
        for row in rows:
            row["group"] = joined[str(row["group"])]
        _write_index(folder / "index.csv", rows)
        np.save(folder / "labels.npy", np.stack(labels))
        sha256 = sealed(
            folder, task="arrhythmia", source=root, preprocessing=PREPROCESSING, records=len(rows),
            refused=refused, counts=counts,
        )  # fmt: skip
    return CacheSummary(out, len(rows), dict(counts), tuple(refused), sha256)


def index_of(root: Path) -> Path | None:
    """``index.csv`` in ``root``, if it is one of recordings."""
    path = root / "index.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as stream:
        names = set(next(csv.reader(stream), []))
    return path if {"record", "source", "file"} <= names else None


def _entries(root: Path, index_csv: Path | None) -> Iterator[Entry]:
    """The recordings to prepare, sorted by source and record."""
    if index_csv is None:
        files = sorted(root.rglob("*.hea"))
        found = [Entry(file, file.stem, source_of(file.relative_to(root), root)) for file in files]
    else:
        with index_csv.open(encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        if not table or not {"record", "source", "file"} <= table[0].keys():
            raise DataError(f"{index_csv}: needs the columns record, source and file")
        found = [_indexed(root, row) for row in table]
    found.sort(key=lambda entry: (entry.source, entry.record))
    names = Counter(entry.record for entry in found)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise DataError(f"{root}: {len(twice)} record names are there more than once, e.g. {twice[0]}")
    yield from found


def _indexed(root: Path, row: dict[str, str]) -> Entry:
    """One line of an index as an Entry."""
    codes = row.get("dx")
    return Entry(
        file=root / row["file"],
        record=row["record"],
        source=row["source"],
        dx=None if codes is None else tuple(codes.split()),
        patient=row.get("patient") or "",
        fold=row.get("fold") or "",
        amplitude=row.get("amplitude") or "mV",
        age=row.get("age") or "",
        sex=row.get("sex") or "",
    )


def _recording(entry: Entry, counts: Counter[str]) -> Recording:
    """The recording of ``entry``, its gain put right where the release is known to be wrong."""
    try:
        recording = read(entry.file)[0]
        header = parse_header(entry.file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{entry.file}: cannot be read: {error.strerror}") from error
    factor = corrected_gain(entry.source, header)
    if factor == 1.0:
        return recording
    counts["gain_corrected"] += 1
    return replace(recording, signal=recording.signal * factor)


def _microvolts(standard: ecg.StandardEcg) -> npt.NDArray[np.int16]:
    """The standard signal in whole microvolts, shape ``(12, samples)``."""
    limit = np.iinfo(np.int16).max
    return np.clip(np.rint(standard.signal * 1000.0), -limit, limit).astype(np.int16)


def _row(entry: Entry, recording: Recording, group: str, place: tuple[int, int, int]) -> dict[str, object]:
    """One line of the cache's index."""
    age = entry.age or ("" if recording.age is None else f"{recording.age:g}")
    return {
        "record": entry.record,
        "source": entry.source,
        "group": group,
        "sampling_rate": f"{recording.sampling_rate:g}",
        "amplitude": entry.amplitude,
        "age": age,
        "sex": entry.sex or recording.sex or "",
        "fold": entry.fold,
        "piece": place[0],
        "start": place[1],
        "length": place[2],
    }


def _joined(ties: Collection[list[str]]) -> dict[str, str]:
    """The group that each group belongs to once those that share a signal are one."""
    parent: dict[str, str] = {}

    def root_of(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    for tied in ties:
        first, *others = sorted({root_of(group) for group in tied})
        for other in others:
            parent[other] = first
    return {group: root_of(group) for group in list(parent)}


def _write_index(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the index of a cache."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
