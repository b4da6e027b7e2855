"""Recognise an export of a hospital standard by its content, and open it as stays.

>>> export = found_export([Path("meds/data/0.parquet")])  # doctest: +SKIP
>>> stays = opened(export, Path("scores/.batch/events"))  # doctest: +SKIP
>>> for answer in stays.read_stays(0, len(stays.stays)):  # doctest: +SKIP
...     ...  # a Stay or an InputError
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import InputError, MalformedFile, UnsupportedFormat, first_line, require
from ibt_deploy.files import File
from ibt_deploy.mapping.schema import Mapping
from ibt_deploy.readers.stays import hourly, inserted_note, numbered
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import MAX_HOURS, NAMES

if TYPE_CHECKING:
    from ibt_deploy.standards.events import EventReport, Source

Standard = Literal["MEDS", "OMOP CDM", "FHIR R4", "long table"]
PARQUET_MAGIC, GZIP_MAGIC = b"PAR1", b"\x1f\x8b"
DUCKDB_MAGIC, MAGIC_AT = b"DUCK", 8
OMOP_TABLES = ("measurement", "person", "visit_detail", "visit_occurrence", "care_site", "concept")
OMOP_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
MEDS_COLUMNS = frozenset({"subject_id", "time", "code"})
MEDS_VALUES = ("numeric_value", "value")
HEAD_BYTES = 4096
LOOKED_AT = 50
"""Number of files to look at before a folder is known not to be an export of a standard."""

HOURS = "hours.parquet"
_FHIR = re.compile(rb'"resourceType"\s*:\s*"(Bundle|Observation|Patient|Encounter|Location)"')
CUT_NOTE = f"Hours after {MAX_HOURS} (two weeks) were left out."


@dataclass(frozen=True)
class Export:
    """Files that form one export.

    Attributes
    ----------
    standard
        Name of the standard.
    files
        Files of the export.
    others
        Other files beside them.
    mapping
        Mapping of a long table.
    """

    standard: Standard
    files: tuple[File, ...]
    others: tuple[File, ...] = ()
    mapping: Mapping | None = None


def standard_of(file: File, head: bytes | None = None) -> Standard | None:
    """The standard of one file by its content; OMOP tables as CSV or Parquet are recognised only together."""
    if head is None:
        try:
            if not file.is_file():  # a pipe would wait for its writer
                return None
            with file.open("rb") as stream:
                head = stream.read(HEAD_BYTES)
        except OSError:
            return None
    if is_database(head):
        return "OMOP CDM"
    if is_fhir(head):
        return "FHIR R4"
    if head.startswith(PARQUET_MAGIC) and is_meds(_parquet_columns(file)):
        return "MEDS"
    return None


def table_of(file: File) -> str | None:
    """The OMOP table in a file, by its name or that of its folder; None for any other file."""
    name = file.name.casefold()
    suffix = next((suffix for suffix in OMOP_SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        return None
    for candidate in (name.removesuffix(suffix), file.parent.name.casefold()):
        if candidate in OMOP_TABLES:
            return candidate
    return None


def is_database(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a DuckDB database."""
    return head[MAGIC_AT : MAGIC_AT + len(DUCKDB_MAGIC)] == DUCKDB_MAGIC


def is_fhir(head: bytes) -> bool:
    """Whether a file that begins with ``head`` holds FHIR resources that can be used here.

    A CDS Hooks request contains some, but expects an answer from the service.
    """
    if head.startswith(GZIP_MAGIC):
        try:
            head = gzip.GzipFile(fileobj=io.BytesIO(head)).read1(4096)
        except (OSError, EOFError):
            return False
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"{") and b'"hookInstance"' not in text and _FHIR.search(text) is not None


def is_meds(names: Iterable[str]) -> bool:
    """Whether a table with these columns is MEDS."""
    found = set(names)
    return found >= MEDS_COLUMNS and any(name in found for name in MEDS_VALUES)


def found_export(files: Sequence[File]) -> Export | None:
    """The export that these files form; None if they are something else.

    Raises
    ------
    UnsupportedFormat
        The files are exports of several standards.
    """
    if {"measurement", "person"} <= {table_of(file) for file in files}:
        mine = tuple(file for file in files if table_of(file) is not None)
        return Export("OMOP CDM", mine, tuple(file for file in files if table_of(file) is None))
    first = next((s for s in map(standard_of, islice(files, LOOKED_AT)) if s is not None), None)
    if first is None:
        return None
    kinds = [standard_of(file) for file in files]
    several = sorted({kind for kind in kinds if kind is not None})
    if len(several) > 1:
        raise UnsupportedFormat(
            f"these are exports of {' and '.join(several)}; score them one after the other",
            code="mixed_standards",
        )
    mine = tuple(file for file, kind in zip(files, kinds, strict=True) if kind is not None)
    return Export(first, mine, tuple(file for file, kind in zip(files, kinds, strict=True) if kind is None))


