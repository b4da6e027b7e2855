"""Where the numbers of a text begin, what separates them, and what the lines before them state."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ibt_deploy.errors import MalformedFile
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.delimited import MISSING_WORDS
from ibt_deploy.readers.units import millivolts_per

_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))$")
"""A number that only a decimal comma explains: 1,234 may be a thousand, 0,234 and 1,2 may not."""

DELIMITERS = (",", ";", "\t", "|", " ")
MAX_PREAMBLE = 200
LOOKED_AT = 1000
"""Cells of a row by which it is taken for numbers; all are checked when they are read."""

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
        The lines before.
    names
        Column names (for leads in columns) or row names (for leads in rows), where there are any.
    named_rows
        Whether ``names`` stand before each row.
    rows
        The lines of numbers, without their names.
    delimiter
        What separates cells; a blank stands for any number of blanks and tabs.
    width
        Cells in the first row.
    decimal
        Mark before the decimals.
    """

    preamble: Sequence[str]
    names: tuple[str, ...] | None
    named_rows: bool
    rows: Sequence[str]
    delimiter: str
    width: int
    decimal: str = "."


def table_in(text: str, stated: Mapping[str, Any]) -> Table | None:
    """The table in ``text``; None where no two lines of numbers follow each other near its beginning.

    Parameters
    ----------
    stated
        Keys ``delimiter``, ``decimal`` and ``skip_lines`` of a layout. Where it states no decimal mark and no
        table is found with points, one with commas is looked for.
    """
    lines = [line for line in text.splitlines()[stated.get("skip_lines", 0) :] if line.strip()]
    delimiters = (stated["delimiter"],) if "delimiter" in stated else DELIMITERS
    if "decimal" in stated:
        return _table(lines, delimiters, stated["decimal"])
    return _table(lines, delimiters, ".") or _table(lines, [mark for mark in delimiters if mark != ","], ",")


def has_decimal_commas(table: Table) -> bool:
    """Whether a number among the first rows can be read in no other way than with a decimal comma."""
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
    """Cells of a line without quotes and blanks around them; an empty one at the end is left out."""
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
    """Sampling rate and unit that the lines before a table state explicitly.

    Raises
    ------
    MalformedFile
        Two of them state different ones.
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
    """Whether two statements are the same: rates within 0.1 %, units of one size."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-3 * abs(one)
    if not (isinstance(one, str) and isinstance(other, str)):
        return True
    size = millivolts_per(one)
    return one.strip().lower() == other.strip().lower() or (
        size is not None and size == millivolts_per(other)
    )


def _are_numbers(row: Sequence[str], decimal: str) -> bool:
    """Whether a row holds numbers and perhaps missing values, and nothing else, as far as it is looked at."""
    row = row[:LOOKED_AT]
    plain = [cell if decimal == "." else cell.replace(decimal, ".") for cell in row]
    numbers = [_NUMBER.match(cell) is not None for cell in plain]
    return any(numbers) and all(
        number or cell.casefold() in MISSING_WORDS for number, cell in zip(numbers, plain, strict=True)
    )


def _named_rows(lines: Sequence[str], first: int, delimiter: str, decimal: str) -> Table:
    """A table with a lead in each line, its name in front."""
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
