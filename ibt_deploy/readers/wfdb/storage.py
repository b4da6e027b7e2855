"""Decode the storage formats of WFDB signal files with numpy, and FLAC with libsndfile.

They are those of signal(5) in the WFDB Applications Guide. Where its text leaves a choice, the samples are
those that PhysioNet's C library returns. The wfdb package 4.3.1 differs in format 311, where it keeps only
seven of the ten bits of every third sample.

That package reads only FLAC files whose first samples are to be skipped. It refuses headers that users
have (record names with a dot) and fills in what a header omits. It is therefore given a header of
our own making, in a private folder with a link to the signal file. With its gain of 1 and baseline of 0 its
physical values are the raw ones.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File, openable
from ibt_deploy.readers.wfdb.header import SignalLine
from ibt_deploy.types import AnyInts

INVALID: dict[int, int | None] = {
    8: None, 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15),
    212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23),
}  # fmt: skip
"""Raw value that stands for 'no valid sample', by storage format; first differences (8) have none."""

FLAC_BITS: dict[int, int] = {508: 8, 516: 16, 524: 24}
"""Bits per sample of the FLAC formats."""

FIRST_DIFFERENCES = 8

_BYTES: dict[int, int] = {8: 1, 16: 2, 24: 3, 32: 4, 61: 2, 80: 1, 160: 2}
_PACKED: dict[int, tuple[int, tuple[int, ...]]] = {212: (3, (2, 3)), 310: (4, (2, 4, 4)), 311: (4, (2, 3, 4))}
"""Bytes per group of packed samples, and how many of them each of its samples needs."""


def is_uncompressed(storage: int) -> bool:
    """Whether :func:`decoded` reads the storage format."""
    return storage in _BYTES or storage in _PACKED


def samples_in(storage: int, size: int) -> int:
    """Number of samples in ``size`` bytes of an uncompressed storage format."""
    if storage in _BYTES:
        return size // _BYTES[storage]
    group, needed = _PACKED[storage]
    return size // group * len(needed) + sum(size % group >= count for count in needed)


def bytes_of(storage: int, samples: int) -> int:
    """Number of bytes that the first ``samples`` samples of an uncompressed storage format take."""
    if storage in _BYTES:
        return samples * _BYTES[storage]
    group, needed = _PACKED[storage]
    rest = samples % len(needed)
    return samples // len(needed) * group + (needed[rest - 1] if rest else 0)


def decoded(data: bytes, storage: int, samples: int) -> AnyInts:
    """The first ``samples`` samples of an uncompressed signal file, in its order.

    Parameters
    ----------
    data
        At least :func:`bytes_of` bytes from the first sample on.
    storage
        A format accepted by :func:`is_uncompressed`. Samples of format 8 are still differences.
    samples
        Number of samples; the result has shape ``(samples,)``.
    """
    data = data[: bytes_of(storage, samples)]
    if storage in _PACKED:
        group = _PACKED[storage][0]
        return _unpacked(data + bytes(-len(data) % group), storage).reshape(-1)[:samples]
    if storage == 24:
        wide = np.zeros((samples, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(samples, 3)
        return wide.view("<i4").reshape(samples) >> 8
    if storage in (80, 160):
        unsigned = np.frombuffer(data, dtype="u1" if storage == 80 else "<u2").astype(np.int32)
        return unsigned - (2**7 if storage == 80 else 2**15)
    return np.frombuffer(data, dtype={8: "i1", 16: "<i2", 32: "<i4", 61: ">i2"}[storage])


def _unpacked(data: bytes, storage: int) -> npt.NDArray[np.int32]:
    """Samples of whole groups, shape ``(groups, samples in a group)``."""
    if storage == 212:
        low, mixed, high = np.frombuffer(data, dtype=np.uint8).astype(np.int32).reshape(-1, 3).T
        return _signed(np.stack([low | (mixed & 0x0F) << 8, high | (mixed & 0xF0) << 4], axis=1), 12)
    if storage == 310:
        one, two = np.frombuffer(data, dtype="<u2").astype(np.int32).reshape(-1, 2).T
        return _signed(np.stack([one >> 1, two >> 1, one >> 11 | two >> 11 << 5], axis=1), 10)
    word = np.frombuffer(data, dtype="<u4")
    return _signed(np.stack([word, word >> 10, word >> 20], axis=1).astype(np.int32), 10)


def _signed(values: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.int32]:
    """The low ``bits`` bits of each value as a two's complement integer."""
    half = 1 << (bits - 1)
    return ((values & (2 * half - 1)) ^ half) - half


