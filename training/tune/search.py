"""A search: what it draws, what is left to run, which recipe was best, and what it leaves for readers.

The same seed gives the same draws with every engine. Trial ``i`` of every method shares the draws of what
all methods share: the same quantile of the learning rate, the same weight decay, dropout and augmentation.
Methods then differ in method alone, not in luck (science 5.1).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.errors import DataError, RecipeError
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.predictions import NOTICE
from training.data.cache import open_cache
from training.recipe import METHODS, Recipe, recipe_from_dict, toml_lines
from training.tune.trials import (
    FACTOR,
    OUTCOME,
    Halving,
    Outcome,
    Status,
    Trial,
    TrialContext,
    outcome,
    run_locally,
    rungs,
)
from training.tune.with_ray import run_with_ray

TEACHER_SECTION = {"arrhythmia": "resnet", "sepsis": "lstm"}
DIGITS = 4
"""Significant digits of a drawn number, so that a recipe holds what a person can copy."""


@dataclass(frozen=True)
class Dimension:
    """One key of a recipe, how a uniform number in [0, 1) becomes its value, and how to say so."""

    key: str
    value: Callable[[float], Any]
    says: str


def log_uniform(key: str, low: float, high: float) -> Dimension:
    """A number whose logarithm is uniform."""

    def value(u: float) -> float:
        return _rounded(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))

    return Dimension(key, value, f"log-uniform in [{low:g}, {high:g}]")


def uniform(key: str, low: float, high: float) -> Dimension:
    """A number."""
    return Dimension(key, lambda u: _rounded(low + u * (high - low)), f"uniform in [{low:g}, {high:g}]")


def choice(key: str, *values: float) -> Dimension:
    """One of a few values."""
    return Dimension(
        key, lambda u: values[int(u * len(values))], f"one of {', '.join(f'{v:g}' for v in values)}"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def shared_dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """What every method of a task draws, in this order."""
    teaches = method == "teacher"
    rates = (1e-4, 3e-3) if teaches else (5e-5, 2e-3)
    dropout = f"{TEACHER_SECTION[task] if teaches else 'student'}.dropout"
    dimensions = (
        log_uniform("fit.lr", *rates),
        log_uniform("fit.weight_decay", 1e-6, 1e-1),
        choice(dropout, 0.0, 0.1, 0.2, 0.3),
    )
    if task == "sepsis":
        return dimensions
    return (*dimensions, choice("augment.n_ops", 1, 2, 3), uniform("augment.magnitude", 0, 10))


def own_dimensions(method: str) -> tuple[Dimension, ...]:
    """What a method alone draws."""
    if method == "bbm":
        return (log_uniform("bbm.weight", 0.1, 10),)
    if method == "deit-soft":
        return (choice("deit.alpha", 0.1, 0.5, 0.9), choice("deit.tau", 1.0, 2.0, 4.0))
    if method == "deit-hard":
        return (choice("deit.alpha", 0.1, 0.5, 0.9),)
    return ()


def dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """The whole space of a method."""
    return (*shared_dimensions(task, method), *own_dimensions(method))


def draw(task: str, method: str, seed: int, trial: int) -> dict[str, Any]:
    """Values of a trial by dotted key.

    Parameters
    ----------
    task, method
        One of :data:`METHODS`.
    seed, trial
        Of the search, and number of the trial from 0. How many trials there are makes no difference.
    """
    shared, own = shared_dimensions(task, method), own_dimensions(method)
    first = np.random.default_rng((seed, trial, 0)).random(len(shared))
    second = np.random.default_rng((seed, trial, 1)).random(len(own))
    drawn = zip((*shared, *own), (*first, *second), strict=True)
    return {dimension.key: dimension.value(float(u)) for dimension, u in drawn}


def method_recipe(base: Recipe, method: str, epochs: int, grace: int) -> Recipe:
    """The recipe whose keys the trials replace.

    Raises
    ------
    RecipeError
        When the first decision would fall into the warm-up, where the rates that rise slowest look best.
    """
    table = _merged(base.to_dict(), METHODS[method])
    recipe = recipe_from_dict(_merged(table, {"fit": {"epochs": epochs}}))
    warmup = min(recipe.fit.warmup_epochs, recipe.fit.warmup_fraction * epochs)
    if grace <= warmup:
        raise RecipeError(
            f"a grace period of {grace} epochs ends within the warm-up of {warmup:g}; "
            "trials would be judged by it"
        )
    return recipe


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with drawn values in place."""
    table = recipe.to_dict()
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        table = _merged(table, {section: {key: value}})
    return recipe_from_dict(table)


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in changes.items():
        merged[key] = {**merged[key], **value} if isinstance(value, Mapping) else value
    return merged


