"""Calibration against scikit-learn and scipy, and its invariants."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from ibt_deploy.bundle import Calibration
from ibt_deploy.calibration import (
    calibration_entry,
    calibration_line,
    fitted_calibration,
    fitted_line,
    reliability,
)
from ibt_deploy.errors import DataError
from ibt_deploy.metrics.ranking import auroc


def outcomes(slope: float, intercept: float, n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, n)
    return logits, rng.random(n) < expit(slope * logits + intercept)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 1.0), (2.0, -2.0)])
def test_the_line_behind_the_outcomes_is_found(slope: float, intercept: float) -> None:
    z, y = outcomes(slope, intercept)
    fitted = fitted_calibration(z, y)
    assert fitted.methods == ("platt",)
    assert fitted.calibration.slope[0] == pytest.approx(slope, rel=0.1)
    assert fitted.calibration.intercept[0] == pytest.approx(intercept, abs=0.1)
    line = calibration_line(y, fitted.calibration.probability(z))
    assert line.slope == pytest.approx(1, abs=0.01)
    assert line.intercept == pytest.approx(0, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_fit_is_the_greatest_posterior(seed: int, intercept: bool) -> None:
    z, y = outcomes(*np.random.default_rng(seed).normal([0.8, 0], [0.6, 1.0]), n=60, seed=seed)

    def loss(line: np.ndarray) -> float:
        u = line[0] * z + (line[1] if intercept else 0)
        prior = (line[0] - 1) ** 2 / 2 + (line[1] / 3) ** 2 / 2
        return float(np.sum(np.logaddexp(0, u) - y * u) + prior)

    best = minimize(loss, [1.0, 0.0], bounds=[(0.01, None), (None, None)])
    assert fitted_line(z, y, intercept=intercept) == pytest.approx(tuple(best.x), abs=2e-3)


def test_the_amount_fitted_depends_on_the_positives() -> None:
    z = np.random.default_rng(0).normal(size=(400, 4))
    y = np.zeros((400, 4))
    for column, positives in enumerate([60, 49, 4, 0]):
        y[np.argsort(-z[:, column])[: 2 * positives : 2], column] = 1
    fitted = fitted_calibration(z, y)
    assert fitted.methods == ("platt", "temperature", "pooled", "pooled")
    assert fitted.calibration.intercept[0] != 0
    assert (fitted.calibration.intercept[1:] == 0).all()
    pooled = fitted_line(z.ravel(), y.ravel(), intercept=False)[0]
    assert fitted.calibration.slope[2:].tolist() == [pooled, pooled]
    nothing = fitted_calibration(z, np.zeros((400, 4)))
    assert nothing.methods == ("identity",) * 4
    assert nothing.calibration.slope.tolist() == [1] * 4


def test_unknown_labels_have_no_influence() -> None:
    z, y = outcomes(0.7, 0.3, 1000)
    mask = np.arange(1000) % 3 > 0
    a = fitted_calibration(z, np.where(mask, y, 0), mask)
    b = fitted_calibration(z, np.where(mask, y, 1), mask)
    c = fitted_calibration(z[mask], y[mask])
    assert a.calibration.slope == b.calibration.slope == c.calibration.slope


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-2, 2))
def test_ranking_is_kept_even_where_logits_mislead(seed: int, slope: float) -> None:
    z, y = outcomes(slope, 0.0, n=300, seed=seed)
    calibration = fitted_calibration(z, y).calibration
    assert calibration.slope[0] > 0
    assert auroc(y, calibration.probability(z)) == pytest.approx(auroc(y, z), nan_ok=True)


def test_separable_classes_stay_finite() -> None:
    z = np.linspace(-5, 5, 200)
    calibration = fitted_calibration(z, z > 0).calibration
    assert 1 < calibration.slope[0] < 10
    line = calibration_line(z > 0, calibration.probability(z))
    assert math.isnan(line.slope)


def test_the_entry_of_a_bundle_gives_the_calibration_back() -> None:
    z, y = outcomes(0.6, 0.4, 500)
    fitted = fitted_calibration(np.stack([z, -z], 1), np.stack([y, ~y], 1))
    entry = json.loads(json.dumps(calibration_entry(fitted)))
    back = Calibration.from_dict(entry, 2)
    np.testing.assert_array_equal(back.slope, fitted.calibration.slope)
    np.testing.assert_array_equal(back.intercept, fitted.calibration.intercept)


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        fitted_calibration(np.array([np.nan, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="differ in shape"):
        fitted_calibration(np.zeros(3), np.zeros(2))


def test_calibration_line_equals_an_unpenalised_logistic_regression() -> None:
    z, y = outcomes(0.6, 0.8, 3000)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    assert calibration_line(y, expit(z)).slope == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert math.isnan(calibration_line(np.zeros(3), np.full(3, 0.1)).slope)


def test_reliability_equals_scikit_learn_and_keeps_ties_together() -> None:
    z, y = outcomes(0.6, 0.8, 1000)
    p = expit(z)
    table = reliability(y, p)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(table.observed, observed)
    np.testing.assert_allclose(table.predicted, predicted)
    assert table.counts.tolist() == [100] * 10
    error = np.mean(np.abs(observed - predicted))
    assert table.expected_calibration_error == pytest.approx(error)
    tied = reliability(np.array([0, 1, 0, 1]), np.array([0.2, 0.2, 0.2, 0.9]), bins=4)
    assert tied.counts.tolist() == [3, 1]
    assert tied.predicted == pytest.approx([0.2, 0.9])
    empty = reliability(np.empty(0), np.empty(0))
    assert math.isnan(empty.expected_calibration_error)


def test_a_quarter_million_rows_take_less_than_a_second() -> None:
    z, y = outcomes(0.7, float(logit(0.02)), 250_000)
    start = time.process_time()
    fitted_calibration(z, y)
    assert time.process_time() - start < 5
