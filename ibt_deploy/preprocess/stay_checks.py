"""Notices about a stay's rows that its risk must carry, and reasons not to compute a risk.

Some rows cannot be a patient's: wrong unit, exchanged columns, rows of several people. The rules for
them judge one stay alone and apply wherever stays are scored; what the columns of a whole export show
is judged by :mod:`ibt_deploy.mapping.doubts`. A certain rule refuses the stay, a doubtful one warns.

Units of laboratory values are judged by likelihood: would the values be more usual, given the others of the
stay and their own course, if all of them, or the low or the high ones, were in another unit?

The bounds come from the 25,410 training stays of the Challenge 2019 (``training/splits/sepsis.csv``). No
training stay meets a certain rule; of the 5,446 test stays, fewer than 1 in 400 meet any one of the doubtful
rules (``tests/integration/test_public_data.py`` repeats the count). Not every wrong unit can be detected in
one stay (docs/quality.md): most BUN in mmol/L, most urea in place of BUN, and HospAdmTime in days lie among
the values of real patients.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ibt_deploy.errors import BadRows, BadUnits, InputError, TooLong, TooShort
from ibt_deploy.preprocess.stay import HOUR, CleanCounts, clean
from ibt_deploy.records import ADULT, Notice, Stay, are_consecutive
from ibt_deploy.types import AnyFloats, Bools, Float32s, Floats, Ints
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_TIME_VARYING, N_VITALS, VARIABLES, Variable


class UnitRule(NamedTuple):
    """Values that patients do not have in the model's unit, and often have in another one.

    Attributes
    ----------
    variable
        One of the 40.
    lowest, highest
        The rule applies if every value of the stay lies between these, in the model's unit.
    units
        Units in which the values would be usual.
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
    UnitRule("Alkalinephos", 0, 6, "ukat/L", True),
    # never certain: ionised calcium in mmol/L, near 1.1, occurs in the training data
    UnitRule("Calcium", 1.7, 3.3, "mmol/L", False),
    UnitRule("Calcium", 3.3, 4.4, "mEq/L", False),
    UnitRule("Creatinine", 28, 5_000, "umol/L", True),
    UnitRule("Bilirubin_direct", 40, 900, "umol/L", True),
    UnitRule("Bilirubin_total", 55, 1_400, "umol/L", True),
    UnitRule("Glucose", 0.5, 28, "mmol/L", True),
    UnitRule("Lactate", 31, 360, "mg/dL", True),
    UnitRule("TroponinI", 450, 1e6, "ng/L", True),
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

_HR, _SBP, _MAP, _DBP, _AGE, _GENDER, _ADMISSION = (
    INDEX[name] for name in ("HR", "SBP", "MAP", "DBP", "Age", "Gender", "HospAdmTime")
)

MOST_AGEING = 1.0
OLDEST_EXACT, OLDEST = 89.0, 100.0
"""The Challenge writes 100 for every age of 90 and above."""

FEWEST_HOURS = 3
SOME_INVERTED = 0.1
MOST_INVERTED = 0.5
MEAN_ABOVE_SYSTOLIC, MEAN_BELOW_DIASTOLIC = 0.2, 0.6
"""Shares of hours above which the mean pressure contradicts the others."""

STEP_TAIL = 2.0
"""Degrees of freedom of Student's t for the change of a stay's values from one to the next."""

LEAST_SPREAD = 0.7
"""Share of the shift between two units that a stay's values must span before a mixture is considered."""

LATEST_ADMISSION = 4.5
"""Hours by which hospital admission follows ICU admission in fewer than 1 in 2,000 training stays."""


