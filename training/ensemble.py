"""The opinion of an ensemble, and its use as soft labels for one student.

Members give logits on different scales (other labels, other losses), so each is first calibrated on the
validation part; the ensemble's logit is the mean of the calibrated ones. Its probabilities on the training
part can be mixed into a student's labels (``data.soft_weight``): cross-entropy is linear in the label, so a
softened label is the same as response distillation from the ensemble (Hinton et al. 2015).

A member that has memorised the training part has no opinion on it. Networks may therefore be cross-fitted:
for each fold, one is trained on the other folds and gives out-of-fold predictions for its own.

Gradient-boosted trees on the rows of stays may also be a member. Trees see one hour at a time, so they get
summaries of the recent course over windows. They were the strongest single models of the Challenge 2019
(Morrill et al. 2019; Du et al. 2019), and their errors differ from those of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.bundle import sigmoid
from ibt_deploy.errors import DataError, RecipeError, require
from ibt_deploy.files import atomic_open
from ibt_deploy.types import Float32s, Ints
from ibt_deploy.vocabulary import INDEX, N_TIME_VARYING, VARIABLES
from training.checkpoint import TrainedNetwork, load_network, require_validated
from training.data.prepare import DATA_SETS
from training.data.split import PARTS, SPLIT, Part, write_split
from training.device import chosen_dtype
from training.fit import batch_logits, part_logits
from training.recipe import DataRecipe, Recipe, find_recipe
from training.run import train
from training.tasks import open_source
from training.tasks.base import Outputs, Scores, Source
from training.tasks.stay import StaySource, concatenated_spans

TREE_FOLDS, FOLDS = 3, 5
WINDOWS = (6, 24)
"""Windows, in hours, over which vital signs are summarised; measurements are counted over the last."""

VITALS = [INDEX[v.name] for v in VARIABLES if v.group == "vital"]
OBSERVED = slice(N_TIME_VARYING, 2 * N_TIME_VARYING)


def tree_logits(
    source: StaySource,
    folds: int = TREE_FOLDS,
    *,
    iterations: int = 200,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Part, Float32s]:
    """Log odds of sepsis for every row of the training and validation parts.

    Every training patient is scored by trees grown without them, so that the student learns from predictions
    and not from memorised labels. A validation row gets the mean over all folds.

    Parameters
    ----------
    source
        Stays with all 109 features.
    folds
        Number of folds into which the training stays are divided at random (seed 0).
    iterations
        Trees per fold.
    say
        Receives a line before each fold.

    Returns
    -------
    For each part an array ``(rows,)``, in the order of :meth:`training.tasks.base.Source.gather`.

    Raises
    ------
    RecipeError
        When the source has only the 40 values.
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


@dataclass(frozen=True)
class CrossFit:
    """Networks to train, each on all folds of the training part but one.

    Attributes
    ----------
    recipe
        Trained once for each fold, to its last epoch, on labels alone.
    runs
        Folder of the runs. Existing runs are resumed; finished ones are only read.
    folds
        Number of folds.
    """

    recipe: Recipe
    runs: Path
    folds: int = FOLDS


def cross_fitted_logits(
    plan: CrossFit, source: Source, device: torch.device, *, say: Callable[[str], None] = lambda _: None
) -> dict[Part, Float32s]:
    """Out-of-fold logits of the training part, and logits of the validation part.

    The training part is divided into folds by patient; an item of the validation part gets the mean over all
    networks. ``say`` receives a line before each fold.

    Returns
    -------
    For each part an array in the order of :meth:`training.tasks.base.Source.gather`.

    Raises
    ------
    DataError
        When the recipe is for other data than ``source``.
    RecipeError
        When it needs a teacher or an opinion.
    """
    recipe, cache = plan.recipe, source.cache
    if recipe.needs_teacher or recipe.data.soft_weight > 0 or recipe.method == "masked":
        raise RecipeError("only networks that learn from labels alone are cross-fitted")
    everything = replace(recipe.data, sites=(), train_fraction=1.0, refit=False)
    recipe = replace(recipe, data=everything, fit=replace(recipe.fit, select="last"))
    dtype = chosen_dtype(recipe.fit.precision, device)
    train_items, validation = source.items("train"), source.items("validation")
    fold_of = DATA_SETS[cache.task].drawn_folds(cache, train_items, plan.folds)
    outputs: Outputs = []
    of_validation: list[Float32s] = []
    for fold in range(plan.folds):
        say(f"{recipe.task} {recipe.method}, fold {fold + 1} of {plan.folds}")
        parts = np.full(len(cache.ids), PARTS.index("test"))
        parts[train_items] = np.where(fold_of == fold, PARTS.index("validation"), PARTS.index("train"))
        folder = plan.runs / f"fold-{fold + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        write_split(folder / SPLIT, cache.ids, parts)
        train(recipe, cache.folder, folder, split=folder / SPLIT, device=device.type)
        network = load_network(folder / "best.pt").network.to(device)
        own = open_source(recipe, cache.folder, folder / SPLIT)
        outputs += batch_logits(network, own, train_items[fold_of == fold], device, dtype)
        of_validation.append(part_logits(network, own, validation, device, dtype))
    return {
        "train": source.gather(train_items, outputs),
        "validation": np.mean(of_validation, axis=0, dtype=np.float32),
    }


