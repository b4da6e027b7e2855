"""The job, which determines the bytes of a run, and the plan, a file that lists its inputs one per line.

The plan is written before anything is scored. Its SHA-256 is the fingerprint of the inputs: their paths,
sizes and modification times, in order. Contents are not hashed: that would read everything twice.

A WFDB record is a header and its signal files, and a sidecar may describe an array; :func:`grouped` puts such
files into one entry. Every other file is an entry of its own, so that a file that no reader knows is refused
rather than overlooked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.errors import BundleError
from ibt_deploy.files import file_sha256
from ibt_deploy.types import Task

Format = Literal["parquet", "csv", "jsonl", "fhir"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "jsonl", "fhir")
LINES: tuple[Format, ...] = ("jsonl", "fhir")
"""Formats with one answer per line; the others are tables."""

LAYOUT = 2
"""Version of the output layout; raised when the same run would be written differently."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that determines the output of a run; equal jobs give equal bytes.

    Attributes
    ----------
    task, bundle, bundle_name, bundle_version, bundle_sha256
        The model; ``bundle`` is the directory it is loaded from.
    variant, operating_point, device
        How the model is used; ``device`` is the one actually used.
    format
        Format of the parts.
    inputs
        Fingerprint of the inputs.
    n_inputs, n_parts
        Recordings to read, or patients to score, and the parts they are cut into.
    mapping
        SHA-256 of the mapping file, or nothing.
    layout, ibt, onnxruntime
        Versions.
    """

    task: Task
    bundle: str
    bundle_name: str
    bundle_version: str
    bundle_sha256: str
    variant: str
    operating_point: str
    device: str
    format: Format
    inputs: str
    n_inputs: int
    n_parts: int
    mapping: str
    layout: int
    ibt: str
    onnxruntime: str

    def to_json(self) -> str:
        """The job as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job from :meth:`to_json` output; raises ValueError if the text is not a job."""
        stored = json.loads(text)
        try:
            return cls(**stored)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def differences(self, other: Job) -> list[str]:
        """Differences from ``other`` that change the output, one phrase each; ``bundle`` may move."""
        return [
            f"{_WORDS.get(f.name, f.name)} was {_short(getattr(self, f.name))}, "
            f"is {_short(getattr(other, f.name))}"
            for f in fields(self)
            if f.name not in ("bundle", "n_inputs", "n_parts")
            and getattr(self, f.name) != getattr(other, f.name)
        ]

    def model_columns(self) -> dict[str, str]:
        """Columns that identify the model in the output."""
        return {
            "bundle": self.bundle_name,
            "version": self.bundle_version,
            "sha256": self.bundle_sha256,
            "variant": self.variant,
            "operating_point": self.operating_point,
            "device": self.device,
        }

    def load_bundle(self) -> Bundle:
        """Load the bundle of this job; raises BundleError if it has changed."""
        found = load_bundle(self.bundle)
        if found.sha256 != self.bundle_sha256:
            raise BundleError(f"{self.bundle}: the bundle was changed while it was in use")
        return found


_WORDS: dict[str, Any] = {
    "inputs": "the fingerprint of the inputs",
    "bundle_sha256": "the hash of the bundle",
    "mapping": "the hash of the mapping",
    "layout": "the layout of the output",
    "ibt": "ibt",
    "device": "the device",
}


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:12] if len(text) == 64 else text


Stamp: TypeAlias = tuple[int, int]
"""Size in bytes and modification time in nanoseconds, which identify an input."""
HEADER = ".hea"
RECORD_SUFFIXES = frozenset(
    (
        *(
            ".dcm",
            ".xml",
            ".scp",
            ".ecg",
            ".edf",
            ".bdf",
            ".rec",
            ".asc",
            ".npy",
            ".npz",
            ".csv",
            ".tsv",
            ".psv",
            ".txt",
        ),
        *(".parquet", ".zip", ".tar", ".gz", ".tgz", ".zst", ".tzst"),
    )
)
"""Files that are records in their own right even if a WFDB header has the same stem."""
SIDECAR_SUFFIXES = frozenset((".json", ".toml"))
DESCRIBED_SUFFIXES = frozenset((".npy", ".npz", ".mat", ".csv", ".tsv", ".txt", ".bin", ".dat"))
"""Files that a sidecar of the same stem describes."""
LAYOUTS = frozenset(("layout.toml", "layout.json"))
"""Sidecars that describe every such file in their folder (docs/formats.md)."""
Group = tuple[str, tuple[str, ...]]
"""Name of the file to read, and names of its companions."""
PARTS_AIMED_AT = 128
FEWEST_IN_PART, MOST_IN_PART = 64, 1024


@dataclass(frozen=True)
class FileEntry:
    """A file and its companions.

    Attributes
    ----------
    path
        As given, or below the folder as given.
    stamp
        Stamp of the file.
    companions
        Name and stamp of each companion.
    """

    path: str
    stamp: Stamp
    companions: tuple[tuple[str, Stamp], ...] = ()


@dataclass(frozen=True)
class MemberEntry:
    """A record in an archive: the member to read, and its companions.

    Attributes
    ----------
    archive, stamp
        The archive.
    name
        The member to read.
    members
        Name, offset and size of each member of the record; the offset counts uncompressed bytes of a tar
        archive and is 0 in a zip archive.
    inline
        Name and content, as Latin-1, of members of a compressed tar that lie far from the others: going back
        to them would mean decompressing everything again.
    """

    archive: str
    stamp: Stamp
    name: str
    members: tuple[tuple[str, int, int], ...]
    inline: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RefusedEntry:
    """An input that proved unreadable when the inputs were listed."""

    source: str
    code: str
    message: str


Entry: TypeAlias = FileEntry | MemberEntry | RefusedEntry


def source_of(entry: Entry) -> str:
    """The name of an input in answers."""
    if isinstance(entry, FileEntry):
        return entry.path
    return f"{entry.archive}/{entry.name}" if isinstance(entry, MemberEntry) else entry.source


def to_line(entry: Entry) -> bytes:
    """The entry as a line of JSON."""
    if isinstance(entry, FileEntry):
        fields: list[Any] = ["file", entry.path, entry.stamp, entry.companions]
    elif isinstance(entry, MemberEntry):
        fields = ["member", entry.archive, entry.stamp, entry.name, entry.members, entry.inline]
    else:
        fields = ["refused", entry.source, entry.code, entry.message]
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"


def from_line(line: bytes) -> Entry:
    """The entry that :func:`to_line` wrote."""
    kind, *fields = json.loads(line)
    if kind == "file":
        path, stamp, companions = fields
        return FileEntry(path, _stamp(stamp), tuple((name, _stamp(s)) for name, s in companions))
    if kind == "member":
        archive, stamp, name, members, inline = fields
        return MemberEntry(
            archive,
            _stamp(stamp),
            name,
            tuple((n, offset, size) for n, offset, size in members),
            tuple((n, text) for n, text in inline),
        )
    source, code, message = fields
    return RefusedEntry(source, code, message)


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and modification time of a file."""
    return status.st_size, status.st_mtime_ns