def require_one_patient(rows: Float32s) -> None:
    """Refuse rows that cannot be those of one patient.

    Parameters
    ----------
    rows
        Cleaned rows, shape ``(hours, 40)``.

    Raises
    ------
    BadRows
        Age changes by more than a year (``age_changes``), or Gender changes (``gender_changes``).
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
    """Warnings about columns of one stay that appear to be in another unit or to be another variable.

    Parameters
    ----------
    values
        Rows as given, shape ``(hours, 40)``: implausible values count here.
    confirmed
        Variables whose unit a person has confirmed; no rule applies to them.

    Raises
    ------
    BadUnits
        The values of a variable are certainly in another unit (``doubtful_unit``).
    BadRows
        SBP and DBP are exchanged (``columns_swapped``).
    """
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    met = (low[_RULED] >= _LOWEST) & (high[_RULED] <= _HIGHEST)
    found: dict[str, UnitRule] = {}
    if met.any():
        for place in np.flatnonzero(met).tolist():
            rule = UNIT_RULES[place]
            if rule.variable not in confirmed:
                found.setdefault(rule.variable, rule)  # the certain rule comes first
        certain = [_sentence(rule, low, high) for rule in found.values() if rule.is_certain]
        if certain:
            raise BadUnits(
                f"{'; '.join(certain)}. Convert the values, or state the unit in a mapping (ibt batch --map)",
                code="doubtful_unit",
            )
        for rule in found.values():
            yield Notice("doubtful_unit", f"{_sentence(rule, low, high)}.")
    yield from _likelihood_notices(values, low, high, {*confirmed, *found})
    if low[_ADMISSION] > LATEST_ADMISSION and "HospAdmTime" not in confirmed:
        yield Notice(
            "doubtful_unit",
            f"HospAdmTime {low[_ADMISSION]:g} says that hospital admission came after ICU admission; "
            "earlier is negative.",
        )
    yield from _pressure_notices(values)


class OtherUnit(NamedTuple):
    """Another unit of a laboratory value, and what :mod:`benchmarks.units` found for it on training stays.

    Attributes
    ----------
    variable
        One of the 40.
    unit
        Unit as named in messages.
    shift
        Logarithm of the conversion factor from the model's unit to this one.
    step
        Scale of Student's t of the change from one value to the next, in logarithms.
    companion
        The variable that moves with it, if any, and the slope of their logarithms.
    whole, part
        Log likelihood ratio above which all, or part, of the values are in doubt.
    """

    variable: str
    unit: str
    shift: float
    step: float
    companion: tuple[str, float] | None
    whole: float
    part: float


@dataclass(frozen=True, eq=False)
class LabRelations:
    """The joint normal distribution of the mean logarithms of a stay's values, and the units to consider."""

    variables: tuple[str, ...]
    mean: Floats
    covariance: Floats
    units: tuple[OtherUnit, ...]

    @cached_property
    def columns(self) -> Ints:
        """Indices of the variables among the 40."""
        return np.array([INDEX[name] for name in self.variables])


class _Conditions(NamedTuple):
    """:class:`LabRelations` conditioned on the measured variables, and the units of these.

    Attributes
    ----------
    mean, precision, sharpness
        Mean of the variables, inverse of their covariance, and its diagonal.
    units
        Units that can be considered. Everything below has one entry per unit.
    places, variables
        Index of the unit's variable, among the measured ones and among all.
    pull, half, limit
        The log likelihood ratio is ``pull * (unexpected - half)``; above ``limit`` all values are in doubt.
    least
        Span of the values from which a mixture is considered.
    """

    mean: Floats
    precision: Floats
    sharpness: Floats
    units: tuple[OtherUnit, ...]
    places: Ints
    variables: list[int]
    pull: Floats
    half: Floats
    limit: Floats
    least: Floats


@lru_cache(maxsize=1024)
def _conditions(relations: LabRelations, known: bytes) -> _Conditions:
    """Conditions if the variables at these indices are measured.

    The 36,302 stays of the Challenge 2019 have 628 different sets of measured variables.
    """
    measured = np.frombuffer(known, dtype=np.intp)
    covariance = relations.covariance[np.ix_(measured, measured)]
    precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
    sharpness = np.diag(precision)
    place_of = {relations.variables[variable]: place for place, variable in enumerate(measured.tolist())}
    units = tuple(unit for unit in relations.units if unit.variable in place_of)
    places = np.array([place_of[unit.variable] for unit in units], dtype=np.intp)
    shift = np.array([unit.shift for unit in units], dtype=np.float64)
    return _Conditions(
        relations.mean[measured],
        precision,
        sharpness,
        units,
        places,
        measured[places].tolist(),
        sharpness[places] * shift,
        shift / 2,
        np.array([unit.whole for unit in units], dtype=np.float64),
        LEAST_SPREAD * np.abs(shift),
    )


