"""Several trained networks as one opinion, and that opinion as labels for one student.

Members answer in logits of different scale (another label, another loss), so each is calibrated on the
validation part first; the ensemble's logit is the mean of the calibrated ones. Its probabilities on the
training part can take part in a student's labels (``data.soft_weight``): cross-entropy is linear in the
label, so a softened label is the same as response distillation from the ensemble (Hinton et al. 2015).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ibt_deploy.errors import DataError, RecipeError
from training.cache import file_sha256
from training.checkpoint import TrainedNetwork, load_network
from training.inference import part_logits
from training.precision import chosen_dtype
from training.run import open_source
from training.sources import Part, Scores, Source
from training.stay_source import StaySource
from training.trees import tree_logits

Float32s = npt.NDArray[np.float32]

CERTAIN = 1e-6
ASKED: tuple[Part, ...] = ("train", "validation")
TREES, ALL = "trees", "ensemble"


@dataclass(frozen=True, eq=False)
class Opinion:
    """What an ensemble says of the training part.

    Attributes
    ----------
    probabilities
        One row for each ECG, or the rows of all stays end to end.
    scores
        On validation, of each member by its path (``"trees"``), and of the ensemble under ``"ensemble"``.
    source
        The data it was made on.
    """

    probabilities: npt.NDArray[np.float32]
    scores: Mapping[str, Scores]
    source: Source

    def save(self, path: Path) -> None:
        """Write it as ``.npz``, whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                probabilities=self.probabilities,
                items=self.source.items("train"),
                cache_sha256=np.array(self.source.cache.sha256),
                split_sha256=np.array(self.source.split_sha256),
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def ensemble(
    members: Sequence[Path],
    cache: Path,
    device: torch.device,
    split: Path | None = None,
    *,
    trees: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Opinion:
    """Ask the networks in the ``best.pt`` files ``members``, and gradient-boosted trees if ``trees``.

    ``say`` is told the name of each member before it is asked.

    Raises
    ------
    DataError
        When a member is missing, or was trained on other data, another split or other preprocessing.
    RecipeError
        When trees are asked for that are not to be had: for ECGs, or where features are left out.
    """
    trained = [load_network(path) for path in members]
    source = open_source(trained[0].recipe, cache, split)
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
    return Opinion((1 / (1 + np.exp(-total["train"]))).astype(np.float32), scores, source)


def soften(source: Source, path: Path, weight: float) -> str:
    """Give the labels of the training part ``weight`` parts of an opinion's file; hash of that file.

    Raises
    ------
    DataError
        When the file is missing, damaged, or of other data.
    """
    try:
        with np.load(path) as content:
            stated = (str(content["cache_sha256"]), str(content["split_sha256"]))
            items, probabilities = content["items"], content["probabilities"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no opinion of an ensemble; make one with `ibt train ensemble`") from error
    if stated != (source.cache.sha256, source.split_sha256) or not np.array_equal(
        items, source.items("train")
    ):
        raise DataError(f"{path}: made on other data, another split or another share of it")
    source.soften(probabilities, weight)
    return file_sha256(path)


def _refuse_stranger(path: Path, member: TrainedNetwork, source: Source) -> None:
    same_data = (member.cache_sha256, member.split_sha256) == (source.cache.sha256, source.split_sha256)
    if not same_data or not source.prepares_as(member.preprocessing):
        raise DataError(f"{path}: trained on other data, another split or with other preprocessing")
