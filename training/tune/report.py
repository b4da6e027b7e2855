"""What a search leaves for readers: a table of all trials, and a report."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibt_deploy.predictions import NOTICE
from training.tune.halving import rungs
from training.tune.space import dimensions
from training.tune.trials import Outcome, Trial, outcome

TABLE = "trials.csv"


def write_table(trials: Sequence[Trial], out: Path) -> None:
    """``trials.csv``: a row for each trial, with what it drew and what became of it."""
    partial = out / f".{TABLE}"
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "status", "score", "best_epoch", "epochs", "seconds", *trials[0].values])
        for trial in trials:
            found = outcome(trial, out)
            score = "" if found.score is None else f"{found.score:.9g}"
            told = [trial.number, found.status, score, found.best_epoch or "", found.epochs, found.seconds]
            writer.writerow([*told, *trial.values.values()])
    partial.replace(out / TABLE)


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
        *(_row(trial, out) for trial, out in ranked),
        "",
        f"`best.toml` is the recipe of trial {best.number}; its network is "
        f"`trials/{best.number:03d}/best.pt`.",
    ]


def _score(out: Outcome) -> float:
    return float("-inf") if out.score is None else out.score


def _row(trial: Trial, out: Outcome) -> str:
    score = "-" if out.score is None else f"{out.score:.4f}"
    cells = [trial.number, out.status, score, out.best_epoch or "-", out.epochs]
    return f"| {' | '.join(map(str, cells))} | {' | '.join(f'{v:g}' for v in trial.values.values())} |"
