"""SCP-ECG recordings (EN 1064:2005, ISO 11073-91064, AAMI EC71): sections 0 to 6, read as millivolts.

We wrote the parser ourselves: of those on PyPI (as of late 2026) none undoes bimodal compression and also
bounds what a damaged file makes it allocate.

Numbers in comments and docstrings are those of EN 1064:2005; all integers are little-endian. The frame comes
first: section 0 with its pointers, checksums, patient (1) and leads (3). Then the rhythm (4 to 6), whose
compression is undone in the order Huffman codes, differences, decimation outside the protected zones (bimodal
compression), subtraction of the reference beat. Huffman codes are those of section 2 (5.5); the default table
is in Annex C.3.7.6.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.stated import clock_of, device_of, moment, rate_of_interval, whole_years
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Floats, Ints
from ibt_deploy.vocabulary import LEAD_NUMBERS

MAX_BYTES = 64 << 20
HEADER = 16
"""Bytes of a section's header: CRC (2), section number (2), length (4), versions (2), reserved (6)."""
MAX_LEADS = 64
MAX_SAMPLES = 1 << 22
MAGIC = b"SCPECG"
_POINTER = struct.Struct("<HII")
_SECTION = struct.Struct("<HHI")
_LEAD = struct.Struct("<IIB")

_MODEL, _ANALYSIS_PROGRAM, _MAKER = slice(8, 14), 36, 4
"""In tag 14: the model's name; offset of the texts, each ended by a zero; index of the maker among them."""
_NO_ZONE = 0x7FFF

_SEXES = {1: "Male", 2: "Female"}
_YEARS = {1: 1.0, 2: 1 / 12, 3: 7 / 365.25, 4: 1 / 365.25, 5: 1 / 8766}


@dataclass(frozen=True)
class ScpLead:
    """A lead of section 3: its number, and its first and last sample, counted from 1."""

    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """The lead's name."""
        return LEAD_NUMBERS.get(self.number, f"SCP lead {self.number}")

    @property
    def samples(self) -> int:
        """Number of its samples."""
        return self.last - self.first + 1


@dataclass(frozen=True, eq=False)
class ScpRecord:
    """Bodies of the sections, by number, and the results of the checksums.

    Attributes
    ----------
    bodies
        Content of each section after its header.
    wrong, right
        Numbers of the sections whose CRC is stated and wrong, or right.
    record_wrong
        Whether the CRC of the whole record is stated and wrong.
    """

    bodies: dict[int, bytes]
    wrong: tuple[int, ...]
    right: tuple[int, ...]
    record_wrong: bool

    def body(self, number: int, what: str) -> bytes:
        """Content of a section that must be present."""
        if number not in self.bodies:
            raise MalformedFile(f"has no section {number} ({what})", code="missing_section")
        return self.bodies[number]


def looks_like_record(head: bytes) -> bool:
    """Whether ``head`` begins an SCP-ECG record: section 0 (5.3) comes first and points to itself."""
    if len(head) < 6 + HEADER + _POINTER.size:
        return False
    _, number, length = _SECTION.unpack_from(head, 6)
    pointed, pointed_length, index = _POINTER.unpack_from(head, 6 + HEADER)
    points = (pointed, pointed_length, index) == (0, length, 7)
    return number == 0 and length >= HEADER + _POINTER.size and (points or head[16:22] == MAGIC)


def record_of(data: bytes) -> ScpRecord:
    """The sections of a record.

    Raises
    ------
    MalformedFile
        Truncated, or a pointer that leads to another section.
    TooLong
        Larger than any resting ECG.
    """
    if len(data) > MAX_BYTES:
        raise TooLong("larger than any resting ECG", code="recording_too_long")
    if not looks_like_record(data):
        raise MalformedFile("section 0 does not point to itself: no SCP-ECG record", code="bad_header")
    (claimed,) = struct.unpack_from("<I", data, 2)
    if claimed > len(data):
        raise MalformedFile(
            f"is truncated: the record claims {claimed} bytes, there are {len(data)}", code="truncated_file"
        )
    bodies: dict[int, bytes] = {}
    wrong: list[int] = []
    right: list[int] = []
    for number, start, length in _pointers(data):
        section = data[start : start + length]
        checksum, found, _ = _SECTION.unpack_from(section)
        if found != number:
            raise MalformedFile(f"the pointer to section {number} leads to {found}", code="bad_header")
        if checksum:
            (right if checksum == crc(section[2:]) else wrong).append(number)
        bodies.setdefault(number, section[HEADER:])
    stated = int.from_bytes(data[:2], "little")
    whole = data[2:claimed] if claimed else data[2:]
    return ScpRecord(bodies, tuple(wrong), tuple(right), bool(stated) and stated != crc(whole))


