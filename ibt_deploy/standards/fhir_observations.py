"""FHIR R4: Observations with Patient, Encounter and Location, as Bundles or NDJSON.

An Encounter at a Location that is an intensive care unit is a stay, and the Encounter that it is part of
is the hospital stay. A patient without such an Encounter has one stay, which begins with the first
measurement and says so. Times become UTC; a date without a time of day cannot be used.

:func:`load` reads whole exports, whose stays DuckDB computes by the rules of
:mod:`ibt_deploy.standards.events`. :func:`patient_stay` builds the latest stay of one patient in memory by
the same rules, and refuses what the report of an export would mention.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, InputError, MalformedFile, TooLong
from ibt_deploy.files import File
from ibt_deploy.readers.stays import FEWEST_MEASURED_COLUMNS, hourly, inserted_note, numbered
from ibt_deploy.records import Stay
from ibt_deploy.standards.events import (
    AGE_OF_OLDEST,
    ASSUMED_NOTE,
    EVENTS,
    FEWEST_FOR_MIDNIGHT,
    LOINC,
    MOST_AT_MIDNIGHT,
    OLDEST,
    STAYS,
    Meaning,
    Source,
    codes,
    meaning,
    unit_flags,
)
from ibt_deploy.standards.exports import GZIP_MAGIC
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_TIME_VARYING, N_VARIABLES, NAMES

FORMAT = "FHIR R4"
LOINC_SYSTEM = "http://loinc.org"
UCUM_SYSTEM = "http://unitsofmeasure.org"
NOT_VALID = frozenset({"entered-in-error", "cancelled", "unknown"})
ICU_CODES = frozenset({"ICU", "309904001"})
"""Codes in Location.type: HL7 v3 RoleCode, and SNOMED CT (intensive care unit)."""

ICU_NAME = re.compile(r"\bICU\b|intensive care|[A-Z]ICU\b")
SATURATION, PULSE_OXIMETRY = "2708-6", "59408-5"
OTHER = "|"
ROWS_AT_ONCE = 100_000
MAX_DEPTH = 3
HOUR = timedelta(hours=1)


@dataclass
class _Visit:
    patient: str
    starts: datetime | None
    ends: datetime | None
    part_of: str | None
    places: list[tuple[str, datetime | None, datetime | None]]


@dataclass
class Found:
    """Contents of the resources.

    Attributes
    ----------
    events
        Patient, time in UTC, code, unit and value of each measurement.
    patients
        Gender and date of birth, by id.
    visits, places
        Encounters, and the names of Locations that are intensive care units; all by id.
    without_patient
        Number of Observations that name no patient.
    """

    events: list[tuple[str, datetime | None, str, str | None, float | None]] = field(default_factory=list)
    patients: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    visits: dict[str, _Visit] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    without_patient: int = 0


def load(connection: Any, files: Sequence[File]) -> Source:
    """Fill ``events`` and ``stays`` from Bundles and NDJSON.

    Raises
    ------
    MalformedFile
        No file can be read; carries the first reason.
    """
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {EVENTS}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {STAYS}")
    found = Found()
    unread: list[tuple[str, str]] = []
    first: InputError | None = None
    failed = 0
    for file in files:
        connection.execute("BEGIN")
        try:
            of_file = Found()
            for resource in _resources(file):
                take(resource, of_file)
                if len(of_file.events) >= ROWS_AT_ONCE:
                    _flush(connection, of_file)
            _flush(connection, of_file)
        except InputError as error:
            connection.execute("ROLLBACK")
            first, failed = first or error.at(str(file)), failed + 1
            unread.append((str(file), error.message))
            continue
        connection.execute("COMMIT")
        for name in ("patients", "visits", "places"):
            getattr(found, name).update(getattr(of_file, name))
        if of_file.without_patient:
            reason = f"{of_file.without_patient} Observations name no patient"
            unread.append((str(file), reason))
    if first is not None and failed == len(files):
        raise first
    _write_stays(connection, found)
    notes: tuple[str, ...] = ()
    if failed:
        files_word = "file" if failed == 1 else "files"
        notes = (
            f"{failed} {files_word} of the export could not be read; they may have held values of this stay.",
        )
    return Source(FORMAT, meaning_of, notes, tuple(unread))


def meaning_of(code: str, unit: str | None) -> Meaning | str:
    """Meaning of the values of a code noted by :func:`take`, or the reason why they are not used."""
    return "unknown_code" if OTHER in code else meaning(LOINC, code, unit)


def _resources(file: File) -> Iterator[dict[str, Any]]:
    """Every resource of a file; those in a Bundle one by one."""
    with file.open("rb") as raw:
        magic = raw.read(2)
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if magic == GZIP_MAGIC else raw
        try:
            first = stream.readline().removeprefix(b"\xef\xbb\xbf")
            try:
                whole = json.loads(first)
            except ValueError:
                yield from resources_in([json.loads(first + stream.read())])
                return
            yield from resources_in([whole])
            for number, line in enumerate(stream, start=2):
                if line.strip():
                    try:
                        yield from resources_in([json.loads(line)])
                    except ValueError as error:
                        raise MalformedFile(f"line {number} is not JSON: {error}", code="not_json") from error
        except (ValueError, EOFError, RecursionError) as error:
            raise MalformedFile(f"is not JSON: {error}", code="not_json") from error
        except gzip.BadGzipFile as error:
            raise MalformedFile(f"is damaged: {error}") from error


def resources_in(found: Iterable[Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """The resources, with Bundles expanded into their contents; raises MalformedFile for anything else."""
    for resource in found:
        if not isinstance(resource, dict):
            raise MalformedFile("holds something other than FHIR resources", code="not_fhir")
        if resource.get("resourceType") == "Bundle" and depth < MAX_DEPTH:
            yield from resources_in(map(_entry, _dicts(resource.get("entry"))), depth + 1)
        else:
            yield resource


def _entry(entry: dict[str, Any]) -> Any:
    """The resource of an entry, with the id by which the Bundle refers to it."""
    resource = entry.get("resource")
    name = _id(entry.get("fullUrl"))
    return {"id": name, **resource} if isinstance(resource, dict) and name is not None else resource or {}


def take(resource: dict[str, Any], found: Found) -> None:
    """Record the content of a resource; other types are ignored."""
    kind = resource.get("resourceType")
    if kind == "Observation":
        _take_observation(resource, found)
    elif kind == "Patient":
        found.patients[str(resource.get("id"))] = (resource.get("gender"), resource.get("birthDate"))
    elif kind == "Location":
        found.places[str(resource.get("id"))] = _unit_name(resource)
    elif kind == "Encounter":
        contained = {str(item.get("id")): _unit_name(item) for item in _dicts(resource.get("contained"))}
        places = []
        for stop in _dicts(resource.get("location")):
            place = _dict(stop.get("location"))
            name = _id(place.get("reference"))
            display = str(place.get("display") or "")
            text = contained.get(name or "", display if ICU_NAME.search(display) else "")
            places.append((text or f"ref:{name}", *_period(stop.get("period"))))
        patient = _id(_dict(resource.get("subject")).get("reference"))
        if patient is not None:
            part_of = _id(_dict(resource.get("partOf")).get("reference"))
            found.visits[str(resource.get("id"))] = _Visit(
                patient, *_period(resource.get("period")), part_of, places
            )


def _unit_name(location: dict[str, Any]) -> str:
    """The name of a Location that is an intensive care unit; empty for any other."""
    name = str(location.get("name") or location.get("description") or "")
    kinds = {
        str(coding.get("code"))
        for kind in _dicts(location.get("type"))
        for coding in _dicts(kind.get("coding"))
    }
    if kinds & ICU_CODES:
        return name or "ICU"
    return name if ICU_NAME.search(name) else ""


def _take_observation(resource: dict[str, Any], found: Found) -> None:
    if str(resource.get("status")) in NOT_VALID:
        return
    patient = _id(_dict(resource.get("subject")).get("reference"))
    if patient is None:
        found.without_patient += 1
        return
    stated = resource.get("effectiveDateTime") or resource.get("effectiveInstant")
    time = _time(stated) or _period(resource.get("effectivePeriod"))[0]
    is_vital = any(
        coding.get("code") == "vital-signs"
        for category in _dicts(resource.get("category"))
        for coding in _dicts(category.get("coding"))
    )
    for part in (resource, *_dicts(resource.get("component"))):
        quantity = part.get("valueQuantity")
        if isinstance(quantity, dict):
            found.events.append((patient, time, _code(part.get("code"), is_vital), *_number(quantity)))
        elif any(name.startswith("value") for name in part):
            found.events.append((patient, time, _code(part.get("code"), is_vital), None, None))


def _code(concept: Any, is_vital: bool) -> str:
    """The LOINC code in the table, else the first code with its system.

    The vital signs profile requires 2708-6 (arterial saturation) for what pulse oximetry measures.
    """
    codings = _dicts(_dict(concept).get("coding"))
    loinc = [str(c.get("code")) for c in codings if c.get("system") == LOINC_SYSTEM and c.get("code")]
    if PULSE_OXIMETRY in loinc or (is_vital and SATURATION in loinc):
        return PULSE_OXIMETRY
    known = [code for code in loinc if (LOINC, code) in codes()]
    if known or loinc:
        return (known or loinc)[0]
    if codings:
        return f"{codings[0].get('system') or ''}{OTHER}{codings[0].get('code') or ''}"
    return f"{OTHER}{_dict(concept).get('text') or ''}"


def _number(quantity: dict[str, Any]) -> tuple[str | None, float | None]:
    """Unit and value of a Quantity; no value if it is only a bound."""
    value = quantity.get("value")
    unit = quantity.get("code") if quantity.get("system") == UCUM_SYSTEM else None
    unit = unit or quantity.get("unit") or quantity.get("code")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or quantity.get("comparator"):
        return _text(unit), None
    return _text(unit), float(value)  # type: ignore[arg-type]


def _flush(connection: Any, found: Found) -> None:
    if not found.events:
        return
    import pyarrow as pa

    names = ("patient", "time", "code", "unit", "value")
    types = (pa.string(), pa.timestamp("us"), pa.string(), pa.string(), pa.float64())
    table = pa.table(
        [
            pa.array(values, type=kind)
            for values, kind in zip(zip(*found.events, strict=True), types, strict=True)
        ],
        names=names,
    )
    connection.register("arriving", table)
    connection.execute("INSERT INTO events SELECT * FROM arriving")
    connection.unregister("arriving")
    found.events.clear()


def _write_stays(connection: Any, found: Found) -> None:
    firsts = connection.execute(
        "SELECT patient, min(time) FILTER (value IS NOT NULL) FROM events GROUP BY patient ORDER BY patient"
    ).fetchall()
    rows = stays_of(found, dict(firsts))
    if rows:
        connection.executemany("INSERT INTO stays VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def stays_of(found: Found, firsts: Mapping[str, datetime | None]) -> list[tuple[Any, ...]]:
    """Rows of the table of stays (:data:`~ibt_deploy.standards.events.STAYS`).

    Parameters
    ----------
    found
        Contents of the resources.
    firsts
        Time of the first value of each patient with an event; a patient without an Encounter in
        intensive care gets a row that states no times.
    """
    rows: list[tuple[Any, ...]] = []
    for name, visit in sorted(found.visits.items()):
        for text, starts, ends in visit.places:
            unit = found.places.get(text.removeprefix("ref:"), "") if text.startswith("ref:") else text
            begin = starts or visit.starts
            if not unit or begin is None:
                continue
            outer = found.visits.get(visit.part_of or "")
            entered = outer.starts if outer is not None else visit.starts if starts is not None else None
            rows.append(
                (
                    f"{visit.patient}-{name}", visit.patient, begin, ends or visit.ends, entered,
                    *_person(found, visit.patient, begin), *unit_flags(unit),
                )
            )  # fmt: skip
    rows = _apart(rows)
    known = {row[1] for row in rows}
    for patient, first in firsts.items():
        if patient not in known:
            rows.append((patient, patient, None, None, None, *_person(found, patient, first), None, None))
    return rows


def _apart(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows with distinct names: several units of one Encounter get numbers."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[0]] = counts.get(row[0], 0) + 1
    seen: dict[str, int] = {}
    apart = []
    for row in sorted(rows, key=lambda row: (row[0], row[2])):
        seen[row[0]] = seen.get(row[0], 0) + 1
        name = f"{row[0]}-{seen[row[0]]}" if counts[row[0]] > 1 else row[0]
        apart.append((name, *row[1:]))
    return apart


def _person(found: Found, patient: str, admission: datetime | None) -> tuple[float | None, float | None]:
    """Age in years at admission and Gender of the model; None if the Patient does not say."""
    gender, birth = found.patients.get(patient, (None, None))
    sex = {"male": 1.0, "female": 0.0}.get(str(gender))
    if admission is None or not isinstance(birth, str):
        return None, sex
    try:
        if len(birth) == len("1950-01-31"):
            born = datetime.strptime(birth, "%Y-%m-%d").date()
            return round((admission.date() - born).days / 365.25, 2), sex
        return float(admission.year - int(birth[:4])), sex
    except ValueError:
        return None, sex


def _period(period: Any) -> tuple[datetime | None, datetime | None]:
    found = _dict(period)
    return _time(found.get("start")), _time(found.get("end"))


def _time(text: Any) -> datetime | None:
    """A dateTime with a time of day, in UTC and without its zone; None for any other."""
    if not isinstance(text, str) or "T" not in text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _id(reference: Any) -> str | None:
    """The id in ``Patient/123``, ``#contained`` or ``urn:uuid:...``."""
    if not isinstance(reference, str) or not reference:
        return None
    return reference.split("/_history/")[0].rsplit("/", 1)[-1].removeprefix("#").removeprefix("urn:uuid:")


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _dicts(found: Any) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


@dataclass(frozen=True, eq=False)
class PatientStay:
    """A stay and its times.

    Attributes
    ----------
    stay
        Its hourly rows.
    starts, last, ends
        Start of its first hour, time of its last value, and its end if that is stated; in UTC and
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
    """Build the patient's latest stay in intensive care.

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
        the 40 variables lies within the stay; ``missing_columns``: too few of them are present; ``not_fhir``.
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
    stay = Stay(
        whole, row[0], source=patient, format=FORMAT, inserted=inserted, notes=notes, units_stated=True
    )
    return PatientStay(stay, starts, max(value.time for value in inside), row[3], in_icu)


def _values(found: Found) -> list[_Value]:
    """Usable values; a duplicate event counts once."""
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
            f"has values in hour {last}, the model supports at most hour {MAX_HOURS} (two weeks)",
            where=patient,
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
    return rows, None, numbered(np.arange(len(hours)))


def _hour(time: datetime, starts: datetime) -> int:
    return (time - starts) // HOUR + 1
