from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import DataError
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.readers.wfdb import read
from ibt_deploy.vocabulary import CLASSES, label_vector
from tests.helpers.wfdb_records import raw_ecg, write_record
from training.data import ecg as module
from training.data.ecg import prepare

LOW_VOLTAGE = [c.abbreviation for c in CLASSES].index("LQRSV")
SINUS, FLUTTER, LOW = "426783006", "164890007", "251146004"


def add(
    root: Path, folder: str, stem: str, dx: str = SINUS, seed: int | None = None, **options: object
) -> Path:
    """A record in ``root/folder``."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.sha256(stem.encode()).hexdigest()[:6], 16) if seed is None else seed
    options.setdefault("raw", raw_ecg(seed=seed))
    return write_record(root / folder, stem=stem, comments=[f"#Dx: {dx}", "#Age: 61"], **options)  # type: ignore[arg-type]


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "index.csv").open(newline="") as stream:
        return {row["record"]: row for row in csv.DictReader(stream)}


def signal_of(out: Path, row: dict[str, str]) -> np.ndarray:
    piece = np.load(out / f"signal-{int(row['piece']):03d}.npy")
    return np.asarray(piece[:, int(row["start"]) : int(row["start"]) + int(row["length"])])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "challenge"
    add(root, "training/cpsc_2018/g1", "A0001", f"{FLUTTER},,{SINUS},")
    add(root, "training/georgia/g1", "E00001", storage="16+24", name="E00001.mat")
    add(root, "WFDB_Ningbo", "JS1", raw=raw_ecg(3500, seed=9))
    add(root, "training/st_petersburg_incart/g1", "I0001")
    add(root, "training/ptb-xl/g1", "HR1", "999999")
    add(root, "training/ptb-xl/g1", "HR2", raw=raw_ecg(1000))
    return root


def test_a_tree(tree: Path, tmp_path: Path) -> None:
    seen = []
    summary = prepare(tree, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["A0001", "E00001", "JS1"]
    assert [row["source"] for row in rows.values()] == ["cpsc_2018", "georgia", "ningbo"]
    assert [row["group"] for row in rows.values()] == ["cpsc_2018:A0001", "georgia:E00001", "ningbo:JS1"]
    assert seen[-1] == (6, 6)
    assert summary.records == 3
    assert summary.counts["excluded_source"] == 1
    assert summary.counts["no_scored_label"] == 1
    assert summary.counts["labels_from_headers"] == 3
    (refused,) = summary.refused
    assert (refused.file, refused.code) == ("training/ptb-xl/g1/HR2.hea", "too_short")
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels[0] == 1, label_vector([FLUTTER, SINUS]))
    for stem, path in (("A0001", "training/cpsc_2018/g1"), ("JS1", "WFDB_Ningbo")):
        expected = standardise(read(tree / path / f"{stem}.hea")[0]).signal * 1000
        got = signal_of(tmp_path / "out", rows[stem])
        assert got.dtype == np.int16
        assert np.abs(got - expected).max() <= 0.5 + 1e-9
    assert rows["JS1"]["length"] == "1400"
    assert rows["A0001"]["age"] == "61"


def test_the_manifest_hashes_every_file(tree: Path, tmp_path: Path) -> None:
    summary = prepare(tree, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "cache.json").read_text())
    assert set(manifest["files"]) == {p.name for p in (tmp_path / "out").iterdir()} - {"cache.json"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["task"] == "arrhythmia"
    assert manifest["sha256"] == summary.sha256
    assert str(tmp_path) not in (tmp_path / "out" / "cache.json").read_text()


def test_the_same_tree_elsewhere_has_the_same_hash(tree: Path, tmp_path: Path) -> None:
    first = prepare(tree, tmp_path / "one")
    moved = tree.rename(tmp_path / "elsewhere")
    assert prepare(moved, tmp_path / "two").sha256 == first.sha256


def test_pieces_stay_below_their_limit(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    prepare(tree, whole)
    monkeypatch.setattr(module, "PIECE_SAMPLES", 3500)
    prepare(tree, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["piece"] for row in rows.values()] == ["0", "1", "1"]
    for stem, row in rows.items():
        np.testing.assert_array_equal(
            signal_of(tmp_path / "out", row), signal_of(whole, rows_of(whole)[stem])
        )


def test_an_index_is_believed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for stem in ("a", "b", "c", "d"):
        add(root, "x", stem)
    (root / "index.csv").write_text(
        "record,source,file,patient,fold,amplitude,age,sex,dx\n"
        f"a,ptb-xl,x/a.hea,7,3,approximate,50,Male,{LOW} {SINUS}\n"
        f"b,ptb-xl,x/b.hea,7,3,mV,51,Male,{LOW}\n"
        f"c,ludb,x/c.hea,,,mV,,,{SINUS}\n"
    )
    summary = prepare(root, tmp_path / "out", exclude=("ludb",))
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["a", "b"]
    assert rows["a"]["group"] == rows["b"]["group"] == "ptb-xl:patient:7"
    assert (rows["a"]["fold"], rows["a"]["amplitude"], rows["a"]["sex"]) == ("3", "approximate", "Male")
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert labels[:, LOW_VOLTAGE].tolist() == [-1, 1]
    assert np.flatnonzero(labels[0] == 1).tolist() == np.flatnonzero(label_vector([SINUS])).tolist()
    assert summary.counts["excluded_source"] == 1
    assert summary.counts["labels_from_index"] == 2
    alone = prepare(root, tmp_path / "only", only=("ludb",))
    assert alone.records == 1


def test_recordings_with_the_same_limb_leads_share_a_group(tmp_path: Path) -> None:
    root = tmp_path / "set"
    add(root, "ptb", "a", seed=1)
    add(root, "georgia", "b", seed=1)
    add(root, "ptb", "c", seed=2)
    flat = raw_ecg(seed=3)
    flat[:2] = 0
    add(root, "ningbo", "d", raw=flat)
    add(root, "ningbo", "e", raw=np.roll(flat, 5, axis=1))
    summary = prepare(root, tmp_path / "out")
    groups = {name: row["group"] for name, row in rows_of(tmp_path / "out").items()}
    assert groups["a"] == groups["b"]
    assert len(set(groups.values())) == 4
    assert summary.counts["duplicate_signals"] == 1


def test_gain_of_the_early_release_is_put_right(tmp_path: Path) -> None:
    root = tmp_path / "set"
    add(root, "georgia", "E1", seed=1, gain="4880/mV")
    add(root, "ptb-xl", "HR1", seed=2, gain="200/mV")
    add(root, "ptb", "S1", seed=3, gain="2000/mV")
    summary = prepare(root, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert summary.counts["gain_corrected"] == 2
    height = {name: np.ptp(signal_of(tmp_path / "out", row)[1]) for name, row in rows.items()}
    assert height["E1"] == pytest.approx(height["HR1"], rel=0.1)
    assert height["S1"] == pytest.approx(height["HR1"] / 2, rel=0.1)


def test_long_recordings_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    add(root, "x", "short")
    add(root, "x", "long", raw=np.tile(raw_ecg(2500, 250), 61), rate="250")
    assert prepare(root, tmp_path / "out").counts["too_long"] == 1


def test_unusable_data_sets(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    with pytest.raises(DataError, match="hea file"):
        prepare(root, tmp_path / "out")
    add(root, "x", "a", "999999")
    with pytest.raises(DataError, match="no usable recording"):
        prepare(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    add(root, "y", "a")
    with pytest.raises(DataError, match="more than once"):
        prepare(root, tmp_path / "out")
    (root / "i.csv").write_text("record,file\na,x/a.hea\n")
    with pytest.raises(DataError, match="needs the columns"):
        prepare(root, tmp_path / "out", labels=root / "i.csv")
    (root / "i.csv").write_text("record,source,file\na,x,../a.hea\n")
    with pytest.raises(DataError, match="outside"):
        prepare(root, tmp_path / "out", labels=root / "i.csv")
    (root / "i.csv").write_text("record,source,file\nb,x,x/b.hea\na,x,y/a.hea\n")
    summary = prepare(root, tmp_path / "out", labels=root / "i.csv")
    assert [entry.code for entry in summary.refused] == ["no_such_file"]


def test_an_index_of_something_else_is_not_believed(tree: Path, tmp_path: Path) -> None:
    (tree / "index.csv").write_text("name,value\na,1\n")
    assert prepare(tree, tmp_path / "out").records == 3


def test_the_shared_recordings(shared: Path, tmp_path: Path) -> None:
    """The small sources of the shared set; labels are those of its index."""
    root = shared / "data" / "ecg"
    sources = ("cpsc_2018", "georgia", "sph")
    summary = prepare(root, tmp_path / "out", only=sources)
    rows = rows_of(tmp_path / "out")
    with (root / "index.csv").open(newline="") as stream:
        listed = {r["record"]: r for r in csv.DictReader(stream) if r["source"] in sources and r["scored"]}
    assert set(rows) == set(listed)
    labels = np.load(tmp_path / "out" / "labels.npy")
    for name, label in zip(rows, labels, strict=True):
        np.testing.assert_array_equal(label == 1, label_vector(listed[name]["scored"].split()))
    assert summary.refused == ()
    assert summary.counts["gain_corrected"] == 13