def _stamp(fields: list[int]) -> Stamp:
    return fields[0], fields[1]


def grouped(names: Iterable[str], header_text: Callable[[str], str]) -> list[Group]:
    """Group the files of one folder into records, in order of name.

    Parameters
    ----------
    names
        Plain names.
    header_text
        Returns the text of a WFDB header; called only if names alone leave a file without a record.
    """
    everything = sorted(names)
    described_here = any(PurePosixPath(name).suffix.lower() in DESCRIBED_SUFFIXES for name in everything)
    shared = tuple(name for name in everything if name in LAYOUTS) if described_here else ()
    ordered = [name for name in everything if name not in shared]
    paths = {name: PurePosixPath(name) for name in ordered}
    headers = {path.stem: name for name, path in paths.items() if path.suffix.lower() == HEADER}
    described = {p.stem: n for n, p in paths.items() if p.suffix.lower() in DESCRIBED_SUFFIXES}
    owners: dict[str, str] = {}
    alone: list[str] = []
    for name, path in paths.items():
        suffix = path.suffix.lower()
        if suffix == HEADER:
            continue
        owner = None
        if suffix not in RECORD_SUFFIXES:
            owner = headers.get(path.stem) or headers.get(path.stem.rpartition("_")[0])
        if owner is None and suffix in SIDECAR_SUFFIXES:
            owner = described.get(path.stem)
        if owner is None:
            alone.append(name)
        else:
            owners[name] = owner
    loose = [name for name in alone if paths[name].suffix.lower() not in RECORD_SUFFIXES]
    if loose and headers:
        owners |= _named_by_headers(loose, list(headers.values()), header_text)
    belonging: dict[str, list[str]] = {}
    for name, owner in owners.items():
        belonging.setdefault(owner, []).append(name)
    return [
        (
            name,
            (*belonging.get(name, ()), *(shared if paths[name].suffix.lower() in DESCRIBED_SUFFIXES else ())),
        )
        for name in ordered
        if name not in owners
    ]


def _named_by_headers(
    loose: Sequence[str], headers: Sequence[str], header_text: Callable[[str], str]
) -> dict[str, str]:
    """The header of each ``loose`` file that a header names as its signal file."""
    wanted = set(loose)
    found: dict[str, str] = {}
    for header in headers:
        for line in header_text(header).splitlines():
            word = line.split(maxsplit=1)[:1]
            if word and word[0] in wanted:
                found.setdefault(word[0], header)
    return found


@dataclass(frozen=True)
class Plan:
    """The inputs of a run and how they are cut into parts.

    Attributes
    ----------
    path
        The file with the entries.
    fingerprint
        Its SHA-256.
    inputs
        Number of entries.
    per_part
        Entries in each part but the last.
    starts
        Byte offset in the file at which each part begins.
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
        """Number of entries in a part."""
        return min(self.per_part, self.inputs - part * self.per_part)

    def entries(self, part: int) -> Iterator[Entry]:
        """Entries of a part, in order."""
        with Path(self.path).open("rb") as stream:
            stream.seek(self.starts[part])
            for _ in range(self.size_of(part)):
                yield from_line(stream.readline())


def written_plan(path: Path, entries: Iterable[Entry]) -> Plan:
    """Write the entries to ``path`` and cut them into parts."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for entry in entries:
            line = to_line(entry)
            digest.update(line)
            stream.write(line)
    return _cut(path, digest.hexdigest())


def stored_plan(path: Path) -> Plan:
    """The plan in a file written by :func:`written_plan`."""
    return _cut(path, file_sha256(path))


def part_size(inputs: int, fewest: int = FEWEST_IN_PART) -> int:
    """Inputs per part: enough parts to share out and to lose little, each large enough for its overhead.

    It depends on the number of inputs alone, so that any machine makes the same parts.
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
    """Compare two plans: numbers of new, removed and changed inputs, and an example."""
    old, new = _by_source(before), _by_source(now)
    added = [s for s in new if s not in old]
    gone = [s for s in old if s not in new]
    changed = [s for s in new if s in old and old[s] != new[s]]
    example = next(iter((*changed, *gone, *added)), None)
    return {"added": len(added), "gone": len(gone), "changed": len(changed), "example": example}


def _by_source(path: Path) -> dict[str, bytes]:
    with path.open("rb") as stream:
        return {source_of(from_line(line)): line for line in stream}
