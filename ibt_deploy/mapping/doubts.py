"""Columns of an export that appear to be in another unit, or to be another variable.

Four rules, each of which a person can check by looking at the column:

1. **Median.** It lies outside the middle half of what intensive care units measure, but would lie inside if
   the column had another unit that hospitals use. Applied to columns with at least 50 values from 20 stays,
   and to those that rule 3 would refuse.
2. **Part.** More than 5 % of the values are impossible, and four fifths of those would be usual in another
   unit: two units in one column. Applied if there are at least 50 values from 20 stays.
3. **Impossible.** More than 20 % of at least 20 values are outside the plausible range.
4. **Tail.** Nineteen of twenty HospAdmTime are less than a day, and the longest twentieth is more than ten
   times the median: usual if they were days. Applied if there are at least 50 values from 20 stays.

A column in doubt ends the run before anything is scored, until its unit is corrected or ``confirmed = true``.
One stay alone is judged by :mod:`ibt_deploy.preprocess.stay_checks`.

This module also states where the values of an intensive care unit usually lie, and in which other units
hospitals report them. The four numbers of a variable are the 5th, 25th, 75th and 95th percentile of what the
two hospitals of the Challenge 2019 measured (the lower of the two for the first pair, the higher for the
second), rounded outwards. They serve to recognise a unit, never to judge a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibt_deploy.mapping.units import CANONICAL, Conversion, conversion
from ibt_deploy.vocabulary import INDEX, OTHER_UNITS, VARIABLES

Rule = Literal["median", "part", "impossible", "tail"]
Range = tuple[float, float]

FEWEST_STAYS = 20
FEWEST_FOR_MEDIAN = 50
FEWEST_FOR_RANGE = 20
MOST_IMPOSSIBLE = 0.20
SOME_IMPOSSIBLE = 0.05
MOST_EXPLAINED = 0.80
NEARLY_ALL = 0.90
SAME_UNIT = 1e-3
SHORTEST_TAIL, LONGEST_TAIL, HEAVY_TAIL = -24.0, -2.0, 10.0
"""A 5th percentile of HospAdmTime between these is in days; both Challenge hospitals have about -260 h."""

PERCENTILES: dict[str, tuple[float, float, float, float]] = {
    "HR": (58, 72, 96, 115),
    "O2Sat": (93, 96, 99.5, 100),
    "Temp": (35.7, 36.5, 37.6, 38.3),
    "SBP": (91, 105, 142, 170),
    "MAP": (58, 68, 96, 116),
    "DBP": (42, 51, 75, 91),
    "Resp": (11, 15, 22, 28),
    "EtCO2": (19, 28, 38, 45),
    "BaseExcess": (-9.5, -4.7, 1, 6),
    "HCO3": (17, 21, 27, 31),
    "FiO2": (0.21, 0.4, 0.6, 1.0),
    "pH": (7.2, 7.33, 7.43, 7.5),
    "PaCO2": (28, 34, 45, 59),
    "SaO2": (62, 93, 98.7, 99.8),
    "AST": (13, 20, 181, 1860),
    "BUN": (6, 11, 29, 66),
    "Alkalinephos": (34, 52, 120, 303),
    "Calcium": (1.1, 7.2, 8.7, 9.5),
    "Chloride": (96, 102, 110, 115),
    "Creatinine": (0.5, 0.7, 1.5, 5.7),
    "Bilirubin_direct": (0.1, 0.1, 3.8, 12.8),
    "Glucose": (79, 104, 155, 236),
    "Lactate": (0.8, 1.2, 3.5, 8.7),
    "Magnesium": (1.5, 1.8, 2.2, 2.7),
    "Phosphate": (1.7, 2.6, 4.2, 6.2),
    "Potassium": (3.2, 3.7, 4.5, 5.2),
    "Bilirubin_total": (0.2, 0.5, 2.3, 11.8),
    "TroponinI": (0.01, 0.03, 13, 42),
    "Hct": (21, 26, 35.7, 42.3),
    "Hgb": (7.1, 8.5, 11.7, 14.2),
    "PTT": (23, 27.5, 43.5, 98),
    "WBC": (4.2, 7.1, 14.3, 22),
    "Fibrinogen": (107, 183, 357, 618),
    "Platelets": (62, 126, 247, 395),
    "Age": (30, 50, 76, 89),
}


def central(variable: str) -> Range | None:
    """The middle half of usual values."""
    found = PERCENTILES.get(variable)
    return None if found is None else (found[1], found[2])


def wide(variable: str) -> Range | None:
    """Nine tenths of usual values."""
    found = PERCENTILES.get(variable)
    return None if found is None else (found[0], found[3])


def is_within(value: float, interval: Range) -> bool:
    """Whether a value lies in an interval, allowing for rounding errors of a conversion."""
    slack = 1e-9 * max(abs(interval[0]), abs(interval[1]))
    return interval[0] - slack <= value <= interval[1] + slack


@dataclass(frozen=True)
class ColumnFacts:
    """Counts over one column of an export, after conversion.

    Attributes
    ----------
    variable
        One of the 40.
    unit
        The unit that the column is said to have.
    factor, offset
        The conversion that it implies.
    is_confirmed
        Whether a person has confirmed the unit.
    values
        Number of values.
    out_of_range
        Number of values outside the plausible range.
    quantiles
        5, 25, 50, 75 and 95 %; of a regular sample where there are very many. Empty without values.
    explained
        For each other unit, the number of values out of range that would be usual in it.
    """

    variable: str
    unit: str
    factor: float
    offset: float
    is_confirmed: bool
    values: int
    out_of_range: int
    quantiles: tuple[float, ...]
    explained: dict[str, int]

    @property
    def out_of_range_share(self) -> float:
        """0 to 1; 0 without values."""
        return self.out_of_range / self.values if self.values else 0.0

    @property
    def stated(self) -> Conversion:
        """The conversion as it was applied."""
        return Conversion(self.variable, self.unit, self.factor, self.offset)


@dataclass(frozen=True)
class Doubt:
    """A column that must not be scored as it is.

    Attributes
    ----------
    variable
        One of the 40.
    rule
        Which rule found it.
    message
        One sentence: what is odd, and what would explain it.
    is_evident
        Whether more than 90 % of the values are impossible as stated, and 90 % would be possible in the unit
        that explains the median: the first rows of a column suffice to say so.
    """

    variable: str
    rule: Rule
    message: str
    is_evident: bool = False


def other_units(stated: Conversion) -> dict[str, Conversion]:
    """Other units that the column might have: how its converted values would have been converted instead."""
    found = {}
    own_units = (CANONICAL[stated.variable], *OTHER_UNITS.get(stated.variable, ()))
    readings = {unit: conversion(stated.variable, unit) for unit in own_units}
    if stated.variable == "BUN":
        readings["mg/dL of urea"] = conversion("BUN", "mg/dL", "urea")
    for unit, own in readings.items():
        factor = own.factor / stated.factor
        if abs(factor - 1) > SAME_UNIT:
            found[unit] = Conversion(stated.variable, unit, factor, own.offset - stated.offset * factor)
    return found


def doubt_about(facts: ColumnFacts, stays: int) -> Doubt | None:
    """The doubt about one column of an export of ``stays`` stays, if there is one."""
    if facts.is_confirmed or not facts.values:
        return None
    is_large = facts.values >= FEWEST_FOR_MEDIAN and stays >= FEWEST_STAYS
    candidates = other_units(facts.stated)
    median = facts.quantiles[2]
    if facts.variable == "HospAdmTime" and is_large:
        longest = facts.quantiles[0]
        if SHORTEST_TAIL < longest < min(LONGEST_TAIL, HEAVY_TAIL * median):
            message = (
                f"HospAdmTime: only 1 in 20 is longer ago than {-longest:.3g} hours; it looks like days "
                f"({24 * longest:.4g} hours)"
            )
            return Doubt("HospAdmTime", "tail", message)
    usual = central(facts.variable)
    if usual is not None and not is_within(median, usual):
        better = [unit for unit, other in candidates.items() if is_within(other.value(median), usual)]
        is_impossible = facts.out_of_range_share > MOST_IMPOSSIBLE and facts.values >= FEWEST_FOR_RANGE
        if better and (is_large or is_impossible):
            message = _looks_like(facts, usual, better, candidates)
            is_evident = any(_explains_nearly_all(facts, candidates[unit]) for unit in better)
            return Doubt(facts.variable, "median", message, is_evident)
    share = f"{facts.variable}: {facts.out_of_range_share:.0%} of the values are"
    if is_large and facts.out_of_range_share > SOME_IMPOSSIBLE:
        for unit, count in facts.explained.items():
            if count >= MOST_EXPLAINED * facts.out_of_range:
                what = f"impossible in {facts.unit} and most of these would be usual in {unit}"
                return Doubt(facts.variable, "part", f"{share} {what}: two units in one column?")
    if facts.values >= FEWEST_FOR_RANGE and facts.out_of_range_share > MOST_IMPOSSIBLE:
        variable = VARIABLES[INDEX[facts.variable]]
        plausible = f"{variable.plausible_min:g} to {variable.plausible_max:g} {variable.unit}"
        what = f"outside {plausible} (median {median:.4g}): wrong column or unit?"
        return Doubt(facts.variable, "impossible", f"{share} {what}")
    return None


def _explains_nearly_all(facts: ColumnFacts, other: Conversion) -> bool:
    variable = VARIABLES[INDEX[facts.variable]]
    plausible = (variable.plausible_min, variable.plausible_max)
    return facts.out_of_range_share > NEARLY_ALL and all(
        is_within(other.value(quantile), plausible) for quantile in (facts.quantiles[0], facts.quantiles[-1])
    )


def _looks_like(
    facts: ColumnFacts, usual: tuple[float, float], better: list[str], candidates: dict[str, Conversion]
) -> str:
    given = facts.stated.given(facts.quantiles[2])
    own = CANONICAL[facts.variable]
    readings = " or ".join(
        f"{unit} ({candidates[unit].value(facts.quantiles[2]):.4g} {own})" for unit in better
    )
    return (
        f"{facts.variable}: the median {given:.4g} is unusual in {facts.unit} (usual medians are "
        f"{usual[0]:g} to {usual[1]:g} {own}); it looks like {readings}"
    )
