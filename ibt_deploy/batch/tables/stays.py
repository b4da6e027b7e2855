"""Stays, or refusals with their reason, from the rows of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.hourly import contradicted, hours_since, medians, repeats
from ibt_deploy.batch.tables.sql import FAULT
from ibt_deploy.batch.tables.store import NO_TIME, Block, RowNumbers
from ibt_deploy.errors import BadRows, InputError, MalformedFile
from ibt_deploy.mapping.schema import Time
from ibt_deploy.readers.stays import HOSPITAL, hourly, inserted_note, within_two_weeks
from ibt_deploy.records import Notice, Stay
from ibt_deploy.types import Bools, Ints
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, NAMES

ICULOS, ADMISSION_TIME = INDEX["ICULOS"], INDEX["HospAdmTime"]
WITHOUT_TIME = ("bad_time", "ambiguous_time")
MOST_WITHOUT_TIME = 0.1
"""Part of a stay's rows that may lack a usable time before the stay is refused."""
HOURS_PER_US = 1 / 3_600_000_000


@dataclass(frozen=True)
class FileFacts:
    """What stays say about the file that they come from.

    Attributes
    ----------
    path, format
        As a Stay names them.
    notes
        About its columns.
    has_label, has_hospital
        Whether it has these columns.
    is_one_stay
        Whether the file is one stay.
    """

    path: str
    format: str
    notes: tuple[str, ...]
    has_label: bool
    has_hospital: bool
    is_one_stay: bool


