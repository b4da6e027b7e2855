"""Re-read the lines that the engine skipped, one by one, by the rules of the single-file reader.

The engine skips a line that it cannot parse and reports its number. Here such a line is either good after all
(a cell of blanks, digits of another script, a stray quotation mark that had swallowed adjacent lines) and is
written out plainly for a second pass, or it is a fault, attributed to its patient if the line names one and
to the export otherwise.
"""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.layout import Layout, is_missing
from ibt_deploy.batch.tables.survey import TableFile, cells_of, opened
from ibt_deploy.errors import BadRows, InputError, MalformedFile, first_line
from ibt_deploy.readers.columns import MEASURED, MISSING_WORDS, cell_number, shortened

LONGEST_LINE = 1 << 21


@dataclass(frozen=True)
class RowFault:
    """A row that cannot be used.

    Attributes
    ----------
    file, row
        Number of the file, and of the row in it, counted from 1 below the header.
    patient
        Its probable patient; None where unknown.
    is_certain
        Whether the patient's cell is in its place; otherwise the name counts only if another row has it.
    code, message
        What is wrong.
    """

    file: int
    row: int
    patient: str | None
    is_certain: bool
    code: str
    message: str


@dataclass
class SkippedLines:
    """Skipped lines of files with one header: good rows, which are written to ``path``, and faults.

    Attributes
    ----------
    layout, names, delimiter
        Common to the files.
    path
        Where good rows go: file, row, then the cells that the layout reads, with commas and points.
    line_of
        Returns the line number of a row, given the numbers of file and row.
    faults
        The first fault of each patient, and all faults whose patient is uncertain.
    rows
        Good rows written.
    patients
        File and patient of good rows, where a column names the patient.
    touched
        File and row of every line seen here, one after the other.
    bad
        Number of faulty rows in each file.
    limits
        Number of measurements in each file's columns that were limits, as in ``<0.5``.
    """

    layout: Layout
    names: tuple[str, ...]
    delimiter: str
    path: Path
    line_of: Callable[[int, int], int]
    faults: list[RowFault] = field(default_factory=list)
    rows: int = 0
    patients: set[tuple[int, str]] = field(default_factory=set)
    touched: array[int] = field(default_factory=lambda: array("q"))
    bad: Counter[int] = field(default_factory=Counter)
    limits: Counter[tuple[int, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._blamed: set[tuple[int, str]] = set()
        self._stream = self.path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._numbers = set(self.layout.number_sources)
        self._measured = {n.source: n.target for n in self.layout.numbers if n.target in MEASURED}
        self._columns = [(name, self.names.index(name)) for name in self.columns]
        self._patient = None if self.layout.patient is None else self.names.index(self.layout.patient)

    @property
    def columns(self) -> tuple[str, ...]:
        """Source columns that are written out, in order."""
        return (*self.layout.texts, *self.layout.number_sources)

    def add(self, file: int, row: int, line: str, stay: str | None) -> None:
        """Classify one line; ``stay`` names its stay if the file is a single one."""
        if not line or line.isspace():
            return
        self.touched.extend((file, row))
        try:
            if len(line) > LONGEST_LINE:
                raise MalformedFile("a line that never ends", code="ragged_rows")
            cells = cells_of(line, self.delimiter)
        except MalformedFile as error:
            self._fault(file, row, stay, stay is not None, error)
            return
        is_whole = len(cells) == len(self.names)
        patient = stay
        if self._patient is not None and len(cells) > self._patient:
            patient = _name(cells[self._patient])
        if not is_whole:
            line_at = self.line_of(file, row)
            found = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
            message = f"line {line_at} has {found}, the header has {len(self.names)}"
            self._fault(file, row, patient, stay is not None, MalformedFile(message, code="ragged_rows"))
            return
        written = []
        limits: dict[int, list[str]] = {}
        for name, place in self._columns:
            cell = cells[place]
            if name in self._numbers:
                try:
                    cell = self._number(cell, file, row, name, limits)
                except BadRows as error:
                    self._fault(file, row, patient, True, error)
                    return
            written.append(cell)
        self._writer.writerow([file, row, *written])
        self.rows += 1
        if self._patient is not None and patient is not None:
            self.patients.add((file, patient))
        self.limits.update((file, name) for names in limits.values() for name in names)

    def undecodable(self, file: int, row: int, line: str, stay: str | None) -> None:
        """Process a line that cannot be decoded."""
        self.touched.extend((file, row))
        patient = stay
        if self._patient is not None and '"' not in line:
            cells = line.split(self.delimiter)
            patient = _name(cells[self._patient]) if len(cells) == len(self.names) else None
        error = MalformedFile(
            f"line {self.line_of(file, row)} is not {self.layout.encoding.upper()} text", code="not_text"
        )
        self._fault(file, row, patient, stay is not None, error)

    def whole_file(self, file: int, table: TableFile, stay: str | None) -> None:
        """Process every line of a file.

        Raises
        ------
        InputError
            The file is damaged.
        """
        try:
            for row, line in enumerate(_lines(table)):
                if row:
                    self._decoded(file, row, line, stay)
        except OSError as error:
            reason = first_line(error)
            raise MalformedFile(
                f"is damaged: {reason}", where=str(table.path), code="truncated_file"
            ) from error

    def forget(self, file: int) -> None:
        """Discard everything known about a file, because all of it is read again."""
        self.faults = [fault for fault in self.faults if fault.file != file]
        places = np.array(self.touched, dtype=np.int64).reshape(-1, 2)
        self.touched = array("q", places[places[:, 0] != file].ravel().tolist())
        self.patients = {found for found in self.patients if found[0] != file}
        self.bad.pop(file, None)
        self.limits = Counter({key: count for key, count in self.limits.items() if key[0] != file})

    def close(self) -> None:
        """Close the file of good rows."""
        self._stream.close()

    def _decoded(self, file: int, row: int, line: bytes, stay: str | None) -> None:
        try:
            self.add(file, row, line.decode(self.layout.encoding), stay)
        except UnicodeDecodeError:
            self.undecodable(file, row, line.decode(self.layout.encoding, errors="replace"), stay)

    def _number(self, cell: str, file: int, row: int, name: str, limits: dict[int, list[str]]) -> str:
        if is_missing(cell, self.layout.missing_words):
            return ""
        plain = cell
        if self.layout.decimal == ",":
            plain = "?" if "." in cell else cell.replace(",", ".")
        faults: dict[int, BadRows] = {}
        own: dict[int, list[str]] = {}
        target = self._measured.get(name)
        number = cell_number(plain, row - 1, shortened(name), faults, own if target else None)
        if own and target:
            limits.setdefault(row, []).append(target)
        if faults:
            place = f"line {self.line_of(file, row)}, column {shortened(name)}"
            raise BadRows(f"{place}: {shortened(cell.strip())!r} is not a number", code="not_a_number")
        return repr(number)

    def _fault(self, file: int, row: int, patient: str | None, is_certain: bool, error: InputError) -> None:
        self.bad[file] += 1
        if is_certain and patient is not None:
            key = (file if self._patient is None else -1, patient)
            if key in self._blamed:
                return
            self._blamed.add(key)
        self.faults.append(RowFault(file, row, patient, is_certain, error.code, error.message))


def _name(cell: str) -> str | None:
    """The patient that a cell names; None where it is missing."""
    name = cell.strip()
    return None if name.casefold() in MISSING_WORDS else name


def _lines(table: TableFile) -> Iterator[bytes]:
    """Lines that are not blank, with any line ending; the first is the header."""
    with opened(table.path, table.compression) as file:
        for line in _split(file):
            if line.strip():
                yield line


def _split(file: Any) -> Iterator[bytes]:
    rest, chunk = b"", file.read(1 << 20)
    while chunk:
        if chunk.endswith(b"\r"):
            chunk += file.read(1)
        *lines, rest = (rest + chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).split(b"\n")
        yield from lines
        if len(rest) > 1 << 26:
            raise MalformedFile("a line that never ends", code="table_too_large")
        chunk = file.read(1 << 20)
    yield rest
