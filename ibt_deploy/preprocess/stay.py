"""Turn hourly rows into the features of the stay model, strictly causally.

One routine serves training (many stays at once), scoring (one stay) and streaming (hour by hour with carried
state); a row's features depend only on that row and earlier rows of its stay, bit for bit.

Before a variable is first measured it has the training median. Demographics are carried forward like
measurements; while none has been seen yet, Age and HospAdmTime have the training median, Gender is 0.5 and
the unit is unknown. Unit1 and Unit2 that contradict each other also mean unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadRows, BundleError
from ibt_deploy.types import AnyFloats, AnyInts, Bools, Float32s, Floats, Ints, checked
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_TIME_VARYING, N_VARIABLES, NAMES, VARIABLES

LOWEST = np.array([v.plausible_min for v in VARIABLES], dtype=np.float32)
HIGHEST = np.array([v.plausible_max for v in VARIABLES], dtype=np.float32)
BINARY = slice(INDEX["Gender"], INDEX["Unit2"] + 1)
FIO2 = INDEX["FiO2"]
HOUR = INDEX["ICULOS"]
ROOM_AIR = np.float32(0.21)
ROUNDED_ROOM_AIR = np.float32(0.20)


@dataclass(frozen=True, eq=False)
class CleanCounts:
    """Counts of what :func:`clean` found.

    Attributes
    ----------
    observed
        Values present, per variable, shape ``(40,)``.
    out_of_range
        Values that were dropped as implausible, per variable, shape ``(40,)``.
    rescaled
        FiO2 values that were percentages and became fractions.
    """

    observed: Ints
    out_of_range: Ints
    rescaled: int

    @property
    def out_of_range_share(self) -> float:
        """Dropped share of the vital signs and labs present, 0 to 1; 0 if there were none."""
        measured = int(self.observed[:N_TIME_VARYING].sum())
        return int(self.out_of_range[:N_TIME_VARYING].sum()) / measured if measured else 0.0


def clean(values: AnyFloats) -> tuple[Float32s, CleanCounts]:
    """Rows in canonical units without implausible values, and counts of the changes.

    FiO2 in (1, 100] is percent and is divided by 100; FiO2 in [0.20, 0.21) is room air, 0.21. Values
    outside the plausible range of their variable become missing, as do flags (Gender, Unit1, Unit2) other
    than 0 and 1 and hours (ICULOS) that are not integers.

    Values are processed in float32, the precision of the published tables: 0.01 must pass the bound 0.01
    whether it came from text as a double or from a packed cache as a float. Cleaning is idempotent.

    Parameters
    ----------
    values
        Shape ``(rows, 40)``, columns as :data:`ibt_deploy.vocabulary.VARIABLES`; NaN where missing.

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


Features = Literal["full", "values40"]

LOGARITHMIC = np.array([v.transform == "log1p" for v in VARIABLES[:N_TIME_VARYING]])
FEATURE_CLIP = 8.0
LEAST_SPREAD = 1e-3
"""A feature that varies less than this in training is not rescaled."""
FULL_NAMES: tuple[str, ...] = (
    *NAMES[:N_TIME_VARYING],
    *(f"{name} observed" for name in NAMES[:N_TIME_VARYING]),
    *(f"{name} hours since" for name in NAMES[:N_TIME_VARYING]),
    *("Age", "Gender", "MICU", "SICU", "unit unknown", "HospAdmTime", "ICULOS"),
)


class _Arrays(NamedTuple):
    """Constants in the form used for computation.

    ``deviations`` are 1 for variables that are not ``known``, ``before`` is used before the first value of
    each variable, and ``hidden`` are the indices of the hidden ones.
    """

    known: Bools
    means: Floats
    deviations: Floats
    before: Float32s
    hidden: Ints
    centres: Float32s
    spreads: Float32s