@lru_cache(maxsize=1)
def lab_relations() -> LabRelations:
    """Read the output of ``python -m benchmarks.units --fit``."""
    text = resources.files("ibt_deploy").joinpath("data/lab_relations.json").read_text(encoding="utf-8")
    read = json.loads(text)
    units = (OtherUnit(**unit) for unit in read["units"])
    return LabRelations(
        tuple(read["variables"]), np.array(read["mean"]), np.array(read["covariance"]), tuple(units)
    )


class UnitLikelihood(NamedTuple):
    """How much more likely the values of a variable are if they are in another unit.

    Attributes
    ----------
    whole
        Log likelihood ratio if all of them are.
    part
        The same if those on one side of the widest gap are; minus infinity if no gap is wide enough.
    in_part
        Number of values on that side.
    """

    other: OtherUnit
    whole: float
    part: float
    in_part: int


def unit_likelihoods(
    values: AnyFloats, relations: LabRelations, *, doubtful: bool = False
) -> Iterator[UnitLikelihood]:
    """Likelihoods of the units of ``relations`` for the laboratory values of a stay, shape ``(hours, 40)``.

    The level of a variable is judged against those of the others, its course by the steps from one value to
    the next: a change of unit within the stay makes some of them as large as the factor between the units.
    With ``doubtful``, units are skipped if a first estimate of the likelihood is below both limits.
    """
    given = values.T.take(relations.columns, axis=0)
    is_given = given > 0
    counts = np.count_nonzero(is_given, axis=1)
    (known,) = counts.nonzero()
    if not len(known):
        return
    logs = np.log(given[is_given], dtype=np.float64)
    ends = counts.cumsum()
    numbers = counts[known]
    firsts = ends[known] - numbers
    means = np.add.reduceat(logs, firsts) / numbers
    spans = np.maximum.reduceat(logs, firsts) - np.minimum.reduceat(logs, firsts)
    when = _conditions(relations, known.tobytes())
    unexpected = when.precision @ (means - when.mean) / when.sharpness
    wholes = when.pull * (unexpected[when.places] - when.half)
    spread = spans[when.places] >= when.least
    found = spread | (wholes > when.limit) if doubtful else np.ones(len(wholes), dtype=bool)
    if not found.any():
        return
    hours = is_given.nonzero()[1]
    for number in np.flatnonzero(found).tolist():
        other, whole = when.units[number], float(wholes[number])
        if not spread[number]:
            yield UnitLikelihood(other, whole, -np.inf, 0)
            continue
        variable = when.variables[number]
        own = slice(ends[variable] - counts[variable], ends[variable])
        course = logs[own]
        expected: Floats | float = 0.0
        if other.companion is not None:
            name, slope = other.companion
            other_place = relations.variables.index(name)
            beside = slice(ends[other_place] - counts[other_place], ends[other_place])
            if counts[other_place]:
                expected = slope * _carried(logs[beside], hours[beside], hours[own])
        is_shifted = _beyond_the_gap(course, other.shift)
        corrected = course - other.shift * is_shifted
        steps, corrected_steps = np.diff(course - expected), np.diff(corrected - expected)
        walk = np.log1p((steps / other.step) ** 2 / STEP_TAIL) - np.log1p(
            (corrected_steps / other.step) ** 2 / STEP_TAIL
        )
        moved = other.shift * is_shifted.mean()
        place = when.places[number]
        level = when.sharpness[place] * moved * (unexpected[place] - moved / 2)
        yield UnitLikelihood(
            other, whole, float(level + (STEP_TAIL + 1) / 2 * walk.sum()), int(is_shifted.sum())
        )


def _beyond_the_gap(course: Floats, shift: float) -> Bools:
    """Which values lie on the side of the widest gap to which ``shift`` moves them."""
    rising = np.sort(course)
    widest = int(np.argmax(np.diff(rising)))
    is_beyond: Bools = course > rising[widest] if shift > 0 else course <= rising[widest]
    return is_beyond


def _carried(logs: Floats, hours: Ints, wanted: Ints) -> Floats:
    """The last of ``logs``, known at ascending ``hours``, at each wanted hour; the first one before that."""
    last = np.searchsorted(hours, wanted, side="right") - 1
    carried: Floats = logs[np.maximum(last, 0)]
    return carried


