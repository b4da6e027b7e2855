"""WFDB records written by hand, so that every fault in them is deliberate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibt_deploy.vocabulary import LEADS

Raw = npt.NDArray[np.int16]


def raw_ecg(samples: int = 5000, rate: float = 500.0, seed: int = 0) -> Raw:
    """12 leads in microvolts, shape ``(12, samples)``: beats and noise, limb leads by Einthoven's law."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    beat = 1000 * np.exp(-(((time % 0.8) - 0.4) ** 2) / (2 * 0.015**2))
    one, two, *chest = (
        gain * beat + rng.normal(0, 15, samples) for gain in (0.6, 1.0, -0.7, -0.3, 0.4, 0.9, 1.1, 0.8)
    )
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.rint(np.array([*limb, *chest])).astype(np.int16)


def header_lines(
    raw: Raw, *, name: str, file: str, storage: str, gain: str, leads: Sequence[str], rate: str = "500"
) -> list[str]:
    """A header: the record line, and one line for each signal."""
    lines = [f"{name} {len(raw)} {rate} {raw.shape[1]}"]
    for lead, samples in zip(leads, raw, strict=True):
        checksum = int(samples.sum(dtype=np.int64)) % 65536
        lines.append(f"{file} {storage} {gain} 16 0 {samples[0]} {checksum} 0 {lead}")
    return lines


def write_record(
    folder: Path,
    raw: Raw | None = None,
    *,
    stem: str = "r1",
    name: str | None = None,
    storage: str = "16",
    gain: str = "1000(0)/mV",
    leads: Sequence[str] = LEADS,
    rate: str = "500",
    comments: Sequence[str] = (),
    replace: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write header and signal file (``.mat`` with its 24 bytes for ``16+24``, else ``.dat``).

    ``replace`` alters the text of the finished header. Returns the path of the header.
    """
    raw = raw_ecg() if raw is None else raw
    matlab = "+24" in storage
    file = f"{stem}.mat" if matlab else f"{stem}.dat"
    lines = header_lines(
        raw, name=name or stem, file=file, storage=storage, gain=gain, leads=leads, rate=rate
    )
    text = "\n".join([*lines, *comments]) + "\n"
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    prefix = np.array([30, len(raw), raw.shape[1], 0, 4], "<i4").tobytes() + b"val\0" if matlab else b""
    (folder / file).write_bytes(prefix + raw.T.astype("<i2").tobytes())
    path = folder / f"{stem}.hea"
    path.write_text(text, encoding="utf-8")
    return path
