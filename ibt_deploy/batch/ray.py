"""The engine for a Ray cluster: Ray Data reads and preprocesses in tasks and scores in actors.

Ray decides where and when; what goes into which part, and how a part is batched and written, is decided here
as for one machine, so that the bytes are the same. Every node needs this package, the sources and the output
folder under the same paths.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from ibt_deploy.batch.items import Items
from ibt_deploy.batch.output import Output
from ibt_deploy.batch.plan import Job
from ibt_deploy.batch.scoring import PartScorer, pools_of
from ibt_deploy.batch.tally import Tally
from ibt_deploy.errors import BatchError, IbtError, one_line, require

_CPUS_OF_READER = 0.5
"""Differs from an actor's share: otherwise Ray Data lets the actors read, and nothing is read ahead."""


def scored_by_ray(
    job: Job, output: Output, items: Items, parts: Sequence[int], actors: int | None
) -> Iterator[tuple[int, Tally]]:
    """Yield each finished part with its counts.

    Parameters
    ----------
    actors
        Number of predictors. Maximum and default: one per GPU if the job runs on GPUs, else four per five
        CPUs: scoring is most of the work, and the readers need the rest.

    Raises
    ------
    BatchError
        The run cannot continue. Parts that are done stay done.
    MissingExtra
        Ray is not installed.
    """
    require("--engine ray", "ray")
    ray = import_module("ray")
    data = import_module("ray.data")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    cluster = ray.cluster_resources()
    gpus = int(cluster.get("GPU", 0)) if job.device == "cuda" else 0
    most = gpus or max(1, int(cluster.get("CPU", 1)) * 4 // 5)
    count = min(actors or most, most)
    dataset = data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    dataset = dataset.map(_Reader(job, items), num_cpus=_CPUS_OF_READER)
    dataset = dataset.map(
        _Scorer,
        fn_constructor_args=(job, output),
        concurrency=min(count, len(parts)),
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else 0,
    )
    errors = import_module("ray.exceptions")
    try:
        for row in dataset.iter_rows():
            yield int(row["part"]), pickle.loads(row["tally"])
    except (errors.RayError, IbtError) as error:
        raise BatchError(one_line(f"Ray: {_cause(error)}")) from error


class _Reader:
    """The task: reads and preprocesses a part."""

    def __init__(self, job: Job, items: Items) -> None:
        self._job, self._items = job, items

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        read = self._items.read(part, {}, lambda _place: None)
        found = list(pools_of(read, self._job.load_bundle()))
        return {
            "part": part,
            "inputs": self._items.size_of(part),
            "pools": pickle.dumps(found),
        }


class _Scorer:
    """The actor: scores and writes parts."""

    def __init__(self, job: Job, output: Output) -> None:
        self._scorer = PartScorer(job, output)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        ready = pickle.loads(row["pools"])
        tally = self._scorer.written(int(row["part"]), int(row["inputs"]), ready)
        return {"part": row["part"], "tally": pickle.dumps(tally)}


def _cause(error: BaseException) -> str:
    """The root cause, in one line: Ray nests errors and adds its own traceback."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
