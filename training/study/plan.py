"""Runs of the study, the most informative first, and the numbers of the paper (Lee, Kwon and Jo).

The paper's ECG models learnt from the whole Challenge 2021, its EHR models from the Challenge 2019; it gives
one number per cell, without seeds or intervals. Its external sets, Hangzhou and eICU, are not public.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ibt_deploy.errors import RecipeError
from ibt_deploy.types import Task
from training.recipe import METHODS, N_GROUPS, Recipe, merged, recipe_from_dict

Purpose = Literal["methods", "fractions", "groups", "controls", "sites", "ablations"]
PURPOSES: tuple[Purpose, ...] = ("methods", "fractions", "groups", "controls", "sites", "ablations")

BUDGETS = ("cpu", "gpu", "tiny")


GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    task: {
        f"bbm-groups-{n}": {"method": "bbm", "bbm": {"groups": n}} for n in range(1, full) if full % n == 0
    }
    for task, full in N_GROUPS.items()
}
"""Table 3: all proper divisors of the task's own number of groups, which is that of the arm ``bbm``."""

CONTROLS: dict[str, dict[str, Any]] = {
    "bbm-untrained": {"method": "bbm", "bbm": {"teacher": "untrained"}},
    "bbm-shuffled": {"method": "bbm", "bbm": {"pairing": "shuffled"}},
    "bbm-eq-2": {"method": "bbm", "bbm": {"w2": 0.0, "w3": 0.0}},
    "bbm-eq-3": {"method": "bbm", "bbm": {"w1": 0.0, "w3": 0.0}},
    "bbm-eq-4": {"method": "bbm", "bbm": {"w1": 0.0, "w2": 0.0}},
    "transformer-long": {"method": "transformer"},
}
"""Controls that the paper lacks; ``transformer-long`` trains for as much wall-clock time as BBM."""

PLAIN: dict[str, Any] = {"method": "transformer"}
MATCHED: dict[str, Any] = {"method": "bbm"}
BY_LABELS: dict[str, Any] = PLAIN | {"data": {"soft_weight": 0.0}}
ABLATIONS: dict[Task, dict[str, dict[str, dict[str, Any]]]] = {
    "arrhythmia": {
        "bbm": {
            "bbm": MATCHED,
            "bbm-lambda-0.3": merged(MATCHED, {"bbm": {"weight": 0.3}}),
            "bbm-every-group": merged(MATCHED, {"bbm": {"groups_per_step": 0}}),
            "bbm-two-stage": merged(MATCHED, {"bbm": {"schedule": "two_stage"}}),
            "bbm-cosine-to-zero": merged(MATCHED, {"bbm": {"schedule": "cosine_to_zero"}}),
            "bbm-sums": merged(MATCHED, {"bbm": {"reduction": "sum"}}),
            "bbm-detached": merged(MATCHED, {"bbm": {"detach_block_inputs": True}}),
            "bbm-linear-resize": merged(MATCHED, {"bbm": {"resize": "linear"}}),
            "bbm-class-token": merged(MATCHED, {"student": {"readout": "cls"}}),
            "bbm-100-ms": merged(MATCHED, {"student": {"patch": 20}}),
            "bbm-4-blocks": merged(MATCHED, {"student": {"depth": 4}}),
            "bbm-width-96": merged(MATCHED, {"student": {"dim": 96}}),
        },
        "transformer": {
            "transformer": PLAIN,
            "transformer-label-mask": merged(PLAIN, {"data": {"label_mask": "source"}}),
        },
    },
    "sepsis": {
        "bbm": {
            "bbm": MATCHED,
            "bbm-lambda-0.1": merged(MATCHED, {"bbm": {"weight": 0.1}}),
            "bbm-lambda-1": merged(MATCHED, {"bbm": {"weight": 1.0}}),
            "bbm-only-eq-4": merged(MATCHED, {"bbm": {"w1": 0.0, "w2": 0.0}}),
            "bbm-every-group": merged(MATCHED, {"bbm": {"groups_per_step": 0}}),
            "bbm-two-stage": merged(MATCHED, {"bbm": {"schedule": "two_stage"}}),
            "bbm-cosine-to-zero": merged(MATCHED, {"bbm": {"schedule": "cosine_to_zero"}}),
            "bbm-deviation-floor": merged(MATCHED, {"bbm": {"deviation_floor": 0.1}}),
            "bbm-sums": merged(MATCHED, {"bbm": {"reduction": "sum"}}),
            "bbm-detached": merged(MATCHED, {"bbm": {"detach_block_inputs": True}}),
        },
        # the trees behind soft labels see every variable, so inputs are ablated with hard labels only
        "labels": {
            "labels": BY_LABELS,
            "labels-40-values": merged(BY_LABELS, {"data": {"features": "values40"}}),
            "labels-h12": merged(BY_LABELS, {"data": {"label": "h12"}}),
            "labels-without-administration": merged(
                BY_LABELS, {"data": {"drop_variables": ["ICULOS", "HospAdmTime", "Unit1", "Unit2"]}}
            ),
        },
    },
}
"""Arms grouped by reference, which comes first; the others differ from it in one point."""


