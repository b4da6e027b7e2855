"""Columns that look like another unit, or like no such variable at all.

Three rules, each of which a person can check by looking at the column:

1. **Median.** It lies outside the middle half of what intensive care units measure, and inside if the column
   had another unit that hospitals use. Asked of columns with at least 50 values of 20 stays, and of those
   that rule 3 would refuse.
2. **Part.** More than 5 % of the values are impossible, and four fifths of those would be usual in another
   unit: two units in one column. Asked where there are at least 50 values of 20 stays.
3. **Impossible.** More than 20 % of at least 20 values are outside the plausible range.

A column in doubt ends the run before anything is scored, until its unit is corrected or ``confirmed = true``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibt_deploy.mapping.units import CANONICAL, Conversion, conversion
from ibt_deploy.mapping.usual import OTHER_UNITS, central, is_within
from ibt_deploy.variables import INDEX, VARIABLES

Rule = Literal["median", "part", "impossible"]

FEWEST_STAYS = 20
FEWEST_FOR_MEDIAN = 50
FEWEST_FOR_RANGE = 20
MOST_IMPOSSIBLE = 0.20
SOME_IMPOSSIBLE = 0.05
MOST_EXPLAINED = 0.80
NEARLY_ALL = 0.90
SAME_UNIT = 1e-3


@dataclass(frozen=True)
class ColumnFacts:
    """What was counted in one column of an export, after conversion.

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
        How many there are.
    out_of_range
        How many of them are outside the plausible range.
    quantiles
        5, 25, 50, 75 and 95 %; of a regular sample where there are very many. Empty without values.
    explained
        For each other unit, how many of the values out of range would be usual in it.
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
    for unit in (CANONICAL[stated.variable], *OTHER_UNITS.get(stated.variable, ())):
        own = conversion(stated.variable, unit)
        factor = own.factor / stated.factor
        if abs(factor - 1) > SAME_UNIT:
            found[unit] = Conversion(stated.variable, unit, factor, own.offset - stated.offset * factor)
    return found


def doubt_about(facts: ColumnFacts, stays: int) -> Doubt | None:
    """The doubt about one column of an export of so many stays, if there is one."""
    if facts.is_confirmed or not facts.values:
        return None
    is_large = facts.values >= FEWEST_FOR_MEDIAN and stays >= FEWEST_STAYS
    candidates = other_units(facts.stated)
    median = facts.quantiles[2]
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
