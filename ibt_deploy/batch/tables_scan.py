"""The engine's view of a group of files: one relation with the columns of the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables_files import TableFile
from ibt_deploy.batch.tables_layout import Layout
from ibt_deploy.batch.tables_sql import MISSING_SPELLINGS, identifier, stored_row, text

SMALL_FILE = 1 << 20
FEW_FILES = 8


@dataclass(frozen=True)
class Scan:
    """Files with one header that are read together.

    Attributes
    ----------
    layout, names
        Of the files.
    files
        Their numbers, and what is known of them.
    joined
        One text in which each line of theirs stands behind the number of its file; None where the files
        themselves are read.
    starts
        Line of ``joined`` behind which the rows of each file begin.
    """

    layout: Layout
    names: tuple[str, ...]
    files: tuple[tuple[int, TableFile], ...]
    joined: Path | None = None
    starts: tuple[int, ...] = ()

    def relation(self, connection: Any) -> str:
        """A query that gives rows of the store."""
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
        place = {
            "patient": "f.stay",
            "part": "-1" if layout.patient else "f.i",
            "file": "f.i",
            "line": "-(s.file_row_number + 1)",
        }
        row = stored_row(layout, cells, kinds, place)
        return f"SELECT {row} FROM {source} s JOIN files f ON f.path = s.filename"

    def _text(self) -> str:
        first = self.files[0][1]
        layout = self.layout
        numbers = set(layout.number_sources)
        kinds = {name: "DOUBLE" if name in numbers else "VARCHAR" for name in self.names}
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
        source = f"read_csv([{listed}], {', '.join(f'{k} = {v}' for k, v in options.items())})"
        key = "f.i = s.i" if self.joined is not None else "f.path = s.filename"
        place = {
            "patient": "f.stay",
            "part": "-1" if layout.patient else "f.i",
            "file": "f.i",
            "line": "s.line",
        }
        cells = {name: f"s.c{i}" for i, name in enumerate(self.names)}
        row = stored_row(layout, cells, kinds, place)
        numbered = f"SELECT *, row_number() OVER () AS line FROM {source}"
        return f"SELECT {row} FROM ({numbered}) s JOIN files f ON {key}"


def mended_relation(layout: Layout, columns: tuple[str, ...], path: Path) -> str:
    """A query over the good rows that a Mender has written."""
    numbers = set(layout.number_sources)
    kinds = {name: "DOUBLE" if name in numbers else "VARCHAR" for name in columns}
    spec = {"i": "INTEGER", "line": "BIGINT"} | {f"c{k}": kinds[name] for k, name in enumerate(columns)}
    listed = ", ".join(f"'{name}': '{kind}'" for name, kind in spec.items())
    source = (
        f"read_csv([{text(_escaped(path))}], header = false, auto_detect = false, columns = {{{listed}}}, "
        "delim = ',', quote = '\"', escape = '\"', nullstr = [''], max_line_size = 16777216)"
    )
    place = {
        "patient": "f.stay",
        "part": "-1" if layout.patient else "f.i",
        "file": "f.i",
        "line": "-s.line",
    }
    cells = {name: f"s.c{k}" for k, name in enumerate(columns)}
    return f"SELECT {stored_row(layout, cells, kinds, place)} FROM {source} s JOIN files f ON f.i = s.i"


def scans_of(files: list[tuple[int, TableFile, Layout]], folder: Path) -> list[Scan]:
    """The scans that read all ``files``; many small ones are joined in ``folder`` first."""
    groups: dict[tuple[object, ...], list[tuple[int, TableFile]]] = {}
    layouts: dict[tuple[object, ...], Layout] = {}
    for number, table, layout in files:
        is_small = not table.is_parquet and table.compression == "none" and table.size < SMALL_FILE
        key: tuple[object, ...] = (table.names, table.types, table.delimiter, table.compression, is_small)
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
    """Write the rows of many files into one, and say behind which line those of each begin."""
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
    """A path in which the engine sees no pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))
