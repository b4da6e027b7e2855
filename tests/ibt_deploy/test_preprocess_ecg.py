from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from ibt_deploy.errors import BadSampling, BadUnits, BundleError, InputError, MissingLeads, TooShort
from ibt_deploy.preprocess.ecg import EcgPreprocessing, filtered, standardise, window_spans, windows
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg

PLAIN = EcgPreprocessing(scale=0.25)


def recording(
    signal: np.ndarray | None = None, rate: float = 500.0, leads: tuple[str, ...] = LEADS
) -> Recording:
    """A recording of beats, 10 s at 500 Hz unless said otherwise."""
    return Recording(raw_ecg() / 1000 if signal is None else signal, rate, leads, "r1", "made up", "array")


def codes(made: Recording) -> list[str]:
    return [warning.code for warning in standardise(made).warnings]


def refusal(made: Recording, error: type[InputError]) -> str:
    with pytest.raises(error) as caught:
        standardise(made)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_clean_recording_is_median_free_and_resampled_whole() -> None:
    signal = raw_ecg() / 1000 + 1.5
    standard = standardise(recording(signal))
    centred = signal - np.median(signal, axis=1, keepdims=True)
    np.testing.assert_allclose(standard.signal, resample_poly(centred, 2, 5, axis=1), rtol=0, atol=1e-12)
    assert standard.changes == ("resampled from 500 to 200 Hz",)
    assert standard.warnings == ()
    assert standard.missing_leads == ()


def test_offset_does_not_ring_at_the_ends() -> None:
    """Without removal of the median, the filter, which pads with zeros, would make 1.5 mV ring by 0.45 mV."""
    signal = raw_ecg() / 1000
    np.testing.assert_allclose(
        standardise(recording(signal + 1.5)).signal, standardise(recording(signal)).signal, atol=1e-12
    )


def test_cropping_comes_after_resampling() -> None:
    signal = raw_ecg(10_000) / 1000
    whole = standardise(recording(signal))
    (centre,) = windows(whole, PLAIN, crop="centre")
    np.testing.assert_allclose(centre, whole.signal[:, 1000:3000] / 0.25, rtol=1e-6, atol=1e-7)
    cropped = standardise(recording(signal[:, 2500:7500])).signal
    inner = slice(15, -15)
    assert np.abs((cropped - whole.signal[:, 1000:3000])[:, inner].std()) < 0.01


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)), seed=st.integers(0, 5))
def test_order_of_leads_does_not_matter(order: list[int], seed: int) -> None:
    signal = raw_ecg(seed=seed) / 1000
    expected = standardise(recording(signal)).signal
    shuffled = recording(signal[order], leads=tuple(LEADS[i].lower() for i in order))
    standard = standardise(shuffled)
    np.testing.assert_array_equal(standard.signal, expected)
    assert ("put the leads in the standard order" in standard.changes) == (order != sorted(order))


def test_eight_leads_are_completed() -> None:
    signal = raw_ecg() / 1000
    signal[2], signal[3] = signal[1] - signal[0], -(signal[0] + signal[1]) / 2
    signal[4], signal[5] = signal[0] - signal[1] / 2, signal[1] - signal[0] / 2
    kept = [0, 1, *range(6, 12)]
    standard = standardise(recording(signal[kept], leads=tuple(LEADS[i] for i in kept)))
    np.testing.assert_allclose(standard.signal, standardise(recording(signal)).signal, rtol=0, atol=1e-12)
    assert "derived III, aVR, aVL, aVF from I and II" in standard.changes
    assert standard.missing_leads == ()


@pytest.mark.parametrize("missing", [("I",), ("II",), ("I", "II"), ("I", "II", "III", "aVR"), ("II", "aVF")])
def test_limb_leads_follow_from_any_two(missing: tuple[str, ...]) -> None:
    signal = raw_ecg() / 1000
    signal[2], signal[3] = signal[1] - signal[0], -(signal[0] + signal[1]) / 2
    signal[4], signal[5] = signal[0] - signal[1] / 2, signal[1] - signal[0] / 2
    kept = [i for i, lead in enumerate(LEADS) if lead not in missing]
    whole = standardise(recording(signal)).signal
    partial = standardise(recording(signal[kept], leads=tuple(LEADS[i] for i in kept)))
    np.testing.assert_allclose(partial.signal, whole, rtol=0, atol=1e-9)
    assert f"derived {', '.join(missing)} from" in " ".join(partial.changes)
    signal[[LEADS.index(lead) for lead in missing]] = np.nan
    np.testing.assert_array_equal(standardise(recording(signal)).signal, partial.signal)


