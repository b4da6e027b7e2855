"""Inputs of a run's parts, read one at a time: files, or stays in tables and exports."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ibt_deploy.batch.plan import (
    Entry,
    FileEntry,
    MemberEntry,
    Plan,
    RefusedEntry,
    part_size,
    source_of,
)
from ibt_deploy.errors import BatchError, InputError, UnsupportedFormat, one_line
from ibt_deploy.files import File
from ibt_deploy.predictions import LEFT_OUT, Refusal
from ibt_deploy.readers import LISTS, is_no_record, items_of
from ibt_deploy.records import Recording, Stay

if TYPE_CHECKING:
    from ibt_deploy.batch.archives import Archive
    from ibt_deploy.batch.tables.facts import Report
    from ibt_deploy.batch.tables.open import Slice, Tables
    from ibt_deploy.standards.exports import EventStays, Export

Item: TypeAlias = Recording | Stay | Refusal
Skipped: TypeAlias = Mapping[int, str]
"""Inputs of a part to skip: index in the part, and the reason as a sentence."""
At: TypeAlias = Callable[[int], None]
"""Called with the index in the part of each input before it is read."""

WORKER_DIED = "worker_died"
_MEMORY_MB = 1024
_FEWEST_IN_PART = 256
_REJECTED_IN_PART = 50_000
_NOTES = 100
_UNMAPPED = "not_mapped.csv"
_LISTED = 50


class Items(Protocol):
    """The inputs of a run, as sent to the workers."""

    def __len__(self) -> int:
        """Number of parts."""

    @property
    def total(self) -> int:
        """Number of inputs."""

    @property
    def report(self) -> dict[str, Any] | None:
        """Facts about the inputs gathered before scoring, for the summary."""

    def size_of(self, part: int) -> int:
        """Number of inputs in a part."""

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """The items of a part, in order, with a refusal for each that cannot be read."""


@dataclass
class PlannedFiles:
    """Recordings in files and archives, as a plan lists them.

    Attributes
    ----------
    plan
        The plan.
    ignored
        Number of files that a DICOMDIR references and that hold no ECG waveform, by kind.
    named
        Files that the user named. These are refused where files found in a folder would be left out.
    """

    plan: Plan
    ignored: dict[str, int] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    _archive: Archive | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def total(self) -> int:
        """Number of inputs."""
        return self.plan.inputs

    @property
    def report(self) -> None:
        """No report: files are not examined before they are scored."""

    def size_of(self, part: int) -> int:
        """Number of inputs in a part."""
        return self.plan.size_of(part)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every recording of the inputs of a part.

        Raises
        ------
        BatchError
            A whole folder or archive that existed when the inputs were listed can no longer be read.
        """
        for place, entry in enumerate(self.plan.entries(part)):
            if place in skipped:
                yield Refusal(
                    source_of(entry), WORKER_DIED, f"{one_line(source_of(entry))}: {skipped[place]}"
                )
                continue
            at(place)
            yield from self._answers(entry)

    def _answers(self, entry: Entry) -> Iterator[Item]:
        if isinstance(entry, RefusedEntry):
            yield Refusal(entry.source, entry.code, entry.message)
            return
        count = 0
        try:
            for item in items_of(self._file(entry)):
                if isinstance(item, Refusal) and item.code in ("no_such_file", "unreadable_file"):
                    _check_place(entry)
                if isinstance(item, Refusal) and item.code == UnsupportedFormat.default_code:
                    item = self._left_out(entry, item)
                count += 1
                yield item
        except InputError as error:
            yield Refusal.of(source_of(entry), error)
            return
        except OSError as error:
            _check_place(entry)
            text = f"{source_of(entry)}: cannot be read: {error.strerror or error}"
            yield Refusal(source_of(entry), "unreadable_file", one_line(text))
            return
        if not count:
            yield Refusal(
                source_of(entry), "no_recording", f"{one_line(source_of(entry))}: holds no recording"
            )

    def _left_out(self, entry: FileEntry | MemberEntry, refusal: Refusal) -> Refusal:
        """The refusal of a file, or its omission if it is clearly not a record."""
        if source_of(entry) in self.named or not is_no_record(self._file(entry)):
            return refusal
        return _left_out(refusal.source)

    def _file(self, entry: FileEntry | MemberEntry) -> File:
        return Path(entry.path) if isinstance(entry, FileEntry) else self._opened(entry).folder(entry)

    def close(self) -> None:
        """Close the archive read last; reading reopens it."""
        if self._archive is not None:
            self._archive.close()

    def _opened(self, entry: MemberEntry) -> Archive:
        if self._archive is None or self._archive.path != entry.archive:
            self.close()
            from ibt_deploy.batch.archives import Archive

            self._archive = Archive(entry.archive)
        return self._archive


