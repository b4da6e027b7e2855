"""The models of one worker, and the bundles in BentoML's model store.

Each graph is opened once, however many operating points are requested. ``python -m serving.models`` puts the
bundles into the model store, so that a bento lists its models;
``IBT_SERVE_ARRHYTHMIA=store:ibt-arrhythmia:TAG`` serves one from there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import OpenGraph
from ibt_deploy.errors import BundleError
from ibt_deploy.predictor import Predictor
from ibt_deploy.streaming import RiskStream
from ibt_deploy.types import TASKS, Task
from serving.http.problems import Problem
from serving.settings import Settings

STORE = "store:"
TAG_DIGITS = 16
FOLDER = "bundle"


def load_bundles(settings: Settings) -> dict[Task, Bundle]:
    """Load both bundles and check their contracts and hashes; raises BundleError."""
    bundles: dict[Task, Bundle] = {}
    for task in TASKS:
        given: str = getattr(settings, task)
        bundle = load_bundle(stored(given.removeprefix(STORE)) if given.startswith(STORE) else given)
        if bundle.task != task:
            raise BundleError(f"{bundle.path}: a bundle for {bundle.task} is configured for {task}")
        bundle.graph(settings.precision or None)
        bundles[task] = bundle
    return bundles


@dataclass(frozen=True, eq=False)
class Models:
    """All models of the worker.

    Attributes
    ----------
    bundles
        Bundles by task.
    predictors
        Predictors by task and operating point.
    streams
        Hour-by-hour scorers, by operating point.
    """

    bundles: dict[Task, Bundle]
    predictors: dict[tuple[Task, str], Predictor]
    streams: dict[str, RiskStream]

    @classmethod
    def load(cls, settings: Settings) -> Models:
        """Load both bundles; raises BundleError or DeviceError.

        Graphs run on the thread that calls them: concurrent requests use the CPUs better than several
        threads within one operator (docs/service.md has the figures).
        """
        bundles = load_bundles(settings)
        predictors: dict[tuple[Task, str], Predictor] = {}
        streams: dict[str, RiskStream] = {}
        for task, bundle in bundles.items():
            variant = settings.precision or None
            graph = OpenGraph.of(bundle, device=settings.device, variant=variant, threads=1)
            for point in bundle.operating_points:
                predictors[task, point] = Predictor(bundle, graph, point)
                if task == "sepsis":
                    streams[point] = RiskStream(bundle, graph, point)
        return cls(bundles, predictors, streams)

    @property
    def on_gpu(self) -> bool:
        """Whether any graph runs on a GPU."""
        return any(predictor.device != "cpu" for predictor in self.predictors.values())

    def point(self, task: Task, name: str | None) -> str:
        """Name of the operating point, the default one for None; raises a Problem if there is none."""
        bundle = self.bundles[task]
        chosen = name or bundle.default_operating_point
        if chosen not in bundle.operating_points:
            known = ", ".join(sorted(bundle.operating_points))
            raise Problem("unknown_operating_point", f"The operating points of {task} are: {known}.")
        return chosen


def store(name_or_directory: str | Path) -> str:
    """Copy a bundle into the model store unless it is already there; returns its tag ``ibt-TASK:SHA256``."""
    import bentoml
    from bentoml.exceptions import NotFound

    bundle = load_bundle(name_or_directory)
    tag = f"ibt-{bundle.task}:{bundle.sha256[:TAG_DIGITS]}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        labels = {"task": bundle.task, "version": bundle.version, "medical-device": "no"}
        metadata = {"name": bundle.name, "sha256": bundle.sha256, "created": bundle.created}
        with bentoml.models.create(tag, labels=labels, metadata=metadata) as model:
            # not beside model.yaml: a bundle holds only what it lists
            shutil.copytree(bundle.path, Path(model.path) / FOLDER)
    return tag


def stored(tag: str) -> Path:
    """The directory of a stored bundle; raises ``bentoml.exceptions.NotFound``."""
    import bentoml

    return Path(bentoml.models.get(tag).path) / FOLDER


if __name__ == "__main__":
    for task in TASKS:
        print(store(task))