def test_other_leads_are_left_out_and_said() -> None:
    signal = np.concatenate([raw_ecg()[:1], raw_ecg()]) / 1000
    standard = standardise(recording(signal, leads=("vx", *LEADS)))
    np.testing.assert_array_equal(standard.signal, standardise(recording()).signal)
    assert "left out vx" in standard.changes


def test_missing_chest_leads_are_zero_with_a_warning() -> None:
    standard = standardise(recording(raw_ecg()[:10] / 1000, leads=LEADS[:10]))
    assert standard.missing_leads == ("V5", "V6")
    assert not standard.signal[10:].any()
    assert [w.code for w in standard.warnings] == ["missing_leads"]
    assert "V5, V6" in standard.warnings[0].message


@pytest.mark.parametrize(
    ("leads", "code"),
    [
        (("II", *LEADS[6:]), "missing_leads"),
        (tuple("ABCDEFGHIJKL"), "missing_leads"),
        (LEADS[:6], "no_chest_lead"),
        (("I",), "missing_leads"),
        ((*LEADS[:11], "i"), "doubled_lead"),
        (("I", "Lead I", *LEADS[2:]), "doubled_lead"),
    ],
)
def test_wrong_missing_and_doubled_leads(leads: tuple[str, ...], code: str) -> None:
    assert refusal(recording(raw_ecg()[: len(leads)] / 1000, leads=leads), MissingLeads) == code


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_one_unit_taken_for_another(factor: float) -> None:
    assert refusal(recording(raw_ecg() / 1000 * factor), BadUnits) == "implausible_amplitude"


@pytest.mark.parametrize("factor", [9.0, 0.2])
def test_unusual_amplitude_is_a_warning(factor: float) -> None:
    assert codes(recording(raw_ecg() / 1000 * factor)) == ["unusual_amplitude"]


def test_flat_leads_are_a_warning() -> None:
    signal = raw_ecg() / 1000
    signal[6:12] = 0.3
    standard = standardise(recording(signal))
    assert [w.code for w in standard.warnings] == ["flat_leads"]
    assert "V1, V2, V3, V4, V5, V6" in standard.warnings[0].message
    assert not standard.signal[6:].any()


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_all_leads_flat(level: float) -> None:
    assert refusal(recording(np.full((12, 5000), level)), TooShort) == "all_leads_flat"


def test_short_gap_is_bridged_linearly() -> None:
    signal = raw_ecg() / 1000
    signal[4, 1000:1100] = np.nan
    bridged = signal.copy()
    bridged[4, 999:1101] = np.linspace(signal[4, 999], signal[4, 1100], 102)
    standard = standardise(recording(signal))
    median = np.nanmedian(signal[4])
    expected = resample_poly(bridged[4] - median, 2, 5)
    np.testing.assert_allclose(standard.signal[4], expected, rtol=0, atol=1e-12)
    assert standard.warnings == ()


def test_long_gap_is_zero_with_a_warning() -> None:
    signal = raw_ecg() / 1000
    signal[7, 1000:1101] = np.nan
    standard = standardise(recording(signal))
    assert not standard.signal[7, 400:441].any()
    assert standard.signal[7, 380:399].any()
    assert [w.code for w in standard.warnings] == ["gaps"]
    assert standard.missing_leads == ()


def test_wild_samples_count_as_invalid() -> None:
    signal = raw_ecg() / 1000
    expected = signal.copy()
    for lead, (at, value) in enumerate([(100, 32.767), (200, -32.768), (300, 20.001), (400, np.inf)]):
        signal[lead, at] = value
        expected[lead, at] = np.nan
    standard = standardise(recording(signal))
    np.testing.assert_array_equal(standard.signal, standardise(recording(expected)).signal)
    assert standard.signal.max() < 2


