"""Is this an ECG in millivolts, and whose? Amplitude, invalid, clipped and flat samples, limb leads, age."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibt_deploy.errors import BadUnits, TooShort
from ibt_deploy.leads import DERIVED, LEADS, canonical_lead
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Bools, Floats

LIMIT_MV = 20.0
"""Samples beyond it are invalid."""

OFFSET_MV = 10.0
"""A lead whose median lies beyond it carries an electrode's potential, and is measured from that median."""

MAX_INVALID = 0.20
"""Largest share of invalid samples that is accepted."""

PLAUSIBLE_MV = (0.04, 40.0)
"""Typical amplitude (peak to peak, median over the leads that are not flat) outside which a unit is wrong.

Of 2,589 public recordings those whose header states the right gain lie between 0.50 and 12.4 mV, the 24 of an
early release that state a gain wrong by a factor of 5 between 0.14 and 14.3 mV. Microvolts taken for
millivolts, or the reverse, put every one of them outside: a factor of 1000.
"""

USUAL_MV = (0.3, 7.0)
"""Typical amplitude outside which the score carries a warning; among the above one of 2,565."""

MAX_LIMB_RESIDUAL = 0.25
"""Spread of a limb lead about what leads I and II say it is, over the mean spread of the limb leads.

Above it the names or gains of the limb leads are doubtful: in one of 1,675 training recordings; all others,
and all 868 that are held out or of LUDB, have at most 0.03.
"""

LONGEST_FLAT_SECONDS = 2.0
"""A lead that does not change for longer was not connected.

Of 2,583 real recordings without flat leads two reach it (4.9 and 2.6 s), and the next has 0.9 s.
"""

ALL_FLAT_SECONDS = 1.0
"""No heart holds all leads still for as long; the longest of real recordings is 0.14 s."""

MOST_AT_EXTREME = 0.015
"""Share of samples that are exactly the highest or the lowest of a lead, above which it was clipped.

In 99.9 % of 2,589 real recordings at most 0.0124.
"""

ADULT, OLDEST = 18, 120
"""Years: the models learnt from adults, and nobody is older."""


