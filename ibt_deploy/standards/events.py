"""Turn events in long form into hourly rows of the 40 variables.

A standard's module fills two tables of a DuckDB connection, ``events`` and ``stays`` (:data:`EVENTS`,
:data:`STAYS`), and states what its codes mean. The rest is done here, identically for all: values are
converted, events are assigned to the stay during which they occur, the hour of an event is ``floor(hours
since ICU admission) + 1``, and each hour takes the median. A duplicate event counts once.

``data/ehr_codes.csv`` maps codes to the 40 variables and their units, each row with its source.
Units of events are UCUM, or the spellings that :mod:`ibt_deploy.mapping.units` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ibt_deploy.errors import BadRows, BadUnits, MalformedFile
from ibt_deploy.files import read_table
from ibt_deploy.mapping.units import conversion
from ibt_deploy.readers.stays import FEWEST_MEASURED_COLUMNS
from ibt_deploy.vocabulary import MAX_HOURS, N_TIME_VARYING, NAMES

LOINC, OMOP, MIMIC = "LOINC", "OMOP", "MIMIC-IV"

NO_UNIT = frozenset({"", "unk", "none", "null", "n/a", "no matching concept"})


@dataclass(frozen=True)
class Code:
    """A row of the table of codes.

    Attributes
    ----------
    variable
        One of the 40.
    system, code
        ``LOINC``, ``OMOP`` (standard concept) or ``MIMIC-IV`` (item), and the code in it.
    ucum
        Usual unit of the code's values.
    factor, offset
        ``value * factor + offset`` turns ``ucum`` into the variable's unit.
    priority
        If several codes of a variable have values in one hour, those with the lowest number count: an
        arterial line takes precedence over a cuff.
    unit_implied
        Whether a value without a unit is in ``ucum``: by definition of the item, or for lack of another unit.
    substance
        ``urea`` if the mass is that of whole urea.
    name, source
        Meaning of the code, and the source of that.
    """

    variable: str
    system: str
    code: str
    ucum: str
    factor: float
    offset: float
    priority: int
    unit_implied: bool
    substance: str
    name: str
    source: str


@dataclass(frozen=True)
class Meaning:
    """Meaning of the values of a code in a unit: ``value * factor + offset`` of ``variable``."""

    variable: str
    factor: float
    offset: float
    priority: int


@lru_cache(maxsize=1)
def codes() -> dict[tuple[str, str], Code]:
    """The table of codes, by system and code."""
    return {
        (row["system"], row["code"]): Code(
            row["variable"],
            row["system"],
            row["code"],
            row["ucum"],
            float(row["factor"]),
            float(row["offset"]),
            int(row["priority"]),
            row["unit_implied"] == "yes",
            row["substance"],
            row["name"],
            row["source"],
        )
        for row in read_table("ehr_codes.csv")
    }


@lru_cache(maxsize=4096)
def meaning(system: str, code: str, unit: str | None) -> Meaning | str:
    """Meaning of the values of a code, or the reason why they are not used.

    Parameters
    ----------
    system, code
        As in the table.
    unit
        As stated by the event; None or a word for nothing if it states none.

    Returns
    -------
    Meaning, or ``unknown_code``, ``no_unit`` or ``unknown_unit``.

    Raises
    ------
    MissingExtra
        The unit differs from the table's own, and pint is not installed.
    """
    row = codes().get((system, code))
    if row is None:
        return "unknown_code"
    text = (unit or "").strip()
    if text.casefold() in NO_UNIT:
        if not row.unit_implied:
            return "no_unit"
        text = row.ucum
    if text == row.ucum:
        return Meaning(row.variable, row.factor, row.offset, row.priority)
    try:
        found = conversion(row.variable, text, row.substance or None)
    except BadUnits:
        return "unknown_unit"
    return Meaning(row.variable, found.factor, found.offset, row.priority)


EVENTS = "events(patient VARCHAR, time TIMESTAMP, code VARCHAR, unit VARCHAR, value DOUBLE)"
STAYS = (
    "stays(stay VARCHAR, patient VARCHAR, starts TIMESTAMP, ends TIMESTAMP, hospital_admission TIMESTAMP,"
    " age DOUBLE, gender DOUBLE, unit1 DOUBLE, unit2 DOUBLE)"
)
MEASURED = NAMES[:N_TIME_VARYING]
GIVEN = {
    "Age": "age",
    "Gender": "gender",
    "Unit1": "unit1",
    "Unit2": "unit2",
    "HospAdmTime": "date_diff('second', starts, hospital_admission) / 3600.0",
}
"""Variables of the whole stay, as expressions over ``stays``."""

MEDICAL, SURGICAL = ("medical", "micu"), ("surgical", "sicu")
NEITHER = ("trauma", "neuro", "cardi", "coronary", "vascular", "thoracic", "transplant")
"""Words in the names of wards. Unit1 and Unit2 are the medical and the surgical ICU; specialised ones are
neither."""

MOST_AT_MIDNIGHT = 0.5
FEWEST_FOR_MIDNIGHT = 20
"""From this many values on, more than this share at midnight means that the export has dates only."""

NO_VALUE = "no value of the 40 variables lies within the stay"

VALUES_AT_ONCE = 20_000_000
"""Number of values whose medians are taken in one query, for bounded memory."""

ROWS_IN_GROUP = 16_384
OLDEST = 90.0
AGE_OF_OLDEST = 100.0
"""The Challenge writes 100 for an age of 90 or above."""
ASSUMED_NOTE = "No ICU admission is stated: hour 1 begins with the first measurement."

Meanings = Callable[[str, str | None], "Meaning | str"]
"""Returns the meaning of a code with a unit, or the reason why its values are not used."""


@dataclass(frozen=True)
class RefusedStay:
    """A stay that cannot be scored, and the reason."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Source:
    """An export converted to the form of this module.

    Attributes
    ----------
    format
        As a Stay names it.
    meanings
        Meanings of codes and units.
    notes
        Notes for every stay.
    unread
        Files of the export that hold nothing usable, and why.
    refused
        Stays that are refused as a whole, and are not in the table of stays.
    zone
        IANA name of the zone whose local times became UTC; None if times are kept as stated.
    """

    format: str
    meanings: Meanings
    notes: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    refused: tuple[RefusedStay, ...] = ()
    zone: str | None = None


