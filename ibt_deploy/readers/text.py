"""12-lead ECGs as text: CSV, TSV or columns separated by blanks.

The leads are named by the header (``I, II, ... V6``, perhaps with a unit: ``I (mV)``), by the first cell of
each row, or by a layout beside the file (:mod:`ibt_deploy.readers.arrays`). Sampling rate and unit are
taken from the lines before the table (``sampling rate: 500 Hz``, ``unit: uV``), from a column of times with
its unit, or from the layout; they are never assumed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong
from ibt_deploy.files import File
from ibt_deploy.readers.arrays import Layout, layout_beside, recording_of, standard_leads_in
from ibt_deploy.readers.columns import MISSING_WORDS, DelimitedTable, cell_number, without_infinity
from ibt_deploy.readers.stated import millivolts_per
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import canonical_lead

_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))$")
"""A number that must have a decimal comma: 1,234 may be a thousand, 0,234 and 1,2 may not."""

DELIMITERS = (",", ";", "\t", "|", " ")
MAX_PREAMBLE = 200
LOOKED_AT = 1000
"""Number of cells by which a row is taken for numbers; all are checked when they are read."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?$")
_RATE = re.compile(
    r"\b(?:sampl(?:ing|e)[ _]?(?:rate|frequency)|abtast(?:rate|frequenz)|fs)"
    r"[\s\"'_]*[\[(]?(?:hz)?[\])]?[\s\"']*[:=,;\t ][\s\"']*"
    r"(\d{1,6}(?:\.\d{1,6})?)\s*(k?hz)?",
    re.IGNORECASE,
)
_UNIT = re.compile(r"\b(?:units?|einheit)[\s\"']*[:=,;\t][\s\"']*([mu\u00b5\u03bc]?v)\b", re.IGNORECASE)
_UNIT_IN_NAME = re.compile(
    r"(?P<name>.+?)\s*"
    r"(?:\[\s*(?P<a>\w{1,3})\s*\]|\(\s*(?P<b>\w{1,3})\s*\)|[/_ ](?P<c>[mu\u00b5\u03bc]V|ms|s))$"
)


@dataclass(frozen=True)
class Table:
    """The parts of a text that holds rows of numbers.

    Attributes
    ----------
    preamble
        Lines before the rows.
    names
        Column names (for leads in columns) or row names (for leads in rows), if any.
    named_rows
        Whether ``names`` precede each row.
    rows
        Lines of numbers, without their names.
    delimiter
        Cell separator; a blank stands for any number of blanks and tabs.
    width
        Number of cells in the first row.
    decimal
        Decimal mark.
    """

    preamble: Sequence[str]
    names: tuple[str, ...] | None
    named_rows: bool
    rows: Sequence[str]
    delimiter: str
    width: int
    decimal: str = "."


def table_in(text: str, stated: Mapping[str, Any]) -> Table | None:
    """The table in ``text``; None if there are no two consecutive lines of numbers near its beginning.

    Parameters
    ----------
    stated
        Keys ``delimiter``, ``decimal`` and ``skip_lines`` of a layout. If it states no decimal mark and no
        table is found with points, one with commas is tried.
    """
    lines = [line for line in text.splitlines()[stated.get("skip_lines", 0) :] if line.strip()]
    delimiters = (stated["delimiter"],) if "delimiter" in stated else DELIMITERS
    if "decimal" in stated:
        return _table(lines, delimiters, stated["decimal"])
    return _table(lines, delimiters, ".") or _table(lines, [mark for mark in delimiters if mark != ","], ",")


def has_decimal_commas(table: Table) -> bool:
    """Whether a number among the first rows can only be read with a decimal comma."""
    return any(
        _DECIMAL_COMMA.match(cell)
        for row in table.rows[:LOOKED_AT]
        for cell in cells(row, table.delimiter)[:LOOKED_AT]
    )


