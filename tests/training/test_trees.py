"""Trees: their summaries of the course, and that all predictions are out of fold."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from helpers.tiny import tiny_recipe

from ibt_deploy.errors import RecipeError
from training.ensemble import OBSERVED, VITALS, WINDOWS, summaries, tree_logits
from training.tasks import open_source
from training.tasks.stay import StaySource


def test_summaries_are_those_of_each_stay_so_far() -> None:
    rng = np.random.default_rng(4)
    lengths = [1, 40, 7, 30, 2]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    features = rng.standard_normal((offsets[-1], 109)).astype(np.float32)
    expected = []
    for start, stop in pairwise(offsets):
        for row in range(start, stop):
            summary: list[float] = []
            for window in WINDOWS:
                recent = features[max(start, row - window + 1) : row + 1, VITALS]
                summary += [*recent.min(0), *recent.max(0), *recent.mean(0)]
            summary += [*features[max(start, row - WINDOWS[-1] + 1) : row + 1, OBSERVED].mean(0)]
            expected.append(summary)
    np.testing.assert_allclose(summaries(features, offsets), expected, atol=1e-5)


def test_trees_predict_only_patients_that_they_did_not_learn_from(stays: Path) -> None:
    source = _source(stays)
    before = tree_logits(source, iterations=3)
    train, lengths = source.items("train"), np.diff(source.offsets)
    assert len(before["train"]) == lengths[train].sum()
    assert len(before["validation"]) == lengths[source.items("validation")].sum()

    start, stop = source.offsets[train[0]], source.offsets[train[0] + 1]
    source.official_labels = source.official_labels.copy()
    source.official_labels[start:stop] ^= 1
    after = tree_logits(source, iterations=3)
    own = slice(0, stop - start)
    np.testing.assert_array_equal(after["train"][own], before["train"][own])
    assert (after["train"] != before["train"]).any()


def test_trees_need_every_feature(stays: Path) -> None:
    with pytest.raises(RecipeError, match="all features"):
        tree_logits(_source(stays, features="values40"))


def _source(cache: Path, **data: str) -> StaySource:
    return cast(StaySource, open_source(tiny_recipe("sepsis", "transformer", data=data), cache))