@dataclass(frozen=True)
class Unmapped:
    """Numeric events that were not used because of their code or unit."""

    code: str
    unit: str
    events: int
    reason: str


@dataclass(frozen=True)
class EventReport:
    """Counts of what became of the events.

    Attributes
    ----------
    format
        The standard.
    events
        Number of all events.
    used
        Number of values that lie in an hour of a stay.
    without_number, without_time, repeated, outside
        Events that were left out: without a number, without a time of day, repeated exactly, or mapped and
        outside every stay or after its 336th hour.
    not_mapped
        Number of values whose code or unit is unknown.
    unmapped
        The same by code and unit, the most frequent first.
    stays
        Number of all stays.
    refused
        Stays that are not scored: without any value, or refused by the loader.
    found
        For each variable that was found, the number of stays that have it.
    """

    format: str
    events: int
    used: int
    without_number: int
    without_time: int
    repeated: int
    outside: int
    not_mapped: int
    unmapped: tuple[Unmapped, ...]
    stays: int
    refused: tuple[RefusedStay, ...]
    found: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        yield (
            f"{self.format}: {self.events:,} events, {self.stays:,} stays, {len(self.found)} of {len(NAMES)} "
            "variables found"
        )
        yield f"events used: {self.used:,}"
        for count, what in (
            (self.without_number, "without a number"),
            (self.without_time, "without a time of day"),
            (self.repeated, "repeated"),
            (self.outside, "outside the hours of a stay"),
            (self.not_mapped, "of an unknown code or unit"),
        ):
            if count:
                yield f"events {what}: {count:,}"
        missing = [name for name in NAMES if name not in self.found]
        if missing:
            yield f"not found: {', '.join(missing)}"
        for entry in self.unmapped[:10]:
            unit = entry.unit or "no unit"
            yield f"not mapped: {entry.code} [{unit}], events: {entry.events:,} ({entry.reason})"
        if len(self.unmapped) > 10:
            yield f"not mapped: {len(self.unmapped) - 10:,} further codes"
        yield from self.notes


def unit_flags(name: str) -> tuple[float | None, float | None]:
    """Unit1 and Unit2 of a ward: medical or surgical ICU; (None, None) for any other or a mixed one."""
    text = name.casefold()
    if any(word in text for word in NEITHER):
        return None, None
    medical, surgical = (any(word in text for word in words) for words in (MEDICAL, SURGICAL))
    return (float(medical), float(surgical)) if medical != surgical else (None, None)


