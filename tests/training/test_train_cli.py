"""``ibt train`` from a user's view."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers.tiny import tiny_recipe

from ibt_deploy.errors import MissingExtra
from ibt_deploy.vocabulary import NAMES
from training.cli import train
from training.recipe import Recipe, packaged_recipes, recipe_from_dict, toml_lines
from training.study import results
from training.study.study import Study


def ibt_train(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(a) for a in arguments], prog_name="ibt train")


def written(recipe: Recipe, path: Path) -> Path:
    path.write_text("\n".join(toml_lines(recipe)), encoding="utf-8")
    return path


@pytest.fixture
def psv_tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(40):
        hours = int(rng.integers(8, 20))
        rows = pd.DataFrame(rng.uniform(1, 90, (hours, 40)).round(1), columns=list(NAMES))
        rows["ICULOS"] = np.arange(1, hours + 1)
        rows["SepsisLabel"] = (np.arange(hours) >= hours - 4).astype(int) * (i % 2)
        folder = tmp_path / "raw" / f"training_set{'AB'[i // 2 % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_csv(folder / f"p{i:06d}.psv", sep="|", index=False, na_rep="NaN")
    return tmp_path / "raw"


def test_prepare_and_run_from_raw_files(psv_tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = ibt_train("prepare", psv_tree, "--out", cache)
    assert result.exit_code == 0, result.output
    assert "40 records" in result.stdout
    assert "split: drawn with seed 0" in result.stdout
    first = (cache / "split.csv").read_bytes()
    assert ibt_train("prepare", psv_tree, "--out", cache, "--seed", "3").exit_code == 0
    assert (cache / "split.csv").read_bytes() != first

    recipe = written(tiny_recipe("sepsis", "teacher"), tmp_path / "teacher.toml")
    out = tmp_path / "run"
    result = ibt_train(
        "run", recipe, "--cache", cache, "--out", out, "--device", "cpu", "--set", "fit.epochs=1"
    )
    assert result.exit_code == 0, result.output
    assert "best epoch 1: utility" in result.stdout
    assert (out / "best.pt").is_file()
    student = written(tiny_recipe("sepsis", "bbm"), tmp_path / "bbm.toml")
    result = ibt_train(
        "run",
        student,
        "--cache",
        cache,
        "--out",
        tmp_path / "s",
        "--teacher",
        out / "best.pt",
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.output

    result = ibt_train("curves", out, tmp_path / "s")
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if line in ("run", "s")] == ["run", "s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "nothing", "--cache", ".", "--out", "x"),
            "neither a file nor a packaged recipe; these are arr",
        ),
        (("run", "sepsis-bbm", "--cache", ".", "--out", "x"), "method 'bbm' needs --teacher"),
        (
            ("run", "sepsis-teacher", "--cache", ".", "--out", "x", "--teacher", "t.pt"),
            "does not take --teacher",
        ),
        (
            ("run", "sepsis-teacher", "--cache", ".", "--out", "x", "--set", "fit.lr"),
            "not of the form key=value",
        ),
        (
            ("run", "sepsis-teacher", "--cache", ".", "--out", "x", "--set", "fit.speed=1"),
            "fit.speed: unknown key",
        ),
        (
            ("run", "arrhythmia-teacher", "--cache", ".", "--out", "x", "--also", "y"),
            "--also is for method=masked",
        ),
        (("run", "sepsis-teacher", "--cache", "none", "--out", "x"), "no cache.json here"),
        (("run", "sepsis-teacher", "--cache", ".", "--out", "x", "--device", "tpu"), "'tpu' is not one of"),
        (("prepare", "none", "--out", "x"), "none: no such file or folder"),
        (("prepare", ".", "--out", "x", "--split", "s.csv", "--seed", "1"), "--split names a split"),
        (("ensemble", "--trees", "--folds", "3", "--cache", ".", "--out", "x"), "--folds divides"),
        (("curves", "none"), "no metrics.jsonl here"),
        (("show", "none"), "neither a file nor a packaged recipe"),
    ],
)
def test_errors_are_one_line_and_exit_status_two(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ibt_train(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if message in line]
    assert len(errors) == 1


def test_recipes_are_listed_with_what_they_are() -> None:
    result = ibt_train("recipes")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_recipes())
    assert all(len(line.split()) > 4 for line in lines)


def test_a_recipe_is_shown_in_full_and_is_a_recipe_again() -> None:
    result = ibt_train("show", "sepsis-bbm", "--set", "bbm.groups=1", "--set", "bbm.group_weights=[2]")
    assert result.exit_code == 0
    recipe = recipe_from_dict(tomllib.loads(result.stdout))
    assert (recipe.method, recipe.bbm.groups, recipe.bbm.group_weights) == ("bbm", 1, (2.0,))
    assert "groups = 1  # in [0, inf); default 0" in result.stdout
    assert 'schedule = "joint"  # joint | two_stage | cosine_to_zero' in result.stdout

    def leaves(table: dict[str, object]) -> int:
        return sum(leaves(v) if isinstance(v, dict) else 1 for v in table.values())

    assert leaves(tomllib.loads(result.stdout)) == leaves(recipe.to_dict())


def test_every_packaged_recipe_survives_being_shown() -> None:
    for name, path in packaged_recipes().items():
        shown = recipe_from_dict(tomllib.loads(ibt_train("show", name).stdout))
        assert shown == recipe_from_dict(tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("command", ["", "prepare", "run", "recipes", "show", "curves"])
def test_help_has_examples(command: str) -> None:
    result = ibt_train(*filter(None, [command]), "--help")
    assert result.exit_code == 0
    assert command == "recipes" or f"ibt train {command}" in result.stdout


def test_help_needs_no_torch(root: Path) -> None:
    code = "import sys, training.cli; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    done = subprocess.run(
        [sys.executable, "-m", "training", "--help"], check=True, cwd=root, capture_output=True, text=True
    )
    assert done.stdout.startswith("Usage: python -m training")


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", ("run", "sepsis-teacher", "--cache", "none", "--out", "x"), "ibt[train]"),
        ("sklearn", ("ensemble", "--trees", "--cache", "none", "--out", "x"), "ibt[train]"),
        (
            "ray",
            ("tune", "--method", "teacher", "--engine", "ray", "--cache", "stays", "--out", "x"),
            "ibt[ray]",
        ),
        ("safetensors", ("weights", "last.pt", "--out", "x.safetensors"), "ibt[train]"),
        ("pyarrow", ("prepare", "p.parquet", "--out", "x"), "ibt[batch]"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_any_work(
    module: str, arguments: tuple[str, ...], extra: str, root: Path, stays: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.parquet").touch()
    (tmp_path / "stays").symlink_to(stays)
    code = f"import sys; sys.modules[{module!r}] = None; from training.cli import train; train()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"needs {module}, which is not installed: pip install '{extra}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("module", "install"), [("matplotlib", "pip install 'ibt[plot]'"), ("onnxruntime", "pip install ibt")]
)
def test_a_study_that_could_not_be_reported_trains_nothing(
    module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=re.escape(f"needs {module}, which is not installed: {install}")):
        results.reproduced(cast(Study, None), only=(), jobs=1, device="cpu", train=True, draws=1, say=print)
