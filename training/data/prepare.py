"""From a data set on disk to a cache with its split: what ``ibt train prepare`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError
from ibt_deploy.types import Task
from ibt_deploy.vocabulary import CLASSES
from training.data.cache import Cache, CacheSummary, open_cache
from training.data.prepare_ecg import index_of
from training.data.split import (
    PARTS,
    Split,
    part_counts,
    unknown_patients,
    write_cache_split,
)


def data_set_task(source: Path) -> Task:
    """What ``source`` holds: recordings (``.hea``) or stays (``.parquet`` or ``.psv``).

    Raises
    ------
    DataError
        Nothing of either, or both.
    """
    if source.is_file():
        if source.suffix.lower() == ".parquet":
            return "sepsis"
        raise DataError(f"{source}: is not a data set; give a .parquet of stays, or a folder")
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    recordings = next(source.rglob("*.hea"), None)
    stays = next(source.rglob("*.psv"), None)
    if recordings and stays:
        raise DataError(f"{source}: holds recordings (.hea) and stays (.psv); give the folder of one of them")
    if not recordings and not stays:
        raise DataError(f"{source}: holds neither .hea nor .psv files; a table of stays must be named itself")
    return "arrhythmia" if recordings else "sepsis"


def prepare_cache(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    unlabelled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CacheSummary:
    """Write the cache of ``source`` to ``out``.

    Parameters
    ----------
    labels
        ``index.csv`` to take labels, sources and patients of recordings from.
    exclude, only
        Sources of recordings to leave out (beside INCART, always left out), and the only ones to take.
    unlabelled
        Take no labels: for an external set, on which a study compares outputs and features.
    progress
        Called with the number of recordings or files done, and of all.
    """
    if data_set_task(source) == "arrhythmia":
        from training.data.prepare_ecg import INCART, prepare_recordings

        return prepare_recordings(
            source,
            out,
            index_csv=labels,
            exclude_sources={INCART, *exclude},
            only_sources=set(only) or None,
            progress=progress,
            unlabelled=unlabelled,
        )
    if labels or exclude or only:
        raise DataError(f"{source}: holds stays; labels and sources can be chosen for recordings only")
    from training.data.prepare_stays import prepare_stays

    return prepare_stays(source, out, progress, unlabelled=unlabelled)


def cache_lines(summary: CacheSummary, labels: Path | None) -> list[str]:
    """What entered the cache and what did not; ``labels`` is the index in use, if any."""
    lines = [f"{summary.records:,} records in {summary.folder}, SHA-256 {summary.sha256}"]
    if labels is not None:
        lines.append(f"  labels, sources and patients from {labels}")
    lines += [f"  {name.replace('_', ' ')}: {count:,}" for name, count in summary.counts.items()]
    codes = Counter(entry.code for entry in summary.refused)
    if codes:
        reasons = ", ".join(f"{code} {n:,}" for code, n in codes.most_common())
        lines.append(f"  refused: {len(summary.refused):,} ({reasons}); each with its reason in cache.json")
    return lines


def split_lines(cache: Cache, split: Split) -> list[str]:
    """Counts of every part and, for recordings, of every class with those that cannot be evaluated."""
    head = f"{'':12s}" + "".join(f"{part:>12s}" for part in PARTS)
    lines = [f"split: {split.origin}; SHA-256 {split.sha256}", head]

    def line(name: str, counts: npt.NDArray[np.int64], note: str = "") -> str:
        return (f"{name:12s}" + "".join(f"{n:12,}" for n in counts) + note).rstrip()

    if cache.task == "sepsis":
        septic = cache.index[["septic"]].to_numpy()
        counts = part_counts(septic, split.parts)
        rows = np.bincount(split.parts, cache.index["length"], len(PARTS)).astype(np.int64)
        return [
            *lines,
            line("stays", counts.records),
            line("septic", counts.positives[:, 0]),
            line("rows", rows),
        ]
    if unknown := unknown_patients(cache.index).sum():
        lines.insert(
            1, f"{unknown:,} recordings of sources with several a patient, who is not named: all in training"
        )
    counts = part_counts(np.load(cache.folder / "labels.npy"), split.parts)
    names = [c.abbreviation for c in CLASSES]
    lines.append(line("recordings", counts.records))
    for i, name in enumerate(names):
        lines.append(line(name, counts.positives[:, i], "" if counts.evaluable[i] else "   not evaluable"))
    if missing := counts.not_evaluable(names):
        lines.append(
            f"not evaluable, with fewer than 5 positives in some part: {', '.join(missing)} "
            f"({len(missing)} of {len(names)})"
        )
    return lines


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
    """Cache and split of ``source`` in ``out``; a report, line by line.

    Parameters as for :func:`prepare_cache` and :func:`write_cache_split`.
    """
    if split is not None:
        if not split.is_file():
            raise DataError(f"{split}: no such split")
        if split.resolve().parent == out.resolve():
            raise DataError(f"{split}: lies in the cache that is replaced; move it elsewhere first")
    summary = prepare_cache(
        source, out, labels=labels, exclude=exclude, only=only, unlabelled=unlabelled, progress=progress
    )
    cache = open_cache(out)
    if cache.task == "arrhythmia":
        labels = labels or index_of(source)
    if unlabelled:
        return cache_lines(summary, labels)
    return [*cache_lines(summary, labels), *split_lines(cache, write_cache_split(cache, split, seed))]