def test_spikes_in_every_lead_are_no_wrong_unit() -> None:
    signal = raw_ecg() / 1000
    signal[:, 50:60], signal[:, 80:90] = 32.0, -32.0
    assert codes(recording(signal)) == ["spikes"]


def test_a_spike_is_left_out_and_said() -> None:
    signal = raw_ecg() / 1000
    signal[7, 1234] = 30.0
    standard = standardise(recording(signal))
    assert [(w.code, w.message) for w in standard.warnings] == [
        ("spikes", "1 sample beyond 20 mV left out, in V2")
    ]
    assert np.abs(standard.signal).max() < 2


@pytest.mark.parametrize("offset", [20.0, -25.0, 300.0])
def test_an_electrode_offset_is_no_spike(offset: float) -> None:
    """DC-coupled amplifiers carry up to 300 mV of electrode potential."""
    signal = raw_ecg() / 1000
    moved = signal.copy()
    moved[8] += offset
    standard = standardise(recording(moved))
    assert standard.warnings == ()
    np.testing.assert_allclose(standard.signal, standardise(recording(signal)).signal, atol=1e-9)


def test_too_many_invalid_samples() -> None:
    signal = raw_ecg() / 1000
    signal[:, :1001] = np.nan
    assert refusal(recording(signal), TooShort) == "invalid_samples"
    signal[:, 1000] = 0.0
    assert codes(recording(signal)) == ["gaps"]
    signal[:] = np.nan
    assert refusal(recording(signal), TooShort) == "invalid_samples"


def test_lead_without_a_valid_sample() -> None:
    signal = raw_ecg() / 1000
    signal[9] = np.nan
    standard = standardise(recording(signal))
    assert standard.missing_leads == ("V4",)
    assert not standard.signal[9].any()


def test_limb_leads_that_contradict_each_other() -> None:
    signal = raw_ecg() / 1000
    signal[[0, 2]] = signal[[2, 0]]
    signal[3] = -signal[3]
    assert codes(recording(signal)) == ["limb_leads_contradict"]


@pytest.mark.parametrize("seconds", [0.0, 3.0, 4.998])
def test_less_than_five_seconds(seconds: float) -> None:
    assert refusal(recording(raw_ecg(round(seconds * 500)) / 1000), TooShort) == "too_short"


def test_five_seconds_are_followed_by_what_was_not_recorded() -> None:
    standard = standardise(recording(raw_ecg(2500) / 1000))
    masked = replace(PLAIN, version="1.1.0", shortest_seconds=5.0)
    (window,) = windows(standard, masked)
    np.testing.assert_allclose(window[:, :1000], standard.signal / 0.25, rtol=1e-6, atol=1e-7)
    assert np.isnan(window[:, 1000:]).all()


def test_a_model_is_not_given_less_than_it_was_made_for() -> None:
    standard = standardise(recording(raw_ecg(3000) / 1000))
    with pytest.raises(TooShort, match=r"6\.0 s of signal; this model needs 9\.9 s"):
        windows(standard, PLAIN)
    with pytest.raises(TooShort, match=r"this model needs 7 s"):
        windows(standard, replace(PLAIN, version="1.1.0", shortest_seconds=7.0))
    almost = standardise(recording(raw_ecg(4990) / 1000))
    (window,) = windows(almost, PLAIN)
    assert not window[:, 1996:].any()


@pytest.mark.parametrize("constants", [{"shortest_seconds": 5.0}, {"version": "1.1.0"}])
def test_only_the_masking_version_has_a_shortest_recording(constants: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="impossible shortest_seconds"):
        EcgPreprocessing(scale=0.25, **constants)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate", "code"),
    [
        (499.5, "non_integer_rate"),
        (float("nan"), "non_integer_rate"),
        (float("inf"), "non_integer_rate"),
        (20.0, "rate_out_of_range"),
        (50_000.0, "rate_out_of_range"),
    ],
)
def test_unusable_rates(rate: float, code: str) -> None:
    assert refusal(recording(rate=rate), BadSampling) == code


def test_low_rate_is_a_warning() -> None:
    standard = standardise(recording(raw_ecg(1000, 100) / 1000, 100.0))
    assert [w.code for w in standard.warnings] == ["low_sampling_rate"]
    assert standard.signal.shape == (12, 2000)


