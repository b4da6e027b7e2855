"""The plan of a run: its inputs, one per line in a file, and the parts into which they are cut.

The file is written before anything is scored. Its SHA-256 is the fingerprint of the inputs: their paths,
sizes and times of last change, in order. Contents are not hashed, which would mean to read everything twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibt_deploy.batch.listing import Entry, from_line, source_of, to_line

PARTS_AIMED_AT = 128
FEWEST_IN_PART, MOST_IN_PART = 64, 1024


@dataclass(frozen=True)
class Plan:
    """The inputs of a run and how they are cut.

    Attributes
    ----------
    path
        Of the file with the entries.
    fingerprint
        Its SHA-256.
    inputs
        Entries.
    per_part
        Entries in each part but the last.
    starts
        Where each part begins in the file, in bytes.
    """

    path: str
    fingerprint: str
    inputs: int
    per_part: int
    starts: tuple[int, ...]

    def __len__(self) -> int:
        """Number of parts."""
        return len(self.starts)

    def size_of(self, part: int) -> int:
        """Number of entries of a part."""
        return min(self.per_part, self.inputs - part * self.per_part)

    def entries(self, part: int) -> Iterator[Entry]:
        """Entries of a part, in order."""
        with Path(self.path).open("rb") as stream:
            stream.seek(self.starts[part])
            for _ in range(self.size_of(part)):
                yield from_line(stream.readline())


def written_plan(path: Path, entries: Iterable[Entry]) -> Plan:
    """Write the entries to ``path`` and cut them."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for entry in entries:
            line = to_line(entry)
            digest.update(line)
            stream.write(line)
    return _cut(path, digest.hexdigest())


def stored_plan(path: Path) -> Plan:
    """The plan in a file that :func:`written_plan` wrote."""
    with path.open("rb") as stream:
        return _cut(path, hashlib.file_digest(stream, "sha256").hexdigest())


def part_size(inputs: int, fewest: int = FEWEST_IN_PART) -> int:
    """Inputs in a part: enough parts to share among workers and to lose little, each worth its overhead.

    It depends on the number of inputs alone, so that any machine cuts alike.
    """
    return min(MOST_IN_PART, max(fewest, -(-inputs // PARTS_AIMED_AT)))


def _cut(path: Path, fingerprint: str) -> Plan:
    with path.open("rb") as stream:
        count = sum(1 for _ in stream)
        size = part_size(count)
        starts = []
        stream.seek(0)
        for number in range(count):
            if number % size == 0:
                starts.append(stream.tell())
            stream.readline()
    return Plan(str(path), fingerprint, count, size, tuple(starts))


def difference(before: Path, now: Path) -> dict[str, Any]:
    """How two plans differ: numbers of inputs that are new, gone or changed, and an example."""
    old, new = _by_source(before), _by_source(now)
    added = [s for s in new if s not in old]
    gone = [s for s in old if s not in new]
    changed = [s for s in new if s in old and old[s] != new[s]]
    example = next(iter((*changed, *gone, *added)), None)
    return {"added": len(added), "gone": len(gone), "changed": len(changed), "example": example}


def _by_source(path: Path) -> dict[str, bytes]:
    with path.open("rb") as stream:
        return {source_of(from_line(line)): line for line in stream}