@dataclass(frozen=True)
class StayPreprocessing:
    """The constants of the stay model's preprocessing, all taken from training patients.

    Attributes
    ----------
    medians, means, deviations
        Those of the observed, plausible, transformed (log1p for the skewed labs) training values of the 34
        time-varying variables. Deviation 0 marks a variable without observed variation in training:
        the model cannot know it, and it is treated as never measured, with the value 0.
    age
        Median age in training, years.
    admission_time
        Median HospAdmTime in training, hours.
    features
        ``"full"`` (109 features) or ``"values40"`` (the 40 normalised values only).
    hidden
        Variables that the model must not see (an ablation): they count as never measured, in training and in
        scoring; a hidden ICULOS has the feature 0.
    centres, spreads
        Mean and deviation of every feature over the training rows, by which features are standardised at
        the end; empty leaves them as they are. Without this the times and flags, all between 0 and 1, affect
        a network far less than the values do.
    """

    medians: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    age: float
    admission_time: float
    features: Features = "full"
    hidden: tuple[str, ...] = ()
    centres: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()

    name: ClassVar[str] = "stay"
    version: ClassVar[str] = "1.0.0"

    def __post_init__(self) -> None:
        for field in ("medians", "means", "deviations"):
            constants = getattr(self, field)
            if len(constants) != N_TIME_VARYING or not all(math.isfinite(c) for c in constants):
                raise BundleError(f"stay preprocessing needs {N_TIME_VARYING} finite numbers as {field}")
        if min(self.deviations) < 0:
            raise BundleError("stay preprocessing has a negative deviation")
        if not (math.isfinite(self.age) and math.isfinite(self.admission_time)):
            raise BundleError("stay preprocessing needs a finite age and admission_time")
        if self.features not in get_args(Features):
            raise BundleError(f"stay preprocessing knows no features {self.features!r}")
        scales = (*self.centres, *self.spreads)
        if (len(self.centres), len(self.spreads)) not in ((0, 0), (self.n_features, self.n_features)):
            raise BundleError(f"stay preprocessing needs {self.n_features} centres and spreads, or none")
        if not all(math.isfinite(c) for c in scales) or min(self.spreads, default=1.0) <= 0:
            raise BundleError("stay preprocessing needs finite centres and positive spreads")
        if unknown := set(self.hidden) - set(NAMES):
            raise BundleError(f"stay preprocessing hides variables that do not exist: {sorted(unknown)}")

    @property
    def n_features(self) -> int:
        """Number of features of a row, 109 or 40."""
        return len(self.feature_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of every feature, in order."""
        return FULL_NAMES if self.features == "full" else NAMES

    @cached_property
    def _arrays(self) -> _Arrays:
        means, medians, deviations = (np.array(c) for c in (self.means, self.medians, self.deviations))
        known = deviations > 0
        safe = np.where(known, deviations, 1.0)
        before = np.zeros(N_VARIABLES, dtype=np.float32)
        before[:N_TIME_VARYING] = np.where(known, np.clip((medians - means) / safe, -CLIP, CLIP), 0.0)
        before[AGE] = self.age / 100
        before[GENDER] = UNKNOWN_GENDER
        before[ADMISSION] = _admission(np.array([self.admission_time]))[0]
        return _Arrays(
            known,
            means,
            safe,
            before,
            np.array([INDEX[name] for name in self.hidden], dtype=np.intp),
            np.array(self.centres, dtype=np.float32),
            np.array(self.spreads, dtype=np.float32),
        )

    def standardised(self, features: Float32s) -> Float32s:
        """Standardise and clip ``features`` ``(rows, n_features)``, in place."""
        if self.centres:
            features -= self._arrays.centres
            features /= self._arrays.spreads
            np.clip(features, -FEATURE_CLIP, FEATURE_CLIP, out=features)
        return features

    def standardising(self, features: Float32s) -> StayPreprocessing:
        """These constants with the centres and spreads of training ``features`` ``(rows, n_features)``."""
        centres = features.mean(axis=0, dtype=np.float64)
        spreads = features.std(axis=0, dtype=np.float64)
        spreads[spreads < LEAST_SPREAD] = 1.0
        return replace(self, centres=tuple(centres.tolist()), spreads=tuple(spreads.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Everything that a bundle has to keep, as a JSON-compatible dictionary."""
        return {
            "name": self.name,
            "version": self.version,
            "features": self.features,
            "variables": list(NAMES),
            "medians": list(self.medians),
            "means": list(self.means),
            "deviations": list(self.deviations),
            "age": self.age,
            "admission_time": self.admission_time,
            "hidden": list(self.hidden),
            "centres": list(self.centres),
            "spreads": list(self.spreads),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> StayPreprocessing:
        """Constants from :meth:`to_dict` output.

        Raises
        ------
        BundleError
            A different name, version or order of variables, or constants that are missing or not numbers.
        """
        if (stored.get("name"), stored.get("version")) != (cls.name, cls.version):
            raise BundleError(
                f"the bundle needs preprocessing {stored.get('name')} {stored.get('version')}, "
                f"this ibt has {cls.name} {cls.version}"
            )
        if stored.get("variables") != list(NAMES):
            raise BundleError("the bundle's preprocessing has other variables than this ibt")
        try:
            constants: StayPreprocessing = checked({f.name: stored[f.name] for f in fields(cls)}, cls)
        except (KeyError, ValueError) as error:
            raise BundleError(f"the bundle's stay preprocessing is incomplete or damaged: {error}") from error
        return constants

    @classmethod
    def fit(
        cls,
        values: AnyFloats,
        offsets: AnyInts | None = None,
        features: Features = "full",
        hidden: tuple[str, ...] = (),
    ) -> StayPreprocessing:
        """Fit the constants on training stays.

        Parameters
        ----------
        values
            Raw rows of the training stays, shape ``(rows, 40)``.
        offsets
            Where each stay begins, and the end, shape ``(stays + 1,)``: only the rows between the first
            and the last are used. None uses all rows.
        features
            Which features the model reads.
        hidden
            Variables that the model must not see.
        """
        if offsets is not None:
            values = values[int(offsets[0]) : int(offsets[-1])]
        columns = np.ascontiguousarray(clean(values)[0].T)
        medians, means, deviations = np.zeros((3, N_TIME_VARYING))
        for variable in range(N_TIME_VARYING):
            observed = _observed(columns[variable])
            if LOGARITHMIC[variable]:
                observed = np.log1p(observed)
            if len(observed) and observed.min() < observed.max():
                medians[variable] = np.median(observed)
                means[variable] = observed.mean()
                deviations[variable] = observed.std()
        ages, admissions = _observed(columns[INDEX["Age"]]), _observed(columns[INDEX["HospAdmTime"]])
        return cls(
            tuple(medians.tolist()),
            tuple(means.tolist()),
            tuple(deviations.tolist()),
            float(np.median(ages)) if len(ages) else 0.0,
            float(np.median(admissions)) if len(admissions) else 0.0,
            features,
            hidden,
        )


def _observed(column: Float32s) -> Floats:
    return column[~np.isnan(column)].astype(np.float64)


__all__ = ["FeatureState", "StayPreprocessing", "featurise", "featurise_next"]

AGE, GENDER, UNIT1, UNIT2 = (INDEX[name] for name in ("Age", "Gender", "Unit1", "Unit2"))
ADMISSION = INDEX["HospAdmTime"]
CLIP = 5.0
ADMISSION_SCALE = 9.0
UNKNOWN_GENDER = 0.5
# log1p(hours) / log1p(336) for 0..336 hours: looking up whole hours is exact at any position of any array.
LOG_HOURS = (np.log1p(np.arange(MAX_HOURS + 1.0)) / math.log1p(MAX_HOURS)).astype(np.float32)
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class FeatureState:
    """What the features of the next row need from earlier rows.

    Attributes
    ----------
    last
        Last plausible value of each of the 40 variables, float32, NaN if there is none yet.
    since
        Hours since that value, int64; meaningless where ``last`` is NaN.
    rows
        Number of rows so far.
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
    """Features of every row of many stays.

    Parameters
    ----------
    values
        Raw rows, shape ``(rows, 40)``, one row per hour without gaps.
    offsets
        Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]``; shape ``(stays + 1,)``, from 0 to ``rows``.
    constants
        The constants of the model.
    cleaned
        Whether the rows are output of :func:`ibt_deploy.preprocess.stay.clean`; else they are cleaned here.

    Returns
    -------
    numpy.ndarray
        Shape ``(rows, constants.n_features)``, float32.

    Raises
    ------
    BadRows
        A row without a usable ICULOS.
    ValueError
        ``offsets`` do not cover the rows.
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
        Raw rows that follow those already in the state, shape ``(new, 40)``.
    constants
        The constants of the model.
    state
        The state after the previous rows; None at the start of a stay.
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
    """Cleaned rows, each with its hour checked, without what the model must not see."""
    rows = values.astype(np.float32) if cleaned else clean(values)[0]
    without = np.isnan(rows[:, HOUR])
    if without.any():
        hour = values[int(np.argmax(without)), HOUR]
        raise BadRows(f"ICULOS must be a whole hour from 1 to {MAX_HOURS}, found {hour:g}", code="bad_hour")
    if constants.hidden:
        rows[:, constants._arrays.hidden] = np.nan
    return rows


def _carried(rows: Float32s, first: Ints) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each cell the row of its variable's last value (-1 if none yet), and the hours since then."""
    here = np.arange(len(rows), dtype=np.int32)[:, None]
    last = np.where(np.isnan(rows), np.int32(-1), here)
    np.maximum.accumulate(last, axis=0, out=last)
    if first.any():
        last[last < first[:, None]] = -1
    return last, here - last


def _features(
    rows: Float32s,
    last: npt.NDArray[np.int32],
    since: npt.NDArray[np.int32],
    constants: StayPreprocessing,
) -> Float32s:
    """Features of cleaned rows, given where each variable was last seen."""
    n = N_TIME_VARYING
    arrays = constants._arrays
    seen = last >= 0
    seen[:, :n] &= arrays.known
    normalised = _normalised(rows, arrays)
    columns = np.arange(N_VARIABLES)
    filled = np.where(seen, normalised[np.maximum(last, 0), columns], arrays.before)

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


def _normalised(rows: Float32s, constants: _Arrays) -> Float32s:
    """Cleaned values in the form that the model reads, shape ``(rows, 40)``."""
    normalised = np.zeros_like(rows)
    row, variable = np.nonzero(~np.isnan(rows[:, :N_TIME_VARYING]))
    observed = rows[row, variable].astype(np.float64)
    skewed = LOGARITHMIC[variable]
    observed[skewed] = np.log1p(observed[skewed])
    normalised[row, variable] = np.clip(
        (observed - constants.means[variable]) / constants.deviations[variable], -CLIP, CLIP
    )

    normalised[:, AGE] = rows[:, AGE] / np.float32(100)
    normalised[:, GENDER : UNIT2 + 1] = rows[:, GENDER : UNIT2 + 1]
    normalised[:, ADMISSION] = _admission(rows[:, ADMISSION].astype(np.float64))
    hours = rows[:, HOUR]
    normalised[:, HOUR] = LOG_HOURS[np.where(np.isnan(hours), 0, hours).astype(np.int64)]
    return normalised


def _admission(hours: Floats) -> Floats:
    """Signed log1p of HospAdmTime over 9, the logarithm of a year in hours."""
    return np.sign(hours) * np.log1p(np.abs(hours)) / ADMISSION_SCALE