def _likelihood_notices(
    values: AnyFloats, low: AnyFloats, high: AnyFloats, settled: Collection[str]
) -> Iterator[Notice]:
    """Warnings about laboratory values that would be more usual in another unit; one per variable."""
    doubted = set(settled)
    for found in unit_likelihoods(values, lab_relations(), doubtful=True):
        other = found.other
        if other.variable in doubted or not (found.whole > other.whole or found.part > other.part):
            continue
        doubted.add(other.variable)
        place = INDEX[other.variable]
        unit, span = VARIABLES[place].unit, _span(low[place], high[place])
        count = int(np.count_nonzero(values[:, place] > 0))
        if found.whole > other.whole:
            sentence = (
                f"{other.variable} {span} is not usual in {unit} beside the other values of the stay;"
                f" it looks like {other.unit}."
            )
        else:
            sentence = (
                f"{other.variable} {span} changes as a change of unit would:"
                f" {found.in_part} of {count} values look like {other.unit}, not {unit}."
            )
        yield Notice("doubtful_unit", sentence)


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
    """Whether HR is above SBP in most hours, and MAP above SBP far more often than above HR."""
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
    span = _span(low[place], high[place])
    return f"{rule.variable} {span} is not usual in {VARIABLES[place].unit}; it looks like {rule.units}"


def _span(first: float, last: float) -> str:
    return f"{first:.4g}" if first == last else f"{first:.4g} to {last:.4g}"


MOST_OUT_OF_RANGE = 0.20
LONG_FILL_HOURS = 24
# Whole hospitals never measure it, so its absence says nothing about a stay.
RARELY_MEASURED = INDEX["EtCO2"]
DEMOGRAPHICS = {
    "Age": "the training median is used",
    "Gender": "0.5 is used",
    "HospAdmTime": "the training median is used",
}


def checked_stay(stay: Stay) -> tuple[Float32s, tuple[Notice, ...]]:
    """The cleaned rows of a stay, and the notices that must accompany its risk.

    Notices are those of the reader, and have the codes ``single_row``, ``hours_inserted``,
    ``values_out_of_range``, ``fio2_rescaled``, ``nothing_measured``, ``vitals_never_measured``,
    ``labs_never_measured`` (not one of the 26), ``long_forward_fill`` (a vital sign whose last value is more
    than 24 hours old at some row), ``demographics_missing``, ``not_adult``, ``unit_contradiction``, and
    those of :func:`ibt_deploy.preprocess.stay_checks.unit_notices`:
    ``doubtful_unit``, ``columns_swapped`` and ``pressures_contradict``.

    Returns
    -------
    tuple
        Rows of shape ``(hours, 40)``, float32, as returned by :func:`ibt_deploy.preprocess.stay.clean`,
        and the notices.

    Raises
    ------
    TooShort
        There are no rows.
    TooLong
        More than 336 rows.
    BadRows
        Hours that are not integers, not within 1 to 336 or not consecutive (a reader inserts missing ones),
        more than 20 % of the vital signs and labs outside their plausible range (``out_of_range``), or rows
        that cannot be those of one patient (``age_changes``, ``gender_changes``, ``columns_swapped``).
    BadUnits
        A variable is certainly in another unit (``doubtful_unit``).
    """
    try:
        _check_hours(stay.values[:, HOUR])
        doubts = tuple(unit_notices(stay.values, stay.confirmed))
        rows, counts = clean(stay.values)
        _check_plausible(counts)
        require_one_patient(rows)
    except InputError as error:
        alone = Path(stay.source).stem == stay.patient_id
        raise error.at(stay.source if alone else f"{stay.source}, patient {stay.patient_id}") from None
    return rows, (*stay.warnings, *doubts, *_notices(stay, rows, counts))


def _check_hours(hours: Floats) -> None:
    if are_consecutive(hours):
        return
    if not len(hours):
        raise TooShort("the stay has no row", code="no_rows")
    if len(hours) > MAX_HOURS:
        raise TooLong(f"{len(hours)} rows, the models read at most {MAX_HOURS} hours (two weeks)")
    if not ((hours >= 1) & (hours <= MAX_HOURS) & (hours == np.floor(hours))).all():
        raise BadRows(f"every row needs ICULOS, a whole hour from 1 to {MAX_HOURS}", code="bad_hour")
    before = hours[int(np.argmax(np.diff(hours) != 1))]
    raise BadRows(f"the hour after hour {before:.0f} is missing or out of order", code="hours_out_of_order")