@dataclass(frozen=True)
class EventStays:
    """The stays of an export, in hourly rows on disk; it can be sent to other processes.

    Attributes
    ----------
    hours
        The file written by :func:`~ibt_deploy.standards.events.hourly_table`.
    source
        Source named in the stays.
    report
        Report on the events.
    stays
        First row of each stay with values, followed by the number of rows.
    confirmed
        Variables whose unit a person has confirmed.
    """

    hours: Path
    source: str
    report: EventReport
    stays: tuple[int, ...]
    confirmed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Number of stays with values."""
        return len(self.stays) - 1

    def read_stays(self, first: int, last: int) -> Iterator[Stay | InputError]:
        """One answer per stay from number ``first`` up to, but not including, ``last``."""
        from ibt_deploy.standards.events import ASSUMED_NOTE

        if first >= last:
            return
        rows = self._rows(self.stays[first], self.stays[last])
        values = np.column_stack([np.asarray(rows[name].to_numpy(), dtype=np.float64) for name in NAMES])
        names = rows["stay"].to_pylist()
        cut, assumed = rows["cut"].to_pylist(), rows["assumed"].to_pylist()
        for number in range(first, last):
            begin, end = (self.stays[n] - self.stays[first] for n in (number, number + 1))
            try:
                whole, inserted, _ = hourly(values[begin:end], None, numbered(np.arange(end - begin)))
            except InputError as error:
                yield error.at(f"{self.source}, patient {names[begin]}")
                continue
            notes = [*self.report.notes, *inserted_note(int(np.count_nonzero(inserted)))]
            if cut[begin]:
                notes.append(CUT_NOTE)
            if assumed[begin]:
                notes.append(ASSUMED_NOTE)
            yield Stay(
                values=whole,
                patient_id=names[begin],
                source=self.source,
                format=self.report.format,
                inserted=inserted,
                notes=tuple(notes),
                confirmed=self.confirmed,
                units_stated=True,
            )

    def refused(self) -> Iterator[InputError]:
        """The refusals of stays that cannot be scored, in the order of the report."""
        for stay in self.report.refused:
            yield MalformedFile(stay.message, where=f"{self.source}, patient {stay.name}", code=stay.code)

    def _rows(self, begin: int, end: int) -> Any:
        """Rows of the table; whole row groups are read and cut."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.hours) as file:
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            starts = np.concatenate(([0], np.cumsum(sizes)))
            groups = [n for n in range(len(sizes)) if starts[n] < end and starts[n + 1] > begin]
            offset = int(starts[groups[0]])
            return file.read_row_groups(groups).slice(begin - offset, end - begin)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the hourly rows."""
        with self.hours.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "fingerprint"}


def opened(
    export: Export, folder: Path, *, source: str, memory_mb: int = 1024, threads: int | None = None
) -> EventStays:
    """Compute the hourly rows of an export.

    Parameters
    ----------
    export
        As returned by :func:`found_export`.
    folder
        Folder to write them to.
    source
        Source named in the stays.
    memory_mb, threads
        Resource limits of the engine.

    Raises
    ------
    InputError
        The export cannot be used.
    BatchError
        Memory or disk space is insufficient.
    MissingExtra
        DuckDB, pyarrow or pint is not installed.
    """
    from ibt_deploy.batch.tables.sql import engine
    from ibt_deploy.standards.events import hourly_table

    folder.mkdir(parents=True, exist_ok=True)
    hours = folder / HOURS
    with engine(folder, memory_mb, threads) as connection:
        import duckdb

        try:
            report = hourly_table(connection, _loaded(connection, export, folder), hours)
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.BinderException) as error:
            raise MalformedFile(
                f"cannot be read as {export.standard}: {first_line(error)[:200]}", where=source
            ) from error
        except InputError as error:
            raise error.at(source) from error.__cause__
    confirmed = export.mapping.confirmed if export.mapping is not None else frozenset()
    return EventStays(hours, source, report, _starts(hours), confirmed)


def _loaded(connection: Any, export: Export, folder: Path) -> Source:
    """Load the events of an export into the form common to all standards."""
    from ibt_deploy.standards import fhir_observations, long_table, meds, omop

    if export.mapping is not None:
        return long_table.load(connection, export.files, export.mapping, folder)
    loaders = {"MEDS": meds.load, "OMOP CDM": omop.load, "FHIR R4": fhir_observations.load}
    return loaders[export.standard](connection, export.files)


def _starts(hours: Path) -> tuple[int, ...]:
    """First row of each stay, and the number of rows."""
    import pyarrow.parquet as pq

    names: npt.NDArray[np.object_] = pq.read_table(hours, columns=["stay"])["stay"].to_numpy()
    changes = np.flatnonzero(names[1:] != names[:-1]) + 1
    return (0, *changes.tolist(), len(names))


def _parquet_columns(file: File) -> list[str]:
    require("reading Parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as stream:
            return list(pq.ParquetFile(stream).schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError):
        return []
