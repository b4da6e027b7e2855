"""Heart rate, R peaks and frontal axis from the leads, and findings that contradict the rate or the axis.

The detector follows the steps of Pan and Tompkins (IEEE Trans Biomed Eng 32, 1985), band-pass, energy over a
moving window, adaptive threshold, refractory period and search back, but first sums the 12 leads: every
lead is divided by its own mean magnitude, so that neither a noisy lead nor one with a wrong gain dominates.

PR, QRS and QT are not computed: they need the ends of the waves, and no available library finds these well
enough (``docs/quality.md`` has the figures). The axis needs only the R peaks.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ibt_deploy.preprocess.filters import band_passed, medians
from ibt_deploy.types import Floats, Ints
from ibt_deploy.vocabulary import LEADS

QRS_BAND = (5.0, 18.0)
"""Band in Hz where a QRS complex is stronger than P, T and baseline."""

WINDOW_SECONDS = 0.06
"""Width of the moving mean of the energy, applied twice: a triangle of twice this width."""

END_SECONDS = 0.06
"""A complex this near to an end of the recording is cut off, and has no position."""

REFRACTORY_SECONDS = 0.20
T_WAVE_SECONDS = 0.36
"""A lower peak within this time after another is its T wave (Pan and Tompkins)."""

T_WAVE_SHARE = 0.55
THRESHOLD = 0.35
"""Share of the usual beat height that a peak must reach."""

SEARCH_BACK = 1.66
"""A pause this many times the usual interval is searched again with half the threshold."""

FEWEST_BEATS = 3
TOLERANCE_BPM = 5.0
"""A finding contradicts the rate if the rate misses the finding's definition by more than this."""

QRS_SECONDS = 0.05
"""Half-width about an R peak within which the extremes are those of its complex."""

BASELINE_SECONDS = (0.10, 0.07)
"""Interval before an R peak whose level is the baseline of its complex."""

SMALLEST_VECTOR_MV = 0.15
"""Below this, the complexes point out of the frontal plane, and the axis is indeterminate."""

WIDEST_SPREAD = 15.0
"""Degrees between the beats (median); 1.8 % of 564 recordings of the public sets exceed it."""

TOLERANCE_DEGREES = 15.0
"""A finding contradicts the axis if the axis misses the finding's definition by more than this."""


