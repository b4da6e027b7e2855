"""Parse a WFDB header (``.hea``), tolerating the dialects of public data sets.

The grammar is that of header(5) in the WFDB Applications Guide. Two of its defaults are refused, because a
wrong guess would go unnoticed: a missing sampling frequency (default 250 Hz) and a missing or zero gain
(default 200 per mV). A missing unit is read as mV, as the format defines, and noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    UnsupportedFormat,
)
from ibt_deploy.readers.stated import MAX_RATE, clock_of, device_of, moment, moment_of_iso, sex_of

MAX_SIGNALS = 1000
MAX_SEGMENTS = 10_000

_NAME = r"[^\s/]+"
_NUMBER = r"[+-]?(?:\d{1,18}\.?\d{0,18}|\.\d{1,18})(?:[eE][+-]?\d{1,3})?"
_RECORD = re.compile(
    rf"(?P<name>{_NAME})(?:/(?P<segments>\d{{1,9}}))?\s+(?P<signals>\d{{1,9}})(?:\s+(?P<rest>.*))?$"
)
_RATE = re.compile(rf"(?P<rate>{_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?$")
_FORMAT = re.compile(
    r"(?P<format>\d{1,4})(?:x(?P<per_frame>\d{1,6}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,12}))?$"
)
_GAIN = re.compile(rf"(?P<gain>{_NUMBER})(?:\((?P<baseline>[+-]?\d{{1,18}})\))?(?:/(?P<unit>\S+))?$")
_SEGMENT = re.compile(rf"(?P<name>{_NAME})\s+(?P<frames>\d{{1,18}})$")
_CLOCK = re.compile(r"(?:\d{1,2}:){0,2}\d{1,2}(?:\.\d{1,9})?", re.ASCII)
_DAY = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}$")
_COMMENT = re.compile(r"<?\s*(?P<key>[A-Za-z][A-Za-z ]*?)\s*>?\s*:\s*(?P<value>.*)$")


@dataclass(frozen=True)
class SignalLine:
    """The header's line about one signal.

    Attributes
    ----------
    file
        Name of the signal file, as written.
    format
        WFDB storage format, e.g. 16, 212 or 516.
    per_frame, skew, offset
        Samples per frame; frames by which the signal is late; bytes before the first sample.
    gain, baseline, unit
        Physical value = (raw - baseline) / gain, in ``unit`` (None if the header states none).
    first, checksum
        First raw sample and 16-bit checksum, if stated.
    name
        Description: the lead's name.
    """

    file: str
    format: int
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str | None
    first: int | None
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Stated:
    """Contents of comment lines: diagnosis codes, age, sex, time and device; None where not stated."""

    dx: tuple[str, ...] | None
    age: float | None
    sex: str | None
    recorded: datetime | date | None
    device: str | None


@dataclass(frozen=True)
class Segment:
    """One segment of a record: the name of the record that holds it, None for a gap, and its frames."""

    name: str | None
    frames: int


@dataclass(frozen=True)
class SegmentedHeader:
    """The header of a multi-segment record.

    Attributes
    ----------
    rate
        Frames per second.
    frames
        Frames in the record, None if the header does not say.
    layout
        Name of the record whose header lists all signals; None if each segment has the same ones.
    segments
        Segments in order of time, without the layout.
    stated
        Taken from the comments.
    recorded
        Base date and time, or a date from the comments; None if neither is stated.
    """

    rate: float
    frames: int | None
    layout: str | None
    segments: tuple[Segment, ...]
    stated: Stated
    recorded: datetime | date | None


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes
    ----------
    name
        Name of the record, as written.
    rate
        Frames per second.
    frames
        Frames in the record, None if the header does not say.
    signals
        One entry per signal, in the order of the file.
    stated
        Taken from the comments.
    recorded
        Base date and time, or a date from the comments; None if neither is stated.
    """

    name: str
    rate: float
    frames: int | None
    signals: tuple[SignalLine, ...]
    stated: Stated
    recorded: datetime | date | None


