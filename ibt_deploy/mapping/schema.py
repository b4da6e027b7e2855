"""A mapping as typed data, read from ``mapping.toml``; errors are reported with their place."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import available_timezones

from ibt_deploy.errors import BadUnits, MalformedFile
from ibt_deploy.mapping.units import Conversion, conversion
from ibt_deploy.vocabulary import N_TIME_VARYING, NAMES

TimeKind = Literal["iculos", "hours", "timestamp"]
Outside = Literal["refuse", "drop"]


@dataclass(frozen=True)
class TableOptions:
    """``[table]``: how the files are written, and the columns that are not variables.

    Attributes
    ----------
    patient
        Column that names the stay; None where every file is one stay, named by the file.
    hospital, label
        Columns with the hospital and with ``SepsisLabel``, where there are any.
    delimiter
        None to infer it from the header.
    decimal
        ``"."`` or ``","``.
    encoding
        ``"utf-8"`` or ``"latin-1"``.
    missing
        Codes that stand for a missing value in any column of numbers, besides an empty cell, NaN, NA, N/A,
        null and None.
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
        Name of the column.
    kind
        ``iculos``: whole hours, the first hour of the stay is 1, one row each. ``hours``: hours since
        admission to the ICU, fractions allowed. ``timestamp``: points in time. Rows of the last two become
        one row per hour: hour ``floor(hours since admission) + 1``, medians within it.
    hours
        Length in hours of one unit of ``hours``: 1, or 1/60 for minutes.
    formats
        Formats of timestamps, as for strptime; ``iso`` for ``2150-03-04 05:06:07``.
    zone
        ``fixed`` for clocks that are never changed, ``offset`` where each timestamp states its offset, or the
        IANA name of the zone whose local time it is.
    admission
        Column with the time of ICU admission; None for the first row of the stay.
    hospital_admission
        Column with the time of hospital admission, from which HospAdmTime follows.
    before_admission, after_two_weeks
        Whether rows before the first hour, or after hour 336, cause the stay to be refused or are dropped.
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
        A person has checked the values and knows that the unit is right although they look like another.
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
        Codes that mean neither; any other code causes its stay to be refused.
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
class LongCode:
    """``[[codes]]``: meaning of the rows of a long table with one code, in one unit.

    Attributes
    ----------
    variable
        A vital sign, a laboratory value, or Age.
    conversion
        From the unit of these rows to the variable's.
    priority
        Where several codes of a variable have values in one hour, those with the lowest number count.
    confirmed
        As for :class:`Column`.
    """

    variable: str
    conversion: Conversion
    priority: int = 1
    confirmed: bool = False


@dataclass(frozen=True)
class LongTable:
    """``[long]``: a table with one measurement per row.

    Attributes
    ----------
    code, value, unit
        Columns with the code or name of what was measured, the number, and the unit if there is such a
        column.
    codes
        By code and unit as the rows state them; the unit is empty where none is stated.
    """

    code: str
    value: str
    unit: str | None = None
    codes: dict[tuple[str, str], LongCode] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.code, self.value, self.unit) if name is not None)


@dataclass(frozen=True)
class Mapping:
    """A whole ``mapping.toml``.

    Attributes
    ----------
    table, time
        Their sections.
    columns
        Columns by variable, for variables that are numbers.
    gender, unit_type, long
        Their sections, if any.
    sha256
        Hash of the text, by which a resumed run recognises its mapping.
    """

    table: TableOptions
    time: Time
    columns: dict[str, Column] = field(default_factory=dict)
    gender: Codes | None = None
    unit_type: UnitType | None = None
    sha256: str = ""
    long: LongTable | None = None

    @property
    def confirmed(self) -> frozenset[str]:
        """Variables whose unit a person has confirmed."""
        codes = self.long.codes.values() if self.long else ()
        return frozenset(
            (
                *(name for name, column in self.columns.items() if column.confirmed),
                *(code.variable for code in codes if code.confirmed),
            )
        )

    @property
    def conversions(self) -> tuple[Conversion, ...]:
        """Conversions that change values, in the order of the variables."""
        return tuple(
            column.conversion for column in self.columns.values() if not column.conversion.changes_nothing
        )

    @property
    def names(self) -> frozenset[str]:
        """Every column of the files that is read."""
        found = {self.time.column, *(column.column for column in self.columns.values())}
        found |= set(self.long.columns if self.long else ())
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


OPEN = "?"
"""Placeholder in a suggestion for what a person has to decide."""

