"""The packed cache: a folder that appears whole or not at all, with a hash of everything in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
SUMMARY = "cache.json"


@dataclass(frozen=True)
class Refused:
    """An input that did not enter the cache, and why."""

    file: str
    code: str
    message: str


@dataclass(frozen=True)
class CacheSummary:
    """What a cache holds.

    Attributes
    ----------
    folder
        Where it is.
    records
        Recordings or stays.
    counts
        Further counts, by name.
    refused
        What did not enter.
    sha256
        Hash over the names and hashes of all files.
    """

    folder: Path
    records: int
    counts: Mapping[str, int]
    refused: tuple[Refused, ...]
    sha256: str


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

    Of ``source`` only its name is kept, not where it lay.
    """
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
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
