"""Hyperparameter search: random draws, with successive halving to stop unpromising trials early.

Trials run in this process, in several, or under Ray Tune. Both engines are kept: the local one needs no
dependency, reproduces its table with one trial at a time and resumes exactly; Ray distributes trials over the
GPUs and machines of a cluster. They share draws, folders and records.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ibt_deploy.errors import DataError, RecipeError, require
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.predictions import NOTICE
from training.checkpoint import METRICS
from training.data.cache import open_cache
from training.device import memory_given_back, worker_processes
from training.recipe import METHODS, Recipe, merged, recipe_from_dict, toml_lines, with_values
from training.tasks import TASKS

DIGITS = 4
"""Significant digits of a drawn number, few enough to be copied by hand."""


@dataclass(frozen=True)
class Dimension:
    """A recipe key, the map from a uniform number in [0, 1) to its value, and a description of that map."""

    key: str
    value: Callable[[float], Any]
    says: str


def log_uniform(key: str, low: float, high: float) -> Dimension:
    """A dimension whose logarithm is uniform."""

    def value(u: float) -> float:
        return _rounded(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))

    return Dimension(key, value, f"log-uniform in [{low:g}, {high:g}]")


def uniform(key: str, low: float, high: float) -> Dimension:
    """A dimension with a uniform distribution."""
    return Dimension(key, lambda u: _rounded(low + u * (high - low)), f"uniform in [{low:g}, {high:g}]")


def choice(key: str, *values: float) -> Dimension:
    """A dimension that takes one of a few values."""
    return Dimension(
        key, lambda u: values[int(u * len(values))], f"one of {', '.join(f'{v:g}' for v in values)}"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def shared_dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """Dimensions that every method of a task draws, in order."""
    teaches = method == "teacher"
    rates = (1e-4, 3e-3) if teaches else (5e-5, 2e-3)
    dropout = f"{TASKS[task].teacher_section if teaches else 'student'}.dropout"
    dimensions = (
        log_uniform("fit.lr", *rates),
        log_uniform("fit.weight_decay", 1e-6, 1e-1),
        choice(dropout, 0.0, 0.1, 0.2, 0.3),
    )
    if not TASKS[task].augments:
        return dimensions
    return (*dimensions, choice("augment.n_ops", 1, 2, 3), uniform("augment.magnitude", 0, 10))


def own_dimensions(method: str) -> tuple[Dimension, ...]:
    """Dimensions that only this method draws."""
    if method == "bbm":
        return (log_uniform("bbm.weight", 0.1, 10),)
    if method == "deit-soft":
        return (choice("deit.alpha", 0.1, 0.5, 0.9), choice("deit.tau", 1.0, 2.0, 4.0))
    if method == "deit-hard":
        return (choice("deit.alpha", 0.1, 0.5, 0.9),)
    return ()


def dimensions(task: str, method: str) -> tuple[Dimension, ...]:
    """The whole search space of a method."""
    return (*shared_dimensions(task, method), *own_dimensions(method))


def draw(task: str, method: str, seed: int, trial: int) -> dict[str, Any]:
    """Values of a trial by dotted key.

    Parameters
    ----------
    task, method
        The task, and one of :data:`METHODS`.
    seed, trial
        Seed of the search, and number of the trial from 0. Draws do not depend on the number of trials.
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
        When the first decision would fall into the warm-up, where the slowest-rising rates look best, or when
        validation could not rank the trials.
    """
    if base.data.refit:
        raise RecipeError("data.refit: trials that learn from the validation part cannot be ranked on it")
    if base.fit.select == "last":
        raise RecipeError('fit.select = "last": trials are ranked by the score that selects their best epoch')
    table = merged(base.to_dict(), METHODS[method])
    recipe = recipe_from_dict(merged(table, {"fit": {"epochs": epochs}}))
    warmup = min(recipe.fit.warmup_epochs, recipe.fit.warmup_fraction * epochs)
    if grace <= warmup:
        raise RecipeError(
            f"a grace period of {grace} epochs ends within the warm-up of {warmup:g}; "
            "trials would be judged by it"
        )
    return recipe


TABLE = "trials.csv"


def write_table(trials: Sequence[Trial], out: Path) -> None:
    """Write ``trials.csv``: one row per trial, with its draw and its outcome."""
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
    """Report of a search: its budget, its space, and all trials from best to worst.

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
        f"them is optimistic and does not estimate test performance. {NOTICE}",
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
"""Scores that agree to this many decimals count as equal."""


