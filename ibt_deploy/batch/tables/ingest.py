"""Sort an export on disk, in bounded memory: one sorted store of rows, and a list of unusable ones.

The engine is DuckDB, which parses, converts, sorts and spills within a limit of memory. Measured on the 1.4
million rows of the Challenge 2019 as one shuffled CSV (two cores, CPU seconds): DuckDB parses in 1.4, and
parses, sorts and writes Parquet in 5 to 7 with 0.5 GiB at a limit of 400 MiB; pyarrow parses in 2.2 and needs
5.6 to 7 and 1.15 GiB for the same, growing with the file, because it sorts in memory alone.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.faults import RowFault, SkippedLines
from ibt_deploy.batch.tables.layout import Layout
from ibt_deploy.batch.tables.sql import (
    FAULT,
    ORDER,
    STORED,
    Scan,
    engine,
    engine_fault,
    has_rejects,
    reread_relation,
    scans_of,
    text,
)
from ibt_deploy.batch.tables.store import (
    STORE,
    RowNumbers,
    write_rejected,
    write_row_numbers,
    write_starts,
)
from ibt_deploy.batch.tables.survey import TableFile, arrow
from ibt_deploy.errors import InputError, first_line, one_line

ROWS_IN_GROUP = 32_768


@dataclass(frozen=True)
class Ingested:
    """The result of an ingest, besides its files.

    Attributes
    ----------
    rows
        Rows in the store that belong to a stay.
    patients
        Stays.
    rejected
        Rows that could not be used.
    unassigned
        Unusable rows whose patient is unknown.
    refused
        Files that could not be read at all: number, code and message.
    limits
        Measurements of each variable that were given as a limit, as in ``<0.5``.
    """

    rows: int
    patients: int
    rejected: int
    unassigned: int
    refused: tuple[tuple[int, str, str], ...]
    limits: dict[str, int]


def ingest(
    files: Sequence[tuple[TableFile, Layout]], folder: Path, memory_mb: int, threads: int | None
) -> Ingested:
    """Write the store of an export into ``folder``.

    Parameters
    ----------
    files
        In the order of their numbers.
    folder
        An existing folder.
    memory_mb
        Memory limit for this process.
    threads
        Threads of the engine; all cores if None.

    Raises
    ------
    BatchError
        Disk space or memory is insufficient.
    """
    with engine(folder, memory_mb, threads) as connection:
        return _Ingest(connection, list(files), folder).run()


class _Ingest:
    """One ingest: a first pass, a second look at the lines it skipped, and a second pass if needed."""

    def __init__(self, connection: Any, files: list[tuple[TableFile, Layout]], folder: Path) -> None:
        self._sql = connection
        self._files = files
        self._folder = folder
        self._skipped: dict[tuple[object, ...], SkippedLines] = {}
        self._refused: dict[int, InputError] = {}

    def run(self) -> Ingested:
        pa = arrow()
        named = pa.table(
            {
                "i": pa.array(range(len(self._files)), pa.int32()),
                "path": [str(table.path) for table, _ in self._files],
                "stay": [None if layout.patient else table.stay_name for table, layout in self._files],
            },
            schema=pa.schema([("i", pa.int32()), ("path", pa.string()), ("stay", pa.string())]),
        )
        self._sql.register("files_given", named)
        self._sql.execute("CREATE TEMP TABLE files AS SELECT * FROM files_given")
        numbered = [(i, table, layout) for i, (table, layout) in enumerate(self._files)]
        underscored = {entry[0] for entry in numbered if self._is_underscored(*entry)}
        by_hand = {i for i, table, _ in numbered if not table.is_parquet and not table.is_regular}
        joined = self._folder / "joined"
        joined.mkdir(exist_ok=True)
        scans = scans_of(
            [
                entry
                for entry in numbered
                if entry[0] not in underscored and (entry[1].is_joinable or entry[0] not in by_hand)
            ],
            joined,
        )
        by_hand = (by_hand | underscored) - {i for scan in scans for i, _ in scan.files}
        scans, failed = self._first_pass(scans)
        by_hand |= failed
        if scans:
            self._reread_rejects(scans)
            by_hand |= self._miscounted(scans)
        for number in sorted(by_hand):
            self._read_by_hand(number)
        for skipped in self._skipped.values():
            skipped.close()
        faults = [fault for skipped in self._skipped.values() for fault in skipped.faults]
        faults += self._empty_stays()
        unassigned = self._second_pass(faults, by_hand, bool(scans))
        shutil.rmtree(joined)
        return self._finished(unassigned)

    def _is_underscored(self, number: int, table: TableFile, layout: Layout) -> bool:
        """Whether the engine would take a cell such as ``1_000`` for a number."""
        import duckdb

        if not table.is_grouped:
            return False
        try:
            return Scan(layout, table.names, ((number, table),)).has_underscores(self._sql)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:  # reading line by line will refuse the file with its reason
            return True

    def _first_pass(self, scans: list[Scan]) -> tuple[list[Scan], set[int]]:
        """Sort everything into the store; files that the engine cannot read are left out and returned."""
        import duckdb

        failed: set[int] = set()
        while scans:
            try:
                self._sort([scan.relation(self._sql) for scan in scans])
                break
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error as error:
                found = self._unreadable(scans)
                if not found:
                    raise engine_fault(self._folder, error) from error
                failed |= found
                scans = [rest for scan in scans if (rest := _without(scan, found)).files]
        return scans, failed

    def _unreadable(self, scans: list[Scan]) -> set[int]:
        """Files that cannot be read on their own either; those of Parquet are refused."""
        import duckdb

        found = set()
        for scan in scans:
            for number, table in scan.files:
                alone = Scan(scan.layout, scan.names, ((number, table),))
                try:
                    self._sql.execute(
                        f"SELECT count(COLUMNS(*)) FROM ({alone.relation(self._sql)})"
                    ).fetchall()
                except duckdb.OutOfMemoryException:
                    raise
                except duckdb.Error as error:
                    found.add(number)
                    if table.is_parquet:
                        reason = one_line(first_line(error)).replace(f"{table.path}", "")
                        self._refused[number] = InputError(
                            f"cannot be read as Parquet: {reason}", code="malformed_file"
                        )
        return found

    def _sort(self, relations: Sequence[str]) -> None:
        self._sql.execute("DROP TABLE IF EXISTS reject_errors")
        self._sql.execute("DROP TABLE IF EXISTS reject_scans")
        new = self._folder / f"{STORE}.new"
        together = " UNION ALL ".join(f"({relation})" for relation in relations)
        self._sql.execute(
            f"COPY (SELECT * FROM ({together}) ORDER BY {ORDER}) TO {text(str(new))} "
            f"(FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {ROWS_IN_GROUP})"
        )
        new.replace(self._folder / STORE)

    @property
    def _store(self) -> str:
        return f"read_parquet({text(str(self._folder / STORE))})"

    def _lines_like(self, number: int) -> SkippedLines:
        table, layout = self._files[number]
        key = (table.names, table.delimiter)
        if key not in self._skipped:
            path = self._folder / f"reread-{len(self._skipped)}.csv"
            self._skipped[key] = SkippedLines(layout, table.names, table.delimiter, path, self._line)
        return self._skipped[key]

    def _line(self, number: int, row: int) -> int:
        return self._files[number][0].line_of(row)

    def _stay(self, number: int) -> str | None:
        table, layout = self._files[number]
        return None if layout.patient else table.stay_name

    def _reread_rejects(self, scans: list[Scan]) -> None:
        """Re-read every line that the first pass skipped."""
        places: dict[str, Scan] = {}
        for scan in scans:
            if scan.joined is not None:
                places[str(scan.joined)] = scan
            else:
                places |= {str(table.path): scan for _, table in scan.files}
        numbers = {str(table.path): i for i, (table, _) in enumerate(self._files)}
        if not has_rejects(self._sql):
            return
        cursor = self._sql.execute(
            "SELECT DISTINCT ON (s.file_path, e.line) s.file_path, e.line, e.csv_line, "
            "bool_or(e.error_type = 'INVALID ENCODING') OVER (PARTITION BY s.file_path, e.line) "
            "FROM reject_errors e JOIN reject_scans s USING (scan_id, file_id) ORDER BY s.file_path, e.line"
        )
        while rejects := cursor.fetchmany(1000):
            for path, line, content, is_encoding in rejects:
                scan = places[path]
                content = (content or "").removeprefix("\n")  # left over from the CR LF of the previous line
                for k, part in enumerate(content.splitlines() or [""]):
                    if scan.joined is None:
                        number, rest = numbers[path], part
                        row = self._files[number][0].row_of(line + k)
                    else:
                        mark, _, rest = part.partition(scan.files[0][1].delimiter)
                        number = int(mark)
                        index = next(i for i, (n, _) in enumerate(scan.files) if n == number)
                        table = self._files[number][0]
                        row = table.row_of(line + k - scan.starts[index] + table.line_of(0))
                    skipped = self._lines_like(number)
                    add = skipped.undecodable if is_encoding else skipped.add
                    add(number, row, rest, self._stay(number))

    def _miscounted(self, scans: list[Scan]) -> set[int]:
        """Files with some line that is neither in the store nor among those re-read."""
        seen = dict.fromkeys((i for scan in scans for i, _ in scan.files), 0)
        counted = self._sql.execute(f"SELECT file, count(*) FROM {self._store} GROUP BY file").fetchall()
        for number, rows in counted:
            seen[number] += rows
        for skipped in self._skipped.values():
            for number, lines in Counter(skipped.touched[::2]).items():
                seen[number] += lines
        return {number for number, rows in seen.items() if rows != self._files[number][0].rows}

    def _read_by_hand(self, number: int) -> None:
        """Process a file line by line, discarding what was known about its lines."""
        table, _ = self._files[number]
        for skipped in self._skipped.values():
            skipped.forget(number)
        if number in self._refused:
            return
        own = (table.names, table.delimiter, number)
        path = self._folder / f"reread-{len(self._skipped)}.csv"
        skipped = SkippedLines(self._files[number][1], table.names, table.delimiter, path, self._line)
        try:
            skipped.whole_file(number, table, self._stay(number))
        except InputError as error:
            skipped.close()
            path.unlink()
            self._refused[number] = error
            return
        self._skipped[own] = skipped

    def _empty_stays(self) -> list[RowFault]:
        return [
            RowFault(i, 0, table.stay_name, True, "no_rows", "there is a header and no row")
            for i, (table, layout) in enumerate(self._files)
            if not table.rows and layout.patient is None and i not in self._refused
        ]

    def _second_pass(self, faults: list[RowFault], by_hand: set[int], has_store: bool) -> list[RowFault]:
        """Sort again, with re-read lines and faults of known patients; return the other faults."""
        reread = [(key, skipped) for key, skipped in self._skipped.items() if skipped.rows]
        assigned, unassigned = self._assigned(faults, by_hand, has_store)
        if not (reread or assigned or by_hand or not has_store):
            return unassigned
        relations = []
        if has_store:
            relations.append(f"SELECT * FROM {self._store} WHERE {_not_of(by_hand)}")
        for key, skipped in reread:
            relation = reread_relation(skipped.layout, skipped.columns, skipped.path)
            is_shared = len(key) == 2
            if is_shared:
                relation = f"SELECT * FROM ({relation}) WHERE {_not_of(by_hand)}"
            relations.append(relation)
        relations.append(self._fault_rows(assigned))
        self._sort(relations)
        for skipped in self._skipped.values():
            skipped.path.unlink()
        return unassigned

    def _assigned(
        self, faults: list[RowFault], by_hand: set[int], has_store: bool
    ) -> tuple[list[RowFault], list[RowFault]]:
        """Faults whose patient is certain, or known from another row; and the rest."""
        guessed = {f.patient for f in faults if f.patient is not None and not f.is_certain}
        known: set[str] = set()
        if guessed and has_store:
            pa = arrow()
            self._sql.register("guessed", pa.table({"name": pa.array(sorted(guessed), pa.string())}))
            known = {
                name
                for (name,) in self._sql.execute(
                    f"SELECT DISTINCT patient FROM {self._store} SEMI JOIN guessed ON patient = name "
                    f"WHERE part = -1 AND {_not_of(by_hand)}"
                ).fetchall()
            }
            self._sql.unregister("guessed")
        known |= {f.patient for f in faults if f.is_certain and f.patient is not None}
        known |= {
            name for skipped in self._skipped.values() for _, name in skipped.patients if name in guessed
        }
        certain: list[RowFault] = []
        rest: list[RowFault] = []
        for fault in faults:
            is_known = fault.patient is not None and (fault.is_certain or fault.patient in known)
            (certain if is_known else rest).append(fault)
        return certain, rest

    def _fault_rows(self, faults: list[RowFault]) -> str:
        pa = arrow()
        own = [self._files[f.file][1].patient is None for f in faults]
        table = pa.table(
            {
                "patient": pa.array([f.patient for f in faults], pa.string()),
                "part": pa.array([f.file if o else -1 for f, o in zip(faults, own, strict=True)], pa.int32()),
                "file": pa.array([f.file for f in faults], pa.int32()),
                "line": pa.array([-f.row for f in faults], pa.int64()),
                "fault": pa.array([f"{f.code}{FAULT}{f.message}" for f in faults], pa.string()),
            }
        )
        self._sql.register("fault_rows", table)
        given = set(table.column_names)
        columns = ", ".join(
            f'"{name}"' if name in given else f'NULL::{kind} AS "{name}"' for name, kind in STORED
        )
        return f"SELECT {columns} FROM fault_rows"

    def _finished(self, unassigned: list[RowFault]) -> Ingested:
        """Write the files beside the store, and count."""
        nameless = self._sql.execute(
            f"SELECT file, line FROM {self._store} WHERE patient IS NULL ORDER BY file, line"
        ).fetchall()
        bases = dict(
            self._sql.execute(
                f"SELECT file, min(line) FROM {self._store} WHERE line > 0 GROUP BY file"
            ).fetchall()
        )
        touched = [np.array(m.touched, dtype=np.int64).reshape(-1, 2) for m in self._skipped.values()]
        write_row_numbers(self._folder, [table for table, _ in self._files], bases, touched)
        rows = RowNumbers(self._folder)
        lost = [
            *unassigned,
            *(
                RowFault(file, rows.of(file, line), None, False, "missing_patient", "names no patient")
                for file, line in nameless
            ),
        ]
        lost.sort(key=lambda fault: (fault.file, fault.row))
        write_rejected(self._folder, [table for table, _ in self._files], lost)
        starts = write_starts(self._folder, len(nameless))
        rejected = sum(m.bad.total() for m in self._skipped.values()) + len(nameless)
        refused = tuple(
            (number, error.code, one_line(error.message)) for number, error in sorted(self._refused.items())
        )
        limits: Counter[str] = Counter()
        for skipped in self._skipped.values():
            for (_, name), count in skipped.limits.items():
                limits[name] += count
        return Ingested(
            int(starts[-1]), len(starts) - 1, rejected, len(lost), refused, dict(sorted(limits.items()))
        )


def _not_of(files: set[int]) -> str:
    """The SQL condition that a row belongs to none of these files."""
    return f"file NOT IN ({', '.join(map(str, sorted(files)))})" if files else "true"


def _without(scan: Scan, numbers: set[int]) -> Scan:
    """A scan without some of its files; joined ones are never left out."""
    if scan.joined is not None:
        return scan
    kept = tuple(entry for entry in scan.files if entry[0] not in numbers)
    return Scan(scan.layout, scan.names, kept)
