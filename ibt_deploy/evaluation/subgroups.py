"""Sub-groups that models are judged in: sex and age, as every table here divides them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ibt_deploy.types import Strings

T = TypeVar("T")

UNKNOWN = "unknown"
AGE_BANDS = ((40, "under 40"), (65, "40-64"), (80, "65-79"), (1000, "80 and over"))
"""Upper limit in years, excluded, and name of each band."""
SEXES = ("female", "male")


def age_bands(ages: npt.ArrayLike) -> Strings:
    """The age band of each age in years; ``unknown`` for NaN and for what is no age."""
    years = np.asarray(ages, dtype=np.float64)
    bands = np.full(len(years), UNKNOWN, dtype="U16")
    lower = 0
    for upper, name in AGE_BANDS:
        bands[(years >= lower) & (years < upper)] = name
        lower = upper
    return bands


def named_sexes(values: Iterable[Any]) -> Strings:
    """``female``, ``male`` or ``unknown`` for words in any case; what is no such word is unknown."""
    words = (str(value).lower() for value in values)
    return np.array([word if word in SEXES else UNKNOWN for word in words], dtype="U7")


def in_order(groups: Mapping[str, T]) -> list[tuple[str, T]]:
    """Sub-groups in the order a reader expects: the youngest first, what is unknown last."""
    youngest = AGE_BANDS[0][1]
    return sorted(groups.items(), key=lambda entry: (entry[0] == UNKNOWN, entry[0] != youngest, entry[0]))