def _left_out(source: str) -> Refusal:
    return Refusal(source, LEFT_OUT, f"{one_line(source)}: left out, clearly not a record")


def _check_place(entry: FileEntry | MemberEntry) -> None:
    """Stop the run if a whole folder or archive is gone: its records must not be refused one by one."""
    place = Path(entry.path).parent if isinstance(entry, FileEntry) else Path(entry.archive)
    try:
        if isinstance(entry, MemberEntry):
            with place.open("rb") as stream:
                stream.read(1)
        else:
            with os.scandir(place):
                pass
    except OSError as error:
        raise BatchError(one_line(f"{place}: cannot be read any more ({error.strerror})")) from error


def _unless_skipped(items: Iterable[Stay | Refusal], skipped: Skipped, at: At) -> Iterator[Item]:
    """The items, with refusals for those at which workers died."""
    at(0)
    for place, item in enumerate(items):
        if place in skipped:
            source = item.source if isinstance(item, Refusal) else f"{item.source}, {item.patient_id}"
            yield Refusal(source, WORKER_DIED, one_line(f"{source}: {skipped[place]}"))
        else:
            yield item
        at(place + 1)


@dataclass(frozen=True)
class TableStays:
    """Stays in tables of many patients, in slices of a store.

    The parts after those of the slices hold what belongs to no stay: files that are not tables, and rows
    whose stay is unknown.

    Attributes
    ----------
    tables
        The tables, sorted into a store.
    slices
        One for each part with stays.
    rejected
        Number of refusals that belong to no stay, and of files that are left out.
    left_out
        Files that are clearly not tables.
    """

    tables: Tables
    slices: tuple[Slice, ...]
    rejected: int
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slices) + -(-self.rejected // _REJECTED_IN_PART)

    @property
    def total(self) -> int:
        """Number of patients, and of refusals that belong to none."""
        return self.tables.patients + self.rejected

    @property
    def report(self) -> dict[str, Any]:
        """Facts about the columns, and how they were read."""
        notes = dict.fromkeys(note for file in self.tables.files for note in file.notes)
        notes_shown = [*self.tables.report.sentences, *islice(notes, _NOTES)]
        return asdict(self.tables.report) | {"notes": notes_shown}

    def size_of(self, part: int) -> int:
        """Number of patients, or refusals, in a part."""
        if part < len(self.slices):
            return len(self.slices[part])
        return min(_REJECTED_IN_PART, self.rejected - (part - len(self.slices)) * _REJECTED_IN_PART)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every stay of a part."""
        if part >= len(self.slices):
            start = (part - len(self.slices)) * _REJECTED_IN_PART
            answers = chain(map(_left_out, self.left_out), self.tables.rejected())
            yield from islice(answers, start, start + _REJECTED_IN_PART)
            return
        yield from _unless_skipped(self.tables.read(self.slices[part]), skipped, at)


def opened_stays(
    files: Sequence[FileEntry],
    mapping: str | Path | None,
    state: Path,
    named: frozenset[str] = frozenset(),
) -> TableStays:
    """Open the stays of the tables, in slices; a store left by an earlier run is reused.

    Files that are clearly not tables are left out unless they are ``named``; with a mapping any list may be a
    table.

    The columns are reported on standard error before doubtful ones are refused.

    Raises
    ------
    InputError
        A mapping or a table cannot be used, or a column appears to be in another unit.
    BatchError
        There is no patient, or not enough memory or disk space.
    """
    from ibt_deploy.batch.tables.open import first_look, open_tables
    from ibt_deploy.progress import BytesRead

    chosen = None
    if mapping is not None:
        from ibt_deploy.mapping.schema import load_mapping

        chosen = load_mapping(Path(mapping))
    may_be_table = () if chosen is None else LISTS
    left_out = tuple(
        entry.path
        for entry in files
        if entry.path not in named
        and Path(entry.path).suffix.lower() not in may_be_table
        and Path(entry.path).is_file()
        and is_no_record(Path(entry.path))
    )
    no_tables = frozenset(left_out)
    files = [entry for entry in files if entry.path not in no_tables]
    paths = [Path(entry.path) for entry in files]
    look = first_look(paths, chosen, work=state, memory_mb=_MEMORY_MB)
    if look is not None and look.doubts:
        print(f"the first rows of large files alone:\n{look.text()}", file=sys.stderr)
        look.require_plausible(of_a_part=True)
        print("all rows decide whether these columns are refused", file=sys.stderr)
    progress = BytesRead(sum(entry.stamp[0] for entry in files))
    try:
        tables = open_tables(paths, chosen, work=state, memory_mb=_MEMORY_MB, progress=progress)
    finally:
        progress.end()
    print(tables.report.text(), file=sys.stderr)
    slices = tables.slices(-(-tables.patients // part_size(tables.patients, _FEWEST_IN_PART)))
    rejected = sum(1 for _ in tables.rejected()) + len(left_out)
    found = TableStays(tables, tuple(slices), rejected, left_out)
    if not len(found):
        raise BatchError("the tables hold no row")
    return found


@dataclass(frozen=True)
class ExportItems:
    """Stays in parts; the part after them holds the refusals of stays that cannot be scored.

    Attributes
    ----------
    stays
        The stays.
    bounds
        Index of the first stay of each part, followed by the number of stays.
    columns
        Report on the columns, as for tables.
    """

    stays: EventStays
    bounds: tuple[int, ...]
    columns: Report

    def __len__(self) -> int:
        return len(self.bounds) - 1 + bool(self.stays.report.refused)

    @property
    def total(self) -> int:
        """Number of stays."""
        return len(self.stays) + len(self.stays.report.refused)

    @property
    def fingerprint(self) -> str:
        """Hash of the hourly rows."""
        return self.stays.fingerprint

    @property
    def report(self) -> dict[str, Any]:
        """Report on the events, and facts about the columns that they filled."""
        events = self.stays.report
        found = asdict(events) | {
            "variables_found": len(events.found),
            "unmapped": [asdict(entry) for entry in events.unmapped[:_LISTED]],
            "refused": len(events.refused),
        }
        return asdict(self.columns) | {"notes": list(events.notes), "events": found}

    def size_of(self, part: int) -> int:
        """Number of stays in a part."""
        if part < len(self.bounds) - 1:
            return self.bounds[part + 1] - self.bounds[part]
        return len(self.stays.report.refused)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every stay of a part."""
        answers = (
            self.stays.read_stays(self.bounds[part], self.bounds[part + 1])
            if part < len(self.bounds) - 1
            else self.stays.refused()
        )
        items = (Refusal.of(str(a.where), a) if isinstance(a, InputError) else a for a in answers)
        yield from _unless_skipped(items, skipped, at)


def export_items(export: Export, sources: Sequence[str], out: Path, state: Path) -> ExportItems:
    """The stays of an export in parts; findings about the export are reported on standard error.

    Unmapped codes are written to ``out/not_mapped.csv``.

    Raises
    ------
    InputError
        The export cannot be used, or a column appears to be in another unit.
    """
    from ibt_deploy.batch.tables.facts import Report, column_facts
    from ibt_deploy.standards.exports import opened

    stays = opened(export, state / "events", source=", ".join(sources), memory_mb=_MEMORY_MB)
    events = stays.report
    print("\n".join(events.lines()), file=sys.stderr)
    _write_unmapped(out / _UNMAPPED, stays)
    columns = Report(
        files=len(export.files),
        rows=stays.stays[-1],
        patients=len(stays) + len(events.refused),
        rejected_rows=0,
        unassigned_rows=0,
        refused_files=(
            *((path, "not_read", reason) for path, reason in events.unread),
            *(
                (str(file), "not_read", f"is not part of the {export.standard} export")
                for file in export.others
            ),
        ),
        columns=column_facts(stays.hours, export.mapping, len(stays)),
    )
    print(columns.text(), file=sys.stderr)
    columns.require_plausible()
    size = part_size(len(stays), _FEWEST_IN_PART)
    return ExportItems(stays, (*range(0, len(stays), size), len(stays)), columns)


def _write_unmapped(path: Path, stays: EventStays) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("code", "unit", "events", "reason"))
        writer.writerows((e.code, e.unit, e.events, e.reason) for e in stays.report.unmapped)
