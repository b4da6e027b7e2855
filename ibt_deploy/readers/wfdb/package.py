"""FLAC signal files whose first samples are to be skipped, read by the wfdb package.

wfdb refuses headers that users have (record names with a dot) and fills in what a header leaves out. It is
therefore given a header of our own making, in a private folder with a link to the signal file. With its gain
of 1 and baseline of 0 its physical values are the raw ones.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File
from ibt_deploy.readers.wfdb.header import SignalLine
from ibt_deploy.readers.wfdb.storage import INVALID
from ibt_deploy.types import AnyInts


def signals_of(lines: Sequence[SignalLine], file: File, frames: int) -> list[AnyInts]:
    """Raw samples of the signals that share ``file``, shape ``(frames * samples per frame,)``.

    Raises
    ------
    MalformedFile
        The signal file does not hold what the header says.
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
    """Make ``source`` appear at ``target``: a link; a copy of what is in memory or where links are barred."""
    if not isinstance(source, Path):
        target.write_bytes(source.read_bytes())
        return
    try:
        target.symlink_to(source.absolute())
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)
