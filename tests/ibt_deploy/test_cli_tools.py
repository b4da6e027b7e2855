from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.bundles import recording, reseal, stay, write_header, write_psv
from helpers.ecg_files import cardiosoft, edf, muse

from ibt_deploy import bundle as bundles
from ibt_deploy.cli import main
from ibt_deploy.vocabulary import INDEX


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def no_bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundles, "_PACKAGED", tmp_path / "nothing")


def test_models_are_listed_with_hash_and_metrics(ecg_bundle: Path, stay_bundle: Path) -> None:
    result = run("models", ecg_bundle, stay_bundle, "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [f["task"] for f in found] == ["arrhythmia", "sepsis"]
    assert found[0]["sha256"] == bundles.load_bundle(ecg_bundle).sha256
    assert found[0]["not_evaluable"] == ["BBB", "PRWP"]
    assert found[0]["metrics"]["headline"][0]["value"] == 0.5
    text = run("models", ecg_bundle).stdout
    assert found[0]["sha256"] in text
    assert "0.400 to 0.600" in text
    assert "challenge (default): best challenge metric on validation" in text


def test_a_card_is_printed(ecg_bundle: Path) -> None:
    assert run("models", "--card", ecg_bundle).stdout.startswith("# tiny-arrhythmia")


@pytest.mark.parametrize("command", ["models", "verify"])
def test_without_any_bundle_they_say_so(no_bundles: None, command: str) -> None:
    result = run(command)
    assert result.exit_code == 2
    assert "no bundle is installed" in result.stderr


def test_verify_recomputes_golden_inputs(ecg_bundle: Path, stay_bundle: Path) -> None:
    result = run("verify", ecg_bundle, stay_bundle)
    assert result.exit_code == 0
    assert "tiny-arrhythmia 0.0.1: ok" in result.stdout
    assert "tiny-sepsis 0.0.1: ok" in result.stdout
    found = [json.loads(line) for line in run("verify", ecg_bundle, "--json").stdout.splitlines()]
    assert [c["what"] for c in found[0]["checks"]] == ["features", "logits", "logits, int8"] * 2


def test_verify_tells_an_altered_file_and_a_wrong_number(ecg_copy: Path, stay_copy: Path) -> None:
    (ecg_copy / "card.md").write_text("better than it is")
    with np.load(stay_copy / "golden.npz") as archive:
        arrays = dict(archive)
    arrays["short/logits"] = arrays["short/logits"] + np.float32(0.01)
    np.savez(stay_copy / "golden.npz", **arrays)
    reseal(stay_copy)
    result = run("verify", ecg_copy, stay_copy, "--json")
    assert result.exit_code == 1
    altered, wrong = (json.loads(line) for line in result.stdout.splitlines())
    assert "card.md" in altered["error"]
    failed = [(c["case"], c["what"]) for c in wrong["checks"] if not c["passed"]]
    assert failed == [("short", "logits"), ("short", "logits in steps")]
    text = run("verify", ecg_copy, stay_copy).stdout
    assert text.count("FAILED") == 4


def test_inspect_tells_everything_preprocessing_would_change(tmp_path: Path, ecg_bundle: Path) -> None:
    leads = ("V1", "V2", "V3", "V4", "V5", "V6", "II", "I")
    path = write_header(tmp_path, recording(23.0, 250, seed=7, leads=leads), dx="426783006,39732003")
    result = run("inspect", path, "--bundle", ecg_bundle, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["record"] == "r7"
    assert (found["sampling_rate"], found["duration"], found["age"]) == (250, 23, 61)
    assert found["dx"] == ["426783006", "39732003"]
    assert [lead["name"] for lead in found["leads"]] == list(leads)
    changes = " ".join(found["changes"])
    for part in (
        "standard order",
        "derived III, aVR, aVL, aVF",
        "from 250 to 200 Hz",
        "2 windows",
        "left out",
    ):
        assert part in changes
    text = run("inspect", path, "--bundle", ecg_bundle).stdout
    for change in found["changes"]:
        assert change in text


def test_inspect_shows_a_stay(tmp_path: Path) -> None:
    values = stay(12).values.copy()
    values[2, INDEX["HR"]] = 900.0
    labels = np.r_[np.zeros(9), np.ones(3)].astype(np.int8)
    path = write_psv(tmp_path, stay(12, values=values, labels=labels))
    found = json.loads(run("inspect", path, "--json").stdout)
    heart_rate = next(v for v in found["variables"] if v["name"] == "HR")
    measured = np.delete(values[:, INDEX["HR"]], 2)
    assert (heart_rate["measured"], heart_rate["implausible"]) == (12, 1)
    assert heart_rate["median"] == pytest.approx(np.median(measured), abs=1e-3)
    assert found["labels"] == {"positive_hours": 3}
    assert [w["code"] for w in found["warnings"]] == ["values_out_of_range"]
    assert "HR" in run("inspect", path).stdout


def test_inspect_shows_refused_inputs_as_far_as_they_were_read(tmp_path: Path) -> None:
    short = write_header(tmp_path, recording(3.0))
    result = run("inspect", short, tmp_path / "absent.hea", "--json")
    assert result.exit_code == 1
    read, absent = (json.loads(line) for line in result.stdout.splitlines())
    assert read["duration"] == 3
    assert read["refused"]["code"] == "too_short"
    assert absent["refused"]["code"] == "no_such_file"
    assert len(result.stderr.splitlines()) == 2
    assert "refused" in run("inspect", short).stdout


@pytest.mark.parametrize(
    ("name", "content", "file_format", "header", "code"),
    [
        (
            "e.edf",
            edf(unit="mmHg"),
            "EDF",
            {"records": 10, "recorded": "2002-03-02T10:00:00"},
            "unknown_unit",
        ),
        ("m.xml", muse(LeadAmplitudeUnits=""), "GE MUSE XML", {"SampleBase": "500"}, "missing_unit"),
        ("c.xml", cardiosoft(rate=""), "GE CardioSoft XML", {"Resolution": "4.88 uVperLsb"}, "missing_rate"),
        ("t.csv", b"I,II,V1\n1,2,3\n2,3,4\n", "ECG as text", {"names": ["I", "II", "V1"]}, "missing_rate"),
        (
            "r.hea",
            b"r 1 500 5000\nr.dat 16 1000/mV 16 0 0 0 0 I\n",
            "WFDB",
            {"record": "r 1 500 5000", "signals": ["r.dat 16 1000/mV 16 0 0 0 0 I"]},
            "missing_signal_file",
        ),
        ("n.bin", b"\x01\x02 nothing known", None, {}, "unsupported_format"),
    ],
)
def test_inspect_shows_what_it_can_of_a_file_that_is_refused(
    tmp_path: Path,
    name: str,
    content: bytes,
    file_format: str | None,
    header: dict[str, object],
    code: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("inspect", tmp_path / name, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["bytes"], found["format"]) == (len(content), file_format)
    assert header.items() <= found["header"].items()
    assert found["refused"]["code"] == code
    shown = run("inspect", tmp_path / name)
    assert shown.exit_code == 1
    for text in (file_format or "unknown format", f"{len(content):,} bytes", "refused", *header):
        assert text.replace("_", " ") in shown.stdout


def test_evaluate_scores_a_labelled_folder(tmp_path: Path, ecg_bundle: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for seed, dx in enumerate(["426783006", "164889003", "39732003"]):
        write_header(folder, recording(seed=seed), dx)
    write_header(folder, recording(3.0, seed=9))
    out = tmp_path / "out"
    result = run("evaluate", folder, "--bundle", ecg_bundle, "--json", "--out", out, "--draws", "20")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["counts"] == {"recordings": 3, "patients": 3, "refused": 1}
    assert json.loads((out / "evaluation.json").read_text()) == found
    rows = table(out / "predictions.csv")
    assert [row["record"] for row in rows] == ["r0", "r1", "r2"]
    assert [row["AF label"] for row in rows] == ["0", "1", "0"]
    refused = table(out / "refused.csv")
    assert [row["code"] for row in refused] == ["too_short"]
    text = run("evaluate", folder, "--bundle", ecg_bundle, "--draws", "20").stdout
    assert "challenge metric 2021" in text
    assert "1 too_short" in text


def test_evaluate_scores_stays(tmp_path: Path, stay_bundle: Path) -> None:
    folder = tmp_path / "stays"
    folder.mkdir()
    for seed in range(3):
        write_psv(folder, stay(20, seed, labels=np.r_[np.zeros(12), np.full(8, seed % 2)].astype(np.int8)))
    out = tmp_path / "out"
    result = run("evaluate", folder, "--bundle", stay_bundle, "--out", out, "--draws", "20")
    assert result.exit_code == 0, result.output
    assert "utility 2019" in result.stdout
    rows = table(out / "predictions.csv")
    assert len(rows) == 60
    assert sum(int(row["label"]) for row in rows) == 8


def test_evaluate_refuses_what_does_not_fit(tmp_path: Path, stay_bundle: Path, ecg_bundle: Path) -> None:
    folder = tmp_path / "stays"
    folder.mkdir()
    write_psv(folder, stay(20, labels=np.zeros(20, dtype=np.int8)))
    labels = tmp_path / "labels.csv"
    labels.write_text("record,dx\n")
    assert run("evaluate", folder, "--labels", labels, "--bundle", stay_bundle).exit_code == 2
    result = run("evaluate", folder, "--bundle", ecg_bundle)
    assert result.exit_code == 2
    assert "the bundle is for arrhythmia" in result.stderr
