"""Stays from a request: a table as text, or JSON.

Both follow the rules of the file reader. In JSON an omitted variable was not measured, and a
name that is not a variable is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibt_deploy.errors import InputError, MalformedFile, UnsupportedFormat
from ibt_deploy.files import MemoryFolder
from ibt_deploy.predictions import Refusal
from ibt_deploy.readers.columns import Numbers
from ibt_deploy.readers.stays import (
    DELIMITERS,
    HOSPITAL,
    HOUR,
    KNOWN,
    PARQUET_MAGIC,
    PATIENT,
    SPELT,
    read_each,
    stays_of_table,
)
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import NAMES
from serving.http.problems import Problem
from serving.input.json_text import as_object, record_name
from serving.settings import Settings

FORMAT = "JSON"
MOST_COLUMNS = 200
LONGEST_LINE = 2**16
"""Bytes; a line of millions of cells would keep a thread busy for minutes."""
MARKS = tuple(mark.encode() for mark in DELIMITERS)
WORDS = frozenset((PATIENT, HOSPITAL))
_WORD = re.compile(r"[\w .:+-]{1,64}")
_PATIENT_COLUMN = re.compile(rb'(?:^|[|,;\t"])\s*patient_id\s*(?:$|[|,;\t"])')
Columns = dict[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Stays:
    """Stays to score, and whether the client asked for one stay or for a list of them."""

    items: list[Stay | Refusal]
    several: bool


def from_text(name: str, text: bytes, settings: Settings) -> Stays:
    """Stays of a CSV, PSV or TSV text; several if it has a column ``patient_id``.

    Raises
    ------
    Problem
        Too many rows.
    InputError
        The table as a whole is refused.
    """
    if text.startswith(PARQUET_MAGIC) or name.lower().endswith(".parquet"):
        raise UnsupportedFormat("Parquet is not accepted here; send CSV, PSV or JSON", where=name)
    if max(text.count(b"\n"), text.count(b"\r")) > settings.rows + 1:
        raise _too_many(settings)
    lines = text.splitlines()
    if max(map(len, lines), default=0) > LONGEST_LINE:
        raise MalformedFile(f"a line is longer than {LONGEST_LINE} bytes", where=name)
    header = next((line for line in lines if line.strip()), b"")
    if max(map(header.count, MARKS)) >= MOST_COLUMNS:
        raise MalformedFile(f"has more than {MOST_COLUMNS} columns", where=name, code="too_many_columns")
    file = MemoryFolder({name: text}) / name
    items = list(_answers(str(file), read_each(file)))
    if sum(len(item.values) for item in items if isinstance(item, Stay)) > settings.rows:
        raise _too_many(settings)
    return Stays(items, PATIENT.encode() in header and bool(_PATIENT_COLUMN.search(header)))


def from_json(value: Any, settings: Settings, record: str | None) -> Stays:
    """Stays of parsed JSON.

    Parameters
    ----------
    value
        Rows as a list of objects; or an object with ``rows`` or ``columns`` and optionally ``record``; or an
        object with ``stays``, a list of such objects.
    settings
        Settings with the limit on the rows of all stays together.
    record
        Name for a single stay without a name of its own.

    Raises
    ------
    Problem
        The JSON has a different form, or too many rows.
    InputError
        The only table is refused as a whole.
    """
    if isinstance(value, dict) and "stays" in value:
        entries = as_object(value, {"stays"})["stays"]
        if not isinstance(entries, list) or not entries:
            raise Problem("bad_fields", "'stays' must be a list of objects with 'rows' or 'columns'.")
        tables = [_table(entry, f"stay-{number}") for number, entry in enumerate(entries, start=1)]
        if any(PATIENT in columns for _, columns in tables):
            raise Problem("bad_fields", "Each entry of 'stays' is one stay; omit patient_id.")
        _check_rows([columns for _, columns in tables], settings)
        return Stays([_one_stay(name, columns) for name, columns in tables], several=True)
    name, columns = _table(value, record_name(record, "stay"))
    _check_rows([columns], settings)
    if PATIENT in columns:
        return Stays(list(_answers(name, stays_of_columns(name, columns))), several=True)
    return Stays([_one_stay(name, columns)], several=False)


def stays_of_columns(name: str, columns: Columns) -> Iterator[Stay | InputError]:
    """The stays of checked columns, without a detour through text; errors as for a file called ``name``."""
    return stays_of_table(_Table(columns), FORMAT, MemoryFolder({}) / name)


class _Table:
    """JSON columns in the form for the reader of stays, with every variable present, measured or not."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        padded = (
            name for name in NAMES if name not in columns and not (name == "ICULOS" and HOUR in columns)
        )
        self.names = (*columns, *padded)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def words(self, name: str) -> list[str]:
        """A column of text; empty if there is none."""
        return [cell or "" for cell in self._columns[name]]

    def numbers(self, names: list[str]) -> Numbers:
        """Columns of numbers; NaN if a cell is null or its column is omitted."""
        values = np.full((len(self), len(names)), np.nan)
        for place, name in enumerate(names):
            if name in self._columns:
                values[:, place] = self._columns[name]
        return Numbers(values, {})


