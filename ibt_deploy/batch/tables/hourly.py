"""One row an hour from rows at any time: medians within the hour, for many stays at once.

The hour of a row is ``floor(hours since ICU admission) + 1``: the first sixty minutes are hour 1, as ICULOS
of the Challenge 2019 counts. A label is positive in an hour where any row says so.

Exports may overlap. In a median the same measurement twice would weigh double, and two that contradict each
other would vanish. So a row that exactly repeats another of its stay and moment counts once, and what remains
is counted and reported.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from ibt_deploy.batch.tables.store import NO_TIME, Block, whole_stays
from ibt_deploy.mapping.schema import Time
from ibt_deploy.types import Bools, Floats, Ints

HOUR_US = 3_600_000_000


def hours_since(time: Ints, admission: int | Ints) -> Ints:
    """Number of the hour of each row, from microseconds; at most 0 before admission."""
    hours: Ints = (time - admission) // HOUR_US + 1
    return hours


def medians(values: Floats, groups: Ints) -> Floats:
    """Median of each column within each group of neighbouring rows, without regard to NaN.

    Parameters
    ----------
    values
        Shape ``(rows, columns)``.
    groups
        First row of each group, rising from 0, shape ``(groups,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(groups, columns)``; NaN where a group has no value. The mean of the two in the middle where
        their number is even.
    """
    if len(groups) == len(values):
        return values.copy()
    found = np.full((len(groups), values.shape[1]), np.nan)
    group_of = np.zeros(len(values), dtype=np.int64)
    group_of[groups[1:]] = 1
    np.cumsum(group_of, out=group_of)
    for column in range(values.shape[1]):
        rows = np.flatnonzero(~np.isnan(values[:, column]))
        if not len(rows):
            continue
        order = np.lexsort((values[rows, column], group_of[rows]))
        ordered, of = values[rows, column][order], group_of[rows]
        first = np.flatnonzero(np.diff(of, prepend=-1))
        count = np.diff(first, append=len(of))
        low, high = ordered[first + (count - 1) // 2], ordered[first + count // 2]
        found[of[first], column] = np.where(low == high, low, low + (high - low) / 2)
    return found


def repeats(moments: Ints, values: Floats) -> Bools:
    """Which rows repeat an earlier one of the same moment in every value.

    Parameters
    ----------
    moments
        Of each row; the same moments stand together. Shape ``(rows,)``.
    values
        Shape ``(rows, columns)``; NaN where there is none.
    """
    found = np.zeros(len(moments), dtype=np.bool_)
    together = moments[1:] == moments[:-1]
    rows = np.flatnonzero(np.append(together, False) | np.insert(together, 0, False))
    if len(rows):
        keys = np.column_stack((np.where(np.isnan(values[rows]), np.nan, values[rows] + 0.0), moments[rows]))
        whole = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))
        _, first = np.unique(whole.ravel(), return_index=True)
        found[rows] = True
        found[rows[first]] = False
    return found


def contradicted(moments: Ints, values: Floats) -> Bools:
    """Which rows share their moment with one that states another value of some column."""
    if not len(moments):
        return np.zeros(0, dtype=np.bool_)
    first = np.flatnonzero(np.diff(moments, prepend=moments[0] - 1))
    if len(first) == len(moments):
        return np.zeros(len(moments), dtype=np.bool_)
    low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
    differs = np.asarray((low < high).any(axis=1))
    return np.repeat(differs, np.diff(first, append=len(moments)))


@dataclass(frozen=True)
class Overlap:
    """How far an export overlaps with itself.

    Attributes
    ----------
    duplicate_rows
        Rows that repeat another of the same stay and moment in every value; they count once.
    conflicting_rows
        Rows of the same stay and moment that state different values of a variable.
    merged_rows
        Rows, without duplicates, in hours of a stay that several files hold.
    """

    duplicate_rows: int = 0
    conflicting_rows: int = 0
    merged_rows: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def sentences(self) -> list[str]:
        """A sentence about each kind of overlap that occurs."""
        repeat = "1 row repeats" if self.duplicate_rows == 1 else f"{self.duplicate_rows} rows repeat"
        counted = (
            (self.duplicate_rows, f"{repeat} another of the same stay and moment exactly; each counts once."),
            (
                self.conflicting_rows,
                f"{self.conflicting_rows} rows contradict another of the same stay and moment; the hour's "
                "median is taken.",
            ),
            (
                self.merged_rows,
                f"{self.merged_rows} rows are in hours that several files hold; they were merged into one "
                "median.",
            ),
        )
        return [sentence for count, sentence in counted if count]


def overlap_of(folder: Path, starts: Ints, time: Time) -> Overlap:
    """Count over the store in ``folder``, whose stays begin at ``starts``; memory for some thousand rows."""
    total = Overlap()
    for rows, bounds in whole_stays(folder, starts):
        total += _counted(Block.of(rows), np.asarray(bounds), time)
    return total


def _counted(block: Block, bounds: Ints, time: Time) -> Overlap:
    stay = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    at, admission, _ = block.times.T
    if time.kind == "hours" or time.admission is not None:
        begin = np.maximum.reduceat(admission, bounds[:-1])[stay]
    else:
        begin = at[bounds[:-1]][stay]
    usable = (at != NO_TIME) & (begin != NO_TIME)
    stay, at, begin, values, files = (
        column[usable] for column in (stay, at, begin, block.stated, block.files)
    )
    moments = np.cumsum((np.diff(stay, prepend=-1) != 0) | (np.diff(at, prepend=NO_TIME) != 0))
    twice = repeats(moments, values)
    stay, at, begin, values, files, moments = (
        column[~twice] for column in (stay, at, begin, values, files, moments)
    )
    hours = hours_since(at, begin)
    spans = np.flatnonzero((np.diff(stay, prepend=-1) != 0) | (np.diff(hours, prepend=0) != 0))
    merged = 0
    if len(spans):
        several = np.minimum.reduceat(files, spans) != np.maximum.reduceat(files, spans)
        merged = int(np.diff(spans, append=len(stay))[several].sum())
    return Overlap(int(twice.sum()), int(contradicted(moments, values).sum()), merged)
