"""The network of a bundle, from the weights in its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from helpers.exports import SETTINGS, shaken, untrained
from torch import Tensor

from export.build import Data, Run, build_bundle
from export.cli import export
from export.graph import graph_of
from export.weights import bundle_checkpoint, graph_weights
from ibt_deploy.bundle import load_bundle
from ibt_deploy.errors import ExportError
from training.checkpoint import load_network, read_checkpoint, save_atomically
from training.models import Encoder
from training.models.students import EcgDeiT, EcgTransformer, StayDeiT, StayTransformer, StayTwoHeads
from training.models.teachers import HannunResNet

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
NETWORKS: dict[str, Callable[[], Encoder]] = {
    "ecg": lambda: EcgTransformer(**SMALL),
    "ecg, class token": lambda: EcgTransformer(**SMALL, readout="cls"),
    "ecg, wider": lambda: EcgTransformer(dim=192, depth=1, heads=2),
    "stay": lambda: StayTransformer(n_features=7, **SMALL),
    "stay, deit": lambda: StayDeiT(n_features=7, **SMALL),
    "stay, two heads": lambda: StayTwoHeads(n_features=7, **SMALL),
}


@pytest.mark.parametrize(("name", "opset"), [*((name, 23) for name in NETWORKS), ("ecg", 18), ("stay", 18)])
def test_a_graph_gives_back_the_weights(name: str, opset: int) -> None:
    network = shaken(NETWORKS[name]())
    expected = network.state_dict()
    size = (12, 2000) if name.startswith("ecg") else (7, 0)
    found = graph_weights(graph_of(network, *size, {}, opset), expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("network", [HannunResNet(base_filters=4, n_blocks=8), EcgDeiT(**SMALL)])
def test_merged_weights_are_refused(network: Encoder) -> None:
    shaken(network)
    with pytest.raises(ExportError, match="the exporter merged"):
        graph_weights(graph_of(network, 12, 2000, {}), network.state_dict())


def test_a_bundle_gives_back_its_checkpoint(stays: Path, stay_data: Data, tmp_path: Path) -> None:
    path = untrained("sepsis", "bbm", stays, tmp_path / "run")
    content = read_checkpoint(path)
    content["network"] = shaken(load_network(path).network).state_dict()
    content["learnt_from"] = {"teacher_sha256": "a" * 64, "also_sha256": "b" * 64}
    save_atomically(content, path)
    build_bundle(Run.of(path), stay_data, tmp_path / "bundle", SETTINGS)
    out = tmp_path / "student.safetensors"
    arguments = ["--weights", str(out), "--bundle", str(tmp_path / "bundle")]
    result = CliRunner().invoke(export, arguments)
    assert result.exit_code == 0, result.output
    expected, found = load_network(path), load_network(out)
    for name, weight in expected.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weight)
    left = {key: value for key, value in vars(found).items() if key != "network"}
    assert left == {key: value for key, value in vars(expected).items() if key != "network"}


def test_the_packaged_ecg_model_has_the_constants_of_training() -> None:
    bundle = load_bundle("arrhythmia")
    content = bundle_checkpoint(bundle)
    assert (content["n_inputs"], content["samples"]) == (12, 2000)
    assert content["preprocessing"]["version"] == "1.0.0"
    assert "shortest_seconds" not in content["preprocessing"]
    n = sum(weights.numel() for weights in content["network"].values())
    assert n == bundle.contract["training"]["student"]["parameters"]


def test_weights_that_score_differently_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(model: onnx.ModelProto, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = graph_weights(model, wanted)
        return weights | {"classifier.bias": weights["classifier.bias"] + 1}

    monkeypatch.setattr("export.weights.graph_weights", moved)
    with pytest.raises(ExportError, match="other logits"):
        bundle_checkpoint(load_bundle("sepsis"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weights", "w.safetensors"],
        ["--weights", "w.pt", "--bundle", "sepsis"],
        ["--weights", "w.safetensors", "--bundle", "sepsis", "--hub", "h"],
        ["--weights", "w.safetensors", "--bundle", "sepsis", "--out", "o"],
        ["--weights", "w.safetensors", "--bundle", "sepsis", "--draws", "5"],
        ["--cards", "--weights", "w.safetensors", "--bundle", "sepsis"],
        ["--cards", "--bundle", "sepsis"],
    ],
)
def test_usage(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(export, arguments)
    assert result.exit_code == 2, result.output
    assert not list(tmp_path.iterdir())
