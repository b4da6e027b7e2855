"""Build stays, or refusals with a reason, from the store; rows at any time become one row per hour.

The hour of a row is ``floor(hours since ICU admission) + 1``: the first sixty minutes are hour 1, as ICULOS
of the Challenge 2019 counts. Several rows are reduced to their median; the label of an hour is positive if
that of any row is.

Exports may overlap. In a median, a repeated measurement would count double, and two that contradict each
other would disappear. So a row that exactly repeats another of the same stay and time counts once, and the
remaining overlap is counted and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.sql import FAULT
from ibt_deploy.batch.tables.store import NO_TIME, Block, RowNumbers, whole_stays
from ibt_deploy.errors import BadRows, InputError, MalformedFile
from ibt_deploy.mapping.schema import Time
from ibt_deploy.readers.stays import HOSPITAL, hourly, inserted_note, within_two_weeks
from ibt_deploy.records import Notice, Stay
from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, NAMES

HOUR_US = 3_600_000_000


def hours_since(time: Ints, admission: int | Ints) -> Ints:
    """Number of the hour of each row, from microseconds; at most 0 before admission."""
    hours: Ints = (time - admission) // HOUR_US + 1
    return hours


def medians(values: Floats, groups: Ints) -> Floats:
    """Median of each column within each group of consecutive rows, ignoring NaN.

    Parameters
    ----------
    values
        Shape ``(rows, columns)``.
    groups
        First row of each group, ascending from 0, shape ``(groups,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(groups, columns)``; NaN where a group has no value. For an even number of values, the mean of
        the middle two.
    """
    if len(groups) == len(values):
        return values.copy()
    found = np.full((len(groups), values.shape[1]), np.nan)
    group_of = np.zeros(len(values), dtype=np.int64)
    group_of[groups[1:]] = 1
    np.cumsum(group_of, out=group_of)
    for column in range(values.shape[1]):
        rows = np.flatnonzero(~np.isnan(values[:, column]))
        if not len(rows):
            continue
        order = np.lexsort((values[rows, column], group_of[rows]))
        ordered, of = values[rows, column][order], group_of[rows]
        first = np.flatnonzero(np.diff(of, prepend=-1))
        count = np.diff(first, append=len(of))
        low, high = ordered[first + (count - 1) // 2], ordered[first + count // 2]
        found[of[first], column] = np.where(low == high, low, low + (high - low) / 2)
    return found


def repeats(moments: Ints, values: Floats) -> Bools:
    """Which rows repeat, in every value, an earlier row of the same time.

    Parameters
    ----------
    moments
        Time of each row, with equal times adjacent. Shape ``(rows,)``.
    values
        Shape ``(rows, columns)``; NaN where there is none.
    """
    found = np.zeros(len(moments), dtype=np.bool_)
    together = moments[1:] == moments[:-1]
    rows = np.flatnonzero(np.append(together, False) | np.insert(together, 0, False))
    if len(rows):
        keys = np.column_stack((np.where(np.isnan(values[rows]), np.nan, values[rows] + 0.0), moments[rows]))
        whole = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))
        _, first = np.unique(whole.ravel(), return_index=True)
        found[rows] = True
        found[rows[first]] = False
    return found


def contradicted(moments: Ints, values: Floats) -> Bools:
    """Which rows contradict, in some column, another row of the same time."""
    if not len(moments):
        return np.zeros(0, dtype=np.bool_)
    first = np.flatnonzero(np.diff(moments, prepend=moments[0] - 1))
    if len(first) == len(moments):
        return np.zeros(len(moments), dtype=np.bool_)
    low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
    differs = np.asarray((low < high).any(axis=1))
    return np.repeat(differs, np.diff(first, append=len(moments)))


@dataclass(frozen=True)
class Overlap:
    """Overlap within an export.

    Attributes
    ----------
    duplicate_rows
        Rows that repeat another of the same stay and time in every value; they count once.
    conflicting_rows
        Rows of the same stay and time that state different values of a variable.
    merged_rows
        Rows, without duplicates, in hours of a stay that are covered by several files.
    """

    duplicate_rows: int = 0
    conflicting_rows: int = 0
    merged_rows: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def sentences(self) -> list[str]:
        """A sentence about each kind of overlap that occurs."""
        repeat = "1 row repeats" if self.duplicate_rows == 1 else f"{self.duplicate_rows} rows repeat"
        counted = (
            (self.duplicate_rows, f"{repeat} another of the same stay and moment exactly; each counts once."),
            (
                self.conflicting_rows,
                f"{self.conflicting_rows} rows contradict another of the same stay and moment; the hour's "
                "median is taken.",
            ),
            (
                self.merged_rows,
                f"{self.merged_rows} rows are in hours that several files hold; they were merged into one "
                "median.",
            ),
        )
        return [sentence for count, sentence in counted if count]


def overlap_of(folder: Path, starts: Ints, time: Time) -> Overlap:
    """Count the overlap in the store in ``folder``, with stays at ``starts``, some thousand rows at once."""
    total = Overlap()
    for rows, bounds in whole_stays(folder, starts):
        total += _counted(Block.of(rows), np.asarray(bounds), time)
    return total


def _counted(block: Block, bounds: Ints, time: Time) -> Overlap:
    stay = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    at, admission, _ = block.times.T
    if time.kind == "hours" or time.admission is not None:
        begin = np.maximum.reduceat(admission, bounds[:-1])[stay]
    else:
        begin = at[bounds[:-1]][stay]
    usable = (at != NO_TIME) & (begin != NO_TIME)
    stay, at, begin, values, files = (
        column[usable] for column in (stay, at, begin, block.stated, block.files)
    )
    moments = np.cumsum((np.diff(stay, prepend=-1) != 0) | (np.diff(at, prepend=NO_TIME) != 0))
    twice = repeats(moments, values)
    stay, at, begin, values, files, moments = (
        column[~twice] for column in (stay, at, begin, values, files, moments)
    )
    hours = hours_since(at, begin)
    spans = np.flatnonzero((np.diff(stay, prepend=-1) != 0) | (np.diff(hours, prepend=0) != 0))
    merged = 0
    if len(spans):
        several = np.minimum.reduceat(files, spans) != np.maximum.reduceat(files, spans)
        merged = int(np.diff(spans, append=len(stay))[several].sum())
    return Overlap(int(twice.sum()), int(contradicted(moments, values).sum()), merged)


ICULOS, ADMISSION_TIME = INDEX["ICULOS"], INDEX["HospAdmTime"]
WITHOUT_TIME = ("bad_time", "ambiguous_time")
MOST_WITHOUT_TIME = 0.1
"""Share of a stay's rows that may lack a usable time before the stay is refused."""
HOURS_PER_US = 1 / 3_600_000_000


@dataclass(frozen=True)
class FileFacts:
    """Facts about a file that its stays report.

    Attributes
    ----------
    path, format
        As a Stay names them.
    notes
        Notes about its columns.
    has_label, has_hospital
        Whether it has these columns.
    is_one_stay
        Whether the file is a single stay.
    """

    path: str
    format: str
    notes: tuple[str, ...]
    has_label: bool
    has_hospital: bool
    is_one_stay: bool


class StayMaker:
    """Builds the stay, or the reason for its refusal, from the rows of one patient.

    Parameters
    ----------
    folder
        Folder of the store.
    files
        Files by number.
    time
        Section of the mapping, if rows have timestamps.
    common_notes
        Added to the notes of every stay.
    confirmed
        Variables whose unit the mapping confirms.
    units_stated
        Whether there is a mapping, which states all units.
    """

    def __init__(
        self,
        folder: Path,
        files: tuple[FileFacts, ...],
        time: Time | None,
        common_notes: tuple[str, ...],
        confirmed: frozenset[str] = frozenset(),
        *,
        units_stated: bool = False,
    ) -> None:
        self._files = files
        self._confirmed = confirmed
        self._units_stated = units_stated
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

    @staticmethod
    def _odd(block: Block) -> Bools:
        """Rows that :meth:`_check` must look at; uses the hour if there is no ICULOS."""
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
            f"{count} row{'s' * (count > 1)} without a usable time left out, the first of them "
            f"{self._row(part, first)}: {faults[first][2]}."
        )
        return part.only(~untimed), (Notice("rows_left_out", message),)

    def _check(self, part: Block) -> None:
        if not any(fault is not None for fault in part.faults) and not self._odd(part).any():
            return
        for row, fault in enumerate(part.faults):
            if fault is not None:
                code, _, message = fault.partition(FAULT)
                kind = BadRows if code == "not_a_number" else MalformedFile
                raise kind(message, where=self._place(part, row), code=code)
        places = np.argwhere(np.isinf(part.values)).tolist()
        if places:
            row, column = places[0]
            raise BadRows(f"{self._row(part, row)}, column {NAMES[column]}: infinite", code="infinite")
        iculos, hour = part.values[:, ICULOS], part.hours
        row = int(np.argmax((iculos != hour) & ~np.isnan(hour)))
        raise BadRows(
            f"{self._row(part, row)}: ICULOS {iculos[row]:g} and hour {hour[row]:g} differ",
            code="hours_differ",
        )

    def _place(self, part: Block, row: int) -> str:
        """The file of a row, and the patient if it holds several."""
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
        labels = part.labels if file.has_label else None
        values, inserted, checked = hourly(part.values, labels, partial(self._row, part))
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
            units_stated=self._units_stated,
        )

    def _resampled(self, part: Block, time: Time) -> tuple[Block, tuple[str, ...]]:
        """The part with one row per hour, and notes about it."""
        at, admissions, hospital = part.times.T
        if (at == NO_TIME).any():
            raise BadRows(
                f"{self._row(part, int(np.argmax(at == NO_TIME)))} has no time", code="missing_hour"
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
                    f"{row} is {what}; see before_admission in the mapping", code="before_admission"
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
        return replace(part.only(groups), values=values, labels=labels), tuple(notes)

    @cached_property
    def _rows(self) -> RowNumbers:
        return RowNumbers(self._folder)

    def _row(self, part: Block, index: int) -> str:
        """The label of a row: its line in a text file, its number in a Parquet file."""
        file, line = int(part.files[index]), int(part.lines[index])
        if self._files[file].format == "Parquet":
            return f"row {self._rows.of(file, line)}"
        return f"line {self._rows.line_of(file, line)}"
