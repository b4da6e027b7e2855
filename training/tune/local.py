"""Trials without Ray: one after the other in this process, or several in processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from ibt_deploy.device import usable_cpus
from ibt_deploy.errors import DataError
from training.tune.halving import Halving
from training.tune.trials import Status, Task, Trial, best_score, train_trial


def run_locally(
    trials: Sequence[Trial], task: Task, halving: Halving, jobs: int, ended: Callable[[Trial, Status], None]
) -> None:
    """Run ``trials`` in order, ``jobs`` at a time.

    Raises
    ------
    DataError
        When a process was killed from outside; what was trained is kept, and the same call goes on.
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
                        f"trial {trial.number}: its process was killed; the same command goes on"
                    ) from error
                for following in _first(waiting, 1):
                    running[pool.submit(_in_process, following, task, halving, threads)] = following


def _first(trials: Iterator[Trial], n: int) -> list[Trial]:
    return [trial for _, trial in zip(range(n), trials, strict=False)]


def halved(trial: Trial, task: Task, halving: Halving) -> Status:
    """Train a trial as far as halving lets it."""

    def keep_going(history: list[dict[str, object]]) -> bool:
        return halving.keeps(trial.number, len(history), best_score(history))

    return train_trial(trial, task, keep_going)


def _in_process(trial: Trial, task: Task, halving: Halving, threads: int) -> Status:
    import torch

    torch.set_num_threads(threads)
    return halved(trial, task, halving)