def looks_like_header(head: bytes) -> bool:
    """Whether ``head``, the first bytes of a file, is the start of a WFDB header with a signal."""
    if b"\0" in head:
        return False
    lines = [line for line in _lines(head.decode("latin-1")) if not line.startswith("#")]
    if len(lines) < 2 or _RECORD.match(lines[0]) is None:
        return False
    fields = lines[1].split()
    if len(fields) == 2 and "/" in lines[0].split()[0]:
        return _SEGMENT.match(lines[1]) is not None
    return len(fields) > 2 and _FORMAT.match(fields[1]) is not None and _GAIN.match(fields[2]) is not None


def parse_segments(text: str) -> SegmentedHeader | None:
    """Parse the text of a header file that lists segments; None if it lists signals.

    Raises
    ------
    MalformedFile, BadSampling
        Not such a header, or a segment is not a name with a number of samples.
    """
    record, content, stated = _parts(text)
    if record is None or record["segments"] is None:
        return None
    claimed = int(record["segments"])
    if not 0 < claimed <= MAX_SEGMENTS:
        raise MalformedFile(f"the header claims {claimed} segments", code="bad_header")
    if len(content) < claimed:
        raise MalformedFile(
            f"the header claims {claimed} segments but lists {len(content)}", code="bad_header"
        )
    fields = (record["rest"] or "").split()
    rate, frames = _rate_and_frames(fields)
    segments = []
    for line in content[:claimed]:
        segment = _SEGMENT.match(line)
        if segment is None:
            raise MalformedFile(
                f"{line[:80]!r} names no segment and its number of samples", code="bad_header"
            )
        segments.append(Segment(None if segment["name"] == "~" else segment["name"], int(segment["frames"])))
    layout = segments[0].name if segments[0].frames == 0 else None
    segments = segments[layout is not None :]
    if not any(segment.name for segment in segments) or any(s.frames == 0 for s in segments):
        raise MalformedFile("the header lists a segment without samples, or none", code="bad_header")
    if frames not in (None, sum(segment.frames for segment in segments)):
        raise MalformedFile(
            f"the header claims {frames} samples, its segments have {sum(s.frames for s in segments)}",
            code="bad_header",
        )
    return SegmentedHeader(rate, frames, layout, tuple(segments), stated, _recorded(fields, stated))


def parse_header(text: str) -> Header:
    """Parse the text of a header file that lists signals.

    Raises
    ------
    MalformedFile, UnsupportedFormat, BadSampling, BadUnits, MissingLeads
        See the module docstring; a multi-segment record is an UnsupportedFormat.
    """
    record, content, stated = _parts(text)
    if record is None:
        raise MalformedFile("no WFDB record line (name, number of signals, sampling rate)", code="bad_header")
    if record["segments"] is not None:
        raise UnsupportedFormat("a record of several segments where one is expected", code="multi_segment")
    fields = (record["rest"] or "").split()
    rate, frames = _rate_and_frames(fields)
    n_signals = int(record["signals"])
    if not 0 < n_signals <= MAX_SIGNALS:
        raise MalformedFile(f"the header claims {n_signals} signals", code="bad_header")
    if len(content) < n_signals:
        raise MalformedFile(
            f"the header claims {n_signals} signals but describes {len(content)}", code="bad_header"
        )
    signals = tuple(_signal(number, line) for number, line in enumerate(content[:n_signals], start=1))
    return Header(record["name"], rate, frames, signals, stated, _recorded(fields, stated))


def _lines(text: str) -> list[str]:
    """Non-empty lines of ``text``, stripped."""
    return [line for line in (raw.strip() for raw in text.lstrip("\ufeff").splitlines()) if line]


def _parts(text: str) -> tuple[re.Match[str] | None, list[str], Stated]:
    """The record line, if there is one, the lines below it, and what the comments state."""
    lines = _lines(text)
    content = [line for line in lines if not line.startswith("#")]
    record = _RECORD.match(content[0]) if content else None
    return record, content[1:], _stated(line for line in lines if line.startswith("#"))


def _rate_and_frames(fields: list[str]) -> tuple[float, int | None]:
    """Sampling rate in Hz and number of frames, from the fields after the number of signals."""
    if not fields:
        raise BadSampling(
            "the header states no sampling rate; write it after the number of signals", code="missing_rate"
        )
    match = _RATE.match(fields[0])
    rate = float(match["rate"]) if match else 0.0
    if not rate > 0:
        raise BadSampling(f"{fields[0][:80]!r} is not a sampling rate in Hz", code="missing_rate")
    if rate >= MAX_RATE:
        raise BadSampling(f"{fields[0][:80]!r} Hz is not the rate of an ECG", code="rate_out_of_range")
    if len(fields) < 2:
        return rate, None
    if not re.fullmatch(r"\d{1,18}", fields[1]):
        raise MalformedFile(f"{fields[1][:80]!r} is not a number of samples", code="bad_header")
    return rate, int(fields[1]) or None


