"""How well the feature distance separates usual recordings from others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.scored import BATCH_SIZE
from ibt_deploy.familiarity import UNFAMILIAR, Familiarity
from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.types import Float32s, Floats


def over_windows(probabilities: Floats, counts: list[int]) -> Floats:
    """Mean over the windows of each recording: ``(windows, c)`` to ``(n, c)``."""
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    means: Floats = np.add.reduceat(probabilities, starts, axis=0) / np.array(counts)[:, None]
    return means


def features_of(scorer: EcgScorer, windows: Float32s, n_windows: list[int]) -> Floats:
    """Mean features of recordings over their windows, shape ``(n, dim)``."""
    return over_windows(scorer.features(windows, BATCH_SIZE).astype(np.float64), n_windows)


def _arms_exchanged(windows: Float32s) -> Float32s:
    """Swap the left and right arm electrodes: invert I, swap II with III and aVR with aVL."""
    found = windows[:, [0, 2, 1, 4, 3, *range(5, 12)]]
    found[:, 0] *= -1
    return found


def _louder(windows: Float32s) -> Float32s:
    found = windows.copy()
    found[:, 7] *= 10
    return found


def _noise(windows: Float32s) -> Float32s:
    rng = np.random.default_rng(0)
    return rng.standard_normal(windows.shape, dtype=np.float32) * np.nanstd(windows)


DAMAGES: dict[str, Callable[[Float32s], Float32s]] = {
    "white noise": _noise,
    "arm electrodes exchanged": _arms_exchanged,
    "all leads inverted": lambda windows: -windows,
    "V2 ten times too large": _louder,
    "all leads three times too large": lambda windows: 3 * windows,
}
"""Damage on which familiarity is tested, applied to the windows of the test part."""


def separation(
    familiarity: Familiarity,
    scorer: EcgScorer,
    test: tuple[Float32s, list[int]],
    others: Mapping[str, tuple[Float32s, list[int]]],
) -> dict[str, Any]:
    """Shares beyond the limit, and AUROC of the distance between the test part and other recordings.

    Parameters
    ----------
    familiarity, scorer
        The model of the features, and the scorer that computes them.
    test
        Windows of the test part, and their number in each recording.
    others
        The same of other sets by name; damaged test recordings are added.
    """

    def distances(windows: Float32s, n_windows: list[int]) -> Floats:
        return np.asarray(familiarity.distance(features_of(scorer, windows, n_windows)))

    limit = float(np.quantile(familiarity.quantiles, UNFAMILIAR))
    windows, n_windows = test
    usual = distances(windows, n_windows)
    damaged = {name: (damage(windows), n_windows) for name, damage in DAMAGES.items()}
    found = {}
    for name, (signals, counts) in {**others, **damaged}.items():
        theirs = distances(signals, counts)
        of_others = np.concatenate([np.zeros(len(usual), dtype=bool), np.ones(len(theirs), dtype=bool)])
        found[name] = {
            "unfamiliar": round(float((theirs > limit).mean()), 4),
            "auroc": round(auroc(of_others, np.concatenate([usual, theirs])), 4),
        }
    return {"test_unfamiliar": round(float((usual > limit).mean()), 4), "separated": found}
