"""The stays of an export as the inputs of a batch run."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.batch.items import WORKER_DIED, At, Item, Skipped
from ibt_deploy.batch.plan import part_size
from ibt_deploy.batch.tables.facts import Report, column_facts
from ibt_deploy.errors import InputError, one_line
from ibt_deploy.predictions import Refusal
from ibt_deploy.standards.exports import EventStays, Export, opened

UNMAPPED = "not_mapped.csv"
FEWEST_IN_PART = 256
MEMORY_MB = 1024
LISTED = 50


@dataclass(frozen=True)
class ExportItems:
    """Stays in parts; the part after them holds the refusals of stays that cannot be scored.

    Attributes
    ----------
    stays
        The stays.
    bounds
        Number of the first stay of each part, and of the stays.
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
        """Stays."""
        return len(self.stays) + len(self.stays.report.refused)

    @property
    def fingerprint(self) -> str:
        """Hash of the hourly rows."""
        return self.stays.fingerprint

    @property
    def report(self) -> dict[str, Any]:
        """What became of the events, and the columns that they filled."""
        events = self.stays.report
        found = asdict(events) | {
            "variables_found": len(events.found),
            "unmapped": [asdict(entry) for entry in events.unmapped[:LISTED]],
            "refused": len(events.refused),
        }
        return asdict(self.columns) | {"notes": list(events.notes), "events": found}

    def size_of(self, part: int) -> int:
        """Stays in a part."""
        if part < len(self.bounds) - 1:
            return self.bounds[part + 1] - self.bounds[part]
        return len(self.stays.report.refused)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every stay of a part."""
        at(0)
        for place, answer in enumerate(self._answers(part)):
            item = Refusal.of(str(answer.where), answer) if isinstance(answer, InputError) else answer
            if place in skipped:
                source = item.source if isinstance(item, Refusal) else f"{item.source}, {item.patient_id}"
                yield Refusal(source, WORKER_DIED, one_line(f"{source}: {skipped[place]}"))
            else:
                yield item
            at(place + 1)

    def _answers(self, part: int) -> Iterator[Any]:
        if part < len(self.bounds) - 1:
            return self.stays.read_stays(self.bounds[part], self.bounds[part + 1])
        return self.stays.refused()


def export_items(export: Export, sources: Sequence[str], out: Path, state: Path) -> ExportItems:
    """The stays of an export in parts; what was found is reported on standard error.

    The codes that were not mapped are written to ``out/not_mapped.csv``.

    Raises
    ------
    InputError
        The export cannot be used, or a column looks like another unit.
    """
    stays = opened(export, state / "events", source=", ".join(sources), memory_mb=MEMORY_MB)
    events = stays.report
    print("\n".join(events.lines()), file=sys.stderr)
    _write_unmapped(out / UNMAPPED, stays)
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
    size = part_size(len(stays), FEWEST_IN_PART)
    return ExportItems(stays, (*range(0, len(stays), size), len(stays)), columns)


def _write_unmapped(path: Path, stays: EventStays) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("code", "unit", "events", "reason"))
        writer.writerows((e.code, e.unit, e.events, e.reason) for e in stays.report.unmapped)
