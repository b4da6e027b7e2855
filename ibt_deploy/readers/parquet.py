"""Parquet with the same face as a delimited table; pyarrow is loaded only when such a file comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ibt_deploy.errors import BadRows, MalformedFile, TooLong
from ibt_deploy.extras import missing_extra
from ibt_deploy.files import File, openable
from ibt_deploy.printable import first_line
from ibt_deploy.readers.delimited import Numbers, cell_number, shortened, without_infinity
from ibt_deploy.types import Floats

MAX_ROWS = 20_000_000
"""Read at most; their 40 variables take 6 GiB."""
MAX_UNPROVEN, MAX_RATIO = 128 << 20, 200
"""Bytes of numbers that any file may stand for, and how many times its own size it may beyond them: a column
that repeats one value takes some bytes, however many rows it has."""


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
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise missing_extra(error, "reading Parquet") from error
        self._errors = (pa.ArrowException, OSError, ValueError)  # ValueError: names that are no UTF-8
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
