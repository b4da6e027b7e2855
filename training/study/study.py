"""A study: a plan of runs, the data they are judged on, and the folder in which everything is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ibt_deploy.errors import DataError
from training.study.cohort import Cohort, Ints, open_cohort, open_external
from training.study.plan import Budget, Run, Task, planned_runs
from training.study.runner import BEST, run_folder, run_record

TEST, VALIDATION, LEFT_OUT = "test", "validation", "left-out"
"""Sets that a run is judged on; ``left-out`` is every item of the sites it was not trained on."""


class Subject(NamedTuple):
    """Some items of a cohort."""

    cohort: Cohort
    items: Ints


@dataclass(frozen=True, eq=False)
class Study:
    """What is to be trained and judged.

    Attributes
    ----------
    task, budget, seeds
        As :func:`training.study.plan.planned_runs` takes them.
    out
        Folder of the study.
    cohort
        The data of training and testing.
    external
        Further data by name.
    """

    task: Task
    budget: Budget
    seeds: int
    out: Path
    cohort: Cohort
    external: Mapping[str, Cohort] = field(default_factory=dict)

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The plan, by name."""
        sites = sorted(set(self.cohort.sites.tolist()))
        planned = planned_runs(self.task, self.budget, self.seeds, sites)
        return {run.name: run for run in planned}

    @cached_property
    def trained(self) -> dict[str, dict[str, Any]]:
        """Records of the runs that are finished, in the order of the plan."""
        records = {
            name: run_record(run, self.out, self.cohort.cache.sha256) for name, run in self.runs.items()
        }
        return {name: record for name, record in records.items() if record is not None}

    def checkpoint(self, run: Run) -> Path:
        """The network of a finished run."""
        return run_folder(self.out, run.name) / BEST

    def subjects(self, run: Run) -> dict[str, Subject]:
        """What a run is judged on, by name: its validation part first."""
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

        Of a student the teacher of its seed and data, also where it did not learn from it. Of a teacher one
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
        When a cache is missing, altered or of the other task, or an external one is not external.
    """
    cohort = open_cohort(data, split)
    if cohort.cache.task != task:
        raise DataError(f"{data}: holds {cohort.cache.task} data, the study is of {task}")
    reserved = sorted({TEST, VALIDATION, LEFT_OUT}.intersection(external or {}))
    if reserved:
        raise DataError(f"--external {reserved[0]}: choose another name")
    opened = {name: open_external(name, folder, cohort) for name, folder in (external or {}).items()}
    return Study(task, budget, seeds, out, cohort, opened)
