"""What stands in a plan: one entry for each input, a line of JSON each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, TypeAlias

Stamp: TypeAlias = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds: what an input is known by."""


@dataclass(frozen=True)
class FileEntry:
    """A file and those that belong to it.

    Attributes
    ----------
    path
        As given, or within the folder as given.
    stamp
        Of the file.
    companions
        Name and stamp of each file beside it that belongs to it.
    """

    path: str
    stamp: Stamp
    companions: tuple[tuple[str, Stamp], ...] = ()


@dataclass(frozen=True)
class MemberEntry:
    """A record in an archive: the member to read, and those that belong to it.

    Attributes
    ----------
    archive, stamp
        The archive.
    name
        The member to read.
    members
        Name, offset and size of each member of the record; the offset counts uncompressed bytes of a tar
        archive and is 0 in a zip archive.
    inline
        Name and content, as Latin-1, of members of a compressed tar that lie far from the others: going back
        to them would mean to decompress all over again.
    """

    archive: str
    stamp: Stamp
    name: str
    members: tuple[tuple[str, int, int], ...]
    inline: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RefusedEntry:
    """What cannot be read as was clear when the inputs were listed."""

    source: str
    code: str
    message: str


Entry: TypeAlias = FileEntry | MemberEntry | RefusedEntry


def source_of(entry: Entry) -> str:
    """How answers name an input."""
    if isinstance(entry, FileEntry):
        return entry.path
    return f"{entry.archive}/{entry.name}" if isinstance(entry, MemberEntry) else entry.source


def to_line(entry: Entry) -> bytes:
    """The entry as a line of JSON."""
    if isinstance(entry, FileEntry):
        fields: list[Any] = ["file", entry.path, entry.stamp, entry.companions]
    elif isinstance(entry, MemberEntry):
        fields = ["member", entry.archive, entry.stamp, entry.name, entry.members, entry.inline]
    else:
        fields = ["refused", entry.source, entry.code, entry.message]
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"


def from_line(line: bytes) -> Entry:
    """The entry that :func:`to_line` wrote."""
    kind, *fields = json.loads(line)
    if kind == "file":
        path, stamp, companions = fields
        return FileEntry(path, _stamp(stamp), tuple((name, _stamp(s)) for name, s in companions))
    if kind == "member":
        archive, stamp, name, members, inline = fields
        return MemberEntry(
            archive,
            _stamp(stamp),
            name,
            tuple((n, offset, size) for n, offset, size in members),
            tuple((n, text) for n, text in inline),
        )
    source, code, message = fields
    return RefusedEntry(source, code, message)


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and time of the last change of a file."""
    return status.st_size, status.st_mtime_ns


def _stamp(fields: list[int]) -> Stamp:
    return fields[0], fields[1]
