"""EDF, EDF+ and BDF: sleep laboratories, Holter recorders and EEG machines that also take an ECG.

A reader of our own: the format is a header of fixed fields and integers in records, while the packages for it
(pyedflib, mne) only open paths, and handle a damaged file in C or after loading it whole.
Sources: Kemp et al. 1992 (doi 10.1016/0013-4694(92)90009-7) for EDF, Kemp and Olivan 2003
(doi 10.1016/S1388-2457(03)00123-8) for EDF+, BioSemi's page on BDF, which has three bytes where EDF has two.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, BinaryIO

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.stated import (
    MAX_RATE,
    clock_of,
    device_of,
    inverted_leads,
    millivolts_per,
    moment,
    whole_years,
)
from ibt_deploy.records import Recording
from ibt_deploy.types import AnyInts
from ibt_deploy.vocabulary import canonical_lead

MAX_SIGNALS = 1024
MAX_VALUES = 50_000_000
"""Maximum number of samples of all leads together, so that memory stays bounded."""
MAX_RECORD_BYTES = 1 << 26

_FIXED, _PER_SIGNAL = 256, 256
_FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_START = re.compile(r"(\d\d)[.:](\d\d)[.:](\d\d)", re.ASCII)
_NO_DATE, _FIRST_YEAR = ("01", "01", "85"), 85
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")


@dataclass(frozen=True)
class EdfSignal:
    """One signal of the file.

    Attributes
    ----------
    label, unit
        Name and physical dimension, as written.
    physical, digital
        Lowest and highest value; their ratio is the gain.
    samples
        Samples in each record.
    offset
        Number of samples of other signals that precede these in each record.
    """

    label: str
    unit: str
    physical: tuple[float, float]
    digital: tuple[int, int]
    samples: int
    offset: int

    @property
    def is_annotation(self) -> bool:
        """Whether this is the EDF+ channel of events and times, or BioSemi's channel of triggers."""
        return self.label in ("EDF Annotations", "BDF Annotations", "Status")


@dataclass(frozen=True)
class EdfHeader:
    """Contents of the header.

    Attributes
    ----------
    dialect
        ``EDF``, ``EDF+``, ``BDF`` or ``BDF+``.
    discontinuous
        Whether there may be gaps between the records.
    size, record_size
        Bytes of the header, and of each record.
    bytes_per_sample
        2, or 3 in BDF.
    records
        Number of records, None if the recorder did not fill it in (-1).
    duration
        Seconds in a record.
    signals
        Signals in the order of the file.
    age, sex
        Taken from the EDF+ patient field and the date of recording.
    recorded
        Taken from the EDF+ recording field, which has the full year, else from the start date of EDF.
    device
        Taken from the EDF+ recording field.
    """

    dialect: str
    discontinuous: bool
    size: int
    record_size: int
    bytes_per_sample: int
    records: int | None
    duration: float
    signals: tuple[EdfSignal, ...]
    age: float | None
    sex: str | None
    recorded: datetime | date | None
    device: str | None


