"""The models of one worker: each graph is opened once, whatever operating points are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import OpenGraph
from ibt_deploy.errors import BundleError
from ibt_deploy.predictor import Predictor
from ibt_deploy.streaming import RiskStream
from ibt_deploy.types import TASKS, Task
from serving.http.problems import Problem
from serving.settings import Settings
from serving.store import PREFIX as STORE
from serving.store import stored


def load_bundles(settings: Settings) -> dict[Task, Bundle]:
    """Both bundles, their contracts and hashes checked; raises BundleError."""
    bundles: dict[Task, Bundle] = {}
    for task in TASKS:
        given = settings.arrhythmia if task == "arrhythmia" else settings.sepsis
        bundle = load_bundle(stored(given.removeprefix(STORE)) if given.startswith(STORE) else given)
        if bundle.task != task:
            raise BundleError(f"{bundle.path}: a bundle for {bundle.task} is configured for {task}")
        bundle.graph(_variant(task, settings))
        bundles[task] = bundle
    return bundles


@dataclass(frozen=True, eq=False)
class Models:
    """Everything that scores.

    Attributes
    ----------
    bundles
        By task.
    predictors
        By task and operating point.
    streams
        Hour by hour, by operating point.
    """

    bundles: dict[Task, Bundle]
    predictors: dict[tuple[Task, str], Predictor]
    streams: dict[str, RiskStream]

    @classmethod
    def load(cls, settings: Settings) -> Models:
        """Load both bundles; raises BundleError or DeviceError.

        Graphs run on the thread that calls them: requests side by side use the CPUs better than several
        threads within one operator (docs/service.md has the figures).
        """
        bundles = load_bundles(settings)
        predictors: dict[tuple[Task, str], Predictor] = {}
        streams: dict[str, RiskStream] = {}
        for task, bundle in bundles.items():
            variant = _variant(task, settings)
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


def _variant(task: Task, settings: Settings) -> str | None:
    return (settings.precision or None) if task == "arrhythmia" else None
