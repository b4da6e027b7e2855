"""RandAugment: no change at magnitude 0, the bounds of every operation, reproducibility from the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from training.data.augment import (
    OPERATIONS,
    Operation,
    baseline_wander,
    channel_mask,
    gaussian_noise,
    gaussian_smoothing,
    identity,
    operations_under,
    rand_augment,
    time_mask,
    time_resampling,
)

LENGTH = 400


def signal(leads: int = 12, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((leads, length)).astype(np.float32)


def draws(operation: Operation, m: float, n: int = 60, x: np.ndarray | None = None) -> list[np.ndarray]:
    x = signal() if x is None else x
    return [operation(x, m, np.random.default_rng(seed)) for seed in range(n)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 1000))
def test_magnitude_zero_is_the_identity(n_ops: int, seed: int) -> None:
    x = signal()
    assert np.array_equal(rand_augment(x, n_ops, 0, np.random.default_rng(seed)), x)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_the_identity_at_strength_zero(operation: Operation) -> None:
    x = signal()
    np.testing.assert_array_equal(operation(x, 0.0, np.random.default_rng(1)), x)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 100).map(lambda tenths: tenths / 10), st.integers(0, 2**32))
def test_shape_type_and_input_are_kept_and_seeds_reproduce(n_ops: int, magnitude: float, seed: int) -> None:
    x = signal()
    before = x.copy()
    first = rand_augment(x, n_ops, magnitude, np.random.default_rng(seed))
    assert first.shape == x.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(rand_augment(x, n_ops, magnitude, np.random.default_rng(seed)), first)


def test_operations_are_six_and_the_identity_drawn_with_replacement() -> None:
    assert len(OPERATIONS) == 7
    assert identity in OPERATIONS
    x = signal()
    # a shrunk signal that has to keep its length is unchanged as well
    others = tuple(o for o in OPERATIONS if o is not time_resampling)
    unchanged = sum(
        np.array_equal(rand_augment(x, 1, 10, np.random.default_rng(seed), operations=others), x)
        for seed in range(700)
    )
    assert 80 <= unchanged <= 160


@pytest.mark.parametrize("m", [0.3, 1.0])
def test_smoothing_equals_scipys_gaussian(m: float) -> None:
    x = signal()
    expected = gaussian_filter1d(x.astype(np.float64), 2 * m, axis=1, mode="nearest", truncate=4)
    got = gaussian_smoothing(x, m, np.random.default_rng(0))
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_time_resampling_stays_within_ten_percent() -> None:
    ramp = np.tile(np.arange(LENGTH, dtype=np.float32), (2, 1))
    slopes = []
    for seed in range(40):
        out = time_resampling(ramp, 1.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(out[0], out[1])
        assert (out[0, 0], out[0, -1]) == (0, LENGTH - 1)
        slopes.append(float(np.median(np.diff(out[0]))))
    assert min(slopes) >= 1 / 1.1 - 0.01
    assert max(slopes) <= 1.1 + 0.01
    assert min(slopes) < 0.95 < 1.05 < max(slopes)


def test_time_resampling_interpolates_linearly() -> None:
    x = signal(1)
    for seed in range(20):
        out = time_resampling(x, 1.0, np.random.default_rng(seed))
        factor = np.exp(np.random.default_rng(seed).uniform(-np.log(1.1), np.log(1.1)))
        whole = np.interp(np.linspace(0, LENGTH - 1, round(LENGTH * factor)), np.arange(LENGTH), x[0])
        np.testing.assert_allclose(out[0], whole, atol=1e-5)


def test_a_crop_is_never_filled_up() -> None:
    x = 1 + np.abs(signal())
    for seed in range(60):
        rng = np.random.default_rng(seed)
        out = rand_augment(x, 1, 10, rng, length=LENGTH - 100, operations=(time_resampling,))
        assert out.shape == (len(x), LENGTH - 100)
        assert out.min() >= 1
        assert time_resampling(x, 1.0, rng, LENGTH).shape[1] >= LENGTH


def test_no_wander_is_added_where_a_high_pass_removes_it() -> None:
    assert baseline_wander in operations_under(())
    assert baseline_wander in operations_under((0.05, 40.0))
    assert set(OPERATIONS) - set(operations_under((0.5, 40.0))) == {baseline_wander}


def test_noise_is_independent_and_at_most_a_fifth_of_a_unit() -> None:
    noises = [out - signal() for out in draws(gaussian_noise, 1.0)]
    deviations = [n.std() for n in noises]
    assert 0.15 < max(deviations) < 0.21
    assert min(deviations) < 0.05
    loudest = noises[int(np.argmax(deviations))]
    assert np.abs(np.corrcoef(loudest) - np.eye(12)).max() < 0.25


def test_wander_is_slow_common_to_the_leads_and_bounded() -> None:
    x = signal(12, 4000)
    for out in draws(baseline_wander, 1.0, 20, x):
        wander = (out - x).astype(np.float64)
        assert np.abs(wander).max() <= 3 * 0.8 * 1.5 + 1e-3
        u, s, _ = np.linalg.svd(wander, full_matrices=False)
        assert s[1] < 1e-3 * s[0]
        gains = np.abs(u[:, 0]) / np.abs(u[:, 0]).min()
        assert gains.max() <= 3 + 1e-3
        spectrum = np.abs(np.fft.rfft(wander[0] * np.hanning(4000))) ** 2
        frequency = np.fft.rfftfreq(4000, 1 / 200)
        assert spectrum[frequency > 0.7].sum() < 1e-3 * spectrum.sum()
    signs = np.concatenate([np.sign(out[:, 100] - x[:, 100]) for out in draws(baseline_wander, 1.0, 20, x)])
    assert 0.2 < (signs > 0).mean() < 0.8


def test_time_mask_is_one_window_of_all_leads() -> None:
    widths = []
    for out in draws(time_mask, 1.0):
        masked = ~out.any(axis=0)
        widths.append(int(masked.sum()))
        assert np.count_nonzero(np.diff(masked.astype(int), prepend=0, append=0)) in (0, 2)
        np.testing.assert_array_equal(out[:, ~masked], signal()[:, ~masked])
    assert max(widths) <= 0.2 * LENGTH
    assert max(widths) > 0.15 * LENGTH


def test_at_most_six_leads_are_masked() -> None:
    masked = [int((~out.any(axis=1)).sum()) for out in draws(channel_mask, 1.0, 300)]
    assert max(masked) == 6
    assert np.mean(masked) == pytest.approx(0.3 * 12, abs=0.3)
    calmer = [int((~out.any(axis=1)).sum()) for out in draws(channel_mask, 0.5, 300)]
    assert np.mean(calmer) == pytest.approx(0.15 * 12, abs=0.3)


@pytest.mark.parametrize("strength", [0.2, 0.6])
@pytest.mark.parametrize(
    ("operation", "size"),
    [
        (gaussian_noise, lambda out, x: (out - x).std() / 0.2),
        (baseline_wander, lambda out, x: np.abs(out - x).max() / (3 * 0.8 * 1.5)),
        (time_mask, lambda out, x: (~out.any(axis=0)).mean() / 0.2),
    ],
)
def test_magnitude_bounds_every_operation(
    operation: Operation, size: Callable[[np.ndarray, np.ndarray], float], strength: float
) -> None:
    x = signal()
    assert max(size(out, x) for out in draws(operation, strength)) <= strength * 1.03


def test_two_limb_leads_always_stay() -> None:
    for out in draws(channel_mask, 1.0, 300):
        assert out[:6].any(axis=1).sum() >= 2
