"""Parquet: one column of unchanged millivolts per lead, and a description in the metadata."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

from ibt_deploy.errors import UnsupportedFormat, require
from ibt_deploy.readers.recording_parquet import KEY, VERSION
from ibt_deploy.records import Recording

NAME = "Parquet (recording)"


def encoded(recording: Recording, path: Path) -> dict[Path, bytes]:
    """Encode the file; 64-bit floats in mV, null for missing samples.

    Raises
    ------
    UnsupportedFormat
        Two leads have the same name.
    MissingExtra
        pyarrow is not installed.
    """
    require("writing Parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(set(recording.leads)) < len(recording.leads):
        raise UnsupportedFormat("two leads have one name", code="not_representable")
    described = {
        "version": VERSION,
        "unit": "mV",
        "sampling_rate": recording.sampling_rate,
        "record_id": recording.record_id,
        "read_as": recording.format,
        "age": recording.age,
        "sex": recording.sex,
        "recorded": None if recording.recorded is None else recording.recorded.isoformat(),
        "device": recording.device,
        "dx": None if recording.dx is None else list(recording.dx),
    }
    columns = [pa.array(row, from_pandas=True) for row in recording.signal]
    table = pa.Table.from_arrays(columns, names=list(recording.leads))
    out = BytesIO()
    pq.write_table(
        table.replace_schema_metadata({KEY: json.dumps(described).encode()}), out, compression="zstd"
    )
    return {path: out.getvalue()}
