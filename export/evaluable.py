"""Which classes of ECGs are evaluable, and the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.scored import NOBODY, Judged, number
from ibt_deploy.calibration import fitted_calibration
from ibt_deploy.errors import ExportError
from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.types import Bools, Float32s, Floats, Ints
from ibt_deploy.vocabulary import CLASSES
from training.data.split import Part

FEWEST_LEARNT, FEWEST_VALIDATED = 15, 3
LOWEST_AUROC = 0.6


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How well each class is ranked among recordings from which the judging networks did not learn.

    Attributes
    ----------
    recordings, positives
        Shape ``(26,)``: recordings whose label is known, and how many have the class.
    aurocs
        AUROC of each class with the ends of its 95 % interval; None where an outcome is missing.
    fewest
        Positives from which an AUROC counts as evidence.
    """

    recordings: Ints
    positives: Ints
    aurocs: tuple[tuple[float, float, float] | None, ...]
    fewest: int

    def entry(self, c: int) -> dict[str, Any]:
        """Figures of class ``c`` for a bundle."""
        found: dict[str, Any] = {"n": int(self.recordings[c]), "positives": int(self.positives[c])}
        if (ranked := self.aurocs[c]) is not None:
            value, *ends = map(number, ranked)
            found["auroc"] = {"value": value, "interval": ends}
        return found


def class_entries(
    positives: Mapping[Part, npt.NDArray[np.int64]],
    evaluable: npt.NDArray[np.bool_],
    held_out: HeldOut | None = None,
) -> list[dict[str, Any]]:
    """The entries of ``classes``."""
    return [
        {
            "code": c.code,
            "abbreviation": c.abbreviation,
            "name": c.name,
            "codes": list(c.codes),
            "evaluable": bool(evaluable[i]),
            "positives": {part: int(counts[i]) for part, counts in positives.items()},
        }
        | ({} if held_out is None else {"held_out": held_out.entry(i)})
        for i, c in enumerate(CLASSES)
    ]


def auroc_interval(labels: Bools, scores: Floats | Float32s) -> tuple[float, float, float]:
    """An AUROC and its 95 % interval (Hanley and McNeil, Radiology 143, 1982).

    ``labels`` and ``scores`` have shape ``(n,)``, with both outcomes among the labels. For its variance an
    AUROC counts as at most ``1 - 1 / (2 positives)``, so that a few perfect rankings do not count as certain.
    """
    area = auroc(labels, scores.astype(np.float64))
    n, m = int(labels.sum()), int((~labels).sum())
    a = min(area, 1 - 1 / (2 * n))
    both_positive, both_negative = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (both_positive - a * a) + (m - 1) * (both_negative - a * a)) / (n * m)
    half = 1.96 * float(np.sqrt(variance))
    return float(area), max(float(area) - half, 0.0), min(float(area) + half, 1.0)


def held_out_ranking(
    labels: Bools, known: Bools, logits: Floats | Float32s, others: Judged = NOBODY
) -> HeldOut:
    """Rank each class on validation, or on validation and ``others`` together.

    Parameters
    ----------
    labels, known, logits
        Of the validation recordings, shape ``(n, 26)``.
    others
        The recordings of the training part, judged by networks that never saw them.
    """
    calibration = fitted_calibration(logits, labels, known).calibration
    judged = others.beside(labels, known, calibration.probability(logits))
    aurocs: list[tuple[float, float, float] | None] = []
    for c in range(len(CLASSES)):
        rows = judged.known[:, c]
        positive = judged.labels[rows, c]
        both = 0 < positive.sum() < len(positive)
        aurocs.append(auroc_interval(positive, judged.probabilities[rows, c]) if both else None)
    return HeldOut(
        judged.known.sum(axis=0),
        (judged.labels & judged.known).sum(axis=0),
        tuple(aurocs),
        FEWEST_LEARNT if len(others.labels) else FEWEST_VALIDATED,
    )


def evaluable_classes(positives: Mapping[Part, Ints], held_out: HeldOut) -> Bools:
    """Classes with enough evidence in training and validation; ExportError if there is none.

    A class needs 15 positives in training and validation together, and an AUROC whose 95 % interval lies
    above 0.6: on validation, where it then needs 3 positives, or on validation and out-of-fold predictions
    for training together.

    Parameters
    ----------
    positives
        Counts in each part, shape ``(26,)`` each.
    held_out
        How well each class is ranked.
    """
    lowest = np.array([0.0 if ranked is None else ranked[1] for ranked in held_out.aurocs])
    evaluable: Bools = (
        (positives["train"] + positives["validation"] >= FEWEST_LEARNT)
        & (held_out.positives >= held_out.fewest)
        & (lowest > LOWEST_AUROC)
    )
    if not evaluable.any():
        raise ExportError("no class is evaluable on validation: nothing to publish")
    return evaluable