def _check_plausible(counts: CleanCounts) -> None:
    if counts.out_of_range_share <= MOST_OUT_OF_RANGE:
        return
    worst = VARIABLES[int(np.argmax(counts.out_of_range[:N_TIME_VARYING]))]
    raise BadRows(
        f"{counts.out_of_range_share:.0%} of the vital signs and labs are implausible, above all {worst.name}"
        f" {_expected(worst)}: wrong unit or column?",
        code="out_of_range",
    )


def _expected(variable: Variable) -> str:
    unit = f" {variable.unit}" if variable.unit else ""
    return f"(expected {variable.plausible_min:g} to {variable.plausible_max:g}{unit})"


def _notices(stay: Stay, rows: Float32s, counts: CleanCounts) -> Iterator[Notice]:
    if len(rows) == 1:
        yield Notice("single_row", "Only one hour: the risk cannot reflect a trend.")
    inserted = 0 if stay.inserted is None else int(np.count_nonzero(stay.inserted))
    if inserted:
        hours = "hour was" if inserted == 1 else "hours were"
        yield Notice("hours_inserted", f"{inserted} missing {hours} inserted as rows without measurements.")
    dropped = [
        f"{VARIABLES[i].name} {n}"
        if 2 * n <= observed
        else f"{VARIABLES[i].name} {n} of {observed} {_expected(VARIABLES[i])}"
        for i in np.flatnonzero(counts.out_of_range).tolist()
        for n, observed in [(counts.out_of_range[i], counts.observed[i])]
    ]
    if dropped:
        yield Notice("values_out_of_range", f"Implausible values were dropped: {', '.join(dropped)}.")
    if counts.rescaled:
        yield Notice("fio2_rescaled", f"FiO2 was percent in {counts.rescaled} rows and was divided by 100.")
    ever = (counts.observed > counts.out_of_range).tolist()
    yield from _measurement_notices(rows, ever)
    yield from _demographic_notices(rows, ever)


def _measurement_notices(rows: Float32s, ever: list[bool]) -> Iterator[Notice]:
    if not any(ever[:N_TIME_VARYING]):
        yield Notice("nothing_measured", "No vital sign and no lab was ever measured.")
        return
    never = [VARIABLES[i].name for i in range(N_VITALS) if not ever[i] and i != RARELY_MEASURED]
    if never:
        yield Notice("vitals_never_measured", f"Never measured: {', '.join(never)}.")
    if not any(ever[N_VITALS:N_TIME_VARYING]):
        yield Notice("labs_never_measured", "No lab was ever measured.")
    if len(rows) <= LONG_FILL_HOURS:
        return
    hour = np.arange(len(rows))[:, np.newaxis]
    last = np.maximum.accumulate(np.where(np.isnan(rows[:, :N_VITALS]), -1, hour), axis=0)
    longest = np.where(last >= 0, hour - last, 0).max(axis=0)
    stale = [
        f"{vital.name} {hours} h"
        for vital, hours in zip(VARIABLES[:N_VITALS], longest.tolist(), strict=True)
        if hours > LONG_FILL_HOURS
    ]
    if stale:
        yield Notice("long_forward_fill", f"Old values were carried forward, at most: {', '.join(stale)}.")


def _demographic_notices(rows: Float32s, ever: list[bool]) -> Iterator[Notice]:
    missing = [f"{name} ({stand_in})" for name, stand_in in DEMOGRAPHICS.items() if not ever[INDEX[name]]]
    if missing:
        yield Notice("demographics_missing", f"Not given: {', '.join(missing)}.")
    ages = rows[:, INDEX["Age"]]
    if (ages < ADULT).any():
        youngest = np.nanmin(ages)
        yield Notice("not_adult", f"{youngest:g} years old: the models were trained on adults only.")
    if ((rows[:, INDEX["Unit1"]] == 1) & (rows[:, INDEX["Unit2"]] == 1)).any():
        yield Notice("unit_contradiction", "Unit1 and Unit2 are both 1: the unit counts as unknown.")