@pytest.mark.parametrize("rate", [200, 250, 257, 400, 500, 1000])
def test_rates_agree(rate: int) -> None:
    """The same beats, sampled at any rate, come out alike."""
    time = np.arange(10 * rate) / rate
    beat = np.exp(-(((time % 0.8) - 0.4) ** 2) / (2 * 0.015**2))
    signal = np.outer(np.linspace(0.5, 1.5, 12), beat)
    signal[2:6] = [
        signal[1] - signal[0],
        -(signal[0] + signal[1]) / 2,
        signal[0] - signal[1] / 2,
        signal[1] - signal[0] / 2,
    ]
    time = np.arange(2000) / 200
    expected = np.linspace(0.5, 1.5, 12)[1] * np.exp(-(((time % 0.8) - 0.4) ** 2) / (2 * 0.015**2))
    got = standardise(recording(signal, float(rate))).signal[1]
    np.testing.assert_allclose(got[20:-20], expected[20:-20], atol=2e-3)


def test_thirty_minutes() -> None:
    signal = np.tile(raw_ecg(257 * 10, 257) / 1000, 180)
    standard = standardise(recording(signal, 257.0))
    assert standard.signal.shape == (12, 360_000)
    assert windows(standard, replace(PLAIN, band=(0.5, 40.0))).shape == (180, 12, 2000)
    assert windows(standard, PLAIN, crop="centre").shape == (1, 12, 2000)


@pytest.mark.parametrize(
    ("n", "spans"),
    [
        (1000, [(0, 1000)]),
        (2000, [(0, 2000)]),
        (2999, [(0, 2000)]),
        (3000, [(0, 2000), (1000, 3000)]),
        (4000, [(0, 2000), (2000, 4000)]),
        (5500, [(0, 2000), (2000, 4000), (3500, 5500)]),
    ],
)
def test_spans(n: int, spans: list[tuple[int, int]]) -> None:
    assert window_spans(n, 2000) == spans


def test_centre_span() -> None:
    assert window_spans(2001, 2000, "centre") == [(0, 2000)]
    assert window_spans(6000, 2000, "centre") == [(2000, 4000)]
    assert window_spans(900, 2000, "centre") == [(0, 900)]


def test_windows_are_scaled_filtered_and_clipped() -> None:
    standard = standardise(recording())
    constants = EcgPreprocessing(scale=0.1, clip=3.0, band=(0.5, 40.0))
    (window,) = windows(standard, constants)
    assert window.dtype == np.float32
    expected = np.clip(filtered(standard.signal, constants) / 0.1, -3, 3)
    np.testing.assert_allclose(window, expected, rtol=1e-6, atol=1e-7)
    assert window.max() == 3.0


def test_recording_is_not_changed() -> None:
    signal = raw_ecg() / 1000
    signal[3, 5] = np.nan
    signal[4, 500:900] = 25.0
    kept = signal.copy()
    windows(standardise(recording(signal)), replace(PLAIN, band=(0.5, 40.0)))
    np.testing.assert_array_equal(signal, kept)


@pytest.mark.parametrize("band", [None, (0.5, 40.0)])
def test_constants_survive_the_bundle(band: tuple[float, float] | None) -> None:
    constants = EcgPreprocessing(scale=0.233, band=band, band_order=3)
    assert EcgPreprocessing.from_dict(constants.to_dict()) == constants


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2.0.0"},
        {"name": "stay"},
        {"scale": 0.0},
        {"scale": "big"},
        {"band": [40.0, 0.5]},
        {"band": [0.5, 100.0]},
        {"band": 3},
        {"sampling_rate": 500},
        {"length": 0},
        {"unknown": 1},
    ],
)
def test_constants_that_this_version_cannot_honour(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        EcgPreprocessing.from_dict(PLAIN.to_dict() | change)


@pytest.mark.parametrize("key", ["name", "version", "scale", "band"])
def test_missing_constants(key: str) -> None:
    constants = PLAIN.to_dict()
    del constants[key]
    with pytest.raises(BundleError):
        EcgPreprocessing.from_dict(constants)
