"""The packed training cache: a folder written atomically, with a hash of every file in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256

SCHEMA = 1
UNLABELLED = "unlabelled"
"""Key of the record count of a cache made without labels."""


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
    def ids(self) -> list[str]:
        """Names of the recordings or stays, the first column of the index."""
        names: list[str] = self.index.iloc[:, 0].tolist()
        return names

    @property
    def labelled(self) -> bool:
        """Whether anything in it has a label; without labels it is an external set, or for pretraining."""
        return not self.manifest["counts"].get(UNLABELLED)

    @property
    def sha256(self) -> str:
        """Hash of the content."""
        return str(self.manifest["sha256"])


def open_cache(folder: Path) -> Cache:
    """Read and verify the cache in ``folder``; DataError if a file is missing or altered."""
    path = folder / "cache.json"
    if not path.is_file():
        raise DataError(f"{folder}: no cache.json here; make a cache with `ibt train prepare`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, files = manifest["schema"], {n: e["sha256"] for n, e in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not the summary of a cache; prepare the cache again") from error
    if schema != SCHEMA:
        raise DataError(f"{path}: has schema {schema}, this ibt reads {SCHEMA}; prepare the cache again")
    for name, sha256 in files.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != sha256:
            raise DataError(f"{file}: missing or altered since the cache was made")
    index = pd.read_csv(folder / "index.csv", dtype={"record": str, "patient": str, "group": str})
    return Cache(folder, manifest, index)


@contextmanager
def replaced_folder(out: Path, marker: str, kind: str) -> Iterator[Path]:
    """A temporary folder beside ``out`` that replaces it when the block ends without an error.

    Parameters
    ----------
    out
        The folder to make; one of the same kind is replaced, anything else is left alone.
    marker
        Name of the file by which a folder of this kind is recognised.
    kind
        Name of the kind in error messages, e.g. ``"cache"``.

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


SUMMARY = "cache.json"


@dataclass(frozen=True)
class Refused:
    """An input left out of the cache, and why."""

    file: str
    code: str
    message: str


@dataclass(frozen=True)
class CacheSummary:
    """Summary of a cache.

    Attributes
    ----------
    folder
        Where it is.
    records
        Recordings or stays.
    counts
        Further counts, by name.
    refused
        Inputs left out.
    sha256
        Hash over the names and hashes of all files.
    labels
        Index that labels, sources and patients come from, if there is one.
    """

    folder: Path
    records: int
    counts: Mapping[str, int]
    refused: tuple[Refused, ...]
    sha256: str
    labels: Path | None = None


def sealed(
    folder: Path,
    *,
    task: str,
    source: Path,
    preprocessing: Mapping[str, str],
    records: int,
    refused: Sequence[Refused],
    counts: Mapping[str, int],
) -> str:
    """Write ``cache.json`` for the files that ``folder`` holds; returns the hash of the cache.

    Only the name of ``source`` is kept, not its location.
    """
    files = {
        path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    sha256 = hashlib.sha256("".join(f"{name} {file['sha256']}\n" for name, file in files.items()).encode())
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "task": task,
        "created_from": source.resolve().name,
        "preprocessing": dict(preprocessing),
        "records": records,
        "counts": dict(counts),
        "files": files,
        "sha256": sha256.hexdigest(),
        "refused": [asdict(entry) for entry in refused],
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return sha256.hexdigest()
