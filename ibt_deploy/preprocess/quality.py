"""Decide, before any model sees a signal, whether it is an ECG in millivolts and fit to be scored.

First the samples as they were read: amplitude, invalid, clipped and flat stretches, and whether the limb
leads obey Einthoven's law. Then the beats: an ECG repeats. Its complexes are alike, stand out from what lies
between them, and have in every lead a size and a direction consistent with those of the other leads. Every
rule measures one of these on the 12 leads at 200 Hz. Its threshold is a percentile of real recordings; how
many of them break it is in docs/quality.md (``python -m benchmarks.quality``).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from ibt_deploy.errors import BadUnits, TooShort
from ibt_deploy.preprocess.filters import medians
from ibt_deploy.preprocess.heart_rate import (
    FEWEST_BEATS,
    HeartRate,
    heart_rate_of,
    qrs_band,
    r_peaks,
    smoothed_energy,
)
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import CHEST_LEADS, DERIVED, LEADS, canonical_lead

LIMIT_MV = 20.0
"""Samples beyond this are invalid."""

OFFSET_MV = 10.0
"""A lead with a median beyond this carries an electrode potential, and is measured from that median."""

MAX_INVALID = 0.20
"""Largest accepted share of invalid samples."""

PLAUSIBLE_MV = (0.04, 40.0)
"""Range of the typical amplitude (peak to peak, median over the leads that are not flat) for a correct unit.

Of 2,589 public recordings, those whose header states the right gain lie between 0.50 and 12.4 mV, the 24 of
an early release with a gain wrong by a factor of 5 between 0.14 and 14.3 mV. Microvolts mistaken for
millivolts, or the reverse, put every one of them outside: a factor of 1000.
"""

USUAL_MV = (0.3, 7.0)
"""Typical amplitude outside which the score carries a warning; true of one in 2,565 of the above."""

MAX_LIMB_RESIDUAL = 0.25
"""Spread of a limb lead about its value from leads I and II, over the mean spread of the limb leads.

Above this the names or gains of the limb leads are doubtful: in one of 1,675 training recordings; all others,
and all 868 held-out ones or from LUDB, have at most 0.03.
"""

LONGEST_FLAT_SECONDS = 2.0
"""A lead that does not change for longer than this was not connected.

Of 2,583 real recordings without flat leads two reach it (4.9 and 2.6 s), and the next has 0.9 s.
"""

ALL_FLAT_SECONDS = 1.0
"""No heart keeps all leads flat for as long; the maximum in real recordings is 0.14 s."""

MOST_AT_EXTREME = 0.015
"""Share of samples exactly at the highest or lowest value of a lead, above which it was clipped.

In 99.9 % of 2,589 real recordings at most 0.0124.
"""

STEP_RATIO = 4.0
"""Ratio of a chest lead's finest step to that of the others, from which its gain may be a different one.

In all of 3,110 real recordings with comparable steps it is within a factor of 1.9.
"""

STEP_DISPROPORTION = 0.5
"""Value of :func:`disproportion` from which a lead with different steps has a wrong gain.

A device may digitise one lead more finely. In 97 % of the training records every chest lead is within it.
"""

LEAST_STEP_MV, FEWEST_STEPS, REGULAR_STEPS = 1e-9, 20, 2.5
"""Smallest gap between two values that is not a rounding error, minimum number of gaps to judge, and the
largest ratio of the median gap to its 5th percentile: values that were never in steps have 13.
"""

RATE = 200
INDEPENDENT = np.array([0, 1, 6, 7, 8, 9, 10, 11])
"""Rows of I, II and V1 to V6; the other limb leads follow from I and II."""

UPPER = np.triu_indices(len(INDEPENDENT), 1)

MOST_BEATS = 40
"""Number of beats to compare; in a long recording these are spread over all of it."""

LEAST_LIKENESS = 0.7
"""Median over beats of the correlation, in all leads, with the most similar beat, below which it is noise.

Real recordings: at least 0.90 in all 2,589; noise of any colour: at most 0.49 in 500.
"""

LEAST_PROMINENCE = 2.0
"""Height of a beat over the usual level of the signal, below which nothing stands out as a beat.

