"""One trial: what it tries, where it lives, and what became of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.recipe import Recipe, recipe_from_dict

TRIALS, OUTCOME, LOG, METRICS = "trials", "trial.json", "log.txt", "metrics.jsonl"

Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class Task:
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
        became infinite; ``unfinished`` while it is to go on.
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
    partial = folder / f".{OUTCOME}"
    partial.write_text(json.dumps({"status": status, "values": trial.values}, indent=1), encoding="utf-8")
    partial.replace(folder / OUTCOME)


def train_trial(trial: Trial, task: Task, keep_going: Callable[[list[dict[str, Any]]], bool]) -> Status:
    """Train a trial, or go on with it, until it ends or ``keep_going`` says no; progress goes to a log."""
    from training.fit import DivergedError
    from training.run import train

    stopped = False

    def asked(history: list[dict[str, Any]]) -> bool:
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
                keep_going=asked,
            )
        except DivergedError:
            status: Status = "failed"
        else:
            status = "stopped" if stopped else "finished"
    settle(trial, task.out, status)
    return status