def parse_header(stream: BinaryIO) -> EdfHeader:
    """Parse the header at the beginning of ``stream``.

    Raises
    ------
    MalformedFile
        A field is cut off or not a number.
    BadSampling
        Records without duration.
    BadUnits
        A range that is not a number.
    """
    fixed = stream.read(_FIXED)
    if len(fixed) < _FIXED:
        raise MalformedFile("the header is cut off", code="truncated_file")
    binary = fixed[:1] == b"\xff"
    n = _whole(fixed[252:256], "number of signals")
    if not 0 < n <= MAX_SIGNALS:
        raise MalformedFile(f"the header claims {n} signals", code="bad_header")
    size = _whole(fixed[184:192], "size of the header")
    if size != _FIXED + n * _PER_SIGNAL:
        raise MalformedFile(f"the header claims {size} bytes for {n} signals", code="bad_header")
    claimed = _whole(fixed[236:244], "number of records")
    if claimed < -1:
        raise MalformedFile(f"the header claims {claimed} records", code="bad_header")
    duration = _number(fixed[244:252])
    if duration is None or duration <= 0:
        raise BadSampling("the header states no duration of its records", code="missing_rate")
    signals = _signals(stream.read(n * _PER_SIGNAL), n)
    width = 3 if binary else 2
    record_size = width * sum(signal.samples for signal in signals)
    if not 0 < record_size <= MAX_RECORD_BYTES:
        raise MalformedFile(f"the header claims records of {record_size} bytes", code="bad_header")
    reserved = _text(fixed[192:236])
    plus = reserved[:4] in ("EDF+", "BDF+")
    recording = _text(fixed[88:168]) if plus else ""
    age, sex = _patient(_text(fixed[8:88]), recording) if plus else (None, None)
    return EdfHeader(
        dialect=("BDF" if binary else "EDF") + "+" * plus,
        discontinuous=plus and reserved[4:5] == "D",
        size=size,
        record_size=record_size,
        bytes_per_sample=width,
        records=None if claimed == -1 else claimed,
        duration=duration,
        signals=signals,
        age=age,
        sex=sex,
        recorded=_recorded(recording, _text(fixed[168:176]), _text(fixed[176:184])),
        device=_device(recording),
    )


def _signals(data: bytes, n: int) -> tuple[EdfSignal, ...]:
    """The signals; all labels come first, then all transducers, and so on."""
    if len(data) < n * _PER_SIGNAL:
        raise MalformedFile("the header is cut off", code="truncated_file")
    columns, start = [], 0
    for width in _FIELDS:
        columns.append([data[start + i * width : start + (i + 1) * width] for i in range(n)])
        start += n * width
    found: list[EdfSignal] = []
    offset = 0
    for label, _, unit, low, high, least, most, _, samples, _ in zip(*columns, strict=True):
        name = _text(label)
        count = _whole(samples, f"number of samples of {name[:16]!r}")
        if count < 0:
            raise MalformedFile(f"the header claims {count} samples in a record", code="bad_header")
        lowest, highest, least_step, most_steps = (_number(field) for field in (low, high, least, most))
        if lowest is None or highest is None or least_step is None or most_steps is None:
            raise BadUnits(f"{name[:16]!r}: a range is not a number", code="missing_gain")
        digital = (int(least_step), int(most_steps))
        found.append(EdfSignal(name, _text(unit), (lowest, highest), digital, count, offset))
        offset += count
    return tuple(found)


def _text(field: bytes) -> str:
    return field.decode("latin-1").replace("\0", " ").strip()


def _number(field: bytes) -> float | None:
    """The number in a field, or None."""
    text = _text(field).replace(",", ".")
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _whole(field: bytes, what: str) -> int:
    value = _number(field)
    if value is None or not value.is_integer():
        raise MalformedFile(f"the header's {what} is {_text(field)[:16]!r}", code="bad_header")
    return int(value)


def _patient(patient: str, recording: str) -> tuple[float | None, str | None]:
    """Age when recorded and sex, from the EDF+ fields ``code sex birthdate`` and ``Startdate date``."""
    fields, start = patient.split(), recording.split()
    sex = {"F": "Female", "M": "Male"}.get(fields[1]) if len(fields) > 1 else None
    born = _date(fields[2]) if len(fields) > 2 else None
    taken = _date(start[1]) if len(start) > 1 and start[0] == "Startdate" else None
    if born is None or taken is None or taken < born:
        return None, sex
    return float(whole_years(born, taken)), sex