Real recordings with a scored rhythm: at least 2.6; a sine wave, tremor or noise: at most 1.4.
"""

RATE_PROMINENCE = 3.5
RATE_LIKENESS = 0.9
RATE_COVERAGE = 0.6
"""Below any of these the positions of the beats are too doubtful for a rate."""

LEAST_AGREEMENT = 0.78
"""Median correlation of a lead's complexes with the most similar one, below which the lead is noisy."""

UNUSABLE_AGREEMENT = 0.5
"""Below this there is no heartbeat in the lead; noise alone has about 0.6 at most."""

MOST_NOISE = 0.045
"""Deviation of the noise above the QRS band relative to the height of the complexes, median over leads."""

SMALLEST_QRS_MV = 0.38
"""Height of the QRS complexes in mV, geometric mean over the leads, below which it is unusual."""

LARGEST_QRS_MV, TALLEST_WEIGHT = 3.1, 0.25
"""The same height, with a weight of one quarter on the tallest lead, above which it is unusual."""

WAVEFORM_RATIO = 2.1
"""Factor between a lead and its prediction from the others' waveforms, from which its gain is doubtful.

Where the complexes turn from negative to positive, a lead between the two is legitimately small. This is the
largest ratio at which the five training records whose plot shows a failing electrode are found.
"""

MISPLACED = 4.0
"""Log odds of exchanged electrodes over correct ones."""

PLACEMENTS = {
    "arms": ("electrodes_exchanged", "the leads look as with the arm electrodes (RA and LA) exchanged"),
    "right_arm_leg": ("electrodes_exchanged", "the leads look as with the electrodes RA and LL exchanged"),
    "inverted": ("leads_inverted", "all leads look upside down"),
    "v1_v6": ("electrodes_exchanged", "the leads look as with V1 and V6 exchanged"),
    "chest_order": ("electrodes_exchanged", "the leads look as with V1 to V6 in the reverse order"),
}

BINS = ((-44, -32), (-32, -24), (-24, -14), (-10, -4), (-4, 3), (3, 10), (12, 28), (28, 50), (50, 80))
"""Stretches of a beat in samples from its R peak: P wave, PR segment, Q, R, S, ST segment, T wave."""

BEFORE, AFTER = 60, 91
_EDGES = np.array(BINS).ravel() + BEFORE
_WIDTHS = _EDGES[1::2] - _EDGES[::2]
QRS_HALF = 20
_COMPLEX = np.arange(-QRS_HALF, QRS_HALF + 1)
LEAST_HEIGHT = 0.02
"""Height in mV below which a lead has no complexes to judge."""


def valid_samples(found: Floats, names: Sequence[str]) -> tuple[Floats, list[Notice]]:
    """``found`` with NaN for every invalid sample, and notices for the reader.

    Parameters
    ----------
    found
        Millivolts, shape ``(leads, n)``, at least one lead.
    names
        The standard name of each row.

    Raises
    ------
    BadUnits
        No heart produces this amplitude.
    TooShort
        Every lead is flat, or more than 20 % of the samples are invalid.
    """
    highest, lowest = found.max(axis=1), found.min(axis=1)
    stated = typical = _typical_spread(highest - lowest)
    share = 0.0
    beyond = np.zeros((len(found), 0), dtype=bool)
    if not (highest.max() <= LIMIT_MV and lowest.min() >= -LIMIT_MV):
        finite = np.where(np.isfinite(found), found, np.nan)
        stated = _typical_spread(np.fmax.reduce(finite, axis=1) - np.fmin.reduce(finite, axis=1))
        distance = np.abs(finite - _offsets(finite)[:, np.newaxis])
        beyond = (distance > LIMIT_MV) | np.isinf(found)
        found = np.where(distance <= LIMIT_MV, finite, np.nan)
        highest, lowest = np.fmax.reduce(found, axis=1), np.fmin.reduce(found, axis=1)
        share = float(np.isnan(found).mean())
        typical = _typical_spread(highest - lowest)
    too_high = stated > PLAUSIBLE_MV[1] and (share > MAX_INVALID or typical > LIMIT_MV)
    if too_high or 0 < stated < PLAUSIBLE_MV[0]:
        raise BadUnits(
            f"a typical peak-to-peak amplitude of {stated:.3g} mV is not an ECG's; "
            "check gain and unit (uV for mV?)",
            code="implausible_amplitude",
        )
    if share > MAX_INVALID:
        raise TooShort(
            f"{100 * share:.0f} % of the samples are missing or beyond {LIMIT_MV:.0f} mV;"
            f" at most {100 * MAX_INVALID:.0f} % are accepted",
            code="invalid_samples",
        )
    if typical == 0:
        raise TooShort("every lead is flat", code="all_leads_flat")
    notices = []
    if beyond.any():
        where = ", ".join(name for name, row in zip(names, beyond, strict=True) if row.any())
        count = int(beyond.sum())
        samples = "sample" if count == 1 else "samples"
        notices.append(Notice("spikes", f"{count} {samples} beyond {LIMIT_MV:.0f} mV left out, in {where}"))
    flat = [name for name, extent in zip(names, highest - lowest, strict=True) if extent == 0]
    if flat:
        notices.append(Notice("flat_leads", f"flat: {', '.join(flat)}"))
    if not USUAL_MV[0] <= typical <= USUAL_MV[1]:
        sentence = f"typical peak-to-peak amplitude {typical:.2g} mV is unusual; check the gain"
        notices.append(Notice("unusual_amplitude", sentence))
    return found, notices


