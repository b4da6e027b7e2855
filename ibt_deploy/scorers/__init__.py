"""Scorers turn inputs into predictions, one module per task.

A scorer works in two steps, because batches are made between them: a recording or a stay is refused or turned
into arrays (``prepare``, ``ready``), which needs no graph; then the arrays are scored (``score``).
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
    """How many inputs are pooled, and how many go through the graph together.

    Attributes
    ----------
    work
        Windows of recordings, or hours of stays, that close a pool.
    inputs
        Inputs, including refused ones, that close a pool.
    together
        Largest size of an input, in windows or hours, and how many windows, or stays, of such inputs go
        through the graph together; in ascending order.
    """

    work: int
    inputs: int
    together: tuple[tuple[int, int], ...]


class Prepared(Protocol):
    """An input that can be scored."""

    @property
    def size(self) -> int:
        """Amount of work, in windows or hours."""


class TaskScorer(Protocol):
    """Interface of a task: ``item`` is what it scores, ``bulk`` the batching if answers can wait."""

    item: ClassVar[type[Recording | Stay]]
    bulk: ClassVar[Batching]

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None) -> None: ...

    @staticmethod
    def soon(batch_size: int) -> Batching:
        """Batching if callers wait for the answers."""

    @staticmethod
    def prepare(item: Any, bundle: Bundle, /) -> Any:
        """Preprocess one input; raises InputError if it is refused."""

    @staticmethod
    def ready(prepared: Sequence[Any], bundle: Bundle, /) -> Sequence[Any]:
        """Add to the inputs of a pool what is cheaper to compute for all of them at once."""

    def features_and_logits(self, item: Any, /) -> tuple[Float32s, Float32s]:
        """Input of the graph for one item, and its output."""

    def score(self, prepared: Sequence[Any], batch_size: int, /) -> Sequence[Prediction]:
        """Predictions, in order."""


def scorer_of(task: Task) -> type[TaskScorer]:
    """Import and return the scorer of a task."""
    scorer: type[TaskScorer] = PARTS[task].scorer.load()
    return scorer
