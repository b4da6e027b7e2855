from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import recording, stay, write_header, write_psv
from sklearn.metrics import average_precision_score, roc_auc_score

from ibt_deploy.errors import DataError
from ibt_deploy.evaluation import LabelTable, source_of
from ibt_deploy.evaluation import ecg as recordings
from ibt_deploy.evaluation import stay as of_stays
from ibt_deploy.metrics.arrhythmia import challenge_metric
from ibt_deploy.metrics.sepsis import utility
from ibt_deploy.predictor import Predictor
from ibt_deploy.vocabulary import CLASSES, INDEX, INDEX_OF_CODE

AF, NSR, LAD = "164889003", "426783006", "39732003"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, dx in enumerate([AF, NSR, f"{NSR},{LAD}", LAD, "12345", AF]):
        where = tmp_path / "records" / f"g{seed % 2}"
        where.mkdir(parents=True, exist_ok=True)
        write_header(where, recording(seed=seed), dx)
    return tmp_path / "records"


def test_labels_come_from_the_headers(ecg: Predictor, folder: Path) -> None:
    source = source_of(folder)
    assert source.task == "arrhythmia"
    scored = recordings.scored_recordings(ecg, source.files, None)
    order = [int(name.removeprefix("r")) for name in scored.records]
    expected = np.zeros((6, 26), dtype=bool)
    for i, codes in enumerate([[AF], [NSR], [NSR, LAD], [LAD], [], [AF]]):
        expected[i, [INDEX_OF_CODE[c] for c in codes]] = True
    np.testing.assert_array_equal(scored.labels, expected[order])


def test_measures_are_those_of_the_metrics(ecg: Predictor, folder: Path) -> None:
    scored = recordings.scored_recordings(ecg, source_of(folder).files, None)
    found = recordings.evaluated(ecg, scored, "here", draws=50).to_dict()
    measures = found["measures"]
    assert measures["challenge_metric"]["value"] == pytest.approx(
        challenge_metric(scored.labels, scored.outputs), abs=1e-6
    )
    occurring = scored.labels.any(axis=0)
    expected = roc_auc_score(scored.labels[:, occurring], scored.probabilities[:, occurring], average="macro")
    assert measures["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    low, high = measures["auroc"]["interval"]
    assert low <= measures["auroc"]["value"] <= high
    assert found["counts"] == {"recordings": 6, "patients": 6, "refused": 0}
    by_class = {row["name"]: row for row in found["groups"]["classes"]}
    assert by_class["AF"]["positives"] == 2
    assert by_class["BBB"]["auroc"] is None
    assert by_class["BBB"]["evaluable"] is False
    json.dumps(found, allow_nan=False)


def test_a_table_gives_labels_patients_and_sources(ecg: Predictor, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"records/g{i % 2}/r{i}.hea,{AF if i < 3 else NSR},p{i // 2},s{i % 2}" for i in range(5)]
    table.write_text("\n".join(["file,dx,patient,source", *rows, ""]))
    scored = recordings.scored_recordings(ecg, source_of(folder).files, LabelTable(table))
    assert scored.labels[:, INDEX_OF_CODE[AF]].sum() == 3
    assert sorted(scored.patients.tolist()) == [0, 0, 1, 1, 2]
    assert [r.code for r in scored.refusals] == ["no_label"]
    groups = recordings.evaluated(ecg, scored, "here", draws=10).to_dict()["groups"]
    assert [(row["name"], row["recordings"]) for row in groups["sources"]] == [("s0", 3), ("s1", 2)]


def test_a_table_may_name_records(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"record,dx\nr0,{AF}|{NSR}\nr1,\nr3,['{LAD}']\n")
    labels = LabelTable(table)
    found = labels.of(recording(seed=0))
    assert found is not None
    assert found.codes == (AF, NSR)
    assert labels.of(recording(seed=1)) is None
    assert labels.of(recording(seed=2)) is None
    bracketed = labels.of(recording(seed=3))
    assert bracketed is not None
    assert bracketed.codes == (LAD,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("record\nr0\n", "needs a column 'dx'"),
        ("dx\n1\n", "'record' or 'file'"),
        ("record,dx\nr0,426783006\nr0,164889003\n", "line 3 names r0 a second time"),
        ("record,dx\n,426783006\n", "line 2 names neither"),
        ("record,dx\nr0,426783006\nr1,AF\n", "line 3: 'AF' in dx is not a SNOMED CT code"),
        ("record,dx\nr0,4.27E+08\n", "line 2: '4' in dx is not a SNOMED"),
        ("record,dx\nr0,426783006.0\n", "line 2: '0' in dx is not a SNOMED"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        LabelTable(tmp_path / "labels.csv")


def test_a_folder_must_hold_one_task(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither recordings"):
        source_of(_empty(tmp_path))
    write_psv(folder, stay())
    with pytest.raises(DataError, match="both"):
        source_of(folder)


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def septic(hours: int, onset: int | None) -> np.ndarray:
    labels = np.zeros(hours, dtype=np.int8)
    if onset is not None:
        labels[onset:] = 1
    return labels


def test_the_reason_that_no_stay_is_left(
    stays: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stays.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"1 refused; 1 missing_extra: .*pip install"):
        of_stays.scored_stays(stays, [path])
    with pytest.raises(DataError, match="the data hold none"):
        of_stays.scored_stays(stays, [])


def test_stays_are_scored_with_the_official_measures(stays: Predictor, tmp_path: Path) -> None:
    expected_labels, lengths = [], []
    for seed, onset in enumerate([None, 20, None, 5]):
        labels = septic(30, onset)
        given = stay(30, seed, labels=labels)
        write_psv(tmp_path, given)
        expected_labels.append(labels)
        lengths.append(30)
    scored = of_stays.scored_stays(stays, source_of(tmp_path).files)
    assert scored.patients == ("p0", "p1", "p2", "p3")
    np.testing.assert_array_equal(scored.labels, np.concatenate(expected_labels) > 0)
    expected_risk = [stays.predict(tmp_path / f"p{i}.psv").risk for i in range(4)]  # type: ignore[union-attr]
    np.testing.assert_allclose(scored.risk, np.concatenate(expected_risk), atol=1e-5)
    found = of_stays.evaluated(stays, scored, "here", draws=20).to_dict()
    measures = {name: entry["value"] for name, entry in found["measures"].items()}
    threshold = stays.thresholds[0]
    assert measures["utility"] == pytest.approx(
        utility(scored.labels, scored.risk >= threshold, np.cumsum([0, *lengths])), abs=1e-6
    )
    assert measures["auroc"] == pytest.approx(roc_auc_score(scored.labels, scored.risk), abs=1e-6)
    assert measures["auprc"] == pytest.approx(average_precision_score(scored.labels, scored.risk), abs=1e-6)
    assert measures["threshold"] == pytest.approx(threshold)
    assert 0 <= measures["ppv"] <= 1
    assert found["counts"] == {"stays": 4, "septic": 2, "hours": 120, "refused": 0}
    assert found["groups"] == {}
    json.dumps(found, allow_nan=False)


def test_inserted_hours_enter_nothing(stays: Predictor, tmp_path: Path) -> None:
    given = stay(20, labels=septic(20, 12))
    path = write_psv(tmp_path, given)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], *lines[8:], ""]))
    scored = of_stays.scored_stays(stays, [path])
    assert scored.unlabelled == 2
    np.testing.assert_array_equal(scored.hours, [1, 2, 3, 4, 5, *range(8, 21)])
    np.testing.assert_array_equal(scored.labels, np.delete(septic(20, 12), [5, 6]) > 0)


