"""The cache of ICU stays: data survive the round trip, and writing is atomic."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ibt_deploy.errors import DataError
from ibt_deploy.vocabulary import NAMES
from training.data import stays as module
from training.data.stays import prepare
from training.recipe import Recipe
from training.tasks import open_source

pytest.importorskip("pyarrow")


def frame(patient: str, hospital: str, hours: int, onset: int | None = None, first: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(hours)
    rows = pd.DataFrame(rng.uniform(1, 100, (hours, 40)).round(2).astype(np.float32), columns=list(NAMES))
    rows = rows.mask(rng.random(rows.shape) < 0.7)
    rows["ICULOS"] = np.arange(first, first + hours, dtype=np.float32)
    rows["SepsisLabel"] = (np.arange(hours) >= (hours if onset is None else onset)).astype(np.int8)
    rows.insert(0, "patient_id", patient)
    rows.insert(1, "hospital", hospital)
    return rows


def good() -> list[pd.DataFrame]:
    return [
        frame("p100007", "B", 12, onset=0),
        frame("p000003", "A", 9),
        frame("p000001", "A", 20, onset=15, first=4),
        frame("p100001", "B", 336),
    ]


def write_tree(folder: Path, frames: list[pd.DataFrame]) -> Path:
    for rows in frames:
        place = folder / f"training_set{rows['hospital'].iloc[0]}"
        place.mkdir(parents=True, exist_ok=True)
        text = rows.drop(columns=["patient_id", "hospital"])
        text.to_csv(place / f"{rows['patient_id'].iloc[0]}.psv", sep="|", index=False, na_rep="NaN")
    return folder


def write_parquet(path: Path, frames: list[pd.DataFrame]) -> Path:
    pd.concat(frames).to_parquet(path, index=False)
    return path


def stored(cache: Path) -> tuple[pd.DataFrame, dict[str, tuple[np.ndarray, np.ndarray]]]:
    index = pd.read_csv(cache / "index.csv", dtype={"hospital": str})
    stays = {}
    for entry in index.itertuples():
        with np.load(cache / f"rows-{entry.piece:03d}.npz", allow_pickle=False) as piece:
            span = slice(entry.start, entry.start + entry.length)
            stays[entry.patient] = piece["values"][span], piece["labels"][span]
    return index, stays


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_rows_come_out_as_they_went_in_sorted_by_patient(tmp_path: Path, write) -> None:
    frames = good()
    summary = prepare(write(tmp_path / "source", frames), tmp_path / "cache")
    index, stays = stored(tmp_path / "cache")
    assert index.columns.tolist() == ["patient", "hospital", "piece", "start", "length", "septic"]
    assert index["patient"].tolist() == ["p000001", "p000003", "p100001", "p100007"]
    assert index["hospital"].tolist() == ["A", "A", "B", "B"]
    assert index["septic"].tolist() == [1, 0, 0, 1]
    for rows in frames:
        values, labels = stays[rows["patient_id"].iloc[0]]
        assert (values.dtype, labels.dtype) == (np.float32, np.int8)
        np.testing.assert_array_equal(values, rows[list(NAMES)].to_numpy(np.float32))
        np.testing.assert_array_equal(labels, rows["SepsisLabel"])
    assert summary.records == 4
    assert summary.counts == {"rows": 377, "septic": 2, "positive_rows": 17}
    assert summary.refused == ()


def test_a_tree_and_a_parquet_file_in_any_order_give_the_same_hash(tmp_path: Path) -> None:
    frames = good()
    tree = prepare(write_tree(tmp_path / "tree", frames), tmp_path / "a")
    table = prepare(write_parquet(tmp_path / "table", frames[::-1]), tmp_path / "b")
    assert tree.sha256 == table.sha256


def test_the_summary_states_the_hash_of_every_file_and_no_path(tmp_path: Path) -> None:
    summary = prepare(write_tree(tmp_path / "source", good()), tmp_path / "cache")
    written = json.loads((tmp_path / "cache/cache.json").read_text())
    assert (written["schema"], written["task"], written["created_from"]) == (1, "sepsis", "source")
    assert written["preprocessing"] == {"name": "raw", "version": "1.0.0"}
    assert sorted(written["files"]) == ["index.csv", "rows-000.npz"]
    for name, file in written["files"].items():
        content = (tmp_path / "cache" / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    lines = "".join(f"{name} {written['files'][name]['sha256']}\n" for name in sorted(written["files"]))
    assert summary.sha256 == written["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert str(tmp_path) not in json.dumps(written)


def test_stays_are_split_into_pieces_but_never_inside_a_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_PIECE", 340)
    prepare(write_tree(tmp_path / "source", good()), tmp_path / "cache")
    index, stays = stored(tmp_path / "cache")
    assert index["piece"].tolist() == [0, 0, 1, 2]
    assert index["start"].tolist() == [0, 20, 0, 0]
    assert [len(stays[patient][1]) for patient in index["patient"]] == [20, 9, 336, 12]


def broken() -> list[tuple[pd.DataFrame, str]]:
    gap, doubled, late, label, falling, infinite, first = (frame(f"p00001{i}", "A", 10) for i in range(7))
    gap.loc[5:, "ICULOS"] += 1
    doubled.loc[5:, "ICULOS"] -= 1
    late["ICULOS"] += 330
    label["SepsisLabel"] = 2
    falling["SepsisLabel"] = [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    infinite.loc[3, "HR"] = np.inf
    first.loc[0, "ICULOS"] = np.nan
    codes = (
        "hours_missing",
        "hours_out_of_order",
        "bad_hour",
        "bad_label",
        "label_falls_back",
        "infinite",
        "bad_hour",
    )
    return list(zip((gap, doubled, late, label, falling, infinite, first), codes, strict=True))


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_broken_stays_are_listed_and_left_out(tmp_path: Path, write) -> None:
    frames = [*good(), *(rows for rows, _ in broken())]
    summary = prepare(write(tmp_path / "source", frames), tmp_path / "cache")
    assert [entry.code for entry in summary.refused] == [code for _, code in broken()]
    assert stored(tmp_path / "cache")[0]["patient"].tolist() == ["p000001", "p000003", "p100001", "p100007"]
    listed = json.loads((tmp_path / "cache/cache.json").read_text())["refused"]
    assert "p000010" in listed[0]["file"]
    assert listed[0] | {"file": ""} == {
        "file": "",
        "code": "hours_missing",
        "message": "hours are missing between rows",
    }


def test_damaged_and_doubled_files_of_a_tree_are_listed(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", good())
    place = source / "training_setA"
    (place / "p000020.psv").write_text("")
    (place / "p000021.psv").write_text("HR|ICULOS|SepsisLabel\n80|1|0\n")
    (place / "p000022.psv").write_text("|".join([*NAMES, "SepsisLabel"]) + "\n")
    (place / "p000023.psv").write_text("|".join([*NAMES, "SepsisLabel"]) + "\n" + "x|" * 40 + "0\n")
    (place / "p000024.psv").write_bytes(b"\xff\xfe\x00")
    (source / "p000001.psv").write_bytes((place / "p000001.psv").read_bytes())
    seen: list[tuple[int, int]] = []
    summary = prepare(source, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert {entry.file: entry.code for entry in summary.refused} == {
        "training_setA/p000001.psv": "doubled_patient",
        "training_setA/p000020.psv": "empty_file",
        "training_setA/p000021.psv": "missing_columns",
        "training_setA/p000022.psv": "too_short",
        "training_setA/p000023.psv": "not_a_number",
        "training_setA/p000024.psv": "malformed_file",
    }
    assert seen == [(done, 10) for done in range(1, 11)]
    assert stored(tmp_path / "cache")[0]["hospital"].tolist()[0] == "unknown"


def test_sources_without_stays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    write_parquet(tmp_path / "narrow.parquet", [good()[0][["patient_id", "HR"]]])
    only_broken = write_tree(tmp_path / "broken", [broken()[0][0]])
    for source, message in (
        (tmp_path / "empty", "holds no .psv file"),
        (tmp_path / "nowhere", "neither a Parquet file nor a folder"),
        (tmp_path / "text.parquet", "cannot be read as Parquet"),
        (tmp_path / "narrow.parquet", "lacks the columns O2Sat"),
        (only_broken, "no usable stay among 1"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(source, tmp_path / "cache")
        assert not (tmp_path / "cache").exists()


def test_a_cache_is_replaced_and_any_other_folder_is_left_alone(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", good())
    first = prepare(source, tmp_path / "cache")
    (tmp_path / "cache/rows-009.npz").write_text("left over")
    assert prepare(source, tmp_path / "cache").sha256 == first.sha256
    assert not (tmp_path / "cache/rows-009.npz").exists()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.txt").write_text("years")
    with pytest.raises(DataError, match="is not a cache"):
        prepare(source, tmp_path / "work")
    assert (tmp_path / "work/thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "source", "work"]


def test_a_failure_leaves_the_old_cache_and_no_rest(tmp_path: Path, monkeypatch) -> None:
    source = write_tree(tmp_path / "source", good())
    first = prepare(source, tmp_path / "cache")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "_write_piece", full_disk)
    with pytest.raises(OSError, match="no space"):
        prepare(source, tmp_path / "cache")
    assert json.loads((tmp_path / "cache/cache.json").read_text())["sha256"] == first.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "source"]


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_inputs_alone_make_a_cache_for_external_tests_that_training_refuses(tmp_path: Path, write) -> None:
    frames = [rows.drop(columns="SepsisLabel") for rows in good()]
    source = write(tmp_path / ("stays.parquet" if write is write_parquet else "stays"), frames)
    with pytest.raises(DataError, match="SepsisLabel"):
        prepare(source, tmp_path / "labelled")
    summary = prepare(source, tmp_path / "cache", unlabelled=True)
    assert (summary.counts["unlabelled"], summary.counts["septic"]) == (4, 0)
    _, stays = stored(tmp_path / "cache")
    assert all((labels == -1).all() for _, labels in stays.values())
    with pytest.raises(DataError, match="without labels"):
        open_source(Recipe("sepsis", "teacher"), tmp_path / "cache")
