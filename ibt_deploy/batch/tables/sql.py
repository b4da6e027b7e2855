"""The embedded engine, and the queries that turn cells of files into rows of the store.

Cells are named by position (``c0``, ``c1``, ...), because a header may hold anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables.layout import Layout, NumberColumn
from ibt_deploy.batch.tables.survey import TableFile
from ibt_deploy.errors import BatchError, first_line, one_line, require
from ibt_deploy.mapping.schema import LongTable, Time
from ibt_deploy.readers.columns import LIMIT, LONGEST_SHOWN, MISSING_WORDS
from ibt_deploy.vocabulary import NAMES

RESERVED_MB = 300
"""Memory of the process besides the engine's own: interpreter, libraries, buffers of a reader."""

LEAST_MB = 512
MISSING_SPELLINGS = (
    "", "nan", "NaN", "NAN", "na", "NA", "n/a", "N/A", "null", "NULL", "Null", "none", "None", "NONE",
)  # fmt: skip
"""Spellings that the engine itself treats as missing; rarer ones are recognised when a line is re-read."""
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
"""Columns of the store and their types: stay, file and row, numbers, and faults."""
MEASUREMENT = (("code", "VARCHAR"), ("unit", "VARCHAR"), ("value", "DOUBLE"), ("sign", "VARCHAR"))
"""Further columns of a row that holds one measurement."""

ORDER = f"patient, part, time, coalesce({', '.join(('ICULOS', 'hour'))}), file, abs(line)"
FEW_FILES = 8


