"""Interface of all tasks: the data of a cache, batches to train on, and ground truth for evaluation.

A :class:`Cohort` holds all recordings or stays of a cache, preprocessed as a checkpoint says; a
:class:`Source` serves them in batches to a training run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ibt_deploy.bundle import Calibration, sigmoid
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation import UNKNOWN
from ibt_deploy.files import file_sha256
from ibt_deploy.metrics.bootstrap import Statistic
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Array, Bools, Float32s, Floats, Ints, Strings
from training.data.cache import Cache
from training.data.split import PARTS, Part, read_split
from training.models import Encoder
from training.recipe import DataRecipe, Recipe


@dataclass(frozen=True)
class Batch:
    """One batch of either task.

    Attributes
    ----------
    inputs
        ECG ``(batch, leads, samples)`` or rows ``(batch, hours, features)``.
    labels
        ``(batch, classes)`` or ``(batch, hours)``, float.
    known
        Same shape as ``labels``: 0 where the label is unknown or the row is padding.
    rows
        For stays ``(batch, hours)``, 1 on real rows, 0 on padding; None for ECG.
    weights
        Weight of each label in the supervised loss, same shape as ``labels``; None for 1 everywhere.
    items
        Index of each input in the cache, shape ``(batch,)``, where that alone determines the input; None
        where inputs are cropped or augmented.
    """

    inputs: Tensor
    labels: Tensor
    known: Tensor
    rows: Tensor | None
    weights: Tensor | None = None
    items: Tensor | None = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(t) for name, t in tensors.items() if t is not None})

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, which :meth:`to` copies to a GPU without waiting."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; a copy from page-locked memory may still be under way."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))


EVERYTHING = slice(None)
Outputs = list[tuple[Ints, Float32s]]
"""A network's outputs for the items of each batch."""
Scores = dict[str, float]


def divided(parts: Ints, sites: npt.NDArray[Any], recipe: DataRecipe) -> dict[Part, Ints]:
    """Items of each part that the recipe uses.

    Parameters
    ----------
    parts
        Index into :data:`PARTS` of every item, shape ``(items,)``.
    sites
        Hospital or source of every item, same shape.
    recipe
        ``sites`` restricts training and validation; ``train_fraction`` takes the head of a fixed shuffle of
        the training part, so that smaller shares are nested in larger ones, and every seed and method gets
        the same items.

    Raises
    ------
    DataError
        When the recipe names a site that the data lack, or leaves nothing to learn from.
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
    if not len(items["train"]):
        raise DataError("nothing is left to learn from: see data.sites, data.train_fraction and the split")
    return items


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Inputs of some examples.

    Attributes
    ----------
    pieces
        Inputs of some of the examples each, as the networks take them. ECGs come in one piece; stays in
        several of similar length.
    hours
        For each piece of stays, shape ``(examples of the piece, 2)``: index of the stay in the piece, and its
        hour. None for ECGs, where an example is a whole record.
    """

    pieces: list[Tensor]
    hours: list[Ints] | None


