"""What is particular to a task: a module here that scores it, and one object that names all of its parts.

A scorer works in two steps, because batches are made between them: a recording or a stay is refused or turned
into arrays (``prepare``, ``ready``), which needs no graph, and arrays are scored (``score``).

``PARTS`` names each part of a task as ``module:name``, imported when it is asked for: a run loads the
modules of its own task alone. :data:`ibt_deploy.types.TASKS` lists the names of the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Float32s, Task

if TYPE_CHECKING:
    from ibt_deploy.batch.answers import Answers
    from ibt_deploy.bundle import Bundle
    from ibt_deploy.device import OpenGraph
    from ibt_deploy.evaluation import Scored
    from ibt_deploy.evaluation.monitoring import Change, Numbers
    from ibt_deploy.explain import Explanation
    from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, SepsisPrediction
    from ibt_deploy.preprocess.ecg import EcgPreprocessing
    from ibt_deploy.preprocess.stay import StayPreprocessing

NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Batching:
    """How many inputs wait for each other, and how many go through the graph together.

    Attributes
    ----------
    work
        Windows of recordings, or hours of stays, that close a pool.
    inputs
        Inputs that close a pool, refused ones among them.
    together
        Largest size of an input, in windows or hours, and how many windows, or stays, of such inputs go
        through the graph together; in rising order.
    """

    work: int
    inputs: int
    together: tuple[tuple[int, int], ...]


class Prepared(Protocol):
    """An input that can be scored."""

    @property
    def size(self) -> int:
        """Work that it makes, in windows or hours."""


class TaskScorer(Protocol):
    """What a task offers: ``item`` is what it scores, ``bulk`` the batches where answers can wait."""

    item: ClassVar[type[Recording | Stay]]
    bulk: ClassVar[Batching]

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None) -> None: ...

    @staticmethod
    def soon(batch_size: int) -> Batching:
        """How inputs are batched where their answers are waited for."""

    @staticmethod
    def prepare(item: Any, bundle: Bundle, /) -> Any:
        """Preprocess one input; raises InputError where it is refused."""

    @staticmethod
    def ready(prepared: Sequence[Any], bundle: Bundle, /) -> Sequence[Any]:
        """What is cheaper to compute for a whole pool, added to its inputs."""

    def features_and_logits(self, item: Any, /) -> tuple[Float32s, Float32s]:
        """What the graph is given of one input, and what it answers."""

    def score(self, prepared: Sequence[Any], batch_size: int, /) -> Sequence[Prediction]:
        """Predictions, in order."""

    def explained(self, prepared: Any, findings: Sequence[str] | None, /) -> list[Explanation]:
        """What moved the answer; ``findings`` as for :meth:`ibt_deploy.predictor.Predictor.explain`."""


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """The parts of one task.

    Attributes
    ----------
    inputs, outputs, optional_outputs
        Tensors of the graph with their number of axes.
    has_classes
        Whether the contract of a bundle lists the 26 classes; else the graph has one output.
    float_only
        Whether a bundle holds the variant fp32 alone.
    files
        Pattern of the labelled files in a folder.
    takes_labels
        Whether labels may come from a table of their own.
    names
        Where the other parts are, by the names of the properties below.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    optional_outputs: Mapping[str, int] = field(default_factory=dict)
    has_classes: bool = False
    float_only: bool = False
    files: str
    takes_labels: bool = False
    names: Mapping[str, str]

    @property
    def scorer(self) -> type[TaskScorer]:
        """Prepares inputs, scores and explains them."""
        found: type[TaskScorer] = self._named("scorer")
        return found

    @property
    def preprocessing(self) -> type[EcgPreprocessing | StayPreprocessing]:
        """Constants of the preprocessing, as the contract of a bundle has them."""
        found: type[EcgPreprocessing | StayPreprocessing] = self._named("preprocessing")
        return found

    @property
    def prediction(self) -> type[ArrhythmiaPrediction | SepsisPrediction]:
        """The answer for one input."""
        found: type[ArrhythmiaPrediction | SepsisPrediction] = self._named("prediction")
        return found

    @property
    def answers(self) -> type[Answers]:
        """Writes, counts and shows the answers of a batch run."""
        found: type[Answers] = self._named("answers")
        return found

    @property
    def scored(self) -> Callable[..., Scored]:
        """Scores labelled files with a predictor and, where it takes labels, a table of them or None."""
        found: Callable[..., Scored] = self._named("scored")
        return found

    @property
    def exported(self) -> Callable[[Any], Numbers]:
        """Reads the numbers of a finished batch run from a dataset of pyarrow."""
        found: Callable[[Any], Numbers] = self._named("exported")
        return found

    @property
    def changes(self) -> Callable[..., Iterator[Change]]:
        """Compares such numbers with the data that a bundle was trained and tested on."""
        found: Callable[..., Iterator[Change]] = self._named("changes")
        return found

    def _named(self, part: str) -> Any:
        module, _, name = self.names[part].partition(":")
        return getattr(import_module(f"ibt_deploy.{module}"), name)


PARTS: dict[Task, TaskParts] = {
    "arrhythmia": TaskParts(
        inputs={"signal": 3},
        outputs={"logits": 2},
        optional_outputs={"features": 2},
        has_classes=True,
        files="*.hea",
        takes_labels=True,
        names={
            "scorer": "scorers.ecg:EcgScorer",
            "preprocessing": "preprocess.ecg:EcgPreprocessing",
            "prediction": "predictions:ArrhythmiaPrediction",
            "answers": "batch.answers:Findings",
            "scored": "evaluation.ecg:scored_recordings",
            "exported": "evaluation.monitoring:numbers_of_recordings",
            "changes": "evaluation.monitoring:against_recordings",
        },
    ),
    "sepsis": TaskParts(
        inputs={"rows": 3, "position": 2, "past_k": 5, "past_v": 5},
        outputs={"logit": 2, "present_k": 5, "present_v": 5},
        float_only=True,
        files="*.psv",
        names={
            "scorer": "scorers.stay:StayScorer",
            "preprocessing": "preprocess.stay:StayPreprocessing",
            "prediction": "predictions:SepsisPrediction",
            "answers": "batch.answers:Risks",
            "scored": "evaluation.stay:scored_stays",
            "exported": "evaluation.monitoring:numbers_of_stays",
            "changes": "evaluation.monitoring:against_stays",
        },
    ),
}
