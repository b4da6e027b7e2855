"""Open a packed cache that ``ibt train prepare`` has written; needs numpy and pandas alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ibt_deploy.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class Cache:
    """A verified cache: its folder, manifest and index."""

    folder: Path
    manifest: dict[str, Any]
    index: pd.DataFrame

    @property
    def task(self) -> str:
        """``arrhythmia`` or ``sepsis``."""
        return str(self.manifest["task"])

    @property
    def sha256(self) -> str:
        """Hash of the content."""
        return str(self.manifest["sha256"])


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_cache(folder: Path) -> Cache:
    """Read and verify the cache in ``folder``; DataError if a file is missing or altered."""
    path = folder / "cache.json"
    if not path.is_file():
        raise DataError(f"{folder}: no cache.json here; make a cache with `ibt train prepare`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, files = manifest["schema"], {n: e["sha256"] for n, e in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not the summary of a cache; make the cache anew") from error
    if schema != SCHEMA:
        raise DataError(f"{path}: is of schema {schema}, this ibt reads {SCHEMA}; make the cache anew")
    for name, sha256 in files.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != sha256:
            raise DataError(f"{file}: missing or altered since the cache was made")
    index = pd.read_csv(folder / "index.csv", dtype={"record": str, "patient": str, "group": str})
    return Cache(folder, manifest, index)
