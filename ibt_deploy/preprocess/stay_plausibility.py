"""What no patient's hourly rows show: another unit, exchanged columns, somebody else's rows.

These rules judge one stay alone and hold wherever stays are scored; what the columns of a whole export show
is judged by :mod:`ibt_deploy.mapping.doubts`. A certain rule refuses the stay, a doubtful one warns.

The bounds come from the 25,410 training stays of the Challenge 2019 (``training/splits/sepsis.csv``). No
training stay meets a certain rule; of the 5,446 test stays, fewer than 1 in 500 meet any one of the doubtful
rules (``tests/integration/test_public_data.py`` repeats the count). Not every wrong unit can be seen in one
stay: BUN in mmol/L, urea in place of BUN, and HospAdmTime in days lie among the values of real patients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from ibt_deploy.errors import BadRows, BadUnits
from ibt_deploy.records import Notice
from ibt_deploy.types import AnyFloats, Float32s
from ibt_deploy.variables import INDEX, VARIABLES


class UnitRule(NamedTuple):
    """Values that patients do not have in the model's unit, and often have in another one.

    Attributes
    ----------
    variable
        One of the 40.
    lowest, highest
        The rule holds where every value of the stay lies between these, in the model's unit.
    units
        What the values would be usual in.
    is_certain
        Whether the stay is refused.
    """

    variable: str
    lowest: float
    highest: float
    units: str
    is_certain: bool


UNIT_RULES = (
    UnitRule("O2Sat", 0.2, 2, "a fraction", True),
    UnitRule("SaO2", 0.2, 2, "a fraction", True),
    UnitRule("Temp", 60, 115, "degF", True),
    UnitRule("SBP", 2, 32, "kPa", True),
    UnitRule("MAP", 2, 20, "kPa", True),
    UnitRule("MAP", 2, 27, "kPa", False),
    UnitRule("DBP", 2, 20, "kPa", True),
    UnitRule("DBP", 2, 27, "kPa", False),
    UnitRule("EtCO2", 0.5, 9, "kPa", True),
    UnitRule("PaCO2", 1, 9.5, "kPa", True),
    UnitRule("PaCO2", 1, 16, "kPa", False),
    UnitRule("AST", 0, 2.5, "ukat/L", True),
    UnitRule("AST", 0, 5.5, "ukat/L", False),
    UnitRule("Alkalinephos", 0, 6, "ukat/L", True),
    UnitRule("Alkalinephos", 0, 15, "ukat/L", False),
    UnitRule("BUN", 0, 2.5, "mmol/L", False),
    # never certain: ionised calcium in mmol/L, near 1.1, occurs in the training data
    UnitRule("Calcium", 1.7, 3.3, "mmol/L", False),
    UnitRule("Calcium", 3.3, 4.4, "mEq/L", False),
    UnitRule("Creatinine", 28, 5_000, "umol/L", True),
    UnitRule("Creatinine", 20, 5_000, "umol/L", False),
    UnitRule("Bilirubin_direct", 40, 900, "umol/L", True),
    UnitRule("Bilirubin_direct", 10, 900, "umol/L", False),
    UnitRule("Bilirubin_total", 55, 1_400, "umol/L", True),
    UnitRule("Bilirubin_total", 26, 1_400, "umol/L", False),
    UnitRule("Glucose", 0.5, 28, "mmol/L", True),
    UnitRule("Glucose", 0.5, 55, "mmol/L", False),
    UnitRule("Lactate", 31, 360, "mg/dL", True),
    UnitRule("Lactate", 10.5, 360, "mg/dL", False),
    UnitRule("Magnesium", 0.1, 1.15, "mmol/L", False),
    UnitRule("Phosphate", 0.1, 1.1, "mmol/L", False),
    UnitRule("TroponinI", 450, 1e6, "ng/L", True),
    UnitRule("TroponinI", 80, 1e6, "ng/L", False),
    UnitRule("Hct", 0.05, 1, "a fraction", True),
    UnitRule("Hgb", 40, 250, "g/L", True),
    UnitRule("WBC", 500, 5e5, "cells/uL", True),
    UnitRule("Fibrinogen", 0.2, 20, "g/L or umol/L", True),
    UnitRule("Platelets", 2_500, 2.5e6, "cells/uL", True),
    UnitRule("Age", 150, 40_000, "months or days", True),
)

_RULED = np.array([INDEX[rule.variable] for rule in UNIT_RULES])
_LOWEST = np.array([rule.lowest for rule in UNIT_RULES])
_HIGHEST = np.array([rule.highest for rule in UNIT_RULES])

_HR, _SBP, _MAP, _DBP, _HCT, _HGB, _AGE, _GENDER, _ADMISSION = (
    INDEX[name] for name in ("HR", "SBP", "MAP", "DBP", "Hct", "Hgb", "Age", "Gender", "HospAdmTime")
)

MOST_AGEING = 1.0
OLDEST_EXACT, OLDEST = 89.0, 100.0
"""The Challenge writes 100 for every age of 90 and above."""

FEWEST_HOURS = 3
SOME_INVERTED = 0.1
MOST_INVERTED = 0.5
MEAN_ABOVE_SYSTOLIC, MEAN_BELOW_DIASTOLIC = 0.2, 0.6
"""Shares of hours above which the mean pressure contradicts the others."""

LARGEST_CELL_RATIO = 4.2
"""Of Hct in % to Hgb in g/dL: 3.0 in the median patient, 4.8 where Hgb is in mmol/L."""

LATEST_ADMISSION = 4.5
"""Hours by which hospital admission follows ICU admission in fewer than 1 in 2,000 training stays."""


def require_one_patient(rows: Float32s) -> None:
    """Refuse rows that cannot be one patient's.

    Parameters
    ----------
    rows
        Cleaned rows, shape ``(hours, 40)``.

    Raises
    ------
    BadRows
        Age moves by more than a year (``age_changes``), or Gender changes (``gender_changes``).
    """
    # ordinary stays repeat one value in both columns
    columns = rows[:, _AGE : _GENDER + 1]
    low, high = np.fmin.reduce(columns, axis=0).tolist(), np.fmax.reduce(columns, axis=0).tolist()
    if high[0] - low[0] > MOST_AGEING and not (low[0] >= OLDEST_EXACT and high[0] == OLDEST):
        raise BadRows(
            f"Age changes from {low[0]:g} to {high[0]:g} within the stay: rows of several patients?",
            code="age_changes",
        )
    if high[1] > low[1]:
        raise BadRows("Gender changes within the stay: rows of several patients?", code="gender_changes")


def unit_notices(values: AnyFloats, confirmed: Collection[str] = ()) -> Iterator[Notice]:
    """Warnings about columns of one stay that look like another unit or another variable.

    Parameters
    ----------
    values
        Rows as they were given, shape ``(hours, 40)``: what is implausible counts here.
    confirmed
        Variables whose unit a person has confirmed; no rule asks about them.

    Raises
    ------
    BadUnits
        The values of a variable are certainly in another unit (``doubtful_unit``).
    BadRows
        SBP and DBP are exchanged (``columns_swapped``).
    """
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    met = (low[_RULED] >= _LOWEST) & (high[_RULED] <= _HIGHEST)
    if met.any():
        found: dict[str, UnitRule] = {}
        for place in np.flatnonzero(met).tolist():
            rule = UNIT_RULES[place]
            if rule.variable not in confirmed:
                found.setdefault(rule.variable, rule)  # the certain rule stands first
        certain = [_sentence(rule, low, high) for rule in found.values() if rule.is_certain]
        if certain:
            raise BadUnits(
                f"{'; '.join(certain)}. Convert the values, or state the unit in a mapping (ibt batch --map)",
                code="doubtful_unit",
            )
        for rule in found.values():
            yield Notice("doubtful_unit", f"{_sentence(rule, low, high)}.")
    if high[_HCT] > LARGEST_CELL_RATIO * high[_HGB] and not {"Hgb", "Hct"} & set(confirmed):
        yield Notice(
            "doubtful_unit",
            f"Hct {high[_HCT]:g} % and Hgb {high[_HGB]:g} g/dL do not fit; Hgb looks like mmol/L.",
        )
    if low[_ADMISSION] > LATEST_ADMISSION and "HospAdmTime" not in confirmed:
        yield Notice(
            "doubtful_unit",
            f"HospAdmTime {low[_ADMISSION]:g} says that hospital admission came after ICU admission; "
            "earlier is negative.",
        )
    yield from _pressure_notices(values)


def _pressure_notices(values: AnyFloats) -> Iterator[Notice]:
    """Pressures that contradict each other; NaN compares as false."""
    systolic, mean, diastolic = values[:, _SBP], values[:, _MAP], values[:, _DBP]
    inverted = np.count_nonzero(systolic < diastolic)
    if inverted:
        both = np.count_nonzero(~np.isnan(systolic + diastolic))
        what = f"SBP is below DBP in {inverted} of {both} hours"
        if both >= FEWEST_HOURS and inverted > MOST_INVERTED * both:
            raise BadRows(f"{what}: the columns are exchanged", code="columns_swapped")
        if inverted > SOME_INVERTED * both:
            yield Notice("pressures_contradict", f"{what}.")
    above = np.count_nonzero(mean > systolic)
    below = np.count_nonzero(mean < diastolic)
    if not (above or below):
        return
    both = np.count_nonzero(~np.isnan(systolic + mean))
    if _is_heart_rate_systolic(values, above / both if both else 0.0):
        yield Notice("columns_swapped", "HR fits MAP better than SBP does: HR and SBP look exchanged.")
    elif above > MEAN_ABOVE_SYSTOLIC * both:
        yield Notice("pressures_contradict", f"MAP is above SBP in {above} of {both} hours.")
    both = np.count_nonzero(~np.isnan(diastolic + mean))
    if below > MEAN_BELOW_DIASTOLIC * both:
        yield Notice("pressures_contradict", f"MAP is below DBP in {below} of {both} hours.")


def _is_heart_rate_systolic(values: AnyFloats, share_above: float) -> bool:
    """Whether HR lies above SBP in most hours, and MAP above SBP far more often than above HR."""
    if share_above <= SOME_INVERTED:
        return False
    rate, systolic, mean = values[:, _HR], values[:, _SBP], values[:, _MAP]
    both = np.count_nonzero(~np.isnan(rate + systolic))
    if both < FEWEST_HOURS or np.count_nonzero(rate > systolic) <= MOST_INVERTED * both:
        return False
    with_rate = np.count_nonzero(~np.isnan(rate + mean))
    return bool(np.count_nonzero(mean > rate) < share_above * with_rate / 4)


def _sentence(rule: UnitRule, low: AnyFloats, high: AnyFloats) -> str:
    place = INDEX[rule.variable]
    first, last = float(low[place]), float(high[place])
    span = f"{first:.4g}" if first == last else f"{first:.4g} to {last:.4g}"
    return f"{rule.variable} {span} is not usual in {VARIABLES[place].unit}; it looks like {rule.units}"
