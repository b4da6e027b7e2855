"""Tables of numbers as text: fast where the text is plain, exact about the place where it is not."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadRows, MalformedFile

MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none"})
LONGEST_SHOWN = 40
MOST_COLUMNS = 10_000


@dataclass(frozen=True, eq=False)
class Numbers:
    """Columns of a table.

    Attributes
    ----------
    values
        Shape ``(rows, columns)``; NaN where a cell is empty.
    faults
        For each row (from 0) with a cell that is not a finite number: which cell that is. Messages count
        rows from 1, the first below the header. A table of many patients must not fall with one of them.
    """

    values: npt.NDArray[np.float64]
    faults: dict[int, BadRows]


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
        The column names, stripped of blanks around them.

    Raises
    ------
    MalformedFile
        No header, more columns than any export has, a name that occurs twice, a row with more or fewer cells
        than the header, or a cell of absurd length.
    """

    def __init__(self, text: str, delimiter: str) -> None:
        lines = [line for line in text.splitlines() if line and not line.isspace()]
        if not lines:
            raise MalformedFile("the file is empty", code="empty_file")
        self._delimiter = delimiter
        self._plain = '"' not in text
        self._lines = lines[1:]
        if lines[0].count(delimiter) >= MOST_COLUMNS:
            raise MalformedFile(f"has more than {MOST_COLUMNS} columns", code="too_many_columns")
        self.names = tuple(name.strip() for name in self._cells(lines[0]))
        doubled = sorted(name for name, times in Counter(self.names).items() if name and times > 1)
        if doubled:
            raise MalformedFile(f"the column {shortened(doubled[0])} occurs twice", code="doubled_column")
        width = len(self.names)
        for row, line in enumerate(self._lines, start=1):
            found = line.count(delimiter) + 1 if self._plain else len(self._cells(line))
            if found != width:
                raise MalformedFile(
                    f"row {row} has {found} cells, the header has {width}", code="ragged_rows"
                )

    def __len__(self) -> int:
        return len(self._lines)

    def words(self, name: str) -> list[str]:
        """One column as text."""
        column = self.names.index(name)
        return [self._cells(line)[column].strip() for line in self._lines]

    def numbers(self, names: Sequence[str]) -> Numbers:
        """Some columns as numbers."""
        columns = [self.names.index(name) for name in names]
        if not (self._lines and columns):
            return Numbers(np.empty((len(self._lines), len(columns))), {})
        if self._plain:
            try:
                return without_infinity(
                    np.loadtxt(
                        self._filled(), delimiter=self._delimiter, usecols=columns, ndmin=2, comments=None
                    ),
                    names,
                )
            except ValueError:
                pass  # some cell is not a number: read cell by cell to tell which
        faults: dict[int, BadRows] = {}
        cells = (self._cells(line) for line in self._lines)
        values = np.array(
            [
                [cell_number(row_cells[column], row, self.names[column], faults) for column in columns]
                for row, row_cells in enumerate(cells)
            ]
        )
        return without_infinity(values, names, faults)

    def _cells(self, line: str) -> list[str]:
        if self._plain:
            return line.split(self._delimiter)
        try:
            return next(csv.reader([line], delimiter=self._delimiter))
        except csv.Error as error:
            raise MalformedFile(f"{shortened(line)!r} cannot be read as a row: {error}") from error

    def _filled(self) -> list[str]:
        """The lines with NaN in place of empty cells, which loadtxt does not take."""
        text, mark = "\n".join(["", *self._lines, ""]), self._delimiter
        if mark + mark in text or "\n" + mark in text or mark + "\n" in text:
            text = text.replace(mark + mark, f"{mark}nan{mark}").replace(mark + mark, f"{mark}nan{mark}")
            text = text.replace("\n" + mark, f"\nnan{mark}").replace(mark + "\n", f"{mark}nan\n")
        return text[1:-1].split("\n")


def cell_number(cell: str, row: int, column: str, faults: dict[int, BadRows]) -> float:
    """The number in a cell; NaN where it is empty, NaN, NA, N/A, null or None.

    Anything else is NaN too, with a fault for the row unless it has one already.
    """
    text = cell.strip()
    if text.casefold() in MISSING_WORDS:
        return math.nan
    try:
        if "_" not in text:  # float() would read 1_000
            return float(text)
    except ValueError:
        pass
    message = f"row {row + 1}, column {column}: {shortened(text)!r} is not a number"
    faults.setdefault(row, BadRows(message, code="not_a_number"))
    return math.nan


def shortened(text: str) -> str:
    """``text``, cut where a message would be drowned in it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def without_infinity(
    values: npt.NDArray[np.float64], names: Sequence[str], faults: dict[int, BadRows] | None = None
) -> Numbers:
    """Numbers in which rows with an infinite value have a fault."""
    found = {} if faults is None else faults
    for row, column in np.argwhere(np.isinf(values)).tolist():
        found.setdefault(row, BadRows(f"row {row + 1}, column {names[column]}: infinite", code="infinite"))
    return Numbers(values, found)
