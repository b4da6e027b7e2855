"""The models of one worker: each graph is opened once, whatever operating points are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ibt_deploy.bundle import Bundle, Task
from ibt_deploy.predictor import Predictor
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.streaming import RiskStream
from serving.bundles import load_bundles
from serving.problems import Problem
from serving.settings import Settings


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
            variant = (settings.precision or None) if task == "arrhythmia" else None
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
        """Name of the operating point, the default one for None; raises a Problem where there is none."""
        bundle = self.bundles[task]
        chosen = name or bundle.default_operating_point
        if chosen not in bundle.operating_points:
            known = ", ".join(sorted(bundle.operating_points))
            raise Problem("unknown_operating_point", f"The operating points of {task} are: {known}.")
        return chosen