def crc(data: bytes) -> int:
    """CRC-CCITT from 0xFFFF (5.2.7 and Annex E)."""
    return binascii.crc_hqx(data, 0xFFFF)


def _pointers(data: bytes) -> list[tuple[int, int, int]]:
    """Number, offset and length of every section present (5.3.3)."""
    _, _, length = _SECTION.unpack_from(data, 6)
    found: list[tuple[int, int, int]] = []
    for place in range(6 + HEADER, min(6 + length, len(data)) - _POINTER.size + 1, _POINTER.size):
        number, size, index = _POINTER.unpack_from(data, place)
        if not size or (number == 0 and found):
            continue
        if size < HEADER or not index or index - 1 + size > len(data):
            raise MalformedFile(
                f"section {number} lies outside the file: truncated or damaged", code="truncated_file"
            )
        found.append((number, index - 1, size))
    return found


def leads_of(body: bytes) -> tuple[list[ScpLead], bool]:
    """The leads of section 3 (5.6), and whether a reference beat was subtracted from them.

    Raises
    ------
    MalformedFile
        Truncated, no leads, or a lead that ends before it begins.
    TooLong
        More samples than any resting ECG has.
    """
    count = body[0] if body else 0
    if not 0 < count <= MAX_LEADS or len(body) < 2 + count * _LEAD.size:
        raise MalformedFile(f"section 3 describes {count} leads and is too short", code="bad_header")
    leads = []
    for place in range(2, 2 + count * _LEAD.size, _LEAD.size):
        first, last, number = _LEAD.unpack_from(body, place)
        if last < first:
            raise MalformedFile(f"lead {number} ends before it begins", code="bad_header")
        leads.append(ScpLead(number, first, last))
    span = max(lead.last for lead in leads) - min(lead.first for lead in leads) + 1
    if span * count > MAX_SAMPLES:
        raise TooLong(
            f"claims {span} samples of {count} leads; SCP-ECG holds resting ECGs", code="recording_too_long"
        )
    return leads, bool(body[1] & 1)


@dataclass(frozen=True)
class ScpHeader:
    """Contents of section 1 (5.4): age in years, sex, time of acquisition, device; None where not stated."""

    age: float | None
    sex: str | None
    recorded: datetime | date | None
    device: str | None


def header_of(body: bytes) -> ScpHeader:
    """The contents of section 1, as far as they make sense."""
    tags = _tags(body)
    sex = _SEXES.get(tags[8][0]) if tags.get(8) else None
    age = None
    if len(tags.get(4, b"")) >= 3:
        number, unit = struct.unpack_from("<HB", tags[4])
        age = number * _YEARS[unit] if number and unit in _YEARS else None
    if age is None:
        born, recorded = _date(tags.get(5, b"")), _date(tags.get(25, b""))
        if born and recorded and born <= recorded:
            age = float(whole_years(born, recorded))
    return ScpHeader(age, sex, _recorded(tags), _device(tags.get(14, b"")))


def _recorded(tags: dict[int, bytes]) -> datetime | date | None:
    """Date, time and zone of acquisition: tags 25, 26 and 34."""
    on, at, zone = (tags.get(number, b"") for number in (25, 26, 34))
    if len(on) < 4:
        return None
    clock = clock_of(*at[:3]) if len(at) >= 3 else None
    minutes = int.from_bytes(zone[:2], "little", signed=True) if len(zone) >= 2 else None
    year, month, day = struct.unpack_from("<HBB", on)
    return moment(year, month, day, clock, None if minutes == _NO_ZONE else minutes)


def _device(machine: bytes) -> str | None:
    """Maker and model from the identification of the acquiring device (tag 14)."""
    if len(machine) < _MODEL.stop:
        return None
    model = machine[_MODEL].split(b"\0")[0]
    texts = machine[_ANALYSIS_PROGRAM:].split(b"\0")
    maker = texts[_MAKER] if len(texts) > _MAKER else b""
    return device_of(maker.decode("latin-1"), model.decode("latin-1"))