def _table(lines: list[str], delimiters: Sequence[str], decimal: str) -> Table | None:
    """The table in ``lines`` for this decimal mark."""
    for number, (line, following) in enumerate(pairwise([*lines[: MAX_PREAMBLE + 1], ""])):
        for delimiter in delimiters:
            row = cells(line, delimiter)
            if len(row) > 2 and canonical_lead(row[0]) is not None and _are_numbers(row[1:], decimal):
                return _named_rows(lines, number, delimiter, decimal)
            if len(row) < 2 or not _are_numbers(row, decimal):
                continue
            cut = number + 2 >= len(lines)
            if not cut and len(cells(following, delimiter)) != len(row):
                continue
            header = cells(lines[number - 1].lstrip("#%"), delimiter) if number else []
            named = len(header) == len(row) and not _are_numbers(header, decimal)
            preamble = lines[: number - 1 if named else number]
            return Table(
                preamble,
                tuple(header) if named else None,
                False,
                lines[number:],
                delimiter,
                len(row),
                decimal,
            )
    return None


def cells(line: str, delimiter: str) -> list[str]:
    """Cells of a line without surrounding quotes and blanks; a trailing empty one is left out."""
    if delimiter == " ":
        return line.split()
    if '"' in line:
        try:
            found = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            return []
    else:
        found = line.split(delimiter)
    found = [cell.strip() for cell in found]
    return found[:-1] if found and not found[-1] else found


def name_and_unit(cell: str) -> tuple[str, str | None]:
    """A column's name and the unit written behind it: ``I (mV)``, ``V1 [uV]``, ``time_ms``."""
    match = _UNIT_IN_NAME.match(cell[:80])
    return (match["name"], match["a"] or match["b"] or match["c"]) if match else (cell, None)


def statements(preamble: Sequence[str]) -> dict[str, Any]:
    """Sampling rate and unit stated explicitly by the lines before a table.

    Raises
    ------
    MalformedFile
        Two of them state different values.
    """
    found: dict[str, Any] = {}
    for line in preamble[:MAX_PREAMBLE]:
        rate, unit = _RATE.search(line[:500]), _UNIT.search(line[:500])
        said: dict[str, Any] = {}
        if rate:
            said["sampling_rate"] = float(rate[1]) * (1000 if rate[2] and rate[2][0] in "kK" else 1)
        if unit:
            said["unit"] = unit[1]
        for key, value in said.items():
            if not agree(found.setdefault(key, value), value):
                raise MalformedFile(
                    f"states two values of {key}: {found[key]} and {value}", code="bad_header"
                )
    return found


def agree(one: object, other: object) -> bool:
    """Whether two statements agree: rates within 0.1 %, units of the same size."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-3 * abs(one)
    if not (isinstance(one, str) and isinstance(other, str)):
        return True
    size = millivolts_per(one)
    return one.strip().lower() == other.strip().lower() or (
        size is not None and size == millivolts_per(other)
    )


def _are_numbers(row: Sequence[str], decimal: str) -> bool:
    """Whether the inspected cells of a row are all numbers or missing values."""
    row = row[:LOOKED_AT]
    plain = [cell if decimal == "." else cell.replace(decimal, ".") for cell in row]
    numbers = [_NUMBER.match(cell) is not None for cell in plain]
    return any(numbers) and all(
        number or cell.casefold() in MISSING_WORDS for number, cell in zip(numbers, plain, strict=True)
    )


def _named_rows(lines: Sequence[str], first: int, delimiter: str, decimal: str) -> Table:
    """A table with one lead per line, preceded by its name."""
    names, rows = [], []
    for line in lines[first:]:
        name, _, row = line.strip().partition(delimiter) if delimiter != " " else _head_and_tail(line)
        names.append(name.strip().strip('"'))
        rows.append(row)
    width = len(cells(rows[0], delimiter))
    return Table(lines[:first], tuple(names), True, rows, delimiter, width, decimal)


def _head_and_tail(line: str) -> tuple[str, str, str]:
    head, *tail = line.split(maxsplit=1)
    return head, " ", tail[0] if tail else ""


NAME = "ECG as text"
TASK = "arrhythmia"

MAX_BYTES = 1 << 25
MAX_LINES = 1_000_000
WIDEST = 256
"""Maximum number of columns; a wider table holds leads in rows."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
FEWEST_COLUMNS = 8
"""Minimum number of columns of a table without names to be taken for an ECG, unless a layout says so."""
FEWEST_LEADS = 2
TIME_NAMES = frozenset({"time", "t", "timestamp", "elapsed", "elapsed time", "elapsed_time", "zeit"})
SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6}
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
FORMATS = {",": "CSV", ";": "CSV (semicolons)", "\t": "TSV", "|": "text (bars)", " ": "text"}

_CUT_CELL = re.compile(r"[^,;\t| ]*$")


