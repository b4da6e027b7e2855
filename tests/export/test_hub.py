"""A bundle as a Hugging Face repository and as an MLflow model."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from export.cli import export
from ibt_deploy import load
from ibt_deploy.bundle import Bundle, load_bundle, packaged_bundles
from ibt_deploy.errors import ExportError
from training.checkpoint import load_network


@pytest.fixture(scope="module", params=["arrhythmia", "sepsis"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / request.param
    result = CliRunner().invoke(export, ["--hub", str(out), "--bundle", request.param])
    assert result.exit_code == 0, result.output
    return out


def head_of(readme: Path) -> dict[str, Any]:
    _, head, _ = readme.read_text(encoding="utf-8").split("---\n", 2)
    content: dict[str, Any] = yaml.safe_load(head)
    return content


def test_the_head_states_the_figures_of_the_contract(hub: Path) -> None:
    bundle = load_bundle(hub.name)
    head = head_of(hub / "README.md")
    assert head["license"] == "apache-2.0"
    (model,) = head["model-index"]
    assert model["name"] == bundle.name
    stated = [m["value"] for result in model["results"] for m in result["metrics"]]
    assert stated == [round(entry["value"], 4) for entry in bundle.contract["metrics"]["headline"]]
    for result in model["results"]:  # what huggingface.co/docs/hub/model-cards requires of an entry
        assert result["task"]["type"]
        assert result["dataset"]["type"]
        assert result["dataset"]["name"]
        assert all(m["type"] and isinstance(m["value"], float) for m in result["metrics"])


def test_the_notice_stands_before_the_use(hub: Path) -> None:
    text = (hub / "README.md").read_text(encoding="utf-8")
    assert 0 < text.index("not a medical device") < text.index("## Use") < text.index("## In short")


def test_the_bundle_in_it_is_the_one_that_was_named(hub: Path) -> None:
    assert load_bundle(hub / "bundle").sha256 == load_bundle(hub.name).sha256


def test_mlflow_answers_as_the_predictor_does(hub: Path, root: Path) -> None:
    flavor = yaml.safe_load((hub / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
    model = importlib.import_module(flavor["loader_module"])._load_pyfunc(str(hub / flavor["data"]))
    arrhythmia = hub.name == "arrhythmia"
    example = root / "examples" / ("recording.hea" if arrhythmia else "stay.psv")
    table = model.predict(pd.DataFrame({"path": [str(example), str(root / "none.psv")]}))
    expected = load(hub.name).predict(example)
    answered, refused = table[table["refused"].isna()], table[table["refused"].notna()]
    assert len(refused) == 1
    if arrhythmia:
        assert answered["findings"].tolist() == [[f.name for f in expected.findings if f.positive]]
        assert answered["NSR"].tolist() == [
            f.probability for f in expected.findings if f.abbreviation == "NSR"
        ]
    else:
        assert answered["risk"].tolist() == expected.risk.tolist()
        assert answered["alarm"].tolist() == expected.alarms.tolist()


def test_mlflow_needs_a_column_of_paths(hub: Path) -> None:
    model = importlib.import_module("ibt_deploy.mlflow_model")._load_pyfunc(str(hub / "bundle"))
    with pytest.raises(ValueError, match="column 'path'"):
        model.predict(pd.DataFrame({"file": []}))


def test_what_cannot_be_written_is_refused(hub: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "not an empty folder" in str(run(export, ["--hub", str(hub), "--bundle", hub.name]).exception)
    assert run(export, ["--hub", str(tmp_path / "x")]).exit_code == 2
    student = tmp_path / "best.pt"
    student.touch()
    assert run(export, [str(student), "--hub", str(tmp_path / "y"), "--bundle", hub.name]).exit_code == 2
    assert not (tmp_path / "y").exists()


def test_training_can_start_from_its_weights(hub: Path) -> None:
    parameters = load_bundle(hub.name).contract["training"]["student"]["parameters"]
    network = load_network(hub / "model.safetensors").network
    assert sum(weights.numel() for weights in network.parameters()) == parameters
    assert "--initial model/model.safetensors" in (hub / "README.md").read_text(encoding="utf-8")


def test_it_says_why_weights_are_missing(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def merged(bundle: Bundle) -> dict[str, Any]:
        raise ExportError(f"{bundle.path}: merged")

    monkeypatch.setattr("export.hub.bundle_checkpoint", merged)
    out = tmp_path / "hub"
    result = CliRunner().invoke(export, ["--hub", str(out), "--bundle", hub.name])
    assert result.exit_code == 0
    assert "without model.safetensors" in result.stderr
    assert not (out / "model.safetensors").exists()
    assert "--initial" not in (out / "README.md").read_text(encoding="utf-8")


def test_large_files_go_to_git_lfs(hub: Path) -> None:
    rules = (hub / ".gitattributes").read_text(encoding="ascii")
    large = {path.suffix for path in packaged_bundles()[load_bundle(hub.name).task].iterdir()}
    assert all(f"*{suffix} " in rules for suffix in large & {".onnx", ".npz"})
    assert json.loads((hub / "bundle" / "bundle.json").read_text(encoding="utf-8"))["task"] == hub.name
