"""ICU stays of a packed cache: batches of whole stays, padded at the end."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.bundle import Calibration, sigmoid
from ibt_deploy.calibration import fitted_calibration, utility_threshold
from ibt_deploy.errors import RecipeError
from ibt_deploy.evaluation import UNKNOWN, age_bands
from ibt_deploy.files import file_sha256
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.ranking import auprc, auroc
from ibt_deploy.metrics.sepsis import row_utilities, stay_of_row, utility_sweep
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from ibt_deploy.records import Stay
from ibt_deploy.types import Float32s, Ints, Strings
from ibt_deploy.vocabulary import INDEX, N_TIME_VARYING
from training.data.cache import Cache
from training.data.split import Part, read_split
from training.models import Encoder
from training.models.students import StayDeiT, StayTransformer, StayTwoHeads
from training.models.teachers import ResidualLSTM
from training.recipe import DataRecipe, Recipe
from training.tasks.base import (
    EVERYTHING,
    FIXED,
    FREE,
    TUNED,
    Batch,
    Cohort,
    Decider,
    ExampleBatch,
    Outputs,
    Scores,
    Source,
    TrainingTask,
    Truth,
    divided,
    in_order,
    strings,
)

DEPTH = 3
"""Blocks of the student when ``student.depth`` is 0."""
LENGTH_BUCKETS = 24
HOURS_OF_A_PATIENT = 4
EARLIER_ROWS = 6
"""``h12`` labels turn positive this many rows before the official ones."""


def read_rows(cache: Cache) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], Ints]:
    """Raw values ``(rows, 40)``, labels ``(rows,)`` and offsets ``(stays + 1,)`` of the whole cache."""
    values, labels = [], []
    for name in sorted(n for n in cache.manifest["files"] if n.startswith("rows-")):
        with np.load(cache.folder / name) as piece:
            values.append(piece["values"])
            labels.append(piece["labels"])
    offsets = np.concatenate(([0], np.cumsum(cache.index["length"].to_numpy())))
    return np.concatenate(values), np.concatenate(labels), offsets.astype(np.int64)


def concatenated_spans(offsets: Ints, items: Ints) -> Ints:
    """Row numbers of the stays ``items``, end to end."""
    lengths = offsets[items + 1] - offsets[items]
    ends = np.cumsum(lengths)
    rows: Ints = np.arange(ends[-1] if len(ends) else 0)
    rows += np.repeat(offsets[items] - (ends - lengths), lengths)
    return rows


def without_padding(offsets: Ints, items: Ints, outputs: Outputs) -> Float32s:
    """The outputs of the hours of ``items``, end to end."""
    lengths = np.diff(offsets)[items]
    return np.concatenate([row[:n] for row, n in zip(in_order(items, outputs), lengths, strict=True)])


def decisions_worth(
    labels: npt.NDArray[np.int8], offsets: Ints, train_rows: Ints
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Labels and weights from the utility of the Challenge 2019: where an alarm pays off, and by how much.

    Minimising cross-entropy under these labels and weights raises the utility itself, as regression on the
    gain of an alarm does (Morrill et al. 2019, the Challenge's first place).

    Returns
    -------
    Labels ``(rows,)``, 1 where an alarm is worth more than silence, and weights ``(rows,)``, the absolute
    difference, with mean 1 over ``train_rows``.
    """
    worth = row_utilities(labels, offsets)
    gain = worth.alarm - worth.silence
    weights = np.abs(gain)
    scaled = (weights / weights[train_rows].mean()).astype(np.float32)
    return (gain > 0).astype(np.int8), scaled


