"""Training the plan: teachers first, finished runs left alone, failures told and survived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from training.checkpoint import load_network
from training.data.cache import open_cache
from training.study.plan import Run, load_budget, planned_runs
from training.study.study import RECORD, opinion_file, run_folder, run_record, train_runs

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
