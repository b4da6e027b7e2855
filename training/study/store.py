"""Results that are computed once and kept on disk, whole or not at all, while what they come from stays."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
KEY = "key"


def kept(path: Path, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays of ``make()``, read from ``path`` where they were made under the same ``key``.

    Parameters
    ----------
    path
        An ``.npz`` file.
    key
        Everything that the arrays depend on: hashes, names, versions; JSON can hold it.
    make
        Called where there is no such file, or one with another key, or a damaged one.
    """
    wanted = json.dumps(key, sort_keys=True)
    found = _read(path)
    if found is not None and str(found.pop(KEY, "")) == wanted:
        return found
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **{KEY: np.array(wanted)}, **made)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return made


def _read(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file that holds either the old or the new text, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
