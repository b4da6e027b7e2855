"""MATLAB arrays from bytes: MAT-files of level 4 and of level 5 (MathWorks, "MAT-File Format").

Only what holds plain numbers or text is read; cells, structures, sparse and complex arrays are passed over.
Level 5 is what MATLAB 5 to 7 save; version 7.3 is another format, HDF5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ibt_deploy.errors import MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.types import Array

LEVEL_5, LEVEL_73 = b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"
MAX_BYTES = 1 << 27
"""Bytes of all arrays together at most, unpacked."""

_HEADER_5, _HEADER_4 = 128, 20
_MATRIX, _COMPRESSED = 14, 15
_CHAR_CLASS, _NUMBER_CLASSES = 4, range(6, 16)
_COMPLEX_FLAG = 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
           16: "u1", 17: "u2", 18: "u4"}  # fmt: skip
_STORED_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_LONGEST_NAME = 64


class _Element(NamedTuple):
    kind: int
    data: memoryview


def is_level_4(head: bytes) -> bool:
    """Whether ``head`` begins like a MAT-file of level 4: a plausible type, size and name (chapter 2)."""
    if len(head) < _HEADER_4 + 2:
        return False
    order = _order_4(head)
    if order is None:
        return False
    kind, rows, columns, imaginary, length = struct.unpack_from(order + "5i", head)
    name = head[_HEADER_4 : _HEADER_4 + length]
    return (
        kind % 1000 // 10 in range(len(_STORED_4))
        and kind % 10 in (0, 1)
        and min(rows, columns) > 0
        and imaginary in (0, 1)
        and 1 < length <= _LONGEST_NAME
        and name.endswith(b"\0")
        and name[:-1].decode("latin-1").isidentifier()
    )


def level_4_arrays(data: bytes) -> dict[str, Array | str]:
    """The arrays of a level 4 file, by name; MalformedFile where it is damaged."""
    found: dict[str, Array | str] = {}
    place = 0
    while len(data) - place >= _HEADER_4:
        order = _order_4(data[place:])
        if order is None:
            raise MalformedFile("a damaged MATLAB file: unknown type of array")
        kind, rows, columns, imaginary, length = struct.unpack_from(order + "5i", data, place)
        place += _HEADER_4
        stored = kind % 1000 // 10
        if stored >= len(_STORED_4) or min(rows, columns) < 0 or not 0 < length <= _LONGEST_NAME:
            raise MalformedFile("a damaged MATLAB file: impossible size of an array")
        name = data[place : place + length].rstrip(b"\0").decode("latin-1")
        place += length
        dtype = np.dtype(order + _STORED_4[stored])
        size = rows * columns * dtype.itemsize
        if len(data) - place < size:
            raise _truncated(name, size, len(data) - place)
        values = np.frombuffer(data, dtype, rows * columns, place).reshape(rows, columns, order="F")
        place += size * (2 if imaginary else 1)
        if kind % 10 == 1:
            found[name] = _text(values)
        elif kind % 10 == 0 and not imaginary:
            found[name] = values
    return found


def level_5_arrays(data: bytes) -> dict[str, Array | str]:
    """The arrays of a level 5 file, by name.

    Raises
    ------
    MalformedFile
        A damaged or truncated file.
    TooLong
        More than :data:`MAX_BYTES` when unpacked.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER_5 - 2 : _HEADER_5])
    if order is None:
        raise MalformedFile("a damaged MATLAB file: no mark of its byte order", code="bad_header")
    found: dict[str, Array | str] = {}
    budget = MAX_BYTES
    for element in _elements(memoryview(data)[_HEADER_5:], order):
        parts = [element]
        if element.kind == _COMPRESSED:
            unpacked = _inflated(element.data, budget)
            budget -= len(unpacked)
            parts = list(_elements(memoryview(unpacked), order))
        for part in parts:
            if part.kind == _MATRIX:
                found |= _matrix(part.data, order)
    return found


def _order_4(head: bytes) -> str | None:
    """Byte order by the type's thousands: 0 little, 1 big-endian (IEEE); None for anything else."""
    little, big = (int.from_bytes(head[:4], end) for end in ("little", "big"))
    if little < 100:
        return "<"
    return ">" if 1000 <= big < 1100 else None


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The data elements that follow each other in ``data``, also small ones (chapter 1)."""
    place = 0
    while len(data) - place >= 8:
        kind, size = struct.unpack_from(order + "2I", data, place)
        if kind >> 16:
            small = kind >> 16
            if small > 4:
                raise MalformedFile("a damaged MATLAB file: impossible small element")
            yield _Element(kind & 0xFFFF, data[place + 4 : place + 4 + small])
            place += 8
            continue
        place += 8
        if size > len(data) - place:
            raise _truncated("an element", size, len(data) - place)
        yield _Element(kind, data[place : place + size])
        place += size if kind == _COMPRESSED else -(-size // 8) * 8


def _inflated(packed: memoryview, budget: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        unpacked = inflater.decompress(packed, budget)
    except zlib.error as error:
        raise MalformedFile(f"a damaged MATLAB file: {error}") from error
    if inflater.unconsumed_tail:
        raise TooLong("more than 128 MiB when unpacked", code="recording_too_long")
    if not inflater.eof:
        raise MalformedFile("a damaged MATLAB file: compressed data are cut off", code="truncated_file")
    return unpacked


def _matrix(data: memoryview, order: str) -> dict[str, Array | str]:
    """The array of one miMATRIX element under its name; nothing if it is neither numbers nor text."""
    parts = list(_elements(data, order))
    if len(parts) < 4 or len(parts[0].data) < 8:
        return {}
    flags = int.from_bytes(parts[0].data[:4], "little" if order == "<" else "big")
    kind, name = flags & 0xFF, bytes(parts[2].data).rstrip(b"\0").decode("latin-1")
    shape = [int(n) for n in np.frombuffer(parts[1].data[: len(parts[1].data) // 4 * 4], order + "i4")]
    stored = _STORED.get(parts[3].kind)
    if stored is None or flags & _COMPLEX_FLAG or (kind != _CHAR_CLASS and kind not in _NUMBER_CLASSES):
        return {}
    dtype = np.dtype(order + stored)
    if not 0 < len(shape) <= 8 or min(shape) < 0:
        raise MalformedFile("a damaged MATLAB file: impossible size of an array")
    count = math.prod(shape)
    if len(parts[3].data) < count * dtype.itemsize:
        raise _truncated(name, count * dtype.itemsize, len(parts[3].data))
    values = np.frombuffer(parts[3].data, dtype, count).reshape(shape, order="F")
    return {name: _text(values) if kind == _CHAR_CLASS else values}


def _text(values: Array) -> str:
    """Rows of characters as one text, a blank between rows."""
    if not values.size:
        return ""
    rows = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    if rows.size > 1 << 16:
        raise UnsupportedFormat("a MATLAB file with a text of more than 65,536 characters")
    codes = rows.astype(np.int64)
    if ((codes < 0) | (codes > 0x10FFFF)).any():
        raise MalformedFile("a damaged MATLAB file: impossible characters")
    return " ".join("".join(map(chr, row)).strip() for row in codes.tolist())


def _truncated(name: str, claimed: int, held: int) -> MalformedFile:
    return MalformedFile(
        f"the MATLAB file is truncated: {name[:40]} claims {claimed} bytes, {held} are there",
        code="truncated_file",
    )
