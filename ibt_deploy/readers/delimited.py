"""Tables of numbers as text: fast where the text is plain, exact about the place where it is not."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadRows, MalformedFile

MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none"})


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
        No header, a name that occurs twice, or a row with more or fewer cells than the header.
    """

    def __init__(self, text: str, delimiter: str) -> None:
        lines = [line for line in text.splitlines() if line and not line.isspace()]
        if not lines:
            raise MalformedFile("the file is empty", code="empty_file")
        self._delimiter = delimiter
        self._plain = '"' not in text
        self._lines = lines[1:]
        self.names = tuple(name.strip() for name in self._cells(lines[0]))
        doubled = sorted({name for name in self.names if name and self.names.count(name) > 1})
        if doubled:
            raise MalformedFile(f"the column {doubled[0]} occurs twice", code="doubled_column")
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

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Some columns as numbers, shape ``(rows, len(names))``; NaN where a cell is empty, NaN or NA.

        Raises
        ------
        BadRows
            A cell that is not a finite number, with its row and column.
        """
        columns = [self.names.index(name) for name in names]
        if not (self._lines and columns):
            return np.empty((len(self._lines), len(columns)))
        try:
            if not self._plain:
                raise ValueError("quoted cells")
            numbers = np.loadtxt(
                self._filled(), delimiter=self._delimiter, usecols=columns, ndmin=2, comments=None
            )
        except ValueError:
            numbers = np.array(
                [self._row_numbers(line, columns, row) for row, line in enumerate(self._lines, 1)]
            )
        if np.isinf(numbers).any():
            row, column = np.argwhere(np.isinf(numbers))[0]
            raise BadRows(f"row {row + 1}, column {names[column]}: infinite", code="infinite")
        return numbers

    def _cells(self, line: str) -> list[str]:
        return (
            line.split(self._delimiter)
            if self._plain
            else next(csv.reader([line], delimiter=self._delimiter))
        )

    def _filled(self) -> list[str]:
        """The lines with NaN in place of empty cells, which loadtxt does not take."""
        text, mark = "\n".join(["", *self._lines, ""]), self._delimiter
        if mark + mark in text or "\n" + mark in text or mark + "\n" in text:
            text = text.replace(mark + mark, f"{mark}nan{mark}").replace(mark + mark, f"{mark}nan{mark}")
            text = text.replace("\n" + mark, f"\nnan{mark}").replace(mark + "\n", f"{mark}nan\n")
        return text[1:-1].split("\n")

    def _row_numbers(self, line: str, columns: list[int], row: int) -> list[float]:
        cells = self._cells(line)
        numbers = []
        for column in columns:
            cell = cells[column].strip()
            try:
                number = float("nan") if cell.casefold() in MISSING_WORDS else float(cell)
            except ValueError:
                name = self.names[column]
                raise BadRows(
                    f"row {row}, column {name}: {cell!r} is not a number", code="not_a_number"
                ) from None
            numbers.append(number)
        return numbers
