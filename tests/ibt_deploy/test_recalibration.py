"""A site's own calibration: fitted if the data suffice, evaluated on others, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import recording, stay, write_header
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.bundle import Calibration, load_bundle
from ibt_deploy.cli import main
from ibt_deploy.errors import BundleError, DataError
from ibt_deploy.evaluation.ecg import ScoredRecordings
from ibt_deploy.evaluation.recalibration import (
    SHIPPED_CARD,
    folds_of,
    recalibrated_recordings,
    recalibrated_stays,
    write_site_bundle,
)
from ibt_deploy.evaluation.stay import ScoredStays
from ibt_deploy.vocabulary import CLASSES, NAMES

HOURS = 30


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def scored_stays(stays: int = 400, shift: float = -1.5, slope: float = 0.7, seed: int = 0) -> ScoredStays:
    """Stays of a site where the true log odds are ``slope * shipped + shift``, hour by hour."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 1.5, (stays, 1)) + rng.normal(0, 0.5, (stays, HOURS)) - 3
    labels = rng.random(log_odds.shape) < sigmoid(slope * log_odds + shift)
    labels[:, 0] = False
    return ScoredStays(
        patients=tuple(f"p{i}" for i in range(stays)),
        hospitals=("",) * stays,
        offsets=np.arange(0, stays * HOURS + 1, HOURS),
        hours=np.tile(np.arange(1, HOURS + 1), stays),
        labels=labels.ravel(),
        risk=sigmoid(log_odds).ravel(),
        refusals=(),
        unlabelled=0,
    )


