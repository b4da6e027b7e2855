"""The files of a request, in memory within limits: multipart uploads, gzip and zlib streams, zip archives.

A WFDB header names its signal files, so names matter. Only plain names are accepted: no folder, no drive, no
control character. Nothing is ever written under them.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.http.problems import Problem
from serving.settings import Settings

LONGEST_NAME = 200
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 2048
MAX_BOUNDARY = 200
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|%(?:2f|5c|00)', re.IGNORECASE)
_FOLDERS = re.compile(rb":\\|\\\\")
"""The folder of a drive or a server, which the parser would silently strip from the name."""
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
PIECE = 2**18
MOST_MEMBERS = 4096
"""Maximum number of consecutive gzip members; each costs a new decompressor. bgzip writes one per 64 KiB."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other methods are rare and slow, and some compress zeros a millionfold."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""Exceptions of zipfile for archives that are damaged, encrypted or use an unknown method."""


def plain_name(name: str) -> str:
    """``name`` itself; raises a Problem unless it is the plain name of a file."""
    if not name or len(name) > LONGEST_NAME or not name.strip(". ") or _UNSAFE.search(name):
        raise Problem(
            "bad_file_name",
            "A file name must be plain: no folders, drives, control or reserved characters, and at most "
            f"{LONGEST_NAME} characters.",
        )
    if not name.isprintable():
        raise Problem("bad_file_name", "A file name must consist of printable characters.")
    return name


def uploaded(content_type: str, chunks: Iterable[bytes], most_parts: int) -> dict[str, bytes]:
    """Files of a multipart body by name, in order.

    Parameters
    ----------
    content_type
        Content type of the request, with its boundary.
    chunks
        The body, decompressed.
    most_parts
        Maximum number of files in the body.

    Raises
    ------
    Problem
        The form is damaged, or has a part that is not a file, a duplicate name, or too many parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise Problem("bad_multipart", "The content type has no usable boundary.")
    form = _Form(boundary, most_parts)
    try:
        for chunk in chunks:
            form.parser.write(chunk)
        form.parser.finalize()
    except FormParserError:
        raise Problem("bad_multipart", "The multipart body is damaged.") from None
    if form.open:
        raise Problem("bad_multipart", "The multipart body ends too early.")
    return form.files


class _Form:
    """Collects what the parser finds."""

    def __init__(self, boundary: bytes, most_parts: int) -> None:
        self.files: dict[str, bytes] = {}
        self.open = True
        self._most_parts = most_parts
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    def _begin_part(self) -> None:
        if len(self.files) == self._most_parts:
            raise Problem("too_many_parts", f"One request may have at most {self._most_parts} files.")
        self._headers.clear()
        self._content = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        name = self._name()
        if name in self.files:
            raise Problem("bad_file_name", "Two files have the same name.")
        self.files[name] = bytes(self._content)

    def _end(self) -> None:
        self.open = False

    def _name(self) -> str:
        disposition = self._headers.get(b"content-disposition", b"")
        if _FOLDERS.search(disposition):
            raise Problem("bad_file_name", "A file name must be plain: without drives and folders.")
        _, options = parse_options_header(disposition)
        raw = options.get(b"filename")
        if raw is None:
            raise Problem("bad_multipart", "A part of the form is not a file (it has no filename).")
        try:
            return plain_name(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise Problem("bad_file_name", "A file name is not UTF-8.") from None


def inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress a gzip or zlib stream, at most 256 KiB at a time.

    Several consecutive gzip members form one content (RFC 1952).

    Raises
    ------
    Problem
        ``bad_compression``: damaged, truncated, or more than :data:`MOST_MEMBERS` members.
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

    Only one level is unpacked. Folders of an archive are dropped from the names of its members, as if these
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
    """The problem for content that expands too much."""
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
                # the stated size may be wrong, so ask for one byte more
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
