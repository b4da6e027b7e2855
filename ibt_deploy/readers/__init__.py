"""Read recordings and stays; the format is determined by content, not by name alone.

A reader is a module of this package with ``NAME`` (of the format), ``TASK``, ``sniff(file, head)`` (whether
the file is of this format, from its name and its first bytes) and ``read(file)``. It may have
``outline(file)``: header fields to show to a person when the file is refused. It is imported when needed.
Other packages add readers through entry points of the group ``ibt.readers`` (docs/formats.md shows one),
which are looked up once, when none of our readers recognises a file.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from ibt_deploy.errors import InputError, MalformedFile, MissingExtra, UnsupportedFormat
from ibt_deploy.files import AnyFile, File, as_file
from ibt_deploy.predictions import Refusal
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import TASKS, Task
from ibt_deploy.vocabulary import NAMES, canonical_lead


class Reader(Protocol):
    """Interface of a reader module."""

    NAME: str
    TASK: Task

    def sniff(self, file: File, head: bytes) -> bool:
        """Whether ``file``, which starts with ``head``, is for this reader."""

    def read(self, file: File) -> list[Recording] | list[Stay]:
        """Everything in the file."""


READERS: dict[str, tuple[str, ...]] = {
    "wfdb": (".hea", ".dat", ".mat"),
    "recording_parquet": (".parquet",),
    "standards": (".parquet", ".json", ".ndjson", ".duckdb"),
    "stays": (".psv", ".csv", ".tsv", ".txt", ".parquet"),
    "dicom": (".dcm",),
    "scp": (".scp",),
    "xml.aecg": (".xml",),
    "xml.muse": (".xml",),
    "xml.philips": (".xml",),
    "xml.cardiosoft": (".xml",),
    "edf": (".edf", ".bdf", ".rec"),
    "arrays": (".mat", ".npy", ".npz"),
    "text": (".csv", ".tsv", ".txt", ".asc"),
}
"""Reader modules and the suffixes for which each is tried first; in the end all are tried."""

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Recognised:
    """A file and the reader that recognised its content, so that the content need not be examined again."""

    file: File
    reader: Reader

    @property
    def task(self) -> Task:
        """The task that scores the file."""
        return self.reader.TASK

    def __str__(self) -> str:
        return str(self.file)


def recognised(file: AnyFile) -> Recognised:
    """The file with its reader; raises InputError if no reader recognises it."""
    found = resolved(file)
    with _refusing(found):
        return Recognised(found, reader_of(found))


def task_of(file: AnyFile) -> Task:
    """The task that scores a file; raises InputError if no reader recognises it."""
    return recognised(file).task


def read(file: AnyFile | Recognised) -> list[Recording] | list[Stay]:
    """Read the recordings or stays in a file.

    Parameters
    ----------
    file
        A path, a file in memory, or a result of :func:`recognised`.

    Raises
    ------
    InputError
        The file is refused; ``where`` names it.
    MissingExtra
        Its reader needs a package that is not installed.
    """
    found = file if isinstance(file, Recognised) else recognised(file)
    with _refusing(found.file):
        return found.reader.read(found.file)


def read_each(file: AnyFile | Recognised) -> Iterator[Recording | Stay | InputError]:
    """Like :func:`read`, with an error in place of each refused stay of a table.

    Raises
    ------
    InputError
        The file as a whole is refused.
    """
    found = file if isinstance(file, Recognised) else recognised(file)
    with _refusing(found.file):
        yield from getattr(found.reader, "read_each", found.reader.read)(found.file)


def items_of(file: AnyFile | Recognised) -> Iterator[Recording | Stay | Refusal]:
    """The contents of a file: recordings, stays, and refusals in place of what cannot be read.

    A table of many patients gives one item for each of them, so that one bad patient costs one refusal. A
    file whose reader needs a package that is not installed is refused too (``missing_extra``).
    """
    try:
        for answer in read_each(file):
            yield Refusal.of(str(file), answer) if isinstance(answer, InputError) else answer
    except InputError as error:
        yield Refusal.of(str(file), error.at(str(file)))
    except MissingExtra as error:
        refused = UnsupportedFormat(str(error), where=str(file), code="missing_extra")
        yield Refusal.of(str(file), refused)


def outline_of(file: AnyFile) -> dict[str, Any]:
    """Size, format and header fields of a file that may be refused, as far as they can be determined.

    Returns
    -------
    A dictionary with ``bytes`` and ``format``, both None if unknown, and ``header``, possibly empty.
    """
    found: dict[str, Any] = {"bytes": None, "format": None, "header": {}}
    with suppress(InputError, OSError, MissingExtra):
        known = resolved(file)
        status = known.stat()
        if stat.S_ISREG(status.st_mode):
            found["bytes"] = status.st_size
        reader = reader_of(known)
        found["format"] = reader.NAME
        outline: Callable[[File], dict[str, Any]] | None = getattr(reader, "outline", None)
        if outline is not None:
            found["header"] = outline(known)
    return found


def resolved(file: AnyFile) -> File:
    """The file meant by a path, or by the name of a WFDB record without its suffix (``.hea``)."""
    found = as_file(file)
    if not found.name or "\0" in str(found):
        return found
    try:
        header = found.with_name(f"{found.name}.hea")
        if header.is_file() and not found.is_file() and not (isinstance(found, Path) and found.exists()):
            return header
    except (OSError, ValueError):
        return found
    return found


def reader_of(file: File) -> Reader:
    """The reader for ``file``; only plain files are opened, because a pipe or a device may never end.

    Raises
    ------
    InputError
        There is none, or the file cannot be read.
    OSError
        The operating system denies access.
    """
    if "\0" in str(file):
        raise MalformedFile("no file has such a name", code="no_such_file")
    kind = file.stat().st_mode
    if stat.S_ISDIR(kind):
        standards = cast(Reader, import_module("ibt_deploy.readers.standards"))
        if standards.sniff(file, b""):
            return standards
        raise UnsupportedFormat("this is a folder; name the files in it", code="is_a_folder")
    if not stat.S_ISREG(kind):
        raise UnsupportedFormat("a pipe or a device; save its content as a file first", code="not_a_file")
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise MalformedFile("the file is empty", code="empty_file")
    suffix = file.suffix.lower()
    for name in sorted(READERS, key=lambda name: suffix not in READERS[name]):
        reader = cast(Reader, import_module(f"ibt_deploy.readers.{name}"))
        if reader.sniff(file, head):
            return reader
    others, faults = third_party_readers()
    for other in others:
        if other.sniff(file, head):
            return cast(Reader, other)
    raise unknown_content(file, head, faults)


@contextmanager
def _refusing(file: File) -> Iterator[None]:
    """Turn operating system errors into refusals, and name the file in every refusal."""
    try:
        yield
    except InputError as error:
        raise error.at(str(file)) from error.__cause__
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: File, error: OSError) -> MalformedFile:
    """Refusal for a file that the operating system cannot read."""
    code = "no_such_file" if isinstance(error, FileNotFoundError) else "unreadable_file"
    reason = error.strerror or str(error)
    place = "" if error.filename in (None, str(file)) else f" ({error.filename})"
    return MalformedFile(f"cannot be read: {reason}{place}", where=str(file), code=code)


GROUP = "ibt.readers"
OFFERED = ("NAME", "TASK", "sniff", "read")


def third_party_readers() -> tuple[list[Any], list[str]]:
    """The readers that can be loaded, in order of name, and what is wrong with the others."""
    readers, faults = [], []
    for entry in _entries():
        loaded = _loaded(entry)
        if isinstance(loaded, _Fault):
            faults.append(f"the reader {entry.name} ({entry.value}) {loaded}")
        else:
            readers.append(loaded)
    return readers, faults


class _Fault(str):
    """Why a reader cannot be used."""

    __slots__ = ()


@cache
def _entries() -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


@cache
def _loaded(entry: EntryPoint) -> Any:
    try:
        reader = entry.load()
    except (ImportError, AttributeError) as error:
        return _Fault(f"cannot be loaded: {error}")
    missing = [name for name in OFFERED if not hasattr(reader, name)]
    if missing:
        return _Fault(f"has no {', '.join(missing)}")
    if reader.TASK not in TASKS:
        return _Fault(f"is for the task {str(reader.TASK)[:40]!r}, which there is not")
    return reader


ARCHIVE = "an archive; unpack it, or give it to 'ibt batch', which reads into tar and zip archives"
KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", ARCHIVE),
    (257, b"ustar", ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive; unpack it first"),
    (0, b"Rar!", "an archive; unpack it first"),
    (0, b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (0, b"BZh", "compressed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (0, b"%PDF", "a PDF document; a picture of an ECG is not read, export the signal"),
    (0, b"\x89PNG", "a picture; export the signal"),
    (0, b"\xff\xd8\xff", "a picture; export the signal"),
    (0, b"II*\0", "a picture; export the signal"),
    (0, b"MM\0*", "a picture; export the signal"),
    (0, b"BM", "a picture; export the signal"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document, perhaps encrypted; export the signal"),
    (0, b"-----BEGIN PGP", "encrypted; decrypt it first"),
    (0, b"-----BEGIN PKCS7", "encrypted; decrypt it first"),
    (0, b"Salted__", "encrypted by OpenSSL; decrypt it first"),
    (0, b"\xff\xfe", "text in UTF-16 without an ECG in it; save a table of stays as UTF-8"),
    (0, b"\xfe\xff", "text in UTF-16 without an ECG in it; save a table of stays as UTF-8"),
    (0, b"age-encryption.org", "encrypted by age; decrypt it first"),
)
"""File types by magic bytes and their offset, with advice."""

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
TABLES = re.compile(r"\.(?:csv|psv|tsv)\.(?:gz|zst)", re.IGNORECASE)
TABLE = "a compressed table; 'ibt batch --task sepsis' reads tables of ICU stays, also compressed"

VARIABLE_NAMES = frozenset(name.lower() for name in NAMES)
WHOLE = 4096
"""A shorter head is a whole file."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}\b|\d{1,2}:\d{2}(?::\d{2})?\b")