class StayMaker:
    """Makes the stay, or the reason for its refusal, from the rows of one patient.

    Parameters
    ----------
    folder
        Of the store.
    files
        By their numbers.
    time
        Section of the mapping, where rows have points in time.
    common_notes
        Added to the notes of every stay.
    confirmed
        Variables whose unit the mapping confirms.
    """

    def __init__(
        self,
        folder: Path,
        files: tuple[FileFacts, ...],
        time: Time | None,
        common_notes: tuple[str, ...],
        confirmed: frozenset[str] = frozenset(),
    ) -> None:
        self._files = files
        self._confirmed = confirmed
        self._time = time
        self._common = common_notes
        self._folder = folder

    def stays(self, rows: Any, bounds: Ints) -> Iterator[Stay | InputError]:
        """One answer for each of the stays ``rows[bounds[i]:bounds[i + 1]]`` of an Arrow table."""
        block = Block.of(rows)
        odd = self._odd(block)
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            part = block.part(begin, end)
            file = self._files[int(part.files[0])]
            try:
                warnings: tuple[Notice, ...] = ()
                if odd[begin:end].any():
                    part, warnings = self._timed(part)
                    self._check(part)
                yield self._stay(part, file, warnings)
            except InputError as error:
                yield error.at(self._place(part, 0))

    @classmethod
    def _is_odd(cls, part: Block) -> bool:
        return bool(cls._odd(part).any())

    @staticmethod
    def _odd(block: Block) -> Bools:
        """Rows that :meth:`_check` must look at; takes the hour where there is no ICULOS."""
        iculos, hour = block.values[:, ICULOS], block.hours
        differs = (iculos != hour) & ~np.isnan(iculos) & ~np.isnan(hour)
        faulty = np.asarray(block.faults != None)  # noqa: E711
        odd = np.isinf(block.values).any(axis=1) | differs | faulty
        iculos[:] = np.where(np.isnan(iculos), hour, iculos)
        return np.asarray(odd)

    def _timed(self, part: Block) -> tuple[Block, tuple[Notice, ...]]:
        """The part without its few rows of unknown time, and a warning about them."""
        faults = [str(fault or "").partition(FAULT) for fault in part.faults]
        untimed = np.array([code in WITHOUT_TIME for code, _, _ in faults])
        count = int(untimed.sum())
        if not count or count > MOST_WITHOUT_TIME * len(untimed):
            return part, ()
        first = int(np.argmax(untimed))
        message = (
            f"{count} row{'s' * (count > 1)} without a usable time left out, the first of them row "
            f"{self._row(part, first)}: {faults[first][2]}."
        )
        return part.only(~untimed), (Notice("rows_left_out", message),)

    def _check(self, part: Block) -> None:
        if not any(fault is not None for fault in part.faults) and not self._is_odd(part):
            return
        for row, fault in enumerate(part.faults):
            if fault is not None:
                code, _, message = fault.partition(FAULT)
                kind = BadRows if code == "not_a_number" else MalformedFile
                raise kind(message, where=self._place(part, row), code=code)
        places = np.argwhere(np.isinf(part.values)).tolist()
        if places:
            row, column = places[0]
            raise BadRows(f"row {self._row(part, row)}, column {NAMES[column]}: infinite", code="infinite")
        iculos, hour = part.values[:, ICULOS], part.hours
        row = int(np.argmax((iculos != hour) & ~np.isnan(hour)))
        raise BadRows(
            f"row {self._row(part, row)}: ICULOS {iculos[row]:g} and hour {hour[row]:g} differ",
            code="hours_differ",
        )

    def _place(self, part: Block, row: int) -> str:
        """The file of a row, and the patient where it holds several."""
        file = self._files[int(part.files[row])]
        return file.path if file.is_one_stay else f"{file.path}, patient {part.patients[row]}"

    def _stay(self, part: Block, file: FileFacts, warnings: tuple[Notice, ...]) -> Stay:
        notes: tuple[str, ...] = ()
        if self._time is not None:
            part, notes = self._resampled(part, self._time)
        else:
            hours = part.values[:, ICULOS]
            rows, late = within_two_weeks(hours, np.arange(len(hours)))
            if late:
                part, warnings = part.part(0, len(rows)), (*warnings, *late)
        numbers = _LazyRows(self, part)
        labels = part.labels if file.has_label else None
        values, inserted, checked = hourly(part.values, labels, numbers)
        if (part.files != part.files[0]).any():
            notes = (*notes, f"Rows were gathered from {len(np.unique(part.files))} files.")
        return Stay(
            values=values,
            patient_id=str(part.patients[0]),
            source=file.path,
            format=file.format,
            labels=checked,
            inserted=inserted,
            notes=(*file.notes, *notes, *inserted_note(int(np.count_nonzero(inserted))), *self._common),
            extra={HOSPITAL: part.hospitals[0]} if file.has_hospital else {},
            confirmed=self._confirmed,
            warnings=warnings,
        )

    def _resampled(self, part: Block, time: Time) -> tuple[Block, tuple[str, ...]]:
        """The part with one row an hour, and notes about it."""
        at, admissions, hospital = part.times.T
        if (at == NO_TIME).any():
            raise BadRows(
                f"row {self._row(part, int(np.argmax(at == NO_TIME)))} has no time", code="missing_hour"
            )
        admission = int(at[0])
        if time.kind == "hours" or time.admission is not None:
            known = np.unique(admissions[admissions != NO_TIME])
            if len(known) != 1:
                what = "no time of ICU admission" if not len(known) else "several times of ICU admission"
                raise BadRows(f"has {what}", code="bad_admission")
            admission = int(known[0])
        hours = hours_since(at, admission)
        notes = []
        kept = np.ones(len(hours), dtype=np.bool_)
        for outside, choice, what in (
            (hours < 1, time.before_admission, "before ICU admission"),
            (hours > MAX_HOURS, time.after_two_weeks, "after two weeks"),
        ):
            if outside.any() and choice == "drop":
                kept &= ~outside
                count = int(np.count_nonzero(outside))
                notes.append(f"{count} row{'s' * (count > 1)} {what} left out.")
            elif outside.any() and what == "before ICU admission":
                row = self._row(part, int(np.argmax(outside)))
                raise BadRows(
                    f"row {row} is {what}; see before_admission in the mapping", code="before_admission"
                )
        if not kept.any():
            raise BadRows("has no row within the first two weeks of the ICU stay", code="before_admission")
        twice = repeats(at, part.stated) & kept
        if twice.any():
            count = int(np.count_nonzero(twice))
            notes.append(f"{count} row{'s' * (count > 1)} that repeat{'s' * (count == 1)} another left out.")
        kept &= ~twice
        if not kept.all():
            part, hours, at = part.only(kept), hours[kept], at[kept]
        if count := int(np.count_nonzero(contradicted(at, part.stated))):
            notes.append(f"{count} rows contradict another of the same moment.")
        groups = np.flatnonzero(np.diff(hours, prepend=hours[0] - 1))
        if len(groups) < len(hours):
            notes.append(f"{len(hours)} rows became {len(groups)} hours.")
        values = medians(part.values, groups)
        values[:, ICULOS] = hours[groups]
        if time.hospital_admission is not None:
            known = np.unique(hospital[hospital != NO_TIME])
            if len(known) > 1:
                raise BadRows("has several times of hospital admission", code="bad_admission")
            if len(known):
                values[:, ADMISSION_TIME] = (int(known[0]) - admission) * HOURS_PER_US
        labels = part.labels[groups]
        if not np.isnan(part.labels).all():
            labels = np.fmax.reduceat(part.labels, groups)
        resampled = Block(
            part.patients[groups], part.files[groups], part.lines[groups], values, part.hours[groups], labels,
            part.times[groups], part.hospitals[groups], part.faults[groups],
        )  # fmt: skip
        return resampled, tuple(notes)

    @cached_property
    def _rows(self) -> RowNumbers:
        return RowNumbers(self._folder)

    def _row(self, part: Block, index: int) -> int:
        """Number of a row in its file, counted from 1 below the header."""
        return self._rows.of(int(part.files[index]), int(part.lines[index]))


class _LazyRows:
    """Row numbers that are worked out when a message needs one."""

    def __init__(self, maker: StayMaker, part: Block) -> None:
        self._maker = maker
        self._part = part

    def __getitem__(self, index: Any) -> int:
        return self._maker._row(self._part, int(index))
