"""From a plan to the report: train, judge, draw, write; every step resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ibt_deploy.errors import DataError
from training.precision import chosen_device
from training.study.drawing import draw_figures
from training.study.plan import Run
from training.study.report import report_text
from training.study.results import Timings, study_results
from training.study.runner import train_runs
from training.study.similarity import Similarities
from training.study.store import write_text
from training.study.study import Study

RESULTS, REPORT, TIMINGS, FIGURES = "results.json", "report.md", "timings.json", "figures"


def reproduced(
    study: Study,
    *,
    split: Path | None,
    only: Sequence[str],
    jobs: int,
    device: str,
    train: bool,
    draws: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Do what is left of a study and write ``results.json``, ``timings.json``, figures and ``report.md``.

    Parameters
    ----------
    study
        What is to be done.
    split
        A split in place of the data's own.
    only
        Purposes to train for; everything where it is empty. What is trained already is reported anyway.
    jobs, device
        Trainings at a time, and where.
    train
        False to report what is there.
    draws
        Of the bootstrap.
    say
        Told a line of progress.

    Returns
    -------
    Why a run could not be trained, by its name.
    """
    chosen, timings = chosen_device(device), Timings()
    failed: dict[str, str] = {}
    if train:
        with timings.of("training"):
            failed = train_runs(
                wanted_runs(study, only),
                study.cohort.cache.folder,
                study.out,
                cache_sha256=study.cohort.cache.sha256,
                split=split,
                device=device,
                jobs=jobs,
                say=say,
            )
    if not study.trained:
        raise DataError(f"{study.out}: nothing is trained, so there is nothing to report")
    results = study_results(study, split, chosen, draws=draws, say=say, timings=timings)
    write_text(study.out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    with timings.of("figures"):
        draw_figures(results, Similarities(study, split, chosen), study.out / FIGURES)
        say("figures drawn")
    timings_of_runs = {name: record["seconds"] for name, record in study.trained.items()}
    found = {"this_call": timings, "training_of_each_run": timings_of_runs}
    write_text(study.out / TIMINGS, json.dumps(found, indent=1) + "\n")
    write_text(study.out / REPORT, report_text([_read(study.out)], [FIGURES]))
    return failed


def wanted_runs(study: Study, only: Sequence[str]) -> list[Run]:
    """Runs of some purposes, and the teachers that they learn from or are compared with."""
    if not only:
        return list(study.runs.values())
    wanted = {run.name for run in study.runs.values() if run.purpose in only}
    wanted |= {run.teacher for run in study.runs.values() if run.name in wanted and run.teacher}
    return [run for run in study.runs.values() if run.name in wanted]


def joined_report(studies: Sequence[Path], to: Path) -> None:
    """One page for finished studies; figures go into a folder beside it, of the page's name."""
    found = [_read(out) for out in studies]
    folders = [f"{to.stem}/{results['task']}" for results in found]
    for out, folder in zip(studies, folders, strict=True):
        for figure in sorted((out / FIGURES).iterdir()):
            target = to.parent / folder / figure.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(figure.read_bytes())
    write_text(to, report_text(found, folders))


def _read(out: Path) -> dict[str, Any]:
    """Results of a finished study."""
    path = out / RESULTS
    if not path.is_file():
        raise DataError(f"{out}: no {RESULTS} here; make it with `ibt reproduce`")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
