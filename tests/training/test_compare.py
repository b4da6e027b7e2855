"""Trained networks compared on the validation part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from helpers.tiny import ecg_cache, tiny_recipe

from ibt_deploy.errors import DataError
from training.checkpoint import load_network, read_checkpoint, save_atomically
from training.cli import train as command
from training.compare import compared
from training.run import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(stays: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("runs") / f"seed-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        train(replace(tiny_recipe("sepsis", "transformer"), seed=seed), stays, folder, device="cpu")
    return folders


def test_scores_are_those_of_training_and_differences_are_paired(stays: Path, runs: list[Path]) -> None:
    paths = [run / "best.pt" for run in (*runs, runs[0])]
    (first, second, again), part = compared(paths, stays, device=CPU, draws=50)
    for found, path in zip((first, second), paths, strict=False):
        logged = load_network(path).scores
        assert found.scores["auroc"].value == pytest.approx(logged["auroc"], abs=1e-6)
        assert found.scores["auprc"].value == pytest.approx(logged["auprc"], abs=1e-6)
        assert found.scores["utility"].low <= found.scores["utility"].value <= found.scores["utility"].high
    assert first.minus_first == {}
    for name, gap in second.minus_first.items():
        assert gap.value == pytest.approx(second.scores[name].value - first.scores[name].value)
    # against the same network, every draw differs by nothing
    assert {(gap.value, gap.low, gap.high) for gap in again.minus_first.values()} == {(0, 0, 0)}
    assert part["stays"] == len((stays / "split.csv").read_text().split(",validation")) - 1


def test_the_command_prints_one_line_per_network_and_measure(stays: Path, runs: list[Path]) -> None:
    arguments = ["compare", *map(str, runs), "--cache", str(stays), "--draws", "20", "--device", "cpu"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "not a medical device" in result.output
    assert result.output.count("AUROC") == len(runs)
    alone = CliRunner().invoke(command, ["compare", str(runs[0]), "--cache", str(stays), "--draws", "20"])
    assert "minus the first" in result.output
    assert "minus the first" not in alone.output


def test_ecgs_are_compared_over_the_classes_with_enough_positives(ecgs: Path, ecg_teacher: Path) -> None:
    (found,), part = compared([ecg_teacher], ecgs, device=CPU, draws=5)
    labels = np.load(ecgs / "labels.npy")
    parts = pd.read_csv(ecgs / "split.csv")["part"].to_numpy()
    positives = [(labels[parts == part] == 1).sum(axis=0) for part in ("train", "validation")]
    assert part.get("classes", 1) == (np.minimum(*positives) >= 5).sum() > 0
    assert 0 <= found.scores["challenge_metric"].value <= 1


def test_networks_that_do_not_belong_here_are_refused(stays: Path, runs: list[Path], tmp_path: Path) -> None:
    best, other = runs[0] / "best.pt", tmp_path / "other.pt"
    with pytest.raises(DataError, match="another cache"):
        compared([best], ecg_cache(tmp_path / "ecgs", 100, leads=12), device=CPU)
    content = read_checkpoint(best)
    save_atomically(content | {"split_sha256": "0" * 64}, other)
    with pytest.raises(DataError, match="another split"):
        compared([best, other], stays, device=CPU, draws=5)
    recipe = json.loads(json.dumps(content["recipe"]))
    recipe["data"]["refit"] = True
    recipe["fit"]["select"] = "last"
    save_atomically(content | {"recipe": recipe}, other)
    with pytest.raises(DataError, match="learnt from the validation part"):
        compared([best, other], stays, device=CPU, draws=5)
