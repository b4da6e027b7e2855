"""Thresholds: optima that really are optima, and the guards for few positives."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy import calibration as thresholds
from ibt_deploy.calibration import GRID, challenge_thresholds, clinical_thresholds, f_optimal, f_thresholds
from ibt_deploy.decisions import decisions
from ibt_deploy.errors import DataError
from ibt_deploy.metrics.arrhythmia import challenge_metric, f_measure
from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_statistics, policy_alarms, utility, utility_sweep


def recordings(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, coarse probabilities with ties and weak classes, and a mask."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 26)) < np.geomspace(0.4, 0.02, 26)
    logits = rng.normal(-2, 1, (n, 26)) + 2 * labels
    return labels, np.round(1 / (1 + np.exp(-logits)), 2).clip(0.01, 0.99), rng.random((n, 26)) < 0.9


def stays(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, 60, n)
    offsets = np.append(0, np.cumsum(lengths))
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
    labels = np.repeat(rng.random(n) < 0.2, lengths) & (left <= 9)
    logits = rng.normal(-4, 0.5, offsets[-1]) + np.repeat(rng.normal(size=n), lengths) + 1.5 * labels
    return labels, 1 / (1 + np.exp(-logits)), offsets


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])), min_size=1, max_size=30
    )
)
def test_no_threshold_has_a_higher_f(examples: list[tuple[bool, float]]) -> None:
    labels, p = (np.array(column) for column in zip(*examples, strict=True))
    best = f_optimal(labels, p)
    if not labels.any():
        assert math.isnan(best)
        return
    assert 0 < best <= 1

    def f(threshold: float) -> float:
        return f_measure(labels[:, None], p[:, None] >= threshold).mean

    assert f(best) == max(f(t) for t in (1e-6, 0.05, 0.3, 0.45, 0.6, 0.95, 1.0))


def test_classes_without_positives_get_the_pooled_threshold() -> None:
    labels, p, _ = recordings(0)
    labels[:, 5] = False
    got = f_thresholds(labels, p)
    assert got[5] == f_optimal(labels.ravel(), p.ravel())
    assert got[0] == f_optimal(labels[:, 0], p[:, 0])
    with pytest.raises(DataError, match="nothing to tune"):
        f_thresholds(np.zeros((3, 26)), np.full((3, 26), 0.5))


def test_clinical_thresholds_move_towards_the_common_one_where_positives_are_few() -> None:
    labels, p, mask = recordings(4)
    labels[:, 7] = False
    evaluable = np.arange(26) % 5 > 0
    got = clinical_thresholds(labels, p, mask, evaluable)
    counted = mask & evaluable
    common = f_optimal(labels[counted], p[counted])
    assert got[7] == common
    for c in (0, 6, 24):
        n = (labels & mask)[:, c].sum()
        own = f_optimal(labels[mask[:, c], c], p[mask[:, c], c])
        assert got[c] == pytest.approx((n * own + 20 * common) / (n + 20))
    with pytest.raises(DataError, match="nothing to tune"):
        clinical_thresholds(np.zeros((3, 26)), np.full((3, 26), 0.5))


@pytest.mark.parametrize("seed", range(4))
def test_no_class_can_improve_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "FEW_POSITIVES", 0)
    labels, p, mask = recordings(seed)
    evaluable = np.arange(26) % 7 > 0
    tuned = challenge_thresholds(labels, p, mask, evaluable, sweeps=50)

    def score(theta: np.ndarray) -> float:
        return challenge_metric(labels, decisions(p, theta, evaluable), mask=mask)

    assert tuned.score == pytest.approx(score(tuned.thresholds), abs=1e-12)
    assert tuned.score >= score(f_thresholds(labels, p, mask))
    assert max(score(np.full(26, g)) for g in GRID) == pytest.approx(score(np.full(26, tuned.pooled)))
    for column in np.flatnonzero(evaluable):
        for g in GRID:
            theta = tuned.thresholds.copy()
            theta[column] = g
            assert score(theta) <= tuned.score + 1e-9, (column, g)


def test_tuning_repeats_itself_and_more_orders_never_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "FEW_POSITIVES", 0)
    labels, p, _ = recordings(1)
    first, again = challenge_thresholds(labels, p), challenge_thresholds(labels, p)
    np.testing.assert_array_equal(first.thresholds, again.thresholds)
    assert challenge_thresholds(labels, p, orders=10).score >= first.score
    assert challenge_thresholds(labels, p, orders=0).thresholds.tolist() == f_thresholds(labels, p).tolist()


def test_thresholds_of_rare_classes_are_drawn_half_way_to_the_pooled_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, p, _ = recordings(2)
    few = labels.sum(axis=0) < 20
    assert few.any()
    assert not few.all()
    guarded = challenge_thresholds(labels, p)
    monkeypatch.setattr(thresholds, "FEW_POSITIVES", 0)
    free = challenge_thresholds(labels, p)
    np.testing.assert_allclose(guarded.thresholds[few], (free.thresholds[few] + free.pooled) / 2)
    np.testing.assert_array_equal(guarded.thresholds[~few], free.thresholds[~few])
    assert guarded.score == pytest.approx(challenge_metric(labels, decisions(p, guarded.thresholds)))


def test_unknown_labels_have_no_influence() -> None:
    labels, p, mask = recordings(3)
    a = challenge_thresholds(labels & mask, p, mask)
    b = challenge_thresholds(labels | ~mask, p, mask)
    np.testing.assert_array_equal(a.thresholds, b.thresholds)


def test_fifteen_hundred_recordings_take_seconds() -> None:
    labels, p, _ = recordings(0, 1500)
    start = time.process_time()
    challenge_thresholds(labels, p)
    assert time.process_time() - start < 3


def test_no_threshold_has_a_higher_utility() -> None:
    labels, risk, offsets = stays()
    tuned = thresholds.utility_threshold(labels, risk, offsets)
    assert tuned.reached == pytest.approx(utility(labels, risk >= tuned.threshold, offsets))
    assert tuned.reached == utility_sweep(labels, risk, offsets).utilities.max()
    assert np.abs(risk - tuned.threshold).min() > 0


def test_a_flat_optimum_is_left_upwards() -> None:
    labels, risk, offsets = stays()
    best = thresholds.utility_threshold(labels, risk, offsets)
    tuned = thresholds.utility_threshold(labels, risk, offsets, within=0.005)
    assert best.reached - 0.005 <= tuned.reached <= best.reached
    assert tuned.threshold >= best.threshold
    higher = np.unique(risk[risk > tuned.threshold])[:-1]
    assert all(utility(labels, risk > r, offsets) < best.reached - 0.005 for r in higher)


def test_a_small_utility_is_not_given_up_whole() -> None:
    labels, risk, offsets = stays()
    tuned = thresholds.utility_threshold(labels, risk, offsets, within=1.0)
    assert tuned.reached >= thresholds.utility_threshold(labels, risk, offsets).reached / 2 > 0
    assert (risk >= tuned.threshold).any()


def test_where_silence_is_best_the_threshold_is_above_every_risk() -> None:
    labels = np.append([0] * 30 + [1] * 2, np.zeros(500))
    risk = np.append(np.full(32, 0.1), np.full(500, 0.9))
    tuned = thresholds.utility_threshold(labels, risk, np.array([0, 32, 532]))
    assert 0.9 < tuned.threshold < 1
    assert tuned.reached == 0


def test_the_sensitivity_point_finds_the_share_asked_for_and_is_the_highest() -> None:
    labels, risk, offsets = stays()

    def sensitivity(threshold: float) -> float:
        return alarm_statistics(labels, policy_alarms(risk, offsets, threshold), offsets).sensitivity

    tuned = thresholds.sensitivity_threshold(labels, risk, offsets)
    assert tuned.reached == pytest.approx(sensitivity(tuned.threshold))
    assert 0.80 <= tuned.reached < 0.86
    assert all(sensitivity(t) < 0.80 for t in np.linspace(tuned.threshold * 1.05, 1, 20))


def test_where_no_threshold_is_sensitive_enough_the_best_is_given_and_said() -> None:
    labels, _, offsets = stays()
    flat = np.full(len(labels), 0.5)  # one alarm on admission and no cause for another
    tuned = thresholds.sensitivity_threshold(labels, flat, offsets)
    alarms = policy_alarms(flat, offsets, tuned.threshold)
    assert tuned.threshold == 0.5
    assert tuned.reached == alarm_statistics(labels, alarms, offsets).sensitivity
    assert 0 < tuned.reached < 0.8


def test_the_alarm_rate_point_keeps_the_rate_and_is_the_lowest() -> None:
    labels, risk, offsets = stays()
    policy = AlarmPolicy(silence=4)

    def rate(threshold: float) -> float:
        alarms = policy_alarms(risk, offsets, threshold, policy)
        return float(alarms.sum() / (len(risk) / 24))

    tuned = thresholds.alarm_rate_threshold(labels, risk, offsets, policy=policy)
    assert tuned.reached == pytest.approx(rate(tuned.threshold))
    assert 0.09 < tuned.reached <= 0.1
    assert all(rate(t) <= 0.1 for t in np.linspace(tuned.threshold, 1, 20))
    assert thresholds.alarm_rate_threshold(labels, risk, offsets, 0.0).reached == 0
    assert thresholds.alarm_rate_threshold(labels, risk, offsets, 100.0).threshold < np.quantile(risk, 0.9)


def test_without_a_septic_stay_nothing_is_tuned() -> None:
    for tune in (
        thresholds.utility_threshold,
        thresholds.sensitivity_threshold,
        thresholds.alarm_rate_threshold,
    ):
        with pytest.raises(DataError, match="no septic stay"):
            tune(np.zeros(4), np.full(4, 0.1), np.array([0, 4]))
