"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ibt_deploy.errors import DataError


@contextmanager
def replaced_folder(out: Path, marker: str, kind: str) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the block ends without an error.

    Parameters
    ----------
    out
        The folder to make; one of the same kind is replaced, anything else is left alone.
    marker
        Name of the file by which a folder of this kind is known.
    kind
        What it is called in an error, e.g. ``"cache"``.

    Raises
    ------
    DataError
        ``out`` exists, is not empty and is of another kind.
    """
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not a {kind}; choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
