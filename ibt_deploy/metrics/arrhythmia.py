"""The measures of the Challenge 2021 for 26 classes: challenge metric, macro F and accuracy.

Definitions follow the official ``evaluate_model.py`` (physionetchallenges/evaluation-2021), whose
results on ``tests/data/metric_vectors.json`` are reproduced.

Unknown labels
    Every function takes an optional ``mask``, shape ``(n, classes)``, true where the label is known.
    For the F measure an unknown entry is left out. For the challenge metric the class is taken out
        of that record altogether, from labels, outputs and union alike: it neither earns nor costs. For
        the accuracy it counts as correct. Without a mask all three equal the official values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ibt_deploy.files import read_table
from ibt_deploy.metrics.ranking import Macro, auprc, auroc, macro, per_class, quotient
from ibt_deploy.types import Array, Bools, Floats, Ints
from ibt_deploy.vocabulary import CLASSES, N_CLASSES, NORMAL_CLASS


@lru_cache(maxsize=1)
def official_weights() -> Floats:
    """The reward matrix of the Challenge 2021, shape ``(26, 26)``, in the order of ``CLASSES``."""
    rows = read_table("weights26.csv")
    keys = ["|".join(c.codes) for c in CLASSES]
    if [row[""] for row in rows] != keys:
        raise ValueError("weights26.csv does not list the classes in the order of classes26.csv")
    weights = np.array([[float(row[key]) for key in keys] for row in rows])
    weights.setflags(write=False)
    return weights


class Reward:
    """The challenge metric prepared for one set of labels, so that scoring outputs is cheap.

    A record with labels ``Y`` and outputs ``P`` earns ``sum_{j in Y, k in P} W[j, k] / max(|Y u P|, 1)``.

    Parameters
    ----------
    labels
        Shape ``(n, classes)``, true where positive.
    weights
        Shape ``(classes, classes)``; default: the official matrix. NaN weights earn nothing.
    mask
        Shape ``(n, classes)``, true where the label is known.
    normal_class
        The class that the inactive model always outputs.

    Attributes
    ----------
    gains
        Shape ``(n, classes)``: what each class adds to a record's numerator when it is output.
    extra
        Shape ``(n, classes)``: true where outputting a class enlarges the union by one.
    n_labels
        Shape ``(n,)``.
    correct, inactive
        Shape ``(n,)``: reward of the correct answer and of the inactive model.
    """

    def __init__(
        self,
        labels: Array,
        weights: Array | None = None,
        mask: Array | None = None,
        normal_class: int = NORMAL_CLASS,
    ) -> None:
        positive = np.asarray(labels) > 0
        known = np.ones_like(positive) if mask is None else np.asarray(mask, dtype=bool)
        matrix = np.nan_to_num(
            np.asarray(official_weights() if weights is None else weights, dtype=np.float64)
        )
        if positive.ndim != 2 or known.shape != positive.shape or matrix.shape != (positive.shape[1],) * 2:
            raise ValueError(
                f"labels {positive.shape}, mask {known.shape}, weights {matrix.shape} do not belong together"
            )
        self.labels: Bools = positive & known
        self.gains: Floats = (self.labels @ matrix) * known
        self.extra: Bools = ~self.labels & known
        self.n_labels: Ints = self.labels.sum(axis=1)
        silent_but_normal = np.zeros_like(positive)
        silent_but_normal[:, normal_class] = True
        self.correct: Floats = self.earned(self.labels)
        self.inactive: Floats = self.earned(silent_but_normal)

    def earned(self, outputs: Array) -> Floats:
        """Reward of each record for ``outputs``, shape ``(n, classes)``. Returns shape ``(n,)``."""
        given = np.asarray(outputs) > 0
        union = self.n_labels + (given & self.extra).sum(axis=1)
        earned: Floats = np.einsum("ij,ij->i", self.gains, given) / np.maximum(union, 1)
        return earned

    def terms(self, outputs: Array) -> tuple[Floats, Floats]:
        """Contribution of each record to numerator and denominator of the score, each of shape ``(n,)``.

        The score of any multiset of records is the ratio of the two sums, and 0 if nothing can be gained
        (only normal labels).
        """
        return self.earned(outputs) - self.inactive, self.correct - self.inactive

    def score(self, outputs: Array) -> float:
        """Challenge metric of ``outputs``, shape ``(n, classes)``: 1 is perfect, 0 is always normal."""
        gained, possible = self.terms(outputs)
        return float(quotient(gained.sum(), possible.sum(), empty=0.0))


def challenge_metric(
    labels: Array, outputs: Array, weights: Array | None = None, mask: Array | None = None
) -> float:
    """Challenge metric 2021.

    Parameters
    ----------
    labels, outputs
        Shape ``(n, 26)``, true where positive.
    weights, mask
        As for :class:`Reward`.

    Returns
    -------
    1 if every answer is correct, 0 for always sinus rhythm (and where only sinus rhythm
    occurs), negative for less. A record without any output earns nothing; one without any label
    changes nothing.
    """
    return Reward(labels, weights, mask).score(outputs)


def f_measure(labels: Array, outputs: Array, mask: Array | None = None) -> Macro:
    """F measure of each class and its mean.

    A class with neither a positive label nor a positive output is NaN and left out of the mean; a
    single false positive turns it into 0. ``labels``, ``outputs`` and ``mask`` have shape
    ``(n, classes)``.
    """
    positive, given = np.asarray(labels) > 0, np.asarray(outputs) > 0
    known = np.ones_like(positive) if mask is None else np.asarray(mask, dtype=bool)
    right = (positive & given & known).sum(axis=0)
    wrong = ((positive != given) & known).sum(axis=0)
    counted = 2 * right + wrong
    return macro(quotient(2 * right, counted))


def accuracy(labels: Array, outputs: Array, mask: Array | None = None) -> float:
    """Share of records whose known outputs are all correct; NaN without records."""
    wrong = (np.asarray(labels) > 0) != (np.asarray(outputs) > 0)
    if mask is not None:
        wrong &= np.asarray(mask, dtype=bool)
    return float(np.mean(~wrong.any(axis=1))) if len(wrong) else float("nan")


@dataclass(frozen=True, eq=False)
class ArrhythmiaScores:
    """All measures of one set of recordings; ``notes`` says what is undefined and why."""

    n_records: int
    challenge_metric: float
    accuracy: float
    f_measure: Macro
    auroc: Macro
    auprc: Macro
    positives: Ints
    notes: tuple[str, ...]


def scores(
    labels: Array, probabilities: Array, outputs: Array, mask: Array | None = None
) -> ArrhythmiaScores:
    """Every measure of ``(n, 26)`` labels, probabilities and thresholded outputs."""
    known = np.ones(np.shape(labels), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    positives = ((np.asarray(labels) > 0) & known).sum(axis=0)
    absent = (
        [CLASSES[c].abbreviation for c in np.flatnonzero(positives == 0)]
        if len(positives) == N_CLASSES
        else []
    )
    notes = [f"no positive recording, so not evaluated: {', '.join(absent)}"] if absent else []
    if not known.all():
        notes.append(f"{int((~known).sum())} unknown labels were left out")
    return ArrhythmiaScores(
        n_records=len(known),
        challenge_metric=challenge_metric(labels, outputs, mask=mask),
        accuracy=accuracy(labels, outputs, mask),
        f_measure=f_measure(labels, outputs, mask),
        auroc=per_class(auroc, labels, probabilities, mask),
        auprc=per_class(auprc, labels, probabilities, mask),
        positives=positives,
        notes=tuple(notes),
    )