HELD_OUT_SOURCE = "georgia"


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes
    ----------
    arm
        Method or variant, prefixed with what it was trained on: ``bbm``, ``fraction-0.05/bbm``.
    recipe
        All its settings.
    teacher
        Name of the run whose ``best.pt`` it learns from, if any.
    purpose
        Section of the report that needs it.
    """

    arm: str
    recipe: Recipe
    teacher: str | None
    purpose: Purpose

    @property
    def name(self) -> str:
        """Its folder below ``runs/``."""
        return f"{self.arm}/seed-{self.recipe.seed}"


@dataclass(frozen=True)
class Budget:
    """Length and size of training: one of :data:`BUDGETS`, or a file of the same form.

    Attributes
    ----------
    name, seeds, fractions
        Name, number of seeds, and fractions of the training part for the learning curves; 1 is always
        included.
    tables
        The file's tables by task.
    """

    name: str
    seeds: int
    fractions: tuple[float, ...]
    tables: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, tables: Mapping[str, Any]) -> Budget:
        """Budget from the content of its file; KeyError if something is missing."""
        return cls(name, tables["seeds"], tuple(tables["fractions"]), tables)

    def ablation_prefix(self, task: Task) -> str:
        """Prefix of ablation names: the share of the training patients, if below 1."""
        share = self.ablations(task).get("share", 1)
        return f"fraction-{share:g}/" if share < 1 else ""

    def ablations(self, task: Task) -> Mapping[str, Any]:
        """``share`` of the training patients and ``epochs`` of ablations; empty if there are none."""
        found: Mapping[str, Any] = self.tables[task].get("ablations", {})
        return found

    def recipe(self, task: Task, changes: Mapping[str, Any], seed: int, fraction: float = 1.0) -> Recipe:
        """Recipe of an arm, given by its ``changes`` to the task's teacher or student."""
        own = self.tables[task]
        role = own["teacher" if changes["method"] == "teacher" else "student"]
        table = merged(merged({"task": task, "seed": seed}, role), changes)
        if fraction < 1:
            epochs = own["epochs"].get(f"{fraction:g}", table["fit"]["epochs"])
            table = merged(table, {"data": {"train_fraction": fraction}, "fit": {"epochs": epochs}})
        return recipe_from_dict(table)

    def long_epochs(self, task: Task) -> int:
        """Epochs that a plain transformer can train in the time that BBM takes."""
        own = self.tables[task]
        epochs: int = own["student"]["fit"]["epochs"]
        return round(epochs * float(own["long"]))


def load_budget(name: str | Path) -> Budget:
    """A packaged budget by name, or one from a file; RecipeError if there is none."""
    source = files("training.study").joinpath("budgets", f"{name}.toml") if name in BUDGETS else Path(name)
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
        return Budget.of(str(name), table)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"{name}: no budget; give {', '.join(BUDGETS)} or a TOML file like theirs"
        ) from error


