"""From a plan to the report: train, evaluate, draw, write; every step resumes where it stopped.

``results.json`` holds all results as plain data and is byte-identical for the same study.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ibt_deploy.errors import DataError, require
from ibt_deploy.files import atomic_write
from ibt_deploy.predictions import NOTICE
from ibt_deploy.types import Floats
from training.checkpoint import TrainedNetwork, load_network
from training.device import chosen_device, memory_given_back, worker_processes
from training.recipe import N_GROUPS
from training.study.drawing import draw_figures
from training.study.measures import measured, run_outputs
from training.study.paper import paper_numbers
from training.study.plan import (
    ABLATIONS,
    BUDGETS,
    CONTROLS,
    GROUPS,
    PURPOSES,
    Run,
    site_studies,
)
from training.study.report import report_text
from training.study.shipped import shipped_table
from training.study.similarity import Alignments, Similarities
from training.study.study import LEFT_OUT, TEST, Places, Study, reopened, train_runs, wanted_runs
from training.study.tables import (
    Arms,
    agreement_table,
    arm_table,
    attention_table,
    by_arm,
    cka_table,
    claims,
    difference,
    drawn,
    method_table,
    number,
    renamed,
)
from training.tasks import TASKS
from training.tasks.base import TUNED

SCHEMA = 1
FRACTIONS = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Shares of the training patients in the study, besides all of them."""


