"""Curves of runs: read, tabulated, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.tiny import tiny_recipe

from benchmarks.sizes import main as sizes
from ibt_deploy.errors import DataError
from ibt_deploy.types import Task
from training.checkpoint import Curve, draw, read_curve, table_lines
from training.run import train


def record(epoch: int, loss: float, selection: float, improved: bool) -> dict[str, object]:
    return {
        "epoch": epoch,
        "steps": 3,
        "lr": 1e-3,
        "train": {"loss": loss, "task": loss / 2, "L1_1": 9.0, "rms_1": 8.0},
        "validation": {"selection": selection, "utility": selection, "auroc": 0.7},
        "improved": improved,
        "seconds": 2.5,
        "items_per_second": 10.0,
    }


RECORDS = [record(0, 0.9, 0.1, True), record(1, 0.8, 0.3, True), record(2, 0.7, 0.2, False)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
    return folder


def test_a_table_has_a_line_an_epoch_and_a_star_at_the_best(run: Path) -> None:
    lines = table_lines(read_curve(run))
    assert lines[0] == "my-run"
    assert lines[1].split() == ["epoch", "lr", "loss", "task", "utility", "auroc", "seconds"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    assert [line.endswith("*") for line in lines[2:]] == [False, True, False]
    assert lines[3].split()[2:6] == ["0.8000", "0.4000", "0.3000", "0.7000"]


def test_series_leave_out_what_is_no_number(run: Path) -> None:
    curve = Curve("x", [record(0, 1.0, float("nan"), True), record(1, 0.5, 0.3, True)])
    assert curve.series("train", "loss") == ([1, 2], [1.0, 0.5])
    assert curve.series("validation", "selection") == ([2], [0.3])
    assert curve.series("train", "nothing") == ([], [])


def test_pictures_are_drawn(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([read_curve(run)] * 2, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert read_curve(run).official == "utility"
    refit = Curve("refit", [record(0, 1.0, 0.0, True) | {"validation": {"selection": 0.0}}])
    assert refit.official is None
    draw([refit], tmp_path / "refit.png")
    assert (tmp_path / "refit.png").stat().st_size > 1000
    with pytest.raises(DataError, match="cannot be written"):
        draw([read_curve(run)], tmp_path / "none" / "curves.png")


@pytest.mark.parametrize("content", ["", "no json\n", "[1]\n", '{"epoch": 0}\n'])
def test_other_files_are_refused(run: Path, content: str) -> None:
    (run / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_curve(run)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no metrics\.jsonl here"):
        read_curve(tmp_path)


def test_sizes_are_tabled_with_their_scores_and_drawn(ecgs: Path, tmp_path: Path) -> None:
    run = tmp_path / "ablation-small" / "seed-0"
    train(tiny_recipe("arrhythmia", "transformer"), ecgs, run, device="cpu")
    picture = tmp_path / "sizes.svg"
    done = CliRunner().invoke(sizes, [str(run), "--threads", "1", "--seconds", "0", "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    header, _, row = (line.strip("| ").split(" | ") for line in done.output.splitlines()[2:])
    cells = dict(zip(header, row, strict=True))
    assert cells["run"] == "small, seed-0"
    assert cells["AUROC"] == f"{read_curve(run).best['validation']['auroc']:.3f}"
    assert float(cells["int8, batch 32, ms"]) > 0
    assert "</svg>" in picture.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "changes", "refusal"),
    [
        ("arrhythmia", {"data": {"refit": True}, "fit": {"select": "last"}}, "has no validation scores"),
        ("sepsis", {}, "is not a run on ECGs"),
    ],
)
def test_sizes_refuse_what_cannot_be_compared(
    task: Task, changes: dict[str, Any], refusal: str, ecgs: Path, stays: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(task, "transformer", **changes)
    train(recipe, ecgs if task == "arrhythmia" else stays, tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match=refusal):
        CliRunner().invoke(sizes, [str(tmp_path / "run")], catch_exceptions=False)
