"""The notebooks run from top to bottom on small inputs, and are stored without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

SMALL = {
    "score_an_ecg": "SECONDS_AT_ONCE = 5.0",
    "validate_on_own_stays": "STAYS = 24\nFOLDER = None",
    "distil_a_student": "STAYS = 40\nEPOCHS = 1",
}
NEEDS = {"distil_a_student": "torch"}


def notebook(root: Path, name: str) -> Any:
    return nbformat.read(root / "examples" / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_here(root: Path) -> None:
    assert {path.stem for path in (root / "examples" / "notebooks").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebooks_are_stored_without_outputs(root: Path, name: str) -> None:
    found = notebook(root, name)
    nbformat.validate(found)
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    found = notebook(root, name)
    for cell in found.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += f"\n{SMALL[name]}\nEXAMPLES = {str(root / 'examples')!r}"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(
        found,
        timeout=900,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    texts = [
        output.text
        for cell in found.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    ]
    assert not any("Traceback" in text or "ibt: " in text for text in texts), texts
