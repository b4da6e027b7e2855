"""The same job on a Ray cluster of two workers."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.bundles import write_ecg_bundle
from helpers.exports_ecg import bytes_of, write_export


@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'ibt[ray]'")
    headers = write_export(tmp_path / "in", 80)
    headers[7].with_suffix(".dat").write_bytes(b"short")
    bundle = write_ecg_bundle(tmp_path / "bundle")
    ibt = str(Path(sys.executable).with_name("ibt"))
    for engine in ("local", "ray"):
        done = subprocess.run(
            [
                ibt,
                "batch",
                "in",
                "--out",
                engine,
                "--engine",
                engine,
                "--bundle",
                str(bundle),
                "--device",
                "cpu",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 1, done.stderr
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")
    assert (tmp_path / "ray" / "report.html").read_bytes() == (
        tmp_path / "local" / "report.html"
    ).read_bytes()
    summary = json.loads((tmp_path / "ray" / "summary.json").read_text())
    assert (summary["records"], summary["refused"]) == (79, {"truncated_file": 1})
