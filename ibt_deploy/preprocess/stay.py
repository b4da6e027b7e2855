"""From hourly rows to the features of the stay model, strictly causally.

One routine serves training (many stays at once), scoring (one stay) and streaming (hour by hour with carried
state); a row's features depend on that row and earlier rows of its stay alone, bit for bit.

Before a variable is first measured it has the training median. Demographics are carried forward like
measurements; while none has been seen yet, Age and HospAdmTime have the training median, Gender is 0.5 and
the unit is unknown. Unit1 and Unit2 that contradict each other also mean unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadRows
from ibt_deploy.preprocess.stay_constants import LOGARITHMIC, StayPreprocessing
from ibt_deploy.preprocess.stay_rows import HOUR, clean
from ibt_deploy.types import AnyFloats, AnyInts, Float32s, Floats, Ints
from ibt_deploy.variables import INDEX, MAX_HOURS, N_TIME_VARYING, N_VARIABLES

__all__ = ["FeatureState", "StayPreprocessing", "featurise", "featurise_next"]

AGE, GENDER, UNIT1, UNIT2 = (INDEX[name] for name in ("Age", "Gender", "Unit1", "Unit2"))
ADMISSION = INDEX["HospAdmTime"]
CLIP = 5.0
ADMISSION_SCALE = 9.0
UNKNOWN_GENDER = 0.5
# log1p(hours) / log1p(336) for 0..336 hours: looking whole hours up is exact at any place of any array.
LOG_HOURS = (np.log1p(np.arange(MAX_HOURS + 1.0)) / math.log1p(MAX_HOURS)).astype(np.float32)
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class FeatureState:
    """What the features of the next row need to know of the rows before it.

    Attributes
    ----------
    last
        Last plausible value of each of the 40 variables, float32, NaN where there was none yet.
    since
        Hours since that value, int64; meaningless where ``last`` is NaN.
    rows
        Rows so far.
    """

    last: Float32s
    since: Ints
    rows: int

    @classmethod
    def empty(cls) -> FeatureState:
        """The state before the first row."""
        nothing = np.full(N_VARIABLES, np.nan, dtype=np.float32)
        return cls(nothing, np.zeros(N_VARIABLES, dtype=np.int64), 0)


def featurise(
    values: AnyFloats, offsets: AnyInts, constants: StayPreprocessing, *, cleaned: bool = False
) -> Float32s:
    """Features of every row of many stays; science specification, section 7.2, steps 2 to 7.

    Parameters
    ----------
    values
        Raw rows, shape ``(rows, 40)``, one row an hour without gaps.
    offsets
        Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]``; shape ``(stays + 1,)``, from 0 to ``rows``.
    constants
        The constants of the model.
    cleaned
        Whether the rows are what :func:`ibt_deploy.preprocess.stay_rows.clean` gave; else it is done here.

    Returns
    -------
    numpy.ndarray
        Shape ``(rows, constants.n_features)``, float32.

    Raises
    ------
    BadRows
        A row without a usable ICULOS.
    ValueError
        AnyInts that do not cover the rows.
    """
    spans = np.asarray(offsets, dtype=np.int64)
    if (
        spans.ndim != 1
        or not len(spans)
        or spans[0] != 0
        or spans[-1] != len(values)
        or (np.diff(spans) < 0).any()
    ):
        raise ValueError(f"offsets must rise from 0 to {len(values)}, the number of rows")
    features = np.empty((len(values), constants.n_features), dtype=np.float32)
    stay = 0
    while stay < len(spans) - 1:
        beyond = int(np.searchsorted(spans, spans[stay] + ROWS_AT_ONCE, side="right")) - 1
        beyond = max(beyond, stay + 1)
        begin, end = spans[stay], spans[beyond]
        rows = _usable(values[begin:end], constants, cleaned)
        first = np.repeat(spans[stay:beyond] - begin, np.diff(spans[stay : beyond + 1]))
        last, since = _carried(rows, first)
        features[begin:end] = constants.standardised(_features(rows, last, since, constants))
        stay = beyond
    return features


def featurise_next(
    rows: AnyFloats,
    constants: StayPreprocessing,
    state: FeatureState | None = None,
    *,
    cleaned: bool = False,
) -> tuple[Float32s, FeatureState]:
    """Features of the next rows of one stay, and the state after them.

    Bit-identical to :func:`featurise` over all rows of the stay so far.

    Parameters
    ----------
    rows
        Raw rows that follow those the state has seen, shape ``(new, 40)``.
    constants
        The constants of the model.
    state
        The state after the rows before; None at the start of a stay.
    cleaned
        As for :func:`featurise`.

    Raises
    ------
    BadRows
        A row without a usable ICULOS.
    """
    state = state or FeatureState.empty()
    known = np.concatenate([state.last[None], _usable(rows, constants, cleaned)])
    last, since = _carried(known, np.zeros(len(known), dtype=np.int64))
    since[last == 0] += np.broadcast_to(state.since, last.shape)[last == 0]
    columns = np.arange(N_VARIABLES)
    now = known[np.maximum(last[-1], 0), columns]
    after = FeatureState(now, since[-1].astype(np.int64), state.rows + len(rows))
    return constants.standardised(_features(known, last, since, constants)[1:]), after


def _usable(values: AnyFloats, constants: StayPreprocessing, cleaned: bool) -> Float32s:
    """Cleaned rows, each of which had its hour, without what the model must not see."""
    rows = values.astype(np.float32) if cleaned else clean(values)[0]
    without = np.isnan(rows[:, HOUR])
    if without.any():
        hour = values[int(np.argmax(without)), HOUR]
        raise BadRows(f"ICULOS must be a whole hour from 1 to {MAX_HOURS}, found {hour:g}", code="bad_hour")
    rows[:, [INDEX[name] for name in constants.hidden]] = np.nan
    return rows


def _carried(rows: Float32s, first: Ints) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each cell the row of its variable's last value (-1 where none yet), and the hours since then."""
    here = np.arange(len(rows), dtype=np.int32)[:, None]
    last = np.where(np.isnan(rows), np.int32(-1), here)
    np.maximum.accumulate(last, axis=0, out=last)
    last[last < first[:, None]] = -1
    return last, here - last


