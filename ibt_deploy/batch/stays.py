"""Tables of many patients as the inputs of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibt_deploy.batch.items import WORKER_DIED, At, Item, Skipped
from ibt_deploy.batch.plan import Plan, part_size, written_plan
from ibt_deploy.batch.progress import BytesRead
from ibt_deploy.batch.sources import stamped, table_files
from ibt_deploy.errors import BatchError
from ibt_deploy.predictions import Refusal
from ibt_deploy.printable import one_line

if TYPE_CHECKING:
    from ibt_deploy.batch.tables import Slice, Tables

_MEMORY_MB = 1024
_FEWEST_IN_PART = 256
_REJECTED_IN_PART = 50_000
_NOTES = 100


@dataclass(frozen=True)
class TableStays:
    """Stays in tables of many patients, in slices that an embedded engine cuts.

    The parts after those of the slices hold what belongs to no stay: files that are no tables, and rows of
    which cannot be told whose they are.

    Attributes
    ----------
    tables
        The tables, brought into order.
    slices
        One for each part with stays.
    rejected
        Number of refusals that belong to no stay.
    """

    tables: Tables
    slices: tuple[Slice, ...]
    rejected: int

    def __len__(self) -> int:
        return len(self.slices) + -(-self.rejected // _REJECTED_IN_PART)

    @property
    def total(self) -> int:
        """Patients, and refusals that belong to none."""
        return self.tables.patients + self.rejected

    @property
    def report(self) -> dict[str, Any]:
        """What was found about the columns before anything was scored, and how they were read."""
        notes = dict.fromkeys(note for file in self.tables.files for note in file.notes)
        said = [*self.tables.report.sentences, *islice(notes, _NOTES)]
        return asdict(self.tables.report) | {"notes": said}

    def size_of(self, part: int) -> int:
        """Patients, or refusals, in a part."""
        if part < len(self.slices):
            return len(self.slices[part])
        return min(_REJECTED_IN_PART, self.rejected - (part - len(self.slices)) * _REJECTED_IN_PART)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every stay of a part."""
        if part >= len(self.slices):
            start = (part - len(self.slices)) * _REJECTED_IN_PART
            yield from islice(self.tables.rejected(), start, start + _REJECTED_IN_PART)
            return
        at(0)
        for place, item in enumerate(self.tables.read(self.slices[part])):
            if place in skipped:
                source = item.source if isinstance(item, Refusal) else f"{item.source}, {item.patient_id}"
                yield Refusal(source, WORKER_DIED, one_line(f"{source}: {skipped[place]}"))
            else:
                yield item
            at(place + 1)


def table_plan(path: Path, sources: Sequence[str]) -> Plan:
    """The files of a run over tables, with their sizes and times."""
    files = table_files(sources)
    if not files:
        raise BatchError("the sources hold no file")
    return written_plan(path, stamped(files))


def opened_stays(sources: Sequence[str], mapping: str | Path | None, state: Path) -> TableStays:
    """The stays of the tables, in slices; what was brought into order before is taken as it is.

    The columns are reported on standard error before doubtful ones are refused.

    Raises
    ------
    InputError
        A mapping or a table that cannot be used, or a column that looks like another unit.
    BatchError
        No patient, or not enough memory or disk.
    """
    from ibt_deploy.batch.tables import open_tables
    from ibt_deploy.batch.tables_look import first_look

    chosen = None
    if mapping is not None:
        from ibt_deploy.mapping.schema import load_mapping

        chosen = load_mapping(Path(mapping))
    entries = stamped(table_files(sources))
    paths = [Path(entry.path) for entry in entries]
    look = first_look(paths, chosen, work=state, memory_mb=_MEMORY_MB)
    if look is not None and look.doubts:
        print(f"the first rows of large files alone:\n{look.text()}", file=sys.stderr)
        look.require_plausible(of_a_part=True)
        print("all rows decide whether these columns are refused", file=sys.stderr)
    progress = BytesRead(sum(entry.stamp[0] for entry in entries))
    try:
        tables = open_tables(paths, chosen, work=state, memory_mb=_MEMORY_MB, progress=progress)
    finally:
        progress.end()
    print(tables.report.text(), file=sys.stderr)
    slices = tables.slices(-(-tables.patients // part_size(tables.patients, _FEWEST_IN_PART)))
    found = TableStays(tables, tuple(slices), sum(1 for _ in tables.rejected()))
    if not len(found):
        raise BatchError("the tables hold no row")
    return found
