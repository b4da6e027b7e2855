"""The whole way from a checkpoint to a bundle, and that nothing is chosen on the test part."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.exports import SETTINGS, reseal, untrained

from export.build import Data, External, Run, build_bundle, open_data, open_external, open_opinion
from export.ecg import EcgPart
from export.scored import Evidence
from export.stay import StayPart
from ibt_deploy.bundle import load_bundle
from ibt_deploy.errors import DataError
from ibt_deploy.golden import golden_cases, recomputed
from ibt_deploy.metrics import arrhythmia, sepsis
from ibt_deploy.predictor import load
from training.data.split import PARTS, write_split
from training.tasks import open_cohort


def contract_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return found


@pytest.fixture(params=["ecg_bundle", "stay_bundle"])
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_a_bundle_loads_and_its_golden_inputs_come_out_alike(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    checks = list(recomputed(loaded))
    assert len(checks) >= 10
    assert all(check.passed for check in checks)
    assert {"model.onnx", "golden.npz", "card.md", "curves.svg"} <= set(loaded.files)
    assert (loaded.name, loaded.version) == (f"bbm-{loaded.task}", "9.9.9")


def test_nothing_of_this_machine_is_in_a_bundle(bundle: Path) -> None:
    for path in bundle.iterdir():
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


def test_golden_recordings_are_kept_as_devices_sample_them(ecg_bundle: Path) -> None:
    with np.load(ecg_bundle / "golden.npz") as archive:
        signals = [name for name in archive.files if name.endswith("/signal")]
        assert {archive[name].dtype for name in signals} == {np.dtype(np.int16)}
        rates = {int(archive[name.replace("/signal", "/sampling_rate")]) for name in signals}
    assert rates == {257, 500, 1000}
    assert {len(case.features) for case in golden_cases(ecg_bundle / "golden.npz")} == {1, 3}


def test_published_ecg_figures_are_those_of_the_shipped_model(ecg_bundle: Path, ecg_data: Data) -> None:
    test = ecg_data.parts["test"]
    assert isinstance(test, EcgPart)
    answers = load(ecg_bundle).predict(list(test.items()))
    outputs = np.array([a.positive for a in answers])  # type: ignore[union-attr]
    found = contract_of(ecg_bundle)["metrics"]["test"]
    expected = arrhythmia.challenge_metric(test.labels, outputs, mask=test.known)
    assert found["thresholds"]["clinical"]["challenge_metric"]["value"] == pytest.approx(expected, abs=1e-6)
    headline = {entry["name"]: entry for entry in contract_of(ecg_bundle)["metrics"]["headline"]}
    at_challenge = load(ecg_bundle, operating_point="challenge").predict(list(test.items()))
    outputs = np.array([a.positive for a in at_challenge])  # type: ignore[union-attr]
    official = arrhythmia.challenge_metric(test.labels, outputs, mask=test.known)
    (published,) = (e for title, e in headline.items() if "challenge metric" in title)
    assert published["value"] == pytest.approx(official, abs=1e-6)
    assert found["recordings"] == len(test)
    assert found["refused"] == {}


def test_published_stay_figures_are_those_of_the_shipped_model(stay_bundle: Path, stay_data: Data) -> None:
    test = stay_data.parts["test"]
    assert isinstance(test, StayPart)
    answers = load(stay_bundle).predict(list(test.items()))
    alarms = np.concatenate([a.alarms for a in answers])  # type: ignore[union-attr]
    found = contract_of(stay_bundle)["metrics"]["test"]
    expected = sepsis.utility(test.labels, alarms, test.offsets)
    assert found["thresholds"]["utility"]["utility"]["value"] == pytest.approx(expected, abs=1e-6)


def test_classes_with_too_few_positives_are_marked_and_never_put_out(
    ecg_bundle: Path, ecg_data: Data
) -> None:
    evaluable = {c.abbreviation: c.evaluable for c in load_bundle(ecg_bundle).classes}
    assert {name for name, yes in evaluable.items() if yes} == {"NSR"}
    counts = {c["abbreviation"]: c["positives"] for c in contract_of(ecg_bundle)["classes"]}
    assert counts["STach"]["validation"] < 5 <= min(counts["TInv"].values())
    assert counts["AF"] == {"train": 0, "validation": 0, "test": 0}
    test = contract_of(ecg_bundle)["metrics"]["test"]["classes"]
    assert "auroc" in test["NSR"]
    assert set(test["STach"]) == {"n", "positives"}


def test_int8_of_stays_is_shipped_because_it_keeps_causality(stay_bundle: Path) -> None:
    contract = contract_of(stay_bundle)
    report = contract["metrics"]["int8"]
    assert set(contract["variants"]) == {"fp32", "int8"}
    assert (report["shipped"], report["reasons"], report["earlier_risk_change"]) == (True, [], 0)
    assert report["bytes_int8"] < report["bytes_float"]
    assert contract["metrics"]["parity"]["earlier"] == 0
    card = (stay_bundle / "card.md").read_text(encoding="utf-8")
    assert "shipped as variant `int8`" in card
    assert "Later hours change earlier logits by 0. " in card


def test_the_teacher_and_the_external_set_are_reported(ecg_bundle: Path, stay_bundle: Path) -> None:
    metrics = contract_of(ecg_bundle)["metrics"]
    assert metrics["external"]["elsewhere"]["recordings"] == 20
    assert {entry["set"] for entry in metrics["headline"]} == {"test", "elsewhere (external)"}
    for contract in (contract_of(ecg_bundle), contract_of(stay_bundle)):
        comparison = contract["metrics"]["comparison"]
        assert set(comparison["teacher"]) == set(comparison["student_minus_teacher"])
        assert contract["training"]["teacher"]["method"] == "teacher"
        assert len(contract["training"]["student"]["curve"]) == 3


def poisoned(data: Data) -> Data:
    """The same data with the labels of the test part reshuffled among its patients."""
    rng = np.random.default_rng(0)
    test = data.parts["test"]
    if isinstance(test, EcgPart):
        order = rng.permutation(len(test))
        bad: Any = replace(test, labels=test.labels[order], known=test.known[order])
    else:
        assert isinstance(test, StayPart)
        bad = replace(test, labels=(rng.random(len(test.labels)) < 0.3).astype(np.int8))
    return replace(data, parts={**data.parts, "test": bad})


@pytest.mark.parametrize("task", ["ecg", "stay"])
def test_poisoned_test_labels_change_nothing_but_the_metrics(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    student, data, teacher, clean = (
        request.getfixturevalue(f"{task}_{what}") for what in ("student", "data", "teacher", "bundle")
    )
    externals = [request.getfixturevalue(f"foreign_{task}s")]
    out = tmp_path / "poisoned"
    build_bundle(student, poisoned(data), out, SETTINGS, teacher=teacher, externals=externals)
    before, after = contract_of(clean), contract_of(out)
    for contract in (before, after):
        metrics = contract.pop("metrics")
        contract["chosen on validation"] = {
            name: metrics[name] for name in ("parity", "int8") if name in metrics
        }
        contract["test"] = metrics["test"]
        # counts of the test part are facts about it, like its figures
        contract["training"]["data"]["parts"].pop("test")
        for name in ("card.md", "curves.svg"):
            contract["files"].pop(name)
    assert before.pop("test") != after.pop("test")
    assert before == after


def test_a_network_of_other_data_another_split_or_without_labels_is_refused(
    ecg_student: Run, ecg_data: Data, stay_data: Data, ecgs: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="is for arrhythmia"):
        build_bundle(ecg_student, stay_data, tmp_path / "out", SETTINGS)
    ids = [i for name in PARTS for i in ecg_data.parts[name].ids]  # type: ignore[index]
    split = tmp_path / "split.csv"
    write_split(split, ids, np.arange(len(ids)) % 3)
    with pytest.raises(DataError, match="another split"):
        build_bundle(ecg_student, open_data(ecgs, split), tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="another cache"):
        build_bundle(ecg_student, replace(ecg_data, cache_sha256="0" * 64), tmp_path / "out", SETTINGS)
    recipe = replace(ecg_student.trained.recipe, method="masked")
    pretrained = Run(ecg_student.path, replace(ecg_student.trained, recipe=recipe))
    with pytest.raises(DataError, match="trained without labels"):
        build_bundle(pretrained, ecg_data, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_a_student_cannot_stand_for_the_teacher(ecg_student: Run, ecg_data: Data, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds a bbm, not a teacher"):
        build_bundle(ecg_student, ecg_data, tmp_path / "out", SETTINGS, teacher=ecg_student)


def test_an_external_set_shares_no_record_with_the_training_cache(ecgs: Path, ecg_data: Data) -> None:
    with pytest.raises(DataError, match="of its records are also in"):
        open_external("same", ecgs, ecg_data)


def test_what_a_student_started_from_is_no_external_test(
    ecg_student: Run, ecg_data: Data, foreign_ecgs: External, tmp_path: Path
) -> None:
    pretrained = {"also_sha256": f"{'ab' * 32} {foreign_ecgs.cache_sha256}"}
    student = Run(ecg_student.path, replace(ecg_student.trained, learnt_from=pretrained))
    with pytest.raises(DataError, match="has learnt from it"):
        build_bundle(student, ecg_data, tmp_path / "out", SETTINGS, externals=[foreign_ecgs])


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
def test_a_renamed_copy_of_a_record_is_no_external_test(
    task: str, ecg_data: Data, stay_data: Data, tmp_path: Path
) -> None:
    data = ecg_data if task == "arrhythmia" else stay_data
    copy = shutil.copytree(data.cohort.cache.folder, tmp_path / "copy")
    index = pd.read_csv(copy / "index.csv", dtype=str)
    first = index.iloc[0, 0]
    index.iloc[:, 0] = [f"other{i}" for i in range(len(index))]
    index.to_csv(copy / "index.csv", index=False)
    reseal(copy)
    with pytest.raises(DataError, match=rf"of its records are also in.*: other0 as {first}, other1"):
        open_external("renamed", copy, data)


def test_an_external_set_is_of_the_same_task(stays: Path, ecg_data: Data) -> None:
    with pytest.raises(DataError, match="holds sepsis data"):
        open_external("stays", stays, ecg_data)


def test_a_failed_build_leaves_the_old_bundle_alone(
    stay_student: Run, stay_data: Data, stay_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sepsis"
    out.mkdir()
    (out / "bundle.json").write_text("old")
    settings = replace(SETTINGS, examples=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"recording\.hea|stay\.psv"):
        build_bundle(stay_student, stay_data, out, settings)
    assert (out / "bundle.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["sepsis"]


def test_a_folder_that_is_no_bundle_is_not_replaced(
    stay_student: Run, stay_data: Data, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a bundle"):
        build_bundle(stay_student, stay_data, tmp_path, SETTINGS)


def test_of_stays_without_labels_risk_and_alarms_are_counted(
    stay_bundle: Path, foreign_stays: External
) -> None:
    metrics = contract_of(stay_bundle)["metrics"]
    found = metrics["external"]["elsewhere"]
    assert {"thresholds", "threshold_free", "calibration"}.isdisjoint(found)
    assert isinstance(foreign_stays.part, StayPart)
    predictor = load(stay_bundle, device="cpu", variant="fp32")
    answers = predictor.predict(list(foreign_stays.part.items()))
    risk, alarms = (np.concatenate([getattr(a, name) for a in answers]) for name in ("risk", "alarms"))
    assert found["burden"]["mean_risk"]["value"] == pytest.approx(risk.mean(), abs=1e-5)
    assert found["burden"]["utility"]["value"] == pytest.approx(alarms.mean(), abs=1e-5)
    assert {entry["set"] for entry in metrics["headline"]} == {"test"}
    text = (stay_bundle / "card.md").read_text()
    assert "## elsewhere (external, without labels)" in text
    assert "| hours in alarm at `utility` | " in text


def test_the_external_set_keeps_its_patients(foreign_ecgs: External) -> None:
    assert isinstance(foreign_ecgs.part, EcgPart)
    assert len(np.unique(foreign_ecgs.part.patients)) == 10


@pytest.mark.parametrize("task", ["ecg", "stay"])
def test_a_refitted_student_takes_its_decisions_from_the_network_they_were_chosen_with(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    student, data, bundle = (
        request.getfixturevalue(f"{task}_{what}") for what in ("student", "data", "bundle")
    )
    cache = request.getfixturevalue(f"{task}s")
    name = data.task
    refit = {"data": {"refit": True}, "fit": {"select": "last", "epochs": 5}}
    final = Run.of(untrained(name, "bbm", cache, tmp_path / "final", seed=1, **refit))
    with pytest.raises(DataError, match="give --chosen"):
        build_bundle(final, data, tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="decides for itself"):
        build_bundle(student, data, tmp_path / "out", SETTINGS, evidence=Evidence(load_bundle(bundle)))
    other = Run.of(untrained(name, "bbm", cache, tmp_path / "other", bbm={"weight": 0.5}, **refit))
    with pytest.raises(DataError, match="differs in more"):
        build_bundle(other, data, tmp_path / "out", SETTINGS, evidence=Evidence(load_bundle(bundle)))
    pupil = Run(final.path, replace(final.trained, learnt_from={"teacher_sha256": "ab" * 32}))
    with pytest.raises(DataError, match="another teacher"):
        build_bundle(pupil, data, tmp_path / "out", SETTINGS, evidence=Evidence(load_bundle(bundle)))
    begun = Run(final.path, replace(final.trained, learnt_from={"initial_sha256": "ab" * 32}))
    with pytest.raises(DataError, match="other weights"):
        build_bundle(begun, data, tmp_path / "out", SETTINGS, evidence=Evidence(load_bundle(bundle)))
    out = tmp_path / "out"
    build_bundle(final, data, out, SETTINGS, evidence=Evidence(load_bundle(bundle)))
    ours, theirs = contract_of(out), contract_of(bundle)
    for entry in ("calibration", "operating_points", "classes", "short_recordings"):
        assert ours.get(entry) == theirs.get(entry)
    assert ours["metrics"]["test"] != theirs["metrics"]["test"]
    assert ours["training"]["evidence"]["chosen"]["checkpoint_sha256"] == student.sha256
    assert ours["training"]["student"]["validation_at_best_epoch"] == {}
    assert all(epoch["validation"] == {} for epoch in ours["training"]["student"]["curve"])
    card = (out / "card.md").read_text()
    assert "learnt from the training and the validation part together" in card
    assert "validation part together" not in (bundle / "card.md").read_text()


def test_an_opinion_makes_classes_evaluable_and_moves_thresholds(
    ecg_student: Run,
    ecg_data: Data,
    ecg_bundle: Path,
    ecgs: Path,
    stay_data: Data,
    stay_student: Run,
    tmp_path: Path,
) -> None:
    train = ecg_data.parts["train"]
    assert isinstance(train, EcgPart)
    perfect = np.where(train.labels, 0.9, 0.1).astype(np.float32)
    file = tmp_path / "opinion.npz"
    content = {
        "probabilities": perfect,
        "items": open_cohort(ecgs).items("train"),
        "cache_sha256": np.array(ecg_data.cache_sha256),
        "split_sha256": np.array(ecg_data.split_sha256),
        "out_of_fold": np.array(True),
    }
    np.savez(file, **content)
    evidence = Evidence(None, open_opinion(file, ecgs, ecg_data), "0" * 64)
    build_bundle(ecg_student, ecg_data, tmp_path / "out", SETTINGS, evidence=evidence)
    before, after = contract_of(ecg_bundle), contract_of(tmp_path / "out")
    positives = train.labels.sum(axis=0) + ecg_data.parts["validation"].labels.sum(axis=0)  # type: ignore[attr-defined]
    evaluable = np.array([c["evaluable"] for c in after["classes"]])
    assert evaluable[positives < 15].sum() == 0
    assert evaluable.sum() >= sum(c["evaluable"] for c in before["classes"])
    point = after["operating_points"]["f1"]
    assert "out-of-fold" in point["description"]
    assert point["thresholds"] != before["operating_points"]["f1"]["thresholds"]
    assert after["calibration"] == before["calibration"]
    assert "cross-fitted" in (tmp_path / "out" / "card.md").read_text()

    np.savez(file, **(content | {"out_of_fold": np.array(False)}))
    with pytest.raises(DataError, match="learnt from what they were asked about"):
        open_opinion(file, ecgs, ecg_data)
    np.savez(file, **(content | {"items": content["items"][::-1]}))
    with pytest.raises(DataError, match="another share"):
        open_opinion(file, ecgs, ecg_data)
    np.savez(file, **(content | {"split_sha256": np.array("0" * 64)}))
    with pytest.raises(DataError, match="another split"):
        open_opinion(file, ecgs, ecg_data)
    with pytest.raises(DataError, match="not used for stays"):
        build_bundle(stay_student, stay_data, tmp_path / "stays", SETTINGS, evidence=evidence)
