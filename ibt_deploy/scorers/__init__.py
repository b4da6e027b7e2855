"""From inputs to predictions, one module per task.

A scorer works in two steps, because batches are made between them: a recording or a stay is refused or turned
into arrays (``prepare``, ``ready``), which needs no graph, and arrays are scored (``score``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ibt_deploy.bundle import Bundle
from ibt_deploy.device import OpenGraph
from ibt_deploy.predictions import Prediction
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import PARTS, Float32s, Task

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


def scorer_of(task: Task) -> type[TaskScorer]:
    """The scorer of a task, imported now."""
    scorer: type[TaskScorer] = PARTS[task].scorer.load()
    return scorer
