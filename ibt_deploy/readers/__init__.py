"""Read recordings and stays; the format is found in the content, not in the name alone.

A reader is a module of this package with ``NAME`` (of the format), ``TASK``, ``sniff(file, head)`` (whether
the file is of this format, from its name and its first bytes) and ``read(file)``. It is imported when needed.
"""

from __future__ import annotations

import stat
from importlib import import_module
from typing import Literal, Protocol, cast

from ibt_deploy.errors import InputError, MalformedFile, UnsupportedFormat
from ibt_deploy.files import AnyFile, File, as_file
from ibt_deploy.records import Recording, Stay

Task = Literal["arrhythmia", "sepsis"]


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
    "stays": (".psv", ".csv", ".tsv", ".txt", ".parquet"),
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
    """
    found = as_file(file)
    try:
        return _reader(found).read(found)
    except InputError as error:
        raise error.at(str(file)) from None
    except OSError as error:
        raise _unreadable(found, error) from error


def task_of(file: AnyFile) -> Task:
    """The task that scores a file; raises InputError where no reader knows it."""
    found = as_file(file)
    try:
        return _reader(found).TASK
    except InputError as error:
        raise error.at(str(file)) from None
    except OSError as error:
        raise _unreadable(found, error) from error


def _reader(file: File) -> Reader:
    """The reader for ``file``; only plain files are opened, because a pipe or a device may never end."""
    if "\0" in str(file):
        raise MalformedFile("no file has such a name", code="no_such_file")
    kind = file.stat().st_mode
    if stat.S_ISDIR(kind):
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
    raise UnsupportedFormat(
        "no reader knows this content; WFDB recordings (give the .hea file) and stays as PSV, CSV or Parquet "
        "are read, other vendors' formats are not yet"
    )


def _unreadable(file: File, error: OSError) -> MalformedFile:
    """Refusal for a file that the operating system does not let us read."""
    code = "no_such_file" if isinstance(error, FileNotFoundError) else "unreadable_file"
    reason = error.strerror or str(error)
    place = "" if error.filename in (None, str(file)) else f" ({error.filename})"
    return MalformedFile(f"cannot be read: {reason}{place}", where=str(file), code=code)
