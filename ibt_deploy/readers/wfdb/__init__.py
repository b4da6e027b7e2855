"""WFDB recordings: a header (``.hea``) and the signal files it names, read as millivolts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ibt_deploy.errors import BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.stated import inverted_leads, millivolts_per
from ibt_deploy.readers.wfdb.header import (
    Header,
    SegmentedHeader,
    SignalLine,
    looks_like_header,
    parse_header,
    parse_segments,
)
from ibt_deploy.readers.wfdb.storage import (
    FIRST_DIFFERENCES,
    FLAC_BITS,
    INVALID,
    bytes_of,
    decoded,
    flac_samples,
    flac_signals,
    is_uncompressed,
    offset_flac_signals,
    samples_in,
)
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import AnyInts, Floats
from ibt_deploy.vocabulary import canonical_lead

MAX_VALUES = 50_000_000
"""Maximum number of samples times signals (12 leads at 500 Hz: 2.3 hours), so that memory stays bounded."""

RawSignals = list[AnyInts]


def signal_files(header: Header, path: File) -> list[File]:
    """Path of each signal's file, beside the header at ``path``.

    If the header is itself a link, the signal files may be, or be links to files, beside its target: many
    users keep a selection of records as a folder of links.

    Raises
    ------
    MalformedFile
        A name or a link leads out of the header's folder, or there is no such file.
    UnsupportedFormat
        A name that stands for no file.
    """
    found: dict[str, File] = {}
    for name in dict.fromkeys(signal.file for signal in header.signals):
        if name in ("-", "~"):
            raise UnsupportedFormat(
                f"the header names {name[:80]!r} for a signal file", code="no_signal_file"
            )
        windows = PureWindowsPath(name)
        if name[0] in "/\\" or windows.drive or ".." in windows.parts:
            raise MalformedFile(
                f"the signal file {name[:80]!r} is outside the header's folder", code="unsafe_path"
            )
        found[name] = path.parent / name
        if not found[name].is_file():
            raise MalformedFile(
                f"the signal file {name[:80]!r} is not beside the header", code="missing_signal_file"
            )
        if _is_linked_from_outside(found[name], path):
            raise MalformedFile(
                f"the signal file {name[:80]!r} is a link out of the header's folder; put a copy there",
                code="unsafe_path",
            )
    return [found[signal.file] for signal in header.signals]


def _is_linked_from_outside(file: File, header: File) -> bool:
    """Whether ``file`` really lies neither beside ``header`` nor beside the header's link target."""
    if not (isinstance(file, Path) and isinstance(header, Path)):
        return False
    if file.parent == header.parent and not file.is_symlink():
        return False
    homes = (header.parent.resolve(), header.resolve().parent)
    return not any(file.resolve().is_relative_to(place) for place in homes)


def available_frames(header: Header, files: list[File]) -> int:
    """Frames that every signal file holds, from their sizes; nothing is read.

    Raises
    ------
    MalformedFile
        A file is shorter than the header claims, or empty.
    UnsupportedFormat
        A storage format that no reader supports.
    """
    held = _frames_by_file(header, files)
    for (start, _), frames in held.items():
        if header.frames is not None and frames < header.frames:
            raise MalformedFile(
                f"{files[start].name} is truncated: the header claims {header.frames} samples, "
                f"it holds {frames}",
                code="truncated_file",
            )
    if min(held.values()) == 0:
        raise MalformedFile("a signal file holds no samples", code="empty_file")
    return min(held.values())


def _frames_by_file(header: Header, files: list[File]) -> dict[tuple[int, int], int]:
    """Frames in each signal file, by the span of the signals that share it."""
    held = {}
    for start, stop in _groups(header):
        signals, file = header.signals[start:stop], files[start]
        storage = signals[0].format
        if len({(signal.format, signal.offset) for signal in signals}) > 1:
            raise MalformedFile(f"{file.name}: signals differ in format or offset", code="bad_header")
        if is_uncompressed(storage):
            size = max(file.stat().st_size - signals[0].offset, 0)
            held[start, stop] = samples_in(storage, size) // sum(signal.per_frame for signal in signals)
        elif storage in FLAC_BITS:
            if len({signal.per_frame for signal in signals}) > 1:
                raise MalformedFile(f"{file.name}: signals in FLAC differ in their rate", code="bad_header")
            samples = max(flac_samples(file, len(signals)) - signals[0].offset, 0)
            held[start, stop] = samples // signals[0].per_frame
        else:
            raise UnsupportedFormat(f"WFDB storage format {storage}", code="unsupported_wfdb_format")
    return held