def limb_lead_notices(signal: Floats) -> list[Notice]:
    """A warning if the limb leads of ``signal``, shape ``(12, n)``, contradict each other.

    III, aVR, aVL and aVF follow from I and II; if they do not, leads were swapped or named wrongly, or one
    of them has a different gain. No warning if one of the six is flat or has invalid samples.
    """
    limb = signal[:6, ::8]
    limb = limb - limb.mean(axis=1, keepdims=True)
    spread = np.abs(limb).mean(axis=1)
    if not spread.min() > 0:
        return []
    weights = np.array([DERIVED[lead] for lead in LEADS[2:6]])
    residual = np.abs(limb[2:] - weights @ limb[:2]).mean(axis=1)
    doubtful = [
        lead
        for lead, part in zip(LEADS[2:6], residual / spread.mean(), strict=True)
        if part > MAX_LIMB_RESIDUAL
    ]
    if not doubtful:
        return []
    return [
        Notice(
            "limb_leads_contradict",
            f"{', '.join(doubtful)}: inconsistent with leads I and II; check names and gains of limb leads",
        )
    ]


def raw_signal_notices(recording: Recording) -> list[Notice]:
    """Warnings about samples of the standard leads as read: clipped, or unchanged for long.

    Raises
    ------
    TooShort
        All leads stay flat for more than 20 % of the recording (``flat_stretch``).
    """
    leads = [canonical_lead(name) for name in recording.leads]
    names = [lead for lead in leads if lead is not None]
    found = recording.signal
    if len(names) < len(leads):
        found = found[[lead is not None for lead in leads]]
    still = found[:, 1:] == found[:, :-1]
    together = _longest_run(still.all(axis=0)) / recording.sampling_rate
    if together >= ALL_FLAT_SECONDS and together > MAX_INVALID * recording.duration:
        raise TooShort(
            f"all leads stay flat for {together:.1f} s; give the part that was recorded",
            code="flat_stretch",
        )
    if together >= ALL_FLAT_SECONDS:
        return [Notice("flat_stretch", f"all leads stay flat for {together:.1f} s")]
    highest, lowest = np.fmax.reduce(found, axis=1)[:, None], np.fmin.reduce(found, axis=1)[:, None]
    at_extreme = np.maximum(_shares(found == highest), _shares(found == lowest))
    alive = highest[:, 0] > lowest[:, 0]
    longest = LONGEST_FLAT_SECONDS * recording.sampling_rate
    # a run of that length fills one of the stretches of half that length
    half = int(longest) // 2
    stretches = still[:, : still.shape[1] // half * half].reshape(len(still), -1, half)
    suspected = stretches.all(axis=2).any(axis=1)
    flat, clipped = [], []
    for name, row, suspect, extreme, lives in zip(names, still, suspected, at_extreme, alive, strict=True):
        if lives and suspect and _longest_run(row) >= longest:
            flat.append(name)
        elif lives and extreme > MOST_AT_EXTREME:
            clipped.append(name)
    notices = []
    if flat:
        notices.append(Notice("flat_stretch", f"unchanged for more than 2 s: {', '.join(flat)}"))
    if clipped:
        notices.append(
            Notice("clipped_leads", f"clipped at their highest or lowest value: {', '.join(clipped)}")
        )
    return notices


def _offsets(finite: Floats) -> Floats:
    """The median of each lead if beyond :data:`OFFSET_MV`, else 0; shape ``(leads,)``."""
    middles = [float(medians(row[~np.isnan(row)])) if not np.isnan(row).all() else 0.0 for row in finite]
    return np.where(np.abs(middles) > OFFSET_MV, middles, 0.0)


def _shares(flags: Bools) -> Floats:
    """Share of True in each row: ``flags.mean(axis=1)`` in a quarter of the time."""
    shares: Floats = np.array([np.count_nonzero(row) for row in flags]) / flags.shape[1]
    return shares


def _longest_run(flags: Bools) -> int:
    """Length of the longest run of True."""
    if not flags.any():
        return 0
    enclosed = np.zeros(len(flags) + 2, dtype=bool)
    enclosed[1:-1] = flags
    edges = np.flatnonzero(enclosed[1:] != enclosed[:-1])
    return int((edges[1::2] - edges[::2]).max())


def _typical_spread(spread: Floats) -> float:
    """Median of the peak-to-peak amplitudes that are neither 0 nor unknown; 0 if there are none."""
    alive = spread[spread > 0]
    return float(medians(alive)) if len(alive) else 0.0


class LeadQuality(NamedTuple):
    """Measurements of one lead.

    Attributes
    ----------
    lead
        Its name.
    qrs
        Height of the average QRS complex from peak to peak, in mV.
    noise
        Standard deviation of the noise above the QRS band, in mV.
    agreement
        Median correlation of its complexes with the most similar one; 1 without noise.
    usable
        Whether there is a heartbeat in it.
    """

    lead: str
    qrs: float
    noise: float
    agreement: float
    usable: bool

    def to_dict(self) -> dict[str, Any]:
        """The lead as a JSON-compatible dictionary."""
        return {
            "lead": self.lead,
            "qrs_mv": round(self.qrs, 3),
            "noise_mv": round(self.noise, 4),
            "agreement": round(self.agreement, 3),
            "usable": self.usable,
        }


@dataclass(frozen=True, eq=False)
class Beats:
    """The beats of a recording, and measurements on them.

    Attributes
    ----------
    peaks
        Samples of the heartbeats, shape ``(beats,)``.
    likeness
        Similarity of the beats to each other, see :data:`LEAST_LIKENESS`; 0 for fewer than two.
    prominence
        See :data:`LEAST_PROMINENCE`.
    agreement
        Similarity of each lead's complexes to each other, shape ``(12,)``.
    average
        Mean of the beats that are like most others, shape ``(12, 151)``, its R peak at sample 60.
    height
        Peak-to-peak height of the QRS complex of ``average``, shape ``(12,)``, in mV.
    noise
        Deviation above the QRS band, shape ``(12,)``, in mV.
    """

    peaks: Ints
    likeness: float
    prominence: float
    agreement: Floats
    average: Floats
    height: Floats
    noise: Floats

    @property
    def complete(self) -> bool:
        """Whether every independent lead has complexes, so that leads can be compared."""
        return bool(self.height[INDEPENDENT].min() >= LEAST_HEIGHT)


@dataclass(frozen=True, eq=False)
class SignalQuality:
    """The outcome: rate, one entry per lead, and notices for the reader of the score."""

    heart_rate: HeartRate
    leads: tuple[LeadQuality, ...]
    warnings: tuple[Notice, ...]


def signal_quality(signal: Floats) -> SignalQuality:
    """Judge the 12 leads of ``signal``, shape ``(12, n)``, in mV at 200 Hz.

    Warnings have the codes ``noisy_leads``, ``noisy_recording``, ``unusual_amplitude``, ``lead_amplitude``,
    ``electrodes_exchanged`` and ``leads_inverted``.

    Raises
    ------
    TooShort
        ``no_heartbeat``: no beats, or none that repeat; ``no_usable_lead``: no heartbeat in any lead.
    """
    beats = beats_of(signal)
    if beats.likeness < LEAST_LIKENESS or beats.prominence < LEAST_PROMINENCE:
        raise TooShort(
            "no heartbeat stands out from the noise in this signal; check electrodes and lead names",
            code="no_heartbeat",
        )
    usable = (beats.agreement >= UNUSABLE_AGREEMENT) & (beats.height > 0)
    if not usable.any():
        raise TooShort("no lead shows a heartbeat; check the electrodes", code="no_usable_lead")
    leads = tuple(
        LeadQuality(*measured)
        for measured in zip(
            LEADS,
            beats.height.tolist(),
            beats.noise.tolist(),
            beats.agreement.tolist(),
            usable.tolist(),
            strict=True,
        )
    )
    return SignalQuality(_rate(beats, signal.shape[1]), leads, tuple(_notices(beats)))


def beats_of(signal: Floats) -> Beats:
    """Find and measure the beats of ``signal``, shape ``(12, n)``, in mV at 200 Hz."""
    n = signal.shape[1]
    in_band = qrs_band(signal, RATE)
    energy, weight = smoothed_energy(in_band, RATE)
    peaks = r_peaks(energy, RATE)
    noise = _noise(signal)
    some = (
        peaks if len(peaks) <= MOST_BEATS else peaks[np.linspace(0, len(peaks) - 1, MOST_BEATS).astype(int)]
    )
    inner = some[(some >= QRS_HALF) & (some < n - QRS_HALF)]
    if len(inner) < 2:
        nothing = np.zeros(len(signal))
        average = np.zeros((len(signal), BEFORE + AFTER))
        return Beats(peaks, 0.0, 0.0, nothing, average, nothing, noise)
    complexes = in_band.take(inner[:, np.newaxis] + _COMPLEX, axis=1)
    complexes *= weight[:, np.newaxis, np.newaxis]
    alike = np.empty((len(signal) + 1, len(inner), len(inner)))
    np.matmul(complexes, complexes.swapaxes(1, 2), out=alike[:-1])
    alike[:-1].sum(axis=0, out=alike[-1])
    correlation = _correlation(alike)
    likest = medians(correlation.max(axis=2))
    together = correlation[-1]
    usual = float(medians(energy))
    prominence = statistics.median(energy[peaks].tolist()) / usual if usual > 0 else 0.0
    most_usual = np.argmax(together.sum(axis=1))
    typical = together[most_usual] > LEAST_LIKENESS
    typical[most_usual] = True
    average = _average(signal, inner[typical])
    mean_complex = average[:, BEFORE - QRS_HALF : BEFORE + QRS_HALF + 1]
    height = mean_complex.max(axis=1) - mean_complex.min(axis=1)
    return Beats(peaks, float(likest[-1]), prominence, likest[:-1], average, height, noise)


def _correlation(products: Floats) -> Floats:
    """Correlations from inner products, shape ``(..., beats, beats)``; -1 for a beat with itself."""
    norm = np.sqrt(np.maximum(np.einsum("...aa->...a", products), 1e-30))
    out: Floats = products / (norm[..., :, np.newaxis] * norm[..., np.newaxis, :])
    own = np.arange(products.shape[-1])
    out[..., own, own] = -1.0
    return out


def _average(signal: Floats, peaks: Ints) -> Floats:
    """Mean beat about ``peaks``; beats cut off by an end are left out if there are others."""
    whole = [p for p in peaks.tolist() if BEFORE <= p <= signal.shape[1] - AFTER]
    if not whole:
        places = peaks[:, np.newaxis] + np.arange(-BEFORE, AFTER)
        mean: Floats = signal.take(places, axis=1, mode="clip").mean(axis=1)
        return mean
    total = np.zeros((len(signal), BEFORE + AFTER))
    for peak in whole:
        total += signal[:, peak - BEFORE : peak + AFTER]
    return total / len(whole)


def _noise(signal: Floats) -> Floats:
    """Deviation of white noise with the same median second difference, shape ``(12,)``."""
    step = max(1, signal.shape[1] // 700)
    second = -2 * signal[:, 1:-1:step]
    second += signal[:, 2::step]
    second += signal[:, :-2:step]
    deviation: Floats = 1.4826 * medians(np.abs(second, out=second)) / np.sqrt(6)
    return deviation


def _rate(beats: Beats, n: int) -> HeartRate:
    """The heart rate; none if the positions of the beats are doubtful."""
    peaks = beats.peaks
    if len(peaks) < FEWEST_BEATS or beats.prominence < RATE_PROMINENCE or beats.likeness < RATE_LIKENESS:
        return HeartRate()
    if (peaks[-1] - peaks[0]) * len(peaks) / (len(peaks) - 1) < RATE_COVERAGE * n:
        return HeartRate()
    return heart_rate_of(peaks / RATE)


def _notices(beats: Beats) -> list[Notice]:
    notices = []
    measured = zip(LEADS, beats.height.tolist(), beats.agreement.tolist(), strict=True)
    noisy = [lead for lead, height, alike in measured if height >= LEAST_HEIGHT and alike < LEAST_AGREEMENT]
    if noisy:
        notices.append(Notice("noisy_leads", f"noise hides the complexes in {', '.join(noisy)}"))
    if noise_of(beats) > MOST_NOISE:
        notices.append(
            Notice("noisy_recording", "there is unusual noise in most leads; check the electrodes")
        )
    typical = typical_height(beats)
    largest = typical ** (1 - TALLEST_WEIGHT) * float(beats.height.max()) ** TALLEST_WEIGHT
    if typical < SMALLEST_QRS_MV or largest > LARGEST_QRS_MV:
        sentence = f"QRS complexes of typically {typical:.2g} mV are unusual; check the gain"
        notices.append(Notice("unusual_amplitude", sentence))
    if not beats.complete:
        return notices
    excess = disproportion(beats.height)
    worst = int(np.argmax(np.abs(excess)))
    if abs(excess[worst]) > 1 and _contradicts_waveforms(beats.average, worst, excess[worst] > 0):
        size = "large" if excess[worst] > 0 else "small"
        lead = LEADS[INDEPENDENT[worst]]
        sentence = f"lead {lead} is too {size} for the other leads; check its gain and electrode"
        notices.append(Notice("lead_amplitude", sentence))
        return notices
    odds = placement_odds(beats.average)
    likeliest = max(odds, key=odds.__getitem__)
    if odds[likeliest] > MISPLACED:
        code, sentence = PLACEMENTS[likeliest]
        notices.append(Notice(code, f"{sentence}; check the electrodes"))
    return notices


def noise_of(beats: Beats) -> float:
    """Noise over the height of the complexes, median over the leads that have any."""
    both = zip(beats.noise.tolist(), beats.height.tolist(), strict=True)
    shares = [noise / height for noise, height in both if height >= LEAST_HEIGHT]
    return statistics.median(shares) if shares else 0.0


def typical_height(beats: Beats) -> float:
    """Geometric mean of the heights of the complexes in mV over the leads that have any; 0 if none has."""
    logarithms = [math.log(height) for height in beats.height.tolist() if height >= LEAST_HEIGHT]
    return math.exp(math.fsum(logarithms) / len(logarithms)) if logarithms else 0.0


def disproportion(height: Floats) -> Floats:
    """Deviation of each independent lead from the height predicted by the others, shape ``(8,)``.

    As a share of the largest deviation of real recordings in this lead and direction; positive for a lead
    that is too large. Beyond 1 in size its gain or electrode is in doubt.
    """
    fitted = _fitted()
    logarithm = np.log(height[INDEPENDENT])
    excess = logarithm - fitted.amplitude[:, :-1] @ logarithm - fitted.amplitude[:, -1]
    share: Floats = excess / np.where(excess > 0, fitted.largest, fitted.smallest)
    return share


def gain_notices(recording: Recording, height: Floats) -> list[Notice]:
    """A warning about a chest lead that is too large or small for the others, as are its sample steps.

    A wrongly stated gain multiplies both. Height alone must be further off (:func:`disproportion`).

    Parameters
    ----------
    recording
        As read: the steps are those of the file.
    height
        Heights of the QRS complexes of the 12 leads in mV, shape ``(12,)``.
    """
    if height[INDEPENDENT].min() < LEAST_HEIGHT:
        return []
    share = disproportion(height)[-len(CHEST_LEADS) :]
    worst = int(np.argmax(np.abs(share)))
    if abs(share[worst]) < STEP_DISPROPORTION:
        return []
    steps = np.full(len(CHEST_LEADS), np.nan)
    for name, samples in zip(recording.leads, recording.signal, strict=True):
        lead = canonical_lead(name)
        if lead in CHEST_LEADS:
            steps[CHEST_LEADS.index(lead)] = _step(samples)
    others = np.delete(steps, worst)
    if np.isnan(steps[worst]) or np.isnan(others).all():
        return []
    ratio = steps[worst] / np.nanmedian(others)
    if share[worst] > 0:
        size, kind = "large", "coarser"
    else:
        size, kind, ratio = "small", "finer", 1 / ratio
    if ratio < STEP_RATIO:
        return []
    sentence = (
        f"lead {CHEST_LEADS[worst]} is too {size} for the other leads, and its samples have {kind} steps; "
        "check its gain"
    )
    return [Notice("lead_amplitude", sentence)]


def _step(samples: Floats) -> float:
    """The step between neighbouring values of ``samples``, shape ``(n,)``; NaN if there is none."""
    gaps = np.diff(np.unique(samples[np.isfinite(samples)]))
    gaps = gaps[gaps > LEAST_STEP_MV]
    if len(gaps) < FEWEST_STEPS:
        return np.nan
    step = float(np.percentile(gaps, 5))
    return step if np.median(gaps) <= REGULAR_STEPS * step else np.nan


def _contradicts_waveforms(average: Floats, lead: int, is_large: bool) -> bool:
    """Whether an independent lead's complex is much larger or smaller than the other leads predict."""
    beat = average[INDEPENDENT]
    beat = beat - medians(beat)[:, np.newaxis]
    complexes = beat[:, BEFORE - QRS_HALF : BEFORE + QRS_HALF + 1]
    height, expected = np.ptp(complexes[lead]), np.ptp(_fitted().waveform[lead] @ complexes)
    larger, smaller = (height, expected) if is_large else (expected, height)
    return bool(larger > WAVEFORM_RATIO * smaller)


def placement_odds(average: Floats) -> dict[str, float]:
    """Log odds of each of :data:`PLACEMENTS` over correctly placed electrodes.

    Parameters
    ----------
    average
        Average beat, shape ``(12, 151)``.
    """
    fitted = _fitted()
    given = (placement_features(binned(average)) - fitted.centre) / fitted.scale
    return dict(zip(fitted.names, (fitted.weights @ given + fitted.bias).tolist(), strict=True))


def binned(average: Floats) -> Floats:
    """Means of the independent leads over :data:`BINS`, shape ``(8, 9)``, relative to their median."""
    beat = average[INDEPENDENT]
    means: Floats = np.add.reduceat(beat, _EDGES, axis=1)[:, ::2]
    means /= _WIDTHS
    means -= medians(beat)[:, np.newaxis]
    return means


def placement_features(means: Floats) -> Floats:
    """Features by which a placement is judged, shape ``(100,)``: roots of means, and lead correlations."""
    squares = (means * means).sum(axis=1, keepdims=True)
    size = np.sqrt(float(squares.sum()) / means.size)
    relative = means / (size if size > 0 else 1.0)
    directions = means / np.maximum(np.sqrt(squares), 1e-9)
    along = directions @ directions.T
    roots = np.copysign(np.sqrt(np.abs(relative)), relative)
    return np.concatenate([roots.ravel(), along[UPPER]])


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Parameters fitted on the training records: see :mod:`benchmarks.quality`."""

    amplitude: Floats
    smallest: Floats
    largest: Floats
    waveform: Floats
    names: Sequence[str]
    centre: Floats
    scale: Floats
    weights: Floats
    bias: Floats


@lru_cache(maxsize=1)
def _fitted() -> _Fitted:
    text = resources.files("ibt_deploy").joinpath("data/lead_relations.json").read_text(encoding="utf-8")
    read = json.loads(text)
    return _Fitted(
        np.array(read["amplitude"]["weights"]),
        np.array(read["amplitude"]["smallest"]),
        np.array(read["amplitude"]["largest"]),
        np.array(read["amplitude"]["waveform"]),
        tuple(read["placement"]["names"]),
        np.array(read["placement"]["centre"]),
        np.array(read["placement"]["scale"]),
        np.array(read["placement"]["weights"]),
        np.array(read["placement"]["bias"]),
    )