@dataclass(frozen=True)
class Search:
    """A search: its method, base recipe and budget.

    Attributes
    ----------
    method
        One of :data:`METHODS`.
    base
        Recipe of the method; trials replace the keys in the search space.
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
        """All trials with their draws."""
        recipe = method_recipe(self.base, self.method, self.max_epochs, self.grace)
        draws = [draw(recipe.task, self.method, self.seed, i) for i in range(self.n_trials)]
        return [Trial(i, values, with_values(recipe, values).to_dict()) for i, values in enumerate(draws)]

    def identity(self) -> dict[str, Any]:
        """What identifies this search; the number of trials is not part of it."""
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
    """Run what is left of a search; return the best trial and its outcome.

    Writes ``search.json``, ``rungs.jsonl``, ``trials/``, ``trials.csv``, ``best.toml`` and ``report.md`` into
    the search's folder. Everything is judged on the validation part; the test part is not touched.

    Parameters
    ----------
    engine
        ``local`` or ``ray``.
    jobs
        Trials at a time. With one, a search reproduces its table.
    say
        Receives a line whenever a trial ends.

    Raises
    ------
    DataError
        When the folder holds another search, or no trial came to an end.
    MissingExtra
        When Ray is requested but not installed.
    """
    if engine == "ray":
        require("--engine ray", "ray")
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
    """Write the plan, or check that the existing one is the same."""
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
    # ties go to the trial drawn first
    trial, best = max(scored, key=lambda pair: (round(pair[1].score or 0.0, DECIMALS), -pair[0].number))
    title = f"# Trial {trial.number} of {len(trials)}: best on validation of a search over {search.method}."
    lines = [title, *toml_lines(trial.read_recipe())]
    atomic_write(task.out / BEST, "\n".join(lines) + "\n")
    report = report_lines(search.identity(), found, trial, engine, jobs)
    atomic_write(task.out / REPORT, "\n".join(report) + "\n")
    return trial, best


FACTOR = 3


def rungs(grace: int, max_epochs: int, factor: int = FACTOR) -> tuple[int, ...]:
    """Epochs after which trials are compared, ascending, all before the last epoch."""
    found, epoch = [], grace
    while epoch < max_epochs:
        found.append(epoch)
        epoch *= factor
    return tuple(found)


@dataclass(frozen=True)
class Halving:
    """Decisions of one search, each written to ``path`` before it takes effect.

    A killed trial that reaches a rung again gets the same decision as before. Processes may share the file:
    the one that decides holds a lock.
    """

    path: Path
    rungs: tuple[int, ...]
    factor: int = FACTOR

    def keeps(self, trial: int, epochs: int, score: float) -> bool:
        """Whether ``trial`` continues after ``epochs`` epochs with ``score`` as its best so far."""
        if epochs not in self.rungs:
            return True
        with self._locked() as found:
            here = [entry for entry in found if entry["epochs"] == epochs]
            for entry in here:
                if entry["trial"] == trial:
                    return bool(entry["keep"])
            cut = np.percentile([e["score"] for e in here], 100 * (1 - 1 / self.factor)) if here else -np.inf
            keep = bool(score >= cut)
            self._append({"trial": trial, "epochs": epochs, "score": score, "keep": keep})
        return keep

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, Any]]]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # a line cut short by a kill never took effect
                continue
        return found

    def _append(self, entry: dict[str, Any]) -> None:
        whole = "".join(json.dumps(e) + "\n" for e in [*self._read(), entry])
        atomic_write(self.path, whole)


TRIALS, OUTCOME, LOG = "trials", "trial.json", "log.txt"

Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search share, in a form that processes can exchange.

    Attributes
    ----------
    out
        Folder of the search, absolute.
    cache, split, teacher, device
        As for ``ibt train run``.
    """

    out: Path
    cache: Path
    split: Path | None
    teacher: Path | None
    device: str


