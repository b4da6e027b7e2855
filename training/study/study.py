"""A study: a plan of runs, the data they are evaluated on, and the folder that holds everything.

Several runs can be trained, or evaluated, at a time, each in its own process. A finished run has a
``run.json`` beside its checkpoints; without it, training resumes after the last whole epoch.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.errors import DataError, IbtError
from ibt_deploy.files import atomic_open, atomic_write, file_sha256
from ibt_deploy.types import Ints, Task
from training.device import chosen_device, memory_given_back, worker_processes
from training.fit import StepCost
from training.recipe import DataRecipe
from training.run import step_cost, train
from training.study.plan import Budget, Run, planned_runs
from training.tasks import forget_source, open_cohort, open_external, open_source
from training.tasks.base import Cohort

Arrays = dict[str, npt.NDArray[Any]]
KEY = "key"


def kept(path: Path, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """Arrays of ``make()``, cached in ``path`` under ``key``.

    Parameters
    ----------
    path
        An ``.npz`` file.
    key
        Everything that the arrays depend on: hashes, names, versions; must be JSON-serialisable.
    make
        Called if the file is missing, damaged or has another key.
    """
    wanted = json.dumps(key, sort_keys=True)
    found = _read(path)
    if found is not None and str(found.pop(KEY, "")) == wanted:
        return found
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        np.savez_compressed(file, **{KEY: np.array(wanted)}, **made)  # type: ignore[arg-type]
    return made


def _read(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


RUNS, OPINIONS, RECORD, LOG, BEST = "runs", "opinions", "run.json", "log.txt", "best.pt"


def run_folder(out: Path, name: str) -> Path:
    """Folder of a run in the study's folder ``out``."""
    return out / RUNS / name


def opinion_file(out: Path, run: Run) -> Path | None:
    """File of the opinion that ``run`` learns from, if any; there is one for each selection of the data."""
    if run.recipe.data.soft_weight == 0:
        return None
    selection, _, _ = run.arm.rpartition("/")
    return out / OPINIONS / f"{selection or 'all'}.npz"


def run_record(run: Run, out: Path, cache_sha256: str) -> dict[str, Any] | None:
    """Record of a finished run: its best epoch, length and hashes; None if it is not finished.

    Raises
    ------
    DataError
        When the run in the folder was trained with another recipe, on other data, or from another teacher
        than the current one.
    """
    path = run_folder(out, run.name) / RECORD
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (record["recipe_sha256"], record["cache_sha256"]) != (run.recipe.sha256, cache_sha256):
        raise DataError(f"{path.parent}: trained by another recipe or on other data; choose another folder")
    if run.teacher and (theirs := run_folder(out, run.teacher) / RECORD).is_file():
        teacher = json.loads(theirs.read_text(encoding="utf-8"))
        if teacher["network_sha256"] != record["teacher_sha256"]:
            raise DataError(
                f"{path.parent}: learnt from another network than {theirs.parent} now holds; remove it first"
            )
    return record


def train_runs(
    runs: Sequence[Run],
    cache: Path,
    out: Path,
    *,
    cache_sha256: str,
    split: Path | None = None,
    device: str = "auto",
    jobs: int = 1,
    say: Callable[[str], None] = print,
    on_trained: Callable[[Run], None] = lambda _: None,
) -> dict[str, str]:
    """Train all unfinished runs, teachers before their students.

    Where runs learn from an opinion (``data.soft_weight``), it is made first, by boosted trees grown only on
    the patients that the run learns from.

    Parameters
    ----------
    runs
        Runs in the order in which they begin.
    cache, cache_sha256, split
        Prepared data, their hash, and a split to use in place of their own.
    out
        Folder of the study.
    device
        ``auto``, ``cpu`` or ``cuda``.
    jobs
        Runs at a time; the CPUs are shared among them.
    say
        Receives a line whenever a run begins, ends or fails.
    on_trained
        Called whenever a run has been trained.

    Returns
    -------
    Why a run could not be trained, by its name. One that fails does not stop the others.

    Raises
    ------
    DataError
        When a process was killed from outside. Finished epochs are kept; the same call resumes.
    """
    waiting = [run for run in runs if run_record(run, out, cache_sha256) is None]
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are trained, {len(waiting)} to go")
    for student in waiting:
        _make_opinion(student, cache, out, split, say)
    failed: dict[str, str] = {}
    running: dict[Future[float], Run] = {}
    with worker_processes(jobs) as pool:
        while waiting or running:
            pending = {run.name for run in (*waiting, *running.values())}
            ready = (run for run in waiting if run.teacher not in pending)
            if len(running) < jobs and (run := next(ready, None)) is not None:
                waiting.remove(run)
                if why := _reason_to_skip(run, out, failed):
                    failed[run.name] = why
                    say(f"left out  {run.name}: {why}")
                    continue
                say(f"begun     {run.name}")
                running[pool.submit(_train, run, cache, out, split, device)] = run
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run = running.pop(future)
                try:
                    seconds = future.result()
                except IbtError as error:
                    failed[run.name] = str(error)
                    say(f"failed    {run.name}: {error}")
                except BrokenProcessPool as error:
                    raise DataError(
                        f"{run.name}: its process was killed; run the same command to resume"
                    ) from error
                else:
                    say(f"trained   {run.name} ({seconds / 60:.1f} min)")
                    on_trained(run)
    return failed


