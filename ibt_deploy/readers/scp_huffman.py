"""The Huffman codes of SCP-ECG (EN 1064, section 2: 5.5; default table: Annex C.3.7.6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MalformedFile, UnsupportedFormat
from ibt_deploy.types import Ints

DEFAULT_TABLE = 19999
MAX_CODES = 4096
_ENTRY = struct.Struct("<BBBhI")
_LONGEST = 32


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

    def decoded(self, data: bytes, count: int) -> Ints:
        """The first ``count`` values in ``data``, fewer where it ends earlier.

        Raises
        ------
        MalformedFile
            Bits that are no code, or a switch to a table that is not there.
        """
        words, bits = _words_at_every_bit(data), 8 * len(data)
        if not self._tables[0].switches.any():
            return _Read(self._tables[0], words, bits).walked(count)
        return self._switching([_Read(table, words, bits) for table in self._tables], bits, count)

    def _switching(self, reads: list[_Read], end: int, count: int) -> Ints:
        """As :meth:`_Read.walked`, from table to table."""
        every = np.arange(end)
        views = [([*r.steps.tolist(), 0], r.values_at(every).tolist(), r.switches()) for r in reads]
        found: list[int] = []
        position = 0
        steps, values, switches = views[0]
        while len(found) < count and position < end:
            step = steps[position]
            if step == 0:
                raise _no_code(position)
            if position + step > end:
                break
            value = values[position]
            position += step
            if not switches[position - step]:
                found.append(value)
            elif 0 < value <= len(views):
                steps, values, switches = views[value - 1]
            else:
                raise MalformedFile(f"switches to Huffman table {value}, which is not there")
        return np.array(found, dtype=np.int64)


class _Table:
    """Codes sorted by their bits, so that each covers a span of the numbers of 32 bits."""

    def __init__(self, codes: list[Code]) -> None:
        spans = sorted(
            ((int(code.prefix.ljust(_LONGEST, "0"), 2), code) for code in codes), key=lambda span: span[0]
        )
        ordered = [code for _, code in spans]
        starts = np.array([start for start, _ in spans], dtype=np.uint64)
        ends = starts + np.array([1 << (_LONGEST - len(code.prefix)) for code in ordered], dtype=np.uint64)
        if (ends[:-1] > starts[1:]).any():
            raise MalformedFile("the codes of a Huffman table cannot be told apart")
        self.starts = starts.astype(np.uint32)
        self.lasts = (ends - np.uint64(1)).astype(np.uint32)
        self.prefix = np.array([len(code.prefix) for code in ordered], dtype=np.int32)
        self.extra = np.array([code.extra for code in ordered], dtype=np.int32)
        self.value = np.array([code.value for code in ordered], dtype=np.int64)
        self.switches = np.array([code.switches for code in ordered])


class _Read:
    """What a table makes of some data, if a code began at a bit of it, for every bit.

    Attributes
    ----------
    steps
        Bits of the code that begins there; 0 where there is none.
    """

    def __init__(self, table: _Table, words: npt.NDArray[np.uint32], bits: int) -> None:
        self._table = table
        self._words = words
        here = words[:bits]
        self._found = np.maximum(np.searchsorted(table.starts, here, side="right") - 1, 0)
        known = (here >= table.starts[self._found]) & (here <= table.lasts[self._found])
        self.steps = np.where(known, (table.prefix + table.extra)[self._found], 0)

    def values_at(self, places: Ints) -> Ints:
        """Values of the codes that begin at ``places``."""
        table, found = self._table, self._found[places]
        values = table.value[found]
        long = np.flatnonzero(table.extra[found])
        size = table.extra[found[long]].astype(np.int64)
        number = self._words[places[long] + table.prefix[found[long]]].astype(np.int64) >> (_LONGEST - size)
        values[long] += np.where(number >= 1 << (size - 1), number - (1 << size), number)
        return values

    def switches(self) -> list[bool]:
        """For every bit, whether a code there selects another table."""
        return [*self._table.switches[self._found].tolist(), False]

    def walked(self, count: int) -> Ints:
        """Values of the codes that follow each other from the first bit."""
        end = len(self.steps)
        targets = np.arange(end, dtype=np.int64) + self.steps
        following = np.minimum(targets, end).tolist()
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
        return self.values_at(np.array(places, dtype=np.int64))


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


def _words_at_every_bit(data: bytes) -> npt.NDArray[np.uint32]:
    """The 32 bits that begin at each bit of ``data`` and of the 8 bytes after it, zeros past the end."""
    size = len(data) + 8
    padded = np.frombuffer(data + bytes(12), dtype=np.uint8).astype(np.uint64)
    five = np.zeros(size, dtype=np.uint64)
    for place in range(5):
        five |= padded[place : place + size] << np.uint64(8 * (4 - place))
    return (five[:, None] >> np.arange(8, 0, -1, dtype=np.uint64)).astype(np.uint32).reshape(-1)


def _no_code(position: int) -> MalformedFile:
    return MalformedFile(f"damaged: no Huffman code at bit {position}")
