"""The signal files of a WFDB record: where they are, what they can hold, and their raw samples.

Format 16, in which most public 12-lead ECGs are kept (also inside the Challenge's ``.mat`` files), is read
here with numpy alone, the FLAC formats with libsndfile (:mod:`ibt_deploy.readers.flac`); every other one goes
through the wfdb package (:mod:`ibt_deploy.readers.wfdb_formats`).
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.wfdb_header import Header, SignalLine
from ibt_deploy.readers.wfdb_storage import FLAC_BITS, SAMPLES_IN_BYTES

MAX_VALUES = 50_000_000
"""Samples times signals read at most (12 leads at 500 Hz: 2.3 hours), so that memory stays bounded."""

RawSignals = list[npt.NDArray[np.integer]]


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
    held = []
    for start, stop in _groups(header):
        signals, file = header.signals[start:stop], files[start]
        storage = signals[0].format
        if len({(signal.format, signal.offset) for signal in signals}) > 1:
            raise MalformedFile(f"{file.name}: signals differ in format or offset", code="bad_header")
        if storage in SAMPLES_IN_BYTES:
            size = max(file.stat().st_size - signals[0].offset, 0)
            per_frame = sum(signal.per_frame for signal in signals)
            samples, in_bytes = SAMPLES_IN_BYTES[storage]
            frames = size * samples // (in_bytes * per_frame)
        elif storage in FLAC_BITS:
            from ibt_deploy.readers.flac import flac_samples

            frames = max(flac_samples(file, len(signals)) - signals[0].offset, 0) // signals[0].per_frame
        else:
            raise UnsupportedFormat(f"WFDB storage format {storage}", code="unsupported_wfdb_format")
        if header.frames is not None and frames < header.frames:
            raise MalformedFile(
                f"{file.name} is truncated: the header claims {header.frames} samples, it holds {frames}",
                code="truncated_file",
            )
        held.append(frames)
    if min(held) == 0:
        raise MalformedFile("a signal file holds no samples", code="empty_file")
    return min(held)


def raw_signals(header: Header, files: list[File], frames: int) -> RawSignals:
    """Raw samples of each signal, ``frames`` times its samples per frame.

    Raises
    ------
    TooLong
        More than :data:`MAX_VALUES` samples.
    MalformedFile
        A file is damaged, or a signal is said to be late by more than the record.
    """
    if any(signal.skew > frames for signal in header.signals):
        raise MalformedFile("the header claims a skew longer than the record", code="bad_header")
    values = frames * sum(signal.per_frame for signal in header.signals)
    if values > MAX_VALUES:
        hours = frames / header.rate / 3600
        raise TooLong(
            f"{hours:.1f} hours of {len(header.signals)} signals; cut it into pieces of at most "
            f"{MAX_VALUES // 1_000_000} million samples",
            code="recording_too_long",
        )
    if not all(map(_is_plain, header.signals)):
        from ibt_deploy.readers import wfdb_formats

        return wfdb_formats.raw_signals(header, files, frames)
    raw: RawSignals = []
    for start, stop in _groups(header):
        raw += list(_plain_block(header, files[start], start, stop, frames).T)
    return raw


def _is_plain(signal: SignalLine) -> bool:
    """Whether a signal is read without the help of the wfdb package."""
    if signal.skew:
        return False
    if signal.format == 16:
        return signal.per_frame == 1
    return signal.format in FLAC_BITS and signal.offset == 0


def _plain_block(header: Header, file: File, start: int, stop: int, frames: int) -> npt.NDArray[np.integer]:
    """Raw samples of the signals ``start:stop``, which share ``file``; shape ``(samples, signals)``."""
    first = header.signals[start]
    if first.format == 16:
        size = 2 * frames * (stop - start)
        with file.open("rb") as stream:
            stream.seek(first.offset)
            samples = stream.read(size)
        if len(samples) < size:
            raise MalformedFile(f"{file.name} became shorter while it was read", code="truncated_file")
        return np.frombuffer(samples, dtype="<i2").reshape(frames, stop - start)
    from ibt_deploy.readers.flac import flac_signals

    return flac_signals(file, frames * first.per_frame, FLAC_BITS[first.format])


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