class StaySource(Source):
    """All stays of a cache, featurised once with constants fitted on the training part."""

    def __init__(self, cache: Cache, split: Path, recipe: DataRecipe, batch_size: int) -> None:
        self.cache, self.batch_size, self.samples, self.refit = cache, batch_size, 0, recipe.refit
        values, labels, self.offsets = read_rows(cache)
        longest = int(np.diff(self.offsets).max())
        if longest > recipe.max_hours:
            raise RecipeError(f"data.max_hours: {recipe.max_hours}, but there are stays of {longest} hours")
        ids = cache.ids
        parts, self.split_sha256 = read_split(split, ids), file_sha256(split)
        self._items = divided(parts, cache.index["hospital"].to_numpy(), recipe)
        train_rows = concatenated_spans(self.offsets, self._items["train"])
        train_lengths = np.diff(self.offsets)[self._items["train"]]
        self.constants = StayPreprocessing.fit(
            values[train_rows],
            np.concatenate(([0], np.cumsum(train_lengths))),
            recipe.features,
            hidden=recipe.drop_variables,
        )
        self.n_inputs = self.constants.n_features
        self.features = featurise(values, self.offsets, self.constants)
        if recipe.scale == "standard":
            self.constants = self.constants.standardising(self.features[train_rows])
            self.features = self.constants.standardised(self.features)
        self.official_labels = labels
        self.labels: npt.NDArray[np.int8] | npt.NDArray[np.float32]
        self.labels = self._earlier(labels) if recipe.label == "h12" else labels
        self.weights: npt.NDArray[np.float32] | None = None
        if recipe.label == "utility":
            self.labels, self.weights = decisions_worth(labels, self.offsets, train_rows)

    def _earlier(self, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        earlier = labels.copy()
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            if labels[stop - 1]:
                first = start + int(np.argmax(labels[start:stop]))
                earlier[max(first - EARLIER_ROWS, start) : first] = 1
        return earlier

    def items(self, part: Part) -> Ints:
        """See :meth:`Source.items`."""
        return self._items[part]

    def _batch(self, items: Ints) -> Batch:
        # numpy throughout: torch operations in the thread that prepares batches would start a second team
        # of OpenMP threads, which competes with the one that trains.
        starts = self.offsets[items]
        lengths = self.offsets[items + 1] - starts
        mask = np.arange(lengths.max()) < lengths[:, None]
        rows = np.minimum(starts[:, None] + np.arange(lengths.max()), len(self.features) - 1)
        inputs = self.features[rows]
        inputs[~mask] = 0
        known = torch.from_numpy(mask.astype(np.float32))
        labels = (self.labels[rows] * mask).astype(np.float32)
        weights = None if self.weights is None else torch.from_numpy(self.weights[rows] * mask)
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            known,
            known,
            weights,
            torch.from_numpy(items.astype(np.int64)),
        )

    def plan(self, seed: int, epoch: int) -> list[Ints]:
        """Batch stays of similar length, with about as many rows in every batch; see :meth:`Source.plan`.

        The loss is a mean over the rows of a batch. If every batch held equally many stays, rows of short
        stays would weigh ten times as much as rows of long ones.
        """
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(self.learnt_items())
        lengths = np.diff(self.offsets)
        budget = self.batch_size * lengths[order].mean()
        chunk = self.batch_size * LENGTH_BUCKETS
        batches: list[Ints] = []
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            part = part[np.argsort(lengths[part], kind="stable")]
            rows = np.cumsum(lengths[part])
            parts = max(round(rows[-1] / budget), 1)
            cuts = np.searchsorted(rows, rows[-1] * np.arange(1, parts) / parts)
            batches += [batch for batch in np.split(part, cuts) if len(batch)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def training_batch(self, seed: int, epoch: int, items: Ints, share: slice = EVERYTHING) -> Batch:
        """See :meth:`Source.training_batch`; stays are not augmented."""
        del seed, epoch
        return self._batch(items[share])

    def plain(self, items: Ints) -> Iterator[tuple[Ints, Batch]]:
        """See :meth:`Source.plain`; shortest stays first."""
        order = items[np.argsort(np.diff(self.offsets)[items], kind="stable")]
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield chosen, self._batch(chosen)

    def gather(self, items: Ints, outputs: Outputs) -> Float32s:
        """See :meth:`Source.gather`."""
        return without_padding(self.offsets, items, outputs)

    def part_labels(self, part: Part) -> tuple[npt.NDArray[np.int8], Ints]:
        """Official labels of the part's rows end to end, and their offsets."""
        items = self._items[part]
        lengths = np.diff(self.offsets)[items]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return self.official_labels[concatenated_spans(self.offsets, items)], offsets

    def selection_scores(self, part: Part, logits: npt.NDArray[np.float32]) -> Scores:
        """Normalised utility at its best single threshold, AUROC and AUPRC over rows."""
        labels, offsets = self.part_labels(part)
        risk = sigmoid(logits)
        sweep = utility_sweep(labels, risk, offsets)
        best = int(np.argmax(sweep.utilities))
        return {
            "selection": float(sweep.utilities[best]),
            "utility": float(sweep.utilities[best]),
            "threshold": float(sweep.thresholds[best]),
            "bce": float(np.mean(np.logaddexp(0, logits) - labels * logits)),
            "auroc": auroc(labels, risk),
            "auprc": auprc(labels, risk),
        }

    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """See :meth:`Source.decision_thresholds`; the threshold of highest utility."""
        return np.array([self.selection_scores(part, logits)["threshold"]])

    def calibration(self, part: Part, logits: npt.NDArray[np.float32]) -> Calibration:
        """See :meth:`Source.calibration`."""
        return fitted_calibration(logits, self.part_labels(part)[0]).calibration

    def blend_labels(self, part: Part, probabilities: npt.NDArray[np.float32], weight: float) -> None:
        """See :meth:`Source.blend_labels`."""
        rows = concatenated_spans(self.offsets, self._items[part])
        softened = self.labels.astype(np.float32)
        softened[rows] += weight * (probabilities - softened[rows])
        self.labels = softened

    def preprocessing(self) -> dict[str, Any]:
        """See :meth:`Source.preprocessing`."""
        return self.constants.to_dict()

    def examples(self, items: Ints, rng: np.random.Generator) -> Ints:
        """Item and hour of at most four hours of each stay; see :meth:`Source.examples`."""
        lengths = np.diff(self.offsets)[items]
        drawn = [
            (item, hour)
            for item, length in zip(items, lengths, strict=True)
            for hour in rng.choice(length, min(length, HOURS_OF_A_PATIENT), replace=False)
        ]
        return np.array(drawn, dtype=np.int64).reshape(-1, 2)

    def example_batch(self, examples: Ints) -> ExampleBatch:
        """See :meth:`Source.example_batch`."""
        pieces, hours = [], []
        for chosen, batch in self.plain(np.unique(examples[:, 0])):
            place = {int(item): i for i, item in enumerate(chosen)}
            here = [(place[int(item)], int(hour)) for item, hour in examples if int(item) in place]
            pieces.append(batch.inputs)
            hours.append(np.array(here, dtype=np.int64))
        return ExampleBatch(pieces, hours)

    def showing(self, cohort: Cohort) -> StaySource:
        """See :meth:`Source.showing`."""
        assert isinstance(cohort, StayCohort)
        shown = copy.copy(self)
        shown.cache, shown.offsets, shown._items = cohort.cache, cohort.offsets, {}
        shown.features = featurise(cohort.values, cohort.offsets, self.constants)
        shown.labels, shown.weights = cohort.labels, None
        return shown

    def of_one_length(self, items: Ints) -> tuple[StaySource, Ints]:
        """See :meth:`Source.of_one_length`."""
        return self, items

    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """See :meth:`Source.prepares_as`."""
        return StayPreprocessing.from_dict(preprocessing) == self.constants


BATCH = 32


TELLING_VALUES = 20
"""Two patients do not share as many measurements by chance."""


class StayCohort(Cohort):
    """Stays of a cache, each of a different patient."""

    def __init__(self, cache: Cache, split: Path | None) -> None:
        super().__init__(cache, split)
        self.values, self.labels, self.offsets = read_rows(cache)
        self.sites = strings(cache.index["hospital"])

    def measured(self) -> list[str | None]:
        """See :meth:`Cohort.measured`; stays with the same vital signs and laboratory values are copies."""
        stays = np.split(self.values[:, :N_TIME_VARYING], self.offsets[1:-1])
        # NaNs of missing values can differ in their bits
        return [
            hashlib.sha256(np.nan_to_num(stay, nan=-1e9).tobytes()).hexdigest()
            if np.count_nonzero(np.isfinite(stay)) >= TELLING_VALUES
            else None
            for stay in stays
        ]

    def truth(self, items: Ints) -> Truth:
        """See :meth:`Cohort.truth`."""
        labels = self.labels[concatenated_spans(self.offsets, items)]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[items]))).astype(np.int64)
        return Truth(labels, labels >= 0, offsets, stay_of_row(offsets, len(labels)))

    def describe(self, items: Ints) -> dict[str, int]:
        """See :meth:`Cohort.describe`."""
        truth = self.truth(items)
        positive = np.unique(stay_of_row(truth.offsets, len(truth.labels))[truth.labels > 0])
        counts = {"stays": len(items), "patients": truth.n_patients, "septic": len(positive)}
        return counts | {"hours": len(truth.labels), "positive_hours": int((truth.labels > 0).sum())}

    def groups(self, items: Ints) -> dict[str, Strings]:
        """See :meth:`Cohort.groups`."""
        first = self.values[self.offsets[:-1][items]]
        gender = first[:, INDEX["Gender"]]
        return {
            "hospital": self.sites[items],
            "sex": np.where(gender == 1, "male", np.where(gender == 0, "female", UNKNOWN)),
            "age": age_bands(first[:, INDEX["Age"]]),
        }

    def units(self, items: Ints) -> Strings:
        """Kind of intensive care unit of each item: ``MICU``, ``SICU`` or ``unknown``."""
        first = self.values[self.offsets[:-1][items]]
        surgical = np.where(first[:, INDEX["Unit2"]] == 1, "SICU", UNKNOWN)
        return np.where(first[:, INDEX["Unit1"]] == 1, "MICU", surgical)

    @torch.no_grad()
    def logits(
        self, network: Encoder, items: Ints, preprocessing: dict[str, Any], device: torch.device
    ) -> Float32s:
        """Stays of similar length go through the network together, padded; see :meth:`Cohort.logits`."""
        constants = StayPreprocessing.from_dict(preprocessing)
        outputs: Outputs = []
        order = items[np.argsort(np.diff(self.offsets)[items], kind="stable")]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            lengths = np.diff(self.offsets)[chosen]
            ends = np.concatenate(([0], np.cumsum(lengths)))
            rows = featurise(self.values[concatenated_spans(self.offsets, chosen)], ends, constants)
            padded = np.zeros((len(chosen), int(lengths.max()), rows.shape[1]), dtype=np.float32)
            for stay, first, last in zip(padded, ends[:-1], ends[1:], strict=True):
                stay[: last - first] = rows[first:last]
            outputs.append((chosen, network(torch.from_numpy(padded).to(device)).cpu().numpy()))
        return without_padding(self.offsets, items, outputs)

    def records(self, items: Ints) -> Iterator[Stay]:
        """See :meth:`Cohort.records`."""
        for item in items:
            values = self.values[self.offsets[item] : self.offsets[item + 1]].astype(np.float64)
            yield Stay(values, self.ids[item], self.ids[item], "cache")