def _tags(body: bytes) -> dict[int, bytes]:
    """The first value of each tag, as far as it can be read."""
    tags: dict[int, bytes] = {}
    place = 0
    while place + 3 <= len(body) and body[place] != 255:
        length = int.from_bytes(body[place + 1 : place + 3], "little")
        tags.setdefault(body[place], body[place + 3 : place + 3 + length])
        place += 3 + length
    return tags


def _date(value: bytes) -> date | None:
    if len(value) < 4:
        return None
    year, month, day = struct.unpack_from("<HBB", value)
    try:
        return date(year, month, day)
    except ValueError:
        return None


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
        The bits that identify the code, first transmitted bit first.
    extra
        Number of following bits with a two's complement integer to be added to ``value``.
    value
        Value of the code, or the number of a table, from 1.
    switches
        Whether it selects another table instead of giving a value.
    """

    prefix: str
    extra: int
    value: int
    switches: bool = False


def default_codes() -> list[Code]:
    """The default table: 0 to 8 and their negatives, and plain 8-bit and 16-bit numbers."""
    codes = [Code("0", 0, 0)]
    for size in range(1, 9):
        codes += [Code(f"{'1' * size}00", 0, size), Code(f"{'1' * size}01", 0, -size)]
    return [*codes, Code("1111111110", 8, 0), Code("1111111111", 16, 0)]


class Huffman:
    """The tables of a file, the first of which is in use at the start of each lead.

    Raises
    ------
    MalformedFile
        A table whose codes are ambiguous.
    """

    def __init__(self, tables: list[list[Code]]) -> None:
        self._tables = [_Table(codes) for codes in tables]

    def decoded(self, data: bytes, count: int) -> Ints:
        """The first ``count`` values in ``data``, or fewer if it ends earlier.

        Raises
        ------
        MalformedFile
            Bits that are not a code, or a switch to a missing table.
        """
        words, bits = _words_at_every_bit(data), 8 * len(data)
        if not self._tables[0].switches.any():
            return _Read(self._tables[0], words, bits).walked(count)
        return self._switching([_Read(table, words, bits) for table in self._tables], bits, count)

    def _switching(self, reads: list[_Read], end: int, count: int) -> Ints:
        """Like :meth:`_Read.walked`, switching between tables."""
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
                raise MalformedFile(f"switches to Huffman table {value}, which does not exist")
        return np.array(found, dtype=np.int64)


class _Table:
    """Codes sorted by their bits, so that each covers a range of 32-bit numbers."""

    def __init__(self, codes: list[Code]) -> None:
        spans = sorted(
            ((int(code.prefix.ljust(_LONGEST, "0"), 2), code) for code in codes), key=lambda span: span[0]
        )
        ordered = [code for _, code in spans]
        starts = np.array([start for start, _ in spans], dtype=np.uint64)
        ends = starts + np.array([1 << (_LONGEST - len(code.prefix)) for code in ordered], dtype=np.uint64)
        if (ends[:-1] > starts[1:]).any():
            raise MalformedFile("the codes of a Huffman table are ambiguous")
        self.starts = starts.astype(np.uint32)
        self.lasts = (ends - np.uint64(1)).astype(np.uint32)
        self.prefix = np.array([len(code.prefix) for code in ordered], dtype=np.int32)
        self.extra = np.array([code.extra for code in ordered], dtype=np.int32)
        self.value = np.array([code.value for code in ordered], dtype=np.int64)
        self.switches = np.array([code.switches for code in ordered])


class _Read:
    """For every bit of some data, the code of a table that would begin there.

    Attributes
    ----------
    steps
        Length in bits of the code that begins at each bit; 0 if there is none.
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
        """For every bit, whether the code there selects another table."""
        return [*self._table.switches[self._found].tolist(), False]

    def walked(self, count: int) -> Ints:
        """Values of the consecutive codes from the first bit on."""
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
    """The tables that section 2 declares; None if it declares none.

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
    """The codes of the table at offset ``place``, and the offset of its end."""
    count = int.from_bytes(body[place : place + 2], "little")
    place += 2
    if not count or place + count * _ENTRY.size > len(body):
        raise MalformedFile("section 2 (Huffman tables) is truncated", code="truncated_file")
    codes = []
    for entry in range(place, place + count * _ENTRY.size, _ENTRY.size):
        prefix, whole, mode, value, code = _ENTRY.unpack_from(body, entry)
        if not (0 < prefix <= _LONGEST and prefix <= whole <= prefix + _LONGEST - 1):
            raise MalformedFile(f"section 2 has a Huffman code of {prefix} of {whole} bits")
        # the code is stored with its first transmitted bit in the lowest position
        bits = format(code & ((1 << prefix) - 1), f"0{prefix}b")[::-1]
        codes.append(Code(bits, whole - prefix, value, mode == 0))
    return codes, place + count * _ENTRY.size


def _words_at_every_bit(data: bytes) -> npt.NDArray[np.uint32]:
    """The 32 bits from each bit of ``data`` and of the 8 bytes after it, zero-padded."""
    size = len(data) + 8
    padded = np.frombuffer(data + bytes(12), dtype=np.uint8).astype(np.uint64)
    five = np.zeros(size, dtype=np.uint64)
    for place in range(5):
        five |= padded[place : place + size] << np.uint64(8 * (4 - place))
    return (five[:, None] >> np.arange(8, 0, -1, dtype=np.uint64)).astype(np.uint32).reshape(-1)


def _no_code(position: int) -> MalformedFile:
    return MalformedFile(f"damaged: no Huffman code at bit {position}")


MAX_ENCODED_BYTES = 1 << 19
"""Limit for Huffman codes: some minutes of 12 leads, decoded in a second."""
MICROSECOND = 1e-6
NANOVOLTS_PER_MILLIVOLT = 1e6
_SIGNAL = struct.Struct("<HHBB")
_BEATS = struct.Struct("<HHH")
_SUBTRACTION = struct.Struct("<HIII")
_ZONE = struct.Struct("<II")


@dataclass(frozen=True, eq=False)
class Rhythm:
    """Millivolts, shape ``(leads, samples)``, NaN outside a lead's extent; rate in Hz; lead names."""

    signal: Floats
    rate: float
    leads: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Encoded:
    """Section 5 or 6 (5.8, 5.9): amplitude of one step in nV, interval in µs, order of differences."""

    nanovolts: int
    interval: int
    order: int
    bimodal: bool
    data: tuple[bytes, ...]


