"""SCP-ECG records built section by section as EN 1064 describes them, independently of the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int64]
LEAD_NUMBERS = {
    "I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8,
    "III": 61, "aVR": 62, "aVL": 63, "aVF": 64,
}  # fmt: skip


def crc(data: bytes) -> int:
    """CRC-CCITT bit by bit, as the standard describes it."""
    register = 0xFFFF
    for byte in data:
        register ^= byte << 8
        for _ in range(8):
            register = ((register << 1) ^ 0x1021 if register & 0x8000 else register << 1) & 0xFFFF
    return register


def section(number: int, body: bytes, *, stated_crc: int | None = None, reserved: bytes = bytes(6)) -> bytes:
    body += bytes(len(body) % 2)
    rest = struct.pack("<HIBB", number, 16 + len(body), 20, 20) + reserved + body
    return struct.pack("<H", crc(rest) if stated_crc is None else stated_crc) + rest


def record(
    bodies: Mapping[int, bytes], *, magic: bytes = b"SCPECG", crcs: Mapping[int, int] | None = None
) -> bytes:
    """A record of sections 0 and ``bodies``."""
    crcs = crcs or {}
    sections = {number: section(number, body, stated_crc=crcs.get(number)) for number, body in bodies.items()}
    numbers = sorted({*range(12), *bodies})
    size = 16 + 10 * len(numbers)
    place = 7 + size
    pointers = struct.pack("<HII", 0, size, 7)
    for number in numbers[1:]:
        length = len(sections.get(number, b""))
        pointers += struct.pack("<HII", number, length, place if length else 0)
        place += length
    first = section(0, pointers, reserved=magic)
    content = struct.pack("<I", place - 1) + first + b"".join(sections[n] for n in sorted(sections))
    return struct.pack("<H", crcs[-1] if -1 in crcs else crc(content)) + content


def patient(**tags: bytes) -> bytes:
    """Section 1; tags as ``t8=b"\\x01"``."""
    body = b"".join(
        struct.pack("<BH", int(tag[1:]), len(value)) + value for tag, value in sorted(tags.items())
    )
    return body + b"\xff\0\0"


def lead_section(
    leads: Sequence[str], samples: int, *, first: int = 1, flags: int = 0, starts: Sequence[int] = ()
) -> bytes:
    body = struct.pack("<BB", len(leads), flags)
    for number, lead in enumerate(leads):
        start = starts[number] if starts else first
        body += struct.pack("<IIB", start, start + samples - 1, LEAD_NUMBERS[lead])
    return body


def signal_section(
    data: Sequence[bytes], *, nanovolts: int = 2500, interval: int = 2000, order: int = 0, bimodal: int = 0
) -> bytes:
    padded = [lead + bytes(len(lead) % 2) for lead in data]
    sizes = struct.pack(f"<{len(padded)}H", *map(len, padded))
    return struct.pack("<HHBB", nanovolts, interval, order, bimodal) + sizes + b"".join(padded)


def plain(samples: Samples) -> bytes:
    return samples.astype("<i2").tobytes()


def differences(samples: Samples, order: int) -> Samples:
    """First samples as they are, then differences of ``order``."""
    if order == 0:
        return samples
    return np.concatenate((samples[:order], np.diff(samples, order)))


def default_bits(value: int) -> str:
    """The code of the default table."""
    if value == 0:
        return "0"
    if abs(value) <= 8:
        return "1" * abs(value) + "0" + ("0" if value > 0 else "1")
    if -128 <= value <= 127:
        return "1111111110" + format(value & 0xFF, "08b")
    return "1111111111" + format(value & 0xFFFF, "016b")


def packed(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def huffman(samples: Samples) -> bytes:
    return packed("".join(default_bits(int(value)) for value in samples))


DEFAULT_TABLES = struct.pack("<H", 19999)


def table_section(tables: Sequence[Sequence[tuple[str, int, int, int]]]) -> bytes:
    """Section 2 from codes (prefix, bits in all, mode, value)."""
    body = struct.pack("<H", len(tables))
    for codes in tables:
        body += struct.pack("<H", len(codes))
        for prefix, whole, mode, value in codes:
            body += struct.pack("<BBBhI", len(prefix), whole, mode, value, int(prefix[::-1], 2))
    return body


def ecg(leads: int = 8, samples: int = 5000, seed: int = 0, beat: int = 400) -> Samples:
    """Whole numbers of 2.5 uV: a beat every ``beat`` samples, wander and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples)
    shape = 300 * np.exp(-(((time % beat) - 200) ** 2) / 50)
    wander = 40 * np.sin(time / 300)
    gains = rng.normal(0, 1, leads)[:, None]
    return np.rint(gains * shape + wander + rng.normal(0, 2, (leads, samples))).astype(np.int64)