EXPECTED: dict[str, str] = {
    ".scp": "called SCP, but does not begin as EN 1064 requires: a format of the device's own, damaged or "
    "encrypted; export standard SCP-ECG from the device's software",
    ".dcm": "called DICOM, but does not begin as one: damaged or encrypted",
    ".xml": "XML that is not HL7 aECG, GE MUSE, GE CardioSoft or Philips Sierra; export one of these",
    ".edf": "called EDF, but does not begin as one: damaged or encrypted",
    ".dat": "a signal file whose WFDB header (.hea) is not beside it or is damaged, or something else",
    ".mat": "a MATLAB file without a WFDB header (.hea) or a layout beside it, or something else",
}


def kind_of(head: bytes) -> str | None:
    """Type of content that begins with ``head`` and what to do with it, if its magic bytes are known."""
    return next((kind for at, magic, kind in KINDS if head[at : at + len(magic)] == magic), None)


def unknown_content(file: File, head: bytes, faults: list[str]) -> UnsupportedFormat:
    """The refusal of a file that begins with ``head``, including ``faults`` of other packages' readers."""
    what = kind_of(head)
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        what = "an HTML page, perhaps of a login or an error; download the file itself"
    if head.startswith(COMPRESSED) and TABLES.search(file.name[-8:]):
        what = TABLE
    what = what or EXPECTED.get(file.suffix.lower()) or _table(head)
    reason = f"this is {what}" if what else "no reader knows this content; docs/formats.md lists what is read"
    return UnsupportedFormat("; ".join([reason, *faults]))