def _make_opinion(run: Run, cache: Path, out: Path, split: Path | None, say: Callable[[str], None]) -> None:
    """Grow the trees whose opinion ``run`` learns from, unless it needs none or the file exists."""
    path = opinion_file(out, run)
    if path is None or path.is_file():
        return
    from training.ensemble import ensemble

    say(f"opinion   {path.stem}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # trees use all features and the official labels, whatever the network uses
    selection = run.recipe.data
    data = DataRecipe(train_fraction=selection.train_fraction, sites=selection.sites)
    ensemble([], cache, torch.device("cpu"), split, trees=True, data=data, say=say).save(path)
    forget_source()


def _reason_to_skip(run: Run, out: Path, failed: dict[str, str]) -> str | None:
    """Why ``run`` cannot be trained, or None."""
    if run.teacher in failed:
        return f"its teacher {run.teacher} failed"
    if run.teacher and not (run_folder(out, run.teacher) / BEST).is_file():
        return f"its teacher {run.teacher} has not been trained"
    return None


def _train(run: Run, cache: Path, out: Path, split: Path | None, device: str) -> float:
    """Train one run in this process, logging to its ``log.txt``; return the seconds of all its epochs."""
    folder = run_folder(out, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    teacher = run_folder(out, run.teacher) / BEST if run.teacher else None
    with (
        memory_given_back(),
        (folder / LOG).open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stderr(log),
    ):
        best = train(
            run.recipe,
            cache,
            folder,
            split=split,
            teacher=teacher,
            opinion=opinion_file(out, run),
            device=device,
        )
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    seconds = sum(float(epoch["seconds"]) for epoch in epochs)
    record = {
        "recipe_sha256": run.recipe.sha256,
        "cache_sha256": json.loads((cache / "cache.json").read_text("utf-8"))["sha256"],
        "network_sha256": file_sha256(folder / BEST),
        "teacher_sha256": file_sha256(teacher) if teacher else None,
        "epochs": len(epochs),
        "best": best,
        "seconds": round(seconds, 1),
    }
    atomic_write(folder / RECORD, json.dumps(record, indent=1))
    return seconds


@dataclass(frozen=True)
class Expectation:
    """Expected training time of a run: ``steps`` steps, each at ``cost``."""

    run: Run
    steps: int
    cost: StepCost

    @property
    def seconds(self) -> float:
        """Time of the whole run, without validation."""
        return self.steps * self.cost.seconds


def expectations(
    study: Study,
    device: str,
    only: Sequence[str] = (),
    arms: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[Expectation]:
    """Expected training times of the unfinished runs on this machine, one at a time.

    A few steps of each kind of run are timed, with untrained teachers; runs that differ only in seed, length
    or share of the data are of one kind. ``only`` and ``arms`` are those of :func:`wanted_runs`.
    """
    chosen = chosen_device(device, 0)
    whole = len(study.cohort.items("train", ()))
    measured: dict[str, StepCost] = {}
    found = []
    for run in wanted_runs(study, only, arms):
        if run.name in study.trained:
            continue
        recipe = run.recipe
        kind = replace(
            recipe,
            seed=0,
            data=replace(recipe.data, train_fraction=1.0, sites=()),
            fit=replace(recipe.fit, epochs=1),
        )
        source = open_source(kind, study.cohort.cache.folder, study.split)
        if kind.sha256 not in measured:
            say(f"timing  {run.name}")
            measured[kind.sha256] = step_cost(kind, source, chosen)
        share = len(study.cohort.items("train", recipe.data.sites)) / whole * recipe.data.train_fraction
        steps = recipe.fit.epochs * max(round(share * len(source.plan(0, 0))), 1)
        found.append(Expectation(run, steps, measured[kind.sha256]))
    return found


TEST, VALIDATION, LEFT_OUT = "test", "validation", "left-out"
"""Sets that a run is evaluated on; ``left-out`` holds all items of sites it was not trained on."""


class Subject(NamedTuple):
    """Some items of a cohort."""

    cohort: Cohort
    items: Ints


class Places(NamedTuple):
    """Arguments of :func:`open_study` that can be sent to another process, budget tables as JSON."""

    task: Task
    budget: str
    tables: str
    seeds: int
    data: Path
    out: Path
    split: Path | None
    external: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, eq=False)
class Study:
    """A study: what to train and evaluate.

    Attributes
    ----------
    task, budget, seeds
        As :func:`training.study.plan.planned_runs` takes them.
    out
        Folder of the study.
    cohort
        Data for training and testing.
    external
        Further data by name.
    split
        Split to use in place of the data's own, if any.
    """

    task: Task
    budget: Budget
    seeds: int
    out: Path
    cohort: Cohort
    external: Mapping[str, Cohort] = field(default_factory=dict)
    split: Path | None = None

    @property
    def places(self) -> Places:
        """What another process needs to open the study."""
        externals = tuple((name, cohort.cache.folder) for name, cohort in self.external.items())
        folder, tables = self.cohort.cache.folder, json.dumps(self.budget.tables)
        return Places(
            self.task, self.budget.name, tables, self.seeds, folder, self.out, self.split, externals
        )

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Planned runs by name."""
        sites = sorted(set(self.cohort.sites.tolist()))
        planned = planned_runs(self.task, self.budget, self.seeds, sites)
        return {run.name: run for run in planned}

    @cached_property
    def trained(self) -> dict[str, dict[str, Any]]:
        """Records of the finished runs, in the order of the plan."""
        records = {
            name: run_record(run, self.out, self.cohort.cache.sha256) for name, run in self.runs.items()
        }
        return {name: record for name, record in records.items() if record is not None}

    def checkpoint(self, run: Run) -> Path:
        """Checkpoint of a finished run."""
        return run_folder(self.out, run.name) / BEST

    def subjects(self, run: Run) -> dict[str, Subject]:
        """Sets that a run is evaluated on, by name, the validation part first."""
        sites = run.recipe.data.sites
        found = {
            part: Subject(self.cohort, self.cohort.items(part, sites))  # type: ignore[arg-type]
            for part in (VALIDATION, TEST)
        }
        if sites:
            found[LEFT_OUT] = Subject(self.cohort, self.cohort.left_out(sites))
        elif run.recipe.data.train_fraction == 1:
            found |= {name: Subject(cohort, np.arange(len(cohort))) for name, cohort in self.external.items()}
        if empty := [name for name, subject in found.items() if not len(subject.items)]:
            raise DataError(f"{run.name}: nothing is in {', '.join(empty)} for {', '.join(sites)}")
        return found

    def reference(self, run: Run) -> Run | None:
        """The teacher that a run's outputs are compared with.

        For a student, the teacher of its seed and data, even if it did not learn from it. For a teacher, one
        with the next seed, which gives the ceiling.
        """
        prefix, _, arm = run.arm.rpartition("/")
        seed = run.recipe.seed + (arm == "teacher")
        return self.runs.get(f"{prefix}{'/' if prefix else ''}teacher/seed-{seed}")


def open_study(
    task: Task,
    budget: Budget,
    seeds: int,
    data: Path,
    out: Path,
    *,
    split: Path | None = None,
    external: Mapping[str, Path] | None = None,
) -> Study:
    """Open the data of a study.

    Raises
    ------
    DataError
        When a cache is missing, altered or of another task, or an external one is not external.
    """
    cohort = open_cohort(data, split)
    if cohort.cache.task != task:
        raise DataError(f"{data}: holds {cohort.cache.task} data, the study is of {task}")
    reserved = {"train", VALIDATION, TEST, LEFT_OUT, "in distribution", "classes"}
    if unusable := [name for name in external or {} if name in reserved or "|" in name]:
        raise DataError(f"--external {unusable[0]}: choose another name")
    opened = {name: open_external(name, folder, cohort) for name, folder in (external or {}).items()}
    return Study(task, budget, seeds, out, cohort, opened, split)


@lru_cache(maxsize=1)
def reopened(places: Places) -> Study:
    """Open the study of another process, once per worker process."""
    return open_study(
        places.task,
        Budget.of(places.budget, json.loads(places.tables)),
        places.seeds,
        places.data,
        places.out,
        split=places.split,
        external=dict(places.external),
    )


def wanted_runs(study: Study, only: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Run]:
    """Runs with one of the purposes ``only`` and one of ``arms``, and the teachers they learn from.

    Either may be empty, for all.

    Raises
    ------
    DataError
        When the study plans no such arm, or none for these purposes.
    """
    asked = [run for run in study.runs.values() if not only or run.purpose in only]
    known = sorted({run.arm for run in asked})
    for arm in arms:
        if arm not in known:
            similar = [name for name in known if arm in name] or get_close_matches(arm, known, cutoff=0.5)
            what = f" in {', '.join(only)}" if only else ""
            which = f"choose from {', '.join(similar or known)}" if known else "the study plans nothing there"
            raise DataError(f"--arm {arm}: no such arm{what}; {which}")
    wanted = {run.name for run in asked if not arms or run.arm in arms}
    wanted |= {run.teacher for run in study.runs.values() if run.name in wanted and run.teacher}
    return [run for run in study.runs.values() if run.name in wanted]