def _signal(number: int, line: str) -> SignalLine:
    """Parse the line of signal ``number`` (from 1)."""
    fields = line.split(maxsplit=8)
    where = f"signal {number}"
    storage = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    if storage is None:
        raise MalformedFile(
            f"{where}: no storage format after the file name in {line[:80]!r}", code="bad_header"
        )
    per_frame = int(storage["per_frame"] or 1)
    if per_frame == 0:
        raise MalformedFile(f"{where}: no samples in a frame ({fields[1]})", code="bad_header")
    gain = _GAIN.match(fields[2]) if len(fields) > 2 else None
    if gain is None or not 0 < abs(float(gain["gain"])) < float("inf"):
        stated = f"{fields[2][:80]!r} is not a gain" if len(fields) > 2 else "no gain is stated"
        raise BadUnits(f"{where}: {stated}; write units per mV, e.g. 1000/mV", code="missing_gain")
    numbers = fields[3:8]
    if not all(_INTEGER.match(field) for field in numbers):
        problem = "a field is missing or not a number after the storage format"
        error: type[InputError] = MalformedFile if gain["unit"] else BadUnits
        code = "bad_header" if gain["unit"] else "missing_gain"
        raise error(f"{where}: {problem} in {line[:80]!r}; is the gain there?", code=code)
    if len(fields) < 9:
        raise MissingLeads(f"{where} has no lead name", code="missing_lead_name")
    zero = int(numbers[1])
    return SignalLine(
        file=fields[0],
        format=int(storage["format"]),
        per_frame=per_frame,
        skew=int(storage["skew"] or 0),
        offset=int(storage["offset"] or 0),
        gain=float(gain["gain"]),
        baseline=int(gain["baseline"]) if gain["baseline"] is not None else zero,
        unit=gain["unit"],
        first=int(numbers[2]),
        checksum=int(numbers[3]),
        name=fields[8],
    )


def _recorded(fields: list[str], stated: Stated) -> datetime | date | None:
    """The more precise of the times in record line and comments; a comment may have a zone."""
    if isinstance(stated.recorded, datetime):
        return stated.recorded
    return _base_moment(fields) or stated.recorded


def _base_moment(fields: list[str]) -> datetime | date | None:
    """Base time and date after the number of frames; None without a date: a time alone is not enough."""
    if len(fields) < 4:
        return None
    clock, on = _CLOCK.fullmatch(fields[2]), _DAY.fullmatch(fields[3])
    if on is None:
        return None
    day, month, year = map(int, on.groups())
    return moment(year, month, day, None if clock is None else _clock(clock[0]))


def _clock(text: str) -> time | None:
    """``H:M:S``, ``M:S`` or ``S``, with decimals of a second."""
    parts = [0.0, 0.0, *map(float, text.split(":"))][-3:]
    return clock_of(*parts)


def _stated(comments: Iterable[str]) -> Stated:
    """Parse comment lines such as ``# Dx: 426783006,``, ``#Age: 74`` or ``# ECG date: 01/10/1990``."""
    found: dict[str, str] = {}
    for comment in comments:
        match = _COMMENT.match(comment.lstrip("# \t"))
        if match:
            found.setdefault(match["key"].lower(), match["value"].strip())
    codes = tuple(dict.fromkeys(re.findall(r"\d{4,18}", found.get("dx", "")))) or None
    age = re.fullmatch(r"\d{1,3}(?:\.\d{1,6})?", found.get("age", ""))
    on = _DAY.fullmatch(found.get("ecg date", ""))
    recorded = moment_of_iso(found.get("recorded", ""))
    if recorded is None and on is not None:
        recorded = moment(int(on[3]), int(on[2]), int(on[1]))
    return Stated(
        codes, float(age[0]) if age else None, sex_of(found.get("sex", "")), recorded,
        device_of(found.get("device", "")),
    )  # fmt: skip
