"""Compressed bodies and files: gzip and zlib streams, and zip archives, unpacked in memory within limits."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping

from serving.http.problems import Problem
from serving.input.multipart import plain_name
from serving.settings import Settings

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
PIECE = 2**18
MOST_MEMBERS = 4096
"""gzip members in a row; each costs a new decompressor. bgzip writes one for each 64 KiB."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other methods are rare and slow, and some shrink zeros a millionfold."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""What zipfile raises for archives that are damaged, encrypted or use an unknown method."""


def inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What a gzip or zlib stream decompresses to, at most 256 KiB at a time.

    Several gzip members in a row are one content (RFC 1952).

    Raises
    ------
    Problem
        ``bad_compression``: damaged, cut short, or more than :data:`MOST_MEMBERS` members.
    """
    stream = zlib.decompressobj(GZIP_OR_ZLIB)
    begun, members = False, 1
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if stream.eof:
                    stream, members = zlib.decompressobj(GZIP_OR_ZLIB), members + 1
                    if members > MOST_MEMBERS:
                        raise Problem("bad_compression", f"The content has more than {MOST_MEMBERS} members.")
                begun = True
                piece = stream.decompress(rest, PIECE)
                rest = stream.unconsumed_tail or stream.unused_data
                yield piece
            while begun and not stream.eof and (piece := stream.decompress(b"", PIECE)):
                yield piece
    except zlib.error:
        raise Problem("bad_compression", "The content is not valid gzip or zlib data.") from None
    if begun and not stream.eof:
        raise Problem("bad_compression", "The compressed content ends too early.")


def unpacked(files: Mapping[str, bytes], settings: Settings) -> dict[str, bytes]:
    """``files`` with every gzip file and zip archive among them replaced by its content.

    Only one level is unpacked. Folders of an archive are dropped from the names of its members, as if they
    had been uploaded one by one.

    Raises
    ------
    Problem
        More files or bytes than the limits, damage, a link or an unusable name in an archive.
    """
    found: dict[str, bytes] = {}
    left = settings.unpacked_bytes
    for name, content in files.items():
        for member, data in _members(name, content, left, settings):
            if member in found:
                raise Problem("bad_file_name", "Two files have the same name.")
            if len(found) == settings.parts:
                raise Problem("too_many_parts", f"One request may have at most {settings.parts} files.")
            left -= len(data)
            if left < 0:
                raise unpacked_too_large(settings)
            found[member] = data
    return found


def unpacked_too_large(settings: Settings) -> Problem:
    """The problem of content that grows too much."""
    return Problem(
        "unpacked_too_large",
        f"Decompressed, the content is larger than {settings.unpacked_bytes} bytes.",
    )


def _members(name: str, content: bytes, left: int, settings: Settings) -> Iterator[tuple[str, bytes]]:
    if content.startswith(ZIP) and name.lower().endswith(".zip"):
        yield from _zipped(content, left, settings)
    elif content.startswith(GZIP) and name.lower().endswith(".gz"):
        out = bytearray()
        for piece in inflated([content]):
            out += piece
            if len(out) > left:
                raise unpacked_too_large(settings)
        yield plain_name(name[: -len(".gz")]), bytes(out)
    else:
        yield name, content


def _zipped(content: bytes, left: int, settings: Settings) -> Iterator[tuple[str, bytes]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(members) > settings.parts:
            raise Problem("too_many_parts", f"The archive holds more than {settings.parts} files.")
        for entry in members:
            name = _member_name(entry)
            if entry.compress_type not in METHODS:
                raise zipfile.BadZipFile("another method of compression")
            with archive.open(entry) as stream:
                # the stated size may be a lie, so ask for one byte more
                data = stream.read(left + 1)
            left -= len(data)
            if left < 0:
                raise unpacked_too_large(settings)
            yield name, data
    except _DAMAGED:
        raise Problem(
            "bad_compression", "The zip archive is damaged, encrypted or of an unknown kind."
        ) from None


def _member_name(entry: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Problem("bad_file_name", "The archive holds a link.")
    folders, _, name = entry.filename.rpartition("/")
    if entry.filename.startswith("/") or ".." in folders.split("/"):
        raise Problem("bad_file_name", "A name in the archive leads out of it.")
    return plain_name(name)