def scored_recordings(n: int = 400, seed: int = 0, rare: float = 0.01) -> ScoredRecordings:
    """Recordings of two windows; the first three classes are common, the others rare."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1, 1.5, (n, 1, len(CLASSES))) + rng.normal(0, 0.1, (n, 2, len(CLASSES)))
    labels = rng.random((n, len(CLASSES))) < sigmoid(0.5 * log_odds[:, 1] + 1)
    labels[:, 3:] = rng.random((n, len(CLASSES) - 3)) < rare
    windows = sigmoid(log_odds)
    return ScoredRecordings(
        records=tuple(f"r{i}" for i in range(n)),
        patients=np.arange(n),
        labels=labels,
        probabilities=windows.mean(axis=1),
        outputs=labels,
        windows=tuple(windows),
        sources=("",) * n,
        refusals=(),
        without_patient=0,
    )


def test_the_line_of_a_site_is_found_and_probabilities_become_right(stay_bundle: Path) -> None:
    bundle = load_bundle(stay_bundle)
    scored = scored_stays()
    found = recalibrated_stays(scored, bundle)
    assert found.line.slope[0] == pytest.approx(0.7, abs=0.15)
    assert found.line.intercept[0] == pytest.approx(-1.5, abs=0.4)
    assert found.is_better
    assert abs(found.after["intercept"]) < 0.15 < abs(found.before["intercept"])
    assert found.after["slope"] == pytest.approx(1, abs=0.15)
    assert found.after["expected_calibration_error"] < found.before["expected_calibration_error"] / 3
    logits = np.linspace(-5, 5, 11)
    shipped = bundle.calibration.probability(logits)
    expected = found.line.probability(np.log(shipped / (1 - shipped)))
    np.testing.assert_allclose(found.calibration(bundle.calibration).probability(logits), expected, rtol=1e-9)


def test_what_is_said_rests_on_patients_left_out(stay_bundle: Path) -> None:
    scored = scored_stays(200)
    found = recalibrated_stays(scored, load_bundle(stay_bundle))
    log_odds = np.log(scored.risk / (1 - scored.risk))
    in_sample = found.line.probability(log_odds)
    assert found.after["brier"] > ((in_sample - scored.labels) ** 2).mean()
    assert found.counts == {"stays": 200, "septic": found.counts["septic"], "hours": 200 * HOURS}


def test_an_unknown_operating_point_keeps_its_decisions(stay_copy: Path) -> None:
    contract = json.loads((stay_copy / "bundle.json").read_text())
    contract["operating_points"]["ward"] = {"thresholds": [0.3], "description": "agreed on the ward"}
    (stay_copy / "bundle.json").write_text(json.dumps(contract))
    bundle = load_bundle(stay_copy)
    scored = scored_stays()
    found = recalibrated_stays(scored, bundle)
    before = scored.risk >= 0.3
    log_odds = np.log(scored.risk / (1 - scored.risk))
    after = found.line.probability(log_odds) >= found.thresholds["ward"][0]
    np.testing.assert_array_equal(after, before)
    assert found.descriptions["ward"].startswith("agreed on the ward; decisions as before")
    assert found.after["points"]["ward"]["hours_in_alarm"] == pytest.approx(before.mean(), abs=1e-4)


def test_classes_with_too_few_patients_stay_as_they_are(ecg_bundle: Path) -> None:
    bundle = load_bundle(ecg_bundle)
    found = recalibrated_recordings(scored_recordings(), bundle)
    evaluable = [c.abbreviation for c in bundle.classes[:3] if c.evaluable]
    assert list(found.changed) == evaluable
    np.testing.assert_array_equal(found.line.slope[3:], 1.0)
    np.testing.assert_array_equal(found.line.intercept[3:], 0.0)
    np.testing.assert_allclose(
        found.thresholds["challenge"][3:], bundle.operating_points["challenge"].thresholds[3:], rtol=1e-9
    )
    fitted = [i for i, c in enumerate(bundle.classes[:3]) if c.evaluable]
    np.testing.assert_allclose(found.line.slope[fitted], 0.5, atol=0.2)
    assert found.is_better


def test_too_few_patients_are_refused(stay_bundle: Path, ecg_bundle: Path) -> None:
    with pytest.raises(DataError, match="needs at least 30 and 70"):
        recalibrated_stays(scored_stays(60), load_bundle(stay_bundle))
    with pytest.raises(DataError, match="needs at least 100 recordings and 20 patients"):
        recalibrated_recordings(scored_recordings(99), load_bundle(ecg_bundle))
    one_patient = scored_recordings()
    one_patient.patients[:] = 0
    with pytest.raises(DataError, match="at most 1 patients on the rarer side"):
        recalibrated_recordings(one_patient, load_bundle(ecg_bundle))


@given(st.lists(st.tuples(st.text(max_size=3), st.booleans()), min_size=1, max_size=60), st.randoms())
def test_a_patient_is_in_one_fold_in_any_order(rows: list[tuple[str, bool]], random: Any) -> None:
    def fold_of(these: list[tuple[str, bool]]) -> dict[str, int]:
        folds = folds_of([name for name, _ in these], np.array([septic for _, septic in these]))
        found: dict[str, int] = {}
        for (name, _), fold in zip(these, folds.tolist(), strict=True):
            assert found.setdefault(name, fold) == fold
        return found

    first = fold_of(rows)
    random.shuffle(rows)
    assert fold_of(rows) == first
    assert set(first.values()) <= set(range(5))


def test_a_bundle_with_nothing_else_changed(stay_bundle: Path, tmp_path: Path) -> None:
    shipped = load_bundle(stay_bundle)
    found = recalibrated_stays(scored_stays(), shipped)
    folder = write_site_bundle(tmp_path / "own", shipped, found, source="own.parquet", refused={"no_rows": 2})
    own = load_bundle(folder)
    assert own.files["model.onnx"] == shipped.files["model.onnx"]
    assert own.files["golden.npz"] == shipped.files["golden.npz"]
    assert own.preprocessing == shipped.preprocessing
    expected = found.calibration(shipped.calibration)
    assert (own.calibration.slope, own.calibration.intercept) == (expected.slope, expected.intercept)
    assert own.name == "tiny-sepsis-recalibrated"
    entry = own.contract["recalibration"]
    assert entry["of"] == {"name": "tiny-sepsis", "version": "0.0.1", "sha256": shipped.sha256}
    assert (entry["source"], entry["refused"], entry["counts"]["stays"]) == (
        "own.parquet",
        {"no_rows": 2},
        400,
    )
    assert len(entry["data_sha256"]) == 64
    assert own.card.count(SHIPPED_CARD) == 1
    assert "A model card." in own.card
    assert "| before |" in own.card
    assert (folder / "recalibration.svg").read_text().startswith("<svg")
    with pytest.raises(BundleError, match="exists already"):
        write_site_bundle(folder, shipped, found)
    again = load_bundle(write_site_bundle(tmp_path / "again", own, found))
    assert again.name == own.name
    assert again.card.count(SHIPPED_CARD) == 1


def labelled_table(path: Path, stays: int = 110, hours: int = 10) -> Path:
    lines = [",".join(["patient_id", *NAMES, "SepsisLabel"])]
    for i in range(stays):
        rows = stay(hours, seed=i).values
        for hour, row in enumerate(rows):
            cells = ["" if np.isnan(v) else f"{v:.6g}" for v in row]
            lines.append(",".join([f"p{i}", *cells, str(int(i % 3 == 0 and hour >= 4))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command_makes_a_bundle_that_verifies_and_scores(stay_bundle: Path, tmp_path: Path) -> None:
    table = labelled_table(tmp_path / "own.csv")
    with table.open("a") as file:
        file.write(",".join(["bad", *["x"] * len(NAMES), "0"]) + "\n")
    out = tmp_path / "own_bundle"
    given_ = [
        str(table),
        "--out",
        str(out),
        "--bundle",
        str(stay_bundle),
        "--device",
        "cpu",
        "--name",
        "ward",
    ]
    done = CliRunner().invoke(main, ["recalibrate", *given_])
    assert done.exit_code == 1, done.output  # one stay is refused
    assert "110 stays, 37 septic" in done.stdout
    assert "[not_a_number]" in done.stderr
    assert load_bundle(out).name == "ward"
    assert CliRunner().invoke(main, ["verify", str(out)]).exit_code == 0
    scored = CliRunner().invoke(
        main, ["evaluate", str(table), "--bundle", str(out), "--json", "--device", "cpu"]
    )
    measures = {name: m["value"] for name, m in json.loads(scored.stdout)["measures"].items()}
    assert measures["calibration_intercept"] == pytest.approx(0, abs=0.1)
    again = CliRunner().invoke(main, ["recalibrate", *given_])
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_recordings_take_the_labels_of_an_evaluation(ecg_bundle: Path, tmp_path: Path) -> None:
    codes = {True: "426783006", False: "164889003"}
    lines = ["record,dx"]
    for i in range(110):
        given_ = recording(10.0, seed=i)
        write_header(tmp_path, given_)
        lines.append(f"{given_.record_id},{codes[i % 2 == 0]}")
    labels = tmp_path / "dx.csv"
    labels.write_text("\n".join(lines))
    out = tmp_path / "bundle"
    done = CliRunner().invoke(
        main,
        [
            "recalibrate",
            str(tmp_path),
            "--labels",
            str(labels),
            "--out",
            str(out),
            "--bundle",
            str(ecg_bundle),
        ],
    )
    assert done.exit_code == 0, done.output
    entry = load_bundle(out).contract["recalibration"]
    assert entry["counts"] == {"recordings": 110, "patients": 110, "classes fitted": len(entry["classes"])}
    assert set(entry["classes"]) <= {"AF", "NSR"}
    assert isinstance(load_bundle(out).calibration, Calibration)


def test_labels_beside_stays_are_a_mistake(stay_bundle: Path, tmp_path: Path) -> None:
    table = labelled_table(tmp_path / "own.csv", stays=3)
    done = CliRunner().invoke(
        main, ["recalibrate", str(table), "--labels", str(table), "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 2
    assert "stays carry their own SepsisLabel" in done.stderr
    done = CliRunner().invoke(
        main, ["recalibrate", str(table), "--bundle", str(stay_bundle), "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 2
    assert "needs at least 30 and 70" in done.stderr
    assert not (tmp_path / "o").exists()
