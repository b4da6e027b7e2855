"""One trial: what it tries, where it lives, the rule that stops it early, and processes to run several.

The rule is asynchronous successive halving (ASHA; Li et al. 2020), stopping trials as Ray Tune's scheduler
does. A trial that has trained ``grace * factor^k`` epochs is compared with all that were there before it, by
its best score so far; it stops below the cut to the best ``1 / factor``. No trial waits for another, so that
with several trials at a time decisions depend on the order of arrival. With one at a time they do not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ibt_deploy.device import usable_cpus
from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_write
from training.recipe import Recipe, recipe_from_dict

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

    A trial that was killed and comes to a rung again gets the decision it got there before. Processes may
    share the file: whoever decides holds a lock.
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
            except ValueError:  # a line that a kill cut short never took effect
                continue
        return found

    def _append(self, entry: dict[str, Any]) -> None:
        whole = "".join(json.dumps(e) + "\n" for e in [*self._read(), entry])
        atomic_write(self.path, whole)


TRIALS, OUTCOME, LOG, METRICS = "trials", "trial.json", "log.txt", "metrics.jsonl"

Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class TrialContext:
    """What every trial of a search has in common, as processes pass it on.

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
    """A draw and the recipe it makes."""

    number: int
    values: dict[str, Any]
    recipe: dict[str, Any]

    def folder(self, out: Path) -> Path:
        """Its run: ``best.pt``, ``last.pt``, ``metrics.jsonl``."""
        return out / TRIALS / f"{self.number:03d}"

    def read_recipe(self) -> Recipe:
        """The recipe."""
        return recipe_from_dict(self.recipe)


@dataclass(frozen=True)
class Outcome:
    """What is known of a trial.

    Attributes
    ----------
    status
        ``finished`` all its epochs or its patience; ``stopped`` by halving; ``failed`` because its loss
        became infinite; ``unfinished`` while it may continue.
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
    """A record for every epoch trained so far."""
    path = trial.folder(out) / METRICS
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def best_score(history: list[dict[str, Any]]) -> float:
    """Best validation score of some epochs."""
    return max(float(record["validation"]["selection"]) for record in history)


def outcome(trial: Trial, out: Path) -> Outcome:
    """What has become of a trial, from its folder."""
    history, path = records(trial, out), trial.folder(out) / OUTCOME
    status: Status = json.loads(path.read_text("utf-8"))["status"] if path.is_file() else "unfinished"
    seconds = round(sum(float(record["seconds"]) for record in history), 1)
    if not history:
        return Outcome(status, None, None, 0, seconds)
    best = [record for record in history if record["improved"]][-1]
    return Outcome(status, best_score(history), best["epoch"] + 1, len(history), seconds)


def settle(trial: Trial, out: Path, status: Status) -> None:
    """Write down that a trial has ended; it is never run again."""
    folder = trial.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / OUTCOME, json.dumps({"status": status, "values": trial.values}, indent=1))


def train_trial(
    trial: Trial, task: TrialContext, keep_going: Callable[[list[dict[str, Any]]], bool]
) -> Status:
    """Train or resume a trial until it ends or ``keep_going`` says no; progress goes to a log."""
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
        A process was killed from outside. What was trained is kept; the same call resumes.
    """
    if jobs == 1:
        for trial in trials:
            ended(trial, halved(trial, task, halving))
        return
    # spawned, because a forked process cannot use CUDA; a process for each trial, to give its memory back
    context = multiprocessing.get_context("spawn")
    threads = max(usable_cpus() // jobs, 1)
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting, running = iter(trials), dict[Future[Status], Trial]()
        for trial in _first(waiting, jobs):
            running[pool.submit(_in_process, trial, task, halving, threads)] = trial
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
                    running[pool.submit(_in_process, following, task, halving, threads)] = following


def _first(trials: Iterator[Trial], n: int) -> list[Trial]:
    return [trial for _, trial in zip(range(n), trials, strict=False)]


def halved(trial: Trial, task: TrialContext, halving: Halving) -> Status:
    """Train a trial as far as halving lets it."""

    def keep_going(history: list[dict[str, object]]) -> bool:
        return halving.keeps(trial.number, len(history), best_score(history))

    return train_trial(trial, task, keep_going)


def _in_process(trial: Trial, task: TrialContext, halving: Halving, threads: int) -> Status:
    import torch

    torch.set_num_threads(threads)
    return halved(trial, task, halving)
