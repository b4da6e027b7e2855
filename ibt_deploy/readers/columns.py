"""Tables read column by column: plain text fast, with exact reports of faulty cells, and Parquet."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, MalformedFile, TooLong, first_line, require
from ibt_deploy.files import File, openable
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import NAMES

MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none"})
LONGEST_SHOWN = 40
MOST_COLUMNS = 10_000
ROWS_AT_ONCE = 2048
MEASURED = frozenset(NAMES[: NAMES.index("Age") + 1])
LIMIT = re.compile(r"(?:[<>]=?|[≤≥])\s*")
"""Sign in front of a limit of measurement, as in ``<0.5``."""
_OF_NUMBERS = b"0123456789+-.eEnNaA"


@dataclass(frozen=True, eq=False)
class Numbers:
    """Columns of a table.

    Attributes
    ----------
    values
        Shape ``(rows, columns)``; NaN where a cell is empty.
    faults
        For each row (from 0) with a cell that is not a finite number: which cell that is. Messages count
        rows from 1, the first below the header. One patient must not make a table of many fail.
    limits
        For each row (from 0) with a measurement such as ``<0.5``, which counts as 0.5: its columns.
    """

    values: Floats
    faults: dict[int, BadRows]
    limits: dict[int, list[str]] = field(default_factory=dict)


def unreadable(path: Path, error: OSError) -> MalformedFile:
    """The refusal of a table that the system, or its decompressor, cannot read."""
    code = "no_such_file" if isinstance(error, FileNotFoundError) else "unreadable_file"
    if error.errno is None:  # not from the system: the decompressor found damage
        code = "malformed_file"
    reason = error.strerror or first_line(error)
    return MalformedFile(f"cannot be read: {reason}", where=str(path), code=code)


class DelimitedTable:
    """A header and rows of cells, read column by column.

    Parameters
    ----------
    text
        The whole file; the first line that is not blank is the header.
    delimiter
        One character.

    Attributes
    ----------
    names
        Column names, stripped of surrounding blanks.

    Raises
    ------
    MalformedFile
        No header, more columns than any export has, a name that occurs twice, a row with more or fewer cells
        than the header, or a cell of absurd length.
    """

    def __init__(self, text: str, delimiter: str) -> None:
        every = text.splitlines()
        lines = [line for line in every if line and not line.isspace()]
        if not lines:
            raise MalformedFile("the file is empty", code="empty_file")
        self._delimiter = delimiter
        self._plain = '"' not in text
        self._lines = lines[1:]
        self._places: list[int] = []
        if len(lines) < len(every):
            self._places = [n for n, line in enumerate(every, start=1) if line and not line.isspace()][1:]
        if lines[0].count(delimiter) >= MOST_COLUMNS:
            raise MalformedFile(f"has more than {MOST_COLUMNS} columns", code="too_many_columns")
        self.names = tuple(name.strip() for name in self._cells(lines[0]))
        width = len(self.names)
        if len(set(self.names)) < width:
            doubled = sorted(name for name, times in Counter(self.names).items() if name and times > 1)
            if doubled:
                raise MalformedFile(f"the column {shortened(doubled[0])} occurs twice", code="doubled_column")
        found = [self._width(line) for line in self._lines]
        if found and (min(found) < width or max(found) > width):
            row, other = next((row, n) for row, n in enumerate(found, start=1) if n != width)
            cells = f"{other} cell{'s' * (other != 1)}"
            message = f"{self.row(row - 1)} has {cells}, the header has {width}"
            raise MalformedFile(message, code="ragged_rows")

    def row(self, index: int) -> str:
        """The name in messages of a row counted from 0: its line in the file, counted from 1."""
        return f"line {self._places[index] if self._places else index + 2}"

    def __len__(self) -> int:
        return len(self._lines)

    def words(self, name: str) -> list[str]:
        """One column as text."""
        column = self.names.index(name)
        return [self._cells(line)[column].strip() for line in self._lines]

    def numbers(self, names: Sequence[str]) -> Numbers:
        """Some columns as numbers."""
        if tuple(names) == self.names:
            columns = list(range(len(names)))
        else:
            places = {name: column for column, name in enumerate(self.names)}
            columns = [places[name] for name in names]
        if not (self._lines and columns):
            return Numbers(np.empty((len(self._lines), len(columns))), {})
        faults: dict[int, BadRows] = {}
        limits: dict[int, list[str]] = {}
        parts = [
            self._part(first, columns, faults, limits) for first in range(0, len(self._lines), ROWS_AT_ONCE)
        ]
        return replace(without_infinity(np.concatenate(parts), names, faults), limits=limits)

    def _part(
        self, first: int, columns: list[int], faults: dict[int, BadRows], limits: dict[int, list[str]]
    ) -> Floats:
        """Some columns of the rows from ``first`` on, at once, or column by column if one is irregular."""
        lines = self._lines[first : first + ROWS_AT_ONCE]
        width, mark = len(self.names), self._delimiter
        if self._plain:
            text = _filled(mark.join(lines), mark)
            if columns == list(range(width)):
                whole = plain_numbers(text, len(lines) * width, mark)
                if whole is not None:
                    return whole.reshape(len(lines), width)
            cells = text.split(mark)
        else:
            cells = [cell for line in lines for cell in self._cells(line)]
        values = np.empty((len(lines), len(columns)))
        for place, column in enumerate(columns):
            values[:, place] = column_numbers(cells[column::width], first, self.names[column], faults, limits)
        return values

    def _width(self, line: str) -> int:
        return line.count(self._delimiter) + 1 if self._plain else len(self._cells(line))

    def _cells(self, line: str) -> list[str]:
        if self._plain:
            return line.split(self._delimiter)
        try:
            return next(csv.reader([line], delimiter=self._delimiter))
        except csv.Error as error:
            raise MalformedFile(f"{shortened(line)!r} cannot be read as a row: {error}") from error


def plain_numbers(text: str, count: int, mark: str) -> Floats | None:
    """The ``count`` numbers in ``text``, separated by ``mark``; None if it holds anything else.

    Blanks count as something else too: numpy reads a blank cell as -1.
    """
    if not text.isascii() or text.encode().translate(None, _OF_NUMBERS + mark.encode()):
        return None
    try:
        # the number at the end is reached only where all before it could be read
        found = np.fromstring(f"{text}{mark}0", np.float64, sep=mark)
    except ValueError:
        return None
    return found[:-1] if len(found) == count + 1 else None


def column_numbers(
    cells: Sequence[str],
    first: int,
    column: str,
    faults: dict[int, BadRows],
    limits: dict[int, list[str]] | None = None,
) -> Sequence[float]:
    """:func:`cell_number` of a column's cells, the first of which is in row ``first``."""
    try:
        if "_" not in "".join(cells):  # float() would read 1_000
            return list(map(float, cells))
    except ValueError:
        pass  # some cell is not a number: check each to find which
    known = limits if column in MEASURED else None
    return [cell_number(cell, row, column, faults, known) for row, cell in enumerate(cells, first)]


