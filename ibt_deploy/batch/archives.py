"""Records in tar and zip archives, listed and read without unpacking anything to disk.

Members of a zip and of a plain tar are read in place. A compressed tar can only be read from its start: each
worker keeps its position and reads on from there, and so decompresses it only once.

Archives are untrusted. Members are read into memory up to :data:`MAX_RECORD_BYTES`, and an archive with an
excessive compression ratio is refused.
"""

from __future__ import annotations

import errno
import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from ibt_deploy.batch.plan import (
    HEADER,
    SIDECAR_SUFFIXES,
    Entry,
    MemberEntry,
    RefusedEntry,
    Stamp,
    grouped,
    stamp_of,
)
from ibt_deploy.errors import InputError, MalformedFile, TooLong, one_line, require
from ibt_deploy.files import MemoryFile, MemoryFolder

ZIP = (".zip",)
TAR = (".tar",)
TAR_GZ = (".tar.gz", ".tgz")
TAR_ZST = (".tar.zst", ".tzst")
SUFFIXES = ZIP + TAR + TAR_GZ + TAR_ZST

MAX_RECORD_BYTES = 512 << 20
MAX_MEMBERS = 5_000_000
MAX_RATIO = 200
"""Highest ratio of uncompressed to compressed size; ECGs reach 10 as 16-bit integers, 30 as text."""
ALWAYS_ALLOWED_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20
_SMALL = 1 << 14
_KEPT = 1 << 28
_KEPT_SUFFIXES = (HEADER, *sorted(SIDECAR_SUFFIXES))


class _Member(NamedTuple):
    """Offset, size and index of a member, and the content of a small header in a compressed tar."""

    offset: int
    size: int
    content: bytes | None = None
    place: int = 0


def is_archive(name: str) -> bool:
    """Whether a file name is that of an archive."""
    return name.lower().endswith(SUFFIXES)


def archive_entries(path: str) -> Iterator[Entry]:
    """The records in an archive, in an order in which it can be read.

    An unreadable member is refused on its own; of a damaged archive, the rest is refused.
    """
    members: dict[str, _Member] = {}
    rest: RefusedEntry | None = None
    faults = 0
    try:
        stamp = stamp_of(Path(path).stat())
        listing = _zip_members(path) if path.lower().endswith(ZIP) else _tar_members(path)
        for faults, fault in enumerate(_collected(listing, members, path, stamp), start=1):  # noqa: B007
            yield fault
        if not members and not faults:
            rest = _refused(path, "no_recording", "the archive holds no file")
    except InputError as error:
        rest = RefusedEntry(path, error.code, one_line(error.at(path)))
    except _UNREADABLE as error:
        rest = _refused(path, "damaged_archive", f"damaged archive: {error}")
    if members:
        yield from _records(path, stamp, members)
    if rest is not None:
        yield rest


def _collected(
    listing: Iterator[tuple[str, _Member, tuple[str, str] | None]],
    members: dict[str, _Member],
    path: str,
    stamp: Stamp,
) -> Iterator[RefusedEntry]:
    """Fill ``members``; yield a refusal for each unreadable one, raise TooLong for a decompression bomb."""
    allowed = max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * stamp[0])
    total = 0
    for count, (name, member, fault) in enumerate(listing):
        if count >= MAX_MEMBERS:
            raise TooLong(f"more than {MAX_MEMBERS} members; split it", code="archive_too_large")
        if _hidden(name):
            continue
        source = f"{path}/{name}"
        if fault is not None:
            yield _refused(source, *fault)
            continue
        if not name.rpartition("/")[2]:
            yield _refused(source, "damaged_archive", "a member without a name")
            continue
        if member.size > MAX_RECORD_BYTES:
            yield _too_large(source, member.size)
            continue
        total += member.size
        if total > allowed:
            raise TooLong(
                f"expands to more than {MAX_RATIO} times its size; the rest was not read",
                code="archive_too_large",
            )
        members[name] = member._replace(place=count)


def _records(path: str, stamp: Stamp, members: dict[str, _Member]) -> Iterator[Entry]:
    folders: dict[str, list[str]] = {}
    for name in members:
        folder, slash, plain = name.rpartition("/")
        folders.setdefault(folder + slash, []).append(plain)
    with Archive(path) as archive:
        found = []
        for prefix, names in folders.items():
            for main, companions in grouped(names, partial(_header_text, archive, prefix, members)):
                parts = {prefix + n: members[prefix + n] for n in (main, *companions)}
                found.append(_record(path, stamp, prefix + main, parts))
    found.sort(key=lambda entry: (entry.members[-1][1], entry.name))
    for entry in found:
        size = sum(part[2] for part in entry.members)
        if size > MAX_RECORD_BYTES:
            yield _too_large(f"{path}/{entry.name}", size)
        else:
            yield entry


def _record(path: str, stamp: Stamp, name: str, parts: dict[str, _Member]) -> MemberEntry:
    """The entry of one record; holds any header stored apart from its signals in a compressed tar."""
    places = [part.place for part in parts.values()]
    together = max(places) - min(places) == len(places) - 1
    inline = {} if together else {n: p.content for n, p in parts.items() if p.content is not None}
    if len(inline) == len(parts):
        inline = {}
    rest = [(n, p.offset, p.size) for n, p in parts.items() if n not in inline]
    rest.sort(key=lambda part: (part[1], part[0]))
    kept = tuple((n, content.decode("latin-1")) for n, content in sorted(inline.items()))
    return MemberEntry(path, stamp, name, tuple(rest), kept)


