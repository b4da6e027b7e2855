"""Arrays without a header: MATLAB ``.mat`` and NumPy ``.npy`` and ``.npz``.

A layout (:func:`layout_beside`) declares what the numbers mean, in a file beside the array or in variables of
the file itself named like its keys (``sampling_rate``, ``unit``, ``leads`` ...). The Challenge's
``.mat`` files, which a WFDB header describes, are read through that header.

From MAT-files of level 4 and 5 (MathWorks, "MAT-File Format"; level 5 is what MATLAB 5 to 7 save) only plain
numbers and text are read; cells, structures, sparse and complex arrays are skipped. Version 7.3 is another
format, HDF5. Nothing is evaluated or unpickled, and what a header claims is compared with the number of bytes
present before an array is created.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import tokenize
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    TooLong,
    UnsupportedFormat,
    first_line,
)
from ibt_deploy.files import File
from ibt_deploy.readers.stated import MAX_RATE, millivolts_per
from ibt_deploy.records import Recording
from ibt_deploy.types import Array, Floats, checked
from ibt_deploy.vocabulary import LEADS, canonical_lead

MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
MAX_BYTES = 1 << 27
"""Maximum number of bytes of a file, and of all its arrays together when unpacked."""
MAX_MEMBERS = 64
KINDS = "biufSU"


def npy_array(data: bytes) -> Array:
    """The array in the bytes of a ``.npy`` file.

    Raises
    ------
    UnsupportedFormat
        Objects, records or complex numbers.
    MalformedFile
        A damaged or truncated file.
    """
    lengths, fortran_order, dtype, start = _npy_header(data)
    count = math.prod(lengths)
    held = (len(data) - start) // dtype.itemsize
    if held < count:
        raise MalformedFile(
            f"the NumPy array is truncated: {count} values claimed, {held} there", code="truncated_file"
        )
    flat = np.frombuffer(data, dtype, count, start)
    if dtype.kind == "U" and not _is_text(flat):
        raise MalformedFile("the NumPy array holds impossible characters")
    return flat.reshape(lengths, order="F" if fortran_order else "C")


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the first axis varies fastest, dtype, and offset of the first value."""
    size = 2 if data[6:7] == b"\x01" else 4
    start = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    if not data.startswith(MAGIC) or len(data) < start:
        raise MalformedFile("the header of the NumPy array is cut off", code="truncated_file")
    read_header = npy_format.read_array_header_1_0 if size == 2 else npy_format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers written by Python 2
            shape, fortran_order, dtype = read_header(io.BytesIO(data[8:start]))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError) as error:
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header") from error
    if dtype.kind not in KINDS:
        raise UnsupportedFormat("a NumPy array of something other than plain numbers")
    if dtype.itemsize == 0 or len(shape) > 4 or any(length < 0 for length in shape):
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header")
    return shape, fortran_order, dtype, start


def _is_text(flat: Array) -> bool:
    """Whether every character is valid Unicode; numpy would make broken strings of others."""
    codes = flat.view(np.dtype("u4").newbyteorder(flat.dtype.byteorder))
    return not ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()


def npz_arrays(data: bytes) -> dict[str, Array]:
    """The arrays in the bytes of a ``.npz`` archive, by name.

    Raises
    ------
    MalformedFile
        A damaged archive.
    TooLong
        More than :data:`MAX_BYTES` when unpacked.
    UnsupportedFormat
        See :func:`npy_array`; encryption.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if len(members) > MAX_MEMBERS or sum(info.file_size for info in members) > MAX_BYTES:
                raise TooLong("more than 128 MiB when unpacked", code="recording_too_long")
            arrays = {}
            for info in members:
                with archive.open(info) as stream:
                    arrays[info.filename.removesuffix(".npy")] = npy_array(stream.read(info.file_size))
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise MalformedFile(f"a damaged archive of NumPy arrays: {str(error)[:80]}") from error
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedFormat(f"an encrypted or unusual archive: {str(error)[:80]}") from error


LEVEL_5, LEVEL_73 = b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"

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
    """Whether ``head`` begins a MAT-file of level 4: a plausible type, size and name (chapter 2)."""
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
    """The arrays of a level 4 file, by name; raises MalformedFile if it is damaged."""
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
    """Byte order from the thousands digit of the type: 0 little, 1 big-endian (IEEE); else None."""
    little, big = (int.from_bytes(head[:4], end) for end in ("little", "big"))
    if little < 100:
        return "<"
    return ">" if 1000 <= big < 1100 else None


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The consecutive data elements in ``data``, including small ones (chapter 1)."""
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
    """Rows of characters as one string, with a space between rows."""
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
        f"the MATLAB file is truncated: {name[:40]} claims {claimed} bytes but contains {held}",
        code="truncated_file",
    )


