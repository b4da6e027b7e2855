from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import recording, reseal

from ibt_deploy.bundle import load_bundle
from ibt_deploy.errors import BundleError
from ibt_deploy.golden import GoldenCase, golden_cases, recomputed, write_golden
from ibt_deploy.records import Recording


@pytest.mark.parametrize("name", ["ecg_bundle", "stay_bundle"])
def test_golden_inputs_are_recomputed(request: pytest.FixtureRequest, name: str) -> None:
    checks = list(recomputed(load_bundle(request.getfixturevalue(name))))
    last = "logits, int8" if name == "ecg_bundle" else "logits in steps"
    assert [c.what for c in checks] == ["features", "logits", last] * 2
    assert all(c.passed for c in checks)


@pytest.mark.parametrize(("key", "shift"), [("features", 1e-4), ("logits", 1e-2)])
def test_a_difference_beyond_the_tolerance_is_reported(ecg_copy: Path, key: str, shift: float) -> None:
    with np.load(ecg_copy / "golden.npz") as archive:
        arrays = dict(archive)
    arrays[f"long/{key}"] = arrays[f"long/{key}"] + np.float32(shift)
    np.savez(ecg_copy / "golden.npz", **arrays)
    reseal(ecg_copy)
    failed = [(c.case, c.what) for c in recomputed(load_bundle(ecg_copy)) if not c.passed]
    assert failed == [("long", key)]


def test_other_shapes_fail(ecg_copy: Path) -> None:
    with np.load(ecg_copy / "golden.npz") as archive:
        arrays = dict(archive)
    arrays["long/logits"] = arrays["long/logits"][:1]
    np.savez(ecg_copy / "golden.npz", **arrays)
    reseal(ecg_copy)
    failed = [c for c in recomputed(load_bundle(ecg_copy)) if not c.passed]
    assert len(failed) == len(load_bundle(ecg_copy).variants)
    assert all("shape (1, 26), found (2, 26)" in check.what for check in failed)


def test_microvolts_and_invalid_samples_come_back(tmp_path: Path) -> None:
    signal = (recording(6.0).signal * 1000).round().astype(np.int16)
    signal[3, 10:20] = -32768
    given = Recording(signal, 500.0, recording().leads, "x", "x", "x")  # type: ignore[arg-type]
    nothing = np.zeros(0, dtype=np.float32)
    write_golden(tmp_path / "golden.npz", {"a": GoldenCase("a", given, nothing, nothing)})
    (case,) = golden_cases(tmp_path / "golden.npz")
    assert isinstance(case.given, Recording)
    assert case.given.leads == given.leads
    expected = np.where(signal == -32768, np.nan, signal / 1000)
    np.testing.assert_array_equal(case.given.signal, expected)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **{"a/values": np.array([object()], dtype=object)})
    with pytest.raises(BundleError, match="not a file of golden inputs"):
        list(golden_cases(tmp_path / "golden.npz"))
    (tmp_path / "golden.npz").write_bytes(b"no archive")
    with pytest.raises(BundleError, match="not a file of golden inputs"):
        list(golden_cases(tmp_path / "golden.npz"))


def test_golden_inputs_of_another_task_are_refused(ecg_copy: Path, stay_bundle: Path) -> None:
    (ecg_copy / "golden.npz").write_bytes((stay_bundle / "golden.npz").read_bytes())
    reseal(ecg_copy)
    with pytest.raises(BundleError, match="another task"):
        list(recomputed(load_bundle(ecg_copy)))


def test_a_bundle_without_golden_inputs_cannot_be_recomputed(ecg_copy: Path) -> None:
    (ecg_copy / "golden.npz").unlink()
    reseal(ecg_copy)
    with pytest.raises(BundleError, match=r"no golden\.npz"):
        list(recomputed(load_bundle(ecg_copy)))
