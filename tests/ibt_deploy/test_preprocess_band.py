from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import butter, sosfiltfilt

from ibt_deploy.preprocess.filters import _fast_length, band_passed

RATE = 200


@pytest.mark.parametrize(
    ("band", "order"), [((0.5, 40.0), 1), ((0.5, 40.0), 2), ((0.5, 45.0), 3), ((1.0, 30.0), 4)]
)
def test_equals_sosfiltfilt_away_from_the_ends(band: tuple[float, float], order: int) -> None:
    signal = np.random.default_rng(0).normal(size=(4, 6000)).cumsum(axis=1) * 0.02
    sections = butter(order, band, "bandpass", fs=RATE, output="sos")
    expected = sosfiltfilt(sections, signal, axis=1, padlen=3000)
    got = band_passed(signal, RATE, band, order)
    inner = slice(1500, -1500)
    np.testing.assert_allclose(got[:, inner], expected[:, inner], rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_gain_at_the_edges_is_a_half_and_phase_zero() -> None:
    time = np.arange(8000) / RATE
    for edge in (0.5, 40.0):
        tone = np.cos(2 * np.pi * edge * time)[None]
        inner = slice(3000, 5000)
        got = band_passed(tone, RATE, (0.5, 40.0), 2)
        np.testing.assert_allclose(got[:, inner], tone[:, inner] / 2, atol=1e-3)


def test_baseline_is_removed() -> None:
    offset = np.linspace(-1, 3, 2000)[None]
    assert np.abs(band_passed(offset, RATE, (0.5, 40.0), 2)).max() < 0.05


@pytest.mark.parametrize("n", [1, 2, 50, 1000, 1999, 2000])
def test_any_length(n: int) -> None:
    signal = np.random.default_rng(0).normal(size=(3, n))
    got = band_passed(signal, RATE, (0.5, 40.0), 2)
    assert got.shape == signal.shape
    assert np.isfinite(got).all()


def test_each_lead_is_filtered_alone() -> None:
    signal = np.random.default_rng(0).normal(size=(12, 2000))
    together = band_passed(signal, RATE, (0.5, 40.0), 2)
    alone = np.concatenate([band_passed(lead[None], RATE, (0.5, 40.0), 2) for lead in signal])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-13)


@given(st.integers(1, 10**7))
def test_fast_length_has_small_factors(least: int) -> None:
    size = _fast_length(least)
    assert least <= size <= 2 * least
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    assert size == 1
