"""Files for readers, on disk or in memory, and the functions that write, hash and limit them.

An upload or a member of an archive is scored without being written to disk: its reader is given a
:class:`MemoryFile`, which has the part of :class:`pathlib.Path` that readers use (:class:`File`).

Everything that must survive a crash is written with :func:`atomic_write`, :func:`atomic_open` or
:func:`atomic_path`: the name refers to either the old file or the complete new one, even after a power cut.

>>> folder = MemoryFolder({"a.hea": b"a 1 500", "raw/a.dat": b""}, label="upload.zip")
>>> header = folder / "a.hea"
>>> str(header), header.read_bytes(), (header.parent / "raw/a.dat").is_file()
('upload.zip/a.hea', b'a 1 500', True)
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Protocol, Self, TypeAlias, runtime_checkable


@runtime_checkable
class File(Protocol):
    """The part of :class:`pathlib.Path` that readers use; a Path is one.

    ``str()`` of it is its name in messages and in ``source``. A file that does not exist still has a name:
    ``is_file`` is then False, and the other methods raise FileNotFoundError.
    """

    @property
    def name(self) -> str:
        """Last component of the name."""

    @property
    def stem(self) -> str:
        """``name`` without its suffix."""

    @property
    def suffix(self) -> str:
        """Ending of ``name`` with its dot, or nothing."""

    @property
    def parent(self) -> Self:
        """The folder that contains it."""

    def __truediv__(self, name: str, /) -> Self:
        """The entry called ``name`` in this folder."""

    def with_name(self, name: str, /) -> Self:
        """The sibling called ``name``."""

    def is_file(self) -> bool:
        """Whether the file exists."""

    def stat(self) -> os.stat_result:
        """The file's status; readers use ``st_size`` and ``st_mode``."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """A stream of its bytes."""

    def read_bytes(self) -> bytes:
        """All of its bytes."""


AnyFile: TypeAlias = str | Path | File
PARTIAL = ".partial"
"""Suffix of a temporary file that :func:`atomic_path` left behind because its process was killed."""


class MemoryFolder:
    """Files in memory that may refer to each other, as a header does to its signal files.

    Parameters
    ----------
    files
        Content by name; names are plain, or have forward slashes for sub-folders. Any mapping will do,
        including one that loads the bytes on demand.
    label
        Prefix of the names in messages and in ``source``, e.g. the name of an archive.
    """

    def __init__(self, files: Mapping[str, bytes], label: str = "") -> None:
        self.files = files
        self.label = label

    def __truediv__(self, name: str) -> MemoryFile:
        """The file called ``name``, whether or not it exists."""
        return MemoryFile(self, PurePosixPath(name))

    def __iter__(self) -> Iterator[MemoryFile]:
        """Every file, in the order in which they were given."""
        return (self / name for name in self.files)


@dataclass(frozen=True)
class MemoryFile:
    """A name in a :class:`MemoryFolder`; see :class:`File`.

    Nothing outside the folder can be named: ``..`` is a name like any other, which no file has.
    """

    folder: MemoryFolder
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.folder.label}/{self.path}" if self.folder.label else str(self.path)

    @property
    def name(self) -> str:
        """Last component of the name."""
        return self.path.name

    @property
    def stem(self) -> str:
        """``name`` without its suffix."""
        return self.path.stem

    @property
    def suffix(self) -> str:
        """Ending of ``name`` with its dot, or nothing."""
        return self.path.suffix

    @property
    def parent(self) -> MemoryFile:
        """The sub-folder that contains it."""
        return MemoryFile(self.folder, self.path.parent)

    def __truediv__(self, name: str) -> MemoryFile:
        """The entry called ``name`` in this sub-folder."""
        return MemoryFile(self.folder, self.path / name)

    def with_name(self, name: str) -> MemoryFile:
        """The sibling called ``name``."""
        return MemoryFile(self.folder, self.path.with_name(name))

    def is_file(self) -> bool:
        """Whether the file exists."""
        return str(self.path) in self.folder.files

    def stat(self) -> os.stat_result:
        """Mode and size."""
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, len(self.read_bytes()), 0, 0, 0))

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """A stream of its bytes, which are not copied."""
        if mode != "rb":
            raise ValueError(f"a file in memory is opened to read bytes, not as {mode!r}")
        return io.BytesIO(self.read_bytes())

    def read_bytes(self) -> bytes:
        """All of its bytes."""
        try:
            return self.folder.files[str(self.path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None


def as_file(file: AnyFile) -> File:
    """``file`` itself, or the path that a string names."""
    return Path(file) if isinstance(file, str) else file


def openable(file: File) -> Path | BinaryIO:
    """Argument for a library that opens files itself: the path, or a stream of the bytes in memory."""
    return file if isinstance(file, Path) else file.open("rb")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: Path, content: bytes | str) -> None:
    """Replace the file ``path`` by ``content``, text as UTF-8; see :func:`atomic_path`."""
    with atomic_open(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose bytes become the file ``path`` when the block ends; see :func:`atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("xb") as stream:
        yield stream


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path in the folder of ``path`` for a new file, which becomes ``path`` when the block ends.

    The file is flushed to disk before it is renamed, and then the folder. If the block raises, ``path`` stays
    as it was and nothing is left behind.

    Raises
    ------
    OSError
        The file cannot be written; ``filename`` names ``path`` where the system names no file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file or, where the system supports it, a folder to disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of ``ibt_deploy/data/<name>`` as dictionaries keyed by the header line."""
    text = resources.files("ibt_deploy").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
