"""WFDB: a header and a signal file of 16-bit integers (format 16)."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import numpy as np

from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.records import Recording
from ibt_deploy.writers import Quantised, quantised

NAME = "WFDB (16)"
_RECORD_NAME = re.compile(r"[A-Za-z0-9_-]+")


def encoded(recording: Recording, path: Path) -> dict[Path, bytes]:
    """Encode signal file and header.

    Raises
    ------
    UnsupportedFormat
        A lead's range or name, or the name of the record, does not fit the format.
    """
    if not _RECORD_NAME.fullmatch(path.stem):
        raise UnsupportedFormat(
            f"a WFDB record is named by letters, digits, - and _, not {path.stem!r}", code="not_representable"
        )
    leads = [quantised(row, name) for row, name in zip(recording.signal, recording.leads, strict=True)]
    signal_file = path.with_suffix(".dat")
    first = f"{path.stem} {len(leads)} {recording.sampling_rate:.12g} {recording.signal.shape[1]}"
    lines = [first + _base_moment(recording)]
    lines += [_line(signal_file.name, lead, name) for lead, name in zip(leads, recording.leads, strict=True)]
    lines += _comments(recording)
    samples = np.array([lead.raw for lead in leads], dtype="<i2").T
    header = "\n".join(lines) + "\n"
    return {signal_file: np.ascontiguousarray(samples).tobytes(), path: header.encode()}


def _line(file: str, lead: Quantised, name: str) -> str:
    if not name.isprintable() or not name.strip() or name != name.strip():
        raise UnsupportedFormat(
            f"the lead name {name[:40]!r} does not fit a header", code="not_representable"
        )
    checksum = int(lead.raw.sum(dtype=np.int64)) % 65536
    first = int(lead.raw[0]) if len(lead.raw) else 0
    return f"{file} 16 {1000 / lead.step:.15g}({-lead.offset})/mV 16 0 {first} {checksum} 0 {name}"


def _base_moment(recording: Recording) -> str:
    """Base time and date, local; a header has no field for a date alone, nor for a zone."""
    when = recording.recorded
    if not isinstance(when, datetime):
        return ""
    part = f".{when.microsecond:06d}".rstrip("0") if when.microsecond else ""
    return f" {when:%H:%M:%S}{part} {when.day:02d}/{when.month:02d}/{when.year:04d}"


def _comments(recording: Recording) -> list[str]:
    when = recording.recorded
    incomplete = when is not None and not (isinstance(when, datetime) and when.tzinfo is None)
    stated = (
        ("Age", None if recording.age is None else f"{recording.age:g}"),
        ("Sex", recording.sex),
        ("Dx", ",".join(recording.dx) if recording.dx else None),
        ("Recorded", when.isoformat() if when is not None and incomplete else None),
        ("Device", recording.device),
    )
    return [f"# {key}: {value}" for key, value in stated if value]
