"""Train the runs of a plan, several at a time, each in a process of its own, and go on where it stopped.

A finished run has a ``run.json`` beside its checkpoints; one that was interrupted has not, and its training
resumes after the last whole epoch.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ibt_deploy.device import usable_cpus
from ibt_deploy.errors import DataError, IbtError
from training.cache import file_sha256
from training.study.plan import Run

RUNS, RECORD, LOG, BEST = "runs", "run.json", "log.txt", "best.pt"


def run_folder(out: Path, name: str) -> Path:
    """Folder of a run in the study's folder ``out``."""
    return out / RUNS / name


def run_record(run: Run, out: Path, cache_sha256: str) -> dict[str, Any] | None:
    """What is known of a finished run: its best epoch, length and hashes; None while it is not finished.

    Raises
    ------
    DataError
        When what is there was trained by another recipe, or on other data.
    """
    path = run_folder(out, run.name) / RECORD
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (record["recipe_sha256"], record["cache_sha256"]) != (run.recipe.sha256, cache_sha256):
        raise DataError(f"{path.parent}: trained by another recipe or on other data; choose another folder")
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
) -> dict[str, str]:
    """Train every run that is not finished, teachers before their students.

    Parameters
    ----------
    runs
        In the order in which they are to be begun.
    cache, cache_sha256, split
        Prepared data, their hash, and a split in place of their own.
    out
        Folder of the study.
    device
        ``auto``, ``cpu`` or ``cuda``.
    jobs
        Runs at a time; the CPUs are shared among them.
    say
        Told a line whenever a run begins, ends or fails.

    Returns
    -------
    Why a run could not be trained, by its name. One that fails does not stop the others.

    Raises
    ------
    DataError
        When a process was killed from outside; what was trained is kept, and the same call goes on.
    """
    waiting = [run for run in runs if run_record(run, out, cache_sha256) is None]
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are trained, {len(waiting)} to go")
    threads = max(usable_cpus() // jobs, 1)
    failed: dict[str, str] = {}
    running: dict[Future[float], Run] = {}
    # spawned, because a forked process cannot use CUDA; a process for each run, to give its memory back
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        while waiting or running:
            pending = {run.name for run in (*waiting, *running.values())}
            ready = (run for run in waiting if run.teacher not in pending)
            if len(running) < jobs and (run := next(ready, None)) is not None:
                waiting.remove(run)
                if why := _hopeless(run, out, failed):
                    failed[run.name] = why
                    say(f"left out  {run.name}: {why}")
                    continue
                say(f"begun     {run.name}")
                running[pool.submit(_train, run, cache, out, split, device, threads)] = run
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run = running.pop(future)
                try:
                    say(f"trained   {run.name} ({future.result() / 60:.1f} min)")
                except IbtError as error:
                    failed[run.name] = str(error)
                    say(f"failed    {run.name}: {error}")
                except BrokenProcessPool as error:
                    raise DataError(
                        f"{run.name}: its process was killed; the same command goes on"
                    ) from error
    return failed


def _hopeless(run: Run, out: Path, failed: dict[str, str]) -> str | None:
    """Why ``run`` cannot be trained, if so."""
    if run.teacher in failed:
        return f"its teacher {run.teacher} failed"
    if run.teacher and not (run_folder(out, run.teacher) / BEST).is_file():
        return f"its teacher {run.teacher} has not been trained"
    return None


def _train(run: Run, cache: Path, out: Path, split: Path | None, device: str, threads: int) -> float:
    """Train one run here, its progress going to its ``log.txt``; seconds of all its epochs."""
    import torch

    from training.run import train

    torch.set_num_threads(threads)
    folder = run_folder(out, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    teacher = run_folder(out, run.teacher) / BEST if run.teacher else None
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stderr(log):
        best = train(run.recipe, cache, folder, split=split, teacher=teacher, device=device)
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
    partial = folder / f".{RECORD}"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.replace(folder / RECORD)
    return seconds
