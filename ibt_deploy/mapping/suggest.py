"""Suggest a first mapping from the first rows of a table, for a person to correct.

What the names and values do not settle is written as ``"?"``, which :func:`ibt_deploy.mapping.load_mapping`
refuses: nothing uncertain can be scored by oversight.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ibt_deploy.errors import BadUnits, InputError, MalformedFile, first_line, require
from ibt_deploy.mapping.doubts import central, is_within, wide
from ibt_deploy.mapping.synonyms import (
    ADMISSIONS,
    BY_NAME,
    FEMALE,
    HOSPITAL_ADMISSIONS,
    HOSPITALS,
    HOURS,
    LABELS,
    MALE,
    MEDICAL,
    OFFSETS,
    PATIENT,
    RELATIVES,
    SEX,
    SURGICAL,
    TIMES,
    UNIT_TYPES,
    means_urea,
    name_and_unit,
    plain_name,
    unit_in_brackets,
)
from ibt_deploy.mapping.units import CANONICAL, conversion
from ibt_deploy.readers.columns import LIMIT, MISSING_WORDS, unreadable
from ibt_deploy.readers.stays import DELIMITERS, PARQUET_MAGIC
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import INDEX, NAMES, OTHER_UNITS, VARIABLES

MOST_ROWS = 50_000
MOST_BYTES = 1 << 24
COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
POINT_NUMBER = re.compile(r"[+-]?\d+\.\d+")


@dataclass(frozen=True)
class Sample:
    """The first rows of a table.

    Attributes
    ----------
    path
        Path of the file.
    columns
        Cells by column, as text, stripped.
    delimiter, decimal, encoding
        How the text is written; for Parquet ``None``, a point and UTF-8.
    """

    path: Path
    columns: dict[str, list[str]]
    delimiter: str | None
    decimal: str
    encoding: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max(map(len, self.columns.values()), default=0)

    def numbers(self, name: str) -> Floats:
        """The cells of a column that are numbers."""
        found = []
        for cell in self.columns[name]:
            try:
                found.append(float(cell.replace(",", ".") if self.decimal == "," else cell))
            except ValueError:
                continue
        values = np.array(found, dtype=np.float64)
        return values[np.isfinite(values)]

    def words(self, name: str) -> Counter[str]:
        """Counts of the cells of a column that are not numbers, limits (``<0.5``) or empty."""
        found: Counter[str] = Counter()
        for cell in self.columns[name]:
            if cell.casefold() in MISSING_WORDS:
                continue
            try:
                float(LIMIT.sub("", cell.replace(",", ".") if self.decimal == "," else cell, count=1))
            except ValueError:
                found[cell] += 1
        return found

    def values(self, name: str) -> Counter[str]:
        """Counts of the cells of a column that are not empty."""
        return Counter(cell for cell in self.columns[name] if cell.casefold() not in MISSING_WORDS)


UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def sampled(path: Path) -> Sample:
    """The first rows of the file at ``path``.

    Raises
    ------
    InputError
        The file cannot be read.
    MissingExtra
        The file is Parquet or compressed, and pyarrow is not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if not head:
            raise MalformedFile("the file is empty", code="empty_file")
        return _parquet(path) if head.startswith(PARQUET_MAGIC) else _text(path, head)
    except InputError as error:
        raise error.at(str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from error


def _parquet(path: Path) -> Sample:
    require("reading Parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=MOST_ROWS), None)
            names = file.schema_arrow.names
    except pa.ArrowException as error:
        raise MalformedFile(f"cannot be read as Parquet: {first_line(error)}") from error
    cells = {name: [] if batch is None else batch.column(i).to_pylist() for i, name in enumerate(names)}
    columns = {
        name: ["" if cell is None else str(cell).strip() for cell in column] for name, column in cells.items()
    }
    return Sample(path, columns, None, ".", "utf-8")


def _text(path: Path, head: bytes) -> Sample:
    data = _start(path, head)
    if b"\0" in data:
        what = "UTF-16 text" if data[:2] in UTF_16 else "a binary file, perhaps a spreadsheet"
        raise MalformedFile(f"this is {what}; export the table as CSV in UTF-8", code="not_text")
    is_whole = len(data) < MOST_BYTES
    try:
        text, encoding = data.decode("utf-8-sig", errors="strict" if is_whole else "ignore"), "utf-8"
        if not is_whole:
            data[: MOST_BYTES // 2].rpartition(b"\n")[0].decode("utf-8-sig")
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    lines = [line for line in text.splitlines() if line.strip()]
    if not is_whole:
        lines.pop()
    if not lines:
        raise MalformedFile("the file is empty", code="empty_file")
    delimiter = max(DELIMITERS, key=lines[0].count)
    rows = csv.reader(io.StringIO("\n".join(lines[: MOST_ROWS + 1])), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(rows)]
        kept = [row for row in rows if len(row) == len(names)]
    except csv.Error as error:
        raise MalformedFile(f"cannot be read as a table: {error}") from error
    columns = {name: [row[i].strip() for row in kept] for i, name in enumerate(names) if name}
    cells = [cell for column in columns.values() for cell in column[:1000]]
    commas = sum(bool(COMMA_NUMBER.fullmatch(cell)) for cell in cells)
    points = sum(bool(POINT_NUMBER.fullmatch(cell)) for cell in cells)
    return Sample(path, columns, delimiter, "," if commas > points and delimiter != "," else ".", encoding)


def _start(path: Path, head: bytes) -> bytes:
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2])
    if compression is None:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    require("reading compressed tables", "pyarrow")
    import pyarrow as pa

    with pa.input_stream(str(path), compression=compression) as stream:
        return bytes(stream.read(MOST_BYTES))


def quoted(value: str) -> str:
    """A TOML string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


FEWEST_VALUES = 10
MOST_CODES = 20
SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99999.0)

FORMATS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%Y%m%d %H:%M",
)
ISO = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?")
ISO_OFFSET = re.compile(ISO.pattern + r"([zZ]|[+-]\d\d:?\d\d|[+-]\d\d)")
LOOKED_AT = 500


@dataclass(frozen=True)
class Match:
    """A column that may be a variable, the unit that its name states, and what else it may be."""

    column: str
    variable: str
    unit: str | None
    is_certain: bool
    relative: str = ""
    is_urea: bool = False

    @property
    def substance(self) -> str | None:
        """``urea`` if the name or the code means it."""
        return "urea" if self.variable == "BUN" and (self.is_urea or means_urea(self.column)) else None


def suggested_mapping(path: Path) -> str:
    """The text of a first ``mapping.toml`` for the table at ``path``.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    from ibt_deploy.mapping.suggest_long import long_lines

    sample = sampled(path)
    return "\n".join(long_lines(sample) or _lines(sample)) + "\n"


def _lines(sample: Sample) -> Iterator[str]:
    by_plain = {plain_name(name): name for name in reversed(list(sample.columns))}
    matches = matches_of(sample)
    used: set[str] = set()
    yield f"# First mapping for {sample.path.name}, from its column names and its first {sample.rows} rows."
    yield '# Correct it: every "?" must be decided, every unit compared with what the laboratory states.'
    yield "# Research software, not a medical device."
    yield ""
    yield from table_lines(sample, by_plain, used)
    yield ""
    yield from time_lines(sample, by_plain, used)
    for variable in NAMES:
        if variable == "Gender":
            yield from gender_lines(sample, by_plain, used)
        found = [m for m in matches.get(variable, []) if m.column not in used]
        if found:
            yield ""
            yield from column_lines(sample, found, used)
    yield from unit_type_lines(sample, by_plain, used)
    absent = [name for name in NAMES[: INDEX["Age"]] if name not in matches]
    yield ""
    if absent:
        yield f"# No column was found for {', '.join(absent)}."
    rest = [name for name in sample.columns if name not in used]
    if rest:
        yield f"# Columns that are not used: {', '.join(map(comment, rest))}."


def matches_of(sample: Sample) -> dict[str, list[Match]]:
    """Columns that may be a variable, the most certain first."""
    found: dict[str, list[Match]] = {}
    for column in sample.columns:
        if (match := match_of(column)) is not None:
            found.setdefault(match.variable, []).append(match)
    return {name: sorted(these, key=lambda m: not m.is_certain) for name, these in found.items()}


def match_of(name: str) -> Match | None:
    """The variable that the name of a column or measurement may mean."""
    plain, unit = plain_name(name), unit_in_brackets(name)
    for bare, stated in name_and_unit(plain):
        if bare in BY_NAME:
            return Match(name, BY_NAME[bare], unit or stated, True)
        if bare in RELATIVES:
            variable, what = RELATIVES[bare]
            return Match(name, variable, unit or stated, False, what)
    words = {BY_NAME[part] for part in plain.split("_") if len(part) > 1 and part in BY_NAME}
    return Match(name, words.pop(), unit, False) if len(words) == 1 else None


def table_lines(
    sample: Sample, by_plain: dict[str, str], used: set[str], is_long: bool = False
) -> Iterator[str]:
    """The section ``[table]``; columns that it names are added to ``used``."""
    yield "[table]"
    patients = [by_plain[name] for name in PATIENT if name in by_plain]
    if patients:
        others = ", ".join(map(comment, patients[1:]))
        doubt = f"  # one name for each ICU stay; or {others}?" if others else ""
        yield f"patient = {quoted(patients[0])}{doubt}"
        used.add(patients[0])
    else:
        alone = "" if is_long else "; delete this line if every file is one stay"
        yield f'patient = "?"  # the column that names the stay{alone}'
    for key, names in () if is_long else (("hospital", HOSPITALS), ("label", LABELS)):
        column = first_of(names, by_plain)
        if column is not None:
            yield f"{key} = {quoted(column)}"
            used.add(column)
    if sample.delimiter is not None:
        yield f"delimiter = {quoted(sample.delimiter)}"
    if sample.decimal == ",":
        yield 'decimal = ","'
    if sample.encoding != "utf-8":
        yield f"encoding = {quoted(sample.encoding)}  # the file is not UTF-8"


def column_lines(sample: Sample, found: Sequence[Match], used: set[str]) -> Iterator[str]:
    """The section of one variable, for which the columns of ``found`` were found."""
    best, variable = found[0], found[0].variable
    rivals = [m.column for m in found[1:] if m.is_certain == best.is_certain]
    yield f"[columns.{variable}]"
    values = sample.numbers(best.column)
    if rivals:
        yield f'column = "?"  # which? {", ".join(quoted(c) for c in (best.column, *rivals))}'
        used.update(m.column for m in found)
    elif best.is_certain:
        yield f"column = {quoted(best.column)}"
    else:
        yield f'column = "?"  # perhaps {quoted(best.column)}{f": {best.relative}" if best.relative else ""}'
    used.add(best.column)
    median = float(np.median(values)) if len(values) else None
    unit, why = likely_unit(best, len(values), median)
    yield f"unit = {quoted(unit)}  # {why}"
    if best.substance:
        yield 'substance = "urea"  # the name says so; "nitrogen" if the laboratory reports BUN by this name'
    yield from _missing(sample, best, values, unit)


def likely_unit(
    match: Match, count: int, median: float | None, stated_by: str = "the name"
) -> tuple[str, str]:
    """The unit that name and values agree on, or ``?``; and the reason.

    Parameters
    ----------
    match
        What is measured, with the unit that is stated.
    count, median
        Count and median of the values as given; the median is None without any.
    stated_by
        Source of the stated unit.
    """
    variable, own = match.variable, CANONICAL[match.variable]
    median = median if count >= FEWEST_VALUES else None
    shown = f"too few values ({count})" if median is None else f"median {median:.4g}"
    stated = match.unit
    if stated is not None:
        try:
            known = conversion(variable, stated, match.substance)
        except BadUnits:
            return "?", f"{shown}; {stated_by} says {comment(stated)}, which is not a unit of {variable}"
        usual = wide(variable)
        if median is None or usual is None or is_within(known.value(median), usual):
            return stated, f"{stated_by} says so; {shown}"
        return "?", f"{stated_by} says {comment(stated)}, but {shown} is unusual for it"
    usual = central(variable)
    if variable in ("pH", "Gender", "Unit1", "Unit2"):
        return own, shown
    if median is None or usual is None:
        return "?", f"{shown}; {own}?"
    units = (own, *OTHER_UNITS.get(variable, ()))
    likely = [
        unit for unit in units if is_within(conversion(variable, unit, match.substance).value(median), usual)
    ]
    if len(likely) == 1:
        return likely[0], f"from the values: {shown}"
    if len(units) == 1:
        return "?", f"{shown} is unusual for {variable} in {own}"
    return "?", f"{shown}: {' or '.join(likely or units)}?"


def _missing(
    sample: Sample, match: Match, values: np.ndarray[tuple[int], np.dtype[np.float64]], unit: str
) -> Iterator[str]:
    """Codes that may stand for missing values, for a person to uncomment."""
    words = sample.words(match.column)
    codes = [code for code, _ in words.most_common(MOST_CODES)]
    variable = VARIABLES[INDEX[match.variable]]
    if unit != "?":
        known = conversion(match.variable, unit, match.substance)
        codes += [
            f"{code:g}"
            for code in SENTINELS
            if (values == code).any()
            and not variable.plausible_min <= known.value(code) <= variable.plausible_max
        ]
    if codes:
        listed = ", ".join(map(quoted, codes))
        yield f"# missing = [{listed}]  # found among the numbers: uncomment those that mean 'not measured'"


def gender_lines(sample: Sample, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    """The section of Gender, if there is a column of codes for it."""
    column = first_of(SEX, by_plain)
    if column is None:
        return
    used.add(column)
    codes = [code for code, _ in sample.values(column).most_common(MOST_CODES)]
    male = [code for code in codes if code.casefold() in MALE]
    female = [code for code in codes if code.casefold() in FEMALE]
    yield from ("", "[columns.Gender]", f"column = {quoted(column)}")
    yield from _placed(codes, {"male": male, "female": female}, "mean neither")


def unit_type_lines(sample: Sample, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    """The section of the kind of ward, or those of Unit1 and Unit2."""
    free = (by_plain[name] for name in UNIT_TYPES if name in by_plain and by_plain[name] not in used)
    column = next(free, None)
    if column is None or {"Unit1", "Unit2"} & set(sample.columns):
        yield from _unit_flags(sample, used)
        return
    codes = [code for code, _ in sample.values(column).most_common(MOST_CODES)]
    medical = [code for code in codes if any(word in code.casefold() for word in MEDICAL)]
    surgical = [
        code for code in codes if any(word in code.casefold() for word in SURGICAL) and code not in medical
    ]
    used.add(column)
    yield from ("", "[unit_type]", f"column = {quoted(column)}")
    yield from _placed(codes, {"medical": medical, "surgical": surgical}, "are neither")


def _placed(codes: list[str], by_key: dict[str, list[str]], neither: str) -> Iterator[str]:
    """The keys of a section with their codes, and the codes that belong to no key."""
    for key, placed in by_key.items():
        yield f"{key} = {_texts(placed)}"
    if rest := [code for code in codes if not any(code in placed for placed in by_key.values())]:
        yield f"# Not placed: {', '.join(map(quoted, rest))}; those that {neither}: unknown = [...]"


def _unit_flags(sample: Sample, used: set[str]) -> Iterator[str]:
    for name in ("Unit1", "Unit2"):
        if name in sample.columns:
            used.add(name)
            yield from ("", f"[columns.{name}]", f'column = "{name}"', f"unit = {quoted(CANONICAL[name])}")


def time_lines(
    sample: Sample, by_plain: dict[str, str], used: set[str], is_long: bool = False
) -> Iterator[str]:
    """The section ``[time]``; columns that it names are added to ``used``."""
    yield "[time]"
    hours = first_of(HOURS, by_plain)
    offsets = first_of(OFFSETS, by_plain)
    times = first_of(TIMES, by_plain)
    if hours is not None:
        used.add(hours)
        yield from _hours(sample, hours)
    elif times is not None:
        used.add(times)
        yield from _timestamps(sample, times, by_plain, used)
        if not is_long:
            yield 'before_admission = "refuse"  # or "drop": rows before admission are left out and counted'
            yield 'after_two_weeks = "refuse"  # or "drop": the models support at most 336 hours'
    elif offsets is not None:
        used.add(offsets)
        yield 'kind = "hours"'
        yield f"column = {quoted(offsets)}"
        yield 'unit = "?"  # "min", "h", "s" or "d" since admission to the ICU'
    else:
        yield 'kind = "?"  # "iculos", "hours" or "timestamp"'
        yield 'column = "?"  # nothing that looks like a time was found'


def _hours(sample: Sample, column: str) -> Iterator[str]:
    values = sample.numbers(column)
    is_whole = len(values) > 0 and bool((values == np.floor(values)).all())
    if is_whole and values.min() >= 1:
        yield 'kind = "iculos"  # whole hours, the first hour of the stay is 1'
        yield f"column = {quoted(column)}"
    else:
        yield 'kind = "hours"  # since admission to the ICU; "iculos" would need whole hours from 1 on'
        yield f"column = {quoted(column)}"
        yield 'unit = "h"'


def _timestamps(sample: Sample, column: str, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    cells = list(sample.values(column))[:LOOKED_AT]
    yield 'kind = "timestamp"'
    yield f"column = {quoted(column)}"
    if cells and all(ISO_OFFSET.fullmatch(cell) for cell in cells):
        yield 'format = "iso"'
        yield 'zone = "offset"'
    else:
        yield from _format(cells)
        yield 'zone = "?"  # "fixed" if clocks never change (also of shifted dates), or e.g. "Europe/Berlin"'
    admission = first_of(ADMISSIONS, by_plain)
    if admission is not None:
        used.add(admission)
        yield f"admission = {quoted(admission)}"
    else:
        yield 'admission = "?"  # a column with the time of ICU admission, or "first" for the first row'
    hospital = first_of(HOSPITAL_ADMISSIONS, by_plain)
    if hospital is not None:
        used.add(hospital)
        yield f"hospital_admission = {quoted(hospital)}"


def _format(cells: list[str]) -> Iterator[str]:
    if cells and all(ISO.fullmatch(cell) for cell in cells):
        yield 'format = "iso"'
        return
    fitting = [pattern for pattern in FORMATS if cells and all(_fits(cell, pattern) for cell in cells)]
    if len(fitting) == 1:
        yield f"format = {quoted(fitting[0])}"
    elif fitting:
        yield f'format = "?"  # {" or ".join(map(quoted, fitting))}: day and month are ambiguous'
    else:
        example = "".join(c if c.isprintable() else "?" for c in cells[0][:40]) if cells else "nothing"
        yield f'format = "?"  # a strptime format, e.g. {example}'


def _fits(cell: str, pattern: str) -> bool:
    try:
        datetime.strptime(cell, pattern)
    except ValueError:
        return False
    return True


def first_of(names: Sequence[str], by_plain: dict[str, str]) -> str | None:
    """The first column of the table that has one of these plain names."""
    return next((by_plain[name] for name in names if name in by_plain), None)


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, values))}]" if values else '["?"]  # nothing that could be recognised'


def comment(value: str) -> str:
    """A string made safe for a TOML comment."""
    return "".join(c if c.isprintable() else "?" for c in value)
