"""Read recordings and stays; the format is found in the content, not in the name alone.

A reader is a module of this package with ``NAME`` (of the format), ``TASK``, ``sniff(file, head)`` (whether
the file is of this format, from its name and its first bytes) and ``read(file)``. It is imported when needed.
Other packages add readers through an entry point, see :mod:`ibt_deploy.readers.third_party`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ibt_deploy.errors import InputError, MalformedFile, UnsupportedFormat
from ibt_deploy.files import AnyFile, File, as_file
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Task


class Reader(Protocol):
    """What a reader module offers."""

    NAME: str
    TASK: Task

    def sniff(self, file: File, head: bytes) -> bool:
        """Whether ``file``, which starts with ``head``, is for this reader."""

    def read(self, file: File) -> list[Recording] | list[Stay]:
        """Everything that the file holds."""


READERS: dict[str, tuple[str, ...]] = {
    "wfdb": (".hea", ".dat", ".mat"),
    "recording_parquet": (".parquet",),
    "standards": (".parquet", ".json", ".ndjson", ".duckdb"),
    "stays": (".psv", ".csv", ".tsv", ".txt", ".parquet"),
    "dicom": (".dcm",),
    "scp": (".scp",),
    "aecg": (".xml",),
    "muse": (".xml",),
    "philips": (".xml",),
    "edf": (".edf", ".bdf", ".rec"),
    "arrays": (".mat", ".npy", ".npz"),
    "ecg_text": (".csv", ".tsv", ".txt", ".asc"),
}
"""Reader modules and the suffixes for which each is asked first; all are asked in the end."""

HEAD_BYTES = 4096


def read(file: AnyFile) -> list[Recording] | list[Stay]:
    """Read the recordings or stays in a file.

    Parameters
    ----------
    file
        A path, or a file in memory.

    Raises
    ------
    InputError
        The file is refused; ``where`` names it.
    MissingExtra
        Its reader needs a package that is not installed.
    """
    found = resolved(file)
    with _refusing(found):
        return reader_of(found).read(found)


def read_each(file: AnyFile) -> Iterator[Recording | Stay | InputError]:
    """As :func:`read`, with an error in place of each stay of a table that is refused.

    Raises
    ------
    InputError
        The file as a whole is refused.
    """
    found = resolved(file)
    with _refusing(found):
        reader = reader_of(found)
        yield from getattr(reader, "read_each", reader.read)(found)


def task_of(file: AnyFile) -> Task:
    """The task that scores a file; raises InputError where no reader knows it."""
    found = resolved(file)
    with _refusing(found):
        return reader_of(found).TASK


def resolved(file: AnyFile) -> File:
    """The file that is meant by a path, or by the name of a WFDB record without its suffix (``.hea``)."""
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
        There is none, or nothing can be read.
    OSError
        The operating system does not let us.
    """
    if "\0" in str(file):
        raise MalformedFile("no file has such a name", code="no_such_file")
    kind = file.stat().st_mode
    if stat.S_ISDIR(kind):
        standards = cast(Reader, import_module("ibt_deploy.readers.standards"))
        if standards.sniff(file, b""):
            return standards
        raise UnsupportedFormat("a folder; give the files in it", code="is_a_folder")
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
    from ibt_deploy.readers.third_party import third_party_readers
    from ibt_deploy.readers.unknown import unknown_content

    others, faults = third_party_readers()
    for other in others:
        if other.sniff(file, head):
            return cast(Reader, other)
    raise unknown_content(file, head, faults)


@contextmanager
def _refusing(file: File) -> Iterator[None]:
    """Errors of the operating system as refusals, and the file's name in every refusal."""
    try:
        yield
    except InputError as error:
        raise error.at(str(file)) from error.__cause__
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: File, error: OSError) -> MalformedFile:
    """Refusal for a file that the operating system does not let us read."""
    code = "no_such_file" if isinstance(error, FileNotFoundError) else "unreadable_file"
    reason = error.strerror or str(error)
    place = "" if error.filename in (None, str(file)) else f" ({error.filename})"
    return MalformedFile(f"cannot be read: {reason}{place}", where=str(file), code=code)
