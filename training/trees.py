"""Gradient-boosted trees on the rows of stays: an opinion unlike a network's, for an ensemble.

Trees see one hour at a time, so the recent course is given to them as summaries over windows. They were the
strongest single models of the Challenge 2019 (Morrill et al. 2019; Du et al. 2019), and err elsewhere than
networks do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import RecipeError
from ibt_deploy.variables import INDEX, N_TIME_VARYING, VARIABLES
from training.sources import Part
from training.stay_source import StaySource, concatenated_spans

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FOLDS = 3
WINDOWS = (6, 24)
"""Hours over which the course of the vital signs is summarised; measurements are counted over the last."""

VITALS = [INDEX[v.name] for v in VARIABLES if v.group == "vital"]
OBSERVED = slice(N_TIME_VARYING, 2 * N_TIME_VARYING)


def tree_logits(
    source: StaySource,
    folds: int = FOLDS,
    *,
    iterations: int = 200,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Part, Float32s]:
    """Log odds of sepsis in every row of the training and of the validation part.

    Each training patient is judged by trees that were grown without them, so that what a student learns from
    is an opinion and not a memory. A validation row gets the mean over all folds.

    Parameters
    ----------
    source
        Stays with all 109 features.
    folds
        Parts into which the training stays are divided at random (seed 0).
    iterations
        Trees of each fold.
    say
        Told a line before each fold.

    Returns
    -------
    Of each part an array ``(rows,)``, in the order of :meth:`training.sources.Source.gather`.

    Raises
    ------
    RecipeError
        When the source has the 40 values alone.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    if source.constants.features != "full":
        raise RecipeError("data.features: trees need all features of a row")
    columns = np.concatenate((source.features, summaries(source.features, source.offsets)), axis=1)
    train, validation = source.items("train"), source.items("validation")
    fold_of = np.random.default_rng(0).permutation(len(train)) % folds
    found = {part: _zeros(source, part) for part in ("train", "validation")}
    place = np.repeat(fold_of, np.diff(source.offsets)[train])
    held_out = columns[concatenated_spans(source.offsets, validation)]
    rows = concatenated_spans(source.offsets, train)
    for fold in range(folds):
        say(f"trees, fold {fold + 1} of {folds}")
        trees = HistGradientBoostingClassifier(
            learning_rate=0.06,
            max_iter=iterations,
            max_leaf_nodes=31,
            min_samples_leaf=300,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=fold,
        )
        grown_on = rows[place != fold]
        trees.fit(columns[grown_on], source.official_labels[grown_on])
        found["train"][place == fold] = trees.decision_function(columns[rows[place == fold]])
        found["validation"] += trees.decision_function(held_out) / folds
    return found  # type: ignore[return-value]


def summaries(features: Float32s, offsets: Ints) -> Float32s:
    """Course of the stay up to each row.

    Parameters
    ----------
    features
        All 109 features, shape ``(rows, 109)``.
    offsets
        Where each stay begins, and the end, shape ``(stays + 1,)``.

    Returns
    -------
    Least, greatest and mean value of each vital sign in each of :data:`WINDOWS`, and in the last of them the
    mean of every variable's "observed" feature, shape ``(rows, 8 * 3 * 2 + 34)``.
    """
    hour = np.arange(len(features)) - np.repeat(offsets[:-1], np.diff(offsets))
    vitals = np.ascontiguousarray(features[:, VITALS])
    found = []
    for window in WINDOWS:
        found += [
            _extreme(np.minimum, vitals, hour, window),
            _extreme(np.maximum, vitals, hour, window),
            _mean(vitals, hour, window),
        ]
    return np.concatenate((*found, _mean(features[:, OBSERVED], hour, WINDOWS[-1])), axis=1)


def _extreme(choose: np.ufunc, values: Float32s, hour: Ints, window: int) -> Float32s:
    """Running extreme over the last ``window`` rows of the stay, by doubling."""
    covered, found = 1, values
    while covered < window:
        back = min(covered, window - covered)
        earlier = found[:-back]
        step = found.copy()
        within = hour[back:] >= back
        step[back:][within] = choose(step[back:][within], earlier[within])
        found, covered = step, covered + back
    return found


def _mean(values: Float32s, hour: Ints, window: int) -> Float32s:
    """Running mean over the last ``window`` rows of the stay."""
    total = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)))
    length = np.minimum(hour + 1, window)
    last = np.arange(1, len(values) + 1)
    return ((total[last] - total[last - length]) / length[:, None]).astype(np.float32)


def _zeros(source: StaySource, part: Part) -> Float32s:
    return np.zeros(int(np.diff(source.offsets)[source.items(part)].sum()), dtype=np.float32)
