"""Distance of features from those of the training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from ibt_deploy.errors import BundleError
from ibt_deploy.familiarity import UNFAMILIAR, Familiarity

DIM = 12
MIXED = np.random.default_rng(9).normal(size=(DIM, DIM))


def drawn(n: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(n, DIM)) @ MIXED + 3


def test_with_every_component_the_distance_is_mahalanobis() -> None:
    features, others = drawn(400, 0), drawn(20, 1)
    found = Familiarity.fitted(features, k=DIM - 1).distance(others)
    inverse = np.linalg.inv(np.cov(features, rowvar=False))
    expected = [mahalanobis(x, features.mean(axis=0), inverse) for x in others]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_limit_holds_for_inputs_the_network_never_saw() -> None:
    """Features of what a network has learnt from lie nearer to the middle, here by a tenth."""
    learnt, unseen, fresh = drawn(2000, 0), drawn(500, 1, 1.1), drawn(20_000, 2, 1.1)
    naive = Familiarity.fitted(learnt, k=8)
    stretched = Familiarity.fitted(learnt, unseen, k=8)
    assert stretched.stretch == pytest.approx(1.1, abs=0.03)
    flagged = [(f.share_nearer(fresh) > UNFAMILIAR).mean() for f in (naive, stretched)]
    assert flagged[0] > 0.012
    assert flagged[1] == pytest.approx(1 - UNFAMILIAR, abs=0.003)
    again = Familiarity.fitted(learnt, stretch=stretched.stretch, k=8)
    np.testing.assert_allclose(again.quantiles, stretched.quantiles)


def test_a_file_gives_the_same_distances_and_damage_is_named(tmp_path: Path) -> None:
    familiarity = Familiarity.fitted(drawn(300, 0), drawn(100, 1), k=5)
    path = tmp_path / "familiarity.npz"
    familiarity.save(path)
    others = drawn(30, 2)
    read = Familiarity.read(path)
    np.testing.assert_allclose(read.distance(others), familiarity.distance(others), rtol=1e-4)
    np.testing.assert_allclose(read.share_nearer(others), familiarity.share_nearer(others), atol=0.01)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BundleError, match="familiar features"):
        Familiarity.read(path)
