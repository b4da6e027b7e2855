"""Files beside the sorted rows: where each stay begins, row numbers, and rows whose stay is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.batch.tables.faults import RowFault
from ibt_deploy.batch.tables.sql import TIMES
from ibt_deploy.batch.tables.survey import TableFile, arrow, line_of
from ibt_deploy.readers.stays import HOSPITAL, HOUR, LABEL
from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import N_VARIABLES, NAMES

STORE, REJECTED, STARTS = "stays.parquet", "rejected.parquet", "starts.npy"
BASES, GAPS, BLANKS = "bases.npy", "gaps.npy", "blanks.npy"
NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of whole stays as stored."""

    patients: npt.NDArray[np.object_]
    files: Ints
    lines: Ints
    values: Floats
    hours: Floats
    labels: Floats
    times: Ints
    hospitals: npt.NDArray[np.object_]
    faults: npt.NDArray[np.object_]

    @classmethod
    def of(cls, rows: Any) -> Block:
        """Build from an Arrow table of the store's columns."""

        def numbers(name: str) -> Floats:
            return np.asarray(rows[name].to_numpy(), dtype=np.float64)

        def words(name: str) -> npt.NDArray[np.object_]:
            return np.asarray(rows[name].to_numpy(), dtype=object)

        values = np.empty((rows.num_rows, N_VARIABLES))
        for column, name in enumerate(NAMES):
            values[:, column] = numbers(name)
        times = np.stack([np.asarray(rows[name].fill_null(NO_TIME).to_numpy()) for name in TIMES], axis=1)
        return cls(
            words("patient"), np.asarray(rows["file"].to_numpy(), dtype=np.int64),
            np.asarray(rows["line"].to_numpy()), values, numbers(HOUR), numbers(LABEL), times,
            words(HOSPITAL), words("fault"),
        )  # fmt: skip

    @property
    def stated(self) -> Floats:
        """Values of each row other than its time, shape ``(rows, columns)``."""
        return np.column_stack((self.values, self.labels))

    def part(self, begin: int, end: int) -> Block:
        """A range of rows."""
        return Block(*(getattr(self, name)[begin:end] for name in self.__dataclass_fields__))

    def only(self, rows: Bools | Ints) -> Block:
        """Some of the rows, by a mask or by their indices."""
        return Block(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def write_starts(folder: Path, nameless: int) -> Ints:
    """Write where each stay begins in the store, and where the last one ends.

    Parameters
    ----------
    folder
        Folder of the store.
    nameless
        Number of rows at its end that name no patient.

    Returns
    -------
    numpy.ndarray
        Shape ``(stays + 1,)``, ascending from 0.
    """
    import pyarrow.parquet as pq

    starts: list[Ints] = [np.zeros(1, dtype=np.int64)]
    place, last = 0, None
    with pq.ParquetFile(folder / STORE) as file:
        total = file.metadata.num_rows - nameless
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["patient", "part"])
            names = np.asarray(rows["patient"].to_numpy(zero_copy_only=False))
            parts = rows["part"].to_numpy()
            differs = (names[1:] != names[:-1]) | (parts[1:] != parts[:-1])
            begins = np.flatnonzero(differs) + 1 + place
            if last is not None and (names[0], parts[0]) != last:
                begins = np.concatenate([[place], begins])
            starts.append(begins)
            place += len(names)
            last = (names[-1], parts[-1])
    found = np.concatenate(starts)
    found = np.append(found[found < total], total) if total else np.zeros(1, dtype=np.int64)
    np.save(folder / STARTS, found)
    return found


def whole_stays(folder: Path, starts: Ints) -> Iterator[tuple[Any, Ints]]:
    """Yield Arrow tables of whole stays, each with the offsets of its stays and the end of the last one.

    Parameters
    ----------
    folder
        Folder of the store.
    starts
        Offsets of consecutive stays in the store, and the end of the last one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(starts) < 2:
        return
    with pq.ParquetFile(folder / STORE) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        rest, place, done = None, 0, 0
        for group in range(int(np.searchsorted(ends, starts[0], side="right")), len(sizes)):
            begin = int(ends[group]) - sizes[group]
            rows = file.read_row_group(group, use_threads=False)
            if rest is None:
                place = int(starts[0])
                rows = rows.slice(place - begin)
            else:
                rows = pa.concat_tables([rest, rows])
            whole = int(np.searchsorted(starts, ends[group], side="right")) - 1
            if whole > done:
                bounds = starts[done : whole + 1] - place
                yield rows.slice(0, int(bounds[-1])).combine_chunks(), bounds
                rest, place, done = rows.slice(int(bounds[-1])), int(starts[whole]), whole
            else:
                rest = rows
            if done == len(starts) - 1:
                return


def write_row_numbers(
    folder: Path, files: Sequence[TableFile], bases: dict[int, int], touched: Sequence[Ints]
) -> None:
    """Write what :class:`RowNumbers` needs.

    Parameters
    ----------
    folder
        Folder of the store.
    files
        In the order of their numbers.
    bases
        Position of each file's first row in its scan.
    touched
        File and row of lines that the scan skipped, each of shape ``(lines, 2)``.
    """
    places = np.ones(len(files), dtype=np.int64)
    for number, base in bases.items():
        places[number] = base
    np.save(folder / BASES, places)
    gaps = np.concatenate([np.empty((0, 2), dtype=np.int64), *touched])
    np.save(folder / GAPS, gaps[np.lexsort((gaps[:, 1], gaps[:, 0]))])
    blanks = [np.column_stack([np.full(len(f.blanks), n), f.blanks]) for n, f in enumerate(files)]
    np.save(folder / BLANKS, np.concatenate([np.empty((0, 2), dtype=np.int64), *blanks]))


class RowNumbers:
    """Converts positions in a scan to row numbers in the files, counted from 1 below the header.

    Parameters
    ----------
    folder
        Folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._bases = np.load(folder / BASES)
        self._gaps = np.load(folder / GAPS)
        self._blanks = np.load(folder / BLANKS)

    def line_of(self, file: int, line: int) -> int:
        """Line of a text file, counted from 1 including the header; ``line`` as for :meth:`of`."""
        return line_of(self.of(file, line), self._blanks[self._blanks[:, 0] == file, 1])

    def of(self, file: int, line: int) -> int:
        """The row number; a ``line`` that is not positive is the negated row number itself."""
        if line <= 0:
            return -line
        row = line - int(self._bases[file]) + 1
        skipped = self._gaps[self._gaps[:, 0] == file, 1]
        return row + int(np.searchsorted(skipped - np.arange(len(skipped)), row, side="right"))


def place_of(file: TableFile, row: int) -> str:
    """The label of a row below the header: ``line 7`` of a text, ``row 6`` of a Parquet file."""
    return f"row {row}" if file.is_parquet else f"line {file.line_of(row)}"


def write_rejected(folder: Path, files: Sequence[TableFile], faults: Sequence[RowFault]) -> None:
    """Write the rows whose stay is unknown, each labelled by :func:`place_of`."""
    pa = arrow()
    import pyarrow.parquet as pq

    columns = {
        "file": pa.array([str(files[fault.file].path) for fault in faults], pa.string()),
        "place": pa.array([place_of(files[fault.file], fault.row) for fault in faults], pa.string()),
        "code": pa.array([fault.code for fault in faults], pa.string()),
        "message": pa.array([fault.message for fault in faults], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / REJECTED)