def raw_signals(header: Header, files: list[File], frames: int) -> RawSignals:
    """Raw samples of each signal as stored: skew is not undone.

    Returns
    -------
    For each signal, ``frames`` times its samples per frame, plus as many as are needed to undo the skew of
    its file's signals and present in the file.

    Raises
    ------
    TooLong
        More than :data:`MAX_VALUES` samples.
    MalformedFile
        A file is damaged, or a signal's stated skew exceeds the record.
    """
    if any(signal.skew > frames for signal in header.signals):
        raise MalformedFile("the header claims a skew longer than the record", code="bad_header")
    check_length(header, frames)
    raw: RawSignals = []
    for (start, stop), held in _frames_by_file(header, files).items():
        skew = max(signal.skew for signal in header.signals[start:stop])
        raw += _signals_of(header.signals[start:stop], files[start], min(frames + skew, held))
    return raw


def check_length(header: Header, frames: int) -> None:
    """Raise TooLong if ``frames`` frames are more than :data:`MAX_VALUES` samples."""
    if frames * sum(signal.per_frame for signal in header.signals) > MAX_VALUES:
        hours = frames / header.rate / 3600
        raise TooLong(
            f"{hours:.1f} hours of {len(header.signals)} signals; cut it into pieces of at most "
            f"{MAX_VALUES // 1_000_000} million samples",
            code="recording_too_long",
        )


def _signals_of(lines: Sequence[SignalLine], file: File, frames: int) -> RawSignals:
    """Raw samples of the signals that share ``file``."""
    storage, offset = lines[0].format, lines[0].offset
    if storage in FLAC_BITS and offset:
        return offset_flac_signals(lines, file, frames)
    if storage in FLAC_BITS:
        return list(flac_signals(file, frames * lines[0].per_frame, FLAC_BITS[storage]).T)
    per_frame = [line.per_frame for line in lines]
    samples = frames * sum(per_frame)
    size = bytes_of(storage, samples)
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise MalformedFile(f"{file.name} became shorter while it was read", code="truncated_file")
    block = decoded(data, storage, samples).reshape(frames, sum(per_frame))
    raw: RawSignals = []
    for line, stop in zip(lines, accumulate(per_frame), strict=True):
        # callers read a signal several times, which takes longer if its samples are not contiguous
        signal = block[:, stop - line.per_frame : stop].flatten()
        if storage == FIRST_DIFFERENCES:
            signal = np.cumsum(signal, dtype=np.int64) + (line.first or 0)
        raw.append(signal)
    return raw


def _groups(header: Header) -> list[tuple[int, int]]:
    """Spans of consecutive signals that share a file."""
    spans, start = [], 0
    for _, members in groupby(header.signals, key=lambda signal: signal.file):
        stop = start + sum(1 for _ in members)
        spans.append((start, stop))
        start = stop
    if len({header.signals[first].file for first, _ in spans}) < len(spans):
        raise MalformedFile("the signals of one file are not listed together", code="bad_header")
    return spans


NAME = "WFDB"
TASK = "arrhythmia"

SUFFIX = ".hea"
MAX_HEADER_BYTES = 1 << 20


def sniff(file: File, head: bytes) -> bool:
    """Whether ``file`` is a WFDB header, or a signal file with its header beside it."""
    return file.suffix.lower() == SUFFIX or looks_like_header(head) or _header_beside(file) is not None


def read(file: File) -> list[Recording]:
    """Read the recording of the header or signal file ``file``.

    Signals that are neither a standard lead nor a voltage are left out. A header without a unit means
    mV, as the format defines; this is noted, as are converted units. A wrong checksum gets a warning, as does
    a negative gain. A multi-segment record is read as one recording, with NaN in gaps and where a segment
    lacks a lead.

    Raises
    ------
    InputError
        See :func:`parse_header`, :func:`parse_segments`, :func:`signal_files`, :func:`available_frames` and
        :func:`raw_signals`. BadUnits: the unit of a lead is not a voltage. MissingLeads: no voltage at all.
        MalformedFile: all checksums and initial values contradict the samples, or a segment contradicts its
        record. UnsupportedFormat: leads of different rates.
    """
    header_file = file if file.suffix.lower() == SUFFIX else _header_beside(file) or file
    text = _header_text(header_file)
    segmented = parse_segments(text)
    if segmented is not None:
        return [_joined(segmented, header_file, str(file))]
    return [_recording(parse_header(text), header_file, str(file))]


