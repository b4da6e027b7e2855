"""12-lead recordings of a Challenge 2021 tree: their cache, 200 Hz in int16 microvolts, and its split.

The tree is any folder with ``.hea`` files below it. Labels come from the headers' ``Dx``, the source from the
name of a folder on the path. An ``index.csv`` (columns ``record, source, file`` and optionally ``patient,
fold, amplitude, age, sex, dx``) takes precedence over both.

Where a source names the patient of only some recordings but gives folds that keep patients together (PTB-XL),
any two recordings of one fold and sex may be of one patient: they form one group of the split. Such groups
are too large and too few to be assigned one by one, so a search places them. A source that has several
recordings of some patients and identifies neither patients nor folds is used for training only.
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
import pandas as pd

from ibt_deploy.errors import DataError, InputError
from ibt_deploy.preprocess import ecg
from ibt_deploy.readers import read
from ibt_deploy.readers.wfdb.header import Header, parse_header
from ibt_deploy.records import Recording
from ibt_deploy.types import Bools, Floats, Ints, Task
from ibt_deploy.vocabulary import CLASSES, label_vector
from training.data.cache import SUMMARY, UNLABELLED, Cache, CacheSummary, Refused, replaced_folder, sealed
from training.data.split import (
    FEWEST_POSITIVES,
    FRACTIONS,
    PARTS,
    counts_head,
    counts_line,
    one_hot,
    part_counts,
    stratified_parts,
)

TASK: Task = "arrhythmia"
FILES = "recordings (.hea)"
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
    """Factor that corrects a signal read with ``header``: 1 unless its gain is known to be wrong."""
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
        SNOMED CT codes; None to use those of the header.
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
        """Group that a split must not divide: the patient where known, else the record."""
        return f"{self.source}:patient:{self.patient}" if self.patient else f"{self.source}:{self.record}"


def holds(source: Path) -> bool:
    """Whether ``source`` is a folder with recordings."""
    return source.is_dir() and any(source.rglob("*.hea"))


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
        There are none, two share a name, or the index lacks a column or names a file outside ``root``.
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
    """Buffer of signals until they fill a file."""

    folder: Path
    piece: int = 0
    filled: int = 0
    waiting: list[Signal] = field(default_factory=list)

    def add(self, signal: Signal) -> dict[str, object]:
        """Add ``signal``; return its place."""
        if self.filled + signal.shape[1] > PIECE_SAMPLES:
            self.flush()
        place: dict[str, object] = {"piece": self.piece, "start": self.filled, "length": signal.shape[1]}
        self.waiting.append(signal)
        self.filled += signal.shape[1]
        return place

    def flush(self) -> None:
        """Write the waiting signals as ``signal-NNN.npy``."""
        if self.waiting:
            np.save(self.folder / f"signal-{self.piece:03d}.npy", np.concatenate(self.waiting, axis=1))
            self.piece, self.filled, self.waiting = self.piece + 1, 0, []


def prepare(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    unlabelled: bool = False,
    progress: Progress | None = None,
) -> CacheSummary:
    """Write the recordings below ``source`` as a cache to ``out`` (replacing an existing cache).

    Recordings of INCART and of excluded sources, without a scored label, or longer than ten minutes (one
    label set for 30 minutes says little about a window of 10 s) are left out and counted. Recordings that the
    reader or the preprocessing refuses are listed with the reason. Where the amplitude is approximate, the
    label of low QRS voltage is unknown (-1).

    Parameters
    ----------
    source
        Folder of the data set.
    out
        Folder of the cache: ``cache.json``, ``index.csv`` (record, source, group, sampling_rate, amplitude,
        age, sex, fold, piece, start, length), ``labels.npy`` int8 ``(n, 26)`` and ``signal-NNN.npy`` int16
        microvolts ``(12, samples)``. ``group`` is the patient where known, else the record; groups that share
        a recording with the same leads I and II are merged.
    labels
        Index that takes precedence; by default ``index.csv`` in ``source`` where it exists.
    exclude, only
        Sources left out, and, if given, the only ones taken.
    unlabelled
        Take only the signals; every label is then unknown, -1.
    progress
        Called with the number of recordings done and the total.

    Raises
    ------
    DataError
        There is nothing usable, a malformed index, or ``out`` is a folder that is not a cache.
    """
    index_csv = labels or index_of(source)
    listed = entries(source, index_csv)
    counts: Counter[str] = Counter()
    refused: list[Refused] = []
    rows: list[dict[str, object]] = []
    vectors: list[npt.NDArray[np.int8]] = []
    same: dict[str, list[str]] = {}
    with replaced_folder(out, SUMMARY, "cache") as folder:
        pieces = _Pieces(folder)
        for done, entry in enumerate(listed, start=1):
            if progress is not None:
                progress(done, len(listed))
            if entry.source in (INCART, *exclude) or entry.source not in (only or (entry.source,)):
                counts["excluded_source"] += 1
                continue
            try:
                prepared = _prepared(entry, counts, unlabelled)
            except InputError as error:
                refused.append(Refused(entry.file.relative_to(source).as_posix(), error.code, error.message))
                continue
            if prepared is None:
                continue
            recording, label, signal = prepared
            vectors.append(label)
            same.setdefault(limb_lead_hash(signal) or entry.record, []).append(entry.group)
            rows.append(_described(entry, recording) | pieces.add(signal))
        pieces.flush()
        if not rows:
            raise DataError(f"{source}: no usable recording among {len(listed)}")
        origin = "labels_from_headers" if index_csv is None else "labels_from_index"
        counts[UNLABELLED if unlabelled else origin] = len(rows)
        counts["duplicate_signals"] = sum(len(groups) - 1 for groups in same.values())
        joined = _Joined()
        for groups in same.values():
            joined.join(groups)
        for row in rows:
            row["group"] = joined.name(str(row["group"]))
        _write_index(folder / "index.csv", rows)
        np.save(folder / "labels.npy", np.stack(vectors))
        sha256 = sealed(
            folder,
            task=TASK,
            source=source,
            preprocessing=PREPROCESSING,
            records=len(rows),
            refused=refused,
            counts=counts,
        )
    return CacheSummary(out, len(rows), dict(counts), tuple(refused), sha256, index_csv)


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


def limb_lead_hash(signal: Signal) -> str | None:
    """Hash that is equal for recordings with the same leads I and II; None where both are flat."""
    limb = signal[:2]
    return hashlib.sha256(limb.tobytes()).hexdigest() if limb.any() else None


def _described(entry: Entry, recording: Recording) -> dict[str, object]:
    """What the cache's index says about a recording, except its place."""
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