@dataclass(frozen=True)
class Trial:
    """A draw and the resulting recipe."""

    number: int
    values: dict[str, Any]
    recipe: dict[str, Any]

    def folder(self, out: Path) -> Path:
        """Folder of its run: ``best.pt``, ``last.pt``, ``metrics.jsonl``."""
        return out / TRIALS / f"{self.number:03d}"

    def read_recipe(self) -> Recipe:
        """The recipe."""
        return recipe_from_dict(self.recipe)


@dataclass(frozen=True)
class Outcome:
    """State of a trial.

    Attributes
    ----------
    status
        ``finished`` when all epochs are done or patience has run out; ``stopped`` by halving; ``failed`` when
        the loss diverged; ``unfinished`` while it may continue.
    score
        Best validation score so far, None before the first epoch.
    best_epoch, epochs, seconds
        Epoch (from 1) of that score, epochs trained, seconds they took.
    """

    status: Status
    score: float | None
    best_epoch: int | None
    epochs: int
    seconds: float


def records(trial: Trial, out: Path) -> list[dict[str, Any]]:
    """Records of the epochs trained so far."""
    path = trial.folder(out) / METRICS
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def best_score(history: list[dict[str, Any]]) -> float:
    """Best validation score among the given epochs."""
    return max(float(record["validation"]["selection"]) for record in history)


def outcome(trial: Trial, out: Path) -> Outcome:
    """Outcome of a trial, read from its folder."""
    history, path = records(trial, out), trial.folder(out) / OUTCOME
    status: Status = json.loads(path.read_text("utf-8"))["status"] if path.is_file() else "unfinished"
    seconds = round(sum(float(record["seconds"]) for record in history), 1)
    if not history:
        return Outcome(status, None, None, 0, seconds)
    best = [record for record in history if record["improved"]][-1]
    return Outcome(status, best_score(history), best["epoch"] + 1, len(history), seconds)


def settle(trial: Trial, out: Path, status: Status) -> None:
    """Record that a trial has ended, so that it is never run again."""
    folder = trial.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / OUTCOME, json.dumps({"status": status, "values": trial.values}, indent=1))