class Source(ABC):
    """A split data set that serves batches in an order determined by seed and epoch alone."""

    cache: Cache
    split_sha256: str
    n_inputs: int
    samples: int
    batch_size: int
    refit: bool

    @abstractmethod
    def items(self, part: Part) -> npt.NDArray[np.int64]:
        """Indices of the records or stays of a part."""

    def learnt_items(self) -> Ints:
        """Items a network learns from: the training part, and also the validation part when refitting."""
        train = self.items("train")
        return np.concatenate((train, self.items("validation"))) if self.refit else train

    @abstractmethod
    def plan(self, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Items of each batch of an epoch, covering each of :meth:`learnt_items` exactly once."""

    @abstractmethod
    def training_batch(
        self, seed: int, epoch: int, items: npt.NDArray[np.int64], share: slice = EVERYTHING
    ) -> Batch:
        """The ``share`` of the batch of ``items`` as that epoch sees them, cropped and augmented.

        Choices for the whole batch, such as the length of its crops, are the same in every share.
        """

    @abstractmethod
    def plain(self, items: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Unaugmented batches of ``items``, ordered for speed, each with its items."""

    @abstractmethod
    def gather(self, items: Ints, outputs: Outputs) -> Float32s:
        """Logits in the order of ``items``: one row for each ECG, or the rows of all stays end to end."""

    @abstractmethod
    def selection_scores(self, part: Part, logits: npt.NDArray[np.float32]) -> Scores:
        """Metrics of a part, including ``auroc``, ``bce`` and, as ``selection``, the official one."""

    @abstractmethod
    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probability thresholds for positive outputs, tuned on ``part``; one for each output."""

    @abstractmethod
    def calibration(self, part: Part, logits: npt.NDArray[np.float32]) -> Calibration:
        """Calibration of logits, fitted on ``part``."""

    @abstractmethod
    def blend_labels(self, part: Part, probabilities: npt.NDArray[np.float32], weight: float) -> None:
        """Replace the labels ``y`` of a part by ``(1 - weight) y + weight p``.

        ``probabilities`` are in the order of :meth:`gather`. The labels go into new arrays, because other
        sources may share the old ones.
        """

    @abstractmethod
    def examples(self, items: Ints, rng: np.random.Generator) -> Ints:
        """Examples whose features can be compared, shape ``(examples, k)``: item and any position in it."""

    @abstractmethod
    def example_batch(self, examples: Ints) -> ExampleBatch:
        """Inputs of some of the :meth:`examples`."""

    @abstractmethod
    def showing(self, cohort: Cohort) -> Source:
        """A source without parts: batches and examples of ``cohort``, prepared as this source prepares."""

    @abstractmethod
    def of_one_length(self, items: Ints) -> tuple[Source, Ints]:
        """A source that cuts ECGs to the most common length, and the items that are not shorter.

        Averages over maps of different sizes would show their edges. Stays stay as they are.
        """

    @abstractmethod
    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """Whether stored preprocessing constants equal this source's own."""

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """Constants of the preprocessing, taken from the training part."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about some recordings or stays.

    Attributes
    ----------
    labels
        ``(recordings, 26)``, true where positive; for stays ``SepsisLabel`` of all rows end to end.
    known
        Where a label is known, same shape; for stays everywhere.
    offsets
        Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]``; each recording is one row.
    patients
        Index of the patient of each row of ``labels``, from 0.
    """

    labels: Array
    known: Bools
    offsets: Ints
    patients: Ints

    @property
    def n_patients(self) -> int:
        """Number of patients, from whom the bootstrap draws."""
        return int(self.patients.max(initial=-1)) + 1

    def chosen(self, items: Bools) -> Truth:
        """The recordings or stays where ``items`` is true; patients are renumbered."""
        lengths = np.diff(self.offsets)
        rows = np.repeat(items, lengths)
        offsets = np.concatenate(([0], np.cumsum(lengths[items]))).astype(np.int64)
        patients = np.unique(self.patients[rows], return_inverse=True)[1].astype(np.int64)
        return Truth(self.labels[rows], self.known[rows], offsets, patients)


class Cohort(ABC):
    """All recordings or stays of a cache.

    Parameters
    ----------
    cache
        Prepared data.
    split
        Its division into parts; None for data that nothing was trained or tuned on.
    """

    labels: Array
    sites: Strings

    def __init__(self, cache: Cache, split: Path | None) -> None:
        self.cache = cache
        self.ids = cache.ids
        self.split_sha256 = file_sha256(split) if split else None
        self.parts = read_split(split, self.ids) if split else None

    def __len__(self) -> int:
        return len(self.ids)

    def items(self, part: Part, sites: tuple[str, ...] = ()) -> Ints:
        """Items of a part that training or testing uses, limited to ``sites`` if any are given."""
        if self.parts is None:
            raise ValueError("an external cohort has no parts")
        wanted = self.parts == PARTS.index(part)
        return np.flatnonzero(wanted & np.isin(self.sites, sites) if sites else wanted)

    def left_out(self, sites: tuple[str, ...]) -> Ints:
        """Items of every part from all other sites."""
        return np.flatnonzero(~np.isin(self.sites, sites))

    @abstractmethod
    def measured(self) -> list[str | None]:
        """Hash of the measured values of each item; None where they are too few to recognise a copy by."""

    @abstractmethod
    def describe(self, items: Ints) -> dict[str, int]:
        """Numbers of items, patients and positives."""

    @abstractmethod
    def truth(self, items: Ints) -> Truth:
        """Labels and patients of items."""

    @abstractmethod
    def groups(self, items: Ints) -> dict[str, Strings]:
        """Site, sex and age band of each item, keyed by name."""

    @abstractmethod
    def logits(
        self, network: Encoder, items: Ints, preprocessing: dict[str, Any], device: torch.device
    ) -> Float32s:
        """Logits of a network with this preprocessing for ``items``, in their order.

        Returns
        -------
        ``(recordings, 26)``, or the logits of the hours of all stays end to end.
        """

    @abstractmethod
    def records(self, items: Ints) -> Iterator[Recording | Stay]:
        """The items in the form that a bundle scores."""


def in_order(items: Ints, outputs: Outputs) -> list[Float32s]:
    """Output of each of ``items``, from batches in another order."""
    by_item = {int(i): row for chosen, rows in outputs for i, row in zip(chosen, rows, strict=True)}
    return [by_item[int(i)] for i in items]


def strings(column: Any) -> Strings:
    """A column of an index as numpy strings; missing values become ``unknown``."""
    return np.array([UNKNOWN if value != value or value is None else str(value) for value in column], np.str_)


FIXED, TUNED, FREE = "0.5", "tuned", "threshold_free"
"""Rows of the tables: thresholds of 0.5, thresholds tuned on validation, and threshold-free measures."""
Row = tuple[str, str]
"""Table row (kind of threshold) and measure."""


@dataclass(frozen=True, eq=False)
class Decider:
    """Decisions of one network.

    Attributes
    ----------
    calibration
        Fitted on validation.
    thresholds
        On calibrated probabilities, for each table row and measure. For stays, the one of highest utility
        serves both measures; for ECGs, each measure has its own.
    evaluable
        Outputs that may be reported.
    validation
        Official score on validation at the tuned thresholds; an optimistic number, by which DeiT is chosen.
    """

    calibration: Calibration
    thresholds: dict[Row, Floats]
    evaluable: Bools
    validation: float

    def probabilities(self, logits: Float32s) -> Floats:
        """Calibrated probabilities, shape of ``logits``."""
        return self.calibration.probability(logits)

    def outputs(self, logits: Float32s, row: Row) -> Bools:
        """Decisions, shape of ``logits``."""
        p = self.probabilities(logits)
        if p.ndim == 1:
            return np.asarray(p >= self.thresholds[row][0])
        return decisions(p, self.thresholds[row], self.evaluable)

    def raw_thresholds(self, row: Row) -> Floats:
        """The same thresholds for uncalibrated probabilities."""
        t = np.clip(self.thresholds[row], 1e-12, 1 - 1e-12)
        z = (np.log(t / (1 - t)) - self.calibration.intercept) / self.calibration.slope
        return sigmoid(np.asarray(z))


class TrainingTask(ABC):
    """A kind of data, the networks trained on it, and how their logits become decisions.

    A task has no state: everything that depends on data comes in as an argument.

    Attributes
    ----------
    name
        Name in recipes, caches and commands.
    official
        Name of the Challenge's score in tables.
    teacher_section
        Section of a recipe that describes the teacher.
    teacher_unit
        What a unit of the teacher is called.
    augments
        Whether training augments the inputs as the recipe's section ``augment`` says.
    """

    name: ClassVar[str]
    official: ClassVar[str]
    teacher_section: ClassVar[str]
    teacher_unit: ClassVar[str]
    augments: ClassVar[bool]

    @abstractmethod
    def cohort(self, cache: Cache, split: Path | None) -> Cohort:
        """All of a cache, for evaluation; ``split`` as for :class:`Cohort`."""

    @abstractmethod
    def source(self, recipe: Recipe, cache: Cache, split: Path) -> Source:
        """The recipe's view of a cache, to train on."""

    @abstractmethod
    def teacher(self, recipe: Recipe, n_inputs: int) -> Encoder:
        """The recipe's teacher for ``n_inputs`` leads or features."""

    @abstractmethod
    def student(self, recipe: Recipe, n_inputs: int, samples: int) -> Encoder:
        """The student of the recipe's method; ``samples`` is the length of an ECG window."""

    @abstractmethod
    def statistics_size(self, recipe: Recipe) -> int:
        """Number of ECGs or rows from which a teacher's channel statistics are computed."""

    @abstractmethod
    def decider(self, logits: Float32s, train: Truth, validation: Truth) -> Decider:
        """Decisions of a network from its ``logits`` on validation and the labels of both parts."""

    @abstractmethod
    def statistics(self, decider: Decider, logits: Float32s, truth: Truth) -> dict[str, Statistic]:
        """Every measure of a set, keyed by ``row|measure``."""

    @abstractmethod
    def class_counts(self, decider: Decider, logits: Float32s, truth: Truth) -> Ints:
        """Number of classes averaged in the ranking measures and in F, shape ``(2,)``."""
