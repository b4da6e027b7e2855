"""The constants of the stay model's preprocessing: fitted on training patients, kept in the bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from ibt_deploy.errors import BundleError
from ibt_deploy.preprocess.stay_rows import clean
from ibt_deploy.types import AnyFloats, AnyInts, Float32s, Floats
from ibt_deploy.variables import INDEX, N_TIME_VARYING, NAMES, VARIABLES

Features = Literal["full", "values40"]

LOGARITHMIC = np.array([v.transform == "log1p" for v in VARIABLES[:N_TIME_VARYING]])
FEATURE_CLIP = 8.0
LEAST_SPREAD = 1e-3
"""A feature that varies less in training is left in its own units."""
FULL_NAMES: tuple[str, ...] = (
    *NAMES[:N_TIME_VARYING],
    *(f"{name} observed" for name in NAMES[:N_TIME_VARYING]),
    *(f"{name} hours since" for name in NAMES[:N_TIME_VARYING]),
    *("Age", "Gender", "MICU", "SICU", "unit unknown", "HospAdmTime", "ICULOS"),
)


@dataclass(frozen=True)
class StayPreprocessing:
    """The constants of the stay model's preprocessing, all taken from training patients.

    Attributes
    ----------
    medians, means, deviations
        Of the observed, plausible, transformed (log1p for the skewed labs) training values of the 34
        time-varying variables. Deviation 0 stands for a variable without observed variation in training:
        the model cannot know it, and it is treated as never measured, with the value 0.
    age
        Median age in training, years.
    admission_time
        Median HospAdmTime in training, hours.
    features
        ``"full"`` (109 features) or ``"values40"`` (the 40 normalised values only).
    hidden
        Variables that the model must not see (an ablation): they count as never measured, in training and
        in scoring alike; a hidden ICULOS has the feature 0.
    centres, spreads
        Mean and deviation of every feature over the training rows, by which features are standardised at
        the end; empty leaves them as they are. Without this the times and flags, all between 0 and 1, move
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

    def standardised(self, features: Float32s) -> Float32s:
        """``features`` ``(rows, n_features)`` in units of their spread, clipped; changed in place."""
        if self.centres:
            features -= np.array(self.centres, dtype=np.float32)
            features /= np.array(self.spreads, dtype=np.float32)
            np.clip(features, -FEATURE_CLIP, FEATURE_CLIP, out=features)
        return features

    def standardising(self, features: Float32s) -> StayPreprocessing:
        """These constants with the centres and spreads of training ``features`` ``(rows, n_features)``."""
        centres = features.mean(axis=0, dtype=np.float64)
        spreads = features.std(axis=0, dtype=np.float64)
        spreads[spreads < LEAST_SPREAD] = 1.0
        return replace(self, centres=tuple(centres.tolist()), spreads=tuple(spreads.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Everything that a bundle has to keep, as JSON knows it."""
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
        """Constants from what :meth:`to_dict` gave.

        Raises
        ------
        BundleError
            Another name, version or order of variables, or constants that are missing or not numbers.
        """
        if (stored.get("name"), stored.get("version")) != (cls.name, cls.version):
            raise BundleError(
                f"the bundle needs preprocessing {stored.get('name')} {stored.get('version')}, "
                f"this ibt has {cls.name} {cls.version}"
            )
        if stored.get("variables") != list(NAMES):
            raise BundleError("the bundle's preprocessing has other variables than this ibt")
        try:
            medians, means, deviations = (
                tuple(float(c) for c in stored[field]) for field in ("medians", "means", "deviations")
            )
            age, admission_time = float(stored["age"]), float(stored["admission_time"])
            features, hidden = stored["features"], tuple(stored["hidden"])
            centres, spreads = (tuple(float(c) for c in stored[field]) for field in ("centres", "spreads"))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the bundle's stay preprocessing is incomplete or damaged: {error}") from error
        return cls(medians, means, deviations, age, admission_time, features, hidden, centres, spreads)

    @classmethod
    def fit(
        cls,
        values: AnyFloats,
        offsets: AnyInts | None = None,
        features: Features = "full",
        hidden: tuple[str, ...] = (),
    ) -> StayPreprocessing:
        """Constants from training stays.

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
            Variables that it must not see.
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