def summaries(features: Float32s, offsets: Ints) -> Float32s:
    """Summaries of the stay up to each row.

    Parameters
    ----------
    features
        All 109 features, shape ``(rows, 109)``.
    offsets
        Start of each stay, and the end, shape ``(stays + 1,)``.

    Returns
    -------
    Minimum, maximum and mean of each vital sign over each of :data:`WINDOWS`, and over the last of them the
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


CERTAIN = 1e-6
ASKED: tuple[Part, ...] = ("train", "validation")
TREES, CROSS_FITTED, ALL = "trees", "cross-fitted", "ensemble"


@dataclass(frozen=True, eq=False)
class Opinion:
    """An ensemble's probabilities for the training and the validation part.

    Attributes
    ----------
    probabilities, validation
        For each part, one row for each ECG, or the rows of all stays end to end.
    scores
        Validation scores of each member by its path (or ``"trees"``, ``"cross-fitted"``), and of the
        ensemble under ``"ensemble"``.
    source
        The data it was made from.
    """

    probabilities: Float32s
    validation: Float32s
    scores: Mapping[str, Scores]
    source: Source

    def save(self, path: Path) -> None:
        """Write it atomically as ``.npz``."""
        with atomic_open(path) as file:
            np.savez(
                file,
                probabilities=self.probabilities,
                validation=self.validation,
                items=self.source.items("train"),
                cache_sha256=np.array(self.source.cache.sha256),
                split_sha256=np.array(self.source.split_sha256),
                out_of_fold=np.array(self.scores.keys() <= {TREES, CROSS_FITTED, ALL}),
            )


def ensemble(
    members: Sequence[Path],
    cache: Path,
    device: torch.device,
    split: Path | None = None,
    *,
    trees: bool = False,
    cross_fit: CrossFit | None = None,
    data: DataRecipe | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Opinion:
    """Opinion of networks (``best.pt`` files ``members``), boosted trees and cross-fitted networks.

    Without networks, the trees alone predict, for the stays and features that ``data`` selects (by default
    all). ``say`` receives the name of each member before its network runs.

    Raises
    ------
    DataError
        When a member is missing, or was trained on other data, another split or other preprocessing.
    RecipeError
        When there is no member, networks to cross-fit need a teacher, or trees cannot be grown: on ECGs, or
        with features left out.
    """
    if not (members or trees or cross_fit):
        raise RecipeError("an opinion needs trained networks, networks to cross-fit, or trees")
    if trees:
        require("--trees", "sklearn")
    trained = [load_network(path) for path in members]
    if trained:
        recipe = trained[0].recipe
    elif cross_fit:
        recipe = cross_fit.recipe
    else:
        recipe = replace(find_recipe("sepsis-teacher"), data=data or DataRecipe())
    source = open_source(recipe, cache, split)
    answers: dict[str, dict[Part, Float32s]] = {}
    for path, member in zip(members, trained, strict=True):
        _refuse_stranger(path, member, source)
        say(str(path))
        network = member.network.to(device)
        dtype = chosen_dtype(member.recipe.fit.precision, device)
        answers[str(path)] = {
            part: part_logits(network, source, source.items(part), device, dtype) for part in ASKED
        }
    if trees:
        if not isinstance(source, StaySource):
            raise RecipeError("trees are grown on the rows of stays; there are none for ECGs")
        answers[TREES] = tree_logits(source, say=say)
    if cross_fit:
        answers[CROSS_FITTED] = cross_fitted_logits(cross_fit, source, device, say=say)
    return _opinion(source, answers)


def _opinion(source: Source, answers: Mapping[str, Mapping[Part, Float32s]]) -> Opinion:
    """The mean of the members' ``answers``, each calibrated on validation."""
    total: dict[Part, npt.NDArray[np.float64]] = {}
    scores: dict[str, Scores] = {}
    for name, logits in answers.items():
        calibration = source.calibration("validation", logits["validation"])
        for part, found in logits.items():
            p = calibration.probability(found).clip(CERTAIN, 1 - CERTAIN)
            total[part] = total.get(part, 0) + (np.log(p) - np.log1p(-p)) / len(answers)
        scores[name] = source.selection_scores("validation", logits["validation"])
    scores[ALL] = source.selection_scores("validation", total["validation"].astype(np.float32))
    train, validation = (sigmoid(total[part]).astype(np.float32) for part in ASKED)
    return Opinion(train, validation, scores, source)


def _refuse_stranger(path: Path, member: TrainedNetwork, source: Source) -> None:
    require_validated(path, member, source.cache.sha256, source.split_sha256, "members are calibrated")
    if not source.prepares_as(member.preprocessing):
        raise DataError(f"{path}: was trained with other preprocessing")
