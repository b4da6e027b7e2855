"""A search from its plan to its table: what to try, what is left to run, which recipe was best."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ibt_deploy.errors import DataError
from training.cache import file_sha256, open_cache
from training.recipe import Recipe
from training.recipe_files import toml_lines
from training.tune.halving import FACTOR, Halving, rungs
from training.tune.local import run_locally
from training.tune.report import report_lines, write_table
from training.tune.space import draw, method_recipe, with_values
from training.tune.trials import OUTCOME, Outcome, Status, Task, Trial, outcome
from training.tune.with_ray import run_with_ray

PLAN, LEDGER, BEST, REPORT = "search.json", "rungs.jsonl", "best.toml", "report.md"
DECIMALS = 9
"""To which scores are equal."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with what budget.

    Attributes
    ----------
    method
        One of :data:`training.tune.space.METHODS`.
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
    task: Task,
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
        Told a line whenever a trial ends.

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
        say(f"trial {trial.number:3d}  {status:8s}  {found.epochs:3d} epochs  best {score}  {_told(trial)}")
        write_table(trials, task.out)

    if left and engine == "ray":
        run_with_ray(trials, task, halving, search.max_epochs, jobs, ended)
    elif left:
        run_locally(left, task, halving, jobs, ended)
    return _concluded(search, trials, task, engine, jobs)


def _claim(search: Search, task: Task) -> None:
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
    partial = path.with_name(f".{PLAN}")
    partial.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    partial.replace(path)


def _told(trial: Trial) -> str:
    return "  ".join(f"{key} {value:g}" for key, value in trial.values.items())


def _concluded(
    search: Search, trials: list[Trial], task: Task, engine: str, jobs: int
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
    (task.out / BEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = report_lines(search.identity(), found, trial, engine, jobs)
    (task.out / REPORT).write_text("\n".join(report) + "\n", encoding="utf-8")
    return trial, best