class Timings(dict[str, float]):
    """Seconds of each step of this call; steps cached on disk take almost none."""

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Time a step."""
        begun = time.perf_counter()
        yield
        self[step] = round(self.get(step, 0.0) + time.perf_counter() - begun, 1)


def study_results(
    study: Study,
    device: torch.device,
    *,
    draws: int,
    jobs: int,
    say: Callable[[str], None],
    timings: Timings,
) -> dict[str, Any]:
    """Evaluate every finished run and assemble the tables.

    Parameters
    ----------
    study
        The study; only its finished runs are used.
    device
        Device of the networks.
    draws
        Number of bootstrap draws.
    jobs
        Runs evaluated at a time.
    say
        Receives a line for each run and step.
    timings
        Filled in.
    """
    # ablations are compared only on validation, by the scores logged in training
    to_judge = [name for name in study.trained if study.runs[name].purpose != "ablations"]
    with worker_processes(jobs) if jobs > 1 else nullcontext() as pool:
        # all outputs first, because measures compare the outputs of two runs
        with timings.of("outputs"):
            for i, name in enumerate(_each(to_judge, pool, study, _score, device), start=1):
                say(f"scored    {name} ({i} of {len(to_judge)})")
        with timings.of("measures"):
            for i, name in enumerate(_each(to_judge, pool, study, _measure, device, draws), start=1):
                say(f"measured  {name} ({i} of {len(to_judge)})")
    judged = [measured(study, study.runs[name], device, draws) for name in to_judge]
    arms, seeds = by_arm(judged), range(study.seeds)
    results: dict[str, Any] = _head(study, draws)
    results["table2"] = method_table(arms, "", TEST, seeds)
    labelled = [name for name, cohort in study.external.items() if cohort.cache.labelled]
    results["external"] = dict(_external(study, labelled, arms, method_table))
    results["table1"] = {"in distribution": agreement_table(arms, "", TEST, seeds)}
    results["table1"] |= dict(_external(study, list(study.external), arms, agreement_table))
    names = (*GROUPS[study.task], "bbm")
    results["table3"] = arm_table(arms, names, ("bbm-groups-1",), TEST, seeds)
    results["table3"]["groups_of_bbm"] = N_GROUPS[study.task]
    controls = (*CONTROLS, "transformer-long")
    results["controls"] = arm_table(arms, controls, ("transformer", "bbm"), TEST, seeds)
    results["curves"] = _curves(study, arms)
    results["ablations"] = ablation_table(study)
    deit = results["table2"]["deit"]
    similarities = Similarities(study, device)
    results["similarity"] = {}
    for place in (TEST, *study.external):
        with timings.of("similarity"):
            aligned: dict[int, Alignments] = {}
            for seed in seeds:
                if found := similarities.alignments(seed, place):
                    aligned[seed] = found
                    say(f"aligned   seed {seed}, {place}")
        with timings.of("attention"):
            attention = attention_table(similarities, place, seeds, deit, draws)
            say(f"attention measured, {place}")
        results["similarity"][place] = {"cka": cka_table(aligned, deit), "attention": attention}
    with timings.of("shipped"):
        results["shipped"] = shipped_table(study, draws)
        say("shipped model judged")
    results["claims"] = claims(study.task, results)
    return results


def _score(study: Study, name: str, device: torch.device) -> None:
    """Compute and cache the outputs of a run."""
    run_outputs(study, study.runs[name], device)


def _measure(study: Study, name: str, device: torch.device, draws: int) -> None:
    """Compute and cache the measures of a run."""
    measured(study, study.runs[name], device, draws)


def _each(
    names: Sequence[str],
    pool: ProcessPoolExecutor | None,
    study: Study,
    work: Callable[..., None],
    *more: Any,
) -> Iterator[str]:
    """Do ``work(study, name, *more)`` for each run, in ``pool`` or in this process; yield names as done.

    Raises
    ------
    DataError
        When a process was killed from outside. Finished evaluations are kept; the same call resumes.
    """
    if pool is None:
        for name in names:
            work(study, name, *more)
            yield name
        return
    working = {pool.submit(_elsewhere, study.places, work, name, *more): name for name in names}
    try:
        for future in as_completed(working):
            future.result()
            yield working[future]
    except BrokenProcessPool as error:
        raise DataError("a process that judged runs was killed; run the same command to resume") from error
    finally:
        for future in working:
            future.cancel()


def _elsewhere(places: Places, work: Callable[..., None], name: str, *more: Any) -> None:
    # a copy without the cached records, because further runs may have been trained since
    work(replace(reopened(places)), name, *more)


@contextmanager
def evaluation_beside(
    study: Study, device: torch.device, draws: int, jobs: int
) -> Iterator[Callable[[Run], None]]:
    """Yield a function that evaluates a trained run in another process while further runs train.

    Half as many processes as ``jobs``, with one thread each, cache outputs and measures where
    :func:`study_results` looks for them. When training ends, that function does what is left, repeats what
    failed here, and reports it.
    """
    pool = worker_processes(max(jobs // 2, 1), threads=1)

    def begin(run: Run) -> None:
        if run.purpose != "ablations":
            with suppress(BrokenProcessPool):
                pool.submit(_elsewhere, study.places, evaluate, run.name, device, draws)

    try:
        yield begin
    finally:
        pool.shutdown(cancel_futures=True)


def evaluate(study: Study, name: str, device: torch.device, draws: int) -> None:
    """Cache the outputs of a run, and its measures unless the run to compare it with is still to train."""
    run = study.runs[name]
    reference = study.reference(run)
    with memory_given_back():
        if reference is None or reference.name in study.trained:
            measured(study, run, device, draws)
        else:
            run_outputs(study, run, device)


def _head(study: Study, draws: int) -> dict[str, Any]:
    cohort, budget = study.cohort, study.budget
    name = budget.name if budget.name in BUDGETS else Path(budget.name).name
    externals = "".join(f" --external {e}=cache/{e}" for e in study.external)
    parts = {p: cohort.describe(cohort.items(p)) for p in ("train", "validation", "test")}
    subjects = parts | {n: c.describe(np.arange(len(c))) for n, c in study.external.items()}
    for sites in site_studies(study.task, cohort.sites.tolist()).values():
        subjects[_left_out_title(study, sites)] = cohort.describe(cohort.left_out(sites))
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "task": study.task,
        "official": TASKS[study.task].official,
        "budget": name,
        "budget_tables": dict(budget.tables[study.task]),
        "seeds": list(range(study.seeds)),
        "command": f"ibt reproduce {study.task} --data cache/{study.task} --out study/{study.task} "
        f"--budget {name} --seeds {study.seeds}{externals}",
        "data": {
            "cache_sha256": cohort.cache.sha256,
            "split_sha256": cohort.split_sha256,
            "sites": {str(s): int((cohort.sites == s).sum()) for s in sorted(set(cohort.sites.tolist()))},
            "sets": subjects,
            "external": {n: c.cache.sha256 for n, c in study.external.items()},
        },
        "bootstrap": {"draws": draws, "level": 0.95, "drawn": "patients"},
        "runs": [_run_entry(study, name) for name in study.runs],
        "purposes": list(PURPOSES),
        "paper": paper_numbers(study.task),
    }


def _run_entry(study: Study, name: str) -> dict[str, Any]:
    run, record = study.runs[name], study.trained.get(name)
    entry: dict[str, Any] = {
        "name": name,
        "arm": run.arm,
        "seed": run.recipe.seed,
        "purpose": run.purpose,
        "recipe_sha256": run.recipe.sha256,
        "trained": record is not None,
    }
    if record is not None:
        entry |= {
            "epochs": record["epochs"],
            "best_epoch": record["best"]["epoch"] + 1,
            "validation": number(record["best"]["validation"]["selection"]),
            "network_sha256": record["network_sha256"],
        }
    return entry


def _external(
    study: Study, names: Sequence[str], arms: Arms, made: Callable[..., dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and table of every external test: sites left out, and the sets ``names``."""
    seeds = range(study.seeds)
    for place, sites in site_studies(study.task, study.cohort.sites.tolist()).items():
        yield _left_out_title(study, sites), made(arms, f"{place}/", LEFT_OUT, seeds)
    for name in names:
        yield name, made(arms, "", name, seeds)


