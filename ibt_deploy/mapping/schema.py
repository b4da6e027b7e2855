"""What a mapping says, as typed data; :mod:`ibt_deploy.mapping.parse` reads it from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ibt_deploy.mapping.units import Conversion

TimeKind = Literal["iculos", "hours", "timestamp"]
Outside = Literal["refuse", "drop"]


@dataclass(frozen=True)
class TableOptions:
    """``[table]``: how the files are written, and the columns that are no variables.

    Attributes
    ----------
    patient
        Column that names the stay; None where every file is one stay, named by the file.
    hospital, label
        Columns with the hospital and with ``SepsisLabel``, where there are any.
    delimiter
        None for the one that the header shows.
    decimal
        ``"."`` or ``","``.
    encoding
        ``"utf-8"`` or ``"latin-1"``.
    missing
        Codes that stand for a value that is missing, in any column of numbers, besides nothing, NaN, NA,
        N/A, null and None.
    """

    patient: str | None = None
    hospital: str | None = None
    label: str | None = None
    delimiter: str | None = None
    decimal: Literal[".", ","] = "."
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Time:
    """``[time]``: which hour of the stay a row belongs to.

    Attributes
    ----------
    column
        The column.
    kind
        ``iculos``: whole hours, the first hour of the stay is 1, one row each. ``hours``: hours since
        admission to the ICU, fractions allowed. ``timestamp``: points in time. Rows of the last two become
        one row an hour: hour ``floor(hours since admission) + 1``, medians within it.
    hours
        What a number of ``hours`` is in hours: 1, or 1/60 for minutes.
    formats
        Of timestamps, as strptime has them; ``iso`` for ``2150-03-04 05:06:07``.
    zone
        ``fixed`` for clocks that are never changed, ``offset`` where each timestamp states its offset, or the
        IANA name of the zone whose local time it is.
    admission
        Column with the time of ICU admission; None for the first row of the stay.
    hospital_admission
        Column with the time of hospital admission, from which HospAdmTime follows.
    before_admission, after_two_weeks
        Whether rows before the first hour, or after hour 336, cost the stay or only themselves.
    """

    column: str
    kind: TimeKind = "iculos"
    hours: float = 1.0
    formats: tuple[str, ...] = ()
    zone: str | None = None
    admission: str | None = None
    hospital_admission: str | None = None
    before_admission: Outside = "refuse"
    after_two_weeks: Outside = "refuse"

    @property
    def is_resampled(self) -> bool:
        """Whether several rows may fall within one hour."""
        return self.kind != "iculos"


@dataclass(frozen=True)
class Column:
    """``[columns.NAME]``: the column of one variable that is a number.

    Attributes
    ----------
    column
        Name in the files.
    conversion
        From its unit to the variable's.
    missing
        Further codes that stand for a missing value in this column.
    confirmed
        A person has looked at the values and knows that the unit is right although they look like another.
    """

    column: str
    conversion: Conversion
    missing: tuple[str, ...] = ()
    confirmed: bool = False


@dataclass(frozen=True)
class Codes:
    """``[columns.Gender]``: a column of codes.

    Attributes
    ----------
    column
        Name in the files.
    ones, zeros
        Codes that mean 1 and 0, compared without regard to case; ``"1"`` also means 1.0.
    unknown
        Codes that mean neither; any other code costs its stay a refusal.
    """

    column: str
    ones: tuple[str, ...]
    zeros: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitType:
    """``[unit_type]``: one column with the kind of ICU, which becomes Unit1 and Unit2."""

    column: str
    medical: tuple[str, ...]
    surgical: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapping:
    """A whole ``mapping.toml``.

    Attributes
    ----------
    table, time
        Their sections.
    columns
        By variable, for those that are numbers.
    gender, unit_type
        Their sections, where there are any.
    sha256
        Hash of the text, by which a resumed run knows its mapping.
    """

    table: TableOptions
    time: Time
    columns: dict[str, Column] = field(default_factory=dict)
    gender: Codes | None = None
    unit_type: UnitType | None = None
    sha256: str = ""

    @property
    def conversions(self) -> tuple[Conversion, ...]:
        """Those that change values, in the order of the variables."""
        return tuple(
            column.conversion for column in self.columns.values() if not column.conversion.changes_nothing
        )

    @property
    def names(self) -> frozenset[str]:
        """Every column of the files that is read."""
        found = {self.time.column, *(column.column for column in self.columns.values())}
        found |= {
            name
            for name in (
                self.table.patient,
                self.table.hospital,
                self.table.label,
                self.time.admission,
                self.time.hospital_admission,
                self.gender.column if self.gender else None,
                self.unit_type.column if self.unit_type else None,
            )
            if name is not None
        }
        return frozenset(found)