_STREAMINFO_END = 42
_UNUSED_BITS = {"PCM_S8": ("int16", 8), "PCM_16": ("int16", 0), "PCM_24": ("int32", 8)}
_CHUNK = 1 << 20


def flac_samples(file: File, channels: int) -> int:
    """Samples per channel that the FLAC file claims (STREAMINFO, RFC 9639 section 8.2).

    Raises
    ------
    MalformedFile
        Not a FLAC file, or not of this many channels.
    """
    with file.open("rb") as stream:
        head = stream.read(_STREAMINFO_END)
    if len(head) < _STREAMINFO_END or head[:4] != b"fLaC":
        raise MalformedFile(f"{file.name} is not a FLAC file")
    packed = int.from_bytes(head[18:26], "big")
    found = (packed >> 41 & 0x7) + 1
    if found != channels:
        raise MalformedFile(f"{file.name} holds {found} signals, the header describes {channels}")
    return packed & 0xFFFFFFFFF


def flac_signals(file: File, samples: int, bits: int) -> AnyInts:
    """Raw samples, shape ``(samples, signals)``.

    Parameters
    ----------
    file
        A file that :func:`flac_samples` accepts.
    samples
        Samples to read per signal; libsndfile reads them in chunks, because it fails on large blocks.
    bits
        Maximum number of bits per sample: 8, 16 or 24.

    Raises
    ------
    MalformedFile
        The file is damaged, truncated or of a higher resolution.
    """
    import soundfile

    try:
        with soundfile.SoundFile(openable(file)) as stream:
            dtype, unused = _UNUSED_BITS.get(stream.subtype, ("", 0))
            if not dtype or int(stream.subtype.removeprefix("PCM_").lstrip("S")) > bits:
                raise MalformedFile(
                    f"{file.name} holds {stream.subtype} samples, the header says {bits} bits"
                )
            block = np.empty((samples, stream.channels), dtype=dtype)
            done = 0
            while done < samples:
                read = len(stream.read(out=block[done : done + _CHUNK]))
                if read == 0:
                    break
                done += read
    except soundfile.LibsndfileError as error:
        raise MalformedFile(f"{file.name} cannot be decoded: {error.error_string}") from error
    if done < samples:
        raise MalformedFile(
            f"{file.name} is truncated: {done} of {samples} samples can be decoded", code="truncated_file"
        )
    return block >> unused if unused else block


def offset_flac_signals(lines: Sequence[SignalLine], file: File, frames: int) -> list[AnyInts]:
    """Raw samples of the signals that share ``file``, shape ``(frames * samples per frame,)``.

    Raises
    ------
    MalformedFile
        The signal file does not match the header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3.1 about how wfdb uses it
        import wfdb

    name = f"s{file.suffix}"
    with tempfile.TemporaryDirectory(prefix="ibt-wfdb-") as folder:
        _put(file, Path(folder, name))
        header = [f"r {len(lines)} 1 {frames}"]
        for number, line in enumerate(lines):
            header.append(f"{name} {line.format}x{line.per_frame}+{line.offset} 1(0)/mV 0 0 0 0 0 c{number}")
        Path(folder, "r.hea").write_text("\n".join(header) + "\n")
        try:
            record = wfdb.rdrecord(str(Path(folder, "r")), smooth_frames=False)
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, OverflowError, EOFError) as error:
            reason = str(error).replace(folder, "").splitlines()
            raise MalformedFile(
                f"the signal files do not match the header ({reason[0] if reason else type(error).__name__})"
            ) from error
    signals: list[AnyInts] = []
    for raw, line in zip(record.e_p_signal, lines, strict=True):
        if len(raw) != frames * line.per_frame:
            raise MalformedFile("a signal file is truncated", code="truncated_file")
        filled, invalid = np.asarray(raw, dtype=np.float64), INVALID[line.format]
        if invalid is not None:
            filled = np.nan_to_num(filled, nan=invalid)
        signals.append(filled.astype(np.int64))
    return signals


def _put(source: File, target: Path) -> None:
    """Make ``source`` available at ``target``: a link, or a copy if it is in memory or links are barred."""
    if not isinstance(source, Path):
        target.write_bytes(source.read_bytes())
        return
    try:
        target.symlink_to(source.absolute())
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)
