"""From a data set to a cache with its split: the task is detected, the packaged split used if it fits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from training.data import prepare as module
from training.data.cache import open_cache
from training.data.prepare import data_set_of, prepare, split_lines, write_cache_split
from training.data.split import packaged_split, read_split, write_split


@pytest.fixture
def stay_copy(stays: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(stays, tmp_path / "cache"))
    (copy / "split.csv").unlink()
    return copy


def test_the_task_is_found_from_the_files(tmp_path: Path) -> None:
    recordings, stays, both = tmp_path / "r", tmp_path / "s", tmp_path / "b"
    for path in (
        recordings / "g1" / "a.hea",
        stays / "training_setA" / "p1.psv",
        both / "a.hea",
        both / "p.psv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = tmp_path / "p19.parquet"
    table.touch()
    assert data_set_of(recordings).TASK == "arrhythmia"
    assert data_set_of(stays).TASK == "sepsis"
    assert data_set_of(table).TASK == "sepsis"
    with pytest.raises(DataError, match="give the folder of one of them"):
        data_set_of(both)
    with pytest.raises(DataError, match="no such file or folder"):
        data_set_of(tmp_path / "none")
    with pytest.raises(DataError, match="is not a data set"):
        data_set_of(recordings / "g1" / "a.hea")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither"):
        data_set_of(tmp_path / "empty")


def test_sources_of_recordings_cannot_be_chosen_for_stays(tmp_path: Path) -> None:
    table = tmp_path / "p19.parquet"
    table.touch()
    with pytest.raises(DataError, match="recordings only"):
        prepare(table, tmp_path / "out", exclude=["ludb"])


def test_splits_are_given_drawn_or_packaged(
    stay_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(stay_copy)
    drawn = write_cache_split(cache)
    assert drawn.origin == "drawn with seed 0"
    assert drawn.sha256 == file_sha256(stay_copy / "split.csv")
    np.testing.assert_array_equal(drawn.parts, read_split(stay_copy / "split.csv", cache.ids))
    other = write_cache_split(cache, seed=5)
    assert other.sha256 != drawn.sha256

    given = tmp_path / "given.csv"
    write_split(given, cache.ids, np.arange(60) % 3)
    copied = write_cache_split(cache, given)
    assert copied.sha256 == file_sha256(given)
    assert "given.csv" in copied.origin

    monkeypatch.setattr(module, "packaged_split", lambda task: given)
    packaged = write_cache_split(cache)
    assert "packaged" in packaged.origin
    assert packaged.sha256 == file_sha256(given)
    assert "drawn" in write_cache_split(cache, seed=0).origin


def test_a_split_of_other_ids_is_refused_and_a_packaged_one_passed_over(
    stay_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(stay_copy)
    foreign = tmp_path / "foreign.csv"
    write_split(foreign, [f"q{i}" for i in range(60)], np.arange(60) % 3)
    with pytest.raises(DataError, match="have no part"):
        write_cache_split(cache, foreign)
    monkeypatch.setattr(module, "packaged_split", lambda task: foreign)
    assert write_cache_split(cache).origin == "drawn with seed 0"


def test_a_split_is_looked_for_before_the_work(tmp_path: Path, stays: Path) -> None:
    with pytest.raises(DataError, match="no such split"):
        prepare(tmp_path, tmp_path / "out", split=tmp_path / "none.csv")
    with pytest.raises(DataError, match="lies in the cache that is replaced"):
        prepare(tmp_path, stays, split=stays / "split.csv")


def test_packaged_splits_are_there() -> None:
    for task in ("arrhythmia", "sepsis"):
        assert packaged_split(task) is not None
    assert packaged_split("diabetes") is None


def test_reports_count_every_part_and_name_what_cannot_be_evaluated(
    ecgs: Path, stay_copy: Path, tmp_path: Path
) -> None:
    ecg_copy = Path(shutil.copytree(ecgs, tmp_path / "ecg"))
    cache = open_cache(ecg_copy)
    lines = split_lines(cache, write_cache_split(cache, None, 0))
    table = {line.split()[0]: line.split()[1:] for line in lines[2:-1]}
    assert sum(map(int, table["recordings"])) == 60
    assert table["AF"][:3] == ["0", "0", "0"]
    assert table["AF"][3:] == ["not", "evaluable"]
    labels = np.load(ecgs / "labels.npy")
    assert sum(map(int, table["STach"][:3])) == (labels[:, 23] == 1).sum()
    assert lines[-1].startswith("not evaluable, with fewer than 5 positives in some part: AF")

    cache = open_cache(stay_copy)
    lines = split_lines(cache, write_cache_split(cache, None, 0))
    table = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert sum(int(n) for n in table["stays"]) == 60
    assert sum(int(n) for n in table["septic"]) == 20
    assert sum(int(n.replace(",", "")) for n in table["rows"]) == cache.index["length"].sum()