def _recording(header: Header, header_file: File, source: str) -> Recording:
    """The recording of one header and its signal files."""
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
    skewed = any(signal.skew for signal in header.signals)
    if held > frames and not skewed:
        notes.append(f"the header claims {frames} samples, the file holds {held}; the claimed ones were read")
    raw = raw_signals(header, files, frames)
    read = [header.signals[i] for i in scales]
    warnings = list(inverted_leads([signal.name for signal in read if signal.gain < 0]))
    if header.frames is not None:
        warnings += _wrong_checksums(header, raw, frames)
    signal = np.empty((len(scales), frames * header.signals[next(iter(scales))].per_frame))
    for row, (i, scale) in zip(signal, scales.items(), strict=True):
        _fill_millivolts(row, raw[i], header.signals[i], scale)
    formats = ", ".join(str(storage) for storage in sorted({line.format for line in header.signals}))
    matlab = ", MATLAB" if files[0].suffix.lower() == ".mat" else ""
    return Recording(
        signal=signal,
        sampling_rate=rates.pop(),
        leads=tuple(header.signals[i].name for i in scales),
        record_id=record_id,
        source=source,
        format=f"WFDB ({formats}{matlab})",
        dx=header.stated.dx,
        age=header.stated.age,
        sex=header.stated.sex,
        recorded=header.recorded,
        device=header.stated.device,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _joined(header: SegmentedHeader, header_file: File, source: str) -> Recording:
    """The recording of a multi-segment record."""
    total = sum(segment.frames for segment in header.segments)
    pieces: list[tuple[int, Recording]] = []
    start = values = 0
    for segment in header.segments:
        if segment.name is not None:
            piece_file = _segment_header(segment.name, header_file)
            piece = parse_header(_header_text(piece_file))
            if piece.frames not in (None, segment.frames):
                raise MalformedFile(
                    f"segment {segment.name[:80]!r} has {piece.frames} samples, the record's header says "
                    f"{segment.frames}",
                    code="bad_header",
                )
            if piece.rate != header.rate:
                raise MalformedFile(
                    f"segment {segment.name[:80]!r} is sampled at {piece.rate:g} Hz, the record at "
                    f"{header.rate:g} Hz",
                    code="bad_header",
                )
            check_length(piece, total)
            try:
                found = _recording(replace(piece, frames=segment.frames), piece_file, source)
            except MissingLeads as error:
                if error.code != "no_ecg_lead":
                    raise
            else:
                values += segment.frames
                pieces.append((start, found))
        start += segment.frames
    if not pieces:
        raise MissingLeads("no voltage among the signals of any segment", code="no_ecg_lead")
    rates = {piece.sampling_rate for _, piece in pieces}
    if len(rates) > 1:
        raise UnsupportedFormat("leads are sampled at different rates", code="mixed_rates")
    rate = rates.pop()
    factor = round(rate / header.rate)
    leads = _leads_of(header, header_file, [piece for _, piece in pieces])
    if len(leads) * total * factor > MAX_VALUES:
        raise TooLong(
            f"{total / header.rate / 3600:.1f} hours of {len(leads)} leads; give the header of one segment",
            code="recording_too_long",
        )
    signal = np.full((len(leads), total * factor), np.nan)
    for begin, part in pieces:
        stop = begin * factor + part.signal.shape[1]
        for name, row in zip(part.leads, part.signal, strict=True):
            signal[leads.index(name), begin * factor : stop] = row
    notes = [f"joined {len(pieces)} segments"]
    if values < total:
        notes[0] += f"; {(total - values) / header.rate:.1f} s between them hold no signal"
    notes += [note for _, piece in pieces for note in piece.notes]
    first, stated = pieces[0][1], header.stated
    return Recording(
        signal=signal,
        sampling_rate=rate,
        leads=leads,
        record_id=header_file.stem,
        source=source,
        format=f"{first.format.removesuffix(')')}, {len(pieces)} segments)",
        dx=stated.dx if stated.dx is not None else first.dx,
        age=stated.age if stated.age is not None else first.age,
        sex=stated.sex or first.sex,
        recorded=header.recorded if header.recorded is not None or pieces[0][0] else first.recorded,
        device=stated.device or first.device,
        notes=tuple(dict.fromkeys(notes)),
        warnings=tuple(dict.fromkeys(warning for _, piece in pieces for warning in piece.warnings)),
    )


def _segment_header(name: str, header_file: File) -> File:
    """The header of the segment ``name``, beside that of its record."""
    if ".." in name or "\\" in name or ":" in name:
        raise MalformedFile(f"the segment {name[:80]!r} is outside the header's folder", code="unsafe_path")
    found = header_file.with_name(f"{name}{SUFFIX}")
    if not found.is_file():
        raise MalformedFile(
            f"the header of segment {name[:80]!r} is not beside the record's", code="missing_signal_file"
        )
    return found


def _leads_of(header: SegmentedHeader, header_file: File, pieces: list[Recording]) -> tuple[str, ...]:
    """Names of all leads in the segments, in the order of the layout or of their first appearance."""
    for piece in pieces:
        if len(set(piece.leads)) < len(piece.leads):
            doubled = next(name for name in piece.leads if piece.leads.count(name) > 1)
            raise MissingLeads(f"lead {doubled[:40]} occurs twice in one segment", code="doubled_lead")
    found = dict.fromkeys(name for piece in pieces for name in piece.leads)
    if header.layout is None:
        if any(set(piece.leads) != set(found) for piece in pieces):
            raise MalformedFile(
                "the segments hold different leads, and there is no layout", code="bad_header"
            )
        return tuple(found)
    layout = parse_header(_header_text(_segment_header(header.layout, header_file)))
    order = dict.fromkeys(line.name for line in layout.signals)
    if not found.keys() <= order.keys():
        raise MalformedFile(
            f"the layout does not list {', '.join(found.keys() - order.keys())[:120]}", code="bad_header"
        )
    return tuple(name for name in order if name in found)


def _header_text(file: File) -> str:
    """Text of the header ``file``: UTF-8, else Latin-1."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        data = stream.read(min(size, MAX_HEADER_BYTES) + 1)
    if len(data) > MAX_HEADER_BYTES or b"\0" in data:
        raise MalformedFile("not a WFDB header: too large or binary", code="bad_header")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _header_beside(file: File) -> File | None:
    """The header of the signal file ``file``: of the same name, or without a number (``HR00001_1.dat``).

    One that cannot be read names no file, so that it does not affect its neighbours.
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
        notes.append(f"left out channels that are not voltages: {', '.join(dropped)[:200]}")
    if unstated:
        notes.append("the header names no unit; read as mV, as the WFDB format defines")
    return scales


def _wrong_checksums(header: Header, raw: RawSignals, frames: int) -> list[Notice]:
    """A warning about signals whose sum of samples modulo 65,536 differs from the header's checksum.

    Headers write it signed or unsigned; 0 is taken to mean 'not stated'.

    Raises
    ------
    MalformedFile
        No stated checksum is right, nor are the initial values of half of these signals (one of them may be
        right by chance): the samples are not those that the header describes.
    """
    stated = [
        (line, samples[: frames * line.per_frame])
        for line, samples in zip(header.signals, raw, strict=True)
        if line.checksum
    ]
    wrong = [
        (line.name, int(samples[0]) != line.first)
        for line, samples in stated
        if (int(samples.sum(dtype=np.int64)) - (line.checksum or 0)) % 65536
    ]
    if not wrong:
        return []
    others = sum(starts_otherwise for _, starts_otherwise in wrong)
    if len(wrong) == len(stated) and 2 * others >= len(stated):
        raise MalformedFile(
            f"none of the {len(stated)} checksums in the header fits the samples, nor do {others} of the "
            "initial values: the storage format is wrong, or this is another record's signal file",
            code="checksum_differs",
        )
    names = ", ".join(name for name, _ in wrong)
    sentence = f"not the header's checksum, the file is damaged or misread: {names[:200]}"
    return [Notice("checksum_differs", sentence)]


def _fill_millivolts(out: Floats, raw: AnyInts, signal: SignalLine, scale: float) -> None:
    """Write ``(raw - baseline) / gain`` in mV into ``out``; NaN for invalid samples.

    The samples of a signal with a skew are that many frames late in ``raw``.
    """
    raw = raw[signal.skew * signal.per_frame :][: len(out)]
    filled, out[len(raw) :] = out[: len(raw)], np.nan
    np.subtract(raw, signal.baseline, out=filled, dtype=np.float64)
    filled /= signal.gain
    if scale != 1.0:
        filled *= scale
    if (marker := INVALID[signal.format]) is not None and (invalid := raw == marker).any():
        filled[invalid] = np.nan


LINES_SHOWN = 16


def outline(file: File) -> dict[str, Any]:
    """The first lines of the header, unchanged."""
    header_file = file if file.suffix.lower() == SUFFIX else _header_beside(file) or file
    lines = [line.strip()[:120] for line in _header_text(header_file).splitlines() if line.strip()]
    content = [line for line in lines if not line.startswith("#")]
    return {"record": content[0] if content else None, "signals": content[1 : LINES_SHOWN + 1]}
