"""The split of a cache into training, validation and test part: by patient, balanced by label.

The algorithm is the iterative stratification of Sechidis, Tsoumakas and Vlahavas, "On the
Stratification of Multi-Label Data" (ECML PKDD 2011), applied to groups (patients, or duplicates of one
recording) instead of records: the rarest remaining label goes first, each of its groups to
the part that lacks most of that label.

No patient may be in two parts. Where a source names the patient of some recordings only but gives folds that
keep patients together (PTB-XL), any two recordings of one fold and sex may be of one patient: they form one
group. Such groups are too large and too few to be assigned one by one, so a search places them. A source
that has several recordings of some patients and identifies neither patients nor folds is used for training
only.

A split, once made, is a file of ids with a hash, not a seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.types import Bools, Floats, Ints
from training.data.cache import Cache

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FEWEST_POSITIVES = 5
"""A class with fewer positives than this in some part is not evaluable."""

Parts = npt.NDArray[np.int64]


def stratified_parts(
    group_ids: npt.ArrayLike,
    label_matrix: npt.ArrayLike,
    fractions: Sequence[float] = (0.70, 0.15, 0.15),
    seed: int = 0,
) -> Parts:
    """Index of the part that each record belongs to.

    Parameters
    ----------
    group_ids
        Shape ``(n,)``, of one comparable type; records of one group are never divided.
    label_matrix
        Shape ``(n, labels)``; values above 0 are positive, so that -1 may stand for unknown. A group
        has every label that one of its records has.
    fractions
        Share of the groups for each part; they sum to 1.
    seed
        Decides ties. The result depends on the groups, their labels and the seed alone, not on the
        order of the records.

    Returns
    -------
    Shape ``(n,)``, values ``0..len(fractions) - 1``.

    Raises
    ------
    ValueError
        When the shapes differ or the fractions do not sum to 1.
    """
    ids, labels = np.asarray(group_ids), np.asarray(label_matrix) > 0
    shares = np.asarray(fractions, dtype=np.float64)
    if ids.ndim != 1 or labels.ndim != 2 or len(labels) != len(ids):
        raise ValueError(f"group_ids {ids.shape} and label_matrix {labels.shape} do not belong together")
    if (shares < 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"fractions {tuple(fractions)} must be shares that sum to 1")
    if not len(ids):
        return np.empty(0, dtype=np.int64)
    names, group = np.unique(ids, return_inverse=True)
    positive = np.zeros((len(names), labels.shape[1]), dtype=bool)
    np.logical_or.at(positive, group, labels)
    return _parts_of_groups(positive, shares, np.random.default_rng(seed))[group]


def _parts_of_groups(positive: Bools, shares: npt.NDArray[np.float64], rng: np.random.Generator) -> Parts:
    """Part of each group; ``positive`` has shape ``(groups, labels)``."""
    n_groups, n_labels = positive.shape
    lacking = np.outer(shares, positive.sum(axis=0)).tolist()
    lacking_any = (shares * n_groups).tolist()
    labels_of = [np.flatnonzero(row).tolist() for row in positive]
    part = np.full(n_groups, -1, dtype=np.int64)

    def give(members: Parts, label: int | None) -> None:
        for g in rng.permutation(members).tolist():
            j = _neediest(lacking_any if label is None else [p[label] for p in lacking], lacking_any, rng)
            part[g] = j
            lacking_any[j] -= 1
            for other in labels_of[g]:
                lacking[j][other] -= 1

    for _ in range(n_labels):
        remaining = positive[part < 0].sum(axis=0)
        if not remaining.any():
            break
        rarest = np.flatnonzero(remaining == remaining[remaining > 0].min())
        label = int(rng.choice(rarest))
        give(np.flatnonzero(positive[:, label] & (part < 0)), label)
    give(np.flatnonzero(part < 0), None)
    return part


def _neediest(lacking: list[float], lacking_any: list[float], rng: np.random.Generator) -> int:
    """The part that lacks most of a label; among equals most groups; among these by lot."""
    most = max(lacking)
    tied = [j for j, value in enumerate(lacking) if value > most - 1e-9]
    if len(tied) > 1:
        most = max(lacking_any[j] for j in tied)
        tied = [j for j in tied if lacking_any[j] > most - 1e-9]
    return tied[0] if len(tied) == 1 else int(rng.choice(tied))


def one_hot(values: npt.ArrayLike) -> Bools:
    """One column for each distinct value, in sorted order. Returns shape ``(n, distinct)``."""
    names, index = np.unique(np.asarray(values), return_inverse=True)
    return np.asarray(index[:, None] == np.arange(len(names)))


def stay_strata(hospitals: npt.ArrayLike, septic: npt.ArrayLike, lengths: npt.ArrayLike) -> Bools:
    """Stratum of each stay: hospital, septic or not, quartile of length; one column a stratum.

    Parameters
    ----------
    hospitals, septic, lengths
        Shape ``(n,)``; lengths in rows.
    """
    hours = np.asarray(lengths, dtype=np.float64)
    quartile = np.searchsorted(np.quantile(hours, [0.25, 0.5, 0.75]), hours, side="left")
    hospital = np.unique(np.asarray(hospitals), return_inverse=True)[1]
    return one_hot((hospital * 2 + (np.asarray(septic) > 0)) * 4 + quartile)


def write_split(path: Path, ids: Sequence[str], parts: npt.ArrayLike) -> str:
    """Write ``id,part`` lines sorted by id; return the SHA-256 of the file.

    Parameters
    ----------
    path
        File to write.
    ids
        One id for each record.
    parts
        Shape ``(n,)``, indices into :data:`PARTS`.

    Raises
    ------
    DataError
        When an id occurs twice, or a part is none of the three.
    """
    indices = np.asarray(parts)
    if len(ids) != len(indices) or len(set(ids)) != len(ids):
        raise DataError(f"{path}: needs one part for each of {len(ids)} ids, each id once")
    if len(indices) and not ((indices >= 0) & (indices < len(PARTS))).all():
        raise DataError(f"{path}: parts must be 0, 1 or 2 for {', '.join(PARTS)}")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "part"))
    writer.writerows(sorted((str(i), PARTS[p]) for i, p in zip(ids, indices.tolist(), strict=True)))
    content = text.getvalue().encode()
    atomic_write(path, content)
    return hashlib.sha256(content).hexdigest()


def read_split(path: Path, ids: Sequence[str]) -> Parts:
    """Part of each of ``ids`` by a file of :func:`write_split`, as indices into :data:`PARTS`.

    Raises
    ------
    DataError
        When the file is missing or damaged, or its ids are not exactly ``ids``.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the split: {error}") from error
    if not rows or rows[0] != ["id", "part"] or any(len(r) != 2 or r[1] not in PARTS for r in rows[1:]):
        raise DataError(f"{path}: is not a split file; lines must read id,part with part {', '.join(PARTS)}")
    part_of = {name: PARTS.index(part) for name, part in rows[1:]}
    if len(part_of) != len(rows) - 1:
        raise DataError(f"{path}: an id occurs twice")
    unassigned = sorted(set(ids) - part_of.keys())
    absent = sorted(part_of.keys() - set(ids))
    if unassigned:
        raise DataError(f"{path}: {_some(unassigned)} of the data have no part; make a new split")
    if absent:
        raise DataError(f"{path}: {_some(absent)} of the split are not in the data; prepare the same data")
    return np.array([part_of[i] for i in ids], dtype=np.int64)


