"""Uploads that are packed: ``.gz`` files and zip archives, unpacked in memory within the limits."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping

from serving.bodies import unpacked_too_large
from serving.inflate import Inflater
from serving.problems import Problem
from serving.settings import Settings
from serving.uploads import plain_name

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others are rare, slow, and shrink emptiness a millionfold."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""What zipfile raises at archives that are damaged, encrypted or packed in ways it does not know."""


def unpacked(files: Mapping[str, bytes], settings: Settings) -> dict[str, bytes]:
    """``files`` with every gzip file and zip archive among them replaced by what it holds.

    Only one level is unpacked. Folders of an archive are left away from the names of its members, as if they
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
                raise Problem("too_many_parts", f"At most {settings.parts} files are taken in one request.")
            left -= len(data)
            if left < 0:
                raise unpacked_too_large(settings)
            found[member] = data
    return found


def _members(name: str, content: bytes, left: int, settings: Settings) -> Iterator[tuple[str, bytes]]:
    if content.startswith(ZIP) and name.lower().endswith(".zip"):
        yield from _zipped(content, left, settings)
    elif content.startswith(GZIP) and name.lower().endswith(".gz"):
        inflater = Inflater()
        out = bytearray()
        for piece in inflater.pieces(content):
            out += piece
            if len(out) > left:
                raise unpacked_too_large(settings)
        inflater.finish()
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
                # the stated size may be a lie, so that one byte more is asked for
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
