"""WFDB storage formats 508, 516 and 524: signals compressed as FLAC, decoded by libsndfile."""

from __future__ import annotations

import numpy as np

from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File, openable
from ibt_deploy.types import AnyInts

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
        Samples to read of each signal; libsndfile is asked for them in chunks, as it fails on large blocks.
    bits
        Bits per sample at most: 8, 16 or 24.

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
