"""A cache is opened only if it is complete and matches its manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ibt_deploy.errors import DataError
from training.data.cache import open_cache


@pytest.fixture
def cache(stays: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stays, tmp_path / "cache"))


def test_a_whole_cache_opens(cache: Path, ecgs: Path) -> None:
    opened = open_cache(cache)
    assert opened.task == "sepsis"
    assert len(opened.index) == 60
    assert opened.index["patient"].iloc[0] == "p000000"
    assert opened.sha256 == json.loads((cache / "cache.json").read_text())["sha256"]
    assert open_cache(ecgs).task == "arrhythmia"


def test_missing_and_altered_files_are_refused(cache: Path) -> None:
    rows = cache / "rows-000.npz"
    content = bytearray(rows.read_bytes())
    content[100] ^= 1
    rows.write_bytes(content)
    with pytest.raises(DataError, match=r"rows-000\.npz: missing or altered"):
        open_cache(cache)
    rows.unlink()
    with pytest.raises(DataError, match=r"rows-000\.npz: missing or altered"):
        open_cache(cache)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 1, "files": []}', '{"schema": 1, "files": {"a": 3}}']
)
def test_a_damaged_summary_is_refused(cache: Path, content: str) -> None:
    (cache / "cache.json").write_text(content)
    with pytest.raises(DataError, match="is not the summary of a cache"):
        open_cache(cache)


def test_another_schema_is_refused(cache: Path) -> None:
    summary = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**summary, "schema": 2}))
    with pytest.raises(DataError, match="schema 2"):
        open_cache(cache)


def test_a_folder_without_a_cache_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ibt train prepare"):
        open_cache(tmp_path)
