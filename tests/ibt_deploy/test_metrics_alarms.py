"""The alarm policy hour by hour, and its summary statistics."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_burden, alarm_statistics, policy_alarms

RISKS = st.lists(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.9]), max_size=30), min_size=1, max_size=6)


def policy_by_hand(risk: list[float], threshold: float, silence: int, rise: float) -> list[bool]:
    out: list[bool] = []
    last: int | None = None
    for t, r in enumerate(risk):
        fire = r >= threshold
        if fire and last is not None:
            fell = any(x < threshold for x in risk[last + 1 : t])
            fire = t - last >= silence and (fell or r > risk[last] + rise)
        if fire:
            last = t
        out.append(fire)
    return out


@settings(max_examples=100, deadline=None)
@given(RISKS, st.integers(0, 8), st.sampled_from([0.0, 0.15]))
def test_every_hour_follows_the_policy(risks: list[list[float]], silence: int, rise: float) -> None:
    offsets = np.cumsum([0, *map(len, risks)])
    flat = np.array([r for stay in risks for r in stay])
    thresholds = [0.2, 0.5, 0.95]
    got = policy_alarms(flat, offsets, thresholds, AlarmPolicy(silence, rise))
    for column, threshold in enumerate(thresholds):
        expected = [a for stay in risks for a in policy_by_hand(stay, threshold, silence, rise)]
        assert got[:, column].tolist() == expected
    alone = policy_alarms(flat, offsets, 0.5, AlarmPolicy(silence, rise))
    np.testing.assert_array_equal(alone, got[:, 1])


@settings(max_examples=30, deadline=None)
@given(RISKS, st.integers(0, 29))
def test_later_hours_change_no_earlier_alarm(risks: list[list[float]], hour: int) -> None:
    offsets = np.cumsum([0, *map(len, risks)])
    flat = np.array([r for stay in risks for r in stay])
    changed = np.array([r if t <= hour else 1 - r for stay in risks for t, r in enumerate(stay)])
    earlier = np.array([t <= hour for stay in risks for t in range(len(stay))], dtype=bool)
    before, after = (policy_alarms(x, offsets, 0.5) for x in (flat, changed))
    np.testing.assert_array_equal(before[earlier], after[earlier])


def test_statistics_of_a_worked_example() -> None:
    # three septic stays of 40 h with onset in hour 30, 30 and 30, one stay without sepsis
    labels = np.zeros((4, 40), dtype=bool)
    labels[:3, 24:] = True
    alarms = np.zeros((4, 40), dtype=bool)
    alarms[0, [5, 20, 28]] = True
    alarms[1, 32] = True
    alarms[2, 36] = True
    alarms[3, 3] = True
    result = alarm_statistics(labels.ravel(), alarms.ravel(), np.arange(0, 161, 40))
    assert (result.n_stays, result.n_septic, result.n_alarms) == (4, 3, 6)
    assert result.sensitivity == pytest.approx(2 / 3)
    assert result.ppv == pytest.approx(3 / 6)
    assert result.number_needed_to_evaluate == pytest.approx(2)
    assert result.alarms_per_100_patient_days == pytest.approx(100 * 6 / (160 / 24))
    assert result.lead_time == pytest.approx((1, 4, 7))
    assert result.only_after_onset == pytest.approx(2 / 3)


def test_silence_and_sets_without_sepsis_are_undefined_not_zero() -> None:
    offsets = np.array([0, 10, 20])
    nothing = alarm_statistics(np.zeros(20), np.zeros(20), offsets)
    assert math.isnan(nothing.sensitivity)
    assert math.isnan(nothing.ppv)
    assert math.isnan(nothing.number_needed_to_evaluate)
    assert math.isnan(nothing.lead_time[1])
    assert nothing.alarms_per_100_patient_days == 0
    false_alarms = alarm_statistics(np.zeros(20), np.ones(20), offsets)
    assert false_alarms.ppv == 0
    assert false_alarms.number_needed_to_evaluate == math.inf


@settings(max_examples=50, deadline=None)
@given(RISKS, st.integers(0, 40))
def test_burden_equals_the_statistics_at_each_threshold(risks: list[list[float]], onset: int) -> None:
    offsets = np.cumsum([0, *map(len, risks)])
    flat = np.array([r for stay in risks for r in stay])
    labels = np.array([t >= onset for stay in risks for t in range(len(stay))], dtype=bool)
    thresholds = [0.2, 0.5, 0.95]
    burden = alarm_burden(labels, flat, offsets, thresholds)
    for i, threshold in enumerate(thresholds):
        one = alarm_statistics(labels, policy_alarms(flat, offsets, threshold), offsets)
        assert burden.sensitivity[i] == pytest.approx(one.sensitivity, nan_ok=True)
        daily = one.alarms_per_100_patient_days / 100
        assert burden.alarms_per_patient_day[i] == pytest.approx(daily, nan_ok=True)


def test_six_thousand_stays_at_a_hundred_thresholds_take_seconds() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 67, size=6000)
    offsets = np.append(0, np.cumsum(lengths))
    risk = rng.random(offsets[-1])
    start = time.process_time()
    alarm_burden(risk > 0.98, risk, offsets, np.linspace(0, 1, 100))
    assert time.process_time() - start < 5
