"""The bootstrap: unit weights give the point value, weights are repetitions, patients stay whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ibt_deploy.metrics import arrhythmia, bootstrap, sepsis
from ibt_deploy.metrics.ranking import per_class


def stays(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, n)
    offsets = np.append(0, np.cumsum(lengths))
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
    labels = np.repeat(rng.random(n) < 0.5, lengths) & (left <= rng.integers(1, 12))
    return labels, np.round(rng.random(offsets[-1]), 1), offsets


def recordings(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 26)) < 0.1
    probabilities = np.round(np.clip(rng.random((n, 26)) * 0.6 + 0.4 * labels, 0, 1), 1)
    return labels, probabilities, rng.integers(0, n // 2, n), rng.random((n, 26)) < 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_of_one_give_the_point_value(seed: int) -> None:
    labels, risk, offsets = stays(seed)
    alarms = risk >= 0.5
    one = np.ones((1, len(offsets) - 1))
    point = sepsis.scores(labels, risk, offsets, 0.5)
    for name, statistic in bootstrap.sepsis_statistics(labels, risk, alarms, offsets).items():
        expected = getattr(point, name)
        if name == "auroc" and labels.all():
            expected = math.nan
        assert statistic(one)[0] == pytest.approx(expected, nan_ok=True), name
    y, p, patients, mask = recordings(seed)
    one = np.ones((1, 15))
    result = arrhythmia.scores(y, p, p >= 0.5, mask)
    for name, statistic in bootstrap.arrhythmia_statistics(y, p, p >= 0.5, patients, mask).items():
        expected = getattr(result, name)
        value = expected if name == "challenge_metric" else expected.mean
        assert statistic(one)[0] == pytest.approx(value), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_weighted_patient_is_a_repeated_patient(seed: int) -> None:
    labels, risk, offsets = stays(seed)
    rng = np.random.default_rng(seed)
    n = len(offsets) - 1
    counts = rng.multinomial(n, np.full(n, 1 / n))
    chosen = np.repeat(np.arange(n), counts)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in chosen])
    repeated = np.append(0, np.cumsum(np.diff(offsets)[chosen]))
    weights = counts[None].astype(float)
    point = sepsis.scores(labels[rows], risk[rows], repeated, 0.5)
    for name, statistic in bootstrap.sepsis_statistics(labels, risk, risk >= 0.5, offsets).items():
        if name == "auroc" and labels[rows].all():
            continue
        expected = getattr(point, name)
        if name == "f_measure" and not (labels[rows].any() or (risk[rows] >= 0.5).any()):
            expected = math.nan
        assert statistic(weights)[0] == pytest.approx(expected, nan_ok=True), name
    y, p, patients, mask = recordings(seed)
    counts = rng.multinomial(15, np.full(15, 1 / 15))
    again = np.repeat(np.arange(30), counts[patients])
    result = arrhythmia.scores(y[again], p[again], p[again] >= 0.5, mask[again])
    for name, statistic in bootstrap.arrhythmia_statistics(y, p, p >= 0.5, patients, mask).items():
        expected = getattr(result, name)
        value = expected if name == "challenge_metric" else expected.mean
        assert statistic(counts[None].astype(float))[0] == pytest.approx(value, nan_ok=True), name


def test_weighted_ranking_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    patients = rng.integers(0, 40, 200)
    weights = rng.integers(0, 4, (3, 40)).astype(float)
    auroc = bootstrap.ranking("auroc", labels, scores, patients)(weights)
    auprc = bootstrap.ranking("auprc", labels, scores, patients)(weights)
    for i, w in enumerate(weights[:, patients]):
        assert auroc[i] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=w))
        assert auprc[i] == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=w))


def test_draws_are_of_whole_patients_and_repeatable() -> None:
    blocks = list(bootstrap.draw_weights(7, draws=50, seed=3))
    weights = np.concatenate(blocks)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, np.concatenate(list(bootstrap.draw_weights(7, 50, 3))))
    assert (weights != next(iter(bootstrap.draw_weights(7, 50, 4)))).any()
    large = list(bootstrap.draw_weights(1_000_000, draws=5))
    assert sum(map(len, large)) == 5
    assert len(large) > 1


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(2, 1, 2000)
    mean = bootstrap.ratio(values, np.ones(2000), np.arange(2000))
    result = bootstrap.intervals({"mean": mean}, 2000)["mean"]
    assert result.value == pytest.approx(values.mean())
    assert result.low == pytest.approx(values.mean() - 1.96 * values.std() / np.sqrt(2000), abs=0.006)
    assert result.high == pytest.approx(values.mean() + 1.96 * values.std() / np.sqrt(2000), abs=0.006)
    assert result.draws == 1000
    assert result.excludes_zero


def test_rows_of_one_patient_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=100)
    alone = bootstrap.ratio(values, np.ones(100), np.arange(100))
    copied = bootstrap.ratio(np.repeat(values, 20), np.ones(2000), np.repeat(np.arange(100), 20))
    result = bootstrap.intervals({"alone": alone, "copied": copied}, 100)
    assert result["copied"].low == pytest.approx(result["alone"].low)
    assert result["copied"].high == pytest.approx(result["alone"].high)


def test_a_method_does_not_differ_from_itself_and_pairs_are_narrower() -> None:
    rng = np.random.default_rng(0)
    y, p, patients, _ = recordings(0, 300)
    worse = np.clip(p - 0.02 + 0.04 * rng.random(p.shape), 0, 1)
    first = bootstrap.ranking("auprc", y, p, patients)
    second = bootstrap.ranking("auprc", y, worse, patients)
    result = bootstrap.intervals(
        {
            "same": bootstrap.difference(first, first),
            "pair": bootstrap.difference(first, second),
            "first": first,
            "second": second,
        },
        150,
        draws=200,
    )
    assert (result["same"].value, result["same"].low, result["same"].high) == (0, 0, 0)
    assert not result["same"].excludes_zero
    assert result["pair"].value == pytest.approx(result["first"].value - result["second"].value)
    width = {name: i.high - i.low for name, i in result.items()}
    assert width["pair"] < width["first"] / 2


def test_a_statistic_that_is_never_defined_has_no_interval() -> None:
    offsets = np.array([0, 2, 4, 4])
    statistics = bootstrap.sepsis_statistics(np.zeros(4), np.full(4, 0.1), np.zeros(4), offsets)
    for result in bootstrap.intervals(statistics, 3, draws=10).values():
        assert math.isnan(result.value)
        assert math.isnan(result.low)
        assert result.draws == 0


def test_per_class_ranking_leaves_unknown_labels_out() -> None:
    y, p, patients, mask = recordings(4)
    from ibt_deploy.metrics.ranking import auroc

    expected = per_class(auroc, y, p, mask).per_class
    for c in range(26):
        one = bootstrap.ranking("auroc", y[:, c], p[:, c], patients, mask[:, c])(np.ones((1, 15)))[0]
        assert one == pytest.approx(expected[c], nan_ok=True)