DOCUMENTS = frozenset(
    (
        *(".bib", ".cfg", ".css", ".htm", ".html", ".ini", ".ipynb", ".js", ".log", ".m", ".md", ".md5"),
        *(".pdf", ".py", ".r", ".rst", ".sh", ".sha256", ".tex", ".toml", ".yaml", ".yml"),
        *(".gif", ".jpeg", ".jpg", ".png", ".svg", ".tif", ".tiff"),
    )
)
TABULAR = frozenset((".csv", ".tsv"))
LISTS = TABULAR | {".txt", ""}
LISTED = re.compile(r"(?:^|[,;|\t\"_ ])(?:file|record|path|ecg_?id|exam_?id|dx|snomed)", re.IGNORECASE)
_MEASURED = VARIABLE_NAMES - {"age", "gender"}
_LIST_NAMES = re.compile(
    r"(?:annotators|authors|changes|changelog|copying|licen[cs]e|makefile|md5sums|notice|readme|records|sha256sums)"
    r"(?:[-_.].*)?$",
    re.IGNORECASE,
)
_NUMBER = r"(?:nan|[-+.\d][-+.\deE]*)"
_NUMBERS = re.compile(rf"[\s,;|\"]*{_NUMBER}(?:[\s,;|\"]+{_NUMBER})+[\s,;|\"]*$", re.IGNORECASE)