def sniff(file: File, head: bytes) -> bool:
    """Whether a text holds rows of numbers that are leads by name, by layout or by number."""
    wide = head.startswith(UTF_16_MARKS)
    if b"\0" in head and not wide:
        return False
    text = _decoded(head[: len(head) // 2 * 2] if wide else head)
    if file.stat().st_size > len(head):
        text = _CUT_CELL.sub("", text)
    try:
        layout = layout_beside(file)
    except MalformedFile:
        layout = Layout({}, "")  # an unreadable layout still means that there is one
    table = table_in(text, layout.stated)
    if table is None:
        return False
    if layout.source is not None or table.named_rows:
        return True
    if table.names is not None:
        return standard_leads_in([name_and_unit(name)[0] for name in table.names]) >= FEWEST_LEADS
    return table.width >= FEWEST_COLUMNS


def read(file: File) -> list[Recording]:
    """Read the recording in a text table.

    Raises
    ------
    TooLong
        More than 32 MiB or a million lines.
    MalformedFile
        No table; rows of different lengths; the layout contradicts the file.
    BadRows
        A cell that is not a number.
    BadSampling
        The times are not evenly spaced.
    InputError
        See :func:`ibt_deploy.readers.arrays.recording_of`.
    """
    if file.stat().st_size > MAX_BYTES:
        raise TooLong("more than 32 MiB of text; cut it into pieces", code="recording_too_long")
    text = _decoded(file.read_bytes())
    if sum(map(text.count, LINE_ENDS)) > MAX_LINES:
        raise TooLong("more than a million lines; cut it into pieces", code="recording_too_long")
    layout = layout_beside(file)
    table = table_in(text, layout.stated)
    if table is None:
        raise MalformedFile("holds no table of numbers", code="no_rows")
    notes: list[str] = []
    if table.decimal == "," and "decimal" not in layout.stated:
        if not has_decimal_commas(table):
            raise MalformedFile(
                'the commas in its numbers may stand before decimals or thousands; write decimal = "," into '
                f"{file.stem}.toml or layout.toml beside it",
                code="bad_layout",
            )
        notes.append("the numbers have a decimal comma")
    values = _numbers(table, table.decimal)
    found = statements(table.preamble)
    if table.names is not None and "leads" not in layout.stated:
        columns = values.T if table.named_rows else values
        values, named, more = _leads_of(table.names, columns, found.get("sampling_rate"))
        for key in found.keys() & named.keys():
            if not agree(found[key], named[key]):
                where = "column of times says" if key == "sampling_rate" else "columns' names say"
                raise MalformedFile(f"states {key} {found[key]}, its {where} {named[key]}", code="bad_header")
        if "sampling_rate" in named and not (found.keys() | layout.stated.keys()) & {"sampling_rate"}:
            more.insert(0, "the sampling rate is that of the column of times")
        notes += more
        found = named | found
        found["orientation"] = "columns"
    elif table.named_rows:
        found["orientation"] = "rows"
    for key in found.keys() & layout.stated.keys():
        if not agree(found[key], layout.stated[key]):
            raise MalformedFile(
                f"{layout.source} says {key} {layout.stated[key]}, the file itself says {found[key]}",
                code="bad_layout",
            )
    return [
        recording_of(
            values,
            found | dict(layout.stated),
            file,
            what=FORMATS.get(table.delimiter, "text"),
            notes=tuple(notes),
        )
    ]


def _decoded(data: bytes) -> str:
    """Decode ``data``: UTF-16 if it has a byte order mark, else UTF-8, else Latin-1."""
    if data.startswith(UTF_16_MARKS):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbers(table: Table, decimal: str) -> Floats:
    """The cells as numbers, shape ``(rows, columns)``; NaN for empty cells."""
    rows, delimiter = table.rows, table.delimiter
    if table.width > WIDEST:
        return _wide_numbers(table, decimal)
    if delimiter == " ":
        rows = [" ".join(row.split()) for row in rows]
    elif rows[0].rstrip().endswith(delimiter) and len(cells(rows[0], delimiter)) == table.width:
        rows = [row.rstrip().removesuffix(delimiter) for row in rows]
    if decimal != ".":
        rows = [row.replace(decimal, ".") for row in rows]
    names = [str(number) for number in range(1, table.width + 1)]
    numbers = DelimitedTable("\n".join([delimiter.join(names), *rows]), delimiter).numbers(names)
    if numbers.faults:
        raise numbers.faults[min(numbers.faults)]
    return numbers.values


def _wide_numbers(table: Table, decimal: str) -> Floats:
    """Like :func:`_numbers`, for a few rows that each hold all samples of a lead."""
    if len(table.rows) > WIDEST:
        raise MalformedFile(
            f"{len(table.rows)} rows of {table.width} cells hold leads neither in columns nor in rows",
            code="bad_layout",
        )
    values = np.empty((len(table.rows), table.width))
    for number, line in enumerate(table.rows):
        row = cells(line if decimal == "." else line.replace(decimal, "."), table.delimiter)
        if len(row) != table.width:
            count = f"{len(row)} cell{'s' * (len(row) != 1)}"
            message = f"row {number + 1} has {count}, the first has {table.width}"
            raise MalformedFile(message, code="ragged_rows")
        try:
            if "_" in line:  # float() would read 1_000
                raise ValueError
            values[number] = list(map(float, row))
        except ValueError:
            faults: dict[int, BadRows] = {}
            values[number] = [cell_number(cell, number, "of samples", faults) for cell in row]
            if faults:
                raise faults[number] from None
    found = without_infinity(values, ["of samples"] * table.width)
    if found.faults:
        raise found.faults[min(found.faults)]
    return values


def _leads_of(
    names: tuple[str, ...], columns: Floats, stated_rate: float | None
) -> tuple[Floats, dict[str, Any], list[str]]:
    """The columns that are standard leads, what their names and the time column state, and notes.

    A time column without a unit states no rate, but contradicts ``stated_rate`` if it fits that in no unit,
    nor as a sample number.
    """
    parts = [name_and_unit(name) for name in names]
    chosen = [i for i, (name, _) in enumerate(parts) if canonical_lead(name) is not None]
    if not chosen:
        raise MissingLeads(f"no column is a lead: {', '.join(names)[:120]}", code="no_ecg_lead")
    units = {parts[i][1] for i in chosen}
    if len({unit and unit.lower() for unit in units}) > 1:
        raise BadUnits("the columns name different units", code="unknown_unit")
    found: dict[str, Any] = {"leads": [parts[i][0] for i in chosen]}
    if (unit := units.pop()) is not None:
        found["unit"] = unit
    notes = []
    times = [i for i, (name, _) in enumerate(parts) if name.strip().casefold() in TIME_NAMES]
    if times and (step := SECONDS.get((parts[times[0]][1] or "").lower())):
        found["sampling_rate"] = _rate(columns[:, times[0]] * step)
    elif times and stated_rate is not None:
        per_unit = _rate(columns[:, times[0]])
        if per_unit != 1 and not any(agree(stated_rate, per_unit / unit) for unit in SECONDS.values()):
            raise MalformedFile(
                f"states sampling_rate {stated_rate:g}, which does not match its time column in any unit",
                code="bad_header",
            )
    others = [names[i] for i in range(len(names)) if i not in chosen and i not in times]
    if others:
        notes.append(f"left out columns that are not leads: {', '.join(others)[:120]}")
    return columns[:, chosen], found, notes


def _rate(seconds: Floats) -> float:
    """Sampling rate of evenly spaced times; rounded to a whole number within 0.1 %."""
    steps = len(seconds) - 1
    length = float(seconds[-1] - seconds[0])
    if not (steps > 0 and 0 < length < float("inf")):
        raise BadSampling("the column of times does not increase", code="missing_rate")
    even = seconds[0] + length / steps * np.arange(steps + 1)
    if not (np.abs(seconds - even) < length / steps).all():
        raise BadSampling("the times are not evenly spaced", code="missing_rate")
    rate = steps / length
    return float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate else rate


def outline(file: File) -> dict[str, Any]:
    """The shape and names of the table, and what the lines before it state."""
    with file.open("rb") as stream:
        text = _decoded(stream.read(MAX_BYTES))
    layout = layout_beside(file)
    table = table_in(text, layout.stated)
    if table is None:
        return {"layout": layout.source or None}
    return {
        "delimiter": table.delimiter,
        "rows": len(table.rows),
        "columns": table.width,
        "names": [] if table.names is None else [name[:40] for name in table.names[:WIDEST]],
        "stated": {
            key: str(value)[:80] for key, value in (statements(table.preamble) | dict(layout.stated)).items()
        },
    }