def columns_of(rows: Any) -> Columns:
    """Columns of a list of row objects; None where a row lacks one. Raises a Problem."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Problem("bad_fields", "Rows must be a list of objects, one for each hour.")
    if not rows:
        raise Problem("bad_fields", "The list of rows is empty.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _checked({name: [row.get(name) for row in rows] for name in names})


def _table(value: Any, default: str) -> tuple[str, Columns]:
    if isinstance(value, list):
        return default, columns_of(value)
    stated = as_object(value, {"rows", "columns", "record"})
    if ("rows" in stated) == ("columns" in stated):
        raise Problem("bad_fields", "A stay needs either 'rows' or 'columns'.")
    name = record_name(stated.get("record"), default)
    return name, columns_of(stated["rows"]) if "rows" in stated else _checked(stated["columns"])


def _checked(columns: Any) -> Columns:
    if not isinstance(columns, dict) or not 0 < len(columns) <= MOST_COLUMNS:
        raise Problem("bad_fields", f"'columns' must be an object of 1 to {MOST_COLUMNS} lists.")
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if -1 in lengths or len(lengths) != 1 or 0 in lengths:
        raise Problem("bad_fields", "Every column must be a list, and all of the same length above 0.")
    for name in columns:
        if name not in KNOWN:
            raise _unknown(name)
    for name, column in columns.items():
        if name in WORDS:
            columns[name] = [_word(cell) for cell in column]
        elif not set(map(type, column)) <= {int, float, type(None)}:
            raise Problem("bad_fields", "Values must be numbers, and null for what was not measured.")
    return columns


def _unknown(name: str) -> Problem | MalformedFile:
    meant = SPELT.get(name.casefold())
    if meant is not None:
        return MalformedFile(f"the column {name} must be spelt {meant}", code="misspelt_column")
    return Problem(
        "unknown_variable",
        "A name is not one of the 40 variables, hour, patient_id, hospital or SepsisLabel.",
    )


def _word(cell: Any) -> str | None:
    if cell is None:
        return None
    text = str(cell) if isinstance(cell, str | int) and not isinstance(cell, bool) else ""
    if not _WORD.fullmatch(text):
        raise Problem(
            "bad_fields", f"{PATIENT} and {HOSPITAL} are 1 to 64 letters, digits, blanks and _ . : + -."
        )
    return text


def _check_rows(tables: list[Columns], settings: Settings) -> None:
    if sum(len(next(iter(columns.values()))) for columns in tables) > settings.rows:
        raise _too_many(settings)


def _too_many(settings: Settings) -> Problem:
    return Problem(
        "too_many_rows",
        f"More than {settings.rows} hourly rows in one request; send fewer or use 'ibt batch'.",
    )


def _one_stay(name: str, columns: Columns) -> Stay | Refusal:
    (item,) = _answers(name, stays_of_columns(name, columns))
    return item


def _answers(name: str, stays: Iterator[Stay | InputError]) -> Iterator[Stay | Refusal]:
    """A stay or a refusal per patient; one refusal for a table that is refused as a whole."""
    try:
        for answer in stays:
            yield Refusal.of(name, answer) if isinstance(answer, InputError) else answer
    except InputError as error:
        yield Refusal.of(name, error.at(name))