def is_no_record(file: File) -> bool:
    """Whether an unrecognised file is clearly something else: a licence, a picture, a list of records.

    A list (CSV or text) names at most one lead or measured variable in its first line, by our name or by that
    of a hospital, has no columns for one measurement per row, and near its beginning no two rows consisting
    of numbers alone. A CSV must also name a column of files, records or codes (:data:`LISTED`).
    """
    suffix = file.suffix.lower()
    if suffix in DOCUMENTS:
        return True
    if suffix not in LISTS or (not suffix and not _LIST_NAMES.match(file.name)):
        return False
    try:
        with file.open("rb") as stream:
            head = stream.read(WHOLE)
    except OSError:
        return False
    if b"\0" in head or kind_of(head) is not None:
        return False
    lines = [line for line in head.decode("utf-8-sig", errors="replace").splitlines() if line.strip()]
    if lines and _names_measurements(lines[0]):
        return False
    if suffix in TABULAR and not (lines and LISTED.search(lines[0])):
        return False
    return sum(_NUMBERS.match(line) is not None for line in lines[:-1] or lines) < 2


def _names_measurements(header: str) -> bool:
    """Whether a table with this header may hold a signal or measured values."""
    from ibt_deploy.mapping.synonyms import BY_NAME, CODES, TIMES, VALUES, name_and_unit, plain_name

    words = re.split(r"[\s,;|\"]+", header)
    if sum(canonical_lead(word) is not None or word.lower() in _MEASURED for word in words) > 1:
        return True
    columns = {plain_name(column) for column in re.split(r"[,;|\t]", header)}
    called = {BY_NAME.get(name, "").lower() for column in columns for name, _ in name_and_unit(column)}
    one_each = not columns.isdisjoint(VALUES) and not columns.isdisjoint((*CODES, *TIMES))
    return one_each or len(called & _MEASURED) > 1


def _table(head: bytes) -> str | None:
    """Reason why a text table cannot be read, if its first lines show it."""
    lines = [line for line in head.decode("latin-1").splitlines() if line.strip()]
    if b"\0" in head or not lines or (mark := next((m for m in ",;\t|" if m in lines[0]), None)) is None:
        return None
    names = [name.strip().strip('"') for name in lines[0].split(mark)]
    known = [name for name in names if canonical_lead(name) is not None or name.lower() in VARIABLE_NAMES]
    if not known:
        return None
    if len(lines) == 1 and len(head) < WHOLE:
        return "a table with a header and no rows"
    cells = [cell.strip().strip('"') for cell in lines[min(1, len(lines) - 1)].split(mark)]
    dated = next((name for name, cell in zip(names, cells, strict=False) if DATE.match(cell)), None)
    if dated is None:
        return None
    return (
        f"a table whose column {dated[:40]!r} holds dates or times of day; for an ECG write seconds or leave "
        "the column out, for stays use 'ibt batch' with a mapping that names it"
    )
