"""Measures that need no threshold: AUROC, AUPRC and the Brier score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ibt_deploy.types import Array, Floats


class Macro(NamedTuple):
    """The mean over classes of a measure.

    Attributes
    ----------
    mean
        Mean over the classes where the measure is defined; NaN where it is defined for none.
    per_class
        Shape ``(classes,)``, NaN where undefined.
    n_classes
        Number of classes in the mean; always to be stated with it.
    """

    mean: float
    per_class: Floats
    n_classes: int


def quotient(above: npt.ArrayLike, below: npt.ArrayLike, empty: float = np.nan) -> Floats:
    """``above / below``, and ``empty`` where ``below`` is 0; both have the same shape."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    result: Floats = np.divide(top, bottom, out=np.full(bottom.shape, empty), where=bottom != 0)
    return result


def macro(per_class: Array) -> Macro:
    """Mean over the classes that are not NaN."""
    values = np.asarray(per_class, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return Macro(float(defined.mean()) if len(defined) else float("nan"), values, len(defined))


def cumulative_counts(labels: Array, scores: Array, weights: Array | None = None) -> tuple[Floats, Floats]:
    """Positives and all examples at or above each distinct score, from the highest score down.

    Parameters
    ----------
    labels
        Shape ``(n,)``, true where positive.
    scores
        Shape ``(n,)``, larger means more likely positive; may not hold NaN.
    weights
        Shape ``(n,)``, how often each example counts; default: once each.

    Returns
    -------
    Positives and examples, each of shape ``(distinct scores,)``, non-decreasing.

    Raises
    ------
    ValueError
        When the shapes differ or a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be vectors of one length")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else order
    each = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    return np.cumsum(each * (labels[order] > 0))[last], np.cumsum(each)[last]


def auroc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Area under the ROC curve; ties count half. NaN without positives or without negatives.

    Parameters and errors as for :func:`cumulative_counts`.
    """
    positives, examples = cumulative_counts(labels, scores, weights)
    if not len(examples):
        return float("nan")
    negatives = examples - positives
    if positives[-1] <= 0 or negatives[-1] <= 0:
        return float("nan")
    area = np.sum(np.diff(negatives, prepend=0.0) * (positives + np.append(0.0, positives[:-1]))) / 2
    return float(area / (positives[-1] * negatives[-1]))


def auprc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Area under the precision-recall curve as a step function (average precision).

    No interpolation, as in both official evaluators. NaN without positives. Parameters and errors
    as for :func:`cumulative_counts`.
    """
    positives, examples = cumulative_counts(labels, scores, weights)
    if not len(examples) or positives[-1] <= 0:
        return float("nan")
    precision = quotient(positives, examples, empty=0.0)
    return float(np.sum(np.diff(positives, prepend=0.0) * precision) / positives[-1])


def brier(labels: Array, probabilities: Array) -> float:
    """Mean squared difference between probabilities and the outcomes 0 and 1; NaN without examples."""
    if not np.size(labels):
        return float("nan")
    outcomes = (np.asarray(labels) > 0).astype(np.float64)
    return float(np.mean((np.asarray(probabilities, dtype=np.float64) - outcomes) ** 2))


def per_class(
    measure: Callable[[Array, Array], float], labels: Array, scores: Array, mask: Array | None = None
) -> Macro:
    """One of the measures above for each class, and its mean.

    Parameters
    ----------
    measure
        For example :func:`auroc`.
    labels, scores
        Shape ``(n, classes)``.
    mask
        Shape ``(n, classes)``, true where the label is known; unknown entries are left out.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    known = np.ones(labels.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    values = [measure(labels[known[:, c], c], scores[known[:, c], c]) for c in range(labels.shape[1])]
    return macro(np.array(values, dtype=np.float64))
