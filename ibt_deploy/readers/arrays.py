"""Arrays without a header: MATLAB ``.mat`` and NumPy ``.npy`` and ``.npz``.

What the numbers mean is declared beside the file (:mod:`ibt_deploy.readers.arrays_layout`), or in variables
of the file itself that have the names of the layout's keys (``sampling_rate``, ``unit``, ``leads`` ...). The
Challenge's ``.mat`` files, which a WFDB header describes, are read by that header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ibt_deploy.errors import InputError, MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.arrays_layout import KEYS, checked, layout_beside, recording_of
from ibt_deploy.readers.arrays_mat import LEVEL_5, LEVEL_73, is_level_4, level_4_arrays, level_5_arrays
from ibt_deploy.readers.arrays_npy import MAGIC, ZIP_MAGIC, npy_array, npz_arrays
from ibt_deploy.records import Recording
from ibt_deploy.types import Array

NAME = "array (MATLAB, NumPy)"
TASK = "arrhythmia"

MAX_BYTES = 1 << 27
MOST_STATED = 1000
"""Items of a list in a file that are looked at; more are no layout."""
UNNAMED = "array"


def sniff(file: File, head: bytes) -> bool:
    """Whether ``head`` begins a MATLAB or NumPy file, of which ``.npz`` and level 4 need their suffix too."""
    suffix = file.suffix.lower()
    return (
        head.startswith((MAGIC, LEVEL_5, LEVEL_73))
        or (suffix == ".npz" and head.startswith(ZIP_MAGIC))
        or (suffix == ".mat" and is_level_4(head))
    )


def read(file: File) -> list[Recording]:
    """Read the array in ``file`` as its layout says.

    Raises
    ------
    UnsupportedFormat
        MATLAB 7.3; no two-dimensional array of real numbers.
    TooLong
        More than 128 MiB.
    InputError
        See :func:`ibt_deploy.readers.arrays_layout.recording_of` and the modules of the two formats.
    """
    if file.stat().st_size > MAX_BYTES:
        raise TooLong("more than 128 MiB; cut it into pieces", code="recording_too_long")
    data = file.read_bytes()
    arrays, what = _arrays(data)
    inline = {key: _plain(arrays.pop(key)) for key in KEYS if key in arrays}
    beside = layout_beside(file)
    stated = {**checked(inline, file.name), **beside.stated}
    return [recording_of(_signal(arrays, stated), stated, file, what=what)]


def _arrays(data: bytes) -> tuple[dict[str, Any], str]:
    """Everything in the file by name, and the name of its format."""
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
    """A variable as a layout states it: text, a number or a list of texts."""
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