def planned_runs(task: Task, budget: Budget, seeds: int, sites: Sequence[str]) -> tuple[Run, ...]:
    """All runs of the study, the most important first.

    Parameters
    ----------
    task, budget
        What to train, and how long.
    seeds
        Seeds 0, 1, ... of every arm. There is always an extra teacher, for the ceiling of similarity.
    sites
        Hospitals or sources in the data, for the external tests.
    """
    runs: list[Run] = []
    for seed in range(seeds):
        runs += _arms(task, budget, seed, METHODS, "methods")
    runs += [Run("teacher", budget.recipe(task, METHODS["teacher"], seeds), None, "methods")]
    long = {"transformer-long": {"method": "transformer", "fit": {"epochs": budget.long_epochs(task)}}}
    for seed in range(seeds):
        runs += _arms(task, budget, seed, CONTROLS | long, "controls")
    for seed in range(seeds):
        runs += _arms(task, budget, seed, GROUPS[task], "groups")
    runs += [
        run
        for seed in range(seeds)
        for fraction in budget.fractions
        for run in _arms(task, budget, seed, METHODS, "fractions", f"fraction-{fraction:g}/", fraction)
        if task == "sepsis"
    ]
    for name, kept in site_studies(task, sites).items():
        arms = {arm: {**changes, "data": {"sites": kept}} for arm, changes in METHODS.items()}
        for seed in range(seeds):
            runs += _arms(task, budget, seed, arms, "sites", f"{name}/")
    runs += _ablations(task, budget, seeds, {run.name for run in runs})
    return tuple(runs)


def _ablations(task: Task, budget: Budget, seeds: int, planned: set[str]) -> list[Run]:
    """Runs of :data:`ABLATIONS`, and their teachers unless already ``planned``."""
    if not (settings := budget.ablations(task)):
        return []
    prefix = budget.ablation_prefix(task)
    changed = {"data": {"train_fraction": settings["share"]}, "fit": {"epochs": settings["epochs"]}}
    teacher = {"teacher": METHODS["teacher"]}
    runs: list[Run] = []
    for seed in range(seeds):
        taught = _arms(task, budget, seed, teacher, "ablations", prefix, settings["share"])
        runs += [run for run in taught if run.name not in planned]
        for arms in ABLATIONS[task].values():
            named = {f"ablation-{name}": merged(changes, changed) for name, changes in arms.items()}
            reference, *others = _arms(task, budget, seed, named, "ablations", prefix)
            # an arm may set a key to the budget's own value
            runs += [reference, *(run for run in others if run.recipe != reference.recipe)]
    return runs


def site_studies(task: Task, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sites to train on, by the name of each external test.

    Stays: each hospital, to be tested on the other. ECGs: all sources but one (:data:`HELD_OUT_SOURCE`).
    """
    known = sorted(set(sites))
    if task == "sepsis":
        return {f"hospital-{site}": (site,) for site in known} if len(known) > 1 else {}
    kept = tuple(site for site in known if site != HELD_OUT_SOURCE)
    return {f"without-{HELD_OUT_SOURCE}": kept} if kept and len(kept) < len(known) else {}


def _arms(
    task: Task,
    budget: Budget,
    seed: int,
    arms: Mapping[str, Mapping[str, Any]],
    purpose: Purpose,
    prefix: str = "",
    fraction: float = 1.0,
) -> list[Run]:
    runs = []
    for arm, changes in arms.items():
        recipe = budget.recipe(task, changes, seed, fraction)
        depth, groups = recipe.student.depth, recipe.bbm.groups or N_GROUPS[task]
        if recipe.method == "bbm" and depth % groups:  # else the report would fail after all the training
            raise RecipeError(f"{arm}: student.depth: {depth} blocks cannot be divided into {groups} groups")
        teacher = f"{prefix}teacher/seed-{seed}" if recipe.needs_teacher else None
        runs.append(Run(f"{prefix}{arm}", recipe, teacher, purpose))
    return runs
