"""The storage formats of WFDB signal files (signal(5) of the WFDB applications guide)."""

from __future__ import annotations

INVALID: dict[int, int] = {
    8: -(2**7), 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15),
    212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23),
}  # fmt: skip
"""Raw value that stands for 'no valid sample', by storage format; the formats that can be read."""

SAMPLES_IN_BYTES: dict[int, tuple[int, int]] = {
    8: (1, 1), 16: (1, 2), 24: (1, 3), 32: (1, 4), 61: (1, 2), 80: (1, 1), 160: (1, 2),
    212: (2, 3), 310: (3, 4), 311: (3, 4),
}  # fmt: skip
"""How many samples lie in how many bytes, for the formats without compression."""

FLAC_BITS: dict[int, int] = {508: 8, 516: 16, 524: 24}
"""Bits per sample of the FLAC formats."""
