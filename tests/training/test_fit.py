"""The training loop: resumed runs equal uninterrupted ones, the best epoch is kept, and early stopping."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny import tiny_recipe

from ibt_deploy.errors import DataError, RecipeError
from ibt_deploy.files import file_sha256
from training import device
from training.checkpoint import load_network, read_checkpoint, save_atomically, write_safetensors
from training.device import Place
from training.fit import DivergedError, Fit, Reporter, one_ahead
from training.recipe import Recipe, toml_lines
from training.run import build_objective, load_teacher, train
from training.tasks import open_source
from training.tasks.base import Batch
from training.tasks.stay import StaySource

CPU = torch.device("cpu")
TIMES = ("seconds", "items_per_second")
RANDOM = {"student": {"dropout": 0.2}, "resnet": {"dropout": 0.2}, "lstm": {"dropout": 0.2}}


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in TIMES:
                assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_runs(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    for name in ("last.pt", "best.pt"):
        assert_same(read_checkpoint(a / name), read_checkpoint(b / name))


class InterruptedRunError(Exception):
    """Stands for the plug that is pulled."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int, method: str = "_step") -> None:
    original: Callable[..., Any] = getattr(Fit, method)
    calls = 0

    def interrupted(self: Fit, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise InterruptedRunError
        return original(self, *args)

    monkeypatch.setattr(Fit, method, interrupted)


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
@pytest.mark.parametrize("method", ["teacher", "bbm"])
def test_an_interrupted_run_equals_an_unbroken_one(
    task: str,
    method: str,
    ecgs: Path,
    stays: Path,
    ecg_teacher: Path,
    stay_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, teacher = (ecgs, ecg_teacher) if task == "arrhythmia" else (stays, stay_teacher)
    recipe = tiny_recipe(task, method, **RANDOM, fit={"epochs": 3, "batch_size": 18})
    kwargs: dict[str, Any] = {"device": "cpu", "teacher": teacher if recipe.needs_teacher else None}
    train(recipe, cache, tmp_path / "unbroken", **kwargs)
    steps = metrics(tmp_path / "unbroken")[0]["steps"]
    for call in (steps + 2, 2):
        with monkeypatch.context() as patch:
            interrupt_at(patch, call)
            with pytest.raises(InterruptedRunError):
                train(recipe, cache, tmp_path / "broken", **kwargs)
    assert len(metrics(tmp_path / "broken")) == 1
    train(recipe, cache, tmp_path / "broken", **kwargs)
    assert_same_runs(tmp_path / "broken", tmp_path / "unbroken")


def test_an_interruption_between_the_two_checkpoints_is_no_loss(
    stays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("sepsis", "teacher", **RANDOM)
    train(recipe, stays, tmp_path / "unbroken", device="cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, "_write_metrics")
        with pytest.raises(InterruptedRunError):
            train(recipe, stays, tmp_path / "broken", device="cpu")
    assert not (tmp_path / "broken" / "metrics.jsonl").exists()
    train(recipe, stays, tmp_path / "broken", device="cpu")
    assert_same_runs(tmp_path / "broken", tmp_path / "unbroken")


def test_a_killed_process_loses_one_epoch_at_most(stays: Path, tmp_path: Path, root: Path) -> None:
    recipe = tiny_recipe("sepsis", "transformer", **RANDOM, fit={"epochs": 60})
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(toml_lines(recipe)), encoding="utf-8")
    out = tmp_path / "broken"
    command = [sys.executable, "-m", "training", "run", str(path), "--cache", str(stays), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not (out / "metrics.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    done = len(metrics(out))
    assert 1 <= done < 60
    short = replace(recipe, fit=replace(recipe.fit, epochs=60))
    train(short, stays, out, device="cpu")
    train(recipe, stays, tmp_path / "unbroken", device="cpu")
    assert_same_runs(out, tmp_path / "unbroken")


def test_a_finished_run_is_only_reported(
    stays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("sepsis", "teacher")
    first = train(recipe, stays, tmp_path / "run", device="cpu")
    interrupt_at(monkeypatch, 1)
    assert train(recipe, stays, tmp_path / "run", device="cpu") == first


def test_what_a_run_writes(stays: Path, tmp_path: Path, stay_teacher: Path) -> None:
    recipe = tiny_recipe("sepsis", "bbm", fit={"epochs": 3})
    best = train(recipe, stays, tmp_path / "run", teacher=stay_teacher, device="cpu")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best.pt", "last.pt", "metrics.jsonl"]
    records = metrics(tmp_path / "run")
    assert [r["epoch"] for r in records] == [0, 1, 2]
    names = {f"{t}_{n}" for t in ("L1", "L2", "L3", "rms") for n in (1, 2, 3)} | {
        f"norm_{i}" for i in range(6)
    }
    assert set(records[0]["train"]) == {"loss", "task", "matching"} | names
    assert set(records[0]["validation"]) >= {"selection", "utility", "auroc", "auprc"}
    trained = load_network(tmp_path / "run" / "best.pt")
    assert trained.epoch == best["epoch"]
    assert trained.scores == best["validation"]
    top = max(r["validation"]["selection"] for r in records)
    assert best["validation"]["selection"] == top
    last = read_checkpoint(tmp_path / "run" / "last.pt")
    kept = {k for k in last["objective"] if ".teacher." in f".{k}"}
    assert kept == {f"matching.teacher.{what}_{n}" for what in ("mean", "deviation") for n in range(3)}


def test_training_learns(stays: Path, ecgs: Path, tmp_path: Path) -> None:
    for task, cache in (("sepsis", stays), ("arrhythmia", ecgs)):
        recipe = tiny_recipe(task, "transformer", fit={"epochs": 20, "lr": 1e-2}, augment={"n_ops": 0})
        best = train(recipe, cache, tmp_path / task, device="cpu")
        losses = [r["train"]["loss"] for r in metrics(tmp_path / task)]
        assert losses[-1] < 0.7 * losses[0]
        assert best["validation"]["auroc"] > 0.8


def changed(out: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = read_checkpoint(out / "last.pt")
    edit(content)
    save_atomically(content, out / "last.pt")


def test_another_run_in_the_folder_is_refused(stays: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = tiny_recipe("sepsis", "teacher")
    train(recipe, stays, out, device="cpu")
    other = tiny_recipe("sepsis", "teacher", fit={"lr": 1e-4})
    with pytest.raises(DataError, match="holds a run with a different recipe"):
        train(other, stays, out, device="cpu")
    changed(out, lambda c: c["identity"].update(split_sha256="0", cache_sha256="0"))
    with pytest.raises(DataError, match="different cache_sha256, split_sha256"):
        train(recipe, stays, out, device="cpu")


def test_networks_that_do_not_fit_are_refused(stays: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = tiny_recipe("sepsis", "teacher")
    train(recipe, stays, out, device="cpu")
    changed(out, lambda c: c["objective"].pop("model.classifier.bias"))
    with pytest.raises(DataError, match="does not fit"):
        train(recipe, stays, out, device="cpu")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_run_can_start_from_trained_weights(suffix: str, stays: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "transformer")
    train(recipe, stays, tmp_path / "first", device="cpu")
    start = tmp_path / f"start{suffix}"
    first = load_network(tmp_path / "first" / "best.pt")
    if suffix == ".pt":
        shutil.copy(tmp_path / "first" / "best.pt", start)
    else:
        write_safetensors(read_checkpoint(tmp_path / "first" / "best.pt"), start)
    still = tiny_recipe("sepsis", "transformer", fit={"lr": 1e-9, "epochs": 1, "warmup_epochs": 0})
    out = tmp_path / "second"
    train(still, stays, out, initial=start, device="cpu")
    second = load_network(out / "best.pt")
    for name, weights in first.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], weights, atol=1e-6, rtol=0)
    assert second.learnt_from["initial_sha256"] == file_sha256(start)
    with pytest.raises(DataError, match="different initial_sha256"):
        train(still, stays, out, initial=another_network(tmp_path, stays), device="cpu")


def another_network(folder: Path, stays: Path) -> Path:
    """Another network of the same architecture."""
    train(tiny_recipe("sepsis", "transformer", fit={"epochs": 1}), stays, folder / "other", device="cpu")
    return folder / "other" / "best.pt"


def test_weights_that_do_not_fit_or_know_the_answers_are_refused(stays: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "transformer")
    train(recipe, stays, tmp_path / "first", device="cpu")
    start = tmp_path / "first" / "best.pt"
    wider = tiny_recipe("sepsis", "transformer", student={"dim": 32})
    with pytest.raises(DataError, match="another architecture"):
        train(wider, stays, tmp_path / "wider", initial=start, device="cpu")
    parts = pd.read_csv(stays / "split.csv")
    parts["part"] = parts["part"].to_numpy()[::-1]
    parts.to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(DataError, match="keeps for validation or test"):
        train(recipe, stays, tmp_path / "b", split=tmp_path / "split.csv", initial=start, device="cpu")


def test_a_run_begun_before_a_key_existed_goes_on(stays: Path, stay_teacher: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "bbm")
    train(recipe, stays, tmp_path / "a", teacher=stay_teacher, device="cpu")

    def older(content: dict[str, Any]) -> None:
        del content["identity"]["recipe"]["bbm"]["pairing"]
        content["history"].pop()
        for name in [k for k in content["objective"] if ".teacher." in f".{k}"]:
            del content["objective"][name]

    changed(tmp_path / "a", older)
    train(recipe, stays, tmp_path / "a", teacher=stay_teacher, device="cpu")
    assert len(metrics(tmp_path / "a")) == 2


def fit_of(recipe: Recipe, cache: Path, out: Path, place: Place | None = None) -> Fit:
    source = open_source(recipe, cache)
    return Fit(recipe, source, build_objective(recipe, source, None, CPU), out, CPU, place=place)


def test_early_stopping_waits_for_patience_and_never_before_min_epochs(stays: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "teacher", fit={"epochs": 100, "patience": 3, "min_epochs": 6})
    fit = fit_of(recipe, stays, tmp_path)

    def history(improved: list[int], epochs: int) -> list[dict[str, Any]]:
        return [{"epoch": i, "improved": i in improved} for i in range(epochs)]

    for improved, epochs, finished in (
        ([0], 5, False),
        ([0], 6, True),
        ([0, 4], 7, False),
        ([0, 4], 8, True),
        ([0, 99], 100, True),
    ):
        fit.history = history(improved, epochs)
        assert fit.finished is finished


def test_a_loss_that_is_no_number_stops_the_run(stays: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "transformer", fit={"lr": 1e30, "warmup_epochs": 0, "epochs": 3})
    with pytest.raises(DivergedError, match=r"lower fit\.lr"):
        train(recipe, stays, tmp_path / "run", device="cpu")


def test_a_validation_part_without_positives_stops_the_run(stays: Path, tmp_path: Path) -> None:
    fit = fit_of(tiny_recipe("sepsis", "teacher"), stays, tmp_path)
    assert isinstance(fit.source, StaySource)
    fit.source.official_labels[:] = 0
    with pytest.raises(DataError, match="validation part has no positive label"):
        fit.run()


def test_shrinking_features_are_warned_of(stays: Path, stay_teacher: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "bbm", fit={"epochs": 40, "warmup_epochs": 2.0})
    source = open_source(recipe, stays)
    objective = build_objective(recipe, source, load_teacher(stay_teacher, recipe, source), CPU)
    fit = Fit(recipe, source, objective, tmp_path, CPU)
    said: list[str] = []

    class Listener(Reporter):
        def say(self, line: str) -> None:
            said.append(line)

    reporter = Listener("", shown=False)
    for rms in (9.0, 5.0, 1.0, 0.2, 0.09):
        fit.history.append({"train": {"rms_1": rms, "rms_2": 1.0, "loss": 0.001}})
        fit._warn_of_shrinkage(reporter)
    assert len(said) == 1
    assert "rms_1 fell from 1.000 to 0.090" in said[0]


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("due", [True, False])
def test_loss_terms_are_read_only_for_a_line_in_the_log(
    shown: bool,
    due: bool,
    stays: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit = fit_of(tiny_recipe("sepsis", "teacher", fit={"batch_size": 1}), stays, tmp_path)
    steps = len(fit.source.plan(0, 0))
    assert steps >= 20
    given: list[dict[str, float]] = []
    step = Reporter.step

    def noted(self: Reporter, terms: dict[str, float]) -> None:
        given.append(terms)
        step(self, terms)

    monkeypatch.setattr(Reporter, "step", noted)
    monkeypatch.setattr("training.fit.QUIET_SECONDS", -1 if due else 1e6)
    with Reporter("", shown=shown) as reporter:
        fit._epoch(0, reporter)
    lines = capsys.readouterr().err.splitlines()
    expected = list(range(10, steps + 1, 10)) if shown and due else []
    assert [i for i, terms in enumerate(given, 1) if terms] == expected
    assert [line.split()[:3] for line in lines] == [["step", f"{i}/{steps}", "loss"] for i in expected]


def test_processes_without_work_are_refused(stays: Path, tmp_path: Path) -> None:
    fit = fit_of(tiny_recipe("sepsis", "teacher"), stays, tmp_path)
    plan = [np.array([1, 2, 3]), np.array([4])]
    fit._refuse_empty_shares(plan)
    fit.place = Place(0, 2, 0)
    with pytest.raises(RecipeError, match="a batch of 1 is too small for 2 processes"):
        fit._refuse_empty_shares(plan)
    with pytest.raises(DataError, match="training part of the split is empty"):
        fit._refuse_empty_shares([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_in_page_locked_memory_is_copied_whole() -> None:
    batch = Batch(torch.randn(3, 12, 50), torch.ones(3, 26), torch.ones(3, 26), None)
    pinned = batch.pinned()
    assert pinned.inputs.is_pinned()
    assert pinned.rows is None
    copy = pinned.to(torch.device("cuda"))
    assert copy.inputs.device.type == "cuda"
    assert torch.equal(copy.inputs.cpu(), batch.inputs)


def test_a_batch_without_weights_has_none_on_another_device() -> None:
    batch = Batch(
        torch.randn(3, 7, 5), torch.ones(3, 7), torch.ones(3, 7), torch.ones(3, 7), items=torch.arange(3)
    )
    copy = batch.to(torch.device("meta"))
    assert copy.weights is None
    assert copy.items is not None
    assert {copy.inputs.device.type, copy.items.device.type} == {"meta"}


def test_one_ahead_gives_the_same_items_and_passes_errors_on() -> None:
    assert list(one_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(one_ahead(iter([]))) == []

    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise InterruptedRunError("third")

    seen: list[int] = []
    with pytest.raises(InterruptedRunError, match="third"):
        seen.extend(one_ahead(failing()))
    assert seen == [1, 2]


def test_one_ahead_prepares_the_next_item_meanwhile() -> None:
    prepared: list[int] = []

    def slow() -> Iterator[int]:
        for i in range(3):
            prepared.append(i)
            yield i

    items = one_ahead(slow())
    assert next(items) == 0
    for _ in range(1000):
        if len(prepared) == 2:
            break
        time.sleep(0.001)
    assert prepared == [0, 1]
    assert list(items) == [1, 2]


def test_gradients_are_clipped(stays: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("sepsis", "teacher", fit={"clip_norm": 1e-3})
    fit = fit_of(recipe, stays, tmp_path)
    batch = fit.source.training_batch(0, 0, fit.source.items("train")[:4])
    fit._step(batch, 0.0, 0.1)
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in fit.objective.parameters() if p.grad is not None)
    )
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "precision", "dtype"),
    [
        ("flags: avx2", "auto", torch.float32),
        ("flags: avx2", "bf16", torch.float32),
        ("flags: avx2 avx512_bf16", "auto", torch.bfloat16),
        ("flags: amx_bf16", "bf16", torch.bfloat16),
        ("flags: amx_bf16", "fp32", torch.float32),
    ],
)
def test_a_processor_without_bf16_computes_in_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    precision: str,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    device._say_no_bf16.cache_clear()
    assert device.chosen_dtype(precision, torch.device("cpu")) == dtype
    says = "does not compute in bf16" in capsys.readouterr().err
    assert says == (precision == "bf16" and dtype == torch.float32)


def test_operations_of_a_step_are_counted_with_those_of_lstms(
    stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("training.fit.time.thread_time", lambda: next(ticks))
    recipe = tiny_recipe("sepsis", "teacher", lstm={"hidden": 16, "n_layers": 3})
    source = open_source(recipe, stays)
    plan = source.plan(0, 0)[:1]
    found = Fit(recipe, source, build_objective(recipe, source, None, CPU), Path(), CPU).step_cost(plan)
    assert found.items == len(plan[0])
    assert found.preparation == 1  # the clock is read before and after a batch is made
    batch = source.training_batch(0, 0, plan[0])
    rows = batch.inputs.shape[0] * batch.inputs.shape[1]
    # forward, and twice that backward; the input projection needs only the gradient of its weights
    lstm = 3 * 2 * rows * 3 * (4 * 16) * (16 + 16)
    projection, head = 2 * 2 * rows * source.n_inputs * 16, 3 * 2 * rows * 16
    assert found.flops == lstm + projection + head