def _left_out_title(study: Study, sites: Sequence[str]) -> str:
    others = ", ".join(sorted(set(study.cohort.sites.tolist()) - set(sites)))
    if study.task == "sepsis":
        return f"hospital {others}, trained on hospital {', '.join(sites)}"
    return f"source {others}, trained on the others"


def _curves(study: Study, arms: Arms) -> dict[str, Any]:
    """Scores by share of the training patients, and the change of differences with it."""
    if study.task != "sepsis":
        return {}
    n = len(study.cohort.items("train"))
    seeds = range(study.seeds)
    shares = sorted({*FRACTIONS, *study.budget.fractions})
    points = [
        {
            "fraction": share,
            "patients": round(share * n),
            **method_table(arms, "" if share == 1 else f"fraction-{share:g}/", TEST, seeds),
        }
        for share in (*shares, 1.0)
    ]
    trained = [point["fraction"] for point in points[:-1] if point["methods"]]
    if not trained:
        return {"points": points}
    full, few = renamed(arms, "", seeds), renamed(arms, f"fraction-{trained[0]:g}/", seeds)
    gaps = {}
    for first, second in (("teacher", "transformer"), ("bbm", "transformer")):
        at_few, at_full = _gap(few, first, second, study), _gap(full, first, second, study)
        gaps[f"{first} - {second}"] = difference(at_few, at_full)
    return {"points": points, "smallest": trained[0], "gaps": gaps}


def ablation_table(study: Study) -> dict[str, Any]:
    """Validation scores of every ablation at its best epoch, by seed; empty if the budget has none."""
    settings, task = study.budget.ablations(study.task), study.task
    if not settings:
        return {}
    prefix = study.budget.ablation_prefix(task)
    arms: dict[str, dict[str, Any]] = {}
    for reference, group in ABLATIONS[task].items():
        for name, changes in group.items():
            planned = [run for run in study.runs.values() if run.arm == f"{prefix}ablation-{name}"]
            if not planned:
                continue
            trained = [run for run in planned if run.name in study.trained]
            arms[name] = {
                "reference": reference,
                "changes": changes,
                "seeds": {str(run.recipe.seed): _logged(study.trained[run.name]) for run in trained},
            }
            if trained:
                arms[name]["mega_macs"] = mega_macs(load_network(study.checkpoint(trained[0])))
    return {
        "share": settings["share"],
        "size": round(settings["share"] * len(study.cohort.items("train"))),
        "epochs": settings["epochs"],
        "select": study.budget.tables[task]["student"]["fit"].get("select", "official"),
        "arms": arms,
    }


