"""The expressions by which the engine turns the cells of a file into a row of a stay.

Cells are named by place (``c0``, ``c1``, ...), because a header may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence

from ibt_deploy.batch.tables_layout import Layout, NumberColumn
from ibt_deploy.mapping.schema import Time
from ibt_deploy.readers.columns import LONGEST_SHOWN, MISSING_WORDS
from ibt_deploy.variables import NAMES

MISSING_SPELLINGS = (
    "", "nan", "NaN", "NAN", "na", "NA", "n/a", "N/A", "null", "NULL", "Null", "none", "None", "NONE",
)  # fmt: skip
"""Spellings that the engine itself takes for missing; the rarer ones are met when a line is read again."""

ISO_FORMATS = tuple(f"%Y-%m-%d{gap}%H:%M{rest}" for gap in (" ", "T") for rest in (":%S.%f", ":%S", ""))
FAULT = "\x1f"
MICROSECONDS = 3_600_000_000
NUMBER_TARGETS = (*NAMES, "hour", "SepsisLabel")
TIMES = ("time", "admission", "hospital_admission")
STORED: tuple[tuple[str, str], ...] = (
    ("patient", "VARCHAR"),
    ("part", "INTEGER"),
    ("file", "INTEGER"),
    ("line", "BIGINT"),
    *((name, "DOUBLE") for name in NUMBER_TARGETS),
    *((name, "BIGINT") for name in TIMES),
    ("hospital", "VARCHAR"),
    ("fault", "VARCHAR"),
)
"""Columns of the store and their types: which stay, which row of which file, its numbers, what is wrong."""

ORDER = f"patient, part, time, coalesce({', '.join(('ICULOS', 'hour'))}), file, line"


def text(value: str) -> str:
    """A literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted name."""
    return '"' + name.replace('"', '""') + '"'


def stored_row(layout: Layout, cells: Dict[str, str], types: Dict[str, str], place: Dict[str, str]) -> str:
    """Select list of a row of the store.

    Parameters
    ----------
    layout
        What to read.
    cells
        Expression of each source column.
    types
        Its type in the engine, ``DOUBLE`` or ``VARCHAR``, or one with times for Parquet.
    place
        Expressions of ``patient`` (where the file names it), ``part``, ``file`` and ``line``.
    """
    found = dict(place)
    faults: list[str] = []
    if layout.patient is not None:
        name = f"trim({cells[layout.patient]}::VARCHAR)"
        missing = _list(sorted(MISSING_WORDS))
        found["patient"] = f"CASE WHEN lower({name}) NOT IN ({missing}) THEN {name} END"
    if layout.hospital is not None:
        found["hospital"] = f"coalesce(trim({cells[layout.hospital]}::VARCHAR), '')"
    for number in layout.numbers:
        value, fault = _number(number, cells[number.source], types[number.source], layout)
        found[number.target] = value
        faults += fault
    for code in layout.codes:
        cell = f"lower(trim({_plain_text(cells[code.source], types[code.source])}))"
        known = (*code.ones, *code.zeros, *code.unknown)
        nothing = f"({cell} IS NULL OR {_among(cell, sorted(MISSING_WORDS))})"
        found[code.target] = (
            f"CASE WHEN {_among(cell, code.ones)} THEN 1.0 WHEN {_among(cell, code.zeros)} THEN 0.0 END"
        )
        if code.target != "Unit2":
            said = _complaint("unknown_code", code.source, cells[code.source], "is no code of the mapping")
            faults.append(f"CASE WHEN NOT ({nothing} OR {_among(cell, known)}) THEN {said} END")
    if layout.time is not None:
        times, fault = _times(layout.time, cells, types)
        found |= times
        faults += fault
    found["fault"] = f"coalesce({', '.join(faults)})" if faults else "NULL"
    return ", ".join(f"({found.get(name, 'NULL')})::{kind} AS {identifier(name)}" for name, kind in STORED)


def _number(number: NumberColumn, cell: str, kind: str, layout: Layout) -> tuple[str, list[str]]:
    faults = []
    value = f"{cell}::DOUBLE"
    if kind == "VARCHAR":
        blank = f"(trim({cell}) IN ({_list((*MISSING_SPELLINGS, *layout.missing_words))}))"
        value = f"TRY_CAST(CASE WHEN NOT {blank} THEN trim({cell}) END AS DOUBLE)"
        faults.append(
            f"CASE WHEN {cell} IS NOT NULL AND NOT {blank} AND {value} IS NULL THEN "
            f"{_complaint('not_a_number', number.source, cell, 'is not a number')} END"
        )
    missing = [f"isnan({value})", *(f"{value} = {code!r}" for code in number.missing)]
    known = f"CASE WHEN {' OR '.join(missing)} THEN NULL ELSE {value} END"
    conversion = number.conversion
    if conversion is None or conversion.changes_nothing:
        return known, faults
    return f"({known}) * {conversion.factor!r}::DOUBLE + {conversion.offset!r}::DOUBLE", faults


def _times(time: Time, cells: Dict[str, str], types: Dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Expressions of points in time in microseconds, and of what is wrong with them."""
    if time.kind == "hours":
        cell = cells[time.column]
        value = f"TRY_CAST({cell} AS DOUBLE)"
        scale = time.hours * MICROSECONDS
        usable = f"CASE WHEN abs({value}) < 1e6 THEN round({value} * {scale!r}::DOUBLE)::BIGINT END"
        fault = (
            f"CASE WHEN {cell} IS NOT NULL AND NOT coalesce(abs({value}) < 1e6, false) THEN "
            f"{_complaint('bad_time', time.column, cell, 'is no number of hours')} END"
        )
        return {"time": usable, "admission": f"CASE WHEN {value} IS NOT NULL THEN 0 END"}, [fault]
    sources = {
        "time": time.column,
        "admission": time.admission,
        "hospital_admission": time.hospital_admission,
    }
    found: dict[str, str] = {}
    faults: list[str] = []
    for target, source in sources.items():
        if source is None:
            continue
        found[target], complaints = _instant(time, source, cells[source], types[source])
        faults += complaints
    return found, faults