def _features(
    rows: Float32s,
    last: npt.NDArray[np.int32],
    since: npt.NDArray[np.int32],
    constants: StayPreprocessing,
) -> Float32s:
    """Features of cleaned rows, from where each variable was last seen."""
    n = N_TIME_VARYING
    known = np.array(constants.deviations) > 0
    seen = last >= 0
    seen[:, :n] &= known
    normalised, before = _normalised(rows, constants)
    columns = np.arange(N_VARIABLES)
    filled = np.where(seen, normalised[np.maximum(last, 0), columns], before)

    unit1, unit2 = filled[:, UNIT1] == 1, filled[:, UNIT2] == 1
    filled[:, UNIT1], filled[:, UNIT2] = unit1 & ~unit2, unit2 & ~unit1
    if constants.features == "values40":
        return filled
    features = np.empty((len(rows), constants.n_features), dtype=np.float32)
    features[:, :n] = filled[:, :n]
    features[:, n : 2 * n] = seen[:, :n] & (since[:, :n] == 0)
    features[:, 2 * n : 3 * n] = LOG_HOURS[
        np.where(seen[:, :n], np.minimum(since[:, :n], MAX_HOURS), MAX_HOURS)
    ]
    features[:, 3 * n : 3 * n + 4] = filled[:, AGE : UNIT2 + 1]
    features[:, 3 * n + 4] = unit1 == unit2
    features[:, 3 * n + 5 :] = filled[:, ADMISSION : HOUR + 1]
    return features


def _normalised(rows: Float32s, constants: StayPreprocessing) -> tuple[Float32s, Float32s]:
    """Cleaned values as the model reads them (rows, 40), and what stands before the first one (40,)."""
    means, medians, deviations = (
        np.array(c) for c in (constants.means, constants.medians, constants.deviations)
    )
    safe = np.where(deviations > 0, deviations, 1.0)
    normalised = np.zeros_like(rows)
    row, variable = np.nonzero(~np.isnan(rows[:, :N_TIME_VARYING]))
    observed = rows[row, variable].astype(np.float64)
    skewed = LOGARITHMIC[variable]
    observed[skewed] = np.log1p(observed[skewed])
    normalised[row, variable] = np.clip((observed - means[variable]) / safe[variable], -CLIP, CLIP)

    normalised[:, AGE] = rows[:, AGE] / np.float32(100)
    normalised[:, GENDER : UNIT2 + 1] = rows[:, GENDER : UNIT2 + 1]
    normalised[:, ADMISSION] = _admission(rows[:, ADMISSION].astype(np.float64))
    hours = np.nan_to_num(rows[:, HOUR], nan=0.0).astype(np.int64)
    normalised[:, HOUR] = LOG_HOURS[hours]

    before = np.zeros(N_VARIABLES, dtype=np.float32)
    before[:N_TIME_VARYING] = np.where(deviations > 0, np.clip((medians - means) / safe, -CLIP, CLIP), 0.0)
    before[AGE] = constants.age / 100
    before[GENDER] = UNKNOWN_GENDER
    before[ADMISSION] = _admission(np.array([constants.admission_time]))[0]
    return normalised, before


def _admission(hours: Floats) -> Floats:
    """Signed log1p of HospAdmTime over 9, the logarithm of a year in hours."""
    return np.sign(hours) * np.log1p(np.abs(hours)) / ADMISSION_SCALE
