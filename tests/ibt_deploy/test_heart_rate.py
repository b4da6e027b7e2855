"""Heart rate: on beats whose places are known, and beside an independent detector on patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.preprocess.heart_rate import HeartRate, heart_rate_of, qrs_band, r_peaks, smoothed_energy
from tests.helpers.wfdb_records import raw_ecg


def beats(places: np.ndarray, seconds: float = 10.0) -> np.ndarray:
    """12 leads at 200 Hz: a QRS complex at each place (in seconds), its T wave, and a little noise."""
    time = np.arange(round(seconds * 200)) / 200
    away = time[:, None] - places
    wave = np.exp(-(away**2) / (2 * 0.012**2)) + 0.3 * np.exp(-((away - 0.3) ** 2) / (2 * 0.05**2))
    noise = np.random.default_rng(0).normal(0, 0.01, (12, len(time)))
    return np.linspace(-0.8, 1.2, 12)[:, None] * wave.sum(axis=1) + noise


def found(signal: np.ndarray) -> np.ndarray:
    return r_peaks(smoothed_energy(qrs_band(signal, 200), 200), 200) / 200


def test_beats_of_a_known_rhythm() -> None:
    np.testing.assert_allclose(found(raw_ecg(2000, 200) / 1000), 0.4 + 0.8 * np.arange(12), atol=0.006)


@settings(max_examples=30, deadline=None)
@given(
    bpm=st.integers(35, 200),
    scale=st.floats(0.01, 50),
    wrong=st.integers(0, 11),
    factor=st.sampled_from([0.0, 0.1, 1.0, 10.0, -1.0]),
)
def test_neither_rate_nor_gain_nor_one_wrong_lead_matters(
    bpm: int, scale: float, wrong: int, factor: float
) -> None:
    places = np.arange(0.5, 9.7, 60 / bpm)
    signal = beats(places) * scale
    signal[wrong] *= factor
    np.testing.assert_allclose(found(signal), places, atol=0.03)


def test_irregular_beats_are_all_found() -> None:
    rng = np.random.default_rng(3)
    places = 0.4 + np.cumsum(rng.uniform(0.45, 1.1, 11))
    places = places[places < 9.7]
    np.testing.assert_allclose(found(beats(places)), places, atol=0.02)
    assert (heart_rate_of(found(beats(places))).variation or 0) > 0.2


def test_two_hours_agree_with_their_minutes() -> None:
    signal = np.tile(beats(np.arange(0.5, 10, 1.0)), 60)
    np.testing.assert_allclose(np.diff(found(signal)), 1.0, atol=0.02)


@pytest.mark.parametrize("signal", [np.zeros((12, 2000)), np.zeros((12, 1000))])
def test_nothing_beats_in_a_flat_line(signal: np.ndarray) -> None:
    assert len(found(signal)) == 0


def test_rate_of_peaks() -> None:
    rate = heart_rate_of(np.array([0.5, 1.3, 2.1, 2.9]))
    assert rate.bpm == pytest.approx(75)
    assert rate.variation == pytest.approx(0)
    assert rate.to_dict() == {
        "bpm": 75.0,
        "variation": 0.0,
        "r_peaks": [0.5, 1.3, 2.1, 2.9],
        "computed": True,
    }


def test_variation_is_that_of_successive_intervals() -> None:
    """Intervals 0.6, 1.0, 0.8 s: differences 0.4 and -0.2, root mean square 0.316, over a mean of 0.8."""
    assert heart_rate_of(np.cumsum([0.5, 0.6, 1.0, 0.8])).variation == pytest.approx(0.3162 / 0.8, abs=1e-3)


@pytest.mark.parametrize("peaks", [[], [1.0], [1.0, 2.0]])
def test_too_few_beats_have_no_rate(peaks: list[float]) -> None:
    rate = heart_rate_of(np.array(peaks))
    assert rate.bpm is None
    assert rate.variation is None
    assert rate.contradiction("SB") is None


@pytest.mark.parametrize(
    ("bpm", "finding", "contradicts"),
    [
        (75, "SB", True),
        (64, "SB", False),
        (50, "SB", False),
        (66, "Brady", True),
        (80, "STach", True),
        (96, "STach", False),
        (140, "STach", False),
        (75, "NSR", False),
        (54, "NSR", True),
        (57, "NSR", False),
        (106, "NSR", True),
        (30, "AF", False),
    ],
)
def test_findings_that_contradict_the_rate(bpm: float, finding: str, contradicts: bool) -> None:
    reason = HeartRate(bpm, np.empty(0)).contradiction(finding)
    assert (reason is not None) == contradicts
    assert reason is None or f"{bpm} bpm" in reason
