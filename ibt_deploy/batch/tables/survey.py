"""Survey the files of an export before anything is parsed: their headers, formats and sizes.

Once the header proves usable, every byte is read once: for the fingerprint by which a resumed run recognises
its inputs, and to count the lines, against which the rows read later are checked, so that none is lost
unnoticed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast

import numpy as np

from ibt_deploy.errors import InputError, MalformedFile, TooLong, UnsupportedFormat, first_line, require
from ibt_deploy.mapping.schema import Mapping
from ibt_deploy.readers import kind_of
from ibt_deploy.readers.columns import shortened, unreadable
from ibt_deploy.readers.stays import DELIMITERS, PARQUET_MAGIC
from ibt_deploy.types import Ints

Compression = Literal["none", "gzip", "zstd"]
Check: TypeAlias = Callable[[tuple[str, ...]], object]
Progress: TypeAlias = Callable[[int], object]

SUFFIXES = frozenset({".psv", ".csv", ".tsv", ".txt", ".parquet"})
MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
HEAD_BYTES = 4096
CHUNK = 1 << 22
GROUPED = re.compile(rb"_[0-9]")
LONGEST_HEADER = 1 << 20
LONGEST_LINE = 1 << 26
SMALL_FILE = 1 << 20


@dataclass(frozen=True)
class TableFile:
    """One file of an export.

    Attributes
    ----------
    path
        Where it is.
    format
        As a Stay names it, e.g. ``"CSV"`` or ``"PSV (gzip)"``.
    sha256
        Hash of its bytes.
    names
        Column names, stripped of surrounding blanks.
    types
        Arrow types of the columns of a Parquet file; empty for text.
    delimiter, compression
        Those of a text file.
    rows
        Number of non-blank lines below the header, or of rows in a Parquet file.
    size
        Bytes on disk.
    is_quoted
        Whether the text has a quotation mark anywhere.
    is_regular
        Whether all line endings are alike, so that the engine counts lines as this package does.
    is_grouped
        Whether the text has an underscore between digits anywhere: the engine reads ``1_000`` as a number.
    blanks
        Numbers of the blank lines of the file, counted from 1.
    """

    path: Path
    format: str
    sha256: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    delimiter: str
    compression: Compression
    rows: int
    size: int
    is_quoted: bool = False
    is_regular: bool = True
    is_grouped: bool = False
    blanks: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64), compare=False, repr=False)

    @property
    def is_parquet(self) -> bool:
        """Whether it is Parquet, not text."""
        return bool(self.types)

    @property
    def is_joinable(self) -> bool:
        """Whether it is a small uncompressed text, which may be read together with others like it."""
        return not self.is_parquet and self.compression == "none" and self.size < SMALL_FILE

    def row_of(self, line: int) -> int:
        """Row number, counted from 1 below the header, of a non-blank line."""
        return line - 1 - int(np.searchsorted(self.blanks, line))

    def line_of(self, row: int) -> int:
        """Line number, counted from 1, of a row below the header."""
        return line_of(row, self.blanks)

    @property
    def stay_name(self) -> str:
        """Name of the stay if the file is a single one."""
        return Path(self.path.stem).stem if self.compression != "none" else self.path.stem


def line_of(row: int, blanks: Ints) -> int:
    """Line number of the ``row``-th row below the header of a text, given the line numbers in ``blanks``."""
    before = blanks - 1 - np.arange(len(blanks))
    return row + 1 + int(np.searchsorted(before, row, side="right"))


def found_files(paths: Sequence[Path]) -> list[Path]:
    """The files in ``paths``, and the tables, by name, in folders among them, in order and each once."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.rglob("*") if _is_table(p) and p.is_file())))
        else:
            found[path] = None
    return list(found)