def _some(ids: list[str]) -> str:
    return f"{len(ids)} ids ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"


@dataclass(frozen=True, eq=False)
class PartCounts:
    """How many records and positives each part has.

    Attributes
    ----------
    records
        Shape ``(3,)``.
    positives
        Shape ``(3, classes)``.
    """

    records: Parts
    positives: Parts

    @property
    def evaluable(self) -> Bools:
        """Classes with at least five positives in every part, shape ``(classes,)``."""
        return np.asarray((self.positives >= FEWEST_POSITIVES).all(axis=0))

    def not_evaluable(self, names: Sequence[str]) -> list[str]:
        """Which of the classes ``names`` have fewer than five positives in some part."""
        return [name for name, ok in zip(names, self.evaluable, strict=True) if not ok]


def part_counts(label_matrix: npt.ArrayLike, parts: npt.ArrayLike) -> PartCounts:
    """Records and positives of each part.

    Parameters
    ----------
    label_matrix
        Shape ``(n, classes)``, positive above 0.
    parts
        Shape ``(n,)``, indices into :data:`PARTS`.
    """
    positive, index = np.asarray(label_matrix) > 0, np.asarray(parts)
    in_part = index == np.arange(len(PARTS))[:, None]
    return PartCounts(in_part.sum(axis=1), np.stack([positive[rows].sum(axis=0) for rows in in_part]))


FRACTIONS = (0.70, 0.15, 0.15)
LARGE = 0.01
"""A group with more than this share of the recordings is placed by search."""
RESTARTS = 50
NAMED_PATIENT = ":patient:"
REPEATED_PATIENTS = ("ptb", "ptb-xl", "st_petersburg_incart")
"""Sources with several recordings of some patients, of whom the Challenge's headers say nothing."""