KEYS: dict[str, Any] = {
    "sampling_rate": int | float,
    "unit": str,
    "leads": str | list,
    "scale": int | float,
    "orientation": Literal["columns", "rows"],
    "delimiter": str,
    "decimal": Literal[".", ","],
    "skip_lines": Annotated[int, "[0, inf)"],
    "variable": str,
}
SUFFIXES = (".toml", ".json")
SHARED_STEM = "layout"
MAX_LAYOUT_BYTES = 1 << 16
MAX_LEADS = 64
MAX_VALUES = 25_000_000
"""Maximum number of samples times leads (12 leads at 500 Hz: over an hour), so that memory stays bounded."""

EXAMPLES = {
    "sampling_rate": "sampling_rate = 500",
    "unit": 'unit = "uV"',
    "leads": f'leads = "{" ".join(LEADS)}"',
}
"""Keys that every array needs, as a person would write them."""


class Layout(NamedTuple):
    """Declarations about an array, and their source.

    Attributes
    ----------
    stated
        Values by key of :data:`KEYS`, with their types checked.
    source
        Name of the file that declares them, or None if there is none.
    """

    stated: Mapping[str, Any]
    source: str | None


def layout_beside(file: File) -> Layout:
    """The layout declared beside ``file``; empty if there is none.

    Raises
    ------
    MalformedFile
        It is not TOML or JSON, or states something unknown or impossible.
    """
    for stem in dict.fromkeys((file.stem, SHARED_STEM)):
        for suffix in SUFFIXES:
            sidecar = file.with_name(stem + suffix)
            if sidecar.name != file.name and sidecar.is_file():
                return Layout(_understood(_parsed(sidecar), sidecar.name), sidecar.name)
    return Layout({}, None)


