"""SCP-ECG recordings (EN 1064, ISO 11073-91064, AAMI EC71): sections 0 to 6, read as millivolts.

The parser is our own: of those in the Python registry (looked at in late 2026) none undoes bimodal
compression and bounds what a damaged file makes it allocate.
"""

from __future__ import annotations

from typing import Any

from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File
from ibt_deploy.readers.scp.record import (
    MAX_BYTES,
    ScpRecord,
    header_of,
    looks_like_record,
    record_of,
)
from ibt_deploy.readers.scp.rhythm import rhythm_of
from ibt_deploy.records import Notice, Recording

NAME = "SCP-ECG"
TASK = "arrhythmia"

SIGNAL_SECTIONS = frozenset({2, 3, 4, 5, 6})


def sniff(file: File, head: bytes) -> bool:  # noqa: ARG001
    """Whether ``head`` begins with section 0 of EN 1064; files called ``.scp`` often are something else."""
    return looks_like_record(head)


def read(file: File) -> list[Recording]:
    """Read the rhythm of section 6.

    A wrong checksum is warned of where the writer gets none right. Where others of the file are right, it
    means damage, and the file is refused if a section that makes the signal is concerned.

    Raises
    ------
    InputError
        See :func:`record_of` and :func:`rhythm_of`; MalformedFile ``damaged_file`` for a wrong checksum.
    """
    with file.open("rb") as stream:
        record = record_of(stream.read(MAX_BYTES + 1))
    warnings = _checksum_warnings(record)
    rhythm = rhythm_of(record)
    header = header_of(record.bodies.get(1, b""))
    return [
        Recording(
            signal=rhythm.signal,
            sampling_rate=rhythm.rate,
            leads=rhythm.leads,
            record_id=file.stem,
            source=str(file),
            format=NAME,
            age=header.age,
            sex=header.sex,
            recorded=header.recorded,
            device=header.device,
            notes=rhythm.notes,
            warnings=tuple(warnings),
        )
    ]


def _checksum_warnings(record: ScpRecord) -> list[Notice]:
    damaged = SIGNAL_SECTIONS.intersection(record.wrong)
    if damaged and record.right:
        which = ", ".join(map(str, sorted(damaged)))
        raise MalformedFile(
            f"damaged: the checksum of section {which} is wrong, others are right", code="damaged_file"
        )
    if not (record.wrong or record.record_wrong):
        return []
    return [
        Notice("checksum_differs", "not the record's checksum: damaged, or the writer computes it wrongly")
    ]


def outline(file: File) -> dict[str, Any]:
    """The sections with their sizes, and what section 1 states."""
    with file.open("rb") as stream:
        record = record_of(stream.read(MAX_BYTES + 1))
    header = header_of(record.bodies.get(1, b""))
    return {
        "recorded": None if header.recorded is None else header.recorded.isoformat(),
        "device": header.device,
        "sections": [f"{number}: {len(body)} bytes" for number, body in sorted(record.bodies.items())],
    }