def _filled(text: str, mark: str) -> str:
    """``text`` with NaN in its empty cells."""
    text = f"{mark}{text}{mark}"
    if mark + mark in text:
        # twice, since replacements do not overlap
        text = text.replace(mark + mark, f"{mark}nan{mark}").replace(mark + mark, f"{mark}nan{mark}")
    return text[1:-1]


def cell_number(
    cell: str, row: int, column: str, faults: dict[int, BadRows], limits: dict[int, list[str]] | None = None
) -> float:
    """The number in a cell; NaN if it is empty, NaN, NA, N/A, null or None.

    With ``limits``, ``<0.5`` and ``>30`` are the limit itself, as in the training data, and are
    recorded there. Anything else is NaN too, with a fault for the row unless it already has one.
    """
    text = cell.strip()
    if text.casefold() in MISSING_WORDS:
        return math.nan
    sign = LIMIT.match(text) if limits is not None else None
    try:
        if "_" not in text:
            number = float(text[sign.end() :] if sign else text)
            if sign and limits is not None:
                limits.setdefault(row, []).append(column)
            return number
    except ValueError:
        pass
    message = f"row {row + 1}, column {column}: {shortened(text)!r} is not a number"
    faults.setdefault(row, BadRows(message, code="not_a_number"))
    return math.nan