def _recorded(recording: str, day: str, clock: str) -> datetime | date | None:
    """When the recording began; None for 01.01.85 in the header alone, the placeholder for no date."""
    on, at = _START.fullmatch(day), _START.fullmatch(clock)
    started = None if at is None else clock_of(*map(int, at.groups()))
    fields = recording.split()
    if len(fields) > 1 and fields[0] == "Startdate":
        stated = _date(fields[1])
        return None if stated is None else moment(stated.year, stated.month, stated.day, started)
    if on is None or on.groups() == _NO_DATE:
        return None
    day_of_month, month, year = map(int, on.groups())
    return moment(year + (1900 if year >= _FIRST_YEAR else 2000), month, day_of_month, started)


def _device(recording: str) -> str | None:
    """The equipment, fifth word of the EDF+ field ``Startdate date code technician equipment``."""
    fields = recording.split()
    if len(fields) < 5 or fields[0] != "Startdate":
        return None
    return device_of(fields[4].replace("_", " "))


def _date(text: str) -> date | None:
    """A date such as ``02-MAY-1951``."""
    match = re.fullmatch(r"(\d{2})-([A-Z]{3})-(\d{4})", text.upper())
    if match is None or match[2] not in _MONTHS:
        return None
    try:
        return date(int(match[3]), _MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError:
        return None


NAME = "EDF"
TASK = "arrhythmia"

MAGIC_EDF, MAGIC_BDF = b"0       ", b"\xffBIOSEMI"
CHUNK_BYTES = 1 << 24

_PREFIX = re.compile(r"^E[CK]G[\s_.:-]*", re.IGNORECASE)
_SUFFIX = re.compile(r"[\s_-]*(?:\bref|-ref|\(?raw\)?)$", re.IGNORECASE)


def sniff(file: File, head: bytes) -> bool:
    """Whether ``head`` begins with the version and a number of signals of EDF or BDF."""
    del file
    return head.startswith((MAGIC_EDF, MAGIC_BDF)) and head[252:256].strip().isdigit()


def read(file: File) -> list[Recording]:
    """Read the standard leads in ``file``; other channels are left out and named in the notes.

    Raises
    ------
    BadSampling
        A rate that no ECG has.
    UnsupportedFormat
        EDF+D, whose records do not follow each other without gaps; leads of different rates.
    MissingLeads
        No channel is a standard lead.
    BadUnits
        A lead is not a voltage, or its digital and physical ranges give no gain.
    MalformedFile
        A damaged header; fewer records than it claims.
    TooLong
        More than :data:`MAX_VALUES` samples.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = parse_header(stream)
        if header.discontinuous:
            raise UnsupportedFormat(f"{header.dialect} with gaps between its records", code="discontinuous")
        leads, others = _leads(header)
        records, notes = _records(header, size)
        rates = {signal.samples / header.duration for signal in leads.values()}
        if len(rates) > 1:
            raise UnsupportedFormat("leads are sampled at different rates", code="mixed_rates")
        (rate,) = rates
        if not 0 < rate < MAX_RATE:
            raise BadSampling(f"{rate:g} Hz is not the rate of an ECG", code="rate_out_of_range")
        scales = {name: _gain(name, signal) for name, signal in leads.items()}
        if records * sum(signal.samples for signal in leads.values()) > MAX_VALUES:
            raise TooLong("too many samples; cut it into pieces", code="recording_too_long")
        signal = np.empty((len(leads), records * next(iter(leads.values())).samples))
        stream.seek(header.size)
        done = 0
        step = max(1, CHUNK_BYTES // header.record_size)
        while done < records:
            count = min(step, records - done)
            block = stream.read(count * header.record_size)
            if len(block) < count * header.record_size:
                raise MalformedFile("the file ends within its records", code="truncated_file")
            for row, one in zip(signal, leads.values(), strict=True):
                raw = _integers(block, count, header, one)
                row[done * one.samples : (done + count) * one.samples] = raw
            done += count
    for row, name in zip(signal, leads, strict=True):
        gain, lowest = scales[name]
        row -= leads[name].digital[0]
        row *= gain
        row += lowest
    if others:
        notes.append(f"left out channels that are not standard leads: {', '.join(others)[:200]}")
    notes += [
        f"converted from {unit} to mV"
        for unit in sorted({one.unit for one in leads.values()})
        if millivolts_per(unit) != 1.0
    ]
    inverted = [name for name, channel in leads.items() if channel.physical[0] > channel.physical[1]]
    return [
        Recording(
            signal=signal,
            sampling_rate=rate,
            leads=tuple(leads),
            record_id=file.stem,
            source=str(file),
            format=header.dialect,
            age=header.age,
            sex=header.sex,
            recorded=header.recorded,
            device=header.device,
            notes=tuple(notes),
            warnings=inverted_leads(inverted),
        )
    ]


def _leads(header: EdfHeader) -> tuple[dict[str, EdfSignal], list[str]]:
    """Channels that are standard leads by their label's last part, and the labels of all others."""
    leads: dict[str, EdfSignal] = {}
    others = []
    for signal in header.signals:
        if signal.is_annotation:
            continue
        name = _SUFFIX.sub("", _PREFIX.sub("", signal.label))
        if canonical_lead(name) is None:
            others.append(signal.label)
        elif name in leads:
            raise MissingLeads(f"the lead {name} occurs twice", code="doubled_lead")
        else:
            leads[name] = signal
    if not leads:
        listed = ", ".join(others)[:200]
        raise MissingLeads(f"no channel is named after a standard lead: {listed}", code="no_ecg_lead")
    return leads, others


def _records(header: EdfHeader, size: int) -> tuple[int, list[str]]:
    """Number of records to read, and notes about it."""
    held = (size - header.size) // header.record_size
    if header.records is None:
        if held == 0:
            raise MalformedFile("holds no records", code="empty_file")
        return held, [f"the header does not say how many records there are; {held} were found"]
    if held < header.records:
        raise MalformedFile(
            f"truncated: the header claims {header.records} records, the file contains {held}",
            code="truncated_file",
        )
    if header.records == 0:
        raise MalformedFile("holds no records", code="empty_file")
    more = held > header.records
    return header.records, ["the file holds more records than it claims; the claimed ones were read"] * more


def _gain(name: str, signal: EdfSignal) -> tuple[float, float]:
    """Millivolts per step, and millivolts at the lowest digital value."""
    scale = millivolts_per(signal.unit)
    if scale is None:
        code = "unknown_unit" if signal.unit else "missing_unit"
        raise BadUnits(f"lead {name}: the unit {signal.unit!r} is not mV, uV or V", code=code)
    (low, high), (least, most) = signal.physical, signal.digital
    if most <= least or low == high:
        raise BadUnits(f"lead {name}: its range is empty, so its gain is undefined", code="missing_gain")
    return scale * (high - low) / (most - least), scale * low


def _integers(block: bytes, count: int, header: EdfHeader, signal: EdfSignal) -> AnyInts:
    """Raw samples of one signal in ``count`` whole records."""
    width = header.bytes_per_sample
    records = np.frombuffer(block, np.uint8).reshape(count, header.record_size)
    start = signal.offset * width
    part = np.ascontiguousarray(records[:, start : start + signal.samples * width])
    if width == 2:
        return part.view("<i2").reshape(-1)
    triples = np.zeros((part.size // 3, 4), np.uint8)
    triples[:, 1:] = part.reshape(-1, 3)
    return triples.view("<i4").reshape(-1) >> 8


def outline(file: File) -> dict[str, Any]:
    """The header fields, and its signals."""
    with file.open("rb") as stream:
        header = parse_header(stream)
    return {
        "dialect": header.dialect,
        "records": header.records,
        "record_seconds": header.duration,
        "recorded": None if header.recorded is None else header.recorded.isoformat(),
        "device": header.device,
        "signals": [
            f"{signal.label}: {signal.samples / header.duration:g} Hz, {signal.unit or 'no unit'}"
            for signal in header.signals
        ],
    }
