"""Hyperparameter search: draws, early stopping, resumption after a kill, and the same trials under Ray."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.tiny import tiny_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import DataError, RecipeError
from training.cli import train as command
from training.recipe import load_recipe, toml_lines, with_values
from training.tune import (
    METHODS,
    Halving,
    Search,
    TrialContext,
    dimensions,
    draw,
    method_recipe,
    run_search,
    rungs,
)

RANGES: dict[str, tuple[float, float]] = {
    "fit.lr": (5e-5, 3e-3),
    "fit.weight_decay": (1e-6, 1e-1),
    "augment.magnitude": (0, 10),
    "bbm.weight": (0.1, 10),
}
CHOICES: dict[str, set[float]] = {
    "dropout": {0, 0.1, 0.2, 0.3},
    "augment.n_ops": {1, 2, 3},
    "deit.alpha": {0.1, 0.5, 0.9},
    "deit.tau": {1, 2, 4},
}


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), trial=st.integers(0, 100))
def test_draws_lie_in_the_search_spaces(task: str, method: str, seed: int, trial: int) -> None:
    values = draw(task, method, seed, trial)
    assert values == draw(task, method, seed, trial)
    for key, value in values.items():
        if key in RANGES:
            assert RANGES[key][0] <= value <= RANGES[key][1]
        else:
            assert value in CHOICES["dropout" if key.endswith("dropout") else key]
    assert ("augment.n_ops" in values) is (task == "arrhythmia")
    with_values(method_recipe(tiny_recipe(task, "teacher"), method, 20, 2), values)


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
def test_methods_share_what_they_share(task: str) -> None:
    for trial in range(20):
        drawn = {method: draw(task, method, 5, trial) for method in METHODS}
        plain = drawn.pop("transformer")
        teacher = drawn.pop("teacher")
        for values in drawn.values():
            assert plain.items() <= values.items()
        assert teacher["fit.weight_decay"] == plain["fit.weight_decay"]
        quantile = np.log(teacher["fit.lr"] / 1e-4) / np.log(30)
        assert np.log(plain["fit.lr"] / 5e-5) / np.log(40) == pytest.approx(quantile, abs=1e-3)
    assert draw(task, "bbm", 0, 0) != draw(task, "bbm", 1, 0)


def test_learning_rates_are_spread_over_the_decades() -> None:
    rates = np.array([draw("sepsis", "transformer", 0, i)["fit.lr"] for i in range(400)])
    assert np.mean(rates < np.sqrt(5e-5 * 2e-3)) == pytest.approx(0.5, abs=0.08)
    assert len(dimensions("arrhythmia", "deit-soft")) == 7


def test_no_comparison_within_the_warm_up() -> None:
    base = tiny_recipe("sepsis", "transformer", fit={"warmup_epochs": 10.0})
    with pytest.raises(RecipeError, match="within the warm-up"):
        method_recipe(base, "transformer", 100, 10)
    assert method_recipe(base, "transformer", 100, 15).fit.epochs == 100


def test_rungs() -> None:
    assert rungs(15, 100) == (15, 45)
    assert rungs(1, 9) == (1, 3)
    assert rungs(10, 5) == ()


def test_halving_keeps_the_best_third_of_those_before(tmp_path: Path) -> None:
    halving = Halving(tmp_path / "rungs.jsonl", (2, 6))
    arrivals = [0.5, 0.4, 0.6, 0.45, 0.55, 0.7]
    assert [halving.keeps(i, 2, score) for i, score in enumerate(arrivals)] == [
        score >= np.percentile(arrivals[:i], 200 / 3) if i else True for i, score in enumerate(arrivals)
    ]
    assert halving.keeps(1, 3, 0.0)  # no rung
    assert halving.keeps(5, 6, 0.1)  # the first to arrive


def test_a_decision_outlives_the_process_and_a_cut_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rungs.jsonl"
    first = Halving(path, (2,))
    assert first.keeps(0, 2, 0.5)
    assert not first.keeps(1, 2, 0.4)
    with path.open("a") as file:
        file.write('{"trial": 2, "epo')
    again = Halving(path, (2,))
    assert not again.keeps(1, 2, 0.9)
    assert again.keeps(2, 2, 0.6)
    assert len(path.read_text().splitlines()) == 3


def test_the_rule_is_that_of_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.tune.schedulers.async_hyperband import _Bracket
    from ray.tune.schedulers.trial_scheduler import TrialScheduler

    class FakeTrial:
        def __init__(self, number: int) -> None:
            self.trial_id = str(number)

    rng = np.random.default_rng(0)
    bracket = _Bracket(min_t=2, max_t=20, reduction_factor=3, s=0)
    halving = Halving(tmp_path / "rungs.jsonl", rungs(2, 20))
    for number in range(40):
        for epochs in range(1, 20):
            score = float(rng.random())
            action = bracket.on_result(FakeTrial(number), epochs, score)
            assert halving.keeps(number, epochs, score) is (action == TrialScheduler.CONTINUE)
            if action != TrialScheduler.CONTINUE:
                break


def searched(cache: Path, out: Path, teacher: Path | None = None, **options: Any) -> list[dict[str, str]]:
    base = tiny_recipe("sepsis", "transformer", fit={"batch_size": 18})
    search = Search(options.pop("method", "transformer"), base, options.pop("n", 4), 4, 1, 0)
    run_search(search, TrialContext(out, cache, None, teacher, "cpu"), say=lambda _: None, **options)
    return table(out)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def done(stays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "out"
    searched(stays, out)
    return out


def test_what_a_search_leaves(done: Path, stays: Path) -> None:
    rows = table(done)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["status"] for row in rows} == {"finished", "stopped"}
    assert rows[0]["status"] == "finished"
    assert rows[0]["epochs"] == "4"
    assert {row["epochs"] for row in rows if row["status"] == "stopped"} <= {"1", "3"}
    for i, row in enumerate(rows):
        assert float(row["fit.lr"]) == draw("sepsis", "transformer", 0, i)["fit.lr"]
        folder = done / "trials" / f"{i:03d}"
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert float(row["score"]) == pytest.approx(max(e["validation"]["selection"] for e in epochs))
    best = max(rows, key=lambda row: round(float(row["score"]), 9))
    recipe = load_recipe(done / "best.toml")
    assert recipe.fit.lr == float(best["fit.lr"])
    assert recipe.fit.epochs == 4
    report = (done / "report.md").read_text()
    assert "not a medical device" in report
    assert "log-uniform in [5e-05, 0.002]" in report


def test_the_same_search_again_is_the_same_table_and_a_longer_one_goes_on(
    done: Path, stays: Path, tmp_path: Path
) -> None:
    rows = table(done)
    assert searched(stays, tmp_path / "again") == rows
    assert searched(stays, tmp_path / "again", n=5)[:4] == rows


def test_a_search_with_bbm_and_several_jobs(stays: Path, stay_teacher: Path, tmp_path: Path) -> None:
    rows = searched(stays, tmp_path / "out", stay_teacher, method="bbm", n=2, jobs=2)
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    assert all(0.1 <= float(row["bbm.weight"]) <= 10 for row in rows)


def test_another_search_in_the_folder_is_refused(done: Path, stays: Path) -> None:
    base = tiny_recipe("sepsis", "transformer", fit={"batch_size": 18})
    other = Search("transformer", base, 4, 4, 1, 1)
    with pytest.raises(DataError, match="holds a search with another seed"):
        run_search(other, TrialContext(done, stays, None, None, "cpu"))


def test_trials_that_diverge_do_not_end_the_search(
    stays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import tune as module

    def wild(*args: Any) -> dict[str, Any]:
        values = draw(*args)
        return values | {"fit.lr": 1e30} if args[3] == 0 else values

    monkeypatch.setattr(module, "draw", wild)
    rows = searched(stays, tmp_path / "out", n=2)
    assert [row["status"] for row in rows] == ["failed", "finished"]
    assert rows[0]["score"] == ""


def arguments(cache: Path, out: Path, tmp_path: Path, *more: str) -> list[str]:
    recipe = tmp_path / "base.toml"
    base = tiny_recipe("sepsis", "transformer", fit={"batch_size": 18})
    recipe.write_text("\n".join(toml_lines(replace(base))), encoding="utf-8")
    plan = ("--recipe", str(recipe), "--trials", "4", "--max-epochs", "4", "--grace", "1", "--device", "cpu")
    return ["tune", "--method", "transformer", "--cache", str(cache), "--out", str(out), *plan, *more]


def test_a_search_that_is_killed_goes_on_to_the_same_table(done: Path, stays: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "training", *arguments(stays, tmp_path / "out", tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    second = tmp_path / "out" / "trials" / "001" / "log.txt"
    deadline = time.monotonic() + 300
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "best.toml").exists()
    found = CliRunner().invoke(command, words[3:])
    assert found.exit_code == 0, found.output
    assert "1 of 4 trials are done" in found.output
    assert table(tmp_path / "out") == table(done)


def test_the_command_says_what_it_needs(stays: Path, tmp_path: Path) -> None:
    words = arguments(stays, tmp_path / "out", tmp_path)
    needs = CliRunner().invoke(command, [w if w != "transformer" else "bbm" for w in words])
    assert needs.exit_code == 2
    assert "needs --teacher" in needs.output
    useless = CliRunner().invoke(command, [*words, "--teacher", "best.pt"])
    assert "does not take --teacher" in useless.output
    short = CliRunner().invoke(
        command, [*words, "--set", "fit.warmup_fraction=1", "--set", "fit.warmup_epochs=3"]
    )
    assert "within the warm-up" in short.output
    refit = CliRunner().invoke(command, [*words, "--set", "data.refit=true", "--set", "fit.select=last"])
    assert "cannot be ranked" in refit.output
    last = CliRunner().invoke(command, [*words, "--set", "fit.select=last"])
    assert "ranked by the score that selects" in last.output


@pytest.mark.slow
def test_the_same_trials_under_ray(done: Path, stays: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    out = tmp_path / "out"
    words = [sys.executable, "-m", "training", *arguments(stays, out, tmp_path, "--engine", "ray")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, capture_output=True, env=environment, timeout=300)
    assert table(out) == table(done)

    (out / "trials" / "003" / "trial.json").unlink()  # as if killed before it was written
    again = subprocess.run(words, check=True, capture_output=True, text=True, env=environment, timeout=300)
    assert "3 of 4 trials are done" in again.stderr
    assert table(out) == table(done)