class _Joined:
    """Disjoint sets of names, each represented by its first name in alphabetical order."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def name(self, of: str) -> str:
        """Representative of a name."""
        while self._parent.setdefault(of, of) != of:
            of = self._parent[of]
        return of

    def join(self, names: Iterable[str]) -> None:
        """Merge the sets of ``names``."""
        first, *others = sorted({self.name(name) for name in names})
        self._parent |= dict.fromkeys(others, first)


def _write_index(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the index of a cache."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


LARGE = 0.01
"""A group with more than this share of the recordings is placed by search."""
RESTARTS = 50
NAMED_PATIENT = ":patient:"
REPEATED_PATIENTS = ("ptb", "ptb-xl", "st_petersburg_incart")
"""Sources with several recordings of some patients, whom the Challenge's headers do not identify."""


def drawn_parts(cache: Cache, seed: int) -> Ints:
    """A new split of the recordings; indices into :data:`PARTS`."""
    return ecg_parts(cache.index, np.load(cache.folder / "labels.npy"), seed)


def drawn_folds(cache: Cache, items: Ints, folds: int) -> Ints:
    """Fold of each of ``items``, from 0: by patient, balanced by class."""
    labels = np.load(cache.folder / "labels.npy")[items]
    return stratified_parts(patient_groups(cache.index)[items], labels, [1 / folds] * folds)


def ecg_parts(index: pd.DataFrame, labels: npt.NDArray[np.int8], seed: int = 0) -> Ints:
    """Part of each recording, balanced by class, source and sex; indices into :data:`PARTS`.

    Parameters
    ----------
    index
        Index of the cache, with the columns source, group, fold and sex.
    labels
        Shape ``(n, 26)``, positive where 1.
    seed
        Breaks ties.
    """
    strata = np.hstack(
        [labels > 0, one_hot(index["source"].to_numpy()), one_hot(index["sex"].fillna("").to_numpy())]
    )
    groups = patient_groups(index)
    free = ~np.isin(groups, groups[unknown_patients(index)])
    parts = np.full(len(index), PARTS.index("train"), dtype=np.int64)
    parts[free] = group_parts(groups[free], strata[free], labels.shape[1], seed)
    return parts


def unknown_patients(index: pd.DataFrame) -> Bools:
    """Recordings that may share a patient with any other of their source. Shape ``(n,)``."""
    named = index["group"].str.contains(NAMED_PATIENT, regex=False)
    return np.asarray(index["source"].isin(REPEATED_PATIENTS) & index["fold"].isna() & ~named, dtype=bool)


def patient_groups(index: pd.DataFrame) -> Ints:
    """Group number of each recording, such that all recordings of a patient are in one group.

    The groups of the cache (patients where they are named, duplicates of a signal) are joined by fold and sex
    in every source where a recording has a fold and no named patient.
    """
    unnamed = index["fold"].notna() & ~index["group"].str.contains(NAMED_PATIENT, regex=False)
    by_fold = index["source"].isin(index.loc[unnamed, "source"].unique()) & index["fold"].notna()
    joined = _Joined()
    sex_of = index["sex"].fillna("")
    sexless = {(s, f) for s, f, x in zip(index["source"], index["fold"], sex_of, strict=True) if not x}
    for group, source, fold, sex, folded in zip(
        index["group"], index["source"], index["fold"], sex_of, by_fold, strict=True
    ):
        known_sex = "" if (source, fold) in sexless else sex
        name = f"fold:{source}:{fold}:{known_sex}" if folded else f"group:{group}"
        joined.join((f"group:{group}", name))
    names = [joined.name(f"group:{group}") for group in index["group"]]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def possible_relatives(index: pd.DataFrame, held_out: Bools, added: pd.DataFrame) -> Bools:
    """Recordings of another cache that may be of a patient with recordings ``held_out`` of this one.

    Parameters
    ----------
    index, added
        Indices of the two caches.
    held_out
        Shape ``(len(index),)``.

    Returns
    -------
    Shape ``(len(added),)``. Where a patient is not named, the rules of :func:`patient_groups` and
    :func:`unknown_patients` decide.
    """
    groups = patient_groups(pd.concat((index, added), ignore_index=True))
    related = np.isin(groups[len(index) :], groups[: len(index)][held_out])
    unknown = unknown_patients(added) & added["source"].isin(index.loc[held_out, "source"].unique())
    return np.asarray(related | unknown, dtype=bool)


