"""FHIR R4 resources of one patient as one stay, in memory.

The rules are those of :mod:`ibt_deploy.standards.events`, which computes the stays of whole exports with
DuckDB and on disk. Here the patient's latest stay in intensive care counts, and what an export's report would
mention is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, MalformedFile, TooLong
from ibt_deploy.readers.stays import FEWEST_MEASURED_COLUMNS, hourly, inserted_note
from ibt_deploy.records import Stay
from ibt_deploy.standards.events import AGE_OF_OLDEST, FEWEST_FOR_MIDNIGHT, MOST_AT_MIDNIGHT, OLDEST, Meaning
from ibt_deploy.standards.exports import ASSUMED_NOTE
from ibt_deploy.standards.fhir_observations import FORMAT, Found, meaning_of, resources_in, stays_of, take
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_TIME_VARYING, N_VARIABLES, NAMES

HOUR = timedelta(hours=1)


@dataclass(frozen=True, eq=False)
class PatientStay:
    """A stay, and when it was.

    Attributes
    ----------
    stay
        Its hourly rows.
    starts, last, ends
        Beginning of its first hour, time of its last value, and its end if that is stated; in UTC and
        without a zone.
    in_icu
        Whether an Encounter says that the stay is in intensive care; else it begins with the first value.
    """

    stay: Stay
    starts: datetime
    last: datetime
    ends: datetime | None
    in_icu: bool


@dataclass(frozen=True)
class _Value:
    time: datetime
    variable: int
    priority: int
    number: float


def patient_stay(resources: Iterable[Any], patient: str) -> PatientStay:
    """The patient's latest stay in intensive care.

    Parameters
    ----------
    resources
        Patient, Encounters, Locations and Observations, or Bundles of them.
    patient
        Id of the patient to whom all of them must belong.

    Raises
    ------
    MalformedFile
        ``wrong_patient``: a resource belongs to nobody or to somebody else; ``nothing_mapped``: no value of
        the 40 variables lies within the stay; ``missing_columns``: too few of them are there; ``not_fhir``.
    BadRows
        ``no_time_of_day``: the times are dates.
    TooLong
        The stay has values after hour 336.
    MissingExtra
        A unit has to be converted, and pint is not installed.
    """
    found = Found()
    for resource in resources_in(resources):
        take(resource, found)
    others = {*found.patients, *(event[0] for event in found.events)} - {patient}
    if found.without_patient or others or any(v.patient != patient for v in found.visits.values()):
        raise MalformedFile(
            "a resource belongs to another patient, or names none", where=patient, code="wrong_patient"
        )
    firsts = [time for _, time, _, _, value in found.events if time is not None and value is not None]
    rows = stays_of(found, {patient: min(firsts, default=None)})
    row = max(rows, key=lambda row: row[2] or datetime.min)
    values = _values(found)
    measured = [value.time for value in values if value.variable < N_TIME_VARYING]
    starts, in_icu = row[2] or min(measured, default=None), row[2] is not None
    inside = [
        value
        for value in values
        if starts is not None and starts <= value.time and (row[3] is None or value.time <= row[3])
    ]
    if starts is None or not any(value.variable < N_TIME_VARYING for value in inside):
        raise MalformedFile(
            "no value of the 40 variables lies within the stay", where=patient, code="nothing_mapped"
        )
    _check(inside, starts, patient)
    whole, inserted, _ = hourly(*_hourly_rows(inside, starts, row))
    notes = (*inserted_note(int(np.count_nonzero(inserted))), *(() if in_icu else (ASSUMED_NOTE,)))
    stay = Stay(whole, row[0], source=patient, format=FORMAT, inserted=inserted, notes=notes)
    return PatientStay(stay, starts, max(value.time for value in inside), row[3], in_icu)


def _values(found: Found) -> list[_Value]:
    """What can be used; an event that is there twice counts once."""
    values: dict[tuple[Any, ...], _Value] = {}
    for event in found.events:
        _, time, code, unit, number = event
        meaning = meaning_of(code, unit) if time is not None else ""
        if time is None or number is None or not math.isfinite(number) or not isinstance(meaning, Meaning):
            continue
        converted = number * meaning.factor + meaning.offset
        values[event] = _Value(time, INDEX[meaning.variable], meaning.priority, converted)
    return list(values.values())


def _check(values: list[_Value], starts: datetime, patient: str) -> None:
    midnights = sum(value.time.time() == datetime.min.time() for value in values)
    if len(values) > FEWEST_FOR_MIDNIGHT and midnights > MOST_AT_MIDNIGHT * len(values):
        raise BadRows(
            f"{midnights} of {len(values)} values were measured at midnight: the times seem to be dates",
            where=patient,
            code="no_time_of_day",
        )
    variables = {value.variable for value in values if value.variable < N_TIME_VARYING}
    if len(variables) < FEWEST_MEASURED_COLUMNS:
        names = ", ".join(NAMES[variable] for variable in sorted(variables))
        raise MalformedFile(
            f"has {len(variables)} of the {N_TIME_VARYING} vital signs and labs ({names}), "
            f"at least {FEWEST_MEASURED_COLUMNS} are needed",
            where=patient,
            code="missing_columns",
        )
    last = max(_hour(value.time, starts) for value in values)
    if last > MAX_HOURS:
        raise TooLong(
            f"has values in hour {last}, the model knows at most hour {MAX_HOURS} (two weeks)", where=patient
        )


def _hourly_rows(values: list[_Value], starts: datetime, stay: tuple[Any, ...]) -> tuple[Any, None, Any]:
    """Rows of the hours with values, no labels, and the numbers of the rows."""
    cells: dict[tuple[int, int], dict[int, list[float]]] = {}
    for value in values:
        place = (_hour(value.time, starts), value.variable)
        cells.setdefault(place, {}).setdefault(value.priority, []).append(value.number)
    hours = sorted({hour for hour, variable in cells if variable < N_TIME_VARYING})
    rows = np.full((len(hours), N_VARIABLES), np.nan)
    for (hour, variable), by_priority in cells.items():
        if variable < N_TIME_VARYING:
            rows[hours.index(hour), variable] = median(by_priority[min(by_priority)])
    _, _, _, _, admission, age, gender, unit1, unit2 = stay
    stated = [value.number for value in values if value.variable == INDEX["Age"]]
    if stated:
        age = median(stated)
    elif age is not None and age >= OLDEST:
        age = AGE_OF_OLDEST
    before = None if admission is None else (admission - starts).total_seconds() / HOUR.total_seconds()
    for name, constant in {
        "Age": age, "Gender": gender, "Unit1": unit1, "Unit2": unit2, "HospAdmTime": before,
    }.items():  # fmt: skip
        rows[:, INDEX[name]] = np.nan if constant is None else constant
    rows[:, INDEX["ICULOS"]] = hours
    return rows, None, np.arange(1, len(hours) + 1)


def _hour(time: datetime, starts: datetime) -> int:
    return (time - starts) // HOUR + 1
