"""The Huffman codes of SCP-ECG (EN 1064, section 2: 5.5; default table: Annex C.3.7.6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MalformedFile, UnsupportedFormat

DEFAULT_TABLE = 19999
MAX_CODES = 4096
_ENTRY = struct.Struct("<BBBhI")
_LONGEST = 32

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Code:
    """One code structure (5.5.3 d).

    Attributes
    ----------
    prefix
        The bits that tell the code, first transmitted bit first.
    extra
        How many bits follow that hold a number in two's complement, to be added to ``value``.
    value
        What the code stands for, or the number of a table, from 1.
    switches
        Whether it selects another table in place of giving a value.
    """

    prefix: str
    extra: int
    value: int
    switches: bool = False


def default_codes() -> list[Code]:
    """The default table: 0 to 8 and their negatives, and numbers of 8 and of 16 bits as they are."""
    codes = [Code("0", 0, 0)]
    for size in range(1, 9):
        codes += [Code(f"{'1' * size}00", 0, size), Code(f"{'1' * size}01", 0, -size)]
    return [*codes, Code("1111111110", 8, 0), Code("1111111111", 16, 0)]


class Huffman:
    """The tables of a file, of which the first is in use at the start of each lead.

    Raises
    ------
    MalformedFile
        A table whose codes cannot be told apart.
    """

    def __init__(self, tables: list[list[Code]]) -> None:
        self._tables = [_Table(codes) for codes in tables]

    def decoded(self, data: bytes, count: int) -> Integers:
        """The first ``count`` values in ``data``, fewer where it ends earlier.

        Raises
        ------
        MalformedFile
            Bits that are no code, or a switch to a table that is not there.
        """
        first = self._tables[0].at_every_bit(data)
        return first.walked(count) if not first.switches.any() else self._switching(data, count)

    def _switching(self, data: bytes, count: int) -> Integers:
        views = [table.at_every_bit(data).as_lists() for table in self._tables]
        found: list[int] = []
        position, end = 0, 8 * len(data)
        steps, values, switches = views[0]
        while len(found) < count:
            step = steps[position]
            if position + step > end or position >= end:
                break
            if step == 0:
                raise _no_code(position)
            if not switches[position]:
                found.append(values[position])
            elif 0 < values[position] <= len(views):
                position += step
                steps, values, switches = views[values[position - step] - 1]
                continue
            else:
                raise MalformedFile(f"switches to Huffman table {values[position]}, which is not there")
            position += step
        return np.array(found, dtype=np.int64)


class _Table:
    """Codes sorted by their bits, so that each covers a span of the numbers of 32 bits."""

    def __init__(self, codes: list[Code]) -> None:
        spans = sorted(
            ((int(code.prefix.ljust(_LONGEST, "0"), 2), code) for code in codes), key=lambda span: span[0]
        )
        sizes = [1 << (_LONGEST - len(code.prefix)) for _, code in spans]
        ordered = [code for _, code in spans]
        self._starts = np.array([start for start, _ in spans], dtype=np.uint64)
        self._ends = self._starts + np.array(sizes, dtype=np.uint64)
        if (self._ends[:-1] > self._starts[1:]).any():
            raise MalformedFile("the codes of a Huffman table cannot be told apart")
        self._prefix = np.array([len(code.prefix) for code in ordered])
        self._extra = np.array([code.extra for code in ordered])
        self._value = np.array([code.value for code in ordered])
        self._switches = np.array([code.switches for code in ordered])

    def at_every_bit(self, data: bytes) -> _Read:
        """What would be read if a code began there, for every bit of ``data``."""
        words = _words_at_every_bit(data)
        bits = 8 * len(data)
        found = np.maximum(np.searchsorted(self._starts, words[:bits], side="right") - 1, 0)
        known = (words[:bits] >= self._starts[found]) & (words[:bits] < self._ends[found])
        prefix, extra = self._prefix[found], self._extra[found]
        values = self._value[found]
        long = np.flatnonzero(extra)
        size = extra[long]
        # what lies past the end reads as zeros; such a code does not count, because it ends too late
        places = np.minimum(long + prefix[long], len(words) - 1)
        number = (words[places] >> (_LONGEST - size).astype(np.uint64)).astype(np.int64)
        values[long] += np.where(number >= 1 << (size - 1), number - (1 << size), number)
        return _Read(np.where(known, prefix + extra, 0), values, self._switches[found])


@dataclass(frozen=True, eq=False)
class _Read:
    """For every bit: how long the code is (0 for none), its value, whether it switches tables."""

    steps: Integers
    values: Integers
    switches: npt.NDArray[np.bool_]

    def as_lists(self) -> tuple[list[int], list[int], list[bool]]:
        return [*self.steps.tolist(), 0], [*self.values.tolist(), 0], [*self.switches.tolist(), False]

    def walked(self, count: int) -> Integers:
        """Values of the codes that follow each other from the first bit."""
        end = len(self.steps)
        targets = np.arange(end) + self.steps
        following = np.where(targets > end, end, targets).tolist()
        places, position = [], 0
        for _ in range(count):
            if position == end:
                break
            places.append(position)
            position = following[position]
            if position == places[-1]:
                raise _no_code(position)
        if places and targets[places[-1]] > end:
            places.pop()
        return self.values[np.array(places, dtype=np.int64)]


def huffman_of(body: bytes) -> Huffman | None:
    """The tables that section 2 declares; None where it declares none.

    Raises
    ------
    MalformedFile, UnsupportedFormat
        Truncated, impossible code lengths, or more codes than any writer uses.
    """
    if len(body) < 2:
        raise MalformedFile("section 2 (Huffman tables) is truncated", code="truncated_file")
    count = int.from_bytes(body[:2], "little")
    if count == DEFAULT_TABLE:
        return Huffman([default_codes()])
    tables, place = [], 2
    for _ in range(count):
        codes, place = _codes(body, place)
        tables.append(codes)
        if sum(map(len, tables)) > MAX_CODES:
            raise UnsupportedFormat("Huffman tables of absurd size", code="unsupported_compression")
    return Huffman(tables) if tables else None


def _codes(body: bytes, place: int) -> tuple[list[Code], int]:
    """The codes of the table that begins at ``place``, and where it ends."""
    count = int.from_bytes(body[place : place + 2], "little")
    place += 2
    if not count or place + count * _ENTRY.size > len(body):
        raise MalformedFile("section 2 (Huffman tables) is truncated", code="truncated_file")
    codes = []
    for entry in range(place, place + count * _ENTRY.size, _ENTRY.size):
        prefix, whole, mode, value, code = _ENTRY.unpack_from(body, entry)
        if not (0 < prefix <= _LONGEST and prefix <= whole <= prefix + _LONGEST - 1):
            raise MalformedFile(f"section 2 has a Huffman code of {prefix} of {whole} bits")
        # the code is stored with its first transmitted bit in the lowest place
        bits = format(code & ((1 << prefix) - 1), f"0{prefix}b")[::-1]
        codes.append(Code(bits, whole - prefix, value, mode == 0))
    return codes, place + count * _ENTRY.size


def _words_at_every_bit(data: bytes) -> npt.NDArray[np.uint64]:
    """The 32 bits that begin at each bit of ``data`` and of the word after it, zeros past the end."""
    size = len(data) + 8
    padded = np.frombuffer(data + bytes(12), dtype=np.uint8).astype(np.uint64)
    five = np.zeros(size, dtype=np.uint64)
    for place in range(5):
        five |= padded[place : place + size] << np.uint64(8 * (4 - place))
    words = five[:, None] >> np.arange(8, 0, -1, dtype=np.uint64)
    return (words & np.uint64(0xFFFFFFFF)).reshape(-1)


def _no_code(position: int) -> MalformedFile:
    return MalformedFile(f"damaged: no Huffman code at bit {position}")
