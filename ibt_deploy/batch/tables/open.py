"""Stays from tables of any size: CSV, PSV, TSV and Parquet, compressed or not, rows in any order.

>>> tables = open_tables([Path("export.csv.gz")], mapping, work=Path("scores/work"))  # doctest: +SKIP
>>> print(tables.report.text())  # doctest: +SKIP
>>> for part in tables.slices(8):  # doctest: +SKIP
...     for answer in tables.read(part):
...         ...  # a Stay or a Refusal

The export is parsed, converted and sorted once into a store in the folder of the run. A :class:`Tables` can
be sent to any number of processes, which read slices of the store. Stays are ordered by the bytes of their
patients' names. Each line of the export ends up in exactly one place: in a stay, in a patient's refusal, or
in :meth:`Tables.rejected`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.facts import Report, column_facts
from ibt_deploy.batch.tables.ingest import ingest
from ibt_deploy.batch.tables.layout import Layout, layout_of
from ibt_deploy.batch.tables.stays import FileFacts, Overlap, StayMaker, overlap_of
from ibt_deploy.batch.tables.store import REJECTED, STARTS, STORE, whole_stays
from ibt_deploy.batch.tables.survey import (
    HEAD_BYTES,
    MAGIC,
    Progress,
    TableFile,
    arrow,
    compression_of,
    found_files,
    opened,
    surveyed,
)
from ibt_deploy.errors import InputError, MalformedFile, TooShort
from ibt_deploy.files import atomic_write
from ibt_deploy.mapping.schema import Mapping, Time
from ibt_deploy.predictions import Refusal
from ibt_deploy.progress import LARGE
from ibt_deploy.readers.stays import LABEL, PARQUET_MAGIC
from ibt_deploy.records import Stay
from ibt_deploy.types import Ints

SCHEMA = 4
SUMMARY = "tables.json"
MOST_FILES = 8
EXCERPT_BYTES = 1 << 24
EXCERPT_ROWS = 50_000


@dataclass(frozen=True)
class Slice:
    """Consecutive stays of the store.

    Attributes
    ----------
    first, last
        Index of the first stay, and of the one after the last.
    """

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Tables:
    """An export that is ready to be read; it can be pickled, and read by many processes at once.

    Attributes
    ----------
    folder
        Folder of the store.
    report
        Rows, columns and doubtful units.
    fingerprint
        Hash of all inputs' content, the mapping and how both are read.
    patients
        Number of stays, including those that will be refused.
    is_mapped
        Whether a mapping states the units.
    """

    folder: Path
    report: Report
    fingerprint: str
    patients: int
    files: tuple[FileFacts, ...]
    time: Time | None
    common_notes: tuple[str, ...]
    is_mapped: bool

    def slices(self, n: int) -> list[Slice]:
        """Cut all stays, in order, into at most ``n`` slices with about equally many rows.

        Raises
        ------
        BadUnits
            An unconfirmed column appears to be in another unit, or to be another variable.
        """
        self.report.require_plausible()
        if n < 1:
            raise ValueError("at least one slice")
        goals = np.linspace(0, self._starts[-1], min(n, max(self.patients, 1)) + 1)
        bounds = np.unique(np.searchsorted(self._starts, goals))
        bounds[-1] = self.patients
        return [Slice(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True) if b > a]

    def read(self, part: Slice) -> Iterator[Stay | Refusal]:
        """One answer per stay of a slice, in order; holds a few thousand hours in memory at a time."""
        confirmed = frozenset(facts.variable for facts in self.report.columns if facts.is_confirmed)
        maker = StayMaker(
            self.folder,
            self.files,
            self.time,
            self.common_notes,
            confirmed,
            units_stated=self.is_mapped,
        )
        for rows, bounds in whole_stays(self.folder, self._starts[part.first : part.last + 1]):
            for answer in maker.stays(rows, bounds):
                yield Refusal.of(str(answer.where), answer) if isinstance(answer, InputError) else answer

    def rejected(self) -> Iterator[Refusal]:
        """Files that could not be read, and rows whose stay is unknown."""
        import pyarrow.parquet as pq

        for path, code, message in self.report.refused_files:
            yield Refusal(path, code, f"{path}: {message}")
        with pq.ParquetFile(self.folder / REJECTED) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield Refusal.of(
                        row["file"],
                        MalformedFile(
                            row["message"].removeprefix(f"{row['place']} "),
                            where=f"{row['file']}, {row['place']}",
                            code=row["code"],
                        ),
                    )

    @cached_property
    def _starts(self) -> Ints:
        found: Ints = np.load(self.folder / STARTS)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_starts"}


def open_tables(
    paths: Sequence[Path],
    mapping: Mapping | None,
    *,
    work: Path,
    memory_mb: int = 2048,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Tables:
    """Sort an export into a store and examine its columns; a store left by an earlier run is reused.

    Parameters
    ----------
    paths
        Files, and folders of them.
    mapping
        Mapping from the hospital's columns and units; None if they are those of the Challenge 2019.
    work
        Folder of the run; the store takes about a tenth of the size of the text, and spilling during its
        creation as much again as the text.
    memory_mb
        Limit for this process while it works, at least 512.
    threads
        Threads of the engine; all cores if None.
    progress
        Called with the number of bytes read since its last call.

    Raises
    ------
    InputError
        No file can be read; carries the first reason.
    BatchError
        Disk space or memory is insufficient.
    MissingExtra
        DuckDB or pyarrow is not installed.
    """
    files: list[tuple[TableFile, Layout]] = []
    refused: list[tuple[str, str, str]] = []
    first: InputError | None = None
    digest = hashlib.sha256(f"{SCHEMA} {mapping.sha256 if mapping else ''}".encode())
    for path in found_files(paths):
        try:
            table = surveyed(path, mapping, lambda names: layout_of(names, mapping), progress or _ignored)
            layout = layout_of(table.names, mapping)
            if layout.patient is not None and not table.rows:
                raise TooShort("there is a header and no row", code="no_rows")
        except InputError as error:
            first = first or error.at(str(path))
            refused.append((str(path), error.code, error.message))
            digest.update(f"{path}\0{error.code}\n".encode(errors="surrogateescape"))
            continue
        files.append((table, layout))
        digest.update(f"{path}\0{table.sha256}\n".encode(errors="surrogateescape"))
    if not files:
        raise first or MalformedFile(
            "there is no table", where=str(paths[0]) if paths else None, code="no_such_file"
        )
    fingerprint = digest.hexdigest()
    folder = work / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    summary = folder / SUMMARY
    found = _summary(summary, fingerprint)
    if found is None:
        summary.unlink(missing_ok=True)
        result = ingest(files, folder, memory_mb, threads)
        report = Report(
            files=len(files) + len(refused),
            rows=result.rows,
            patients=result.patients,
            rejected_rows=result.rejected,
            unassigned_rows=result.unassigned,
            refused_files=(
                *refused, *((str(files[i][0].path), code, message) for i, code, message in result.refused),
            ),
            columns=column_facts(folder / STORE, mapping, result.patients),
            overlap=_overlap(folder, mapping),
            limits=result.limits,
        )  # fmt: skip
        found = {"fingerprint": fingerprint, "report": asdict(report)}
        atomic_write(summary, json.dumps(found, ensure_ascii=False))
    report = Report.of(found["report"])
    return Tables(
        folder=folder,
        report=report,
        fingerprint=fingerprint,
        patients=report.patients,
        files=tuple(_facts(table, layout) for table, layout in files),
        is_mapped=mapping is not None,
        time=mapping.time if mapping is not None and mapping.time.is_resampled else None,
        common_notes=_doubtful_rows(report, files),
    )


def _ignored(count: int) -> None:
    """Ignore the progress."""


def _summary(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary left by an earlier run over the same inputs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        is_whole = all((path.parent / name).is_file() for name in (STORE, STARTS, REJECTED))
        return found if is_whole and found["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _overlap(folder: Path, mapping: Mapping | None) -> Overlap:
    """Overlap within the export, if its rows are aggregated to medians."""
    if mapping is None or not mapping.time.is_resampled:
        return Overlap()
    return overlap_of(folder, np.load(folder / STARTS), mapping.time)


def _facts(table: TableFile, layout: Layout) -> FileFacts:
    targets = {number.target for number in layout.numbers}
    return FileFacts(
        str(table.path), table.format, layout.notes, LABEL in targets, layout.hospital is not None,
        layout.patient is None,
    )  # fmt: skip


def _doubtful_rows(report: Report, files: list[tuple[TableFile, Layout]]) -> tuple[str, ...]:
    """The note added to every stay if lost rows may have belonged to it."""
    if all(layout.patient is None for _, layout in files):
        return ()
    lost = []
    if report.unassigned_rows:
        lost.append(_counted(report.unassigned_rows, "row"))
    if report.refused_files:
        lost.append(_counted(len(report.refused_files), "file"))
    if not lost:
        return ()
    return (f"{' and '.join(lost)} of the export could not be read; they may have held rows of this stay.",)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n > 1)}"


def first_look(
    paths: Sequence[Path], mapping: Mapping | None, *, work: Path, memory_mb: int
) -> Report | None:
    """The report on the first rows of the large files; None if none of them can be read.

    Parameters
    ----------
    work
        Folder of the run; a folder in it is created and removed.
    memory_mb
        Memory limit for this process.
    """
    folder = work / "look"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        large = [path for path in found_files(paths) if _size(path) >= LARGE]
        excerpts = []
        for number, path in enumerate(large[:MOST_FILES]):
            excerpt = folder / f"{number}{path.suffix}"
            folder.mkdir(parents=True, exist_ok=True)
            if _cut(path, excerpt):
                excerpts.append(excerpt)
        if not excerpts:
            return None
        return open_tables(excerpts, mapping, work=folder, memory_mb=memory_mb).report
    except InputError:  # nothing in it is usable; the survey reports what is wrong with which file
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _cut(path: Path, excerpt: Path) -> bool:
    """Write the first rows of ``path``; False if it cannot be read or is not a table."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head.startswith(PARQUET_MAGIC):
            return _cut_parquet(path, excerpt)
        if b"\0" in head and not head.startswith(tuple(MAGIC)):
            return False
        with opened(path, compression_of(head)) as stream:
            text = stream.read(EXCERPT_BYTES)
    except OSError:
        return False
    whole = max(text.rfind(b"\n"), text.rfind(b"\r"))
    excerpt.write_bytes(text[: whole + 1])
    return True


def _cut_parquet(path: Path, excerpt: Path) -> bool:
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = next(file.iter_batches(batch_size=EXCERPT_ROWS), None)
    except (pa.ArrowException, OSError, ValueError):
        return False
    if rows is None:
        return False
    pq.write_table(pa.Table.from_batches([rows]), excerpt)
    return True