def group_parts(groups: npt.ArrayLike, strata: Bools, n_classes: int, seed: int = 0) -> Ints:
    """Part of each recording: small groups by iterative stratification, large ones by search.

    Parameters
    ----------
    groups
        Shape ``(n,)``.
    strata
        Shape ``(n, m)``: what the parts are balanced by; the first ``n_classes`` columns are the classes,
        each of which should have five positives in every part.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(group)
    large = np.flatnonzero(sizes > max(LARGE * len(group), 1))
    is_large = np.isin(group, large)
    parts = np.zeros(len(group), dtype=np.int64)
    parts[~is_large] = stratified_parts(group[~is_large], strata[~is_large], FRACTIONS, seed)
    if len(large):
        counted = np.hstack([np.ones((len(strata), 1), dtype=bool), strata]).astype(np.float64)
        base = np.stack([counted[~is_large & (parts == p)].sum(axis=0) for p in range(len(PARTS))])
        units = np.stack([counted[group == g].sum(axis=0) for g in large])
        placed = _placed(units, base, slice(1, 1 + n_classes), np.random.default_rng(seed))
        part_of = dict(zip(large.tolist(), placed.tolist(), strict=True))
        parts[is_large] = [part_of[int(g)] for g in group[is_large]]
    return parts


def _placed(units: Floats, base: Floats, classes: slice, rng: np.random.Generator) -> Ints:
    """Part of each unit, by steepest descent from random starts.

    ``units`` has shape ``(units, counts)``, ``base`` ``(parts, counts)``: what the parts already hold. The
    cost is the chi-square distance to the wanted counts, plus 10 for every positive that a class lacks in a
    part.
    """
    total = base.sum(axis=0) + units.sum(axis=0)
    wanted = np.outer(FRACTIONS, total)
    possible = total[classes] >= FEWEST_POSITIVES * len(PARTS)

    def costs(parts: Ints) -> Floats:
        held = base + np.einsum("kup,uc->kpc", np.eye(len(PARTS))[parts], units)
        distance = ((held - wanted) ** 2 / np.maximum(wanted, 1)).sum(axis=(1, 2))
        lacking = np.maximum(FEWEST_POSITIVES - held[:, :, classes][:, :, possible], 0).sum(axis=(1, 2))
        summed: Floats = distance + 10 * lacking
        return summed

    best, lowest = np.zeros(len(units), dtype=np.int64), np.inf
    for _ in range(RESTARTS):
        part = rng.choice(len(PARTS), len(units), p=FRACTIONS).astype(np.int64)
        here = float(costs(part[None])[0])
        while True:
            neighbours = _neighbours(part)
            tried = costs(neighbours)
            least = int(np.argmin(tried))
            if tried[least] >= here - 1e-9:
                break
            part, here = neighbours[least], float(tried[least])
        if here < lowest - 1e-9:
            best, lowest = part, here
    return best


def _neighbours(part: Ints) -> Ints:
    """Every placement that moves one unit or swaps two, shape ``(placements, units)``."""
    neighbours = []
    for i in range(len(part)):
        for p in range(len(PARTS)):
            if p != part[i]:
                moved = part.copy()
                moved[i] = p
                neighbours.append(moved)
        for j in range(i):
            if part[i] != part[j]:
                swapped = part.copy()
                swapped[i], swapped[j] = part[j], part[i]
                neighbours.append(swapped)
    return np.stack(neighbours)


def split_lines(cache: Cache, parts: Ints) -> list[str]:
    """Counts of every part and of every class, and the classes that cannot be evaluated."""
    lines = [counts_head()]
    if unknown := unknown_patients(cache.index).sum():
        lines.insert(
            0,
            f"{unknown:,} recordings of unidentified patients who may have more than one: all in training",
        )
    counts = part_counts(np.load(cache.folder / "labels.npy"), parts)
    names = [c.abbreviation for c in CLASSES]
    lines.append(counts_line("recordings", counts.records))
    for name, positives, evaluable in zip(names, counts.positives.T, counts.evaluable, strict=True):
        lines.append(counts_line(name, positives, "" if evaluable else "   not evaluable"))
    if missing := counts.not_evaluable(names):
        lines.append(
            f"not evaluable, with fewer than 5 positives in some part: {', '.join(missing)} "
            f"({len(missing)} of {len(names)})"
        )
    return lines
