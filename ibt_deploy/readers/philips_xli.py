"""XLI, the compression of Philips Sierra ECGs: LZW over second differences, and limb leads as residuals.

A block for each lead: bytes of compressed data (uint32), a number that is always 1 (uint16), the first
second difference (int16), little-endian; then the data. They are LZW codes of 10 bits, most significant bit
first, for the high bytes of all values and then the low bytes of all. The first two values are samples, the
others second differences plus 64, each one place before the sample that it leads to.

Leads III, aVR, aVL and aVF are stored as what Einthoven's law, in integer arithmetic that rounds towards
zero, makes of the others, minus the lead (aVR: of the opposite sign). The maker documents none of this; the
facts are those of the Sierra ECG tools (https://github.com/sixlettervariables/sierra-ecg-tools). Where these
differ among themselves, rounding towards zero is right: with it the limb leads of real recordings obey
Einthoven's law to the last bit, while rounding down leaves errors of one and a half steps.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from ibt_deploy.errors import MalformedFile, MissingLeads, TooLong
from ibt_deploy.types import Ints

MAX_SAMPLES = 120_000
"""Ints of a lead at most (4 minutes at 500 Hz), so that time and memory stay bounded."""

_HEADER = struct.Struct("<IHh")
_CODE_BITS, _END = 10, 1023
_OFFSET = 64


def decoded_leads(data: bytes, leads: int) -> list[Ints]:
    """The first ``leads`` leads in ``data``, as they are stored.

    Raises
    ------
    MalformedFile
        Fewer leads, leads of different lengths, or damaged codes.
    TooLong
        More than :data:`MAX_SAMPLES` samples.
    """
    found: list[Ints] = []
    place = 0
    while len(found) < leads:
        if len(data) - place < _HEADER.size:
            raise MalformedFile(f"{len(found)} of {leads} leads are there", code="truncated_file")
        size, _, start = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        if size > len(data) - place:
            raise MalformedFile("the compressed leads are cut off", code="truncated_file")
        found.append(_samples(_lzw_decoded(data[place : place + size]), start))
        place += size
    if len({len(samples) for samples in found}) > 1:
        raise MalformedFile("the compressed leads differ in length")
    return found


def from_residuals(stored: Sequence[Ints], leads: Sequence[str]) -> list[Ints]:
    """The leads themselves, where limb leads are stored as residuals.

    Parameters
    ----------
    stored
        Ints as stored, one array for each lead.
    leads
        Canonical names.

    Raises
    ------
    MissingLeads
        Leads I and II are not among them.
    """
    found = dict(zip(leads, stored, strict=True))
    if not found.keys() & {"III", "aVR", "aVL", "aVF"}:
        return list(stored)
    if not {"I", "II"} <= found.keys() or ("III" not in found and found.keys() & {"aVL", "aVF"}):
        raise MissingLeads("limb leads are stored as differences from leads that are not there")
    one, two = found["I"], found["II"]
    if "III" in found:
        found["III"] = two - one - found["III"]
    if "aVR" in found:
        found["aVR"] = -_half(one + two) - found["aVR"]
    if "aVL" in found:
        found["aVL"] = _half(one - found["III"]) - found["aVL"]
    if "aVF" in found:
        found["aVF"] = _half(two + found["III"]) - found["aVF"]
    return [found[lead] for lead in leads]


def _half(values: Ints) -> Ints:
    """Half of ``values``, rounded towards zero."""
    half: Ints = np.sign(values) * (np.abs(values) // 2)
    return half


def _lzw_decoded(data: bytes) -> bytes:
    """Bytes for which the codes in ``data`` stand; they end with the code 1023 or with the data."""
    table = [bytes((value,)) for value in range(256)]
    out = bytearray()
    previous = b""
    bits = held = 0
    for byte in data:
        bits = (bits << 8) | byte
        held += 8
        if held < _CODE_BITS:
            continue
        held -= _CODE_BITS
        code = bits >> held
        bits &= (1 << held) - 1
        if code == _END:
            break
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous:
            entry = previous + previous[:1]
        else:
            raise MalformedFile("a damaged compressed lead: unknown code")
        if previous and len(table) < _END:
            table.append(previous + entry[:1])
        out += entry
        if len(out) > 2 * MAX_SAMPLES:
            raise TooLong(f"more than {MAX_SAMPLES} samples of a lead", code="recording_too_long")
        previous = entry
    return bytes(out)


def _samples(packed: bytes, start: int) -> Ints:
    """Ints from their second differences."""
    n = len(packed) // 2
    if n < 3:
        raise MalformedFile("a compressed lead holds no samples", code="empty_file")
    high, low = np.frombuffer(packed[: 2 * n], np.uint8).reshape(2, n).astype(np.uint16)
    values = ((high << 8) | low).view(np.int16).astype(np.int64)
    second = -np.concatenate([[start], values[2:-1] - _OFFSET])
    steps = np.cumsum(np.concatenate([[values[1] - values[0]], second]))
    samples: Ints = np.cumsum(np.concatenate([values[:1], steps]))
    if np.abs(samples).max() > 1 << 15:
        raise MalformedFile("a damaged compressed lead: samples beyond 16 bits")
    return samples
