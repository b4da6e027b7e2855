"""The storage formats of WFDB signal files (signal(5) of the WFDB applications guide)."""

from __future__ import annotations

from fractions import Fraction

INVALID: dict[int, int] = {
    8: -(2**7), 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15),
    212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23),
}  # fmt: skip
"""Raw value that stands for 'no valid sample', by storage format; the formats that can be read."""

BYTES_PER_SAMPLE: dict[int, Fraction] = {
    8: Fraction(1), 16: Fraction(2), 24: Fraction(3), 32: Fraction(4), 61: Fraction(2), 80: Fraction(1),
    160: Fraction(2), 212: Fraction(3, 2), 310: Fraction(4, 3), 311: Fraction(4, 3),
}  # fmt: skip
"""For the formats without compression."""

FLAC_BITS: dict[int, int] = {508: 8, 516: 16, 524: 24}