def test_stays_without_labels_are_refused(stays: Predictor, tmp_path: Path) -> None:
    write_psv(tmp_path, stay(9, 0))
    with pytest.raises(DataError, match="1 refused"):
        of_stays.scored_stays(stays, source_of(tmp_path).files)
    write_psv(tmp_path, stay(9, 1, labels=septic(9, None)))
    scored = of_stays.scored_stays(stays, source_of(tmp_path).files)
    assert [r.code for r in scored.refusals] == ["no_label"]
    found = of_stays.evaluated(stays, scored, "here", draws=5).to_dict()
    assert found["measures"]["utility"]["value"] is None
    assert any("septic" in note for note in found["notes"])


def test_hospitals_are_kept_apart(stays: Predictor, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = ["patient_id,hospital," + ",".join([*INDEX, "SepsisLabel"])]
    for patient, hospital in (("a", "A"), ("b", "B"), ("c", "B")):
        for hour, row in enumerate(stay(12, ord(patient)).values):
            cells = ["" if np.isnan(v) else f"{v:.8g}" for v in row]
            rows.append(f"{patient},{hospital},{','.join(cells)},{int(patient != 'c' and hour > 6)}")
    table.write_text("\n".join([*rows, ""]))
    scored = of_stays.scored_stays(stays, source_of(table).files)
    groups = of_stays.evaluated(stays, scored, "here", draws=5).to_dict()["groups"]
    found = [(row["name"], row["stays"], row["septic"], row["hours"]) for row in groups["hospitals"]]
    assert found == [("A", 1, 1, 12), ("B", 2, 1, 24)]


def test_the_classes_are_in_the_official_order(ecg: Predictor, folder: Path) -> None:
    scored = recordings.scored_recordings(ecg, source_of(folder).files, None)
    groups = recordings.evaluated(ecg, scored, "here", draws=5).to_dict()["groups"]
    assert [row["name"] for row in groups["classes"]] == [c.abbreviation for c in CLASSES]
