"""Write recordings in other formats; a file is found whole under its name or not at all.

A writer is a module of this package with ``NAME`` and ``encoded(recording, path)``, which gives the bytes of
every file by its path, the one to be named last. Nothing is written before all of it is known to fit.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.files import atomic_write
from ibt_deploy.records import Recording


class Writer(Protocol):
    """What a writer module offers."""

    NAME: str

    def encoded(self, recording: Recording, path: Path) -> dict[Path, bytes]:
        """The files that hold ``recording``, ``path`` last."""


WRITERS: dict[str, str] = {".hea": "wfdb", ".dcm": "dicom", ".parquet": "parquet"}
"""Writer modules by the suffix of what they write."""


def write(recording: Recording, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write ``recording`` to ``path`` in the format of its suffix.

    Parameters
    ----------
    recording
        What to write.
    path
        A name that ends in ``.hea``, ``.dcm`` or ``.parquet``.
    overwrite
        Replace what is there.

    Returns
    -------
    The files written, ``path`` last.

    Raises
    ------
    InputError
        UnsupportedFormat: no such format, or it cannot hold the recording (``not_representable``).
    FileExistsError
        Something is there and ``overwrite`` is not set.
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
            raise FileExistsError(f"{file} is there already")
    for file, content in files.items():
        atomic_write(file, content)
    return list(files)
