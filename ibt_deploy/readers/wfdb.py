"""WFDB recordings: a header (``.hea``) and the signal files it names, read as millivolts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadUnits, MalformedFile, MissingLeads, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.units import millivolts_per
from ibt_deploy.readers.wfdb_files import RawSignals, available_frames, raw_signals, signal_files
from ibt_deploy.readers.wfdb_header import Header, SignalLine, looks_like_header, parse_header
from ibt_deploy.readers.wfdb_storage import INVALID
from ibt_deploy.records import Notice, Recording

NAME = "WFDB"
TASK = "arrhythmia"

SUFFIX = ".hea"
MAX_HEADER_BYTES = 1 << 20


def sniff(file: File, head: bytes) -> bool:
    """Whether ``file`` is a WFDB header, or a signal file with its header beside it."""
    return file.suffix.lower() == SUFFIX or looks_like_header(head) or _header_beside(file) is not None


def read(file: File) -> list[Recording]:
    """Read the recording whose header, or one of whose signal files, is ``file``.

    Signals that are neither a standard lead nor a voltage are left out. A header that names no unit means
    mV, as the format defines; this is noted, as are converted units. A checksum that does not fit is warned
    of, as is a negative gain.

    Raises
    ------
    InputError
        See :func:`parse_header`, :func:`signal_files`, :func:`available_frames` and :func:`raw_signals`.
        BadUnits: the unit of a lead is no voltage. MissingLeads: no voltage at all. UnsupportedFormat:
        leads of different rates.
    """
    header_file = file if file.suffix.lower() == SUFFIX else _header_beside(file) or file
    header = parse_header(_header_text(header_file))
    notes: list[str] = []
    record_id = header_file.stem
    if record_id not in (header.name, PurePosixPath(header.name).stem):
        notes.append(f"the header calls the record {header.name[:80]!r}")
    scales = _millivolts_per_unit(header, notes)
    rates = {header.signals[i].per_frame * header.rate for i in scales}
    if len(rates) > 1:
        raise UnsupportedFormat("leads are sampled at different rates", code="mixed_rates")

    files = signal_files(header, header_file)
    held = available_frames(header, files)
    frames = header.frames or held
    if held > frames:
        notes.append(f"the header claims {frames} samples, the file holds {held}; the claimed ones were read")
    raw = raw_signals(header, files, frames)
    warnings = _upside_down([header.signals[i] for i in scales])
    if header.frames is not None:
        warnings += _wrong_checksums(header, raw)
    signal = np.empty((len(scales), len(raw[next(iter(scales))])))
    for row, (i, scale) in zip(signal, scales.items(), strict=True):
        _fill_millivolts(row, raw[i], header.signals[i], scale)
    formats = ", ".join(str(storage) for storage in sorted({line.format for line in header.signals}))
    matlab = ", MATLAB" if files[0].suffix.lower() == ".mat" else ""
    return [
        Recording(
            signal=signal,
            sampling_rate=rates.pop(),
            leads=tuple(header.signals[i].name for i in scales),
            record_id=record_id,
            source=str(file),
            format=f"WFDB ({formats}{matlab})",
            dx=header.dx,
            age=header.age,
            sex=header.sex,
            notes=tuple(notes),
            warnings=tuple(warnings),
        )
    ]


def _header_text(file: File) -> str:
    """Text of the header ``file``: UTF-8, else Latin-1."""
    with file.open("rb") as stream:
        data = stream.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES or b"\0" in data:
        raise MalformedFile("not a WFDB header: too large or binary", code="bad_header")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _header_beside(file: File) -> File | None:
    """The header of the signal file ``file``: of the same name, or less a number (``HR00001_1.dat``).

    One that cannot be read names no file, so that it costs its neighbours nothing.
    """
    for stem in dict.fromkeys((file.stem, file.stem.rpartition("_")[0])):
        header = file.with_name(f"{stem}{SUFFIX}")
        with suppress(MalformedFile, OSError):
            if stem and header.is_file() and file.name in _header_text(header).split():
                return header
    return None


def _millivolts_per_unit(header: Header, notes: list[str]) -> dict[int, float]:
    """Millivolts per unit of each signal that is a voltage, by its number."""
    scales: dict[int, float] = {}
    converted, dropped, unstated = set(), [], False
    for number, signal in enumerate(header.signals):
        scale = millivolts_per(signal.unit or "mV")
        if scale is None:
            if canonical_lead(signal.name) is not None:
                raise BadUnits(
                    f"lead {signal.name}: the unit {signal.unit!r} is not mV, uV or V", code="unknown_unit"
                )
            dropped.append(signal.name)
            continue
        scales[number] = scale
        unstated |= signal.unit is None
        if scale != 1.0:
            converted.add(signal.unit)
    if not scales:
        raise MissingLeads(f"no voltage among the signals: {', '.join(dropped)[:200]}", code="no_ecg_lead")
    notes += [f"converted from {unit} to mV" for unit in sorted(filter(None, converted))]
    if dropped:
        notes.append(f"left out what is no voltage: {', '.join(dropped)[:200]}")
    if unstated:
        notes.append("the header names no unit; read as mV, as the WFDB format defines")
    return scales


def _upside_down(signals: list[SignalLine]) -> list[Notice]:
    """A warning of leads with a negative gain: seldom meant, and it changes the sign of all that is read."""
    inverted = [signal.name for signal in signals if signal.gain < 0]
    if not inverted:
        return []
    sentence = f"the header states a negative gain, which turns these leads over: {', '.join(inverted)[:200]}"
    return [Notice("negative_gain", sentence)]


def _wrong_checksums(header: Header, raw: RawSignals) -> list[Notice]:
    """A warning of signals whose sum of samples modulo 65,536 is not what the header says.

    Headers write it signed or unsigned; 0 is taken for 'not stated'. Undoing a skew changes the sum.
    """
    if any(signal.skew for signal in header.signals):
        return []
    wrong = [
        line.name
        for line, samples in zip(header.signals, raw, strict=True)
        if line.checksum and (int(samples.sum(dtype=np.int64)) - line.checksum) % 65536
    ]
    if not wrong:
        return []
    sentence = f"not the header's checksum, the file is damaged or misread: {', '.join(wrong)[:200]}"
    return [Notice("checksum_differs", sentence)]


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