@dataclass(frozen=True)
class _Beats:
    """Section 4 (5.7): where the reference beat was subtracted, and which zones were not decimated.

    Samples are counted from 1; zones include their ends.
    """

    milliseconds: int = 0
    fiducial: int = 0
    subtracted: tuple[tuple[int, int, int], ...] = ()
    protected: tuple[tuple[int, int], ...] = field(default=())


def rhythm_of(record: ScpRecord) -> Rhythm:
    """The rhythm of a record.

    Raises
    ------
    InputError
        MalformedFile: sections are missing, truncated or contradict each other. BadUnits,
        BadSampling: no amplitude or interval. UnsupportedFormat: a compression that the standard does not
        define.
    """
    leads, subtracted = leads_of(record.body(3, "leads"))
    huffman = huffman_of(record.bodies[2]) if 2 in record.bodies else None
    encoded = _encoded(record.body(6, "rhythm"), len(leads), 6)
    if huffman is not None and sum(map(len, encoded.data)) > MAX_ENCODED_BYTES:
        raise TooLong("minutes of Huffman codes; SCP-ECG holds resting ECGs", code="recording_too_long")
    beat = _encoded(record.bodies[5], len(leads), 5) if 5 in record.bodies else None
    beats = _beats(record.bodies[4], subtracted or encoded.bimodal) if 4 in record.bodies else _Beats()
    if (subtracted or encoded.bimodal) and (beat is None or 4 not in record.bodies):
        raise MalformedFile("a reference beat is used, but section 4 or 5 is missing", code="missing_section")
    factor = 1
    interval = encoded.interval
    if beat is not None and (subtracted or encoded.bimodal):
        factor, rest = divmod(encoded.interval, beat.interval)
        interval = beat.interval
        if factor < 1 or rest:
            raise UnsupportedFormat(
                f"rhythm at {encoded.interval} µs and reference beat at {beat.interval} µs do not fit",
                code="unsupported_compression",
            )
    zones = beats.protected if encoded.bimodal else ()
    origin = min(lead.first for lead in leads)
    signal = np.full((len(leads), max(lead.last for lead in leads) - origin + 1), np.nan)
    for number, (lead, data) in enumerate(zip(leads, encoded.data, strict=True)):
        spans = _spans(lead, zones, factor)
        stored = _samples(data, sum(span.stored for span in spans), huffman, encoded.order, lead)
        whole = _undecimated(stored, spans, factor, lead.samples) * float(encoded.nanovolts)
        if subtracted and beat is not None:
            _add_beats(whole, lead, _reference(beat, number, beats, huffman), beats)
        start = lead.first - origin
        signal[number, start : start + len(whole)] = whole / NANOVOLTS_PER_MILLIVOLT
    used = [
        name
        for name, on in (
            ("reference beat added back", subtracted),
            (f"decimated by {factor} outside protected zones, interpolated", factor > 1),
        )
        if on
    ]
    return Rhythm(
        signal,
        rate_of_interval(interval * MICROSECOND, MICROSECOND / 2),
        tuple(lead.name for lead in leads),
        tuple(used),
    )


