"""Which columns of a file become which columns of a stay, with or without a mapping."""

from __future__ import annotations

from dataclasses import dataclass

from ibt_deploy.errors import MalformedFile
from ibt_deploy.mapping.schema import LongTable, Mapping, Time
from ibt_deploy.mapping.units import Conversion
from ibt_deploy.readers.columns import MISSING_WORDS, shortened
from ibt_deploy.readers.stays import HOSPITAL, HOUR, LABEL, PATIENT, column_notes, listed
from ibt_deploy.vocabulary import NAMES


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: its target, its source and its conversion."""

    target: str
    source: str
    conversion: Conversion | None = None
    missing: tuple[float, ...] = ()


@dataclass(frozen=True)
class CodeColumn:
    """A column of codes that stand for 1 and 0, or for neither."""

    target: str
    source: str
    ones: tuple[str, ...]
    zeros: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What to read from files with a given header.

    Attributes
    ----------
    patient, hospital
        Columns of patient and hospital, if any.
    numbers, codes
        The columns that become numbers of a row.
    time
        Section of the mapping, if rows have timestamps instead of hours.
    missing_words
        Texts that stand for a missing value, besides those of :data:`MISSING_WORDS`.
    decimal, encoding
        How numbers and text are written.
    notes
        Notes about the columns, for every stay.
    long
        Section of the mapping, if each row holds one measurement.
    missing_numbers
        Numbers that stand for a missing value in any column.
    """

    patient: str | None
    hospital: str | None
    numbers: tuple[NumberColumn, ...]
    codes: tuple[CodeColumn, ...]
    time: Time | None
    missing_words: tuple[str, ...]
    decimal: str
    encoding: str
    notes: tuple[str, ...]
    long: LongTable | None = None
    missing_numbers: tuple[float, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Source columns that are read as text."""
        found = [self.patient, self.hospital, *(code.source for code in self.codes)]
        found += self.long.columns if self.long is not None else ()
        if self.time is not None and self.time.kind == "timestamp":
            found += [self.time.column, self.time.admission, self.time.hospital_admission]
        return tuple(dict.fromkeys(name for name in found if name is not None))

    @property
    def number_sources(self) -> tuple[str, ...]:
        """Source columns that are read only as numbers."""
        found = [number.source for number in self.numbers]
        if self.time is not None and self.time.kind == "hours":
            found.append(self.time.column)
        return tuple(name for name in dict.fromkeys(found) if name not in self.texts)


def layout_of(names: tuple[str, ...], mapping: Mapping | None) -> Layout:
    """The layout of a file with the columns ``names``.

    Raises
    ------
    MalformedFile
        Columns are missing (``missing_columns``) or misspelt.
    """
    if mapping is None:
        return _own(names)
    absent = sorted(mapping.names - set(names))
    if absent:
        raise MalformedFile(
            f"has no column {shortened(absent[0])}, which the mapping names", code="missing_columns"
        )
    return _mapped(names, mapping)


def _own(names: tuple[str, ...]) -> Layout:
    """The layout of a file whose columns have the names of the Challenge 2019."""
    notes = tuple(column_notes(names))
    numbers = tuple(NumberColumn(name, name) for name in (*NAMES, HOUR, LABEL) if name in names)
    return Layout(
        PATIENT if PATIENT in names else None,
        HOSPITAL if HOSPITAL in names else None,
        numbers, (), None, (), ".", "utf-8", notes,
    )  # fmt: skip


def _mapped(names: tuple[str, ...], mapping: Mapping) -> Layout:
    table, time = mapping.table, mapping.time
    everywhere = _codes_as_numbers(table.missing)
    numbers = [
        NumberColumn(name, c.column, c.conversion, (*everywhere, *_codes_as_numbers(c.missing)))
        for name, c in mapping.columns.items()
    ]
    if time.kind == "iculos":
        numbers.append(NumberColumn("ICULOS", time.column))
    if table.label:
        numbers.append(NumberColumn(LABEL, table.label))
    codes = []
    if gender := mapping.gender:
        codes.append(CodeColumn("Gender", gender.column, gender.ones, gender.zeros, gender.unknown))
    if kind := mapping.unit_type:
        codes.append(CodeColumn("Unit1", kind.column, kind.medical, kind.surgical, kind.unknown))
        codes.append(CodeColumn("Unit2", kind.column, kind.surgical, kind.medical, kind.unknown))
    words = [*table.missing, *(code for c in mapping.columns.values() for code in c.missing)]
    return Layout(
        patient=table.patient,
        hospital=table.hospital,
        numbers=tuple(numbers),
        codes=tuple(codes),
        time=time if time.is_resampled else None,
        missing_words=tuple(word for word in dict.fromkeys(words) if word and not _codes_as_numbers((word,))),
        decimal=table.decimal,
        encoding=table.encoding,
        notes=tuple(_notes(names, mapping, {n.target for n in numbers} | {c.target for c in codes})),
        long=mapping.long,
        missing_numbers=everywhere,
    )


def _codes_as_numbers(codes: tuple[str, ...]) -> tuple[float, ...]:
    found = []
    for code in codes:
        try:
            number = float(code.replace(",", "."))
        except ValueError:
            continue
        if number == number and abs(number) != float("inf"):
            found.append(number)
    return tuple(found)


def _notes(names: tuple[str, ...], mapping: Mapping, targets: set[str]) -> list[str]:
    time = mapping.time
    notes = []
    if converted := [c.note for c in mapping.conversions]:
        notes.append(f"Converted from the units of the mapping: {', '.join(converted)}.")
    if time.is_resampled:
        start = "the first row" if time.kind == "timestamp" and time.admission is None else "ICU admission"
        notes.append(f"Hours were counted from {start}; values are medians within each hour.")
    derived = {"ICULOS"} | ({"HospAdmTime"} if time.hospital_admission else set())
    absent = [name for name in NAMES if name not in targets | derived]
    if absent:
        notes.append(f"Variables without a column, taken as never measured: {', '.join(absent)}.")
    ignored = [name for name in names if name and name not in mapping.names]
    if ignored:
        notes.append(f"Columns that the mapping does not name were ignored: {listed(ignored)}.")
    return notes


def is_missing(cell: str, words: tuple[str, ...]) -> bool:
    """Whether a cell stands for a missing value."""
    text = cell.strip()
    return text.casefold() in MISSING_WORDS or text in words
