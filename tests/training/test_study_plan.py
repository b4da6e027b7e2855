"""The plan of the study: which runs, with which recipes, and what they learn from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest.mock import Mock

import pytest

from ibt_deploy.errors import DataError, MissingExtra, RecipeError
from ibt_deploy.types import Task
from training.recipe import find_recipe, merged
from training.study import results
from training.study.plan import (
    ABLATIONS,
    BUDGETS,
    PURPOSES,
    Budget,
    load_budget,
    planned_runs,
    site_studies,
)
from training.study.study import Study, opinion_file, wanted_runs

SITES = {"sepsis": ("A", "B"), "arrhythmia": ("georgia", "ptb-xl", "cpsc_2018")}


@pytest.mark.parametrize(
    ("task", "student", "of_teacher"),
    [
        ("arrhythmia", "arrhythmia-bbm", {}),
        ("sepsis", "sepsis-pupil", {"data.soft_weight": "0.7", "fit.epochs": "5"}),
    ],
)
def test_the_cpu_budget_trains_the_packaged_models(
    task: Task, student: str, of_teacher: dict[str, str]
) -> None:
    runs = {run.name: run for run in planned_runs(task, load_budget("cpu"), 1, SITES[task])}
    assert runs["bbm/seed-0"].recipe == find_recipe(student)
    assert runs["teacher/seed-0"].recipe == find_recipe(f"{task}-teacher", of_teacher)


def settings(table: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in table.items():
        found |= settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key}
    return found


@pytest.mark.parametrize("task", get_args(Task))
def test_the_smoke_test_uses_every_setting_of_the_gpu_budget(task: Task) -> None:
    tiny, gpu = (load_budget(name).tables[task] for name in ("tiny", "gpu"))
    for role in ("teacher", "student"):
        assert settings(gpu[role]) <= settings(tiny[role])


def test_an_opinion_is_asked_of_the_patients_that_a_run_learns_from() -> None:
    runs = planned_runs("sepsis", load_budget("cpu"), 1, ("A", "B"))
    opinions = {run.name: opinion_file(Path("out"), run) for run in runs}
    assert opinions["bbm/seed-0"] == opinions["teacher/seed-1"] == Path("out/opinions/all.npz")
    assert opinions["fraction-0.05/bbm/seed-0"] == Path("out/opinions/fraction-0.05.npz")
    assert opinions["hospital-A/teacher/seed-0"] == Path("out/opinions/hospital-A.npz")
    ecgs = planned_runs("arrhythmia", load_budget("cpu"), 1, ("georgia", "ptb-xl"))
    assert {opinion_file(Path("out"), run) for run in ecgs} == {None}


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_student_has_its_teacher_before_it(task: Task, budget: str) -> None:
    runs = planned_runs(task, load_budget(budget), 2, SITES[task])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    for i, run in enumerate(runs):
        assert (run.teacher is not None) == run.recipe.needs_teacher
        if run.teacher is None:
            continue
        teacher = runs[names.index(run.teacher)]
        assert names.index(run.teacher) < i
        assert teacher.recipe.data == run.recipe.data
        assert teacher.recipe.seed == run.recipe.seed
    assert {run.purpose for run in runs} == set(PURPOSES) - ({"fractions"} if task == "arrhythmia" else set())


def test_there_is_one_teacher_more_than_seeds() -> None:
    for seeds in (1, 3):
        runs = planned_runs("sepsis", load_budget("cpu"), seeds, ("A", "B"))
        assert [r.recipe.seed for r in runs if r.arm == "teacher"] == list(range(seeds + 1))


def test_arms_differ_from_bbm_in_what_their_name_says() -> None:
    runs = {r.arm: r.recipe for r in planned_runs("sepsis", load_budget("cpu"), 1, ("A", "B"))}
    assert runs["bbm-groups-1"].bbm.groups == 1
    assert runs["bbm-untrained"].bbm.teacher == "untrained"
    assert runs["bbm-shuffled"].bbm.pairing == "shuffled"
    weights = {
        n: (runs[f"bbm-eq-{n}"].bbm.w1, runs[f"bbm-eq-{n}"].bbm.w2, runs[f"bbm-eq-{n}"].bbm.w3)
        for n in (2, 3, 4)
    }
    assert weights == {2: (1, 0, 0), 3: (0, 1, 0), 4: (0, 0, 1)}
    assert runs["transformer-long"].fit.epochs == round(2.8 * runs["transformer"].fit.epochs)
    assert runs["fraction-0.05/bbm"].data.train_fraction == 0.05
    assert runs["deit-hard"].deit.variant == "hard"


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("budget", BUDGETS)
def test_an_ablation_differs_from_its_reference_in_one_section(task: Task, budget: str) -> None:
    runs = {r.arm.rpartition("/")[2]: r for r in planned_runs(task, load_budget(budget), 1, SITES[task])}
    ablations = {arm: run for arm, run in runs.items() if arm.startswith("ablation-")}
    assert {run.purpose for run in ablations.values()} == {"ablations"}
    for reference, arms in ABLATIONS[task].items():
        theirs = ablations[f"ablation-{reference}"].recipe.to_dict()
        for arm in arms.keys() & {name.removeprefix("ablation-") for name in ablations}:
            ours = ablations[f"ablation-{arm}"].recipe.to_dict()
            assert len([s for s in ours if ours[s] != theirs[s]]) == (arm != reference)


def test_a_budget_without_ablations_plans_none(tmp_path: Path) -> None:
    whole = files("training.study").joinpath("budgets", "tiny.toml").read_text(encoding="utf-8")
    budget = tmp_path / "own.toml"
    budget.write_text("\n".join(line for line in whole.splitlines() if not line.startswith("ablations")))
    runs = planned_runs("sepsis", load_budget(budget), 1, SITES["sepsis"])
    assert {run.purpose for run in runs} == set(PURPOSES) - {"ablations"}


@pytest.fixture
def study() -> Study:
    runs = planned_runs("sepsis", load_budget("cpu"), 2, SITES["sepsis"])
    return cast(Study, SimpleNamespace(runs={run.name: run for run in runs}))


def test_one_arm_is_trained_after_its_teacher(study: Study) -> None:
    found = [run.name for run in wanted_runs(study, arms=["bbm-shuffled", "fraction-0.05/transformer"])]
    assert found == [
        "teacher/seed-0",
        "teacher/seed-1",
        "bbm-shuffled/seed-0",
        "bbm-shuffled/seed-1",
        "fraction-0.05/transformer/seed-0",
        "fraction-0.05/transformer/seed-1",
    ]
    assert wanted_runs(study, ["controls"], ["bbm-shuffled"]) == wanted_runs(study, (), ["bbm-shuffled"])
    assert wanted_runs(study) == list(study.runs.values())


@pytest.mark.parametrize(
    ("only", "arm", "hint"),
    [
        ((), "bbm-shufled", "bbm-shuffled"),
        (("methods",), "bbm-shuffled", "teacher, transformer"),
        ((), "bbm/seed-0", "bbm"),
        ((), "label", "labels"),
        (("methods",), "sums", "teacher, transformer"),
    ],
)
def test_an_arm_that_is_not_planned_is_refused(
    study: Study, only: tuple[str, ...], arm: str, hint: str
) -> None:
    with pytest.raises(DataError, match=f"--arm {arm}: no such arm.*; choose from .*{hint}"):
        wanted_runs(study, only, [arm])


def test_external_tests_leave_one_site_out() -> None:
    assert site_studies("sepsis", ["B", "A", "A"]) == {"hospital-A": ("A",), "hospital-B": ("B",)}
    assert site_studies("sepsis", ["A"]) == {}
    assert site_studies("arrhythmia", SITES["arrhythmia"]) == {"without-georgia": ("cpsc_2018", "ptb-xl")}
    assert site_studies("arrhythmia", ["ptb-xl"]) == {}


def test_a_budget_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="no budget; give cpu, gpu, tiny"):
        load_budget("huge")


def test_a_report_that_could_not_be_drawn_stops_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: object, **kwargs: object) -> dict[str, str]:
        raise AssertionError("trained")

    monkeypatch.setattr(results, "train_runs", train)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="needs matplotlib"):
        results.reproduced(Mock(), only=(), jobs=1, device="cpu", train=True, draws=1, say=lambda line: None)


def test_a_budget_whose_students_do_not_divide_into_groups_is_refused() -> None:
    cpu = load_budget("cpu")
    tables = {**cpu.tables, "sepsis": merged(cpu.tables["sepsis"], {"student": {"student": {"depth": 4}}})}
    with pytest.raises(RecipeError, match=r"bbm: student\.depth: 4 blocks cannot be divided into 3 groups"):
        planned_runs("sepsis", Budget.of("own", tables), 1, ())
