"""The header of EDF, EDF+ and BDF files: 256 bytes, and 256 more for each signal, all of them text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date
from typing import BinaryIO

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile
from ibt_deploy.readers.ages import whole_years

MAX_SIGNALS = 1024
MAX_RECORD_BYTES = 1 << 26

_FIXED, _PER_SIGNAL = 256, 256
_FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
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
        Samples of other signals that stand before them in each record.
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
    """What the header says.

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
        Number of records, None where the recorder did not fill it in (-1).
    duration
        Seconds in a record.
    signals
        In the order of the file.
    age, sex
        From the EDF+ patient field and the date of recording.
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
    age, sex = _patient(_text(fixed[8:88]), _text(fixed[88:168])) if plus else (None, None)
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
    """The number in a field; None where there is none."""
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


def _date(text: str) -> date | None:
    """A date such as ``02-MAY-1951``."""
    match = re.fullmatch(r"(\d{2})-([A-Z]{3})-(\d{4})", text.upper())
    if match is None or match[2] not in _MONTHS:
        return None
    try:
        return date(int(match[3]), _MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError:
        return None
