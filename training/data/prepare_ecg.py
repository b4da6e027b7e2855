"""12-lead recordings of a Challenge 2021 tree to a cache: 12 leads at 200 Hz in int16 microvolts.

The tree is any folder with ``.hea`` files below it. Labels come from the headers' ``Dx``, the source from the
name of a folder on the path. An ``index.csv`` (columns ``record, source, file`` and perhaps
``patient, fold, amplitude, age, sex, dx``) takes precedence over both.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import cast

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError, InputError
from ibt_deploy.preprocess import ecg
from ibt_deploy.readers import read
from ibt_deploy.readers.wfdb.header import Header, parse_header
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import CLASSES, label_vector
from training.data.cache import SUMMARY, UNLABELLED, CacheSummary, Refused, replaced_folder, sealed

INCART = "st_petersburg_incart"

_FOLDERS: dict[str, str] = {
    "cpsc2018": "cpsc_2018",
    "wfdbcpsc2018": "cpsc_2018",
    "cpsc2018extra": "cpsc_2018_extra",
    "wfdbcpsc20182": "cpsc_2018_extra",
    "stpetersburgincart": INCART,
    "wfdbstpetersburg": INCART,
    "ptb": "ptb",
    "wfdbptb": "ptb",
    "ptbxl": "ptb-xl",
    "wfdbptbxl": "ptb-xl",
    "georgia": "georgia",
    "wfdbga": "georgia",
    "chapmanshaoxing": "chapman_shaoxing",
    "wfdbchapmanshaoxing": "chapman_shaoxing",
    "ningbo": "ningbo",
    "wfdbningbo": "ningbo",
}

_OFFICIAL_GAIN = 1000.0
_WRONG_GAINS: dict[str, float] = {"ptb-xl": 200.0, "georgia": 4880.0}
"""Gains per mV that early releases of the Challenge 2020 state for samples that are microvolts.

Record HR00001 of PTB-XL is labelled 'low QRS voltages': at 200 per mV its lead I would span 4.7 mV. Its first
sample, -115, is -0.115 mV in PTB-XL itself. The Georgia records concerned would be a fifth as high as others.
"""


def source_of(file: PurePath, root: PurePath) -> str:
    """The source of ``file`` (relative to ``root``): an official name, else the name of the first folder."""
    for folder in file.parts[:-1]:
        name = _FOLDERS.get(re.sub(r"[^a-z0-9]", "", folder.lower()))
        if name is not None:
            return name
    own = _FOLDERS.get(re.sub(r"[^a-z0-9]", "", root.name.lower()))
    return own or (file.parts[0] if len(file.parts) > 1 else root.name)


def corrected_gain(source: str, header: Header) -> float:
    """Factor that puts the signal of ``header``, as read, right: 1 unless its gain is known to be wrong."""
    wrong = _WRONG_GAINS.get(source)
    if wrong is None or any(signal.gain != wrong for signal in header.signals):
        return 1.0
    return wrong / _OFFICIAL_GAIN


REQUIRED = frozenset({"record", "source", "file"})
MILLIVOLT = "mV"
APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Entry:
    """One recording to prepare.

    Attributes
    ----------
    file
        Its header.
    record, source
        Identifier, and the data set it belongs to.
    dx
        SNOMED CT codes; None: those of the header count.
    amplitude
        ``mV``, or ``approximate`` where the absolute voltage is not known.
    patient, fold, age, sex
        Empty where the index says nothing.
    """

    file: Path
    record: str
    source: str
    dx: tuple[str, ...] | None = None
    amplitude: str = MILLIVOLT
    patient: str = ""
    fold: str = ""
    age: str = ""
    sex: str = ""

    @property
    def group(self) -> str:
        """What may not be divided between the parts of a split: the patient where known, else the record."""
        return f"{self.source}:patient:{self.patient}" if self.patient else f"{self.source}:{self.record}"


def index_of(root: Path) -> Path | None:
    """``index.csv`` in ``root``, if it is an index of recordings."""
    path = root / "index.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as stream:
        names = next(csv.reader(stream), [])
    return path if set(names) >= REQUIRED else None


def entries(root: Path, index_csv: Path | None) -> list[Entry]:
    """The recordings below ``root``, sorted by source and record.

    Raises
    ------
    DataError
        There are none, two have one name, or the index lacks a column or names a file outside ``root``.
    """
    if index_csv is None:
        files = root.rglob("*.hea")
        found = [Entry(file, file.stem, source_of(file.relative_to(root), root)) for file in files]
    else:
        found = _indexed(root, index_csv)
    if not found:
        raise DataError(f"{root}: no .hea file below it")
    found.sort(key=lambda entry: (entry.source, entry.record))
    names = Counter(entry.record for entry in found)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise DataError(f"{root}: {len(twice)} record names are there more than once, e.g. {twice[0]}")
    return found


def _indexed(root: Path, index_csv: Path) -> list[Entry]:
    """The recordings that an index lists."""
    try:
        with index_csv.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            names = set(reader.fieldnames or ())
            table = list(reader)
    except OSError as error:
        raise DataError(f"{index_csv}: cannot be read: {error.strerror}") from error
    if not names >= REQUIRED:
        raise DataError(f"{index_csv}: needs the columns record, source and file")
    if any(Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts for row in table):
        raise DataError(f"{index_csv}: names a file outside {root}")
    return [
        Entry(
            file=root / row["file"],
            record=row["record"],
            source=row["source"],
            dx=tuple(row["dx"].split()) if "dx" in names else None,
            amplitude=row.get("amplitude") or MILLIVOLT,
            patient=row.get("patient") or "",
            fold=row.get("fold") or "",
            age=row.get("age") or "",
            sex=row.get("sex") or "",
        )
        for row in table
    ]


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
    unlabelled: bool = False,
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
        Index that takes precedence; by default ``root/index.csv`` where it exists.
    exclude_sources, only_sources
        Sources left out, and, if given, the only ones taken.
    progress
        Called with the number of recordings done and the number of all.
    unlabelled
        Take the signals alone; every label is then unknown, -1.

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
                prepared = _prepared(entry, counts, unlabelled)
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
        origin = "labels_from_headers" if index_csv is None else "labels_from_index"
        counts[UNLABELLED if unlabelled else origin] = len(rows)
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


def _prepared(
    entry: Entry, counts: Counter[str], unlabelled: bool
) -> tuple[Recording, npt.NDArray[np.int8], Signal] | None:
    """Recording, label ``(26,)`` and signal ``(12, samples)`` of ``entry``; None, counted, if left out."""
    recording = _recording(entry, counts)
    codes = recording.dx or () if entry.dx is None else entry.dx
    label = label_vector(codes).astype(np.int8)
    if unlabelled:
        label[:] = UNKNOWN
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
    """The recording of ``entry``, its gain corrected where the release is known to be wrong."""
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
