"""Signal quality: what no heart can produce is refused, doubtful signals are reported, a clean ECG passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import TooShort
from ibt_deploy.preprocess.ecg import examined, standardise
from ibt_deploy.preprocess.quality import beats_of, signal_quality
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS

Signal = np.ndarray


@pytest.fixture(scope="module")
def example(root: Path) -> Recording:
    (recording,) = read(root / "examples" / "recording.hea")
    assert isinstance(recording, Recording)
    return recording


def codes(recording: Recording, signal: Signal | None = None) -> list[str]:
    given = recording if signal is None else replace(recording, signal=signal)
    return [warning.code for warning in examined(given).warnings]


def limb_noise(samples: int, sd: float, seed: int = 0) -> Signal:
    """Noise that obeys Einthoven, as of a machine whose electrodes hang in the air."""
    noise = np.random.default_rng(seed).normal(0, sd, (12, samples))
    one, two = noise[:2]
    noise[2:6] = [two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return noise


def arms_exchanged(x: Signal) -> Signal:
    """RA and LA exchanged: I is inverted, II and III change places, as do aVR and aVL."""
    out = x.copy()
    out[0], out[1], out[2], out[3], out[4] = -x[0], x[2], x[1], x[4], x[3]
    return out


def lead_times(lead: str, factor: float) -> Callable[[Signal], Signal]:
    def changed(x: Signal) -> Signal:
        out = x.copy()
        out[LEADS.index(lead)] *= factor
        return out

    return changed


def stopped(x: Signal) -> Signal:
    out = x.copy()
    out[:, x.shape[1] * 85 // 100 :] = 0.1
    return out


def hung(x: Signal) -> Signal:
    out = x.copy()
    out[9, :2500] = out[9, 2500]
    return out


def clipped(x: Signal) -> Signal:
    limit = 0.4 * np.abs(x).max(axis=1, keepdims=True)
    return np.clip(x, -limit, limit)


FAULTS: dict[str, tuple[Callable[[Signal], Signal], str]] = {
    "arms": (arms_exchanged, "electrodes_exchanged"),
    "V1 and V6": (lambda x: x[[*range(6), 11, 7, 8, 9, 10, 6]], "electrodes_exchanged"),
    "chest backwards": (lambda x: x[[*range(6), 11, 10, 9, 8, 7, 6]], "electrodes_exchanged"),
    "inverted": (lambda x: -x, "leads_inverted"),
    "V2 x 10": (lead_times("V2", 10.0), "lead_amplitude"),
    "V5 / 10": (lead_times("V5", 0.1), "lead_amplitude"),
    "V1 x 10": (lead_times("V1", 10.0), "lead_amplitude"),
    "I / 10": (lead_times("I", 0.1), "limb_leads_contradict"),
    "aVL / 10": (lead_times("aVL", 0.1), "limb_leads_contradict"),
    "all x 3": (lambda x: x * 3, "unusual_amplitude"),
    "all / 3": (lambda x: x / 3, "unusual_amplitude"),
    "all x 4": (lambda x: x * 4, "unusual_amplitude"),
    "all / 5": (lambda x: x / 5, "unusual_amplitude"),
    "noise added": (lambda x: x + limb_noise(x.shape[1], 0.3), "noisy_recording"),
    "one noisy lead": (
        lambda x: np.where(np.arange(12)[:, None] == 8, limb_noise(x.shape[1], 0.8), x),
        "noisy_leads",
    ),
    "tail of zeros": (stopped, "flat_stretch"),
    "a lead that hangs": (hung, "flat_stretch"),
    "clipped": (clipped, "clipped_leads"),
}


def test_a_clean_recording_passes(example: Recording) -> None:
    found = examined(example)
    assert found.warnings == ()
    assert found.heart_rate is not None
    assert found.heart_rate.bpm == pytest.approx(67, abs=15)
    assert [lead.lead for lead in found.leads] == list(LEADS)
    assert all(lead.usable and lead.agreement > 0.9 and lead.qrs > lead.noise for lead in found.leads)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said(example: Recording, fault: str) -> None:
    make, code = FAULTS[fault]
    assert code in codes(example, make(example.signal))


@pytest.mark.parametrize("lead", LEADS[6:])
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_gain_that_is_wrong_by_ten_in_a_chest_lead_is_said(
    example: Recording, lead: str, factor: float
) -> None:
    assert codes(example, lead_times(lead, factor)(example.signal)) == ["lead_amplitude"]


def test_finer_steps_alone_say_nothing(example: Recording) -> None:
    """A device may digitise one lead more finely than the others, and its amplitude is right then."""
    finer = example.signal.copy()
    row = LEADS.index("V1")
    finer[row] += np.random.default_rng(0).integers(0, 10, finer.shape[1]) * 0.000625
    steps = np.diff(np.unique(finer[row]))
    assert np.median(steps) == pytest.approx(0.000625, rel=0.01)
    assert codes(example, finer) == []


def test_a_small_lead_with_the_steps_of_the_others_is_a_small_lead(example: Recording) -> None:
    """V1 of a third of its size, digitised as all leads are: within what hearts differ by."""
    small = example.signal.copy()
    row = LEADS.index("V1")
    small[row] = np.rint(small[row] / 3 / 0.00625) * 0.00625
    assert codes(example, small) == []


@pytest.mark.parametrize("sd", [0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_heartbeat(example: Recording, sd: float, seed: int) -> None:
    with pytest.raises(TooShort) as caught:
        codes(example, limb_noise(10_000, sd, seed))
    assert caught.value.code == "no_heartbeat"


def wandering(time: Signal) -> Signal:
    """Asystole: a moving baseline and 20 microvolts of noise."""
    return np.sin(2 * np.pi * 0.3 * time) * np.linspace(0.2, 0.6, 12)[:, None] + limb_noise(len(time), 0.02)


NO_HEART: dict[str, Callable[[Signal], Signal]] = {
    "asystole": wandering,
    "mains": lambda t: np.linspace(0.5, 1, 12)[:, None] * np.sin(2 * np.pi * 50 * t),
    "tremor": lambda t: np.linspace(0.5, 1, 12)[:, None] * np.sin(2 * np.pi * 8 * t),
    "brown noise": lambda t: np.cumsum(limb_noise(len(t), 0.02), axis=1),
    "one beat": lambda t: (
        np.exp(-((t - 4) ** 2) / 2e-4) * np.linspace(0.5, 1, 12)[:, None] + limb_noise(len(t), 0.02)
    ),
}


@pytest.mark.parametrize("kind", NO_HEART)
def test_other_signals_have_no_heartbeat(example: Recording, kind: str) -> None:
    with pytest.raises(TooShort) as caught:
        codes(example, NO_HEART[kind](np.arange(10_000) / 1000))
    assert caught.value.code == "no_heartbeat"


def test_half_the_recording_flat_is_refused(example: Recording) -> None:
    signal = example.signal.copy()
    signal[:, 5000:] = 0.0
    with pytest.raises(TooShort) as caught:
        codes(example, signal)
    assert caught.value.code == "flat_stretch"


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.6, 1.6), start=st.integers(0, 300), lift=st.floats(-1, 1))
def test_what_is_measured_does_not_depend_on_gain_start_or_offset(
    example: Recording, factor: float, start: int, lift: float
) -> None:
    signal = standardise(example).signal
    plain, moved = beats_of(signal), beats_of(signal[:, start:] * factor + lift)
    np.testing.assert_allclose(moved.height, plain.height * factor, rtol=0.1, atol=0.05)
    np.testing.assert_allclose(moved.agreement, plain.agreement, atol=0.05)
    assert moved.likeness == pytest.approx(plain.likeness, abs=0.03)
    assert signal_quality(signal[:, start:] * factor + lift).warnings == ()


def test_a_long_recording_is_judged_as_its_parts(example: Recording) -> None:
    signal = np.tile(standardise(example).signal, 60)
    assert signal_quality(signal).warnings == ()


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (None, []),
        (0.25, ["not_adult"]),
        (17, ["not_adult"]),
        (18, []),
        (94, []),
        (120, []),
        (121, ["impossible_age"]),
        (300, ["impossible_age"]),
        (-5, ["impossible_age"]),
        (float("nan"), ["impossible_age"]),
    ],
)
def test_ages(example: Recording, age: float | None, expected: list[str]) -> None:
    assert codes(replace(example, age=age)) == expected
