"""12-lead ECGs as text: CSV, TSV or columns set apart by blanks.

The leads are named by the header (``I, II, ... V6``, perhaps with a unit: ``I (mV)``), by the first cell of
each row, or by a layout beside the file (:mod:`ibt_deploy.readers.arrays_layout`). Sampling rate and unit are
taken from the lines before the table (``sampling rate: 500 Hz``, ``unit: uV``), from a column of times with
its unit, or from the layout; they are never assumed.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong
from ibt_deploy.files import File
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.arrays_layout import Layout, layout_beside, recording_of, standard_leads_in
from ibt_deploy.readers.delimited import DelimitedTable, cell_number, without_infinity
from ibt_deploy.readers.ecg_text_table import (
    Table,
    agree,
    cells,
    has_decimal_commas,
    name_and_unit,
    statements,
    table_in,
)
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats

NAME = "ECG as text"
TASK = "arrhythmia"

MAX_BYTES = 1 << 25
MAX_LINES = 1_000_000
WIDEST = 256
"""Columns at most; a wider table holds leads in rows."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
FEWEST_COLUMNS = 8
"""A table without names is taken for an ECG from so many columns on, if no layout says so."""
FEWEST_LEADS = 2
TIME_NAMES = frozenset({"time", "t", "timestamp", "elapsed", "elapsed time", "elapsed_time", "zeit"})
SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6}
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
FORMATS = {",": "CSV", ";": "CSV (semicolons)", "\t": "TSV", "|": "text (bars)", " ": "text"}

_CUT_CELL = re.compile(r"[^,;\t| ]*$")


def sniff(file: File, head: bytes) -> bool:
    """Whether a text holds rows of numbers that are leads by name, by a layout or by their number."""
    wide = head.startswith(UTF_16_MARKS)
    if b"\0" in head and not wide:
        return False
    text = _decoded(head[: len(head) // 2 * 2] if wide else head)
    if file.stat().st_size > len(head):
        text = _CUT_CELL.sub("", text)
    try:
        layout = layout_beside(file)
    except MalformedFile:
        layout = Layout({}, "")  # a layout that cannot be read is no reason to think it none
    table = table_in(text, layout.stated)
    if table is None:
        return False
    if layout.source is not None or table.named_rows:
        return True
    if table.names is not None:
        return standard_leads_in([name_and_unit(name)[0] for name in table.names]) >= FEWEST_LEADS
    return table.width >= FEWEST_COLUMNS


def read(file: File) -> list[Recording]:
    """Read the recording in a table of text.

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
        See :func:`ibt_deploy.readers.arrays_layout.recording_of`.
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
    """Text of ``data``: UTF-16 with its mark, else UTF-8, else Latin-1."""
    if data.startswith(UTF_16_MARKS):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbers(table: Table, decimal: str) -> Floats:
    """The cells as numbers, shape ``(rows, columns)``; NaN where a cell is empty."""
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
    """As :func:`_numbers`, where each of a few rows holds all samples of a lead."""
    if len(table.rows) > WIDEST:
        raise MalformedFile(
            f"{len(table.rows)} rows of {table.width} cells hold leads neither in columns nor in rows",
            code="bad_layout",
        )
    values = np.empty((len(table.rows), table.width))
    for number, line in enumerate(table.rows):
        row = cells(line if decimal == "." else line.replace(decimal, "."), table.delimiter)
        if len(row) != table.width:
            message = f"row {number + 1} has {len(row)} cells, the first has {table.width}"
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
    """The columns that are standard leads, what their names and the column of times state, and notes.

    A column of times without a unit states no rate, but contradicts ``stated_rate`` where it fits it in no
    unit, nor as the number of a sample.
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
                f"states sampling_rate {stated_rate:g}, which its column of times fits in no unit",
                code="bad_header",
            )
    others = [names[i] for i in range(len(names)) if i not in chosen and i not in times]
    if others:
        notes.append(f"left out columns that are no lead: {', '.join(others)[:120]}")
    return columns[:, chosen], found, notes


def _rate(seconds: Floats) -> float:
    """Sampling rate of evenly spaced times; a whole number if it is one within 0.1 %."""
    steps = len(seconds) - 1
    length = float(seconds[-1] - seconds[0])
    if not (steps > 0 and 0 < length < float("inf")):
        raise BadSampling("the column of times does not increase", code="missing_rate")
    even = seconds[0] + length / steps * np.arange(steps + 1)
    if not (np.abs(seconds - even) < length / steps).all():
        raise BadSampling("the times are not evenly spaced", code="missing_rate")
    rate = steps / length
    return float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate else rate