def _instant(time: Time, source: str, cell: str, kind: str) -> tuple[str, list[str]]:
    spelt = _plain_text(cell, kind)
    formats = [f for given in time.formats for f in (ISO_FORMATS if given == "iso" else (given,))]
    if time.zone == "offset":
        formats = [f if "%z" in f else f"{f}%z" for f in formats]
        spelt = f"regexp_replace({spelt}, '[zZ]$', '+00:00')"
    if kind.startswith(("TIMESTAMP", "DATE")):
        parsed, nothing = cell if "ZONE" in kind else f"{cell}::TIMESTAMP", f"{cell} IS NULL"
    else:
        parsed = f"try_strptime(trim({spelt}), [{_list(formats)}])"
        nothing = f"({cell} IS NULL OR {_among(f'lower(trim({cell}))', sorted(MISSING_WORDS))})"
    unreadable = _complaint("bad_time", source, spelt, "is not a time as the mapping says")
    faults = [f"CASE WHEN NOT {nothing} AND {parsed} IS NULL THEN {unreadable} END"]
    if time.zone in ("fixed", "offset") or "ZONE" in kind:
        return f"epoch_us({parsed})", faults
    zone = text(str(time.zone))
    there = f"timezone({zone}, {parsed})"
    again = " OR ".join(
        f"timezone({zone}, {there} {sign} INTERVAL {minutes} MINUTE) = {parsed}"
        for sign in "+-"
        for minutes in (30, 60)
    )
    doubtful = _complaint("ambiguous_time", source, spelt, "is there twice or never: clocks were changed")
    faults.append(
        f"CASE WHEN {parsed} IS NOT NULL AND (timezone({zone}, {there}) != {parsed} OR {again}) "
        f"THEN {doubtful} END"
    )
    return f"epoch_us({there})", faults


def _plain_text(cell: str, kind: str) -> str:
    """A cell as text; whole numbers as codes have them."""
    if kind in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN {cell} = floor({cell}) THEN {cell}::BIGINT::VARCHAR ELSE {cell}::VARCHAR END"
    return f"{cell}::VARCHAR"


def _among(cell: str, codes: Sequence[str]) -> str:
    """Whether a text in small letters is one of the codes, as text or as the same number."""
    if not codes:
        return "false"
    found = f"coalesce({cell} IN ({_list([code.lower() for code in codes])}), false)"
    numbers = []
    for code in codes:
        try:
            numbers.append(repr(float(code)))
        except ValueError:
            continue
    finite = [number for number in numbers if number not in ("nan", "inf", "-inf")]
    if finite:
        return f"({found} OR coalesce(TRY_CAST({cell} AS DOUBLE) IN ({', '.join(finite)}), false))"
    return found


def _complaint(code: str, source: str, cell: str, what: str) -> str:
    start = text(f"{code}{FAULT}column {source[:LONGEST_SHOWN]}: ")
    return f"{start} || left({cell}::VARCHAR, {LONGEST_SHOWN}) || {text(f' {what}')}"


def _list(words: Sequence[str]) -> str:
    return ", ".join(text(word) for word in words)
