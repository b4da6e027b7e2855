"""Readers of other packages: entry points of the group ``ibt.readers`` (docs/formats.md shows one).

They are looked up, once, when no reader of ours knows a file; so they cost nothing otherwise.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "ibt.readers"
OFFERED = ("NAME", "TASK", "sniff", "read")


def third_party_readers() -> tuple[list[Any], list[str]]:
    """The readers that can be loaded, in the order of their names; and what is wrong with the others."""
    readers, faults = [], []
    for entry in _entries():
        loaded = _loaded(entry)
        if isinstance(loaded, _Fault):
            faults.append(f"the reader {entry.name} ({entry.value}) {loaded}")
        else:
            readers.append(loaded)
    return readers, faults


class _Fault(str):
    """Why a reader cannot be used."""

    __slots__ = ()


@cache
def _entries() -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


@cache
def _loaded(entry: EntryPoint) -> Any:
    try:
        reader = entry.load()
    except (ImportError, AttributeError) as error:
        return _Fault(f"cannot be loaded: {error}")
    missing = [name for name in OFFERED if not hasattr(reader, name)]
    if missing:
        return _Fault(f"has no {', '.join(missing)}")
    if reader.TASK not in ("arrhythmia", "sepsis"):
        return _Fault(f"is for the task {str(reader.TASK)[:40]!r}, which there is not")
    return reader