LARGEST = 1 << 20
LONGEST_CODE = 80
FEWEST_MEASURED_COLUMNS = 5
ISO = "iso"
NUMBERS = tuple(name for name in NAMES if name not in ("Gender", "ICULOS"))
MOST_PRIORITY = 99
OF_A_STAY = ("Age", "HospAdmTime", "Unit1", "Unit2")
"""Variables that may have a column of their own in a long table; the others are in its rows."""

TIME_UNITS = {"h": 1.0, "min": 1 / 60, "s": 1 / 3600, "d": 24.0}


def load_mapping(path: Path) -> Mapping:
    """The mapping in a TOML file.

    Raises
    ------
    MalformedFile
        Not readable, not TOML, an unknown or missing key, or an impossible value (``bad_mapping``).
    BadUnits
        A unit that cannot be converted into the variable's (``unknown_unit``).
    MissingExtra
        A unit has to be converted and pint is not installed.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise _bad(str(path), "larger than any mapping")
        text = path.read_bytes()
    except OSError as error:
        raise MalformedFile(
            f"cannot be read: {error.strerror or error}", where=str(path), code="unreadable_file"
        ) from None
    return parse_mapping(text, str(path))


def parse_mapping(text: bytes, where: str = "mapping.toml") -> Mapping:
    """The mapping in a TOML text; see :func:`load_mapping`."""
    try:
        root = tomllib.loads(text.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(where, f"is not TOML: {error}") from None
    whole = _Section(root, where)
    table = _table(whole.section("table"))
    is_long = "long" in root
    time = _time(whole.section("time"), is_long)
    columns: dict[str, Column] = {}
    gender = None
    section = whole.section("columns")
    for name in section.left:
        if name == "Gender":
            gender = _gender(section.section(name))
        elif name in (OF_A_STAY if is_long else NUMBERS):
            columns[name] = _column(name, section.section(name))
        else:
            raise _bad(f"{where}: columns.{name}", _no_column(name))
    unit_type = _unit_type(whole.section("unit_type")) if "unit_type" in root else None
    long = _long(whole.section("long"), whole.sections("codes")) if is_long else None
    whole.end()
    mapping = Mapping(
        table,
        time,
        {name: columns[name] for name in NAMES if name in columns},
        gender,
        unit_type,
        hashlib.sha256(text).hexdigest(),
        long,
    )
    _check(mapping, where)
    return mapping


class _Section:
    """One TOML table whose keys are taken one by one; keys left over are unknown."""

    def __init__(self, table: dict[str, Any], file: str, name: str = "") -> None:
        self._left = dict(table)
        self._file = file
        self._name = name

    def at(self, key: str) -> str:
        """The place of a key, for messages."""
        return f"{self._file}: {self._name}{'.' if self._name else ''}{key}"

    @property
    def left(self) -> list[str]:
        """Keys that have not been taken yet."""
        return list(self._left)

    def section(self, key: str) -> _Section:
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            raise _bad(self.at(key), "must be a table of keys")
        return _Section(value, self._file, f"{self._name}{'.' if self._name else ''}{key}")

    def sections(self, key: str) -> list[_Section]:
        """The tables of an array, ``[[key]]``."""
        found = self._left.pop(key, [])
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            raise _bad(self.at(key), f"must be tables, each headed [[{key}]]")
        return [_Section(table, self._file, f"{key}[{place}]") for place, table in enumerate(found, 1)]

    def take(self, key: str, kind: type[Any], default: Any = None) -> Any:
        if key not in self._left:
            return default
        value = self._left.pop(key)
        place = self.at(key)
        if value == OPEN or (isinstance(value, list) and OPEN in value):
            raise _bad(place, f"is still {OPEN!r}; fill it in by hand")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if (
            not isinstance(value, kind)
            or (kind is str and not value)
            or (kind is float and not math.isfinite(value))
        ):
            raise _bad(place, f"must be {_KINDS[kind]}, is {value!r}")
        return value

    def word(self, key: str) -> str | None:
        word: str | None = self.take(key, str)
        return word

    def cell(self, key: str) -> str:
        """A string that may be empty."""
        if self._left.get(key) == "":
            del self._left[key]
        return (self.word(key) or "").strip()

    def needed(self, key: str) -> str:
        word = self.word(key)
        if word is None:
            raise _bad(self.at(key), "is missing")
        return word

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        word: str = self.take(key, str, default)
        if word not in choices:
            raise _bad(self.at(key), f"must be one of {', '.join(choices)}, is {word!r}")
        return word

    def words(self, key: str) -> tuple[str, ...]:
        """Strings, or numbers as strings; a single value counts as a list of one."""
        value = self._left.get(key, [])
        if not isinstance(value, list):
            self._left[key] = value = [value]
        for item in value:
            if isinstance(item, bool) or not isinstance(item, str | int | float):
                raise _bad(self.at(key), f"must be texts or numbers, has {item!r}")
        return tuple(str(item).strip() for item in self.take(key, list, []))

    def end(self) -> None:
        if self._left:
            raise _bad(self.at(next(iter(self._left))), "is unknown here")


_KINDS = {str: "a text", float: "a number", int: "a whole number", bool: "true or false", list: "a list"}


def _table(section: _Section) -> TableOptions:
    delimiter = section.word("delimiter")
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise _bad(section.at("delimiter"), "must be one character")
    table = TableOptions(
        patient=section.word("patient"),
        hospital=section.word("hospital"),
        label=section.word("label"),
        delimiter=delimiter,
        decimal="," if section.choice("decimal", (".", ","), ".") == "," else ".",
        encoding="latin-1"
        if section.choice("encoding", ("utf-8", "latin-1"), "utf-8") == "latin-1"
        else "utf-8",
        missing=section.words("missing"),
    )
    if table.decimal == table.delimiter:
        raise _bad(section.at("decimal"), "is the delimiter too")
    section.end()
    return table


def _no_column(name: str) -> str:
    if name == "ICULOS":
        return "is not one of the 40 variables; set the hour in [time]"
    if name in NUMBERS:
        return "is in the rows of a long table; list its codes in [[codes]]"
    return "is not one of the 40 variables"


def _time(section: _Section, is_long: bool) -> Time:
    kind = section.choice("kind", ("iculos", "hours", "timestamp"), "iculos")
    column = section.needed("column")
    outside = ("drop",) if is_long else ("refuse", "drop")
    before = section.choice("before_admission", outside, outside[0])
    after = section.choice("after_two_weeks", outside, outside[0])
    options: dict[str, Any] = {"before_admission": before, "after_two_weeks": after}
    if kind == "hours":
        options["hours"] = TIME_UNITS[section.choice("unit", TIME_UNITS, "h")]
    if kind == "timestamp":
        formats = section.words("format")
        if not formats:
            raise _bad(section.at("format"), 'is missing; "iso" for 2150-03-04 05:06:07')
        zone = section.needed("zone")
        if zone not in ("fixed", "offset") and zone not in available_timezones():
            raise _bad(section.at("zone"), f'must be "fixed", "offset" or an IANA name, is {zone!r}')
        for pattern in formats:
            if pattern != ISO and ("%z" in pattern) != (zone == "offset"):
                raise _bad(section.at("format"), 'must contain %z if and only if zone = "offset"')
        admission = section.needed("admission")
        options |= {
            "formats": formats,
            "zone": zone,
            "admission": None if admission == "first" else admission,
            "hospital_admission": section.word("hospital_admission"),
        }
    section.end()
    return Time(column=column, kind=kind, **options)  # type: ignore[arg-type]


def _column(name: str, section: _Section) -> Column:
    column = section.needed("column")
    found = _conversion(name, column, section, section.word("unit"))
    missing = section.words("missing")
    confirmed = section.take("confirmed", bool, False)
    section.end()
    return Column(column, found, missing, confirmed)


def _conversion(name: str, called: str, section: _Section, unit: str | None) -> Conversion:
    """The conversion of a column, or of the rows of a code, that the hospital calls ``called``."""
    from ibt_deploy.mapping.synonyms import means_urea

    substance = section.word("substance")
    factor, offset = section.take("factor", float), section.take("offset", float, 0.0)
    if (unit is None) == (factor is None):
        raise _bad(section.at("unit"), "give a unit, or a factor (and offset) into the variable's own")
    if unit is not None:
        if offset:
            raise _bad(section.at("offset"), "belongs to a factor, not to a unit")
        try:
            found = conversion(name, unit, substance)
        except BadUnits as error:
            raise error.at(section.at("unit")) from None
        if name == "BUN" and substance is None and means_urea(called) and _differs_for_urea(unit):
            raise _bad(
                section.at("substance"),
                f"is missing: the name {called!r} means urea, whose mass is 2.14 times that of its nitrogen; "
                'write substance = "urea", or "nitrogen" if the laboratory reports BUN under this name',
            )
    elif factor == 0 or substance:
        raise _bad(section.at("factor"), "must not be 0, and needs no substance")
    else:
        found = Conversion(name, f"the column's own unit (x {factor:g} {offset:+g})", factor, offset)
    return found


def _long(section: _Section, entries: list[_Section]) -> LongTable:
    long = LongTable(section.needed("code"), section.needed("value"), section.word("unit"))
    section.end()
    for entry in entries:
        code, variable = entry.needed("code"), entry.needed("variable")
        if variable not in (*NAMES[:N_TIME_VARYING], "Age"):
            raise _bad(entry.at("variable"), f"must be a vital sign, a lab or Age, is {variable!r}")
        stated = entry.cell("unit")
        if stated and long.unit is None:
            raise _bad(
                entry.at("unit"), "selects rows by the column of units, which [long] does not name; write is"
            )
        unit = entry.word("is")
        if unit is None and "factor" not in entry.left:
            unit = stated
        found = _conversion(variable, code, entry, unit or None)
        priority = entry.take("priority", int, 1)
        if not 1 <= priority <= MOST_PRIORITY:
            raise _bad(entry.at("priority"), f"must be 1 to {MOST_PRIORITY}")
        confirmed = entry.take("confirmed", bool, False)
        if (code, stated) in long.codes:
            raise _bad(entry.at("code"), f"{code!r} with the unit {stated!r} is already listed")
        long.codes[code, stated] = LongCode(variable, found, priority, confirmed)
        entry.end()
    return long


def _differs_for_urea(unit: str) -> bool:
    """Whether the unit is one of mass, in which urea and its nitrogen differ."""
    return conversion("BUN", unit).factor != conversion("BUN", unit, "urea").factor


def _gender(section: _Section) -> Codes:
    codes = Codes(
        section.needed("column"), section.words("male"), section.words("female"), section.words("unknown")
    )
    _check_codes(section, {"male": codes.ones, "female": codes.zeros, "unknown": codes.unknown})
    section.end()
    return codes


def _unit_type(section: _Section) -> UnitType:
    kinds = UnitType(
        section.needed("column"),
        section.words("medical"),
        section.words("surgical"),
        section.words("unknown"),
    )
    _check_codes(section, {"medical": kinds.medical, "surgical": kinds.surgical, "unknown": kinds.unknown})
    section.end()
    return kinds


def _check_codes(section: _Section, lists: dict[str, tuple[str, ...]]) -> None:
    first, second, _ = lists
    if not (lists[first] or lists[second]):
        raise _bad(section.at(first), f"give the codes of {first} and {second}")
    seen: dict[str, str] = {}
    for key, codes in lists.items():
        for code in codes:
            if seen.setdefault(code.casefold(), key) != key:
                raise _bad(section.at(key), f"{code!r} is also listed under {seen[code.casefold()]}")


def _check(mapping: Mapping, where: str) -> None:
    mapped = {code.variable for code in mapping.long.codes.values()} if mapping.long else set(mapping.columns)
    measured = sum(name in NAMES[:N_TIME_VARYING] for name in mapped)
    if measured < FEWEST_MEASURED_COLUMNS:
        raise _bad(
            f"{where}: {'codes' if mapping.long else 'columns'}",
            f"has {measured} of the {N_TIME_VARYING} vital signs and labs, "
            f"at least {FEWEST_MEASURED_COLUMNS} are needed",
        )
    if mapping.long:
        if mapping.table.patient is None:
            raise _bad(f"{where}: table.patient", "is missing")
        for key in ("label", "hospital"):
            if getattr(mapping.table, key) is not None:
                raise _bad(f"{where}: table.{key}", "is not read from a long table")
    if mapping.unit_type and not {"Unit1", "Unit2"}.isdisjoint(mapping.columns):
        raise _bad(f"{where}: unit_type", "and columns.Unit1 or Unit2 both state this; remove one")
    if mapping.time.hospital_admission and "HospAdmTime" in mapping.columns:
        raise _bad(f"{where}: time.hospital_admission", "and columns.HospAdmTime both state this; remove one")
    used: dict[str, str] = {}
    for name, column in mapping.columns.items():
        if used.setdefault(column.column, name) != name:
            raise _bad(
                f"{where}: columns.{name}.column", f"{column.column!r} is {used[column.column]} already"
            )
    for code in (*mapping.table.missing, *(m for c in mapping.columns.values() for m in c.missing)):
        if len(code) > LONGEST_CODE or "\0" in code:
            raise _bad(f"{where}: table.missing", f"{code[:20]!r}... is not a code")


def _bad(where: str, message: str) -> MalformedFile:
    return MalformedFile(message, where=where, code="bad_mapping")
