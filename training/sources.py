"""What the training loop asks of a data set, whichever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from training.batch import Batch
from training.cache import Cache

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
Scores = dict[str, float]


class Source(ABC):
    """A split data set that deals out batches in an order given by seed and epoch alone."""

    cache: Cache
    split_sha256: str
    n_inputs: int
    samples: int
    batch_size: int

    @abstractmethod
    def items(self, part: Part) -> npt.NDArray[np.int64]:
        """Indices of the records or stays of a part."""

    @abstractmethod
    def plan(self, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Items of each batch of an epoch; together every item of the training part exactly once."""

    @abstractmethod
    def training_batch(self, seed: int, epoch: int, items: npt.NDArray[np.int64]) -> Batch:
        """The batch of ``items`` as that epoch sees them, cropped and augmented."""

    @abstractmethod
    def plain(self, items: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Un-augmented batches over ``items`` in an order that suits speed, each with its items."""

    @abstractmethod
    def gather(
        self,
        items: npt.NDArray[np.int64],
        outputs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
    ) -> npt.NDArray[np.float32]:
        """Logits in the order of ``items``: one row for each ECG, or the rows of all stays end to end."""

    @abstractmethod
    def selection_scores(self, part: Part, logits: npt.NDArray[np.float32]) -> Scores:
        """Metrics of a part, the one that selects models under ``"selection"`` (greater is better)."""

    @abstractmethod
    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probabilities from which outputs count as positive, tuned on ``part``; one for each output."""

    @abstractmethod
    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """Whether stored constants of a preprocessing are this source's own."""

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """Constants of the preprocessing, taken from the training part."""
