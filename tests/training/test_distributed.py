"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import tiny_recipe

from training.checkpoint import read_checkpoint
from training.device import Place, is_first_process, process_group
from training.recipe import toml_lines
from training.run import train


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with process_group("cpu") as place:
        assert place == Place(0, 1, 0)
        assert place.is_first
        assert is_first_process()
        assert place.share == slice(0, None, 1)
        assert place.from_first(lambda: 7) == 7
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()


def test_shares_are_disjoint_and_complete() -> None:
    items = list(range(11))
    shares = [items[Place(rank, 4).share] for rank in range(4)]
    assert sorted(i for share in shares for i in share) == items


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def in_two_processes(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script, or ``-m`` and a module, in two processes of one thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize("task", ["sepsis", "arrhythmia"])
def test_two_processes_have_the_loss_curve_of_one(
    task: str, ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path, tmp_path: Path, root: Path
) -> None:
    cache, teacher = (ecgs, ecg_teacher) if task == "arrhythmia" else (stays, stay_teacher)
    recipe = tiny_recipe(task, "bbm", fit={"epochs": 3, "batch_size": 18})
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(toml_lines(recipe)), encoding="utf-8")
    command = ["-m", "training", "run", path, "--cache", cache, "--out", tmp_path / "two", "--device", "cpu"]
    done = in_two_processes(root, *command, "--teacher", teacher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1
    train(recipe, cache, tmp_path / "one", teacher=teacher, device="cpu")
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        losses = [n for n in a["train"] if n.startswith(("loss", "task", "matching", "L", "norm"))]
        assert len(losses) >= 12
        for name in losses:
            assert b["train"][name] == pytest.approx(a["train"][name], rel=1e-5, abs=1e-5), name
    weights = [read_checkpoint(tmp_path / run / "last.pt")["objective"] for run in ("one", "two")]
    for name, value in weights[0].items():
        # where a gradient is almost 0, Adam turns rounding, which differs between CPUs, into part of a step
        torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_two_processes_pretrain(ecgs: Path, tmp_path: Path, root: Path) -> None:
    recipe, path = tiny_recipe("arrhythmia", "masked", fit={"epochs": 8}), tmp_path / "recipe.toml"
    path.write_text("\n".join(toml_lines(recipe)), encoding="utf-8")
    command = ["-m", "training", "run", path, "--cache", ecgs, "--out", tmp_path / "two", "--device", "cpu"]
    done = in_two_processes(root, *command)
    assert done.returncode == 0, done.stderr
    train(recipe, ecgs, tmp_path / "one", device="cpu")
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    # the processes hide other patches in training; validation hides the same
    falls = [
        run[0]["validation"]["hidden_error"] - run[-1]["validation"]["hidden_error"] for run in (one, two)
    ]
    assert falls[0] > 0.01
    assert falls[1] == pytest.approx(falls[0], rel=0.3)


GROUPS_DRAWN = """
import json, sys, torch
from pathlib import Path
from training.device import process_group
from training.distil import masked_mean
with process_group("cpu") as place:
    narrow, wide = torch.full((3, 5, 2), 1.0 + place.rank), torch.full((3, 5, 8), 3.0 + place.rank)
    mask = torch.ones(3, 5)
    mask[place.rank:, 2:] = 0
    first, second = (narrow, wide) if place.is_first else (wide, narrow)
    found = [[float(masked_mean(v, m)) for v in (first, second)] for m in (None, mask)]
    Path(sys.argv[1], f"{place.rank}.json").write_text(json.dumps(found))
"""


def test_processes_that_draw_other_groups_do_not_mix_their_sizes(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GROUPS_DRAWN, encoding="utf-8")
    done = in_two_processes(root, script, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # a process's share is its sum divided by the joint count, times two: 15 and 15 rows, or 6 and 9
    assert first[0] == pytest.approx([1, 3])
    assert second[0] == pytest.approx([4, 2])
    assert first[1] == pytest.approx([6 * 1 * 2 / 15, 6 * 3 * 2 / 15])
    assert second[1] == pytest.approx([9 * 4 * 2 / 15, 9 * 2 * 2 / 15])