@contextmanager
def engine(folder: Path, memory_mb: int, threads: int | None) -> Iterator[Any]:
    """A connection with a memory limit that spills into ``folder``.

    Raises
    ------
    BatchError
        Disk space or memory is insufficient, or the limit is too low.
    MissingExtra
        DuckDB is not installed.
    """
    require("reading tables", "duckdb")
    import duckdb

    if memory_mb < LEAST_MB:
        raise BatchError(f"a memory limit of {memory_mb} MB is too low; give at least {LEAST_MB}")
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    settings = {
        "memory_limit": f"{memory_mb - RESERVED_MB}MiB",
        "temp_directory": str(spill),
        "preserve_insertion_order": "true",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "TimeZone": "UTC",
    }
    if threads is not None:
        settings["threads"] = str(threads)
    connection = duckdb.connect(":memory:")
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {text(value)}")
        yield connection
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise engine_fault(folder, error) from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def engine_fault(folder: Path, error: Exception) -> BatchError:
    """Translate an engine error in ``folder`` for the user, without the engine's own advice."""
    import duckdb

    said = str(error)
    if "temp_directory" in said or "No space left" in said:
        return BatchError(f"{folder}: this disk is full; tables are sorted there. Make room and start again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return BatchError(f"{folder}: not enough memory to sort these tables; score fewer at once")
    return BatchError(f"{folder}: {one_line(first_line(error))}")


def text(value: str) -> str:
    """Quote a string as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def stored_row(layout: Layout, cells: Dict[str, str], types: Dict[str, str], line: str) -> str:
    """Select list of a row of the store; the table ``f`` of files gives its file and the name of its stay.

    Parameters
    ----------
    layout
        What to read.
    cells
        Expression for each source column.
    types
        Engine type of each source column: ``DOUBLE``, ``VARCHAR`` or, for Parquet, a temporal type.
    line
        Expression for the position of the row in the file.
    """
    part = "-1" if layout.patient else "f.i"
    found = {"patient": "f.stay", "part": part, "file": "f.i", "line": line}
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
            said = _complaint("unknown_code", code.source, cells[code.source], "is not a code of the mapping")
            faults.append(f"CASE WHEN NOT ({nothing} OR {_among(cell, known)}) THEN {said} END")
    if layout.time is not None:
        times, fault = _times(layout.time, cells, types)
        found |= times
        faults += fault
    found["fault"] = f"coalesce({', '.join(faults)})" if faults else "NULL"
    columns = [*STORED, *(MEASUREMENT if layout.long is not None else ())]
    if layout.long is not None:
        found |= _measurement(layout.long, cells, types, layout)
    return ", ".join(f"({found.get(name, 'NULL')})::{kind} AS {identifier(name)}" for name, kind in columns)


def _measurement(
    long: LongTable, cells: Dict[str, str], types: Dict[str, str], layout: Layout
) -> Dict[str, str]:
    """Expressions for code, unit, value and sign of a row with one measurement; limits keep their sign."""
    found = {
        "code": f"coalesce(trim({_plain_text(cells[long.code], types[long.code])}), '')",
        "unit": "''" if long.unit is None else f"coalesce(trim({cells[long.unit]}::VARCHAR), '')",
    }
    kind, cell = types[long.value], cells[long.value]
    if kind != "VARCHAR":
        value = f"{cell}::DOUBLE"
    else:
        found["sign"] = f"nullif(regexp_extract(trim({cell}), {text(f'^{LIMIT.pattern}')}), '')"
        number = f"regexp_replace(trim({cell}), {text(f'^{LIMIT.pattern}')}, '')"
        if layout.decimal == ",":
            number = f"replace({number}, ',', '.')"
        words = f"trim({cell}) IN ({_list((*MISSING_SPELLINGS, *layout.missing_words))})"
        value = f"CASE WHEN NOT {words} AND NOT contains({cell}, '_') THEN TRY_CAST({number} AS DOUBLE) END"
    missing = [f"isnan({value})", *(f"{value} = {code!r}" for code in layout.missing_numbers)]
    found["value"] = f"CASE WHEN {' OR '.join(missing)} THEN NULL ELSE {value} END"
    return found


def _number(number: NumberColumn, cell: str, kind: str, layout: Layout) -> tuple[str, list[str]]:
    faults = []
    value = f"{cell}::DOUBLE"
    if kind == "VARCHAR":
        blank = f"(trim({cell}) IN ({_list((*MISSING_SPELLINGS, *layout.missing_words))}))"
        usable = f"NOT {blank} AND NOT contains({cell}, '_')"
        value = f"TRY_CAST(CASE WHEN {usable} THEN trim({cell}) END AS DOUBLE)"
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
    """Expressions for timestamps in microseconds, and for their faults."""
    if time.kind == "hours":
        cell = cells[time.column]
        value = f"TRY_CAST({cell} AS DOUBLE)"
        scale = time.hours * MICROSECONDS
        usable = f"CASE WHEN abs({value}) < 1e6 THEN round({value} * {scale!r}::DOUBLE)::BIGINT END"
        fault = (
            f"CASE WHEN {cell} IS NOT NULL AND NOT coalesce(abs({value}) < 1e6, false) THEN "
            f"{_complaint('bad_time', time.column, cell, 'is not a number of hours')} END"
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
    doubtful = _complaint("ambiguous_time", source, spelt, "occurs twice or never: clocks were changed")
    faults.append(
        f"CASE WHEN {parsed} IS NOT NULL AND (timezone({zone}, {there}) != {parsed} OR {again}) "
        f"THEN {doubtful} END"
    )
    return f"epoch_us({there})", faults


def _plain_text(cell: str, kind: str) -> str:
    """A cell as text; whole numbers without a decimal point, as in codes."""
    if kind in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN {cell} = floor({cell}) THEN {cell}::BIGINT::VARCHAR ELSE {cell}::VARCHAR END"
    return f"{cell}::VARCHAR"


def _among(cell: str, codes: Sequence[str]) -> str:
    """Whether a lower-case text is one of the codes, as text or as the same number."""
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


@dataclass(frozen=True)
class Scan:
    """Files with one header that are read together.

    Attributes
    ----------
    layout, names
        Common to the files.
    files
        Number and survey of each file.
    joined
        One text with all lines of the files, each behind the number of its file; None if the files
        themselves are read.
    starts
        Line of ``joined`` after which the rows of each file begin.
    """

    layout: Layout
    names: tuple[str, ...]
    files: tuple[tuple[int, TableFile], ...]
    joined: Path | None = None
    starts: tuple[int, ...] = ()

    def relation(self, connection: Any) -> str:
        """A query that returns rows of the store."""
        if self.files[0][1].is_parquet:
            return self._parquet(connection)
        return self._text()

    def _parquet(self, connection: Any) -> str:
        paths = ", ".join(text(_escaped(table.path)) for _, table in self.files)
        source = f"read_parquet([{paths}], filename=true, file_row_number=true)"
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        kinds = {name.strip(): kind for name, kind, *_ in described}
        spelt = {name.strip(): name for name, *_ in described}
        layout = self.layout
        wanted = {*layout.texts, *layout.number_sources}
        cells = {name: f"s.{identifier(spelt[name])}" for name in wanted}
        row = stored_row(layout, cells, kinds, "-(s.file_row_number + 1)")
        return f"SELECT {row} FROM {source} s JOIN files f ON f.path = s.filename"

    def _text(self) -> str:
        layout = self.layout
        numbers = set(layout.number_sources)
        kinds = {name: "DOUBLE" if name in numbers else "VARCHAR" for name in self.names}
        key = "f.i = s.i" if self.joined is not None else "f.path = s.filename"
        cells = {name: f"s.c{i}" for i, name in enumerate(self.names)}
        row = stored_row(layout, cells, kinds, "s.line")
        numbered = f"SELECT *, row_number() OVER () AS line FROM {self._read(kinds)}"
        return f"SELECT {row} FROM ({numbered}) s JOIN files f ON {key}"

    def has_underscores(self, connection: Any) -> bool:
        """Whether a cell of a column of numbers has an underscore, as in ``1_000``, which is not a number."""
        numbers = set(self.layout.number_sources)
        cells = [f"contains(c{i}, '_')" for i, name in enumerate(self.names) if name in numbers]
        if not cells:
            return False
        source = self._read(dict.fromkeys(self.names, "VARCHAR"))
        query = f"SELECT 1 FROM {source} WHERE {' OR '.join(cells)} LIMIT 1"
        return bool(connection.execute(query).fetchall())

    def _read(self, kinds: Dict[str, str]) -> str:
        """The lines of the texts, with cells of these types; lines that do not fit are rejected."""
        first, layout = self.files[0][1], self.layout
        columns = [(f"c{i}", kinds[name]) for i, name in enumerate(self.names)]
        if self.joined is not None:
            columns.insert(0, ("i", "INTEGER"))
        quote = '"' if any(table.is_quoted for _, table in self.files) else ""
        paths = [self.joined] if self.joined is not None else [table.path for _, table in self.files]
        options = {
            "header": "false" if self.joined is not None else "true",
            "auto_detect": "false",
            "columns": "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in columns) + "}",
            "delim": text(first.delimiter),
            "quote": text(quote),
            "escape": text(quote),
            "nullstr": f"[{', '.join(text(w) for w in (*MISSING_SPELLINGS, *layout.missing_words))}]",
            "decimal_separator": text(layout.decimal),
            "encoding": text(layout.encoding),
            "compression": text("none" if self.joined is not None else first.compression),
            "ignore_errors": "true",
            "store_rejects": "true",
            "filename": "true",
        }
        listed = ", ".join(text(_escaped(path)) for path in paths)
        return f"read_csv([{listed}], {', '.join(f'{k} = {v}' for k, v in options.items())})"


def has_rejects(connection: Any) -> bool:
    """Whether a scan has listed the lines that it could not parse, in the table ``reject_errors``."""
    query = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'"
    return connection.execute(query).fetchone() is not None


def reread_relation(layout: Layout, columns: tuple[str, ...], path: Path) -> str:
    """A query over the good rows written by :class:`~ibt_deploy.batch.tables.faults.SkippedLines`."""
    numbers = set(layout.number_sources)
    kinds = {name: "DOUBLE" if name in numbers else "VARCHAR" for name in columns}
    spec = {"i": "INTEGER", "line": "BIGINT"} | {f"c{k}": kinds[name] for k, name in enumerate(columns)}
    listed = ", ".join(f"'{name}': '{kind}'" for name, kind in spec.items())
    source = (
        f"read_csv([{text(_escaped(path))}], header = false, auto_detect = false, columns = {{{listed}}}, "
        "delim = ',', quote = '\"', escape = '\"', nullstr = [''], max_line_size = 16777216)"
    )
    cells = {name: f"s.c{k}" for k, name in enumerate(columns)}
    return f"SELECT {stored_row(layout, cells, kinds, '-s.line')} FROM {source} s JOIN files f ON f.i = s.i"


def scans_of(files: list[tuple[int, TableFile, Layout]], folder: Path) -> list[Scan]:
    """The scans that read all ``files``; many small ones are joined in ``folder`` first."""
    groups: dict[tuple[object, ...], list[tuple[int, TableFile]]] = {}
    layouts: dict[tuple[object, ...], Layout] = {}
    for number, table, layout in files:
        key: tuple[object, ...] = (
            *(table.names, table.types, table.delimiter, table.compression, table.is_joinable),
        )
        groups.setdefault(key, []).append((number, table))
        layouts[key] = layout
    scans: list[Scan] = []
    for key, group in groups.items():
        layout, names = layouts[key], group[0][1].names
        if key[-1] and len(group) > FEW_FILES:
            path = folder / f"joined-{len(scans)}.csv"
            scans.append(Scan(layout, names, tuple(group), path, _join(group, path)))
        else:
            scans.append(Scan(layout, names, tuple(group)))
    return scans


def _join(group: list[tuple[int, TableFile]], path: Path) -> tuple[int, ...]:
    """Write the rows of many files into one, and return the line after which those of each begin."""
    starts, line = [], 0
    with path.open("wb") as out:
        for number, table in group:
            starts.append(line)
            data = table.path.read_bytes().removeprefix(b"\xef\xbb\xbf")
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            body = data.strip(b"\n").partition(b"\n")[2]
            if not body:
                continue
            mark = f"{number}{table.delimiter}".encode()
            out.write(mark + body.replace(b"\n", b"\n" + mark) + b"\n")
            line += body.count(b"\n") + 1
    return tuple(starts)


def _escaped(path: Path) -> str:
    """A path escaped so that the engine sees no glob pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))