@dataclass(frozen=True)
class _Span:
    """Samples of a lead, from 0, that were stored one by one or decimated by ``factor``."""

    start: int
    stop: int
    factor: int

    @property
    def stored(self) -> int:
        return -(-(self.stop - self.start) // self.factor)


def _spans(lead: ScpLead, zones: tuple[tuple[int, int], ...], factor: int) -> list[_Span]:
    """The lead as protected and decimated spans, in order."""
    spans, place = [], 0
    for first, last in sorted(zones) if factor > 1 else ():
        start = max(first - lead.first, place)
        stop = min(last - lead.first + 1, lead.samples)
        if stop <= start:
            continue
        if start > place:
            spans.append(_Span(place, start, factor))
        spans.append(_Span(start, stop, 1))
        place = stop
    if place < lead.samples:
        spans.append(_Span(place, lead.samples, factor))
    return spans


def _undecimated(stored: Ints, spans: list[_Span], factor: int, samples: int) -> Floats:
    """The lead at the full rate: decimated values at block centres, linearly interpolated."""
    if factor == 1:
        return stored.astype(np.float64)
    whole = np.empty(samples)
    place = 0
    for span in spans:
        values = stored[place : place + span.stored]
        place += span.stored
        centres = span.start + np.arange(len(values)) * span.factor + (span.factor - 1) / 2
        whole[span.start : span.stop] = np.interp(np.arange(span.start, span.stop), centres, values)
    return whole


def _samples(data: bytes, count: int, huffman: Huffman | None, order: int, lead: ScpLead) -> Ints:
    """The ``count`` samples of a lead, with Huffman codes and differences undone."""
    if huffman is None:
        values: Ints = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2")[:count].astype(np.int64)
    elif count > 8 * len(data) + 1:  # no code is shorter than a bit
        values = np.empty(0, dtype=np.int64)
    else:
        values = huffman.decoded(data, count)
    # writers that count from 0 state one sample more than they store
    missing = count - len(values)
    if missing == 1 and lead.first == 0 and len(values):
        values = np.append(values, 0 if order else values[-1])
    elif missing:
        raise MalformedFile(
            f"lead {lead.name} is truncated: {len(values)} of {count} samples", code="truncated_file"
        )
    return _undifferenced(values, order)


def _undifferenced(values: Ints, order: int) -> Ints:
    """Samples from their first or second differences (5.9.3), in the 16-bit arithmetic of writers."""
    if order == 1:
        values = np.cumsum(values)
    elif order == 2 and len(values) > 2:
        slopes = np.concatenate(([values[1] - values[0]], values[2:])).cumsum()
        values = np.concatenate(([0], slopes.cumsum())) + values[0]
    return values.astype(np.int16).astype(np.int64) if order else values


def _reference(beat: _Encoded, number: int, beats: _Beats, huffman: Huffman | None) -> Floats:
    """Reference beat 0 of a lead in nanovolts."""
    count = beats.milliseconds * 1000 // beat.interval
    lead = ScpLead(0, 1, max(count, 1))
    samples = _samples(beat.data[number], count, huffman, beat.order, lead)
    return samples.astype(np.float64) * beat.nanovolts


def _add_beats(whole: Floats, lead: ScpLead, reference: Floats, beats: _Beats) -> None:
    """Add the reference beat to the residual, aligned at the fiducial points."""
    for first, fiducial, last in beats.subtracted:
        shift = fiducial - beats.fiducial + 1
        start = max(first, lead.first, shift)
        stop = min(last, lead.last, shift + len(reference) - 1) + 1
        if stop > start:
            whole[start - lead.first : stop - lead.first] += reference[start - shift : stop - shift]


def _encoded(body: bytes, leads: int, number: int) -> _Encoded:
    if len(body) < _SIGNAL.size + 2 * leads:
        raise MalformedFile(f"section {number} is truncated", code="truncated_file")
    nanovolts, interval, order, bimodal = _SIGNAL.unpack_from(body)
    if not interval:
        raise BadSampling(f"section {number} states no sample interval", code="missing_rate")
    if not nanovolts:
        raise BadUnits(f"section {number} states no amplitude of a step", code="missing_gain")
    if order > 2:
        raise UnsupportedFormat(f"differences of order {order}", code="unsupported_compression")
    sizes = struct.unpack_from(f"<{leads}H", body, _SIGNAL.size)
    place = _SIGNAL.size + 2 * leads
    if place + sum(sizes) > len(body):
        raise MalformedFile(f"the leads of section {number} are truncated", code="truncated_file")
    data = []
    for size in sizes:
        data.append(body[place : place + size])
        place += size
    return _Encoded(nanovolts, interval, order, number == 6 and bimodal != 0, tuple(data))


def _beats(body: bytes, needed: bool) -> _Beats:
    """Section 4; its zones matter only if something was subtracted or decimated."""
    if len(body) < _BEATS.size:
        raise MalformedFile("section 4 is truncated", code="truncated_file")
    milliseconds, fiducial, count = _BEATS.unpack_from(body)
    zones = _BEATS.size + count * _SUBTRACTION.size
    if not needed:
        return _Beats(milliseconds, fiducial)
    if zones > len(body):
        raise MalformedFile("section 4 is truncated", code="truncated_file")
    entries = _SUBTRACTION.iter_unpack(body[_BEATS.size : zones])
    protected = body[zones : zones + count * _ZONE.size]
    return _Beats(
        milliseconds,
        fiducial,
        tuple((first, middle, last) for kind, first, middle, last in entries if kind == 0),
        tuple(_ZONE.iter_unpack(protected[: len(protected) // _ZONE.size * _ZONE.size])),
    )


NAME = "SCP-ECG"
TASK = "arrhythmia"

SIGNAL_SECTIONS = frozenset({2, 3, 4, 5, 6})


def sniff(file: File, head: bytes) -> bool:  # noqa: ARG001
    """Whether ``head`` begins with section 0 of EN 1064; many ``.scp`` files are something else."""
    return looks_like_record(head)


def read(file: File) -> list[Recording]:
    """Read the rhythm of section 6.

    A wrong checksum gives a warning if the writer gets none right. If others in the file are right, it
    means damage, and the file is refused if a section that makes up the signal is affected.

    Raises
    ------
    InputError
        See :func:`record_of` and :func:`rhythm_of`; MalformedFile ``damaged_file`` for a wrong checksum.
    """
    with file.open("rb") as stream:
        record = record_of(stream.read(MAX_BYTES + 1))
    warnings = _checksum_warnings(record)
    rhythm = rhythm_of(record)
    header = header_of(record.bodies.get(1, b""))
    return [
        Recording(
            signal=rhythm.signal,
            sampling_rate=rhythm.rate,
            leads=rhythm.leads,
            record_id=file.stem,
            source=str(file),
            format=NAME,
            age=header.age,
            sex=header.sex,
            recorded=header.recorded,
            device=header.device,
            notes=rhythm.notes,
            warnings=tuple(warnings),
        )
    ]


def _checksum_warnings(record: ScpRecord) -> list[Notice]:
    damaged = SIGNAL_SECTIONS.intersection(record.wrong)
    if damaged and record.right:
        which = ", ".join(map(str, sorted(damaged)))
        raise MalformedFile(
            f"damaged: the checksum of section {which} is wrong, others are right", code="damaged_file"
        )
    if not (record.wrong or record.record_wrong):
        return []
    return [
        Notice("checksum_differs", "not the record's checksum: damaged, or the writer computes it wrongly")
    ]


def outline(file: File) -> dict[str, Any]:
    """The sections with their sizes, and the contents of section 1."""
    with file.open("rb") as stream:
        record = record_of(stream.read(MAX_BYTES + 1))
    header = header_of(record.bodies.get(1, b""))
    return {
        "recorded": None if header.recorded is None else header.recorded.isoformat(),
        "device": header.device,
        "sections": [f"{number}: {len(body)} bytes" for number, body in sorted(record.bodies.items())],
    }
