"""The signal files of a WFDB record: where they are, what they can hold, and their raw samples.

FLAC files are decoded by libsndfile (:mod:`ibt_deploy.readers.flac`), and by the wfdb package where samples
are to be skipped; every other storage format is decoded in :mod:`ibt_deploy.readers.wfdb.storage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from pathlib import Path, PureWindowsPath

import numpy as np

from ibt_deploy.errors import MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.wfdb.header import Header, SignalLine
from ibt_deploy.readers.wfdb.storage import (
    FIRST_DIFFERENCES,
    FLAC_BITS,
    bytes_of,
    decoded,
    is_uncompressed,
    samples_in,
)
from ibt_deploy.types import AnyInts

MAX_VALUES = 50_000_000
"""Samples times signals read at most (12 leads at 500 Hz: 2.3 hours), so that memory stays bounded."""

RawSignals = list[AnyInts]


def signal_files(header: Header, path: File) -> list[File]:
    """Path of each signal's file, beside the header at ``path``.

    Where the header is itself a link, the signal files may lie, or be links to files, beside its target: many
    keep a selection of records as a folder of links.

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
    """Whether ``file`` is really neither beside ``header`` nor beside what that links to."""
    if not (isinstance(file, Path) and isinstance(header, Path)):
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
        A storage format that nobody reads.
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
            from ibt_deploy.readers.flac import flac_samples

            if len({signal.per_frame for signal in signals}) > 1:
                raise MalformedFile(f"{file.name}: signals in FLAC differ in their rate", code="bad_header")
            samples = max(flac_samples(file, len(signals)) - signals[0].offset, 0)
            held[start, stop] = samples // signals[0].per_frame
        else:
            raise UnsupportedFormat(f"WFDB storage format {storage}", code="unsupported_wfdb_format")
    return held


def raw_signals(header: Header, files: list[File], frames: int) -> RawSignals:
    """Raw samples of each signal as they lie in the file: skew is not undone.

    Returns
    -------
    For each signal ``frames`` times its samples per frame, and as many more as undoing the skew of its
    file's signals needs and the file holds.

    Raises
    ------
    TooLong
        More than :data:`MAX_VALUES` samples.
    MalformedFile
        A file is damaged, or a signal is said to be late by more than the record.
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
    """Raise TooLong where ``frames`` frames are more than :data:`MAX_VALUES` samples."""
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
        from ibt_deploy.readers.wfdb import package

        return package.signals_of(lines, file, frames)
    if storage in FLAC_BITS:
        from ibt_deploy.readers.flac import flac_signals

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
        signal = block[:, stop - line.per_frame : stop].reshape(-1)
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
