"""Changes between exports: found where planted, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import ORDINARY, recording, stay, write_header
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.bundle import load_bundle
from ibt_deploy.cli import main
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation.monitoring import (
    QUANTILES,
    compared,
    compared_with_training,
    read_export,
    stability,
)
from ibt_deploy.vocabulary import NAMES

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
HOURS = 20


def export(
    path: Path,
    stays: int = 300,
    *,
    seed: int = 0,
    shift: float = 0.0,
    glucose: float = 1.0,
    lactates: int = 600,
    warned: int = 3,
    **summary: Any,
) -> Path:
    """A finished run over stays: log-normal risks, counted columns."""
    rng = np.random.default_rng(seed)
    risk = np.exp(rng.normal(-4, 0.8, (stays, 1)) + rng.normal(0, 0.3, (stays, HOURS)) + shift).ravel()
    (path / "predictions").mkdir(parents=True)
    table = pa.table(
        {
            "record": np.repeat([f"p{i}" for i in range(stays)], HOURS),
            "hour": np.tile(np.arange(1, HOURS + 1), stays),
            "risk": risk.astype(np.float32),
            "alarm": risk >= 0.03,
            "missing": rng.integers(20, 30, stays * HOURS).astype(np.int16),
        }
    )
    half = len(table) // 2
    pq.write_table(table.slice(0, half), path / "predictions" / "part-00000.parquet")
    pq.write_table(table.slice(half), path / "predictions" / "part-00001.parquet")
    values = np.exp(rng.normal(np.log(130), 0.25, 4000)) * glucose
    model = {"bundle": "b", "version": "1", "sha256": "s", "operating_point": "utility"}
    columns = [
        {"variable": "Glucose", "values": 4000, "quantiles": np.quantile(values, QUANTILES).tolist()},
        {"variable": "Lactate", "values": lactates, "quantiles": [0.8, 1.2, 1.8, 3.0, 7.0]},
    ]
    found = {
        "task": "sepsis", "format": "parquet", "model": model, "answers": stays, "refusals": 0,
        "warnings": {"values_out_of_range": warned}, "tables": {"rows": stays * HOURS, "columns": columns},
    } | summary  # fmt: skip
    (path / "summary.json").write_text(json.dumps(found))
    return path


def changed(then: Path, now: Path) -> set[str]:
    return {change.name for change in compared(read_export(then), read_export(now)).large}


def test_two_draws_of_the_same_patients_show_no_change(tmp_path: Path) -> None:
    then = export(tmp_path / "a")
    for seed in range(1, 6):
        assert changed(then, export(tmp_path / f"b{seed}", seed=seed)) == set()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"shift": 0.9}, {"risk", "highest risk of a stay", "hours in alarm", "stays with an alarm"}),
        ({"glucose": 1.5}, {"Glucose"}),
        ({"lactates": 2800}, {"Lactate measured"}),
        ({"warned": 200}, {"warning values_out_of_range"}),
        ({"refusals": 120}, {"refused inputs"}),
    ],
)
def test_what_was_planted_is_found(tmp_path: Path, fault: dict[str, Any], expected: set[str]) -> None:
    assert changed(export(tmp_path / "a"), export(tmp_path / "b", seed=1, **fault)) == expected


def test_the_index_is_that_of_the_textbook() -> None:
    # Siddiqi, Credit Risk Scorecards: sum of (actual - expected) * ln(actual / expected)
    assert stability([0.2, 0.3, 0.5], [0.1, 0.3, 0.6]) == pytest.approx(0.1 * np.log(2) + 0.1 * np.log(1.2))
    assert stability([0.5, 0.5], [0.5, 0.5]) == 0


SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda v: [x / sum(v) for x in v])


@given(SHARES, SHARES)
def test_the_index_is_symmetric_and_never_negative(a: list[float], b: list[float]) -> None:
    assert stability(a, b) == pytest.approx(stability(b, a))
    assert stability(a, b) >= 0


def test_heaps_of_equal_values_are_no_change(tmp_path: Path) -> None:
    then, now = export(tmp_path / "a"), export(tmp_path / "b", seed=1)
    for path, quantiles in ((then, [93, 96, 98, 100, 100]), (now, [93, 96, 98, 99, 100])):
        summary = json.loads((path / "summary.json").read_text())
        column = {"variable": "O2Sat", "values": 4000, "quantiles": quantiles}
        summary["tables"]["columns"].append(column)
        (path / "summary.json").write_text(json.dumps(summary))
    assert changed(then, now) == set()


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    good = export(tmp_path / "good")
    with pytest.raises(DataError, match="no finished run"):
        read_export(tmp_path)
    with pytest.raises(DataError, match="only Parquet"):
        read_export(export(tmp_path / "csv", format="csv"))
    with pytest.raises(DataError, match="at least 100"):
        read_export(export(tmp_path / "few", stays=99))
    then, now = read_export(good), read_export(good)
    now.summary["task"] = "arrhythmia"
    with pytest.raises(DataError, match="is of sepsis"):
        compared(then, now)
    (good / "predictions" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        read_export(good)


def test_another_model_is_noted(tmp_path: Path) -> None:
    then = export(tmp_path / "a")
    model = {"bundle": "b", "version": "2", "sha256": "t", "operating_point": "utility"}
    now = export(tmp_path / "b", model=model)
    assert compared(read_export(then), read_export(now)).notes == (
        "scored by other models: version, sha256 differ",
    )


def test_the_command_ends_with_a_status_for_cron(tmp_path: Path) -> None:
    then, now, drifted = (
        export(tmp_path / "a"),
        export(tmp_path / "b", seed=1),
        export(tmp_path / "c", seed=2, shift=0.9),
    )
    same = CliRunner().invoke(main, ["monitor", "--reference", str(then), str(now)])
    assert (same.exit_code, "0 of " in same.stdout) == (0, True)
    out = tmp_path / "out"
    options = ["monitor", "--reference", str(then), str(drifted), "--json", "--out", str(out)]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 1
    answer = json.loads(found.stdout)
    assert answer == json.loads((out / "monitoring.json").read_text())
    assert "hours in alarm" in answer["changed"]
    assert (out / "monitoring.svg").read_text().startswith("<svg")
    assert CliRunner().invoke(main, ["monitor", "--reference", str(tmp_path), str(now)]).exit_code == 2
    loose = CliRunner().invoke(main, ["monitor", "--reference", str(then), str(now), "--limit", "0.01"])
    assert loose.exit_code == 1


def test_runs_of_ibt_batch_are_read(stay_bundle: Path, ecg_bundle: Path, tmp_path: Path) -> None:
    lines = [",".join(["patient_id", *NAMES])]
    for i in range(110):
        lines += [
            ",".join([f"p{i}", *("" if np.isnan(v) else f"{v:.5g}" for v in row)])
            for row in stay(5, seed=i).values
        ]
    (tmp_path / "stays.csv").write_text("\n".join(lines))
    run_batch(
        Options(sources=[str(tmp_path / "stays.csv")], out=tmp_path / "s", bundle=stay_bundle, workers=1)
    )
    found = read_export(tmp_path / "s")
    assert found.patients == 110
    assert found.columns["Glucose"]["quantiles"][2] == pytest.approx(ORDINARY["Glucose"], rel=0.05)
    assert compared(found, found).large == ()
    records = tmp_path / "ecg"
    records.mkdir()
    for i in range(100):
        write_header(records, recording(seed=i))
    run_batch(Options(sources=[str(records)], out=tmp_path / "e", bundle=ecg_bundle, workers=1))
    found = read_export(tmp_path / "e")
    result = compared(found, found)
    assert result.large == ()
    names = {change.name for change in result.changes}
    assert {"finding AF", "probability AF", "sampling rate", "duration"} <= names


def packaged(path: Path, task: str, **changes: Any) -> Path:
    """An export that names the packaged sepsis bundle."""
    bundle = load_bundle(task)
    model = {
        "bundle": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "operating_point": "utility",
    }
    return export(path, model=model, **changes)


def test_against_training_inputs_and_alarms_are_compared(tmp_path: Path) -> None:
    now = read_export(packaged(tmp_path / "now", "sepsis", glucose=0.055, shift=2.0))
    found = compared_with_training(load_bundle("sepsis"), now)
    large = {change.name: change for change in found.large}
    assert large["Glucose"].measure == "shift"
    assert large["Glucose"].then == pytest.approx(127, abs=2)
    assert {"hours in alarm", "risk"} <= large.keys()
    assert any(change.name == "HR measured" for change in found.changes)
    other = read_export(export(tmp_path / "other"))
    with pytest.raises(DataError, match="name it with --bundle"):
        compared_with_training(load_bundle("sepsis"), other)


def test_a_bundle_without_figures_says_so(stay_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(stay_bundle)
    model = {"bundle": "x", "version": "1", "sha256": bundle.sha256, "operating_point": "utility"}
    now = read_export(export(tmp_path / "now", model=model))
    with pytest.raises(DataError, match="keeps nothing to compare with"):
        compared_with_training(bundle, now)