def train_trial(
    trial: Trial, task: TrialContext, keep_going: Callable[[list[dict[str, Any]]], bool]
) -> Status:
    """Train or resume a trial until it ends or ``keep_going`` returns False; progress goes to a log."""
    from training.fit import DivergedError
    from training.run import train

    stopped = False

    def watched(history: list[dict[str, Any]]) -> bool:
        nonlocal stopped
        stopped = not keep_going(history)
        return not stopped

    folder = trial.folder(task.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stderr(log):
        try:
            train(
                trial.read_recipe(),
                task.cache,
                folder,
                split=task.split,
                teacher=task.teacher,
                device=task.device,
                keep_going=watched,
            )
        except DivergedError:
            status: Status = "failed"
        else:
            status = "stopped" if stopped else "finished"
    settle(trial, task.out, status)
    return status


def run_locally(
    trials: Sequence[Trial],
    task: TrialContext,
    halving: Halving,
    jobs: int,
    ended: Callable[[Trial, Status], None],
) -> None:
    """Run ``trials`` in order, ``jobs`` at a time.

    Raises
    ------
    DataError
        When a process was killed from outside. Finished epochs are kept; the same call resumes.
    """
    if jobs == 1:
        for trial in trials:
            ended(trial, halved(trial, task, halving))
        return
    with worker_processes(jobs) as pool:
        waiting, running = iter(trials), dict[Future[Status], Trial]()
        for trial in _first(waiting, jobs):
            running[pool.submit(_in_process, trial, task, halving)] = trial
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial = running.pop(future)
                try:
                    ended(trial, future.result())
                except BrokenProcessPool as error:
                    raise DataError(
                        f"trial {trial.number}: its process was killed; run the same command to resume"
                    ) from error
                for following in _first(waiting, 1):
                    running[pool.submit(_in_process, following, task, halving)] = following


def _first(trials: Iterator[Trial], n: int) -> list[Trial]:
    return [trial for _, trial in zip(range(n), trials, strict=False)]


def halved(trial: Trial, task: TrialContext, halving: Halving) -> Status:
    """Train a trial as far as halving lets it."""

    def keep_going(history: list[dict[str, object]]) -> bool:
        return halving.keeps(trial.number, len(history), best_score(history))

    return train_trial(trial, task, keep_going)


def _in_process(trial: Trial, task: TrialContext, halving: Halving) -> Status:
    with memory_given_back():
        return halved(trial, task, halving)


NAME = "ray"


def run_with_ray(
    trials: Sequence[Trial],
    task: TrialContext,
    halving: Halving,
    max_epochs: int,
    jobs: int,
    ended: Callable[[Trial, Status], None],
) -> None:
    """Run ``trials`` in order, ``jobs`` at a time, locally or on the connected Ray cluster."""
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import tune

    class Settling(tune.Callback):  # type: ignore[misc, unused-ignore]
        """Records that the scheduler stopped a trial, which the trial itself cannot know."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            del iteration, trials, info
            done = by_number[int(trial.config["trial"])]
            if not (done.folder(task.out) / OUTCOME).is_file():
                settle(done, task.out, "stopped")
                ended(done, "stopped")
            elif done.number in fresh:
                ended(done, outcome(done, task.out).status)

    by_number = {trial.number: trial for trial in trials}
    fresh = {t.number for t in trials if not (t.folder(task.out) / OUTCOME).is_file()}
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(by_number, task), {"cpu": 1, "gpu": _gpu_share(task, jobs)}),
        param_space={"trial": tune.grid_search(list(by_number))},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            max_concurrent_trials=jobs,
            scheduler=tune.schedulers.ASHAScheduler(
                grace_period=halving.rungs[0] if halving.rungs else max_epochs,
                max_t=max_epochs,
                reduction_factor=halving.factor,
            ),
        ),
        run_config=tune.RunConfig(name=NAME, storage_path=str(task.out), verbose=0, callbacks=[Settling()]),
    )
    results = tuner.fit()
    for failure in results.errors:
        raise failure


def _gpu_share(task: TrialContext, jobs: int) -> float:
    if task.device == "cpu":
        return 0.0
    import torch

    return torch.cuda.device_count() / jobs if torch.cuda.is_available() else 0.0


def _trainable(by_number: dict[int, Trial], task: TrialContext) -> Callable[[dict[str, Any]], None]:
    """Make Ray's function for a trial: report recorded epochs, then train on unless the trial has ended."""

    def trainable(config: dict[str, Any]) -> None:
        from ray import tune

        trial, reported = by_number[int(config["trial"])], 0

        def report(history: list[dict[str, Any]]) -> bool:
            nonlocal reported
            for epochs in range(reported + 1, len(history) + 1):
                tune.report({"score": best_score(history[:epochs])})  # does not return if Ray stops the trial
            reported = len(history)
            return True

        if (trial.folder(task.out) / OUTCOME).is_file():
            report(records(trial, task.out))
            return
        train_trial(trial, task, report)
        report(records(trial, task.out))

    return trainable
