"""What a reader of a stay's risk must know about its rows, and when there should be no risk at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ibt_deploy.errors import BadRows, InputError, TooLong, TooShort
from ibt_deploy.preprocess.plausibility import ADULT
from ibt_deploy.preprocess.stay_plausibility import require_one_patient, unit_notices
from ibt_deploy.preprocess.stay_rows import HOUR, CleanCounts, clean
from ibt_deploy.records import Notice, Stay, are_consecutive
from ibt_deploy.types import Float32s, Floats
from ibt_deploy.variables import INDEX, MAX_HOURS, N_TIME_VARYING, N_VITALS, VARIABLES, Variable

MOST_OUT_OF_RANGE = 0.20
LONG_FILL_HOURS = 24
# Whole hospitals never measure it, so that its absence says nothing about a stay.
RARELY_MEASURED = INDEX["EtCO2"]
DEMOGRAPHICS = {
    "Age": "the training median stands for it",
    "Gender": "halfway between 0 and 1 stands for it",
    "HospAdmTime": "the training median stands for it",
}


def checked_stay(stay: Stay) -> tuple[Float32s, tuple[Notice, ...]]:
    """The cleaned rows of a stay, and what has to travel with its risk.

    Notices are those of the reader, and have the codes ``single_row``, ``hours_inserted``,
    ``values_out_of_range``, ``fio2_rescaled``, ``nothing_measured``, ``vitals_never_measured``,
    ``labs_never_measured`` (not one of the 26), ``long_forward_fill`` (a vital sign whose last value is more
    than 24 hours old at some row), ``demographics_missing``, ``not_adult``, ``unit_contradiction``, and
    those of :func:`ibt_deploy.preprocess.stay_plausibility.unit_notices`:
    ``doubtful_unit``, ``columns_swapped`` and ``pressures_contradict``.

    Returns
    -------
    tuple
        Rows of shape ``(hours, 40)``, float32, as :func:`ibt_deploy.preprocess.stay_rows.clean` gives them,
        and the notices.

    Raises
    ------
    TooShort
        No row.
    TooLong
        More than 336 rows.
    BadRows
        Hours that are not whole, not within 1 to 336 or not consecutive (a reader inserts missing ones),
        more than 20 % of the vital signs and labs outside their plausible range (``out_of_range``), or rows
        that cannot be one patient's (``age_changes``, ``gender_changes``, ``columns_swapped``).
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
        yield Notice("single_row", "Only one hour: the risk knows no course.")
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
        yield Notice("not_adult", f"{youngest:g} years old: the models learnt from adults alone.")
    if ((rows[:, INDEX["Unit1"]] == 1) & (rows[:, INDEX["Unit2"]] == 1)).any():
        yield Notice("unit_contradiction", "Unit1 and Unit2 are both 1: the unit counts as unknown.")
