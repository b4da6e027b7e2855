"""Hourly rows made trustworthy: one unit per variable, and no value that no patient can have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ibt_deploy.types import AnyFloats, Float32s, Ints
from ibt_deploy.variables import INDEX, N_TIME_VARYING, N_VARIABLES, VARIABLES

LOWEST = np.array([v.plausible_min for v in VARIABLES], dtype=np.float32)
HIGHEST = np.array([v.plausible_max for v in VARIABLES], dtype=np.float32)
BINARY = slice(INDEX["Gender"], INDEX["Unit2"] + 1)
FIO2 = INDEX["FiO2"]
HOUR = INDEX["ICULOS"]
ROOM_AIR = np.float32(0.21)
ROUNDED_ROOM_AIR = np.float32(0.20)


@dataclass(frozen=True, eq=False)
class CleanCounts:
    """What :func:`clean` met.

    Attributes
    ----------
    observed
        Values that were there, per variable, shape ``(40,)``.
    out_of_range
        Values that were dropped as implausible, per variable, shape ``(40,)``.
    rescaled
        FiO2 values that were percent and became fractions.
    """

    observed: Ints
    out_of_range: Ints
    rescaled: int

    @property
    def out_of_range_share(self) -> float:
        """Dropped part of the vital signs and labs that were there, 0 to 1; 0 where none was."""
        measured = int(self.observed[:N_TIME_VARYING].sum())
        return int(self.out_of_range[:N_TIME_VARYING].sum()) / measured if measured else 0.0


def clean(values: AnyFloats) -> tuple[Float32s, CleanCounts]:
    """Rows in canonical units without implausible values, and what had to be changed.

    FiO2 in (1, 100] is percent and is divided by 100; FiO2 in [0.20, 0.21) is room air, 0.21. Values
    outside the plausible range of their variable become missing, as do flags (Gender, Unit1, Unit2) other
    than 0 and 1 and hours (ICULOS) that are not whole.

    The work is done in float32, the precision of the published tables: 0.01 must pass the bound 0.01
    whether it came from text as a double or from a packed cache as a float. Cleaning twice changes nothing.

    Parameters
    ----------
    values
        Shape ``(rows, 40)``, columns as :data:`ibt_deploy.variables.VARIABLES`; NaN where missing.

    Returns
    -------
    tuple
        A new array ``(rows, 40)`` of float32, and the :class:`CleanCounts`.

    Raises
    ------
    ValueError
        The array does not have 40 columns.
    """
    if values.ndim != 2 or values.shape[1] != N_VARIABLES:
        raise ValueError(f"expected rows of {N_VARIABLES} variables, got an array of shape {values.shape}")
    with np.errstate(over="ignore"):
        cleaned = values.astype(np.float32)
    observed = (~np.isnan(cleaned)).sum(axis=0)

    fio2 = cleaned[:, FIO2]
    percent = (fio2 > 1) & (fio2 <= 100)
    fio2[percent] /= np.float32(100)
    fio2[(fio2 >= ROUNDED_ROOM_AIR) & (fio2 < ROOM_AIR)] = ROOM_AIR

    outside = (cleaned < LOWEST) | (cleaned > HIGHEST)
    # the bounds of a flag are 0 and 1; NaN is not between anything
    flags, hours = cleaned[:, BINARY], cleaned[:, HOUR]
    outside[:, BINARY] |= (flags > 0) & (flags < 1)
    outside[:, HOUR] |= hours > np.floor(hours)
    cleaned[outside] = np.nan
    return cleaned, CleanCounts(observed, outside.sum(axis=0), int(np.count_nonzero(percent)))