def hourly_table(connection: Any, source: Source, out: Path) -> EventReport:
    """Write the hourly rows of all stays to a Parquet file, sorted by stay and hour.

    Its columns are ``stay``, the 40 variables, ``cut`` (whether hours after 336 were left out) and
    ``assumed`` (whether the first measurement substitutes for an unstated admission). A stay without
    any value has no row.

    Parameters
    ----------
    connection
        Connection with the tables :data:`EVENTS` and :data:`STAYS`.
    source
        The export.
    out
        The file to write.

    Raises
    ------
    MalformedFile
        There is no stay, or no usable event.
    BadRows
        The times are dates.
    """
    unmapped, not_mapped = _write_meanings(connection, source)
    _ordered_stays(connection)
    counts: dict[str, Any] = _write_values(connection)
    if not counts["stays"]:
        if source.refused:
            first = source.refused[0]
            raise BadRows(
                f"every stay is refused; the first is {first.name}: it {first.message}", code=first.code
            )
        raise MalformedFile("holds no stay in an intensive care unit", code="no_icu_stay")
    if not counts["used"]:
        raise MalformedFile(
            "holds no value of the 40 variables within the hours of a stay; the report says which codes are "
            f"unknown: {', '.join(entry.code for entry in unmapped[:5]) or 'none'}",
            code="nothing_mapped",
        )
    _require_times_of_day(connection, source.zone)
    found = _found(connection)
    measured = [name for name in found if name in MEASURED]
    if len(measured) < FEWEST_MEASURED_COLUMNS:
        raise MalformedFile(
            f"has {len(measured)} of the {N_TIME_VARYING} vital signs and labs ({', '.join(measured)}), "
            f"at least {FEWEST_MEASURED_COLUMNS} are needed",
            code="missing_columns",
        )
    _write_hours(connection, out, counts["used"], counts["stays"])
    empty = connection.execute("SELECT stay FROM ordered ANTI JOIN measured USING (n) ORDER BY n").fetchall()
    counts["stays"] += len(source.refused)
    return EventReport(
        format=source.format,
        not_mapped=not_mapped,
        unmapped=tuple(unmapped),
        found=found,
        refused=(*source.refused, *(RefusedStay(name, "nothing_mapped", NO_VALUE) for (name,) in empty)),
        notes=source.notes,
        unread=source.unread,
        **counts,
    )


def _write_meanings(connection: Any, source: Source) -> tuple[list[Unmapped], int]:
    """Write the table ``meanings``, and return the numbers that have none."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE kinds AS SELECT code, unit, count(*) AS n, count(value) AS numbers "
        "FROM events GROUP BY ALL"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE meanings(code VARCHAR, unit VARCHAR, variable UTINYINT, factor DOUBLE,"
        " shift DOUBLE, priority UTINYINT)"
    )
    rows, unmapped = [], []
    for code, unit, numbers in connection.execute("SELECT code, unit, numbers FROM kinds").fetchall():
        found = source.meanings(code or "", unit)
        if isinstance(found, Meaning):
            place = NAMES.index(found.variable)
            rows.append((code, unit, place, found.factor, found.offset, found.priority))
        elif numbers:
            unmapped.append(Unmapped(code or "", unit or "", numbers, found))
    if rows:
        connection.executemany("INSERT INTO meanings VALUES (?, ?, ?, ?, ?, ?)", rows)
    unmapped.sort(key=lambda entry: (-entry.events, entry.code, entry.unit))
    return unmapped, sum(entry.events for entry in unmapped)


def _ordered_stays(connection: Any) -> None:
    """Number the rows of ``stays`` in order of name; an unstated start becomes the first value."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE firsts AS SELECT patient, min(time) AS first FROM events "
        "JOIN meanings ON events.code = meanings.code AND events.unit IS NOT DISTINCT FROM meanings.unit "
        f"WHERE value IS NOT NULL AND time IS NOT NULL AND variable < {N_TIME_VARYING} GROUP BY patient"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE ordered AS SELECT row_number() OVER (ORDER BY stay) - 1 AS n,"
        " * EXCLUDE (starts, first), coalesce(starts, first) AS starts, starts IS NULL AS assumed "
        "FROM stays LEFT JOIN firsts USING (patient)"
    )


