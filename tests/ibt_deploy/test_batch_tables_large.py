"""Large tables: refused by their first rows if these suffice, with progress shown while they are read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from helpers.patient_tables import HEADER, MAPPING, MEMORY_MB, STAMPS, row

from ibt_deploy.batch.tables import open as opening
from ibt_deploy.batch.tables import survey
from ibt_deploy.batch.tables.open import first_look, open_tables
from ibt_deploy.batch.tables.sql import LEAST_MB, engine
from ibt_deploy.errors import BatchError, InputError
from ibt_deploy.mapping import parse_mapping
from ibt_deploy.progress import BytesRead

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")


def test_a_huge_file_that_is_no_text_is_refused_by_its_beginning(tmp_path: Path) -> None:
    huge = tmp_path / "a.csv"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "b.csv").write_text(f"{HEADER}\n{row('x', 1)}\n")
    tables = open_tables([huge, tmp_path / "b.csv"], None, work=tmp_path / "w", memory_mb=1024)
    assert [(path, code) for path, code, _ in tables.report.refused_files] == [(str(huge), "not_text")]


def large(path: Path, lines: int = 400, gigabytes: int = 50) -> Path:
    """A table whose first rows are real and whose size is that of an export of years; it takes no room."""
    text = "\n".join([HEADER, *(row(f"p{i % 40}", i // 40 + 1) for i in range(lines)), ""])
    path.write_text(text, encoding="utf-8")
    with path.open("r+b") as file:
        file.truncate(gigabytes << 30)
    return path


def never(*_: object) -> None:
    raise AssertionError("all of it would be read")


def test_a_missing_column_is_said_before_a_large_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey._Counts, "add", never)
    mapping = parse_mapping(MAPPING.format(time=STAMPS).encode())
    with pytest.raises(InputError) as caught:
        open_tables([large(tmp_path / "a.csv")], mapping, work=tmp_path / "w", memory_mb=MEMORY_MB)
    assert caught.value.code == "missing_columns"


def test_a_unit_is_doubted_before_a_large_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path / "a.csv")
    monkeypatch.setattr(opening, "EXCERPT_BYTES", 12_000)
    found = first_look([path], None, work=tmp_path / "w", memory_mb=MEMORY_MB)
    assert found is not None
    assert (found.doubts, found.patients, found.rows > 200) == ((), 40, True)
    with path.open("r+b") as file:
        text = file.read(12_000)
        file.seek(0)
        file.write(text.replace(b",80,", b",08,").replace(b",37,", b",98,"))
    found = first_look([path], None, work=tmp_path / "w", memory_mb=MEMORY_MB)
    assert found is not None
    with pytest.raises(InputError, match=r"HR.*Temp"):
        found.require_plausible()
    with pytest.raises(InputError, match=r"^Temp: the median 98 is unusual") as caught:
        found.require_plausible(of_a_part=True)
    assert "HR" not in caught.value.message, "no other unit explains it: all rows decide"
    assert not (tmp_path / "w" / "look").exists()


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_the_first_rows_of_every_kind_of_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    import pandas as pd

    lines = "\n".join([HEADER, *(row(f"p{i % 40}", i // 40 + 1) for i in range(400)), ""])
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pd.read_csv(io.StringIO(lines)).to_parquet(path)
    elif ending == ".csv":
        path.write_text(lines)
    else:
        path.write_bytes(gzip.compress(lines.encode()))
    assert first_look([path], None, work=tmp_path / "w", memory_mb=MEMORY_MB) is None, "it is small"
    monkeypatch.setattr(opening, "LARGE", 1)
    monkeypatch.setattr(opening, "EXCERPT_BYTES", 4000)
    monkeypatch.setattr(opening, "EXCERPT_ROWS", 100)
    found = first_look([path], None, work=tmp_path / "w", memory_mb=MEMORY_MB)
    assert found is not None
    assert 20 < found.rows < 400
    (tmp_path / f"none{ending}").write_bytes(bytes(100))
    assert first_look([tmp_path / f"none{ending}"], None, work=tmp_path / "w", memory_mb=MEMORY_MB) is None
    assert first_look([tmp_path / f"absent{ending}"], None, work=tmp_path / "w", memory_mb=MEMORY_MB) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_how_far_the_reading_is(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    now = iter(range(0, 1000, 40))
    monkeypatch.setattr("ibt_deploy.progress.monotonic", lambda: next(now))
    read = BytesRead(2_000_000_000, stream)
    read(500_000_000)
    read(500_000_000)
    read.end()
    line = "reading the tables: 1.0 of 2.0 GB (50 %)"
    said = stream.getvalue()
    assert said.removesuffix("\x1b[?25h").endswith("\n")
    assert line in said if terminal else said.splitlines()[-1] == f"ibt batch: {line}"
    small = io.StringIO()
    BytesRead(1000, small)(1000)
    assert small.getvalue() == ""


def test_a_full_disk_is_named_without_the_advice_of_the_engine(tmp_path: Path) -> None:
    query = (
        "SET max_temp_directory_size = '1MiB';"
        "CREATE TABLE sorted AS SELECT hash(range) AS a, hash(range + 1) AS b FROM range(20000000) ORDER BY a"
    )
    with pytest.raises(BatchError) as caught, engine(tmp_path, LEAST_MB, 1) as connection:
        connection.execute(query)
    assert str(caught.value).startswith(f"{tmp_path}: this disk is full")
    assert len(str(caught.value)) < len(str(tmp_path)) + 100
