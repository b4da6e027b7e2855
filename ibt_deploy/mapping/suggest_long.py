"""Suggest a first mapping for a table with one measurement per row: the roles of its columns, and its codes.

Roles follow from the names of the columns and from the first rows. Codes and units are those of the whole
table, each with its number of rows. LOINC codes are looked up in ``data/ehr_codes.csv``, names in the same
way as those of columns. What is not certainly a variable becomes a comment.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ibt_deploy.errors import BadUnits
from ibt_deploy.mapping.schema import OF_A_STAY, LongTable, TableOptions
from ibt_deploy.mapping.suggest import (
    Match,
    Sample,
    column_lines,
    comment,
    first_of,
    gender_lines,
    likely_unit,
    match_of,
    matches_of,
    quoted,
    table_lines,
    time_lines,
    unit_type_lines,
)
from ibt_deploy.mapping.synonyms import CODES, CUFF, SPECIMENS, UNITS, VALUES, plain_name
from ibt_deploy.mapping.units import CANONICAL, conversion
from ibt_deploy.standards.events import LOINC, NO_UNIT, codes
from ibt_deploy.standards.long_table import CodeCount, code_counts
from ibt_deploy.vocabulary import INDEX, N_TIME_VARYING, NAMES

FEWEST_VARIABLES = 3
MOST_DISTINCT = 20_000
MOST_NUMBERS = 0.5
LISTED = 40
LOINC_CODE = re.compile(r"(?:LOINC\W+|https?://loinc\.org\W+)?(\d{1,5}-\d)", re.IGNORECASE)
PRESSURES = ("SBP", "MAP", "DBP")


@dataclass(frozen=True)
class _Known:
    """Meaning of a code or name.

    Attributes
    ----------
    match
        The variable, with the unit that the code or the name states.
    priority
        Priority among the codes of the variable.
    stated_by
        Source of the stated unit.
    """

    match: Match
    priority: int = 1
    stated_by: str = "the name"


def long_lines(sample: Sample) -> list[str]:
    """The lines of a first mapping; empty if the table has a column for each variable.

    Raises
    ------
    InputError
        The whole table cannot be read.
    MissingExtra
        DuckDB, pyarrow or pint is not installed.
    """
    code = _code_column(sample)
    return [] if code is None else list(_lines(sample, code))


def _code_column(sample: Sample) -> str | None:
    """The column with codes or names of measurements, if the table is long.

    It is the one with the most rows that are certainly variables; in a tie, the one with the better name.
    """
    found = []
    for column in sample.columns:
        values = sample.values(column)
        if not 0 < len(values) <= MOST_DISTINCT:
            continue
        known = {
            value: known.match for value in values if (known := _known(value)) and known.match.is_certain
        }
        variables = {match.variable for match in known.values()}
        if len(variables) > max(FEWEST_VARIABLES - 1, len(matches_of(sample))):
            plain = plain_name(column)
            rank = CODES.index(plain) if plain in CODES else len(CODES)
            found.append((sum(values[value] for value in known), -rank, column))
    return max(found)[2] if found else None


def _known(code: str) -> _Known | None:
    if (loinc := LOINC_CODE.fullmatch(code)) is not None:
        row = codes().get((LOINC, loinc.group(1)))
        if row is None:
            return None
        match = Match(code, row.variable, row.ucum, True, is_urea=row.substance == "urea")
        return _Known(match, row.priority, "the code")
    words = re.findall(r"[^\W_]+", code.casefold())
    if any(word in SPECIMENS or "urin" in word for word in words):
        return None
    named = match_of(code)
    if named is None or INDEX[named.variable] > INDEX["Age"]:
        return None
    is_cuff = named.variable in PRESSURES and any(
        word in CUFF or word.startswith(("nibp", "noninv")) for word in words
    )
    return _Known(named, 2 if is_cuff else 1)


def _value_column(sample: Sample, taken: set[str], by_plain: dict[str, str]) -> str | None:
    """The column with the numbers: by its name, else the only one that is mostly numbers."""
    named = first_of(VALUES, by_plain)
    if named is not None and named not in taken:
        return named
    free = [name for name in sample.columns if name not in taken]
    numeric = [
        name for name in free if len(sample.numbers(name)) > MOST_NUMBERS * sum(sample.values(name).values())
    ]
    return numeric[0] if len(numeric) == 1 else None


def _unit_column(sample: Sample, taken: set[str], by_plain: dict[str, str], code: str) -> str | None:
    """The column with the units: by its name, else one whose cells are units of the variables beside them."""
    named = first_of(UNITS, by_plain)
    if named is not None and named not in taken:
        return named
    for name in sample.columns:
        if name in taken:
            continue
        pairs = Counter(zip(sample.columns[code], sample.columns[name], strict=True))
        fitting = [(count, _fits(pair[0], pair[1])) for pair, count in pairs.items() if pair[1]]
        judged = [(count, fits) for count, fits in fitting if fits is not None]
        if judged and sum(c for c, fits in judged if fits) > MOST_NUMBERS * sum(c for c, _ in judged):
            return name
    return None


def _fits(code: str, unit: str) -> bool | None:
    """Whether a unit can be that of what a code measures; None if the code is unknown."""
    known = _known(code)
    if known is None:
        return None
    try:
        conversion(known.match.variable, unit)
    except BadUnits:
        return False
    return True


def _lines(sample: Sample, code: str) -> Iterator[str]:
    by_plain = {plain_name(name): name for name in reversed(list(sample.columns))}
    used = {code}
    table = list(table_lines(sample, by_plain, used, is_long=True))
    time = list(time_lines(sample, by_plain, used, is_long=True))
    unit = _unit_column(sample, used | {first_of(VALUES, by_plain) or ""}, by_plain, code)
    value = _value_column(sample, used | ({unit} if unit else set()), by_plain)
    used |= {name for name in (unit, value) if name is not None}
    yield f"# First mapping for {comment(sample.path.name)}, a table with one measurement in each row."
    yield '# Correct it: every "?" must be decided, every unit compared with what the laboratory states.'
    yield "# Research software, not a medical device."
    yield ""
    yield from table
    yield ""
    yield "[long]"
    yield f"code = {quoted(code)}"
    yield f"value = {quoted(value)}" if value else 'value = "?"  # the column with the numbers'
    yield f"unit = {quoted(unit)}" if unit else "# no column of units was found"
    yield ""
    yield from time
    yield from _of_the_stay(sample, by_plain, used)
    if value is None:
        yield ""
        yield "# Name the column with the numbers, and the codes below [[codes]] (docs/mapping.md)."
        return
    options = TableOptions(
        delimiter=sample.delimiter,
        decimal="," if sample.decimal == "," else ".",
        encoding="latin-1" if sample.encoding == "latin-1" else "utf-8",
    )
    with tempfile.TemporaryDirectory(prefix="ibt-") as folder:
        counts = code_counts(sample.path, options, LongTable(code, value, unit), Path(folder))
    yield from _codes(counts, unit is not None)
    rest = [name for name in sample.columns if name not in used]
    if rest:
        yield ""
        yield f"# Columns that are not used: {', '.join(map(comment, rest))}."


def _of_the_stay(sample: Sample, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    matches = matches_of(sample)
    for variable in NAMES:
        if variable == "Gender":
            yield from gender_lines(sample, by_plain, used)
        found = [m for m in matches.get(variable, []) if m.column not in used]
        if found and variable in OF_A_STAY:
            yield ""
            yield from column_lines(sample, found, used)
    yield from unit_type_lines(sample, by_plain, used)


def _codes(counts: Sequence[CodeCount], has_units: bool) -> Iterator[str]:
    """The sections ``[[codes]]``, in the order of the variables; the rest as comments."""
    mapped: list[tuple[CodeCount, _Known]] = []
    rest: list[tuple[CodeCount, str]] = []
    for count in counts:
        known = _known(count.code)
        if known is None:
            rest.append((count, ""))
        elif not known.match.is_certain:
            what = f": {known.match.relative}" if known.match.relative else ""
            rest.append((count, f"perhaps {known.match.variable}{what}"))
        elif not count.numbers:
            rest.append((count, f"{known.match.variable}, but no row has a number"))
        else:
            mapped.append((count, known))
    rows, all_rows = sum(count.rows for count, _ in mapped), sum(count.rows for count in counts)
    variables = {known.match.variable for _, known in mapped}
    yield ""
    yield (
        f"# Mapped: {len(mapped)} of {len(counts)} codes with their units, {rows:,} of {all_rows:,} rows "
        f"({rows / max(all_rows, 1):.1%}), {len(variables)} variables."
    )
    for count, known in sorted(mapped, key=lambda entry: INDEX[entry[1].match.variable]):
        yield ""
        yield from _code(count, known, has_units)
    absent = [name for name in NAMES[:N_TIME_VARYING] if name not in variables]
    yield ""
    if absent:
        yield f"# No code was found for {', '.join(absent)}."
    if rest:
        yield f"# Not mapped: {all_rows - rows:,} rows. Add those that are one of the variables as above."
    for count, what in rest[:LISTED]:
        unit = f" [{comment(count.unit)}]" if count.unit else ""
        yield f"# {count.rows:>12,}  {comment(count.code)}{unit}{f'  ({what})' if what else ''}"
    if len(rest) > LISTED:
        more = sum(count.rows for count, _ in rest[LISTED:])
        yield f"# {more:>12,}  rows of {len(rest) - LISTED:,} further codes"


def _code(count: CodeCount, known: _Known, has_units: bool) -> Iterator[str]:
    match, stated_by = known.match, known.stated_by
    is_stated = count.unit.casefold() not in NO_UNIT
    if is_stated:
        match = Match(match.column, match.variable, count.unit, True, is_urea=match.substance == "urea")
        stated_by = "the table"
    unit, why = likely_unit(match, count.numbers, count.median, stated_by)
    yield f"[[codes]]  # {count.rows:,} rows"
    yield f"code = {quoted(count.code)}"
    if has_units:
        yield f"unit = {quoted(count.unit)}"
    if unit != "?":
        found = conversion(match.variable, unit, match.substance)
        if not found.changes_nothing:
            offset = f" {found.offset:+.6g}" if found.offset else ""
            why += f"; x {found.factor:.6g}{offset} = {CANONICAL[match.variable]}"
    if is_stated and unit == count.unit:
        yield f"variable = {quoted(match.variable)}  # {why}"
    else:
        yield f"variable = {quoted(match.variable)}"
        yield f"is = {quoted(unit)}  # {why}"
    if match.substance:
        yield 'substance = "urea"  # "nitrogen" if the laboratory reports BUN by this name'
    if known.priority != 1:
        yield f"priority = {known.priority}"
