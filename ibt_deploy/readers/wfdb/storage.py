"""The storage formats of WFDB signal files, decoded with numpy.

They are those of signal(5) of the WFDB Applications Guide. Where its text leaves a choice, the samples are
those that PhysioNet's C library returns. The wfdb package 4.3.1 differs in format 311, where it keeps only
seven of the ten bits of each third sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ibt_deploy.types import AnyInts

INVALID: dict[int, int | None] = {
    8: None, 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15),
    212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23),
}  # fmt: skip
"""Raw value that stands for 'no valid sample', by storage format; first differences (8) have none."""

FLAC_BITS: dict[int, int] = {508: 8, 516: 16, 524: 24}
"""Bits per sample of the FLAC formats."""

FIRST_DIFFERENCES = 8

_BYTES: dict[int, int] = {8: 1, 16: 2, 24: 3, 32: 4, 61: 2, 80: 1, 160: 2}
_PACKED: dict[int, tuple[int, tuple[int, ...]]] = {212: (3, (2, 3)), 310: (4, (2, 4, 4)), 311: (4, (2, 3, 4))}
"""Bytes of a group of packed samples, and how many of them each of its samples needs."""


def is_uncompressed(storage: int) -> bool:
    """Whether :func:`decoded` reads the storage format."""
    return storage in _BYTES or storage in _PACKED


def samples_in(storage: int, size: int) -> int:
    """Samples that ``size`` bytes of an uncompressed storage format hold."""
    if storage in _BYTES:
        return size // _BYTES[storage]
    group, needed = _PACKED[storage]
    return size // group * len(needed) + sum(size % group >= count for count in needed)


def bytes_of(storage: int, samples: int) -> int:
    """Bytes that the first ``samples`` samples of an uncompressed storage format lie in."""
    if storage in _BYTES:
        return samples * _BYTES[storage]
    group, needed = _PACKED[storage]
    rest = samples % len(needed)
    return samples // len(needed) * group + (needed[rest - 1] if rest else 0)


def decoded(data: bytes, storage: int, samples: int) -> AnyInts:
    """The first ``samples`` samples of an uncompressed signal file, in its order.

    Parameters
    ----------
    data
        At least :func:`bytes_of` bytes from the first sample on.
    storage
        A format for which :func:`is_uncompressed` holds. Those of format 8 are still differences.
    samples
        How many; shape of the result ``(samples,)``.
    """
    data = data[: bytes_of(storage, samples)]
    if storage in _PACKED:
        group = _PACKED[storage][0]
        return _unpacked(data + bytes(-len(data) % group), storage).reshape(-1)[:samples]
    if storage == 24:
        wide = np.zeros((samples, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(samples, 3)
        return wide.view("<i4").reshape(samples) >> 8
    if storage in (80, 160):
        unsigned = np.frombuffer(data, dtype="u1" if storage == 80 else "<u2").astype(np.int32)
        return unsigned - (2**7 if storage == 80 else 2**15)
    return np.frombuffer(data, dtype={8: "i1", 16: "<i2", 32: "<i4", 61: ">i2"}[storage])


def _unpacked(data: bytes, storage: int) -> npt.NDArray[np.int32]:
    """Samples of whole groups, shape ``(groups, samples in a group)``."""
    if storage == 212:
        low, mixed, high = np.frombuffer(data, dtype=np.uint8).astype(np.int32).reshape(-1, 3).T
        return _signed(np.stack([low | (mixed & 0x0F) << 8, high | (mixed & 0xF0) << 4], axis=1), 12)
    if storage == 310:
        one, two = np.frombuffer(data, dtype="<u2").astype(np.int32).reshape(-1, 2).T
        return _signed(np.stack([one >> 1, two >> 1, one >> 11 | two >> 11 << 5], axis=1), 10)
    word = np.frombuffer(data, dtype="<u4")
    return _signed(np.stack([word, word >> 10, word >> 20], axis=1).astype(np.int32), 10)


def _signed(values: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.int32]:
    """The low ``bits`` bits of each value as a number in two's complement."""
    half = 1 << (bits - 1)
    return ((values & (2 * half - 1)) ^ half) - half