class StayTask(TrainingTask):
    """Early warning of sepsis from hourly rows of ICU stays."""

    name = "sepsis"
    official = "utility"
    teacher_section = "lstm"
    teacher_unit = "LSTM layer"
    augments = False

    def cohort(self, cache: Cache, split: Path | None) -> StayCohort:
        """See :meth:`TrainingTask.cohort`."""
        return StayCohort(cache, split)

    def source(self, recipe: Recipe, cache: Cache, split: Path) -> StaySource:
        """See :meth:`TrainingTask.source`."""
        return StaySource(cache, split, recipe.data, recipe.fit.batch_size)

    def teacher(self, recipe: Recipe, n_inputs: int) -> ResidualLSTM:
        """See :meth:`TrainingTask.teacher`."""
        lstm = recipe.lstm
        return ResidualLSTM(
            n_features=n_inputs,
            hidden=lstm.hidden,
            n_layers=lstm.n_layers,
            dropout=lstm.dropout,
            projection=lstm.projection,
        )

    def student(self, recipe: Recipe, n_inputs: int, samples: int) -> StayTransformer:
        """See :meth:`TrainingTask.student`."""
        del samples
        s = recipe.student
        kind: type[StayTransformer] = StayTransformer
        if recipe.method == "deit":
            kind = StayDeiT if recipe.deit.ehr == "queries" else StayTwoHeads
        return kind(
            n_features=n_inputs,
            dim=s.dim,
            depth=s.depth or DEPTH,
            heads=s.heads,
            mlp_ratio=s.mlp_ratio,
            dropout=s.dropout,
            max_hours=recipe.data.max_hours,
            embedding_scale=s.embedding_scale,
        )

    def statistics_size(self, recipe: Recipe) -> int:
        """See :meth:`TrainingTask.statistics_size`."""
        return recipe.bbm.standardise_rows

    def decider(self, logits: Float32s, train: Truth, validation: Truth) -> Decider:
        """See :meth:`TrainingTask.decider`; the threshold of the highest utility serves both measures."""
        del train
        calibration = fitted_calibration(logits, validation.labels).calibration
        risk = calibration.probability(logits)
        tuned = utility_threshold(validation.labels, risk, validation.offsets)
        rows = {FIXED: np.array([0.5]), TUNED: np.array([tuned.threshold])}
        thresholds = {
            (name, measure): value for name, value in rows.items() for measure in ("utility", "f_measure")
        }
        return Decider(calibration, thresholds, np.ones(1, dtype=bool), tuned.reached)

    def statistics(self, decider: Decider, logits: Float32s, truth: Truth) -> dict[str, bootstrap.Statistic]:
        """See :meth:`TrainingTask.statistics`."""
        labels, patients, risk = truth.labels, truth.patients, decider.probabilities(logits)
        found: dict[str, bootstrap.Statistic] = {}
        for row in (FIXED, TUNED):
            alarms = decider.outputs(logits, (row, "utility"))
            found[f"{row}|utility"] = bootstrap.utility(labels, alarms, truth.offsets)
            alarms = decider.outputs(logits, (row, "f_measure"))
            found[f"{row}|f_measure"] = bootstrap.f_measure(labels, alarms, patients, truth.known)
        found[f"{FREE}|auroc"] = bootstrap.ranking("auroc", labels, risk, patients)
        found[f"{FREE}|auprc"] = bootstrap.ranking("auprc", labels, risk, patients)
        return found

    def class_counts(self, decider: Decider, logits: Float32s, truth: Truth) -> Ints:
        """See :meth:`TrainingTask.class_counts`; there is one output."""
        del decider, logits, truth
        return np.ones(2, dtype=np.int64)
