"""``ibt train prepare``: turn a data set on disk into a cache with a split.

A kind of data set is a module like :mod:`training.data.stays`, listed in :data:`DATA_SETS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.types import Ints, Task
from training.data import ecg, stays
from training.data.cache import Cache, CacheSummary, open_cache
from training.data.split import SPLIT, packaged_split, read_split, write_split


class DataSet(Protocol):
    """Interface of a module for one kind of data set; ``FILES`` says what its folders hold."""

    TASK: Task
    FILES: str

    def holds(self, source: Path) -> bool:
        """Whether ``source`` is a data set of this kind."""

    def prepare(
        self,
        source: Path,
        out: Path,
        *,
        labels: Path | None = None,
        exclude: Collection[str] = (),
        only: Collection[str] = (),
        unlabelled: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> CacheSummary:
        """Write the cache of ``source`` to ``out``; parameters as for :func:`prepare`."""

    def drawn_parts(self, cache: Cache, seed: int) -> Ints:
        """A new split of the cache's items."""

    def drawn_folds(self, cache: Cache, items: Ints, folds: int) -> Ints:
        """Fold of each of ``items``, from 0; no patient is in two folds."""

    def split_lines(self, cache: Cache, parts: Ints) -> list[str]:
        """A table of what every part holds."""


DATA_SETS: Mapping[str, DataSet] = {kind.TASK: kind for kind in (ecg, stays)}


def data_set_of(source: Path) -> DataSet:
    """The kind of data set that ``source`` is.

    Raises
    ------
    DataError
        It is of no kind, or of several.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    found = [kind for kind in DATA_SETS.values() if kind.holds(source)]
    if len(found) == 1:
        return found[0]
    if found:
        held = " and ".join(kind.FILES for kind in found)
        raise DataError(f"{source}: holds {held}; give the folder of one of them")
    if source.is_file():
        raise DataError(f"{source}: is not a data set; give a .parquet of stays, or a folder")
    wanted = " nor ".join(kind.FILES for kind in DATA_SETS.values())
    raise DataError(f"{source}: holds neither {wanted}; give a table of stays by its own name")


def cache_lines(summary: CacheSummary) -> list[str]:
    """Report of what entered the cache and what did not."""
    lines = [f"{summary.records:,} records in {summary.folder}, SHA-256 {summary.sha256}"]
    if summary.labels is not None:
        lines.append(f"  labels, sources and patients from {summary.labels}")
    lines += [f"  {name.replace('_', ' ')}: {count:,}" for name, count in summary.counts.items()]
    codes = Counter(entry.code for entry in summary.refused)
    if codes:
        reasons = ", ".join(f"{code} {n:,}" for code, n in codes.most_common())
        lines.append(f"  refused: {len(summary.refused):,} ({reasons}); each with its reason in cache.json")
    return lines


@dataclass(frozen=True, eq=False)
class Split:
    """A split that has been written beside a cache.

    Attributes
    ----------
    path
        Where it lies.
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


def write_cache_split(cache: Cache, given: Path | None = None, seed: int | None = None) -> Split:
    """Write ``split.csv`` into the folder of the cache.

    A ``given`` split is copied; with a ``seed`` a new one is drawn; with neither, the packaged split serves
    if its ids are exactly the cache's, and otherwise one is drawn with seed 0.

    Raises
    ------
    DataError
        The given split is damaged or has other ids.
    """
    path, ids = cache.folder / SPLIT, cache.ids
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
    parts = DATA_SETS[cache.task].drawn_parts(cache, seed or 0)
    return Split(path, write_split(path, ids, parts), parts, f"drawn with seed {seed or 0}")


def _copied(given: Path, path: Path, parts: Ints, origin: str) -> Split:
    atomic_write(path, given.read_bytes())
    return Split(path, file_sha256(path), parts, origin)


def split_lines(cache: Cache, split: Split) -> list[str]:
    """Where the split comes from, and what its parts hold."""
    return [
        f"split: {split.origin}; SHA-256 {split.sha256}",
        *DATA_SETS[cache.task].split_lines(cache, split.parts),
    ]


def prepare(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    unlabelled: bool = False,
    split: Path | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write cache and split of ``source`` to ``out``; return a report, line by line.

    Parameters
    ----------
    source, out
        The data set, and the folder of its cache.
    labels
        ``index.csv`` to take labels, sources and patients of recordings from.
    exclude, only
        Sources of recordings to leave out (beside INCART, always left out), and the only ones to take.
    unlabelled
        Take no labels: for pretraining, or for an external set of a study.
    split, seed
        As for :func:`write_cache_split`.
    progress
        Called with the number of recordings or files done, and the total.
    """
    if split is not None:
        if not split.is_file():
            raise DataError(f"{split}: no such split")
        if split.resolve().parent == out.resolve():
            raise DataError(f"{split}: lies in the cache that is replaced; move it elsewhere first")
    summary = data_set_of(source).prepare(
        source, out, labels=labels, exclude=exclude, only=only, unlabelled=unlabelled, progress=progress
    )
    lines = cache_lines(summary)
    if unlabelled:
        return lines
    cache = open_cache(out)
    return [*lines, *split_lines(cache, write_cache_split(cache, split, seed))]