def _write_values(connection: Any) -> dict[str, int]:
    """Write the table ``measured``: stay, hour, variable, priority and value; return report counts."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE usable AS SELECT DISTINCT patient, time, events.code, events.unit,"
        " value, variable, priority, value * factor + shift AS converted FROM events "
        "JOIN meanings ON events.code = meanings.code AND events.unit IS NOT DISTINCT FROM meanings.unit "
        "WHERE isfinite(value) AND time IS NOT NULL"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE placed AS SELECT n, variable, priority, converted AS value,"
        " CAST(floor(date_diff('microsecond', starts, time) / 3.6e9) AS BIGINT) + 1 AS hour,"
        " patient, time, code, unit, usable.value AS raw FROM usable "
        "JOIN ordered USING (patient) WHERE time >= starts AND (ends IS NULL OR time <= ends)"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE measured AS SELECT n, hour, variable, priority, value FROM placed "
        f"WHERE hour <= {MAX_HOURS}"
    )
    total, numbers, timed = connection.execute(
        "SELECT count(*), count(*) FILTER (isfinite(value)),"
        " count(*) FILTER (isfinite(value) AND time IS NOT NULL) FROM events"
    ).fetchone()
    mapped = connection.execute(
        "SELECT count(*) FROM events JOIN meanings ON events.code = meanings.code AND events.unit IS NOT "
        "DISTINCT FROM meanings.unit WHERE isfinite(value) AND time IS NOT NULL"
    ).fetchone()[0]
    distinct, used, inside, stays = connection.execute(
        "SELECT (SELECT count(*) FROM usable), (SELECT count(*) FROM measured),"
        " (SELECT count(*) FROM (SELECT DISTINCT patient, time, code, unit, raw FROM placed"
        f" WHERE hour <= {MAX_HOURS})),"
        " (SELECT count(*) FROM ordered)"
    ).fetchone()
    return {
        "events": total,
        "used": used,
        "without_number": total - numbers,
        "without_time": numbers - timed,
        "repeated": mapped - distinct,
        "outside": distinct - inside,
        "stays": stays,
    }


def _require_times_of_day(connection: Any, zone: str | None) -> None:
    """Refuse an export whose times are dates turned into midnight: every hour would be wrong."""
    values, midnights = connection.execute(
        "SELECT count(*), count(*) FILTER (time = date_trunc('day', time)) FROM "
        "(SELECT timezone(?, timezone('UTC', time)) AS time FROM placed)",
        [zone or "UTC"],
    ).fetchone()
    if values >= FEWEST_FOR_MIDNIGHT and midnights > MOST_AT_MIDNIGHT * values:
        raise BadRows(
            f"{midnights:,} of {values:,} values were measured at midnight: the times seem to be dates",
            code="no_time_of_day",
        )


def _write_hours(connection: Any, out: Path, used: int, stays: int) -> None:
    import pyarrow.parquet as pq

    pivoted = ", ".join(
        f'max(value) FILTER (variable = {place}) AS "{name}"' for place, name in enumerate(MEASURED)
    )
    age = f"CASE WHEN age >= {OLDEST} THEN {AGE_OF_OLDEST} ELSE age END"
    given = {**GIVEN, "Age": f"coalesce(stated_age, {age})"}
    columns = ", ".join(f'"{name}"' for name in MEASURED)
    constants = ", ".join(f'CAST({expression} AS DOUBLE) AS "{name}"' for name, expression in given.items())
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE stated AS SELECT n, median(value) AS stated_age FROM measured "
        f"WHERE variable = {NAMES.index('Age')} GROUP BY n"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE cuts AS SELECT n, true AS cut FROM placed "
        f"WHERE hour > {MAX_HOURS} GROUP BY n"
    )
    slices = max(-(-used // VALUES_AT_ONCE), 1)
    step = -(-stays // slices)
    writer = None
    try:
        for first in range(0, stays, step):
            table = connection.sql(
                "WITH each AS (SELECT n, hour, variable, priority, median(value) AS value FROM measured "
                f"WHERE n >= {first} AND n < {first + step} AND variable < {N_TIME_VARYING} GROUP BY ALL), "
                "best AS (SELECT n, hour, variable, arg_min(value, priority) AS value FROM each"
                " GROUP BY ALL), "
                f"hours AS (SELECT n, hour, {pivoted} FROM best GROUP BY n, hour) "
                f"SELECT stay, {columns}, {constants}, CAST(hour AS DOUBLE) AS ICULOS,"
                " coalesce(cut, false) AS cut, assumed FROM hours JOIN ordered USING (n)"
                " LEFT JOIN stated USING (n) LEFT JOIN cuts USING (n) ORDER BY n, hour"
            ).to_arrow_table()
            writer = writer or pq.ParquetWriter(out, table.schema)
            writer.write_table(table, row_group_size=ROWS_IN_GROUP)
    finally:
        if writer is not None:
            writer.close()


def _found(connection: Any) -> dict[str, int]:
    """Number of stays with each variable, in the order of the variables."""
    counts = {
        NAMES[place]: stays
        for place, stays in connection.execute(
            "SELECT variable, count(DISTINCT n) FROM measured GROUP BY variable"
        ).fetchall()
    }
    for name, expression in GIVEN.items():
        known = connection.execute(
            f"SELECT count(*) FROM ordered SEMI JOIN measured USING (n) WHERE ({expression}) IS NOT NULL"
        ).fetchone()[0]
        counts[name] = max(known, counts.get(name, 0))
    counts["ICULOS"] = connection.execute("SELECT count(DISTINCT n) FROM measured").fetchone()[0]
    return {name: counts[name] for name in NAMES if counts.get(name)}
