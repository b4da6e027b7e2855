"""Parquet tables with false footers: found by fuzzing, made here byte by byte."""

from __future__ import annotations

import json
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.guard import bounded

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import columns, read
from ibt_deploy.records import Recording

ROWS = 12
COUNT = b"\x16" + bytes([2 * ROWS])
"""The number of rows in the footer: a 64-bit integer of Thrift's compact protocol, zigzag."""


def stored(rows: int = ROWS) -> bytes:
    stream = BytesIO()
    columns = {name: [80.0] * rows for name in ("HR", "O2Sat", "Temp", "SBP", "MAP", "Resp", "Age")}
    table = pa.table({"ICULOS": [float(i + 1) for i in range(rows)], **columns})
    pq.write_table(table, stream, store_schema=False)
    return stream.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(MemoryFolder({"a.parquet": data}) / "a.parquet")
    assert "\n" not in caught.value.message
    return caught.value.code


def test_the_table_is_read() -> None:
    assert len(read(MemoryFolder({"a.parquet": stored()}) / "a.parquet")) == 1


@pytest.mark.parametrize(
    ("claimed", "code"),
    [(2 * ROWS + 2, "truncated_file"), (2 * ROWS - 1, "bad_header")],
    ids=["more", "negative"],
)
def test_a_number_of_rows_that_no_column_has(claimed: int, code: str) -> None:
    footer = stored().rindex(b"schema")  # the name of the root, before the number of rows
    data = stored()
    assert refused(data[:footer] + data[footer:].replace(COUNT, b"\x16" + bytes([claimed]), 1)) == code


def test_a_column_name_that_is_no_text() -> None:
    assert refused(stored().replace(b"O2Sat", b"\x80\xffSat")) == "malformed_file"


def test_a_small_file_that_stands_for_too_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_UNPROVEN", 1 << 10)
    monkeypatch.setattr(columns, "MAX_RATIO", 2)
    assert refused(stored(5000)) == "table_too_large"


def recorded(names: list[str], rows: int = 500, **description: object) -> bytes:
    stream = BytesIO()
    about = {"version": 1, "unit": "mV", "sampling_rate": 500} | description
    columns = [pa.array([0.5 * i] * rows) for i in range(len(names))]
    schema = pa.schema([(name, pa.float64()) for name in names], {"ibt_recording": json.dumps(about)})
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), stream)
    return stream.getvalue()


def test_a_recording_is_read_lead_by_lead() -> None:
    (found,) = read(MemoryFolder({"a.parquet": recorded(["I", "II", "V1"])}) / "a.parquet")
    assert isinstance(found, Recording)
    assert (found.leads, found.sampling_rate) == (("I", "II", "V1"), 500.0)
    assert found.signal[:, 0].tolist() == [0.0, 0.5, 1.0]


def test_a_recording_with_a_lead_twice() -> None:
    assert refused(recorded(["I", "II", "I"])) == "doubled_lead"


def test_a_small_recording_that_stands_for_hours_takes_its_own_size_alone() -> None:
    data = recorded(["I", "II"], rows=4_000_000)
    file = MemoryFolder({"a.parquet": data}) / "a.parquet"
    assert len(data) < 500_000
    with bounded(seconds=20, megabytes=256):
        (found,) = read(file)
    assert isinstance(found, Recording)
    assert found.signal.nbytes == 64_000_000
