"""ECGs of a packed cache: batches of normalised windows of up to ten seconds, none of them padded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ibt_deploy.bundle import Calibration, sigmoid
from ibt_deploy.calibration import challenge_thresholds, f_thresholds, fitted_calibration
from ibt_deploy.errors import DataError
from ibt_deploy.evaluation import age_bands, named_sexes
from ibt_deploy.files import file_sha256
from ibt_deploy.metrics import arrhythmia, bootstrap
from ibt_deploy.metrics.ranking import auprc, auroc, per_class
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, EcgPreprocessing, filtered, scaled, window_spans
from ibt_deploy.records import Recording
from ibt_deploy.types import Bools, Float32s, Ints, Strings
from ibt_deploy.vocabulary import LEADS, N_CLASSES
from training.data.augment import operations_under, rand_augment
from training.data.cache import Cache
from training.data.ecg import limb_lead_hash
from training.data.split import FEWEST_POSITIVES, Part, read_split
from training.models import Encoder
from training.models.students import EcgDeiT, EcgMasked, EcgTransformer
from training.models.teachers import HannunResNet
from training.recipe import AugmentRecipe, DataRecipe, Recipe
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

MICROVOLTS = 1000.0
DEPTH = 8
"""Blocks of the student when ``student.depth`` is 0."""
STATISTICS_ECGS = 2048
SECONDS = 10.0
ROOM = 1.1
"""Factor of samples taken beyond the wanted length, so that time resampling has some to spare."""


class EcgSource(Source):
    """All ECGs of a cache, filtered once; cropped and augmented on request.

    The scale constant is the standard deviation over all leads of the training records after filtering.
    """

    def __init__(
        self,
        cache: Cache,
        split: Path,
        recipe: DataRecipe,
        augment: AugmentRecipe,
        batch_size: int,
        patch: int = 20,
    ) -> None:
        self.cache, self.batch_size, self.augment, self.patch = cache, batch_size, augment, patch
        self.refit = recipe.refit
        self.operations = operations_under(recipe.band)
        parts, self.split_sha256 = read_split(split, cache.ids), file_sha256(split)
        self._items = divided(parts, cache.index["source"].to_numpy(), recipe)
        self.labels = np.load(cache.folder / "labels.npy")
        self.targets = (self.labels == 1).astype(np.float32)
        self.asked = self._asked() if recipe.label_mask == "source" else np.ones_like(self.labels, dtype=bool)
        band = (recipe.band[0], recipe.band[1]) if recipe.band else None
        constants = EcgPreprocessing(scale=1.0, band=band)
        self.signals = read_signals(cache, constants)
        self.constants = replace(constants, scale=self._training_deviation())
        self.n_inputs, self.samples = self.signals[0].shape[0], constants.length

    def _asked(self) -> npt.NDArray[np.bool_]:
        """Classes that occur in the training part of each record's source, shape ``(records, 26)``."""
        source = np.unique(self.cache.index["source"].to_numpy(), return_inverse=True)[1]
        train = self._items["train"]
        found = np.zeros((source.max() + 1, self.labels.shape[1]), dtype=bool)
        np.logical_or.at(found, source[train], self.labels[train] == 1)
        asked: npt.NDArray[np.bool_] = found[source]
        return asked

    def _training_deviation(self) -> float:
        count, total, square = 0, 0.0, 0.0
        for item in self._items["train"]:
            signal = self.signals[item].astype(np.float64) / MICROVOLTS
            count += signal.size
            total += float(signal.sum())
            square += float(np.square(signal).sum())
        return float(np.sqrt(square / count - (total / count) ** 2))

    def items(self, part: Part) -> Ints:
        """See :meth:`Source.items`."""
        return self._items[part]

    def _window(self, item: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        window = scaled(self.signals[item][:, start:stop] / MICROVOLTS, self.constants)
        return window.astype(np.float32)

    def _whole_patches(self, samples: int) -> int:
        """Length of the longest window of whole patches within ``samples``, at most ten seconds."""
        return max(min(samples, self.samples) // self.patch, 1) * self.patch

    def _crop_length(self, items: Ints, rng: np.random.Generator) -> int:
        """Samples of every window of a batch: drawn, and no longer than the shortest record."""
        drawn = rng.uniform(self.augment.shortest_crop / SECONDS, 1.0) * self.samples
        shortest = min(self.signals[i].shape[1] for i in items)
        return self._whole_patches(min(round(drawn), shortest))

    def _random_window(self, item: int, length: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        available = self.signals[item].shape[1]
        taken = min(round(length * ROOM), available)
        start = int(rng.integers(0, available - taken + 1))
        window = self._window(item, start, start + taken)
        augment = self.augment
        return rand_augment(
            window, augment.n_ops, augment.magnitude, rng, length=length, operations=self.operations
        )

    def _batch(self, items: Ints, windows: list[npt.NDArray[np.float32]]) -> Batch:
        labels = self.labels[items]
        return Batch(
            torch.from_numpy(np.stack(windows)),
            torch.from_numpy(self.targets[items]),
            torch.from_numpy(((labels >= 0) & self.asked[items]).astype(np.float32)),
            None,
        )

    def plan(self, seed: int, epoch: int) -> list[Ints]:
        """See :meth:`Source.plan`."""
        order = np.random.default_rng((seed, epoch)).permutation(self.learnt_items())
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def training_batch(self, seed: int, epoch: int, items: Ints, share: slice = EVERYTHING) -> Batch:
        """Every record has a random stream of its own; see :meth:`Source.training_batch`."""
        length = self._crop_length(items, np.random.default_rng((seed, epoch, int(items[0]), 1)))
        items = items[share]
        streams = (np.random.default_rng((seed, epoch, int(item))) for item in items)
        windows = [self._random_window(int(i), length, r) for i, r in zip(items, streams, strict=True)]
        return self._batch(items, windows)

    def plain(self, items: Ints) -> Iterator[tuple[Ints, Batch]]:
        """See :meth:`Source.plain`; takes the centre of longer records and groups shorter ones by length."""
        lengths = np.array([self._whole_patches(self.signals[i].shape[1]) for i in items])
        for length in np.unique(lengths):
            alike = items[lengths == length]
            for start in range(0, len(alike), self.batch_size):
                chosen = alike[start : start + self.batch_size]
                spans = [window_spans(self.signals[i].shape[1], int(length), "centre")[0] for i in chosen]
                windows = [self._window(int(i), *span) for i, span in zip(chosen, spans, strict=True)]
                yield chosen, self._batch(chosen, windows)

    def gather(self, items: Ints, outputs: Outputs) -> Float32s:
        """See :meth:`Source.gather`."""
        return np.stack(in_order(items, outputs))

    def part_labels(self, part: Part) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Labels of a part, and which of them are known, each ``(records, 26)``."""
        labels = self.labels[self._items[part]]
        return labels == 1, labels >= 0

    def selection_scores(self, part: Part, logits: npt.NDArray[np.float32]) -> Scores:
        """Challenge metric at tuned thresholds, macro AUROC and AUPRC, cross-entropy."""
        labels, known = self.part_labels(part)
        probabilities = sigmoid(logits)
        losses = np.logaddexp(0, logits) - labels * logits
        score = challenge_thresholds(labels, probabilities, known, orders=1).score
        return {
            "selection": score,
            "challenge": score,
            "auroc": per_class(auroc, labels, probabilities, known).mean,
            "auprc": per_class(auprc, labels, probabilities, known).mean,
            "bce": float(losses[known].mean()),
        }

    def decision_thresholds(self, part: Part, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """See :meth:`Source.decision_thresholds`; the F-optimal threshold of each class."""
        labels, known = self.part_labels(part)
        return f_thresholds(labels, sigmoid(logits), known)

    def calibration(self, part: Part, logits: npt.NDArray[np.float32]) -> Calibration:
        """See :meth:`Source.calibration`."""
        return fitted_calibration(logits, *self.part_labels(part)).calibration

    def blend_labels(self, part: Part, probabilities: npt.NDArray[np.float32], weight: float) -> None:
        """See :meth:`Source.blend_labels`."""
        items = self._items[part]
        softened = self.targets.copy()
        softened[items] += weight * (probabilities - softened[items])
        self.targets = softened

    def add_unlabelled(self, cohort: EcgCohort) -> None:
        """Add the ECGs of ``cohort``, without labels, to the training part.

        The scale constant stays that of the cache. The arrays are replaced, because other sources may share
        them.
        """
        first, shape = len(self.signals), (len(cohort), N_CLASSES)
        self.signals = self.signals + cohort.signals(self.constants.band)
        self.labels = np.concatenate((self.labels, np.full(shape, -1, dtype=self.labels.dtype)))
        self.targets = np.concatenate((self.targets, np.zeros(shape, dtype=np.float32)))
        self.asked = np.concatenate((self.asked, np.zeros(shape, dtype=bool)))
        train = np.concatenate((self._items["train"], np.arange(first, len(self.signals))))
        self._items = {**self._items, "train": train}

    def preprocessing(self) -> dict[str, Any]:
        """See :meth:`Source.preprocessing`."""
        return self.constants.to_dict()

    def examples(self, items: Ints, rng: np.random.Generator) -> Ints:
        """Whole ECGs; see :meth:`Source.examples`."""
        del rng
        return items[:, None]

    def example_batch(self, examples: Ints) -> ExampleBatch:
        """Windows of one length, the longest that all ECGs allow; see :meth:`Source.example_batch`."""
        windows = [batch.inputs for _, batch in self.plain(examples[:, 0])]
        shortest = min(w.shape[2] for w in windows)
        return ExampleBatch([torch.cat([w[..., :shortest] for w in windows])], None)

    def showing(self, cohort: Cohort) -> EcgSource:
        """See :meth:`Source.showing`."""
        assert isinstance(cohort, EcgCohort)
        shown = copy.copy(self)
        shown.cache, shown.labels, shown._items = cohort.cache, cohort.labels, {}
        shown.targets = (cohort.labels == 1).astype(np.float32)
        shown.asked = np.ones_like(cohort.labels, dtype=bool)
        shown.signals = cohort.signals(self.constants.band)
        return shown

    def of_one_length(self, items: Ints) -> tuple[EcgSource, Ints]:
        """See :meth:`Source.of_one_length`."""
        lengths = np.array([self._whole_patches(self.signals[i].shape[1]) for i in items])
        cut = copy.copy(self)
        cut.samples = int(np.bincount(lengths).argmax())
        return cut, items[lengths >= cut.samples]

    def prepares_as(self, preprocessing: dict[str, Any]) -> bool:
        """See :meth:`Source.prepares_as`."""
        return EcgPreprocessing.from_dict(preprocessing) == self.constants


def read_signals(cache: Cache, constants: EcgPreprocessing) -> list[npt.NDArray[np.int16]]:
    """Every record, ``(leads, samples)`` in microvolts at 200 Hz, filtered as ``constants`` say."""
    pieces = {
        int(name[7:10]): np.load(cache.folder / name, mmap_mode="r")
        for name in cache.manifest["files"]
        if name.startswith("signal-")
    }
    signals = []
    for piece, start, length in cache.index[["piece", "start", "length"]].itertuples(index=False):
        signal = np.asarray(pieces[piece][:, start : start + length])
        if constants.band is not None:
            millivolts = filtered(signal / MICROVOLTS, constants)
            signal = np.rint(millivolts * MICROVOLTS).clip(-32767, 32767).astype(np.int16)
        signals.append(signal)
    return signals


BATCH = 64
PIECE = 16 * BATCH
"""Number of recordings whose windows are in memory at once."""


@torch.no_grad()
def window_logits(network: Encoder, windows: Float32s, device: torch.device | str = "cpu") -> Float32s:
    """Logits ``(windows, 26)`` of a torch network.

    Parameters
    ----------
    network
        Put into evaluation mode.
    windows
        ``(windows, leads, samples)``; NaN marks unrecorded samples. A transformer masks them; any other
        network sees each window cut to its recorded part.
    device
        Device of the network.
    """
    network.eval()
    found: Float32s = np.empty((len(windows), N_CLASSES), dtype=np.float32)
    if isinstance(network, EcgTransformer):
        for i in range(0, len(windows), BATCH):
            shown = torch.from_numpy(windows[i : i + BATCH]).to(device)
            found[i : i + BATCH] = network.masked(shown)[0].cpu()
        return found
    recorded = (~np.isnan(windows[:, 0])).sum(axis=1)
    for length in np.unique(recorded):
        alike = np.flatnonzero(recorded == length)
        for i in range(0, len(alike), BATCH):
            chosen = alike[i : i + BATCH]
            found[chosen] = network(torch.from_numpy(windows[chosen, :, :length]).to(device)).cpu()
    return found


class EcgCohort(Cohort):
    """Recordings of a cache, filtered once per requested pass band."""

    def __init__(self, cache: Cache, split: Path | None) -> None:
        super().__init__(cache, split)
        self.labels = np.load(cache.folder / "labels.npy")
        self.sites = strings(cache.index["source"])
        self._patients = np.unique(strings(cache.index["group"]), return_inverse=True)[1]
        self._signals: dict[tuple[float, float] | None, list[npt.NDArray[np.int16]]] = {}

    def signals(self, band: tuple[float, float] | None) -> list[npt.NDArray[np.int16]]:
        """Microvolts ``(leads, samples)`` at 200 Hz of every recording."""
        if band not in self._signals:
            self._signals[band] = read_signals(self.cache, EcgPreprocessing(scale=1.0, band=band))
        return self._signals[band]

    def measured(self) -> list[str | None]:
        """See :meth:`Cohort.measured`; recordings with the same leads I and II count as copies."""
        signals = read_signals(self.cache, EcgPreprocessing(scale=1.0, band=None))
        return [limb_lead_hash(signal) for signal in signals]

    def truth(self, items: Ints) -> Truth:
        """See :meth:`Cohort.truth`."""
        labels = self.labels[items]
        patients = np.unique(self._patients[items], return_inverse=True)[1].astype(np.int64)
        return Truth(labels == 1, labels >= 0, np.arange(len(items) + 1), patients)

    def describe(self, items: Ints) -> dict[str, int]:
        """See :meth:`Cohort.describe`."""
        truth = self.truth(items)
        counts = {"recordings": len(items), "patients": truth.n_patients}
        return counts | {"positive_labels": int((truth.labels & truth.known).sum())}

    def left_out(self, sites: tuple[str, ...]) -> Ints:
        """See :meth:`Cohort.left_out`; without patients or copies in training or validation."""
        items = super().left_out(sites)
        learnt = np.concatenate((self.items("train", sites), self.items("validation", sites)))
        return items[~np.isin(self._patients[items], self._patients[learnt])]

    def groups(self, items: Ints) -> dict[str, Strings]:
        """See :meth:`Cohort.groups`."""
        index = self.cache.index.iloc[items]
        ages = pd.to_numeric(index["age"], errors="coerce").to_numpy(np.float64)
        return {"source": self.sites[items], "sex": named_sexes(index["sex"]), "age": age_bands(ages)}

    def logits(
        self, network: Encoder, items: Ints, preprocessing: dict[str, Any], device: torch.device
    ) -> Float32s:
        """Logits of the middle window of each recording; see :meth:`Cohort.logits`."""
        constants = EcgPreprocessing.from_dict(preprocessing)
        signals = self.signals(constants.band)
        pieces = []
        for chosen in np.split(items, range(PIECE, len(items), PIECE)):
            shape = (len(chosen), len(signals[chosen[0]]), constants.length)
            windows = np.full(shape, np.nan, dtype=np.float32)
            for window, item in zip(windows, chosen, strict=True):
                first, last = window_spans(signals[item].shape[1], constants.length, "centre")[0]
                window[:, : last - first] = scaled(signals[item][:, first:last] / MICROVOLTS, constants)
            pieces.append(window_logits(network, windows, device))
        return np.concatenate(pieces)

    def records(self, items: Ints) -> Iterator[Recording]:
        """See :meth:`Cohort.records`."""
        for item in items:
            signal, name = self.signals(None)[item], self.ids[item]
            yield Recording(signal / MICROVOLTS, float(SAMPLING_RATE), LEADS, name, name, "cache")


class EcgTask(TrainingTask):
    """Diagnostic statements from 12-lead ECGs."""

    name = "arrhythmia"
    official = "challenge_metric"
    teacher_section = "resnet"
    teacher_unit = "residual block"
    augments = True

    def cohort(self, cache: Cache, split: Path | None) -> EcgCohort:
        """See :meth:`TrainingTask.cohort`."""
        return EcgCohort(cache, split)

    def source(self, recipe: Recipe, cache: Cache, split: Path) -> EcgSource:
        """See :meth:`TrainingTask.source`."""
        return EcgSource(
            cache, split, recipe.data, recipe.augment, recipe.fit.batch_size, recipe.student.patch
        )

    def teacher(self, recipe: Recipe, n_inputs: int) -> HannunResNet:
        """See :meth:`TrainingTask.teacher`."""
        r = recipe.resnet
        return HannunResNet(
            n_leads=n_inputs,
            n_classes=N_CLASSES,
            n_blocks=r.n_blocks,
            base_filters=r.base_filters,
            kernel=r.kernel,
            dropout=r.dropout,
            pad_to=r.pad_to,
        )

    def student(self, recipe: Recipe, n_inputs: int, samples: int) -> EcgTransformer:
        """See :meth:`TrainingTask.student`."""
        s = recipe.student
        kind = {"deit": EcgDeiT, "masked": EcgMasked}.get(recipe.method, EcgTransformer)
        return kind(
            n_leads=n_inputs,
            samples=samples,
            patch=s.patch,
            n_classes=N_CLASSES,
            dim=s.dim,
            depth=s.depth or DEPTH,
            heads=s.heads,
            mlp_ratio=s.mlp_ratio,
            dropout=s.dropout,
            readout=s.readout,
        )

    def statistics_size(self, recipe: Recipe) -> int:
        """See :meth:`TrainingTask.statistics_size`."""
        del recipe
        return STATISTICS_ECGS

    def decider(self, logits: Float32s, train: Truth, validation: Truth) -> Decider:
        """See :meth:`TrainingTask.decider`; every measure has thresholds of its own."""
        evaluable = evaluable_classes(train, validation)
        labels, known = validation.labels, validation.known
        calibration = fitted_calibration(logits, labels, known).calibration
        p = calibration.probability(logits)
        tuned = challenge_thresholds(labels, p, known, evaluable)
        half = np.full(len(evaluable), 0.5)
        thresholds = {
            (FIXED, "challenge_metric"): half,
            (FIXED, "f_measure"): half,
            (TUNED, "challenge_metric"): tuned.thresholds,
            (TUNED, "f_measure"): f_thresholds(labels, p, known),
        }
        return Decider(calibration, thresholds, evaluable, tuned.score)

    def statistics(self, decider: Decider, logits: Float32s, truth: Truth) -> dict[str, bootstrap.Statistic]:
        """See :meth:`TrainingTask.statistics`."""
        labels, known, patients = truth.labels, truth.known, truth.patients
        found: dict[str, bootstrap.Statistic] = {}
        for row in (FIXED, TUNED):
            for measure in (bootstrap.challenge_metric, bootstrap.f_measure):
                name = measure.__name__
                given = decider.outputs(logits, (row, name))
                found[f"{row}|{name}"] = measure(labels, given, patients, known)
        c = _ranked(decider, truth)
        if c.any():
            p = decider.probabilities(logits)[:, c]
            labels, known = labels[:, c], known[:, c]
            found[f"{FREE}|auroc"] = bootstrap.ranking("auroc", labels, p, patients, known)
            found[f"{FREE}|auprc"] = bootstrap.ranking("auprc", labels, p, patients, known)
        return found

    def class_counts(self, decider: Decider, logits: Float32s, truth: Truth) -> Ints:
        """See :meth:`TrainingTask.class_counts`."""
        given = decider.outputs(logits, (TUNED, "f_measure"))
        entered = arrhythmia.f_measure(truth.labels, given, truth.known).n_classes
        return np.array([_ranked(decider, truth).sum(), entered])


def evaluable_classes(*parts: Truth) -> Bools:
    """Classes with at least five known positives in each part; DataError when there is none."""
    counts = np.stack([(part.labels & part.known).sum(axis=0) for part in parts])
    evaluable = np.asarray((counts >= FEWEST_POSITIVES).all(axis=0))
    if not evaluable.any():
        raise DataError(f"no class has {FEWEST_POSITIVES} positives in training and validation")
    return evaluable


def _ranked(decider: Decider, truth: Truth) -> Bools:
    """Evaluable classes with at least five positives in a set, over which ranking measures are averaged."""
    counts = (truth.labels & truth.known).sum(axis=0)
    return np.asarray(decider.evaluable & (counts >= FEWEST_POSITIVES))
