"""What readers read: a path on disk, or a file that lies in memory among its neighbours.

An upload or a member of an archive is scored without being written to disk: its reader is given a
:class:`MemoryFile`, which has the part of :class:`pathlib.Path` that readers use (:class:`File`).

>>> folder = MemoryFolder({"a.hea": b"a 1 500", "raw/a.dat": b""}, label="upload.zip")
>>> header = folder / "a.hea"
>>> str(header), header.read_bytes(), (header.parent / "raw/a.dat").is_file()
('upload.zip/a.hea', b'a 1 500', True)
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Protocol, Self, TypeAlias, runtime_checkable


@runtime_checkable
class File(Protocol):
    """The part of :class:`pathlib.Path` that readers use; a Path is one.

    ``str()`` of it names it in messages and as ``source``. What does not exist has a name all the same:
    ``is_file`` is False then, and the other methods raise FileNotFoundError.
    """

    @property
    def name(self) -> str:
        """Last part of the name."""

    @property
    def stem(self) -> str:
        """``name`` without its suffix."""

    @property
    def suffix(self) -> str:
        """Ending of ``name`` with its dot, or nothing."""

    @property
    def parent(self) -> Self:
        """The folder that it is in."""

    def __truediv__(self, name: str, /) -> Self:
        """What is called ``name`` in this folder."""

    def with_name(self, name: str, /) -> Self:
        """Its neighbour called ``name``."""

    def is_file(self) -> bool:
        """Whether there is such a file."""

    def stat(self) -> os.stat_result:
        """Of which readers use ``st_size`` and ``st_mode``."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """A stream of its bytes."""

    def read_bytes(self) -> bytes:
        """All of its bytes."""


AnyFile: TypeAlias = str | Path | File


class MemoryFolder:
    """Files in memory that may refer to each other, as a header does to its signal files.

    Parameters
    ----------
    files
        Content by name; names are plain, or have forward slashes for sub-folders. Any mapping will do, also
        one that gets the bytes when they are asked for.
    label
        What stands before the names in messages and in ``source``, e.g. the name of an archive.
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
        """Last part of the name."""
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
        """The sub-folder that it is in."""
        return MemoryFile(self.folder, self.path.parent)

    def __truediv__(self, name: str) -> MemoryFile:
        """What is called ``name`` in this sub-folder."""
        return MemoryFile(self.folder, self.path / name)

    def with_name(self, name: str) -> MemoryFile:
        """Its neighbour called ``name``."""
        return MemoryFile(self.folder, self.path.with_name(name))

    def is_file(self) -> bool:
        """Whether there is such a file."""
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
    """What to give a library that opens files itself: the path, or a stream of what is in memory."""
    return file if isinstance(file, Path) else file.open("rb")
