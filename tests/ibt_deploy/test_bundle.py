from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bundles import reseal

from ibt_deploy import bundle as module
from ibt_deploy.bundle import bundle_path, load_bundle, packaged_bundles
from ibt_deploy.errors import BundleError
from ibt_deploy.predictor import load
from ibt_deploy.preprocess.ecg import EcgPreprocessing


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    contract = json.loads((folder / "bundle.json").read_text())
    change(contract)
    (folder / "bundle.json").write_text(json.dumps(contract))
    return folder


def test_a_bundle_carries_its_whole_contract(ecg_bundle: Path) -> None:
    bundle = load_bundle(ecg_bundle)
    assert (bundle.task, bundle.name, bundle.version) == ("arrhythmia", "tiny-arrhythmia", "0.0.1")
    assert bundle.sha256 == hashlib.sha256((ecg_bundle / "bundle.json").read_bytes()).hexdigest()
    assert isinstance(bundle.preprocessing, EcgPreprocessing)
    assert len(bundle.classes) == 26
    assert bundle.operating_point().name == "challenge"
    assert bundle.operating_point("strict").thresholds[0] == pytest.approx(0.999999)
    assert bundle.graph() == (ecg_bundle / "model.onnx").read_bytes()
    assert bundle.graph("int8") == (ecg_bundle / "model.int8.onnx").read_bytes()
    assert bundle.card.startswith("# tiny-arrhythmia")


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "golden.npz", "card.md"])
def test_one_altered_byte_in_any_file_is_refused(ecg_copy: Path, name: str) -> None:
    content = bytearray((ecg_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (ecg_copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}.*does not match its SHA-256"):
        load_bundle(ecg_copy)


def test_a_graph_that_is_altered_after_loading_is_not_run(ecg_copy: Path) -> None:
    bundle = load_bundle(ecg_copy)
    (ecg_copy / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="does not match"):
        bundle.graph()


def test_missing_and_unexpected_files_are_refused(ecg_copy: Path) -> None:
    (ecg_copy / "extra.md").write_text("x")
    with pytest.raises(BundleError, match=r"unexpected extra\.md"):
        load_bundle(ecg_copy)
    (ecg_copy / "extra.md").unlink()
    (ecg_copy / "card.md").unlink()
    with pytest.raises(BundleError, match=r"card\.md.*missing"):
        load_bundle(ecg_copy)


def test_links_are_refused(ecg_copy: Path, tmp_path: Path) -> None:
    (ecg_copy / "card.md").replace(tmp_path / "card.md")
    (ecg_copy / "card.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(BundleError, match=r"card\.md.*not a plain file"):
        load_bundle(ecg_copy)
    (ecg_copy / "bundle.json").replace(tmp_path / "bundle.json")
    (ecg_copy / "bundle.json").symlink_to(tmp_path / "bundle.json")
    with pytest.raises(BundleError, match="no links"):
        load_bundle(ecg_copy)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd.md", "a/b.onnx", "..", "", "C:model.onnx", "a\\b.md", "x\0.md", "run.py"],
)
def test_names_that_are_not_plain_files_of_a_bundle_are_refused(ecg_copy: Path, name: str) -> None:
    edited(ecg_copy, lambda c: c["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="not the plain name"):
        load_bundle(ecg_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=2), "schema 2"),
        (lambda c: c.update(task="glucose"), "task 'glucose'"),
        (lambda c: c.pop("calibration"), "no entry 'calibration'"),
        (lambda c: c["preprocessing"].update(version="9.0.0"), "9.0.0"),
        (lambda c: c["classes"].reverse(), "official order"),
        (
            lambda c: c["classes"][3].update(evaluable="yes"),
            r"classes\[3\]\.evaluable: bool is expected, not 'yes'",
        ),
        (lambda c: c["classes"][3].pop("codes"), r"classes\[3\]\.codes is missing"),
        (lambda c: c["classes"].__setitem__(3, "AF"), r"classes\[3\]: a table is expected"),
        (lambda c: [entry.update(evaluable=False) for entry in c["classes"]], "no evaluable class"),
        (lambda c: c["calibration"].update(kind="isotonic"), "isotonic"),
        (lambda c: c["calibration"]["slope"].__setitem__(0, 0.0), r"slope\[0\]: 0.0 is not in \(0, inf\)"),
        (lambda c: c["calibration"].update(slope=[1.0]), "1 numbers where 26"),
        (lambda c: c["calibration"]["intercept"].__setitem__(0, "1"), r"intercept\[0\]: float is expected"),
        (lambda c: c["calibration"]["slope"].__setitem__(0, 10**400), r"slope\[0\]: inf"),
        (
            lambda c: c["operating_points"]["strict"].update(exclusive=1),
            r"strict\.exclusive: bool is expected",
        ),
        (lambda c: c.update(version=1), "version: str is expected, not 1"),
        (lambda c: c["operating_points"]["strict"]["thresholds"].__setitem__(0, 1.5), r"\(0, 1\]"),
        (lambda c: c["operating_points"]["strict"]["thresholds"].__setitem__(0, 0), r"\(0, 1\]"),
        (lambda c: c.update(default_operating_point="none"), "operating point 'none'"),
        (lambda c: c.update(default_variant="fp16"), "variant 'fp16'"),
        (lambda c: c["variants"].update(int8="card.md"), r"card\.md"),
        (lambda c: c["inputs"][0].update(axes=["b"]), "3 axes of which 1 are named"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(
    ecg_copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edited(ecg_copy, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(ecg_copy)


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_stays_without_fixed_scales_are_refused_because_it_would_break_causality(
    stay_copy: Path, name: str
) -> None:
    edited(stay_copy, lambda c: c["variants"].update({name: "model.onnx"}))
    assert load(stay_copy, device="cpu").model.variant == "fp32"
    with pytest.raises(BundleError, match="later hours would change earlier answers"):
        load(stay_copy, device="cpu", variant=name)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": NaN}', "\xff"])
def test_a_contract_that_is_no_json_object_is_refused(ecg_copy: Path, text: str) -> None:
    (ecg_copy / "bundle.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="JSON"):
        load_bundle(ecg_copy)


def test_a_directory_without_contract_and_an_unknown_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        bundle_path(tmp_path)
    with pytest.raises(BundleError, match="neither a task"):
        bundle_path(tmp_path / "absent")


def test_packaged_bundles_are_found_by_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ecg_copy: Path
) -> None:
    monkeypatch.setattr(module, "_PACKAGED", tmp_path)
    assert packaged_bundles() == {"arrhythmia": ecg_copy}
    assert load_bundle("arrhythmia").name == "tiny-arrhythmia"
    with pytest.raises(BundleError, match="no sepsis bundle is installed"):
        load_bundle("sepsis")


def test_unknown_names_list_what_there_is(ecg_bundle: Path) -> None:
    bundle = load_bundle(ecg_bundle)
    with pytest.raises(BundleError, match="no variant 'fp16'; there is fp32, int8"):
        bundle.graph("fp16")
    with pytest.raises(BundleError, match="no operating point 'x'; there is challenge, strict"):
        bundle.operating_point("x")


def test_calibration_is_the_logistic_function_without_overflow(ecg_bundle: Path) -> None:
    calibration = load_bundle(ecg_bundle).calibration
    logits = np.linspace(-800, 800, 26 * 7).reshape(7, 26)
    with np.errstate(all="raise", under="ignore"):
        found = calibration.probability(logits.astype(np.float32))
    exact = 1 / (1 + np.exp(-np.longdouble(1.1) * logits.astype(np.float32) - np.longdouble(0.1)))
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=1e-12, atol=1e-300)


def test_hashes_can_be_brought_up_to_date(ecg_copy: Path) -> None:
    before = load_bundle(ecg_copy).sha256
    (ecg_copy / "golden.npz").write_bytes(b"other")
    reseal(ecg_copy)
    assert load_bundle(ecg_copy).sha256 != before