def _too_large(source: str, size: int) -> RefusedEntry:
    text = f"{size >> 20} MiB, at most {MAX_RECORD_BYTES >> 20} MiB are read from an archive"
    return _refused(source, "member_too_large", text)


def _refused(source: str, code: str, text: str) -> RefusedEntry:
    return RefusedEntry(source, code, one_line(f"{source}: {text}"))


def _header_text(archive: Archive, prefix: str, members: dict[str, _Member], name: str) -> str:
    member = members[prefix + name]
    if member.size > MAX_HEADER_BYTES:
        return ""
    try:
        content = member.content or archive.read(prefix + name, member.offset, member.size)
    except InputError:
        return ""
    return content.decode("utf-8", errors="replace")


class Archive:
    """An open archive; ``read`` returns the bytes of a member."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._stream: IO[bytes] | None = None
        self._position = 0

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive; reading reopens it."""
        for handle in (self._zip, self._stream):
            if handle is not None:
                handle.close()
        self._zip = self._stream = None

    def folder(self, entry: MemberEntry) -> MemoryFile:
        """The main file of a record, in memory, with its companions beside it."""
        folder, _, plain = entry.name.rpartition("/")
        label = f"{self.path}/{folder}" if folder else self.path
        files = {name.rpartition("/")[2]: text.encode("latin-1") for name, text in entry.inline}
        files |= {name.rpartition("/")[2]: self.read(name, at, size) for name, at, size in entry.members}
        return MemoryFolder(files, label) / plain

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a member; raises MalformedFile if the archive is damaged."""
        try:
            data = self._from_zip(name) if self.path.lower().endswith(ZIP) else self._from_tar(offset, size)
        except _UNREADABLE as error:
            self.close()
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # a disk error; EINVAL is an offset before the start
            raise MalformedFile(
                f"damaged archive: {one_line(error)}", where=f"{self.path}/{name}", code="damaged_archive"
            ) from error
        if len(data) != size:
            self.close()
            raise MalformedFile(
                "the archive ends within this member", where=f"{self.path}/{name}", code="damaged_archive"
            )
        return data

    def _from_zip(self, name: str) -> bytes:
        if self._zip is None:
            self._zip = zipfile.ZipFile(self.path)
        return self._zip.read(name)

    def _from_tar(self, offset: int, size: int) -> bytes:
        if self._stream is None or (offset < self._position and not self.path.lower().endswith(TAR)):
            self.close()
            self._stream, self._position = _uncompressed(self.path), 0
        if self.path.lower().endswith(TAR):
            self._stream.seek(offset)
            return self._stream.read(size)
        while self._position < offset:
            skipped = len(self._stream.read(min(_CHUNK, offset - self._position)))
            if not skipped:
                raise EOFError("it ends too early")
            self._position += skipped
        pieces = []
        while size and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self._position += len(piece)
        return b"".join(pieces)


def _zip_members(path: str) -> Iterator[tuple[str, _Member, tuple[str, str] | None]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith("/"):
                continue
            fault = None
            if info.flag_bits & 1:
                fault = ("encrypted", "encrypted; decrypt the archive first")
            elif (
                info.file_size > max(_CHUNK, 1100 * info.compress_size) or info.compress_type not in _METHODS
            ):
                fault = ("damaged_archive", "impossible size or unknown compression")
            yield info.filename, _Member(0, info.file_size), fault


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _tar_members(path: str) -> Iterator[tuple[str, _Member, tuple[str, str] | None]]:
    compressed = not path.lower().endswith(TAR)
    kept = 0
    with _uncompressed(path) as stream:
        mode = "r|" if compressed else "r:"
        with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                archive.members = []  # which tarfile would keep forever
                if info.isdir():
                    continue
                fault = None if info.isreg() and not info.issparse() else ("not_a_file", "not a regular file")
                content = None
                small = info.size <= _SMALL and kept + info.size <= _KEPT
                if compressed and fault is None and small and info.name.lower().endswith(_KEPT_SUFFIXES):
                    stored = archive.extractfile(info)
                    content = stored.read() if stored is not None else None
                    kept += info.size
                yield info.name.removeprefix("./"), _Member(info.offset_data, info.size, content), fault


def _uncompressed(path: str) -> BinaryIO:
    if path.lower().endswith(TAR):
        return Path(path).open("rb")
    if path.lower().endswith(TAR_GZ):
        return cast("BinaryIO", gzip.open(path, "rb"))
    require(f"{path}:", "pyarrow")
    import pyarrow as pa

    return cast("BinaryIO", pa.input_stream(path, compression="zstd"))


def _damage() -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = [zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error]
    found += [gzip.BadGzipFile, NotImplementedError, RuntimeError, IndexError, ValueError, struct.error]
    try:
        import lzma

        found.append(lzma.LZMAError)
    except ModuleNotFoundError:  # Python built without it
        pass
    return tuple(found)


_DAMAGE = _damage()
_UNREADABLE: tuple[type[BaseException], ...] = (OSError, *_DAMAGE)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
