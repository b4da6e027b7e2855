"""The rarer WFDB storage formats, skewed signals and several rates in one record, through the wfdb package.

wfdb refuses headers that users have (record names with a dot) and fills in what a header leaves out. It is
therefore given a header of our own making, in a private folder with links to the signal files. With its gain
of 1 and baseline of 0 wfdb's physical values are the raw ones (asked for raw ones it fails on format 80).
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File
from ibt_deploy.readers.wfdb_header import Header
from ibt_deploy.readers.wfdb_storage import INVALID


def raw_signals(header: Header, files: list[File], frames: int) -> list[npt.NDArray[np.integer]]:
    """Raw samples of each signal, skew undone, shape ``(frames * samples per frame,)``.

    Raises
    ------
    MalformedFile
        A signal file does not hold what the header says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3.1 about how wfdb uses it
        import wfdb

    names = {file: f"s{number}{file.suffix}" for number, file in enumerate(dict.fromkeys(files))}
    with tempfile.TemporaryDirectory(prefix="ibt-wfdb-") as folder:
        for file, name in names.items():
            _put(file, Path(folder, name))
        Path(folder, "r.hea").write_text(_header_text(header, [names[file] for file in files], frames))
        try:
            record = wfdb.rdrecord(str(Path(folder, "r")), smooth_frames=False)
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, OverflowError, EOFError) as error:
            reason = str(error).replace(folder, "").splitlines()
            raise MalformedFile(
                f"the signal files do not match the header ({reason[0] if reason else type(error).__name__})"
            ) from error
    signals: list[npt.NDArray[np.integer]] = []
    for raw, line in zip(record.e_p_signal, header.signals, strict=True):
        if len(raw) != frames * line.per_frame:
            raise MalformedFile("a signal file is truncated", code="truncated_file")
        signals.append(np.where(np.isnan(raw), INVALID[line.format], raw).astype(np.int64))
    return signals


def _header_text(header: Header, names: list[str], frames: int) -> str:
    """The header as wfdb likes it, under the record name ``r``."""
    lines = [f"r {len(header.signals)} {header.rate:.12g} {frames}"]
    for number, (signal, name) in enumerate(zip(header.signals, names, strict=True)):
        storage = f"{signal.format}x{signal.per_frame}:{signal.skew}+{signal.offset}"
        lines.append(f"{name} {storage} 1(0)/mV 0 0 {signal.first or 0} {signal.checksum or 0} 0 c{number}")
    return "\n".join(lines) + "\n"


def _put(source: File, target: Path) -> None:
    """Make ``source`` appear at ``target``: a link; a copy of what is in memory or where links are barred."""
    if not isinstance(source, Path):
        target.write_bytes(source.read_bytes())
        return
    try:
        target.symlink_to(source.absolute())
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)
