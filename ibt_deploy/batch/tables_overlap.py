"""Exports that overlap: rows of one stay and moment, and hours that several files hold.

Rows with points in time become the median of their hour, in which the same measurement twice would weigh
double and two that contradict each other would vanish. So a row that repeats another of its stay and moment
exactly counts once, and the rest is counted and said.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from ibt_deploy.batch.tables_hourly import contradicted, hours_since, repeats
from ibt_deploy.batch.tables_read import NO_TIME, Block
from ibt_deploy.batch.tables_store import whole_stays
from ibt_deploy.mapping.schema import Time
from ibt_deploy.types import Ints


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
        """What is to be said about it."""
        repeat = "1 row repeats" if self.duplicate_rows == 1 else f"{self.duplicate_rows} rows repeat"
        told = (
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
        return [sentence for count, sentence in told if count]


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
