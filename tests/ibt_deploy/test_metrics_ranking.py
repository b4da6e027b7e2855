"""AUROC, AUPRC and Brier score against scikit-learn, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ibt_deploy.metrics.ranking import auprc, auroc, brier, macro, per_class

EXAMPLES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(EXAMPLES)
def test_equal_to_scikit_learn_with_ties(examples: list[tuple[bool, float, int]]) -> None:
    labels, scores, _ = (np.array(column) for column in zip(*examples, strict=True))
    if labels.all() or not labels.any():
        assert math.isnan(auroc(labels, scores))
    else:
        assert auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    if labels.any():
        assert auprc(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    else:
        assert math.isnan(auprc(labels, scores))
    assert brier(labels, scores) == pytest.approx(np.mean((labels - scores) ** 2))


@settings(max_examples=100, deadline=None)
@given(EXAMPLES)
def test_a_weight_is_a_repetition(examples: list[tuple[bool, float, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*examples, strict=True))
    for measure in (auroc, auprc):
        repeated = measure(np.repeat(labels, weights), np.repeat(scores, weights))
        assert measure(labels, scores, weights) == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(EXAMPLES, st.floats(0.1, 10), st.floats(-5, 5))
def test_invariant_under_monotone_maps(
    examples: list[tuple[bool, float, int]], slope: float, shift: float
) -> None:
    labels, scores, _ = (np.array(column) for column in zip(*examples, strict=True))
    for measure in (auroc, auprc):
        mapped = measure(labels, np.exp(slope * scores + shift))
        assert mapped == pytest.approx(measure(labels, scores), nan_ok=True)
    assert auroc(~labels, scores) == pytest.approx(1 - auroc(labels, scores), nan_ok=True)


def test_masked_entries_are_left_out_class_by_class() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    scores = np.array([[0.9, 0.2], [0.1, 0.3], [0.0, 0.4]])
    mask = np.array([[True, True], [True, True], [False, True]])
    result = per_class(auroc, labels, scores, mask)
    assert result.per_class.tolist() == [1.0, 1.0]
    assert result.n_classes == 2
    assert per_class(auroc, labels, scores).mean == pytest.approx((0.5 + 1) / 2)


def test_nothing_to_measure_is_nan() -> None:
    empty = np.array([])
    assert math.isnan(auroc(empty, empty))
    assert math.isnan(auprc(empty, empty))
    assert math.isnan(brier(empty, empty))
    assert math.isnan(macro(np.array([np.nan])).mean)


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([0, 1]), np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="one length"):
        auroc(np.array([0, 1]), np.array([0.1]))
