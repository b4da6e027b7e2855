"""The first rows of a table, column by column, for a person's first look and for a suggestion."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibt_deploy.errors import InputError, MalformedFile
from ibt_deploy.extras import missing_extra
from ibt_deploy.printable import first_line
from ibt_deploy.readers.columns import LIMIT, MISSING_WORDS, unreadable
from ibt_deploy.readers.stays import DELIMITERS, PARQUET_MAGIC
from ibt_deploy.types import Floats

MOST_ROWS = 50_000
MOST_BYTES = 1 << 24
COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
POINT_NUMBER = re.compile(r"[+-]?\d+\.\d+")


@dataclass(frozen=True)
class Sample:
    """The first rows of a table.

    Attributes
    ----------
    path
        Of the file.
    columns
        Cells by column, as text, stripped.
    delimiter, decimal, encoding
        How the text is written; of Parquet ``None``, a point and UTF-8.
    """

    path: Path
    columns: dict[str, list[str]]
    delimiter: str | None
    decimal: str
    encoding: str

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return max(map(len, self.columns.values()), default=0)

    def numbers(self, name: str) -> Floats:
        """The cells of a column that are numbers."""
        found = []
        for cell in self.columns[name]:
            try:
                found.append(float(cell.replace(",", ".") if self.decimal == "," else cell))
            except ValueError:
                continue
        values = np.array(found, dtype=np.float64)
        return values[np.isfinite(values)]

    def words(self, name: str) -> Counter[str]:
        """Cells of a column, counted, that are not numbers, limits (``<0.5``) or empty."""
        found: Counter[str] = Counter()
        for cell in self.columns[name]:
            if cell.casefold() in MISSING_WORDS:
                continue
            try:
                float(LIMIT.sub("", cell.replace(",", ".") if self.decimal == "," else cell, count=1))
            except ValueError:
                found[cell] += 1
        return found

    def values(self, name: str) -> Counter[str]:
        """The cells of a column that are not empty, and how often they occur."""
        return Counter(cell for cell in self.columns[name] if cell.casefold() not in MISSING_WORDS)


UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def sampled(path: Path) -> Sample:
    """The first rows of the file at ``path``.

    Raises
    ------
    InputError
        It cannot be read.
    MissingExtra
        Parquet or a compressed file without pyarrow.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if not head:
            raise MalformedFile("the file is empty", code="empty_file")
        return _parquet(path) if head.startswith(PARQUET_MAGIC) else _text(path, head)
    except InputError as error:
        raise error.at(str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from error


def _parquet(path: Path) -> Sample:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_extra(error, "reading Parquet") from error
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=MOST_ROWS), None)
            names = file.schema_arrow.names
    except pa.ArrowException as error:
        raise MalformedFile(f"cannot be read as Parquet: {first_line(error)}") from error
    cells = {name: [] if batch is None else batch.column(i).to_pylist() for i, name in enumerate(names)}
    columns = {
        name: ["" if cell is None else str(cell).strip() for cell in column] for name, column in cells.items()
    }
    return Sample(path, columns, None, ".", "utf-8")


def _text(path: Path, head: bytes) -> Sample:
    data = _start(path, head)
    if b"\0" in data:
        what = "UTF-16 text" if data[:2] in UTF_16 else "a binary file, perhaps a spreadsheet"
        raise MalformedFile(f"this is {what}; export the table as CSV in UTF-8", code="not_text")
    is_whole = len(data) < MOST_BYTES
    try:
        text, encoding = data.decode("utf-8-sig", errors="strict" if is_whole else "ignore"), "utf-8"
        if not is_whole:
            data[: MOST_BYTES // 2].rpartition(b"\n")[0].decode("utf-8-sig")
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    lines = [line for line in text.splitlines() if line.strip()]
    if not is_whole:
        lines.pop()
    if not lines:
        raise MalformedFile("the file is empty", code="empty_file")
    delimiter = max(DELIMITERS, key=lines[0].count)
    rows = csv.reader(io.StringIO("\n".join(lines[: MOST_ROWS + 1])), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(rows)]
        kept = [row for row in rows if len(row) == len(names)]
    except csv.Error as error:
        raise MalformedFile(f"cannot be read as a table: {error}") from error
    columns = {name: [row[i].strip() for row in kept] for i, name in enumerate(names) if name}
    cells = [cell for column in columns.values() for cell in column[:1000]]
    commas = sum(bool(COMMA_NUMBER.fullmatch(cell)) for cell in cells)
    points = sum(bool(POINT_NUMBER.fullmatch(cell)) for cell in cells)
    return Sample(path, columns, delimiter, "," if commas > points and delimiter != "," else ".", encoding)


def _start(path: Path, head: bytes) -> bytes:
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2])
    if compression is None:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise missing_extra(error, "reading compressed tables") from error
    with pa.input_stream(str(path), compression=compression) as stream:
        return bytes(stream.read(MOST_BYTES))


def quoted(value: str) -> str:
    """A TOML string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