def _understood(stated: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``stated``, if readers understand all of it; raises MalformedFile otherwise."""
    for key, value in stated.items():
        if key not in KEYS:
            raise MalformedFile(
                f"{source}: unknown key {key[:40]!r}; known: {', '.join(KEYS)}", code="bad_layout"
            )
        try:
            checked(value, KEYS[key], key)
        except ValueError as error:
            raise MalformedFile(f"{source}: {error}", code="bad_layout") from None
    if len(stated.get("delimiter", ",")) != 1:
        raise MalformedFile(f"{source}: delimiter is one character", code="bad_layout")
    return dict(stated)


def _parsed(sidecar: File) -> dict[str, Any]:
    if sidecar.stat().st_size > MAX_LAYOUT_BYTES:
        raise MalformedFile(f"{sidecar.name} is too large to be a layout", code="bad_layout")
    try:
        text = sidecar.read_bytes().decode("utf-8-sig")
        found = tomllib.loads(text) if sidecar.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = first_line(error)[:120]
        raise MalformedFile(f"{sidecar.name} cannot be read: {reason}", code="bad_layout") from error
    if not isinstance(found, dict):
        raise MalformedFile(f"{sidecar.name} is not a table of keys and values", code="bad_layout")
    return found


def lead_names(stated: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Lead names that a layout states: a list, or a string separated by blanks or commas."""
    leads = stated.get("leads")
    if leads is None:
        return None
    names = re.split(r"[\s,;]+", leads.strip()) if isinstance(leads, str) else leads
    if not all(isinstance(name, str) and name for name in names) or not 0 < len(names) <= MAX_LEADS:
        raise MalformedFile(f"leads cannot be {leads!r:.80}", code="bad_layout")
    return tuple(names)


def recording_of(
    values: Array,
    stated: Mapping[str, Any],
    file: File,
    *,
    what: str,
    notes: tuple[str, ...] = (),
) -> Recording:
    """The recording with the numbers in ``values``, according to the layout ``stated``.

    Parameters
    ----------
    values
        Real numbers, two-dimensional.
    stated
        As in :class:`Layout`.
    file, what
        Source of the numbers, and the name of its format.
    notes
        Remarks of the reader.

    Raises
    ------
    BadSampling, BadUnits, MissingLeads
        Rate, unit or leads are not stated; the message says where to state them.
    MalformedFile
        The shape is not that of the leads.
    TooLong
        More than :data:`MAX_VALUES` values.
    """
    if values.size > MAX_VALUES:
        raise TooLong(f"{values.size} values; cut it into pieces", code="recording_too_long")
    leads = lead_names(stated)
    missing = [key for key in EXAMPLES if key not in stated]
    if leads is None:
        raise MissingLeads(f"does not name its leads; {_advice(file, missing)}", code="missing_lead_name")
    if "sampling_rate" in missing:
        raise BadSampling(f"states no sampling rate; {_advice(file, missing)}", code="missing_rate")
    if "unit" in missing:
        raise BadUnits(f"states no unit; {_advice(file, missing)}", code="missing_unit")
    rate = _positive(stated["sampling_rate"])
    if rate is None or rate >= MAX_RATE:
        raise BadSampling(f"{stated['sampling_rate']!r:.40} Hz is not a sampling rate", code="missing_rate")
    millivolts = millivolts_per(stated["unit"])
    if millivolts is None:
        raise BadUnits(f"the unit {stated['unit'][:40]!r} is not mV, uV or V", code="unknown_unit")
    scale = _positive(stated.get("scale", 1.0))
    if scale is None:
        raise BadUnits(f"the scale {stated['scale']!r:.40} is not a positive number", code="missing_gain")

    doubled = [lead for number, lead in enumerate(leads) if _known(lead) in map(_known, leads[:number])]
    if doubled:
        raise MissingLeads(f"the lead {doubled[0][:20]} occurs twice", code="doubled_lead")
    rows = _one_row_a_lead(values, leads, stated.get("orientation"), file)
    signal: Floats = np.array(rows, dtype=np.float64, order="C")
    signal *= millivolts * scale
    signal[~np.isfinite(signal)] = np.nan
    converted = () if millivolts == 1.0 else (f"converted from {stated['unit'].strip()} to mV",)
    return Recording(
        signal=signal,
        sampling_rate=rate,
        leads=leads,
        record_id=file.stem,
        source=str(file),
        format=what,
        notes=(*notes, *converted),
    )


def _one_row_a_lead(values: Array, leads: tuple[str, ...], orientation: str | None, file: File) -> Array:
    """``values`` or its transpose, whichever has one row per lead."""
    n, shape = len(leads), values.shape
    if orientation is None:
        if shape == (n, n):
            raise MalformedFile(
                f"as many samples as leads: say which is which; {_advice(file, ['orientation'])}",
                code="bad_layout",
            )
        orientation = "rows" if shape[0] == n else "columns"
    rows = values if orientation == "rows" else values.T
    if len(rows) != n:
        raise MalformedFile(
            f"{shape[0]} by {shape[1]} numbers do not hold {n} leads as {orientation}", code="bad_layout"
        )
    return rows


def _known(lead: str) -> str:
    """The standard lead that is meant, or the name unchanged."""
    return canonical_lead(lead) or lead


def _positive(number: float | None) -> float | None:
    """``number`` as a float if it is finite and above zero."""
    try:
        return float(number) if number is not None and 0 < float(number) < math.inf else None
    except OverflowError:
        return None


def _advice(file: File, keys: list[str]) -> str:
    lines = "; ".join({**EXAMPLES, "orientation": 'orientation = "columns"'}[key] for key in keys)
    name = f"{file.stem}{SUFFIXES[0]} or {SHARED_STEM}{SUFFIXES[0]}"
    return f"write {name} beside it with, for example: {lines}"


def standard_leads_in(names: list[str]) -> int:
    """Number of different standard leads in ``names``."""
    return len({canonical_lead(name) for name in names} - {None})


NAME = "array (MATLAB, NumPy)"
TASK = "arrhythmia"

MOST_STATED = 1000
"""Maximum number of list items to look at; more are not a layout."""
UNNAMED = "array"


def sniff(file: File, head: bytes) -> bool:
    """Whether ``head`` begins a MATLAB or NumPy file; ``.npz`` and level 4 also need their suffix."""
    suffix = file.suffix.lower()
    return (
        head.startswith((MAGIC, LEVEL_5, LEVEL_73))
        or (suffix == ".npz" and head.startswith(ZIP_MAGIC))
        or (suffix == ".mat" and is_level_4(head))
    )


def read(file: File) -> list[Recording]:
    """Read the array in ``file`` according to its layout.

    Raises
    ------
    UnsupportedFormat
        MATLAB 7.3; no two-dimensional array of real numbers.
    TooLong
        More than 128 MiB.
    InputError
        See :func:`ibt_deploy.readers.arrays.recording_of` and the modules of the two formats.
    """
    if file.stat().st_size > MAX_BYTES:
        raise TooLong("more than 128 MiB; cut it into pieces", code="recording_too_long")
    data = file.read_bytes()
    arrays, what = _arrays(data)
    inline = {key: _plain(arrays.pop(key)) for key in KEYS if key in arrays}
    beside = layout_beside(file)
    stated = {**_understood(inline, file.name), **beside.stated}
    return [recording_of(_signal(arrays, stated), stated, file, what=what)]


def _arrays(data: bytes) -> tuple[dict[str, Any], str]:
    """All arrays in the file by name, and the name of its format."""
    if data.startswith(LEVEL_73):
        raise UnsupportedFormat("a MATLAB file of version 7.3; save it again with save(..., '-v7')")
    if data.startswith(LEVEL_5):
        return dict(level_5_arrays(data)), "MATLAB 5"
    if data.startswith(MAGIC):
        return {UNNAMED: npy_array(data)}, "NumPy"
    if data.startswith(ZIP_MAGIC):
        return dict(npz_arrays(data)), "NumPy (npz)"
    return dict(level_4_arrays(data)), "MATLAB 4"


def _plain(value: str | Array) -> object:
    """A variable in the form that a layout states it: text, a number or a list of texts."""
    if isinstance(value, str):
        return value
    items = value.reshape(-1)[:MOST_STATED].tolist()
    return _decoded(items[0]) if len(items) == 1 else [_decoded(item) for item in items]


def _decoded(item: object) -> object:
    if isinstance(item, bytes):
        return item.decode("latin-1")
    return int(item) if isinstance(item, float) and item.is_integer() else item


def _signal(arrays: Mapping[str, Any], stated: Mapping[str, Any]) -> Array:
    """The one array of real numbers with two dimensions, or the one that the layout names.

    Further dimensions of length 1 are dropped.
    """
    tables = {
        name: np.squeeze(array) if array.ndim > 2 else array
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "iuf"
    }
    tables = {name: array for name, array in tables.items() if array.ndim == 2 and min(array.shape) > 0}
    wanted = stated.get("variable")
    if wanted is not None:
        if wanted not in tables:
            raise MalformedFile(
                f"holds no array {wanted[:40]!r} of numbers with two dimensions", code="bad_layout"
            )
        return tables[wanted]
    large = {name: array for name, array in tables.items() if array.size > 1}
    if len(large) != 1:
        raise _not_one(list(large))
    return next(iter(large.values()))


def _not_one(names: list[str]) -> InputError:
    if not names:
        return UnsupportedFormat("holds no array of real numbers with two dimensions (leads and samples)")
    listed = ", ".join(name[:40] for name in names[:8])
    return MalformedFile(
        f"holds several arrays; name one in the layout as variable: {listed}", code="bad_layout"
    )


def outline(file: File) -> dict[str, Any]:
    """Names and shapes of the arrays."""
    if file.stat().st_size > MAX_BYTES:
        return {}
    arrays, what = _arrays(file.read_bytes())
    return {
        "kind": what,
        "arrays": [
            f"{name or 'array'}: {'x'.join(map(str, np.shape(array)))} {getattr(array, 'dtype', 'text')}"
            for name, array in arrays.items()
        ],
    }
