"""The split of a cache into training, validation and test parts: by patient, balanced by label.

The algorithm is the iterative stratification of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
Multi-Label Data" (ECML PKDD 2011), applied to groups (patients, or duplicates of one recording) instead of
records: the rarest remaining label goes first, each of its groups goes to the part that lacks that label
most.

No patient may be in two parts. What forms a group and what is balanced depends on the data set
(:mod:`training.data.ecg`, :mod:`training.data.stays`).

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

from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_write
from ibt_deploy.types import Bools
from training.data.cache import Cache

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FRACTIONS = (0.70, 0.15, 0.15)
"""Share of the groups in each part."""
SPLIT = "split.csv"
FEWEST_POSITIVES = 5
"""A class with fewer positives than this in some part is not evaluable."""

Parts = npt.NDArray[np.int64]


def stratified_parts(
    group_ids: npt.ArrayLike,
    label_matrix: npt.ArrayLike,
    fractions: Sequence[float] = FRACTIONS,
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
        Breaks ties. The result depends on the groups, their labels and the seed alone, not on the order of
        the records.

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
    """The part that lacks most of a label; ties go to the part that lacks most groups, then at random."""
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
    """Part of each of ``ids``, read from a file of :func:`write_split`, as indices into :data:`PARTS`.

    Raises
    ------
    DataError
        When the file is missing or damaged, or its ids are not exactly ``ids``.
    """
    part_of = parts_by_id(path)
    unassigned = sorted(set(ids) - part_of.keys())
    absent = sorted(part_of.keys() - set(ids))
    if unassigned:
        raise DataError(f"{path}: {_some(unassigned)} of the data have no part; make a new split")
    if absent:
        raise DataError(f"{path}: {_some(absent)} of the split are not in the data; prepare the same data")
    return np.array([part_of[name] for name in ids], dtype=np.int64)


def parts_by_id(path: Path) -> dict[str, int]:
    """Index into :data:`PARTS` of each id in a :func:`write_split` file; DataError if it is damaged."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the split: {error}") from error
    if not rows or rows[0] != ["id", "part"] or any(len(r) != 2 or r[1] not in PARTS for r in rows[1:]):
        raise DataError(f"{path}: is not a split file; lines must read id,part with part {', '.join(PARTS)}")
    part_of = {name: PARTS.index(part) for name, part in rows[1:]}
    if len(part_of) != len(rows) - 1:
        raise DataError(f"{path}: an id occurs twice")
    return part_of


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


def counts_head() -> str:
    """First line of a table of counts: the names of the parts."""
    return f"{'':12s}" + "".join(f"{part:>12s}" for part in PARTS)


def counts_line(name: str, counts: Parts, note: str = "") -> str:
    """A line of a table of counts, one for each part."""
    return (f"{name:12s}" + "".join(f"{n:12,}" for n in counts) + note).rstrip()


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


def packaged_split(task: str) -> Path | None:
    """The packaged split, made for the data that the packaged models were trained on."""
    path = Path(str(files("training").joinpath("splits", f"{task}.csv")))
    return path if path.is_file() else None


def default_split(cache: Cache) -> Path:
    """The split beside the cache's arrays, or else the packaged one of its task."""
    own = cache.folder / SPLIT
    found = own if own.is_file() else packaged_split(cache.task)
    if found is None:
        raise DataError(f"{cache.folder}: no {SPLIT}; make one with `ibt train prepare`")
    return found
