"""Which of the files that lie side by side are one record.

A WFDB record is a header and its signal files, an array may have a sidecar that says what is in it.
Everything else is a record of its own, so that a file which no reader knows is refused and not overlooked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

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
"""Files that are records of their own even where a WFDB header has the same stem."""
SIDECAR_SUFFIXES = frozenset((".json", ".toml"))
DESCRIBED_SUFFIXES = frozenset((".npy", ".npz", ".mat", ".csv", ".tsv", ".txt", ".bin", ".dat"))
"""Files that a sidecar of the same stem describes."""

LAYOUTS = frozenset(("layout.toml", "layout.json"))
"""Sidecars of every such file in their folder (docs/formats.md)."""

Group = tuple[str, tuple[str, ...]]
"""Name of the file to read, and the names of those that belong to it."""


def grouped(names: Iterable[str], header_text: Callable[[str], str]) -> list[Group]:
    """The records among files of one folder, in order of their names.

    Parameters
    ----------
    names
        Plain names.
    header_text
        Text of a WFDB header; asked only where names alone leave a file without a record.
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
    """Header of each of the ``loose`` files that a header names as its signal file."""
    wanted = set(loose)
    found: dict[str, str] = {}
    for header in headers:
        for line in header_text(header).splitlines():
            word = line.split(maxsplit=1)[:1]
            if word and word[0] in wanted:
                found.setdefault(word[0], header)
    return found
