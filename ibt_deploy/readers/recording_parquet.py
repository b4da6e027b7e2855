"""Recordings in Parquet as written by ``ibt convert``: one column of millivolts per lead."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ibt_deploy.errors import BadSampling, MalformedFile, MissingLeads, TooLong, first_line, require
from ibt_deploy.files import File, openable
from ibt_deploy.readers.stated import device_of, moment_of_iso
from ibt_deploy.records import Recording

NAME = "Parquet (recording)"
TASK = "arrhythmia"

KEY = b"ibt_recording"
VERSION = 1
MAX_VALUES = 20_000_000
_MAGIC = b"PAR1"
_LARGEST_FOOTER = 1 << 20


def sniff(file: File, head: bytes) -> bool:
    """Whether the footer of a Parquet file holds our description; tables of stays have none."""
    if not head.startswith(_MAGIC):
        return False
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(size - 8, 0))
        footer = int.from_bytes(stream.read(4), "little")
        stream.seek(max(size - 8 - min(footer, _LARGEST_FOOTER), 0))
        return KEY in stream.read(_LARGEST_FOOTER)


def read(file: File) -> list[Recording]:
    """Read the recording.

    Raises
    ------
    MalformedFile, BadSampling, MissingLeads, TooLong
        Damaged, no description or rate, a lead twice, or more than :data:`MAX_VALUES`.
    MissingExtra
        pyarrow is not installed.
    """
    require("reading Parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(openable(file))
        names = table.schema_arrow.names
        values = table.metadata.num_rows * len(names)
        if values > MAX_VALUES:
            raise TooLong(
                f"{table.metadata.num_rows} samples of {len(names)} leads", code="recording_too_long"
            )
        if not values:
            raise MalformedFile("holds no samples", code="empty_file")
        described = _description(table.schema_arrow.metadata or {})
        if not all(pa.types.is_floating(column) for column in table.schema_arrow.types):
            raise MalformedFile("a lead is not a column of floating-point numbers", code="not_numbers")
        if len(set(names)) < len(names):
            raise MissingLeads("a lead occurs twice", code="doubled_lead")
        signal = np.empty((len(names), table.metadata.num_rows))
        for row, name in zip(signal, names, strict=True):  # one at a time, for bounded memory
            row[:] = table.read(columns=[name]).column(0).to_numpy()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedFile(f"cannot be read as Parquet: {first_line(error)[:200]}") from error
    rate = described.get("sampling_rate")
    if not isinstance(rate, int | float) or not 0 < rate < 1e7:
        raise BadSampling("the description states no sampling rate", code="missing_rate")
    age, sex, dx = described.get("age"), described.get("sex"), described.get("dx")
    return [
        Recording(
            signal=signal,
            sampling_rate=float(rate),
            leads=tuple(names),
            record_id=file.stem,
            source=str(file),
            format=NAME,
            dx=tuple(map(str, dx)) if isinstance(dx, list) else None,
            age=float(age) if isinstance(age, int | float) else None,
            sex=sex if isinstance(sex, str) else None,
            recorded=moment_of_iso(str(described.get("recorded") or "")),
            device=device_of(str(described.get("device") or "")),
        )
    ]


def _description(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    described: Any = json.loads(metadata.get(KEY, b"null"))
    if not isinstance(described, dict) or (described.get("version"), described.get("unit")) != (
        VERSION,
        "mV",
    ):
        raise MalformedFile("has no description that this version understands", code="bad_header")
    return described
