"""What the training loop asks of a data set, whichever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Calibration
from ibt_deploy.errors import DataError
from training.batch import Batch
from training.cache import Cache
from training.recipe import DataRecipe

Part = Literal["train", "validation", "test"]
EVERYTHING = slice(None)
PARTS: tuple[Part, ...] = ("train", "validation", "test")
Scores = dict[str, float]
Ints = npt.NDArray[np.int64]


def divided(parts: Ints, sites: npt.NDArray[Any], recipe: DataRecipe) -> dict[Part, Ints]:
    """Items of each part, as far as the recipe uses them.

    Parameters
    ----------
    parts
        Index into :data:`PARTS` of every item, shape ``(items,)``.
    sites
        Hospital or source of every item, same shape.
    recipe
        ``sites`` restricts training and validation; ``train_fraction`` takes the first of a fixed shuffle of
        the training part, so that smaller shares lie within larger ones, and every seed and method gets the
        same.

    Raises
    ------
    DataError
        When the recipe names a site that the data lack.
    """
    items: dict[Part, Ints] = {name: np.flatnonzero(parts == i) for i, name in enumerate(PARTS)}
    if recipe.sites:
        known = sorted({str(site) for site in sites})
        if absent := [site for site in recipe.sites if site not in known]:
            raise DataError(f"data.sites: no {', '.join(absent)} in these data; there are {', '.join(known)}")
        used = np.isin(sites.astype(str), recipe.sites)
        for part in ("train", "validation"):
            items[part] = items[part][used[items[part]]]
    if recipe.train_fraction < 1:
        train = items["train"]
        shuffled = np.random.default_rng(0).permutation(len(train))
        items["train"] = np.sort(train[shuffled[: round(recipe.train_fraction * len(train))]])
    return items


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
    def training_batch(
        self, seed: int, epoch: int, items: npt.NDArray[np.int64], share: slice = EVERYTHING
    ) -> Batch:
        """The ``share`` of the batch of ``items`` as that epoch sees them, cropped and augmented.

        What holds for the whole batch, such as the length of its crops, is the same in every share.
        """

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
        """Metrics of a part, among them ``auroc``, ``bce`` and, as ``selection``, the official one."""

    @abstractmethod
    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probabilities from which outputs count as positive, tuned on ``part``; one for each output."""

    @abstractmethod
    def calibration(self, part: Part, logits: npt.NDArray[np.float32]) -> Calibration:
        """Calibration of logits, fitted on ``part``."""

    @abstractmethod
    def soften(self, probabilities: npt.NDArray[np.float32], weight: float) -> None:
        """Replace the labels ``y`` of the training part by ``(1 - weight) y + weight p``.

        ``probabilities`` are in the order of :meth:`gather`.
        """

    @abstractmethod
    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """Whether stored constants of a preprocessing are this source's own."""

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """Constants of the preprocessing, taken from the training part."""
