"""Write recordings in other formats, atomically.

A writer is a module of this package with ``NAME`` and ``encoded(recording, path)``, which returns the bytes
of every file by path, the main file last. Nothing is written until all of it is known to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.files import atomic_write
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats, Int16s


class Writer(Protocol):
    """Interface of a writer module."""

    NAME: str

    def encoded(self, recording: Recording, path: Path) -> dict[Path, bytes]:
        """The files that hold ``recording``, with ``path`` last."""


WRITERS: dict[str, str] = {".hea": "wfdb", ".dcm": "dicom", ".parquet": "parquet"}
"""Writer modules by file suffix."""


def write(recording: Recording, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write ``recording`` to ``path`` in the format of its suffix.

    Parameters
    ----------
    recording
        The recording to write.
    path
        A name that ends in ``.hea``, ``.dcm`` or ``.parquet``.
    overwrite
        Replace existing files.

    Returns
    -------
    The files written, ``path`` last.

    Raises
    ------
    InputError
        UnsupportedFormat: no such format, or it cannot hold the recording (``not_representable``).
    FileExistsError
        A file exists and ``overwrite`` is not set.
    """
    target = Path(path)
    module = WRITERS.get(target.suffix.lower())
    if module is None:
        raise UnsupportedFormat(
            f"{target.suffix or 'a name without suffix'}: recordings are written as {', '.join(WRITERS)}",
            code="unsupported_format",
        )
    writer = cast(Writer, import_module(f"ibt_deploy.writers.{module}"))
    files = writer.encoded(recording, target)
    for file in files:
        if not overwrite and file.exists():
            raise FileExistsError(f"{file} already exists")
    for file, content in files.items():
        atomic_write(file, content)
    return list(files)


INVALID = -(1 << 15)
LARGEST = (1 << 15) - 1
FINEST = 0.01
"""Microvolts; signals that lie on no grid get the finest step of 1, 2 or 5 times a power of ten that fits."""
COARSEST = 5.0
"""Microvolts; a signal that needs a larger step is refused. This is the usual step of electrocardiographs."""
LARGEST_GRID = 500.0
"""Microvolts; a signal with very few levels is not a digitised ECG, and gets its own fine step."""
_ON_GRID = 1e-6


@dataclass(frozen=True, eq=False)
class Quantised:
    """One lead.

    Attributes
    ----------
    raw
        16-bit integers; :data:`INVALID` for a missing sample.
    step
        Microvolts per step; a decimal number of at most 12 digits.
    offset
        Steps to add to ``raw``: microvolts = (raw + offset) * step.
    exact
        Whether the signal lies on the grid, so that nothing is rounded.
    """

    raw: Int16s
    step: float
    offset: int
    exact: bool


def quantised(signal: Floats, lead: str) -> Quantised:
    """Quantise one lead, in millivolts with NaN for missing samples.

    Raises
    ------
    UnsupportedFormat
        Its range requires a step of more than :data:`COARSEST` (``not_representable``).
    """
    microvolts = signal * 1000.0
    valid = microvolts[~np.isnan(microvolts)]
    if not np.isfinite(valid).all():
        raise UnsupportedFormat(f"lead {lead} holds infinite values", code="not_representable")
    if not len(valid):
        return Quantised(np.full(len(signal), INVALID, dtype=np.int16), 1.0, 0, True)
    grid = _grid(valid)
    for step, exact in ([(grid, True)] if grid else []) + [(step, False) for step in _steps()]:
        steps = np.rint(valid / step)
        low, high = float(steps.min()), float(steps.max())
        if high - low <= LARGEST - INVALID - 1 and max(abs(low), abs(high)) < 1 << 31:
            offset = 0 if low > INVALID and high <= LARGEST else round((low + high) / 2)
            raw = np.full(len(signal), INVALID, dtype=np.int16)
            raw[~np.isnan(microvolts)] = steps - offset
            return Quantised(raw, step, offset, exact)
    raise UnsupportedFormat(
        f"lead {lead} spans {np.ptp(valid) / 1000:g} mV, too much for 16 bits in steps of {COARSEST:g} uV",
        code="not_representable",
    )


def _grid(microvolts: Floats) -> float | None:
    """The step of which all values are multiples, within 1e-6 uV; None if there is no useful one."""
    values = np.unique(np.abs(microvolts))
    values = values[values > _ON_GRID]
    if not len(values):
        return 1.0
    step = float(values[0])
    for _ in range(40):  # Euclid's algorithm on all values at once
        if step < FINEST / 10:
            return None
        rest = np.abs(values - np.rint(values / step) * step)
        rest = rest[rest > 1e-5 * step]
        if not len(rest):
            break
        step = float(rest.min())
    multiples = np.rint(values / step)
    step = float((multiples * values).sum() / (multiples * multiples).sum())
    for digits in (6, 9, 12):
        short = float(f"{step:.{digits}g}")
        if short <= LARGEST_GRID and (np.abs(values - multiples * short) <= _ON_GRID).all():
            return short
    return None


def _steps() -> list[float]:
    """1, 2 and 5 times powers of ten, from the finest to the coarsest."""
    steps = [float(f"{digit}e{power}") for power in range(-2, 1) for digit in (1, 2, 5)]
    return [step for step in steps if FINEST <= step <= COARSEST]