@dataclass(frozen=True, eq=False)
class HeartRate:
    """The ventricular rate of a recording, computed from its signal and not by the model.

    Attributes
    ----------
    bpm
        60 over the mean R-R interval in seconds; None where no reliable rate could be computed.
    peaks
        Seconds from the start of the recording to each R peak, shape ``(beats,)``; empty without a rate.
    """

    bpm: float | None = None
    peaks: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def intervals(self) -> Floats:
        """R-R intervals in seconds, shape ``(beats - 1,)``."""
        return np.diff(self.peaks)

    @property
    def variation(self) -> float | None:
        """Root mean square of successive differences of the R-R intervals, over their mean.

        About 0.02 to 0.05 in sinus rhythm, above 0.2 in atrial fibrillation. None for fewer than four beats.
        """
        intervals = self.intervals
        if self.bpm is None or len(intervals) < FEWEST_BEATS:
            return None
        return float(np.sqrt(np.mean(np.diff(intervals) ** 2)) / intervals.mean())

    def contradiction(self, abbreviation: str) -> str | None:
        """Why the rate contradicts a positive finding, in a few words; None where it does not.

        Parameters
        ----------
        abbreviation
            Of the class. ``SB`` and ``Brady`` mean a rate below 60, ``STach`` one above 100 and ``NSR`` one
            from 60 to 100 beats per minute; for any other class the answer is None, as it is without a rate.
            A finding is accepted within 5 beats per minute of its limits.
        """
        limits = RATE_LIMITS.get(abbreviation)
        if limits is None or self.bpm is None:
            return None
        lowest, highest = limits
        if self.bpm < lowest - TOLERANCE_BPM:
            return f"the computed heart rate is {self.bpm:.0f} bpm, below {lowest:.0f}"
        if self.bpm > highest + TOLERANCE_BPM:
            return f"the computed heart rate is {self.bpm:.0f} bpm, above {highest:.0f}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """The rate as a JSON-compatible dictionary; ``computed`` marks it as not from a model or device."""
        variation = self.variation
        return {
            "bpm": None if self.bpm is None else round(self.bpm, 1),
            "variation": None if variation is None else round(variation, 4),
            "r_peaks": [round(peak, 3) for peak in self.peaks.tolist()],
            "computed": True,
        }


@dataclass(frozen=True)
class FrontalAxis:
    """Direction of the QRS complex in the frontal plane, computed from the signal and not by the model.

    Attributes
    ----------
    degrees
        0 points to the left arm, 90 to the feet, from -180 to 180; None where it cannot be stated.
    spread
        Median deviation of single beats from it, in degrees; None if no beats were measured.
    reason
        Why it is not stated: ``no_rate``, ``leads`` (I or aVF is missing, unusable, or perhaps wrong),
        ``small`` or ``spread``; None where it is stated.
    """

    degrees: float | None = None
    spread: float | None = None
    reason: str | None = None

    def contradiction(self, abbreviation: str) -> str | None:
        """Why the axis contradicts a positive finding, in a few words; None where it does not.

        Parameters
        ----------
        abbreviation
            Of the class. ``LAD``, ``LAnFB`` and ``RAD`` have the limits of :data:`AXIS_LIMITS`; for any
            other class the answer is None, as it is without an axis. A finding is accepted within 15
            degrees of its limits.
        """
        limits = AXIS_LIMITS.get(abbreviation)
        if limits is None or self.degrees is None:
            return None
        lowest, highest = limits
        beyond = (self.degrees - lowest) % 360
        width = (highest - lowest) % 360
        if beyond <= width + TOLERANCE_DEGREES or beyond >= 360 - TOLERANCE_DEGREES:
            return None
        return f"the computed axis is {self.degrees:.0f} degrees, not {lowest:.0f} to {highest:.0f}"

    def to_dict(self) -> dict[str, Any]:
        """The axis as a JSON-compatible dictionary; ``computed`` marks it as not from a model or device."""
        return {
            "degrees": None if self.degrees is None else round(self.degrees),
            "spread": None if self.spread is None else round(self.spread, 1),
            "reason": self.reason,
            "computed": True,
        }


RATE_LIMITS: dict[str, tuple[float, float]] = {
    "SB": (0.0, 60.0),
    "Brady": (0.0, 60.0),
    "STach": (100.0, float("inf")),
    "NSR": (60.0, 100.0),
}
"""Beats per minute by which these classes are defined (SNOMED CT and the Challenge's label tables)."""

AXIS_LIMITS: dict[str, tuple[float, float]] = {
    "LAD": (-90.0, 0.0),
    "LAnFB": (-90.0, -30.0),
    "RAD": (90.0, 180.0),
}
"""Degrees from the first limit clockwise to the second. AHA/ACCF/HRS (Surawicz et al. 2009) begin LAD at -30
and LAnFB at -45; these limits are wider, because the public sets label LAD from about 0 on."""


def heart_rate_of(peaks: Floats) -> HeartRate:
    """The rate from R peaks at these seconds, shape ``(beats,)``; fewer than three give none."""
    if len(peaks) < FEWEST_BEATS:
        return HeartRate()
    return HeartRate(float(60 * (len(peaks) - 1) / (peaks[-1] - peaks[0])), peaks)


def frontal_axis(signal: Floats, rate: int, peaks: Floats) -> FrontalAxis:
    """The frontal axis of the median beat, from the net deflection of leads I and aVF.

    The net deflection of a beat is the sum of its largest and smallest values, relative to the level before
    it. aVF is multiplied by 2/sqrt(3), because an augmented lead is that much shorter than lead I.

    Parameters
    ----------
    signal
        The 12 leads in their usual order, shape ``(12, n)``, in mV.
    rate
        Hz.
    peaks
        R peaks in seconds, as in :class:`HeartRate`; without any there is no axis.
    """
    half = round(QRS_SECONDS * rate)
    first, last = (round(seconds * rate) for seconds in BASELINE_SECONDS)
    places = np.rint(peaks * rate).astype(np.int64)
    places = places[(places >= first) & (places + half < signal.shape[1])]
    if len(places) < FEWEST_BEATS:
        return FrontalAxis(reason="no_rate")
    frontal = signal[[LEADS.index("I"), LEADS.index("aVF")]]
    level = medians(frontal.take(places[:, np.newaxis] + np.arange(-first, -last), axis=1))
    complexes = frontal.take(places[:, np.newaxis] + np.arange(-half, half + 1), axis=1)
    net = complexes.max(axis=2) + complexes.min(axis=2) - 2 * level
    x, y = net[0], net[1] * 2 / np.sqrt(3)
    across, down = medians(x), medians(y)
    angle = np.degrees(np.arctan2(down, across))
    away = np.abs((np.degrees(np.arctan2(y, x)) - angle + 180) % 360 - 180)
    spread = float(medians(away))
    if np.hypot(across, down) < SMALLEST_VECTOR_MV:
        return FrontalAxis(None, spread, "small")
    if spread > WIDEST_SPREAD:
        return FrontalAxis(None, spread, "spread")
    return FrontalAxis(float(angle), spread)


def qrs_band(signal: Floats, rate: int) -> Floats:
    """``signal`` of shape ``(leads, n)`` in the band of the QRS complex."""
    return band_passed(signal, rate, QRS_BAND, 2)


def r_peaks(energy: Floats, rate: int) -> Ints:
    """Samples of the heartbeats, shape ``(beats,)``, ascending.

    Noise has peaks as well: :mod:`ibt_deploy.preprocess.quality` decides
    whether these are beats.

    Parameters
    ----------
    energy
        Result of :func:`smoothed_energy`, shape ``(n,)``.
    rate
        Hz.
    """
    half = round(REFRACTORY_SECONDS * rate / 2)
    highest = _moving_maximum(energy, half)
    candidates = np.flatnonzero((energy == highest) & (energy > 0))
    end = round(END_SECONDS * rate)
    candidates = candidates[(candidates >= end) & (candidates < len(energy) - end)]
    heights = energy[candidates]
    usual = _usual_height(energy, rate)
    return _beats(candidates, heights, usual, rate)


def smoothed_energy(in_band: Floats, rate: int) -> tuple[Floats, Floats]:
    """Smoothed sum of the magnitudes of all leads, each divided by its own mean; shape ``(n,)``.

    Also returns the inverse of those means, shape ``(leads,)``. A lead of ``in_band``, shape ``(leads, n)``,
    that is zero throughout does not contribute, and its inverse is 0.
    """
    magnitude = np.abs(in_band)
    scale = magnitude @ np.full(in_band.shape[1], 1 / in_band.shape[1])
    weight = np.divide(1.0, scale, out=np.zeros(len(scale)), where=scale > 0)
    width = round(WINDOW_SECONDS * rate)
    return _moving_mean(_moving_mean(weight @ magnitude, width), width), weight


def _usual_height(energy: Floats, rate: int) -> float:
    """Median over stretches of 2 s of the highest energy in each."""
    length = min(2 * rate, len(energy))
    stretches = energy[: len(energy) // length * length].reshape(-1, length)
    return float(medians(stretches.max(axis=1)))


def _beats(candidates: Ints, heights: Floats, usual: float, rate: int) -> Ints:
    """The candidates that are beats and not T waves, and those that the search back finds."""
    near = T_WAVE_SECONDS * rate
    refractory = REFRACTORY_SECONDS * rate
    lower = heights >= THRESHOLD / 2 * usual
    places, levels = candidates[lower].tolist(), heights[lower].tolist()
    found: list[int] = []
    for index, level in enumerate(levels):
        if level < THRESHOLD * usual:
            continue
        if found:
            before = places[index] - places[found[-1]]
            if before < refractory:
                if level > levels[found[-1]]:
                    found[-1] = index
                continue
            if before < near and level < T_WAVE_SHARE * levels[found[-1]]:
                continue
        found.append(index)
    if len(found) < FEWEST_BEATS:
        return np.array([places[index] for index in found], dtype=np.int64)
    interval = statistics.median(places[b] - places[a] for a, b in itertools.pairwise(found))
    more = []
    for first, second in itertools.pairwise(found):
        if places[second] - places[first] > SEARCH_BACK * interval:
            between = [
                index
                for index in range(first + 1, second)
                if places[index] - places[first] >= near and places[second] - places[index] >= refractory
            ]
            if between:
                more.append(max(between, key=levels.__getitem__))
    return np.array([places[index] for index in sorted([*found, *more])], dtype=np.int64)


def _moving_maximum(values: Floats, half: int) -> Floats:
    """Centred maximum over ``2 half + 1`` samples, zero-padded at the ends."""
    width, size = 2 * half + 1, 1
    highest = np.concatenate([np.zeros(half), values, np.zeros(half)])
    while 2 * size <= width:
        highest = np.maximum(highest[:-size], highest[size:])
        size *= 2
    rest = width - size
    widest: Floats = np.maximum(highest[: len(highest) - rest], highest[rest:])
    return widest


def _moving_mean(values: Floats, width: int) -> Floats:
    """Centred mean over ``width`` samples, zero-padded at the ends."""
    sums = np.concatenate([np.zeros(width // 2), values, np.zeros((width - 1) // 2)])
    total, done, size = np.zeros(len(values)), 0, 1
    while True:
        if width & size:
            total += sums[done : done + len(values)]
            done += size
        if done == width:
            return total / width
        sums = sums[:-size] + sums[size:]
        size *= 2
