"""The files of a multipart upload, kept in memory under the names that they came with.

A WFDB header names its signal files, so names matter. Only plain names are accepted: no folder, no drive, no
control character. Nothing is ever written under them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.http.problems import Problem

LONGEST_NAME = 200
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 2048
MAX_BOUNDARY = 200
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|%(?:2f|5c|00)', re.IGNORECASE)
_FOLDERS = re.compile(rb":\\|\\\\")
"""The folder of a drive or a server, which the parser would silently cut off the name."""


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
        Of the request, with its boundary.
    chunks
        The body, decompressed.
    most_parts
        The most files that the body may have.

    Raises
    ------
    Problem
        The form is damaged, or has a part that is not a file, a name twice, or too many parts.
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
