"""A plain long table: patient, time, code or name, value, unit; one measurement per row.

The most common kind of export follows no standard: the columns and the meaning of the codes are given by a
mapping (:class:`~ibt_deploy.mapping.schema.LongTable`); :mod:`ibt_deploy.mapping.suggest_long` suggests a
first one. Files are read like wide tables, and the rows become events like those of a standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables.layout import Layout, layout_of
from ibt_deploy.batch.tables.sql import FAULT, MICROSECONDS, Scan, has_rejects, scans_of, text
from ibt_deploy.batch.tables.stays import MOST_WITHOUT_TIME, WITHOUT_TIME
from ibt_deploy.batch.tables.survey import TableFile, surveyed
from ibt_deploy.errors import InputError, MalformedFile
from ibt_deploy.files import File
from ibt_deploy.mapping.schema import LongTable, Mapping, TableOptions, Time
from ibt_deploy.standards.events import Meaning, RefusedStay, Source

FORMAT = "long table"
ORIGIN = MICROSECONDS
"""Time of admission in microseconds, if hours count from it: not midnight, which would look like a date."""

MEMORY_MB = 1024
NO_TIME = "no_time"
CONSTANTS = ("Age", "Gender", "Unit1", "Unit2", "HospAdmTime")


@dataclass(frozen=True)
class CodeCount:
    """Rows of a table with one code and one unit.

    Attributes
    ----------
    code, unit
        As stated in the rows; the unit is empty if none is stated.
    rows
        Number of rows.
    numbers
        Number of rows with a number.
    median
        Median of the numbers, in the unit as stated; None without any.
    """

    code: str
    unit: str
    rows: int
    numbers: int
    median: float | None


def code_counts(path: Path, table: TableOptions, long: LongTable, folder: Path) -> list[CodeCount]:
    """The codes and units of a whole table, the most frequent first.

    Parameters
    ----------
    path
        The table.
    table, long
        How it is written, and which of its columns count.
    folder
        Folder for the engine to spill to.

    Raises
    ------
    InputError
        The table cannot be read.
    MissingExtra
        DuckDB or pyarrow is not installed.
    """
    from ibt_deploy.batch.tables.sql import engine

    mapping = Mapping(table, Time(long.code), long=long)
    layout = Layout(None, None, (), (), None, (), table.decimal, table.encoding, (), long)
    file = surveyed(path, mapping, lambda names: _require(names, long), lambda _: None)
    with engine(folder, MEMORY_MB, None) as connection:
        _name_files(connection, [file])
        rows = connection.execute(
            "SELECT code, unit, count(*), count(value), median(value) FROM "
            f"({Scan(layout, file.names, ((0, file),)).relation(connection)}) "
            "GROUP BY code, unit ORDER BY 3 DESC, 1, 2"
        ).fetchall()
    return [CodeCount(*row) for row in rows]


def _require(names: Sequence[str], long: LongTable) -> None:
    for name in long.columns:
        if name not in names:
            raise MalformedFile(f"has no column {name}", code="missing_columns")


def load(connection: Any, files: Sequence[File], mapping: Mapping, folder: Path) -> Source:
    """Fill ``events`` and ``stays`` from the tables that a mapping describes.

    Parameters
    ----------
    connection
        Connection of the engine.
    files
        Files on disk; those that are not such tables are listed as unread.
    mapping
        Mapping with a section ``[long]``.
    folder
        Folder of the run.

    Raises
    ------
    InputError
        No file can be read; carries the first reason.
    """
    long = mapping.long
    if long is None:
        raise ValueError("the mapping describes no long table")
    tables, unread, first = [], [], None
    for file in files:
        path = Path(str(file))
        try:
            table = surveyed(path, mapping, lambda names: layout_of(names, mapping), lambda _: None)
            tables.append((table, layout_of(table.names, mapping)))
        except InputError as error:
            first = first or error.at(str(path))
            unread.append((str(path), error.message))
    if not tables:
        raise first or MalformedFile("there is no table", code="no_such_file")
    rejected = _write_rows(connection, tables, folder)
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW events AS"
        " SELECT patient, make_timestamp(moment) AS time, code, unit, value FROM long_rows"
    )
    refused = _write_stays(connection, mapping.time)

    def meanings(code: str, unit: str | None) -> Meaning | str:
        found = long.codes.get((code, unit or ""))
        if found is None:
            return "unknown_unit" if any(code == known for known, _ in long.codes) else "unknown_code"
        return Meaning(found.variable, found.conversion.factor, found.conversion.offset, found.priority)

    notes = tuple(_notes(connection, rejected, len(unread)))
    zone = None if mapping.time.zone in ("fixed", "offset") else mapping.time.zone
    return Source(FORMAT, meanings, notes, tuple(unread), tuple(refused), zone)


def _name_files(connection: Any, tables: Sequence[TableFile]) -> None:
    """Write the table ``files``, in which scans look up the number of a file."""
    connection.execute("CREATE OR REPLACE TEMP TABLE files(i INTEGER, path VARCHAR, stay VARCHAR)")
    for number, table in enumerate(tables):
        connection.execute("INSERT INTO files VALUES (?, ?, NULL)", [number, str(table.path)])


def _write_rows(connection: Any, tables: list[tuple[TableFile, Layout]], folder: Path) -> int:
    """Write the table ``long_rows``; returns the number of unreadable lines."""
    _name_files(connection, [table for table, _ in tables])
    scans = scans_of([(number, table, layout) for number, (table, layout) in enumerate(tables)], folder)
    time = tables[0][1].time
    at = "time" if time is not None else _whole_hours()
    begins = "admission" if time is not None else "0"
    if time is None or time.kind == "hours":
        at, begins = f"({at}) + {ORIGIN}", f"{begins} + {ORIGIN}"
    together = " UNION ALL ".join(f"({scan.relation(connection)})" for scan in scans)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE long_rows AS SELECT patient, {at} AS moment, {begins} AS begins,"
        f" hospital_admission AS entered, coalesce(fault, CASE WHEN {at} IS NULL THEN"
        f" {text(f'{NO_TIME}{FAULT}a row has no time')} END) AS fault, code, unit, value,"
        f" sign IS NOT NULL AND value IS NOT NULL AS is_limit, {', '.join(CONSTANTS)} FROM ({together})"
    )
    if not has_rejects(connection):
        return 0
    count: int = connection.execute(
        "SELECT count(DISTINCT (scan_id, file_id, line)) FROM reject_errors"
    ).fetchone()[0]
    return count


def _whole_hours() -> str:
    """Microseconds since the beginning of hour 1, if a column counts the hours."""
    return f"CASE WHEN ICULOS >= 1 AND ICULOS = floor(ICULOS) THEN (ICULOS - 1)::BIGINT * {MICROSECONDS} END"


def _write_stays(connection: Any, time: Time) -> list[RefusedStay]:
    """Write the table ``stays``, one row per patient that is not refused."""
    untimed = ", ".join(map(text, (*WITHOUT_TIME, NO_TIME)))
    code, message = f"split_part(fault, {text(FAULT)}, 1)", f"split_part(fault, {text(FAULT)}, 2)"
    first = f"arg_min({{}}, fault) FILTER ({code} {{}} IN ({untimed}))"
    states_admission = time.kind != "timestamp" or time.admission is not None
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE long_stays AS SELECT patient,"
        f" count(*) FILTER ({code} IN ({untimed})) / count(*) AS untimed,"
        f" {first.format(code, '')} AS time_code, {first.format(message, '')} AS time_message,"
        f" {first.format(code, 'NOT')} AS other_code, {first.format(message, 'NOT')} AS other_message,"
        " count(DISTINCT begins) AS admissions, min(begins) AS begins, count(DISTINCT entered) AS entries,"
        " min(entered) AS entered, count(DISTINCT HospAdmTime) AS waits, min(HospAdmTime) AS waited,"
        " median(Age) AS age, "
        + ", ".join(
            f"CASE WHEN min({name}) = max({name}) THEN min({name}) END AS {name.lower()}"
            for name in ("Gender", "Unit1", "Unit2")
        )
        + " FROM long_rows WHERE patient IS NOT NULL GROUP BY patient"
    )
    reasons = {
        "other_code IS NOT NULL": ("other_code", "other_message"),
        f"untimed > {MOST_WITHOUT_TIME}": (
            f"CASE time_code WHEN '{NO_TIME}' THEN 'missing_hour' ELSE time_code END",
            "time_message",
        ),
        "admissions > 1": ("'bad_admission'", "'has several times of ICU admission'"),
        "entries > 1 OR waits > 1": ("'bad_admission'", "'has several times of hospital admission'"),
    }
    if states_admission:
        reasons["admissions = 0"] = ("'bad_admission'", "'has no time of ICU admission'")
    case = " ".join(f"WHEN {when} THEN [{', '.join(what)}]" for when, what in reasons.items())
    connection.execute("ALTER TABLE long_stays ADD COLUMN reason VARCHAR[]")
    connection.execute(f"UPDATE long_stays SET reason = CASE {case} END")
    begins = "make_timestamp(begins)" if states_admission else "CAST(NULL AS TIMESTAMP)"
    entered = (
        f"coalesce(make_timestamp(entered), {begins} + to_microseconds((waited * {MICROSECONDS})::BIGINT))"
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE stays AS SELECT patient AS stay, patient, {begins} AS starts,"
        f" CAST(NULL AS TIMESTAMP) AS ends, {entered} AS hospital_admission, age, gender, unit1, unit2"
        " FROM long_stays WHERE reason IS NULL"
    )
    return [
        RefusedStay(name, code, message)
        for name, (code, message) in connection.execute(
            "SELECT patient, reason FROM long_stays WHERE reason IS NOT NULL ORDER BY patient"
        ).fetchall()
    ]


def _notes(connection: Any, rejected: int, unread: int) -> list[str]:
    """Notes for every stay about the rows of the whole export."""
    nameless, untimed, limits = connection.execute(
        "SELECT count(*) FILTER (patient IS NULL), count(*) FILTER (patient IS NOT NULL AND moment IS NULL),"
        " count(*) FILTER (is_limit) FROM long_rows"
    ).fetchone()
    lost = [
        f"{count:,} {what}" for count, what in ((nameless + rejected, "rows"), (unread, "files")) if count
    ]
    return [
        "Values are medians within each hour.",
        *(
            [f"{' and '.join(lost)} of the export could not be read; they may have held rows of this stay."]
            if lost
            else []
        ),
        *([f"{untimed:,} rows of the export have no usable time and were left out."] if untimed else []),
        *([f"{limits:,} values given as a limit (<0.5) were read as the limit."] if limits else []),
    ]
