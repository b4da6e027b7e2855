"""Read stays from an export of a hospital standard: MEDS, OMOP CDM in DuckDB, FHIR R4.

The work is done by :mod:`ibt_deploy.standards`; a folder with OMOP tables or shards is read as one export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from ibt_deploy.errors import InputError, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.stays import all_or_error
from ibt_deploy.records import Stay

NAME = "stays in a hospital standard (MEDS, OMOP CDM, FHIR R4)"
TASK = "sepsis"
THREADS = 1


def sniff(file: File, head: bytes) -> bool:
    """Whether a file, or a folder (``head`` is empty then), is an export of a hospital standard."""
    from ibt_deploy.standards.exports import found_export, standard_of

    if isinstance(file, Path) and file.is_dir():
        return found_export(_files(file)) is not None
    return standard_of(file, head) is not None


def read(file: File) -> list[Stay]:
    """All stays of an export, in order of name.

    Raises
    ------
    InputError
        The export, or any stay in it, is refused.
    MissingExtra
        DuckDB, pyarrow or pint is not installed.
    """
    return all_or_error(read_each(file))


def read_each(file: File) -> Iterator[Stay | InputError]:
    """One answer per stay of an export: the stay, or the reason for its refusal.

    Raises
    ------
    InputError
        The export as a whole is refused.
    MissingExtra
        DuckDB, pyarrow or pint is not installed.
    """
    from ibt_deploy.standards.exports import found_export, opened

    files = _files(file) if isinstance(file, Path) and file.is_dir() else [file]
    export = found_export(files)
    if export is None:
        raise UnsupportedFormat("this is not an export of MEDS, OMOP CDM or FHIR R4")
    with tempfile.TemporaryDirectory(prefix="ibt-") as folder:
        stays = opened(export, Path(folder), source=str(file), threads=THREADS)
        yield from stays.read_stays(0, len(stays))
        yield from stays.refused()


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
