"""WFDB recordings: a header (``.hea``) and the signal files it names.

Format 16, in which nearly all public 12-lead ECGs are kept (also inside the Challenge's ``.mat`` files), is read
here with numpy alone; every other format goes through the wfdb package (:mod:`ibt_deploy.readers.wfdb_formats`).
"""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.wfdb_header import Header, SignalLine, looks_like_header, parse_header
from ibt_deploy.records import Recording

NAME = "WFDB"
TASK = "arrhythmia"

MAX_VALUES = 50_000_000
"""Samples times signals read at most (12 leads at 500 Hz: 2.3 hours), so that memory stays bounded."""

MAX_HEADER_BYTES = 1 << 20

INVALID: dict[int, int] = {
    8: -(2**7), 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15),
    212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23),
}  # fmt: skip
"""Raw value that stands for 'no valid sample', by storage format."""

BYTES_PER_SAMPLE: dict[int, Fraction] = {
    8: Fraction(1), 16: Fraction(2), 24: Fraction(3), 32: Fraction(4), 61: Fraction(2), 80: Fraction(1),
    160: Fraction(2), 212: Fraction(3, 2), 310: Fraction(4, 3), 311: Fraction(4, 3),
}  # fmt: skip

MILLIVOLTS: dict[str, float] = {"mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "v": 1e3}

RawSignals = list[npt.NDArray[np.integer]]


def sniff(path: Path, head: bytes) -> bool:
    """Whether ``path`` is a WFDB header, or a signal file with its header beside it."""
    return looks_like_header(head) or _header_beside(path) is not None


def read(path: Path) -> list[Recording]:
    """Read the recording whose header, or one of whose signal files, is ``path``.

    Raises
    ------
    InputError
        Any of its subclasses but BadRows, each with its code; see :func:`parse_header` for the header's.
    """
    header_path = path
    if path.suffix.lower() != ".hea":
        header_path = _header_beside(path) or path
    header = parse_header(_header_text(header_path))
    stem = header_path.stem
    notes: list[str] = []
    if Path(header.name).stem != stem and header.name != stem:
        notes.append(f"the header calls the record {header.name!r}")

    files = [signal_file(header_path.parent, signal.file) for signal in header.signals]
    frames = _frames(header, files)
    scales = _millivolts_per_unit(header, notes)
    chosen = [i for i, scale in enumerate(scales) if scale is not None]
    per_frame = {header.signals[i].per_frame for i in chosen}
    if len(per_frame) > 1:
        raise UnsupportedFormat("leads are sampled at different rates", code="mixed_rates")
    if all(s.format == 16 and s.per_frame == 1 and s.skew == 0 for s in header.signals):
        raw = _raw16(header, files, frames)
    else:
        from ibt_deploy.readers.wfdb_formats import raw_signals

        raw = raw_signals(header, files, frames)
    signal = np.empty((len(chosen), len(raw[chosen[0]])), dtype=np.float64)
    for row, i in enumerate(chosen):
        _fill_millivolts(signal[row], raw[i], header.signals[i], scales[i] or 1.0)
    formats = sorted({s.format for s in header.signals})
    kind = "MATLAB" if files[0].suffix.lower() == ".mat" else "FLAC" if formats[0] > 500 else ""
    described = ", ".join([*map(str, formats), *([kind] if kind else [])])
    return [
        Recording(
            signal=signal,
            sampling_rate=header.rate * per_frame.pop(),
            leads=tuple(header.signals[i].name for i in chosen),
            record_id=stem,
            source=str(path),
            format=f"WFDB ({described})",
            dx=header.dx,
            age=header.age,
            sex=header.sex,
            notes=tuple(notes),
        )
    ]


def signal_file(folder: Path, name: str) -> Path:
    """Path of the signal file ``name`` in ``folder``; a name that points elsewhere is a MalformedFile."""
    if name in ("-", "~"):
        raise UnsupportedFormat(f"the header names {name!r} in place of a signal file", code="no_signal_file")
    windows = PureWindowsPath(name)
    if (
        windows.is_absolute()
        or windows.drive
        or name.startswith(("/", "\\"))
        or ".." in windows.parts
        or "\0" in name
    ):
        raise MalformedFile(
            f"the header names a signal file outside its folder: {name!r}", code="unsafe_path"
        )
    file = folder / name
    if not file.is_file():
        raise MalformedFile(f"the signal file {name!r} is not beside the header", code="missing_signal_file")
    return file


def _header_text(path: Path) -> str:
    """Text of the header at ``path``: UTF-8, else Latin-1."""
    with path.open("rb") as stream:
        data = stream.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES or b"\0" in data:
        raise MalformedFile("not a WFDB header: too large or binary", code="bad_header")
    if not data.strip():
        raise MalformedFile("the header is empty", code="empty_file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _header_beside(path: Path) -> Path | None:
    """The header of the signal file ``path``: of the same name, or less a number (``HR00001_1.dat``)."""
    if path.suffix.lower() == ".hea":
        return None
    for stem in (path.stem, path.stem.rpartition("_")[0]):
        header = path.with_name(f"{stem}.hea") if stem else path
        if header.suffix == ".hea" and header.is_file() and path.name in _header_text(header).split():
            return header
    return None


def _frames(header: Header, files: list[Path]) -> int:
    """Frames to read, checked against the sizes of the files before anything is allocated."""
    groups = _groups(header)
    available = []
    for start, stop in groups:
        signals, file = header.signals[start:stop], files[start]
        if len({(s.format, s.offset) for s in signals}) > 1:
            raise MalformedFile(f"{file.name}: signals disagree about format or offset", code="bad_header")
        per_frame = sum(s.per_frame for s in signals)
        if signals[0].format in BYTES_PER_SAMPLE:
            size = max(file.stat().st_size - signals[0].offset, 0)
            frames = size // (BYTES_PER_SAMPLE[signals[0].format] * per_frame)
        elif signals[0].format in INVALID:
            from ibt_deploy.readers.wfdb_formats import flac_samples

            frames = flac_samples(file, len(signals)) // signals[0].per_frame
        else:
            raise UnsupportedFormat(
                f"WFDB storage format {signals[0].format}", code="unsupported_wfdb_format"
            )
        available.append(int(frames))
        if header.frames is not None and frames < header.frames:
            raise MalformedFile(
                f"{file.name} is truncated: the header claims {header.frames} samples, the file holds {frames}",
                code="truncated_file",
            )
    frames = header.frames if header.frames is not None else min(available)
    values = frames * sum(s.per_frame for s in header.signals)
    if frames == 0:
        raise MalformedFile("the signal file holds no samples", code="empty_file")
    if values > MAX_VALUES:
        raise TooLong(
            f"{frames / header.rate / 3600:.1f} hours of {len(header.signals)} signals; cut the recording into "
            f"pieces of at most {MAX_VALUES // 1_000_000} million samples",
            code="recording_too_long",
        )
    return frames


def _groups(header: Header) -> list[tuple[int, int]]:
    """Spans of consecutive signals that share a file."""
    spans, start = [], 0
    for _, members in groupby(header.signals, key=lambda signal: signal.file):
        stop = start + sum(1 for _ in members)
        spans.append((start, stop))
        start = stop
    if len({header.signals[a].file for a, _ in spans}) < len(spans):
        raise MalformedFile("signals of one file are not listed together", code="bad_header")
    return spans


def _millivolts_per_unit(header: Header, notes: list[str]) -> list[float | None]:
    """Millivolts per unit of each signal; None for a signal that is no ECG lead."""
    scales: list[float | None] = []
    converted, dropped, unstated = set(), [], False
    for signal in header.signals:
        scale = MILLIVOLTS.get((signal.unit or "mV").lower())
        is_lead = canonical_lead(signal.name) is not None
        unstated |= is_lead and signal.unit is None
        if scale is None and is_lead:
            raise BadUnits(
                f"lead {signal.name}: unit {signal.unit!r} is not mV, uV or V", code="unknown_unit"
            )
        if scale is None:
            dropped.append(signal.name)
        elif scale != 1.0:
            converted.add(signal.unit)
        scales.append(scale)
    if len(dropped) == len(scales):
        raise MissingLeads(f"no ECG lead among {', '.join(dropped)[:200]}", code="no_ecg_lead")
    notes += [f"converted from {unit} to mV" for unit in sorted(filter(None, converted))]
    if dropped:
        notes.append(f"left out, not a voltage: {', '.join(dropped)[:200]}")
    if unstated:
        notes.append("the header states no unit; read as mV, as the WFDB format defines")
    return scales


def _raw16(header: Header, files: list[Path], frames: int) -> RawSignals:
    """Raw samples of a record that is wholly in format 16: one ``(samples,)`` view per signal."""
    raw: RawSignals = []
    for start, stop in _groups(header):
        block = np.fromfile(
            files[start], dtype="<i2", count=frames * (stop - start), offset=header.signals[start].offset
        )
        raw += list(block.reshape(frames, stop - start).T)
    return raw


def _fill_millivolts(
    out: npt.NDArray[np.float64], raw: npt.NDArray[np.integer], signal: SignalLine, scale: float
) -> None:
    """Write ``(raw - baseline) / gain`` into ``out`` in mV, NaN where the raw sample is invalid."""
    np.subtract(raw, signal.baseline, out=out, dtype=np.float64)
    out /= signal.gain
    if scale != 1.0:
        out *= scale
    invalid = raw == INVALID[signal.format]
    if invalid.any():
        out[invalid] = np.nan
