from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from ibt_deploy.preprocess.filters import filter_taps, resample


def by_scipy(signal: np.ndarray, rate: int) -> np.ndarray:
    common = gcd(rate, 200)
    return np.asarray(resample_poly(signal, 200 // common, rate // common, axis=1))


@pytest.mark.parametrize(
    "rate", [50, 100, 128, 200, 240, 250, 257, 360, 400, 500, 977, 1000, 2000, 5000, 10_000]
)
@pytest.mark.parametrize("seconds", [0.2, 5.013])
def test_equals_scipy(rate: int, seconds: float) -> None:
    signal = np.random.default_rng(rate).normal(size=(3, round(seconds * rate)))
    expected = by_scipy(signal, rate)
    got = resample(signal, rate, 200)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_long_signal_in_chunks_equals_scipy() -> None:
    signal = np.random.default_rng(0).normal(size=(12, 120 * 257))
    np.testing.assert_allclose(resample(signal, 257, 200), by_scipy(signal, 257), rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 700), rate=st.sampled_from([90, 250, 257, 500, 1000]), seed=st.integers(0, 99))
def test_any_length_equals_scipy(n: int, rate: int, seed: int) -> None:
    signal = np.random.default_rng(seed).normal(size=(2, n))
    expected = by_scipy(signal, rate)
    got = resample(signal, rate, 200)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rate", "taps"), [(500, 101), (257, 5141), (1000, 101)])
def test_number_of_taps(rate: int, taps: int) -> None:
    common = gcd(rate, 200)
    assert len(filter_taps(200 // common, rate // common)) == taps


def test_response_at_500_hz() -> None:
    """Flat to 80 Hz, -6 dB at 100 Hz (the new Nyquist frequency), -55 dB at 120 Hz."""
    taps = filter_taps(2, 5) / 2
    rate = 1000.0
    times = np.arange(len(taps)) / rate

    def decibels(frequency: float) -> float:
        return float(20 * np.log10(abs(np.sum(taps * np.exp(-2j * np.pi * frequency * times)))))

    assert max(abs(decibels(f)) for f in np.arange(0, 80.5, 0.5)) < 0.02
    assert decibels(100) == pytest.approx(-6, abs=0.1)
    assert decibels(120) < -54


def test_at_the_target_rate_nothing_changes() -> None:
    signal = np.random.default_rng(0).normal(size=(12, 2000))
    np.testing.assert_array_equal(resample(signal, 200, 200), signal)


def test_input_is_left_alone() -> None:
    signal = np.random.default_rng(0).normal(size=(2, 500))
    kept = signal.copy()
    resample(signal, 500, 200)
    np.testing.assert_array_equal(signal, kept)
