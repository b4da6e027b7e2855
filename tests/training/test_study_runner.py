"""Training the plan: teachers first, finished runs left alone, failures reported, processes reused."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_recipe
from threadpoolctl import threadpool_info

from ibt_deploy.device import usable_cpus
from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from ibt_deploy.types import Ints
from ibt_deploy.vocabulary import N_CLASSES
from training.checkpoint import load_network
from training.data.cache import open_cache
from training.device import worker_processes
from training.ensemble import ensemble
from training.run import train
from training.study.measures import measures_path
from training.study.plan import Run, load_budget, planned_runs
from training.study.results import _each, _measure, evaluation_beside
from training.study.shipped import shipped_table
from training.study.study import (
    RECORD,
    Study,
    open_study,
    opinion_file,
    reopened,
    run_folder,
    run_record,
    train_runs,
)
from training.tasks import open_source
from training.tasks.base import Source
from training.tasks.ecg import EcgSource
from training.tasks.stay import StaySource

ARMS = ("teacher", "transformer", "deit-soft")


def tiny_runs() -> list[Run]:
    runs = planned_runs("sepsis", load_budget("tiny"), 1, ())
    return [run for run in runs if run.arm in ARMS and run.recipe.seed == 0]


def test_runs_are_trained_once_and_failures_do_not_stop_the_others(stays: Path, tmp_path: Path) -> None:
    runs, sha256 = tiny_runs(), open_cache(stays).sha256
    teacher, plain, deit = (next(r for r in runs if r.arm == arm) for arm in ARMS)
    broken = replace(
        plain, arm="broken", recipe=replace(plain.recipe, data=replace(plain.recipe.data, max_hours=9))
    )
    orphan = replace(deit, arm="orphan", teacher="nobody/seed-0")
    said: list[str] = []
    failed = train_runs(
        [orphan, deit, broken, teacher],
        stays,
        tmp_path,
        cache_sha256=sha256,
        device="cpu",
        jobs=2,
        say=said.append,
    )
    assert set(failed) == {"broken/seed-0", "orphan/seed-0"}
    assert "data.max_hours" in failed["broken/seed-0"]
    assert "nobody/seed-0 has not been trained" in failed["orphan/seed-0"]
    record = run_record(deit, tmp_path, sha256)
    assert record is not None
    taught_by = run_record(teacher, tmp_path, sha256)
    assert taught_by is not None
    assert record["teacher_sha256"] == taught_by["network_sha256"]
    assert record["epochs"] == deit.recipe.fit.epochs
    opinion = opinion_file(tmp_path, deit)
    assert opinion is not None
    learnt_from = load_network(run_folder(tmp_path, deit.name) / "best.pt").learnt_from
    assert learnt_from["opinion_sha256"] == file_sha256(opinion)
    assert "epoch   2/2" in (run_folder(tmp_path, deit.name) / "log.txt").read_text()

    before = (run_folder(tmp_path, deit.name) / RECORD).stat().st_mtime_ns
    said.clear()
    assert train_runs([teacher, deit], stays, tmp_path, cache_sha256=sha256, say=said.append) == {}
    assert said == ["2 of 2 runs are trained, 0 to go"]
    assert (run_folder(tmp_path, deit.name) / RECORD).stat().st_mtime_ns == before

    other = replace(deit, recipe=replace(deit.recipe, fit=replace(deit.recipe.fit, lr=1e-4)))
    with pytest.raises(DataError, match="trained by another recipe"):
        run_record(other, tmp_path, sha256)


def test_a_process_that_has_trained_before_trains_alike(stays: Path, tmp_path: Path) -> None:
    recipe = tiny_runs()[1].recipe
    assert recipe.data.soft_weight == 0.5  # labels that must not be blended twice
    opinion = tmp_path / "opinion.npz"
    ensemble([], stays, torch.device("cpu"), trees=True).save(opinion)
    networks = []
    for name in ("once", "again"):
        train(recipe, stays, tmp_path / name, opinion=opinion, device="cpu")
        networks.append(load_network(tmp_path / name / "best.pt").network.state_dict())
    once, again = networks
    assert all(torch.equal(once[name], values) for name, values in again.items())


def hours(source: Source) -> Ints:
    assert isinstance(source, StaySource)
    return np.diff(source.offsets)


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
def test_recipes_that_read_alike_share_what_was_read_and_others_do_not(
    task: str, ecgs: Path, stays: Path
) -> None:
    cache = ecgs if task == "arrhythmia" else stays
    recipe = tiny_recipe(task, "transformer")
    first, again = open_source(recipe, cache), open_source(replace(recipe, seed=1), cache)
    name = "signals" if task == "arrhythmia" else "features"
    assert getattr(first, name) is getattr(again, name)
    items = first.items("train")
    shape = (len(items), N_CLASSES) if isinstance(first, EcgSource) else (int(hours(first)[items].sum()),)
    hard = again.training_batch(0, 0, items).labels.clone()
    first.blend_labels("train", np.full(shape, 0.5, np.float32), 1.0)
    assert torch.equal(again.training_batch(0, 0, items).labels, hard)
    assert not torch.equal(first.training_batch(0, 0, items).labels, hard)
    half = replace(recipe, data=replace(recipe.data, train_fraction=0.5))
    assert len(open_source(half, cache).items("train")) < len(items)


@pytest.fixture
def study(stays: Path, tmp_path: Path) -> Study:
    opened = open_study("sepsis", load_budget("tiny"), 1, stays, tmp_path)
    train_runs(tiny_runs()[:2], stays, tmp_path, cache_sha256=opened.cohort.cache.sha256, device="cpu")
    return opened


def test_processes_judge_runs_as_this_one_does(study: Study) -> None:
    sent = reopened(pickle.loads(pickle.dumps(study.places)))
    assert list(sent.runs.items()) == list(study.runs.items())
    names, arguments = list(study.trained), (torch.device("cpu"), 20)
    assert len(names) == 2
    found = []
    with worker_processes(2) as two:
        for pool in (None, two):
            assert sorted(_each(names, pool, study, _measure, *arguments)) == sorted(names)
            paths = [measures_path(study, study.runs[name]) for name in names]
            found.append([dict(np.load(path)) for path in paths])
            for path in paths:
                path.unlink()
    for alone, in_processes in zip(*found, strict=True):
        assert alone.keys() == in_processes.keys()
        for entry, values in alone.items():
            np.testing.assert_array_equal(values, in_processes[entry])


def test_processes_share_the_cpus() -> None:
    with worker_processes(2) as pool:
        assert set(pool.submit(threads).result()) == {max(usable_cpus() // 2, 1)}


def threads() -> list[int]:
    return [torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())]


def test_a_judging_process_that_fails_or_dies_is_reported(study: Study) -> None:
    with worker_processes(2) as pool:
        with pytest.raises(DataError, match="holds sepsis data"):
            list(_each(["teacher/seed-0"], pool, replace(study, task="arrhythmia"), _measure))
        with pytest.raises(DataError, match="was killed; run the same command to resume"):
            list(_each(["teacher/seed-0"], pool, study, die))


def test_an_evaluation_beside_training_that_fails_or_dies_does_not_stop_it(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.runs["teacher/seed-0"]
    for work in (fail, die):
        monkeypatch.setattr("training.study.results.evaluate", work)
        with evaluation_beside(study, torch.device("cpu"), draws=5, jobs=1) as begin:
            for _ in range(3):
                begin(run)
                time.sleep(0.1)
    with pytest.raises(KeyboardInterrupt):
        interrupted(study)


def interrupted(study: Study) -> None:
    with evaluation_beside(study, torch.device("cpu"), draws=5, jobs=1) as begin:
        begin(study.runs["teacher/seed-0"])
        raise KeyboardInterrupt


def die(study: Study, name: str, *_: object) -> None:
    os._exit(1)


def fail(study: Study, name: str, *_: object) -> None:
    raise DataError(f"{name}: cannot be evaluated")


def test_a_student_of_a_network_that_is_no_longer_there_is_refused(stays: Path, tmp_path: Path) -> None:
    sha256 = open_cache(stays).sha256
    teacher, _, deit = (next(r for r in tiny_runs() if r.arm == arm) for arm in ARMS)
    for run, learnt_from in ((teacher, None), (deit, "first")):
        folder = run_folder(tmp_path, run.name)
        folder.mkdir(parents=True)
        record = {"recipe_sha256": run.recipe.sha256, "cache_sha256": sha256, "network_sha256": "first"}
        (folder / RECORD).write_text(json.dumps(record | {"teacher_sha256": learnt_from}))
    assert run_record(deit, tmp_path, sha256) is not None
    file = run_folder(tmp_path, teacher.name) / RECORD
    file.write_text(file.read_text().replace("first", "second"))
    with pytest.raises(DataError, match=r"deit-soft/seed-0: learnt from another network than .*teacher"):
        run_record(deit, tmp_path, sha256)


@pytest.mark.parametrize("name", ["train", "in distribution", "classes", "test", "a|b"])
def test_names_of_externals_that_tables_use_are_refused(name: str, stays: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose another name"):
        open_study("sepsis", load_budget("tiny"), 1, stays, tmp_path, external={name: stays})


def test_the_shipped_model_is_not_judged_on_what_it_learnt_from(study: Study) -> None:
    # the tiny stays are named like those of the Challenge
    assert "trained or tuned on" in shipped_table(study, draws=10)["not_run"]