def shortened(text: str) -> str:
    """``text``, cut if it would swamp a message."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def without_infinity(
    values: Floats, names: Sequence[str], faults: dict[int, BadRows] | None = None
) -> Numbers:
    """Numbers in which rows with an infinite value have a fault."""
    found = {} if faults is None else faults
    infinite = np.isinf(values)
    for row, column in np.argwhere(infinite).tolist() if infinite.any() else ():
        found.setdefault(row, BadRows(f"row {row + 1}, column {names[column]}: infinite", code="infinite"))
    return Numbers(values, found)


MAX_ROWS = 20_000_000
"""Maximum number of rows read; their 40 variables take 6 GiB."""
MAX_UNPROVEN, MAX_RATIO = 128 << 20, 200
"""Bytes of numbers that any file may expand to, and the multiple of its own size allowed beyond: a column
that repeats one value takes a few bytes, however many rows it has."""


class ParquetTable:
    """Rows of a Parquet file, read column by column.

    Parameters
    ----------
    file
        On disk or in memory.

    Attributes
    ----------
    names
        The column names.

    Raises
    ------
    MissingExtra
        pyarrow is not installed.
    MalformedFile
        Not Parquet, damaged, or a name that occurs twice.
    TooLong
        More than :data:`MAX_ROWS` rows, or far more than the file can hold.
    """

    def __init__(self, file: File) -> None:
        require("reading Parquet", "pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._errors = (pa.ArrowException, OSError, ValueError)  # ValueError: names not in UTF-8
        try:
            self._file = pq.ParquetFile(openable(file))
            self._rows = int(self._file.metadata.num_rows)
            self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        except self._errors as error:
            raise _damaged(error) from error
        if self._rows < 0:
            raise MalformedFile(f"claims {self._rows} rows", code="bad_header")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled:
            raise MalformedFile(f"the column {shortened(doubled[0])} occurs twice", code="doubled_column")
        if len(self) > MAX_ROWS:
            raise TooLong(
                f"{len(self)} rows; cut it by patients into files of at most {MAX_ROWS}",
                code="table_too_large",
            )
        if 8 * self._rows * len(self.names) > max(MAX_UNPROVEN, MAX_RATIO * file.stat().st_size):
            raise TooLong(
                f"claims {self._rows} rows, far more than its size can hold; give it to 'ibt batch'",
                code="table_too_large",
            )

    def __len__(self) -> int:
        return self._rows

    def words(self, name: str) -> list[str]:
        """One column as text; empty where it is null."""
        try:
            cells = self._cells(name).to_pylist()
        except self._errors as error:
            raise _damaged(error) from error
        return ["" if cell is None else str(cell).strip() for cell in cells]

    def numbers(self, names: Sequence[str]) -> Numbers:
        """Some columns as numbers; NaN where a cell is null.

        Raises
        ------
        MalformedFile
            Damaged pages.
        """
        values = np.empty((len(self), len(names)))
        faults: dict[int, BadRows] = {}
        for column, name in enumerate(names):
            values[:, column] = self._column(name, faults)
        return without_infinity(values, names, faults)

    def _column(self, name: str, faults: dict[int, BadRows]) -> Floats:
        import pyarrow as pa

        try:
            cells = self._cells(name)
            if pa.types.is_floating(cells.type) or pa.types.is_integer(cells.type):
                return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
            texts = ["" if cell is None else str(cell) for cell in cells.to_pylist()]
        except self._errors as error:
            raise _damaged(error) from error
        return np.array([cell_number(text, row, name, faults) for row, text in enumerate(texts)])

    def _cells(self, name: str) -> Any:
        """A whole column."""
        cells = self._file.read(columns=[name])[name]
        if len(cells) != self._rows:
            raise MalformedFile(
                f"a column of {len(cells)} rows in a table of {self._rows}", code="truncated_file"
            )
        return cells


def _damaged(error: Exception) -> MalformedFile:
    return MalformedFile(f"cannot be read as Parquet: {first_line(error)[:200]}")
