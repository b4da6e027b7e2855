"""The same trials under Ray Tune, with its own ASHA scheduler.

Ray places the trials and decides which to stop; draws, folders and records are those of the search. A search
that was interrupted starts a new Ray experiment, in which trials that had ended repeat their records instead
of training again, so that the scheduler knows what it knew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ibt_deploy.errors import missing_extra
from training.tune.trials import (
    OUTCOME,
    Halving,
    Status,
    Trial,
    TrialContext,
    best_score,
    outcome,
    records,
    settle,
    train_trial,
)

NAME = "ray"


def run_with_ray(
    trials: Sequence[Trial],
    task: TrialContext,
    halving: Halving,
    max_epochs: int,
    jobs: int,
    ended: Callable[[Trial, Status], None],
) -> None:
    """Run ``trials`` in order, ``jobs`` at a time, on this machine or on the Ray cluster one is connected to.

    Raises
    ------
    MissingExtra
        When Ray is not installed.
    """
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray import tune
    except ModuleNotFoundError as error:
        raise missing_extra(error, "--engine ray") from error

    class Settling(tune.Callback):  # type: ignore[misc, unused-ignore]
        """Writes down what the scheduler has stopped, which the trial itself cannot know."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            del iteration, trials, info
            done = by_number[int(trial.config["trial"])]
            if not (done.folder(task.out) / OUTCOME).is_file():
                settle(done, task.out, "stopped")
                ended(done, "stopped")
            elif done.number in fresh:
                ended(done, outcome(done, task.out).status)

    by_number = {trial.number: trial for trial in trials}
    fresh = {t.number for t in trials if not (t.folder(task.out) / OUTCOME).is_file()}
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(by_number, task), {"cpu": 1, "gpu": _gpu_share(task, jobs)}),
        param_space={"trial": tune.grid_search(list(by_number))},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            max_concurrent_trials=jobs,
            scheduler=tune.schedulers.ASHAScheduler(
                grace_period=halving.rungs[0] if halving.rungs else max_epochs,
                max_t=max_epochs,
                reduction_factor=halving.factor,
            ),
        ),
        run_config=tune.RunConfig(name=NAME, storage_path=str(task.out), verbose=0, callbacks=[Settling()]),
    )
    results = tuner.fit()
    for failure in results.errors:
        raise failure


def _gpu_share(task: TrialContext, jobs: int) -> float:
    if task.device == "cpu":
        return 0.0
    import torch

    return torch.cuda.device_count() / jobs if torch.cuda.is_available() else 0.0


def _trainable(by_number: dict[int, Trial], task: TrialContext) -> Callable[[dict[str, Any]], None]:
    """What Ray runs for a trial: report recorded epochs, then, unless the trial has ended, train on."""

    def trainable(config: dict[str, Any]) -> None:
        from ray import tune

        trial, reported = by_number[int(config["trial"])], 0

        def report(history: list[dict[str, Any]]) -> bool:
            nonlocal reported
            for epochs in range(reported + 1, len(history) + 1):
                tune.report({"score": best_score(history[:epochs])})  # does not return where Ray stops it
            reported = len(history)
            return True

        if (trial.folder(task.out) / OUTCOME).is_file():
            report(records(trial, task.out))
            return
        train_trial(trial, task, report)
        report(records(trial, task.out))

    return trainable
