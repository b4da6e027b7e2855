"""The frame of an SCP-ECG record: section 0 with its pointers, checksums, patient (1) and leads (3).

Numbers in comments and docstrings are those of EN 1064:2005; all integers are little-endian.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from datetime import date, datetime

from ibt_deploy.errors import MalformedFile, TooLong
from ibt_deploy.readers.stated import clock_of, device_of, moment, whole_years
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
"""In tag 14: the model's name; where its texts begin, each ended by a zero; which of these is the maker."""
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
        """How many samples it has."""
        return self.last - self.first + 1


@dataclass(frozen=True, eq=False)
class ScpRecord:
    """Bodies of the sections, by number, and what the checksums say about them.

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
        """Content of a section that must be there."""
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
    """Number, place and length of every section that is there (5.3.3)."""
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
    """What section 1 (5.4) states: age in years, sex, moment of acquisition, device; None for the others."""

    age: float | None
    sex: str | None
    recorded: datetime | date | None
    device: str | None


def header_of(body: bytes) -> ScpHeader:
    """What section 1 states, as far as it makes sense."""
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
    """The first value of each tag, as far as they can be read."""
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