def _logged(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Validation scores of the best epoch."""
    scores = record["best"]["validation"]
    return {name: number(value) for name, value in scores.items() if name != "selection"}


COUNTED_HOURS = 48


def mega_macs(trained: TrainedNetwork) -> float:
    """Multiply-accumulates of a ten-second ECG, or of a stay of :data:`COUNTED_HOURS`, in millions."""
    shape = (trained.n_inputs, trained.samples) if trained.samples else (COUNTED_HOURS, trained.n_inputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trained.network(torch.zeros(1, *shape))
    return round(float(counter.get_total_flops()) / 2e6, 1)


def _gap(methods: Arms, first: str, second: str, study: Study) -> dict[int, Floats]:
    """Difference of two methods in the official score, by seed."""
    a, b = (drawn(methods, m, TEST, TUNED, TASKS[study.task].official) for m in (first, second))
    return {seed: a[seed] - b[seed] for seed in sorted(set(a) & set(b))}


RESULTS, REPORT, TIMINGS, FIGURES = "results.json", "report.md", "timings.json", "figures"


def reproduced(
    study: Study,
    *,
    only: Sequence[str] = (),
    arms: Sequence[str] = (),
    jobs: int,
    device: str,
    train: bool,
    draws: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Complete a study and write ``results.json``, ``timings.json``, figures and ``report.md``.

    Parameters
    ----------
    study
        The study.
    only, arms
        Purposes and arms to train, as :func:`~training.study.study.wanted_runs` takes them. Runs already
        trained are reported in any case.
    jobs, device
        Number of runs trained or evaluated at a time, and their device.
    train
        False to report only what is already trained.
    draws
        Number of bootstrap draws.
    say
        Receives a line for each step.

    Returns
    -------
    Why a run could not be trained, by its name.
    """
    require_packages()
    wanted = wanted_runs(study, only, arms)
    chosen, timings = chosen_device(device), Timings()
    failed: dict[str, str] = {}
    if train:
        with timings.of("training"), evaluation_beside(study, chosen, draws, jobs) as begin:
            failed = train_runs(
                wanted,
                study.cohort.cache.folder,
                study.out,
                cache_sha256=study.cohort.cache.sha256,
                split=study.split,
                device=device,
                jobs=jobs,
                say=say,
                on_trained=begin,
            )
    if not study.trained:
        raise DataError(f"{study.out}: nothing is trained, so there is nothing to report")
    results = study_results(study, chosen, draws=draws, jobs=jobs, say=say, timings=timings)
    atomic_write(study.out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    with timings.of("figures"):
        draw_figures(results, Similarities(study, chosen), study.out / FIGURES)
        say("figures drawn")
    timings_of_runs = {name: record["seconds"] for name, record in study.trained.items()}
    found = {"this_call": timings, "training_of_each_run": timings_of_runs}
    atomic_write(study.out / TIMINGS, json.dumps(found, indent=1) + "\n")
    atomic_write(study.out / REPORT, report_text([_read(study.out)], [FIGURES]))
    return failed


def require_packages() -> None:
    """Check that the packages that the report needs, after all the training, are installed.

    Raises
    ------
    MissingExtra
        A package for the trees, the figures or scoring the shipped models is not installed.
    """
    require("the report of ibt reproduce", "matplotlib", "onnxruntime", "sklearn")


def joined_report(studies: Sequence[Path], to: Path) -> None:
    """Write one page for finished studies, one per task; figures go into a folder of its name beside it.

    Raises
    ------
    DataError
        A study is not finished, or two are of the same task.
    """
    found = [_read(out) for out in studies]
    tasks = Counter(results["task"] for results in found)
    if repeated := [task for task, n in tasks.items() if n > 1]:
        raise DataError(f"several studies of {repeated[0]}: give one of each task")
    folders = [f"{to.stem}/{results['task']}" for results in found]
    for out, folder in zip(studies, folders, strict=True):
        for figure in sorted((out / FIGURES).iterdir()):
            target = to.parent / folder / figure.name
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, figure.read_bytes())
    to.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(to, report_text(found, folders))


def _read(out: Path) -> dict[str, Any]:
    """Results of a finished study."""
    path = out / RESULTS
    if not path.is_file():
        raise DataError(f"{out}: no {RESULTS} here; make it with `ibt reproduce`")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
