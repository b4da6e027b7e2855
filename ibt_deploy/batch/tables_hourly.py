"""One row an hour from rows at any time: medians within the hour, for many stays at once.

The hour of a row is ``floor(hours since ICU admission) + 1``: the first sixty minutes are hour 1, as ICULOS
of the Challenge 2019 counts. A label is positive in an hour where any row says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ibt_deploy.types import Floats

HOUR_US = 3_600_000_000
Ints = npt.NDArray[np.int64]


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


def repeats(moments: Ints, values: Floats) -> npt.NDArray[np.bool_]:
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


def contradicted(moments: Ints, values: Floats) -> npt.NDArray[np.bool_]:
    """Which rows share their moment with one that states another value of some column."""
    if not len(moments):
        return np.zeros(0, dtype=np.bool_)
    first = np.flatnonzero(np.diff(moments, prepend=moments[0] - 1))
    if len(first) == len(moments):
        return np.zeros(len(moments), dtype=np.bool_)
    low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
    differs = np.asarray((low < high).any(axis=1))
    return np.repeat(differs, np.diff(first, append=len(moments)))