TABLE = "trials.csv"


def write_table(trials: Sequence[Trial], out: Path) -> None:
    """``trials.csv``: a row for each trial, with what it drew and what became of it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "score", "best_epoch", "epochs", "seconds", *trials[0].values])
    for trial in trials:
        found = outcome(trial, out)
        score = "" if found.score is None else f"{found.score:.9g}"
        row = [trial.number, found.status, score, found.best_epoch or "", found.epochs, found.seconds]
        writer.writerow([*row, *trial.values.values()])
    atomic_write(out / TABLE, text.getvalue())


def report_lines(
    plan: Mapping[str, Any], found: Sequence[tuple[Trial, Outcome]], best: Trial, engine: str, jobs: int
) -> list[str]:
    """The search for a reader: its budget, its space, and every trial from the best down.

    ``plan`` is the content of ``search.json``, ``found`` every trial with its outcome.
    """
    task, method = str(plan["recipe"]["task"]), str(plan["method"])
    longest = int(plan["max_epochs"])
    outcomes = [out for _, out in found]
    counts = Counter(out.status for out in outcomes)
    order = "" if jobs == 1 else " (which trials were stopped depends on the order in which they arrived)"
    ranked = sorted(found, key=lambda pair: (-_score(pair[1]), pair[0].number))
    return [
        f"# Search: {task}, {method}",
        "",
        f"{len(found)} trials of at most {longest} epochs, seed {plan['seed']}; asynchronous successive "
        f"halving after {', '.join(map(str, rungs(plan['grace'], longest))) or 'no'} epochs, one in "
        f"{plan['factor']} goes on. Engine {engine}, {jobs} at a time{order}.",
        f"{counts['finished']} finished, {counts['stopped']} stopped, {counts['failed']} diverged; "
        f"{sum(out.epochs for out in outcomes)} epochs of {len(found) * longest}, "
        f"{sum(out.seconds for out in outcomes) / 60:.1f} minutes of training.",
        "",
        "Scores are the selection metric on the validation part, which the search has optimised: the best of "
        f"them is too good to be believed, and says nothing about test patients. {NOTICE}",
        "",
        "| key | drawn |",
        "| --- | --- |",
        *(f"| `{d.key}` | {d.says} |" for d in dimensions(task, method)),
        "",
        f"| trial | status | score | best epoch | epochs | {' | '.join(f'`{k}`' for k in best.values)} |",
        f"| ---: | --- | ---: | ---: | ---: | {' | '.join('---:' for _ in best.values)} |",
        *(_trial_row(trial, out) for trial, out in ranked),
        "",
        f"`best.toml` is the recipe of trial {best.number}; its network is "
        f"`trials/{best.number:03d}/best.pt`.",
    ]


def _score(out: Outcome) -> float:
    return float("-inf") if out.score is None else out.score


def _trial_row(trial: Trial, out: Outcome) -> str:
    score = "-" if out.score is None else f"{out.score:.4f}"
    cells = [trial.number, out.status, score, out.best_epoch or "-", out.epochs]
    return f"| {' | '.join(map(str, cells))} | {' | '.join(f'{v:g}' for v in trial.values.values())} |"


PLAN, LEDGER, BEST, REPORT = "search.json", "rungs.jsonl", "best.toml", "report.md"
DECIMALS = 9
"""To which scores are equal."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with what budget.

    Attributes
    ----------
    method
        One of :data:`training.tune.search.METHODS`.
    base
        Recipe of the method; trials replace what the space names.
    n_trials, max_epochs, grace, seed
        The budget: trials, epochs of one that is never stopped, epochs before the first comparison.
    """

    method: str
    base: Recipe
    n_trials: int
    max_epochs: int
    grace: int
    seed: int

    def trials(self) -> list[Trial]:
        """Every trial, drawn."""
        recipe = method_recipe(self.base, self.method, self.max_epochs, self.grace)
        draws = [draw(recipe.task, self.method, self.seed, i) for i in range(self.n_trials)]
        return [Trial(i, values, with_values(recipe, values).to_dict()) for i, values in enumerate(draws)]

    def identity(self) -> dict[str, Any]:
        """What makes it this search; more trials of it are still the same."""
        return {
            "method": self.method,
            "recipe": method_recipe(self.base, self.method, self.max_epochs, self.grace).to_dict(),
            "max_epochs": self.max_epochs,
            "grace": self.grace,
            "factor": FACTOR,
            "seed": self.seed,
        }


def run_search(
    search: Search,
    task: TrialContext,
    *,
    engine: str = "local",
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> tuple[Trial, Outcome]:
    """Run what is left of a search; the best trial and its outcome.

    Writes ``search.json``, ``rungs.jsonl``, ``trials/``, ``trials.csv``, ``best.toml`` and ``report.md`` into
    the search's folder. Everything is judged on the validation part; the test part is not touched.

    Parameters
    ----------
    engine
        ``local`` or ``ray``.
    jobs
        Trials at a time. With one, the same search gives the same table again.
    say
        Receives a line whenever a trial ends.

    Raises
    ------
    DataError
        When the folder holds another search, or no trial came to an end.
    """
    trials = search.trials()
    _claim(search, task)
    left = [trial for trial in trials if not (trial.folder(task.out) / OUTCOME).is_file()]
    say(f"{len(trials) - len(left)} of {len(trials)} trials are done, {len(left)} to go")
    halving = Halving(task.out / LEDGER, rungs(search.grace, search.max_epochs))

    def ended(trial: Trial, status: Status) -> None:
        found = outcome(trial, task.out)
        score = "-" if found.score is None else f"{found.score:.4f}"
        say(f"trial {trial.number:3d}  {status:8s}  {found.epochs:3d} epochs  best {score}  {_values(trial)}")
        write_table(trials, task.out)

    if left and engine == "ray":
        run_with_ray(trials, task, halving, search.max_epochs, jobs, ended)
    elif left:
        run_locally(left, task, halving, jobs, ended)
    return _concluded(search, trials, task, engine, jobs)


def _claim(search: Search, task: TrialContext) -> None:
    """Write the plan, or make sure that what is there is the same."""
    identity = search.identity() | {
        "cache_sha256": open_cache(task.cache).sha256,
        "split_sha256": file_sha256(task.split) if task.split else None,
        "teacher_sha256": file_sha256(task.teacher) if task.teacher else None,
    }
    wanted = json.loads(json.dumps(identity))
    path = task.out / PLAN
    if path.is_file():
        found = json.loads(path.read_text("utf-8"))
        differing = sorted(k for k in wanted if found.get(k) != wanted[k])
        if differing:
            raise DataError(
                f"{task.out}: holds a search with another {', '.join(differing)}; choose another folder"
            )
        return
    task.out.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(wanted, indent=1))


def _values(trial: Trial) -> str:
    return "  ".join(f"{key} {value:g}" for key, value in trial.values.items())


def _concluded(
    search: Search, trials: list[Trial], task: TrialContext, engine: str, jobs: int
) -> tuple[Trial, Outcome]:
    write_table(trials, task.out)
    found = [(trial, outcome(trial, task.out)) for trial in trials]
    scored = [(trial, out) for trial, out in found if out.score is not None and out.status != "failed"]
    if not scored:
        raise DataError(f"{task.out}: no trial came to an end; see trials.csv and the logs of the trials")
    # the first of equals, as drawn
    trial, best = max(scored, key=lambda pair: (round(pair[1].score or 0.0, DECIMALS), -pair[0].number))
    title = f"# Trial {trial.number} of {len(trials)}: best on validation of a search over {search.method}."
    lines = [title, *toml_lines(trial.read_recipe())]
    atomic_write(task.out / BEST, "\n".join(lines) + "\n")
    report = report_lines(search.identity(), found, trial, engine, jobs)
    atomic_write(task.out / REPORT, "\n".join(report) + "\n")
    return trial, best
