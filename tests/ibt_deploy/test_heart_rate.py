"""Heart rate: on beats with known positions, and against an independent detector on patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.preprocess.ecg import examined
from ibt_deploy.preprocess.heart_rate import (
    FrontalAxis,
    HeartRate,
    frontal_axis,
    heart_rate_of,
    qrs_band,
    r_peaks,
    smoothed_energy,
)
from ibt_deploy.readers import read
from tests.helpers.wfdb_records import raw_ecg


def beats(places: np.ndarray, seconds: float = 10.0) -> np.ndarray:
    """12 leads at 200 Hz: a QRS complex at each place (in seconds), its T wave, and a little noise."""
    time = np.arange(round(seconds * 200)) / 200
    away = time[:, None] - places
    wave = np.exp(-(away**2) / (2 * 0.012**2)) + 0.3 * np.exp(-((away - 0.3) ** 2) / (2 * 0.05**2))
    noise = np.random.default_rng(0).normal(0, 0.01, (12, len(time)))
    return np.linspace(-0.8, 1.2, 12)[:, None] * wave.sum(axis=1) + noise


def found(signal: np.ndarray) -> np.ndarray:
    energy, _ = smoothed_energy(qrs_band(signal, 200), 200)
    return r_peaks(energy, 200) / 200


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


@pytest.mark.parametrize(
    ("degrees", "finding", "contradicts"),
    [
        (59, "RAD", True),
        (76, "RAD", False),
        (-170, "RAD", False),
        (-90, "RAD", True),
        (-25, "LAD", False),
        (14, "LAD", False),
        (40, "LAD", True),
        (-104, "LAD", False),
        (170, "LAD", True),
        (-16, "LAnFB", False),
        (0, "LAnFB", True),
        (59, "AF", False),
    ],
)
def test_findings_that_contradict_the_axis(degrees: float, finding: str, contradicts: bool) -> None:
    reason = FrontalAxis(degrees).contradiction(finding)
    assert (reason is not None) == contradicts
    assert reason is None or f"{degrees} degrees" in reason


def test_an_axis_that_cannot_be_stated_contradicts_nothing() -> None:
    assert FrontalAxis(reason="small").contradiction("RAD") is None


PLACES = np.arange(0.5, 9.7, 0.8)


def frontal(angles: np.ndarray, size: float = 1.0) -> np.ndarray:
    """12 leads at 200 Hz, a beat at each of PLACES whose heart vector points to an angle in degrees.

    Limb leads are projections on Einthoven's triangle (I at 0, II at 60 degrees); the others follow.
    """
    away = np.arange(2000)[:, None] / 200 - PLACES
    r, s = np.exp(-(away**2) / (2 * 0.01**2)), -0.3 * np.exp(-((away - 0.03) ** 2) / (2 * 0.01**2))
    beat = size * (r + s)
    one, two = (beat @ np.cos(np.radians(angles - direction)) for direction in (0, 60))
    out = np.zeros((12, 2000))
    out[:6] = one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return out + 0.2


@pytest.mark.parametrize("angle", range(-170, 181, 25))
def test_the_axis_of_a_known_vector(angle: int) -> None:
    axis = frontal_axis(frontal(np.full(len(PLACES), float(angle))), 200, PLACES)
    assert axis.degrees == pytest.approx(angle, abs=1)
    assert axis.spread == pytest.approx(0, abs=0.5)


def test_an_ectopic_beat_does_not_turn_the_axis() -> None:
    angles = np.full(len(PLACES), 40.0)
    angles[[2, 7]] = -100.0
    assert frontal_axis(frontal(angles), 200, PLACES).degrees == pytest.approx(40, abs=1)


@pytest.mark.parametrize(
    ("signal", "peaks", "reason"),
    [
        (frontal(np.linspace(-60, 120, len(PLACES))), PLACES, "spread"),
        (frontal(np.full(len(PLACES), 30.0), 0.1), PLACES, "small"),
        (frontal(np.full(len(PLACES), 30.0)), PLACES[:2], "no_rate"),
        (frontal(np.full(len(PLACES), 30.0)), np.empty(0), "no_rate"),
    ],
)
def test_an_axis_that_is_not_sound_is_not_stated(signal: np.ndarray, peaks: np.ndarray, reason: str) -> None:
    axis = frontal_axis(signal, 200, peaks)
    assert (axis.degrees, axis.reason) == (None, reason)
    assert axis.to_dict()["degrees"] is None


@pytest.mark.parametrize("change", ["gain", "arms"])
def test_leads_that_cannot_be_relied_on_give_no_axis(root: Path, change: str) -> None:
    recording = read(root / "examples" / "recording.hea")[0]
    signal = np.array(recording.signal)
    lead = {name: i for i, name in enumerate(recording.leads)}
    if change == "gain":
        signal[lead["I"]] *= 10
    else:
        swapped = {"I": -signal[lead["I"]], "II": signal[lead["III"]], "III": signal[lead["II"]]}
        swapped |= {"aVR": signal[lead["aVL"]], "aVL": signal[lead["aVR"]]}
        for name, row in swapped.items():
            signal[lead[name]] = row
    axis = examined(replace(recording, signal=signal)).axis
    assert axis is not None
    assert (axis.degrees, axis.reason) == (None, "leads")


DEVICES = {"trio/Example.scp": -61, "philips/3191723_ZZDEMOPTONLY_1-04_orig.xml": 78}
DEVICES |= {"philips/ad4d3d80-d165_1-04_orig.xml": 85}


@pytest.mark.parametrize(("name", "stated"), DEVICES.items())
def test_the_axis_is_near_that_of_the_device(shared: Path, name: str, stated: int) -> None:
    axis = examined(read(shared / "data" / "formats" / name)[0]).axis
    assert axis is not None
    assert axis.degrees == pytest.approx(stated, abs=10)


def test_the_axis_of_the_example_is_near_that_of_its_device(root: Path) -> None:
    axis = examined(read(root / "examples" / "recording.hea")[0]).axis
    assert axis is not None
    assert axis.degrees == pytest.approx(52, abs=5)
