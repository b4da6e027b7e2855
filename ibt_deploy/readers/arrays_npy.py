"""NumPy arrays from bytes: ``.npy`` (format specification of numpy.lib.format) and its archive ``.npz``.

The header is matched with patterns, so that nothing in it is evaluated and nothing is pickled; what it claims
is compared with the bytes that are there before an array is made.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib

import numpy as np

from ibt_deploy.errors import MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.types import Array

MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
MAX_BYTES = 1 << 27
MAX_MEMBERS = 64
KINDS = "biufSU"

_DTYPE = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[a-zA-Z]\d{0,6})['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\d\s,L]{0,80})\)""")

_LENGTH = re.compile(r"\d{1,18}")


def npy_array(data: bytes) -> Array:
    """The array in the bytes of a ``.npy`` file.

    Raises
    ------
    UnsupportedFormat
        Objects, records or complex numbers.
    MalformedFile
        A damaged or truncated file.
    """
    size = 2 if data[6:7] == b"\x01" else 4
    start = 8 + size
    length = int.from_bytes(data[8:start], "little")
    if not data.startswith(MAGIC) or len(data) < start + length:
        raise MalformedFile("the header of the NumPy array is cut off", code="truncated_file")
    header = data[start : start + length].decode("latin-1")
    found = [pattern.search(header) for pattern in (_DTYPE, _ORDER, _SHAPE)]
    kind, order, shape = (match[1] if match else None for match in found)
    if kind is None or kind.lstrip("<>|=")[:1] not in KINDS:
        raise UnsupportedFormat("a NumPy array of something other than plain numbers")
    if order is None or shape is None:
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header")
    parts = [part.strip().removesuffix("L") for part in shape.split(",") if part.strip()]
    if not all(_LENGTH.fullmatch(part) for part in parts):
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header")
    lengths = tuple(map(int, parts))
    try:
        dtype = np.dtype(kind)
    except TypeError as error:
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header") from error
    if dtype.itemsize == 0 or len(lengths) > 4:
        raise MalformedFile("the header of the NumPy array is damaged", code="bad_header")
    count = math.prod(lengths)
    held = (len(data) - start - length) // dtype.itemsize
    if held < count:
        raise MalformedFile(
            f"the NumPy array is truncated: {count} values claimed, {held} there", code="truncated_file"
        )
    flat = np.frombuffer(data, dtype, count, start + length)
    if dtype.kind == "U" and not _is_text(flat):
        raise MalformedFile("the NumPy array holds impossible characters")
    return flat.reshape(lengths, order="F" if order == "True" else "C")


def _is_text(flat: Array) -> bool:
    """Whether every character is one of Unicode; numpy would make broken strings of others."""
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