def ecg_parts(index: pd.DataFrame, labels: npt.NDArray[np.int8], seed: int = 0) -> Ints:
    """Part of each recording, balanced by class, source and sex; indices into :data:`PARTS`.

    Parameters
    ----------
    index
        Index of the cache, with the columns source, group, fold and sex.
    labels
        Shape ``(n, 26)``, positive where 1.
    seed
        Decides among equals.
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
    """Recordings that may be of the patient of any other of their source. Shape ``(n,)``."""
    named = index["group"].str.contains(NAMED_PATIENT, regex=False)
    return np.asarray(index["source"].isin(REPEATED_PATIENTS) & index["fold"].isna() & ~named, dtype=bool)


def stay_parts(index: pd.DataFrame, seed: int = 0) -> Ints:
    """Part of each stay, balanced by hospital, sepsis and quartile of length; indices into :data:`PARTS`."""
    strata = stay_strata(*(index[c].to_numpy() for c in ("hospital", "septic", "length")))
    return stratified_parts(index["patient"].to_numpy(), strata, FRACTIONS, seed)


def patient_groups(index: pd.DataFrame) -> Ints:
    """Number of the group of each recording, such that one patient's recordings are surely in one group.

    The groups of the cache (patients where they are named, duplicates of a signal) are joined by fold and sex
    in every source where a recording has a fold and no named patient.
    """
    unnamed = index["fold"].notna() & ~index["group"].str.contains(NAMED_PATIENT, regex=False)
    by_fold = index["source"].isin(index.loc[unnamed, "source"].unique()) & index["fold"].notna()
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    sex_of = index["sex"].fillna("")
    sexless = {(s, f) for s, f, x in zip(index["source"], index["fold"], sex_of, strict=True) if not x}
    for group, source, fold, sex, folded in zip(
        index["group"], index["source"], index["fold"], sex_of, by_fold, strict=True
    ):
        known_sex = "" if (source, fold) in sexless else sex
        name = f"fold:{source}:{fold}:{known_sex}" if folded else f"group:{group}"
        first, second = sorted((root(f"group:{group}"), root(name)))
        parent[second] = first
    return np.unique([root(f"group:{group}") for group in index["group"]], return_inverse=True)[1].astype(
        np.int64
    )


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

    ``units`` has shape ``(units, counts)``, ``base`` ``(parts, counts)``: what the parts already hold. Least
    is the chi-square distance to the wanted counts, plus 10 for every positive that a class lacks in a part.
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


SPLIT = "split.csv"


@dataclass(frozen=True, eq=False)
class Split:
    """A split that has been written beside a cache.

    Attributes
    ----------
    path
        Where.
    sha256
        Hash of the file.
    parts
        Part of each item of the cache, indices into :data:`PARTS`.
    origin
        Where it comes from, as a phrase.
    """

    path: Path
    sha256: str
    parts: Ints
    origin: str


def packaged_split(task: str) -> Path | None:
    """The packaged split, made for the data that the packaged models were trained on."""
    path = Path(str(files("training").joinpath("splits", f"{task}.csv")))
    return path if path.is_file() else None


def item_ids(cache: Cache) -> list[str]:
    """Identifiers of the recordings or stays, in the order of the cache."""
    ids: list[str] = cache.index["record" if cache.task == "arrhythmia" else "patient"].tolist()
    return ids


def write_cache_split(cache: Cache, given: Path | None = None, seed: int | None = None) -> Split:
    """Write ``split.csv`` into the folder of the cache.

    A ``given`` split is copied; with a ``seed`` a new one is drawn; with neither, the packaged split serves
    if its ids are exactly the cache's, and otherwise one is drawn with seed 0.

    Raises
    ------
    DataError
        The given split is damaged or of other ids.
    """
    path, ids = cache.folder / SPLIT, item_ids(cache)
    if given is not None:
        return _copied(given, path, read_split(given, ids), f"copied from {given}")
    packaged = packaged_split(cache.task) if seed is None else None
    if packaged is not None:
        try:
            return _copied(
                packaged, path, read_split(packaged, ids), "the packaged one, made for exactly these"
            )
        except DataError:
            pass
    parts = drawn_parts(cache, seed or 0)
    return Split(path, write_split(path, ids, parts), parts, f"drawn with seed {seed or 0}")


def _copied(given: Path, path: Path, parts: Ints, origin: str) -> Split:
    atomic_write(path, given.read_bytes())
    return Split(path, file_sha256(path), parts, origin)


def drawn_parts(cache: Cache, seed: int) -> Ints:
    """A new split of the cache's items."""
    if cache.task == "arrhythmia":
        return ecg_parts(cache.index, np.load(cache.folder / "labels.npy"), seed)
    return stay_parts(cache.index, seed)


def default_split(cache: Cache) -> Path:
    """The split beside the cache's arrays, or else the packaged one of this task."""
    own = cache.folder / "split.csv"
    if own.is_file():
        return own
    packaged = Path(str(files("training").joinpath("splits", f"{cache.task}.csv")))
    if not packaged.is_file():
        raise DataError(f"{cache.folder}: no split.csv; make one with `ibt train prepare`")
    return packaged