def _is_table(path: Path) -> bool:
    suffixes = [suffix.casefold() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in SUFFIXES and not path.name.startswith(".")


def surveyed(path: Path, mapping: Mapping | None, check: Check, progress: Progress) -> TableFile:
    """Survey one file.

    Parameters
    ----------
    check
        Called with the column names before more than the header is read; raises InputError to refuse them.
    progress
        Called with the number of bytes read since its last call.

    Raises
    ------
    InputError
        The file cannot be read, is empty, has no proper header, or is damaged.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device may never end
            raise UnsupportedFormat("is not a regular file", code="not_a_file")
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
            if b"\0" in head and not head.startswith((PARQUET_MAGIC, *MAGIC)):
                kind = (kind_of(head) or "").partition(";")[0]
                raise MalformedFile(f"is not text{f', but {kind}' if kind else ''}", code="not_text")
            if not head:
                raise MalformedFile("the file is empty", code="empty_file")
            file.seek(0)
            bytes_read = _Hashed(file, progress)
            if head.startswith(PARQUET_MAGIC):
                return _parquet(path, bytes_read, check)
            return _text(path, bytes_read, compression_of(head), mapping, check)
    except InputError as error:
        raise error.at(str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from error


class _Hashed(io.RawIOBase):
    """A file that hashes every byte read from it."""

    def __init__(self, file: io.FileIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """Whether bytes can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read, hash and report bytes."""
        count = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        self._progress(count)
        return count

    def sha256(self) -> str:
        """Hash of the whole file; reads what is left."""
        while self.read(CHUNK):
            pass
        return self._digest.hexdigest()


def compression_of(head: bytes) -> Compression:
    """Compression of a file that begins with ``head``."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "none")


@contextmanager
def opened(path: Path, compression: Compression) -> Iterator[IO[bytes]]:
    """Open the decompressed bytes of a text file."""
    if compression == "none":
        with path.open("rb") as file:
            yield file
        return
    pa = arrow()
    with pa.input_stream(str(path), compression=compression) as stream:
        yield stream


def arrow() -> Any:
    """The module pyarrow."""
    require("reading tables", "pyarrow")
    import pyarrow as pa

    return pa


def _parquet(path: Path, file: _Hashed, check: Check) -> TableFile:
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise MalformedFile(f"cannot be read as Parquet: {first_line(error)}") from error
    names = tuple(name.strip() for name in schema.names)
    _check_names(names)
    check(names)
    types = tuple(str(kind) for kind in schema.types)
    size = path.stat().st_size
    return TableFile(path, "Parquet", file.sha256(), names, types, "", "none", metadata.num_rows, size)


def _text(
    path: Path, raw: _Hashed, compression: Compression, mapping: Mapping | None, check: Check
) -> TableFile:
    counts = _Counts()
    with _decompressed(raw, compression) as file:
        chunk = file.read(CHUNK)
        begun = chunk.removeprefix(b"\xef\xbb\xbf")
        body = begun.lstrip(b"\r\n")
        names, delimiter = _header(body, mapping)
        check(names)
        while chunk:
            if chunk.endswith(b"\r"):
                chunk += file.read(1)
            counts.add(chunk)
            chunk = file.read(CHUNK)
        sha256 = raw.sha256()
    label = DELIMITERS.get(delimiter, "text")
    return TableFile(
        path,
        label if compression == "none" else f"{label} ({compression})",
        sha256,
        names,
        (),
        delimiter,
        compression,
        counts.rows,
        path.stat().st_size,
        counts.is_quoted,
        counts.is_regular and len(body) == len(begun),
        counts.is_grouped,
        np.array(counts.blanks, dtype=np.int64),
    )


@contextmanager
def _decompressed(raw: _Hashed, compression: Compression) -> Iterator[IO[bytes]]:
    if compression == "none":
        yield cast("IO[bytes]", raw)
        return
    with arrow().input_stream(raw, compression=compression) as stream:
        yield stream


def _header(body: bytes, mapping: Mapping | None) -> tuple[tuple[str, ...], str]:
    """The names in the first line of a text, and the delimiter between them."""
    header = body
    for end in (b"\n", b"\r"):
        if end in body[:LONGEST_HEADER]:
            header = body[: body.index(end)]
            break
    else:
        if len(body) >= LONGEST_HEADER:
            raise TooLong("the first line is not a header: it never ends", code="table_too_large")
    encoding = mapping.table.encoding if mapping else "utf-8"
    try:
        line = header.decode(encoding).strip("\r\n")
    except UnicodeDecodeError as error:
        raise MalformedFile(f"is not {encoding.upper()} text") from error
    if not line.strip():
        raise MalformedFile("the file is empty", code="empty_file")
    stated = mapping.table.delimiter if mapping else None
    delimiter = stated or max(DELIMITERS, key=line.count)
    names = tuple(name.strip() for name in cells_of(line, delimiter))
    _check_names(names)
    return names, delimiter


class _Counts:
    """Counts the non-blank lines of a text, and checks whether all line endings are alike."""

    def __init__(self) -> None:
        self._lines = self._seen = 0
        self.blanks = array("q")
        self._endings: set[str] = set()
        self._begun = b""
        self.is_quoted = self.is_grouped = False

    def add(self, chunk: bytes) -> None:
        """Count the lines of a chunk, which never ends within a CR LF."""
        feeds, returns, both = chunk.count(b"\n"), chunk.count(b"\r"), chunk.count(b"\r\n")
        endings = {"LF": feeds - both, "CRLF": both, "CR": returns - both}
        self._endings |= {name for name, n in endings.items() if n}
        self.is_quoted = self.is_quoted or b'"' in chunk
        self.is_grouped = self.is_grouped or _is_grouped(chunk)
        if returns:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, feed, self._begun = (self._begun + chunk).rpartition(b"\n")
        if len(self._begun) > LONGEST_LINE:
            raise TooLong(f"a line of more than {LONGEST_LINE} bytes", code="table_too_large")
        text = b"\n" + whole + feed
        count = text.count(b"\n") - 1
        if feed and any(blank in text for blank in (b"\n\n", b"\n ", b"\n\t")):
            found = [n for n, line in enumerate(text[1:-1].split(b"\n"), self._seen + 1) if not line.strip()]
            self.blanks.extend(found)
            self._lines -= len(found)
        self._lines += count
        self._seen += count

    @property
    def rows(self) -> int:
        """Number of non-blank lines, without the header."""
        return max(self._lines + bool(self._begun.strip()) - 1, 0)

    @property
    def is_regular(self) -> bool:
        """Whether there is only one kind of line ending."""
        return len(self._endings) < 2


def _is_grouped(chunk: bytes) -> bool:
    """Whether an underscore stands between digits, or may do so because it is at an end of ``chunk``."""
    return chunk.endswith(b"_") or any(
        not found.start() or chunk[found.start() - 1 : found.start()].isdigit()
        for found in GROUPED.finditer(chunk)
    )


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one line.

    Raises
    ------
    MalformedFile
        The line cannot be read as a row.
    """
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise MalformedFile(f"{shortened(line)!r} cannot be read as a row: {error}") from error


def _check_names(names: tuple[str, ...]) -> None:
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise MalformedFile(f"the column {shortened(doubled[0])} occurs twice", code="doubled_column")