def valid_samples(found: Floats, names: Sequence[str]) -> tuple[Floats, list[Notice]]:
    """``found`` with NaN for every invalid sample, and what its reader should know.

    Parameters
    ----------
    found
        Millivolts, shape ``(leads, n)``, at least one lead.
    names
        The standard name of each row.

    Raises
    ------
    BadUnits
        No heart makes this amplitude.
    TooShort
        Every lead is flat, or more than 20 % of the samples are invalid.
    """
    highest, lowest = found.max(axis=1), found.min(axis=1)
    stated = _typical(highest - lowest)
    share = 0.0
    beyond = np.zeros((len(found), 0), dtype=bool)
    if not (highest.max() <= LIMIT_MV and lowest.min() >= -LIMIT_MV):
        finite = np.where(np.isfinite(found), found, np.nan)
        stated = _typical(np.fmax.reduce(finite, axis=1) - np.fmin.reduce(finite, axis=1))
        distance = np.abs(finite - _offsets(finite)[:, np.newaxis])
        beyond = (distance > LIMIT_MV) | np.isinf(found)
        found = np.where(distance <= LIMIT_MV, finite, np.nan)
        highest, lowest = np.fmax.reduce(found, axis=1), np.fmin.reduce(found, axis=1)
        share = float(np.isnan(found).mean())
    spread = highest - lowest
    typical = _typical(spread)
    too_high = stated > PLAUSIBLE_MV[1] and (share > MAX_INVALID or typical > LIMIT_MV)
    if too_high or 0 < stated < PLAUSIBLE_MV[0]:
        raise BadUnits(
            f"typical peak-to-peak amplitude {stated:.3g} mV is no ECG; check gain and unit (uV for mV?)",
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
    flat = [name for name, extent in zip(names, spread, strict=True) if extent == 0]
    if flat:
        notices.append(Notice("flat_leads", f"flat: {', '.join(flat)}"))
    if not USUAL_MV[0] <= typical <= USUAL_MV[1]:
        sentence = f"typical peak-to-peak amplitude {typical:.2g} mV is unusual; check the gain"
        notices.append(Notice("unusual_amplitude", sentence))
    return found, notices


def limb_lead_notices(signal: Floats) -> list[Notice]:
    """A warning if the limb leads of ``signal``, shape ``(12, n)``, contradict each other.

    III, aVR, aVL and aVF follow from I and II; where they do not, leads were swapped or named wrongly, or one
    of them has another gain. Says nothing where one of the six is flat or has invalid samples.
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
            f"{', '.join(doubtful)}: not what leads I and II say; check names and gains of the limb leads",
        )
    ]


def raw_signal_notices(recording: Recording) -> list[Notice]:
    """Warnings about samples of the standard leads as they were read: clipped, or unchanged for long.

    Raises
    ------
    TooShort
        All leads stand still for more than 20 % of the recording (``flat_stretch``).
    """
    rows = [row for row, name in enumerate(recording.leads) if canonical_lead(name) is not None]
    found, names = recording.signal[rows], [canonical_lead(recording.leads[row]) for row in rows]
    still = found[:, 1:] == found[:, :-1]
    together = _longest_run(still.all(axis=0)) / recording.sampling_rate
    if together >= ALL_FLAT_SECONDS and together > MAX_INVALID * recording.duration:
        raise TooShort(
            f"all leads stand still for {together:.1f} s; give the part that was recorded",
            code="flat_stretch",
        )
    if together >= ALL_FLAT_SECONDS:
        return [Notice("flat_stretch", f"all leads stand still for {together:.1f} s")]
    highest, lowest = np.fmax.reduce(found, axis=1)[:, None], np.fmin.reduce(found, axis=1)[:, None]
    at_extreme = np.maximum((found == highest).mean(axis=1), (found == lowest).mean(axis=1))
    alive = highest[:, 0] > lowest[:, 0]
    flat, clipped = [], []
    for name, row, share, extreme, lives in zip(
        names, still, still.mean(axis=1), at_extreme, alive, strict=True
    ):
        long = share * recording.duration >= LONGEST_FLAT_SECONDS
        if lives and long and _longest_run(row) >= LONGEST_FLAT_SECONDS * recording.sampling_rate:
            flat.append(str(name))
        elif lives and extreme > MOST_AT_EXTREME:
            clipped.append(str(name))
    notices = []
    if flat:
        notices.append(Notice("flat_stretch", f"unchanged for more than 2 s: {', '.join(flat)}"))
    if clipped:
        notices.append(
            Notice("clipped_leads", f"clipped at their highest or lowest value: {', '.join(clipped)}")
        )
    return notices


def age_notices(age: float | None) -> list[Notice]:
    """A warning where ``age`` in years is impossible or that of a child; None is unknown: no warning."""
    if age is None:
        return []
    if plausible_age(age) is None:
        return [Notice("impossible_age", f"an age of {age:g} years is impossible and was dropped")]
    if age < ADULT:
        return [Notice("not_adult", f"{age:g} years old: the models learnt from adults alone")]
    return []


def plausible_age(age: float | None) -> float | None:
    """``age`` in years, or None where it is impossible."""
    return age if age is not None and 0 <= age <= OLDEST else None


def _offsets(finite: Floats) -> Floats:
    """The median of each lead where it lies beyond :data:`OFFSET_MV`, else 0; shape ``(leads,)``."""
    medians = [np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else 0.0 for row in finite]
    return np.where(np.abs(medians) > OFFSET_MV, medians, 0.0)


def _longest_run(flags: Bools) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def _typical(spread: Floats) -> float:
    """Median of the peak-to-peak amplitudes that are neither 0 nor unknown; 0 where there is none."""
    alive = spread[spread > 0]
    return float(np.median(alive)) if len(alive) else 0.0
